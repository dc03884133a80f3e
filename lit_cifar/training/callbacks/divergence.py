"""A loss that is NaN or infinite ends the training, and the first layer that overflowed is named.

On a CPU the summed loss is looked at every 10 steps: 0.001 ms. On CUDA it is copied without waiting, and looked at 10
steps later; elsewhere when it is logged. Weights are looked at before a checkpoint is written, so that the one before
stays. Only when all is lost does the last batch go through the net again, layer by layer.
"""

import math
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lit_cifar.errors import UserError

if TYPE_CHECKING:
    from lit_cifar.training.classifier import LitClassifier

EVERY = 10  # steps


class DivergedError(UserError):
    """The loss or the weights are no longer finite."""

    on_every_rank = True


class LossWatch:
    """Looks at the sum of losses without making the device wait."""

    def __init__(self) -> None:
        self._copied: tuple[Tensor, torch.Event, int] | None = None

    def look(self, module: "LitClassifier", total: Tensor, step: int) -> None:
        """Ends the training on all devices where the sum of losses on one of them is not finite. Call it on all.

        Raises:
            DivergedError: so it is.
        """
        if module.trainer.world_size > 1:
            total = total.clone()
            torch.distributed.all_reduce(total)
        if total.device.type == "cuda":
            before, self._copied = self._copied, (*_copy(total), step)
            if before is None:
                return
            total, event, step = before
            event.synchronize()  # a step that the device began 10 steps ago
        elif total.device.type != "cpu":
            return  # when it is logged
        require_finite(module, total.item(), step)


def require_finite(module: "LitClassifier", loss: float, step: int) -> None:
    """Ends a training whose loss is not finite.

    Raises:
        DivergedError: it is not.
    """
    if not math.isfinite(loss) and not module.only_tried:
        raise _diverged(module, f"the loss is {'NaN' if math.isnan(loss) else 'infinite'} at step {step:,}")


def require_finite_weights(module: "LitClassifier") -> None:
    """Ends a training whose weights are not finite, before a checkpoint is written.

    Raises:
        DivergedError: they are not.
    """
    finite = all(bool(weight.isfinite().all()) for weight in module.net.parameters())
    in_fit = module.trainer.training or module.trainer.validating
    if not finite and in_fit and not module.only_tried:
        raise _diverged(module, f"the weights are not finite at step {module.trainer.global_step:,}")


def _copy(total: Tensor) -> tuple[Tensor, torch.Event]:
    here = torch.empty((), dtype=total.dtype, pin_memory=True)
    here.copy_(total, non_blocking=True)
    event = torch.Event(total.device)
    event.record()
    return here, event


def _diverged(module: "LitClassifier", what: str) -> DivergedError:
    optimizer = module.trainer.optimizers[0]
    rate = optimizer.param_groups[0]["lr"]
    fused = optimizer.defaults.get("fused") and str(module.trainer.precision).endswith(
        "mixed"
    )  # Lightning refuses both
    clip = "--trainer.gradient_clip_val 1" + (" --model.optimizer.fused false" if fused else "")
    return DivergedError(
        f"{what} (learning rate {rate:g}): {first_overflow(module)}; lower --model.optimizer.lr, or hold gradients back"
        f" with {clip} (checkpoints written before are kept)"
    )


@torch.no_grad()
def first_overflow(module: "LitClassifier") -> str:
    """What is not finite first when the last batch goes through the net: a weight, a layer's output, or the loss."""
    batch = next(islice(module.train_loader, module.trainer.fit_loop.batch_idx, None), None)
    found: list[str] = []
    handles = [
        part.register_forward_hook(_hook(name, found), with_kwargs=True)
        for name, part in module.net.named_modules()
        if not any(True for _ in part.children())
    ]
    try:
        if batch is not None and len(batch[1]):
            with torch.compiler.set_stance("force_eager"), module.trainer.precision_plugin.forward_context():
                logits = module.net(batch[0])
                loss = module.loss(logits, batch[1])
            if not found and not logits.isfinite().all():
                found.append("the network's output is the first that is not finite")
            if not found and not loss.isfinite():
                found.append("the loss itself is the first that is not finite, of outputs that are")
    finally:
        for handle in handles:
            handle.remove()
    found += [_weight(name) for name, weight in module.net.named_parameters() if not weight.isfinite().all()]
    return next(iter(found), "the batch before it did that")


def _hook(name: str, found: list[str]) -> Any:
    def hook(part: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        if found:
            return
        if not all(tensor.isfinite().all() for tensor in _tensors((arguments, named))):
            found.append(f"what goes into the layer {name} is the first that is not finite")
        for weight_name, weight in part.named_parameters():
            if not found and not weight.isfinite().all():
                found.append(_weight(f"{name}.{weight_name}"))
        if not found and not all(tensor.isfinite().all() for tensor in _tensors(output)):
            found.append(f"the output of the layer {name} is the first that is not finite")

    return hook


def _weight(name: str) -> str:
    return f"the weight {name} is the first that is not finite"


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
