"""An optimizer that torch does not have."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonal updates for filters; SGD with Nesterov momentum for all other weights.

    Keller Jordan, "Muon" (2024, https://kellerjordan.github.io/posts/muon/), as he uses it on CIFAR-10: a filter bank
    is scaled to a fixed norm before each step, and only the other weights decay. The rates of matrices and vectors are
    large because the speedrun network divides its logits by its width. Raises ValueError for values out of range.

    Args:
        params: Weights, or groups of them with options of their own; the `lr` of a group overrides the learning rate of
            filters, matrices and vectors alike. Filters are weights of three or more dimensions, such as a
            convolution's; matrices have two; vectors have one or none.
        lr: Learning rate of filters.
        momentum: Of filters.
        head_lr: Learning rate of matrices.
        bias_lr: Learning rate of vectors.
        sgd_momentum: Of matrices and vectors.
        weight_decay: Of matrices and vectors; independent of their initial learning rate.
        steps: Newton-Schulz iterations.
    """

    _precision: torch.dtype | None = None

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 0.24,
        momentum: float = 0.6,
        head_lr: float = 1340,
        bias_lr: float = 106,
        sgd_momentum: float = 0.85,
        weight_decay: float = 0.004,
        steps: int = 3,
    ) -> None:
        given = list(params)
        groups: list[dict[str, Any]] = [g for g in given if isinstance(g, dict)] or [{"params": given}]
        sgd: dict[str, Any] = {"momentum": sgd_momentum, "weight_decay": weight_decay, "orthogonal": False}
        kinds: dict[int, dict[str, Any]] = {
            3: {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "orthogonal": True, "steps": steps},
            2: {"lr": head_lr, **sgd},
            1: {"lr": bias_lr, **sgd},
        }
        split: list[dict[str, Any]] = []
        for group in groups:
            weights = [weight for weight in group["params"] if weight.requires_grad]
            for kind, options in kinds.items():
                if chosen := [weight for weight in weights if min(3, max(1, weight.dim())) == kind]:
                    split.append(options | group | {"params": chosen})
        for group in split:
            if group["lr"] < 0 or group["weight_decay"] < 0 or not 0 <= group["momentum"] < 1:
                raise ValueError("lr, head_lr, bias_lr, weight_decay must be 0 or more, momentum, sgd_momentum below 1")
        super().__init__(split, {})

    def use_precision(self, precision: str) -> None:
        """Makes filters orthogonal in bf16, in a third of the time, if that is the precision of the Trainer."""
        self._precision = torch.bfloat16 if precision.startswith("bf16") else None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if not self.state[weight]:
                    self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
                gradient, buffer = weight.grad, self.state[weight]["momentum_buffer"]
                if group["weight_decay"] and (initial := group.get("initial_lr", group["lr"])):
                    gradient = gradient.add(weight, alpha=group["weight_decay"] / initial)
                buffer.mul_(group["momentum"]).add_(gradient)
                update = gradient.add(buffer, alpha=group["momentum"])
                if group["orthogonal"]:
                    weight.mul_(len(weight) ** 0.5 / weight.norm())
                    if update.is_contiguous(memory_format=torch.channels_last):  # as a matrix, without a copy
                        update, weight = update.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)
                    update = orthogonal(update.flatten(1), group["steps"], self._precision).view_as(weight)
                weight.sub_(update, alpha=group["lr"])
        return loss


def orthogonal(matrix: Tensor, steps: int, precision: torch.dtype | None = None) -> Tensor:
    """Returns `[m, n]` like `matrix`, but with singular values near 1, by Newton-Schulz iterations in `precision`."""
    a, b, c = 3.4445, -4.7750, 2.0315  # as steep as possible at zero; singular values end between 0.5 and 1.5
    x = matrix.to(precision or matrix.dtype) / (matrix.norm() + 1e-7)
    if len(x) > x.shape[1]:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if len(matrix) > matrix.shape[1] else x).to(matrix.dtype)
