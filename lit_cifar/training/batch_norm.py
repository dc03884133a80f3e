"""Batch normalization by the whole batch, however many processes share it and on whichever device.

torch's SyncBatchNorm replaces layers and needs GPUs. Here, `torch.nn.functional.batch_norm` itself is replaced while a
share goes through a network, so networks of any library are normalised as on one process. Shares may be uneven or
empty. A layer sends one message forward, 2 C + 1 numbers, and one backward, 2 C.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode


class WholeBatchNorm(TorchFunctionMode):
    """Makes batch normalization in training use mean and variance of the images of all processes.

    All processes must call the same layers in the same order. Their losses must be parts of one loss, which add up to
    it, because the gradient of an image depends on those of all others.
    """

    def __init__(self, has_images: bool) -> None:
        """Pass False if this process has no image and only takes part in what the others compute."""
        super().__init__()
        self._has_images = has_images

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is F.batch_norm:
            return _batch_norm(self._has_images, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    has_images: bool,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Does what torch's function of this signature does."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    y, mean, variance, number = _Normalise.apply(x, weight, bias, eps, has_images)
    if x.numel() == x.shape[1] and number <= 1:  # the first is on the CPU; only if it holds, wait for the GPU
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.size()}")
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            running_var.lerp_((variance * (number / (number - 1))).to(running_var.dtype), momentum)
    return y


class _Normalise(torch.autograd.Function):
    """Subtracts the mean of all processes' images and divides by their standard deviation."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, has_images: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns the result like `x`, and mean `[C]`, biased variance `[C]` and number of values of a channel."""
        values = _precise(x)
        mean = values.mean(_all_but_channels(x))  # torch.var_mean takes three times as long on a CPU
        variance = (values - _over_channels(mean, x)).square_().mean(_all_but_channels(x))
        here = torch.cat((mean.new_full((1,), x.numel() // x.shape[1]), mean, variance))
        if not has_images:
            here.zero_()
        everywhere = [torch.empty_like(here) for _ in range(distributed.get_world_size())]
        distributed.all_gather(everywhere, here)
        numbers, means, variances = torch.stack(everywhere).split((1, len(mean), len(mean)), 1)
        number = numbers.sum()
        mean = (numbers * means).sum(0) / number
        variance = (numbers * (variances + (means - mean).square())).sum(0) / number
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale, number)
        ctx.has_images = has_images
        gain = scale if weight is None else scale * weight
        shift = -mean * gain if bias is None else bias - mean * gain
        y = torch.addcmul(_over_channels(shift, x), values, _over_channels(gain, x))
        ctx.mark_non_differentiable(mean, variance, number)
        return y.to(x.dtype), mean, variance, number

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, y_gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, number = ctx.saved_tensors
        gradient, dims = _precise(y_gradient), _all_but_channels(x)
        normalised = (_precise(x) - _over_channels(mean, x)).mul_(_over_channels(scale, x))
        here = torch.stack((gradient.sum(dims), (gradient * normalised).sum(dims)))
        everywhere = here.clone()
        distributed.all_reduce(everywhere)
        gain = scale if weight is None else scale * weight
        if ctx.has_images:
            by_mean, by_scale = (_over_channels(-gain * each / number, x) for each in everywhere)
            x_gradient = torch.addcmul(by_mean, normalised, by_scale).addcmul_(gradient, _over_channels(gain, x))
        else:
            x_gradient = torch.zeros_like(normalised)
        bias_gradient, weight_gradient = here
        needs_weight, needs_bias = ctx.needs_input_grad[1:3]
        return (
            x_gradient.to(x.dtype),
            weight_gradient if needs_weight else None,
            bias_gradient if needs_bias else None,
            None,
            None,
        )


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def _over_channels(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.dim() - 2))
