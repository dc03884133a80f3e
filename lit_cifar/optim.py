"""Optimizers and schedules that torch does not have."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # steepest at zero: singular values end between 0.5 and 1.5, near enough to 1


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal for convolutions; SGD with Nesterov momentum for all else.

    Keller Jordan, "Muon" (2024, https://kellerjordan.github.io/posts/muon/), as he uses it on CIFAR-10: a filter
    bank is scaled to a fixed norm before each step, and weight decay is left to the other weights. The rates of
    matrices and vectors are for a mean loss of logits that the net divides by its width, hence so large.

    Args:
        params: Weights; those with four dimensions are the convolutions'.
        lr: Learning rate of convolutions.
        momentum: Of convolutions.
        head_lr: Learning rate of matrices.
        bias_lr: Learning rate of vectors.
        sgd_momentum: Of matrices and vectors.
        weight_decay: Of matrices and vectors, not multiplied by their learning rate.
        steps: Newton-Schulz iterations.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 0.24,
        momentum: float = 0.6,
        head_lr: float = 1340,
        bias_lr: float = 106,
        sgd_momentum: float = 0.85,
        weight_decay: float = 0.004,
        steps: int = 3,
    ) -> None:
        if min(lr, head_lr, bias_lr) < 0 or not 0 <= momentum < 1 or not 0 <= sgd_momentum < 1:
            raise ValueError("learning rates must be 0 or more, momenta between 0 and 1")
        self.newton_schulz_steps = steps
        weights = [weight for weight in params if weight.requires_grad]
        sgd = (sgd_momentum, weight_decay)
        rates = {4: (lr, momentum, 0.0), 2: (head_lr, *sgd), 1: (bias_lr, *sgd)}
        groups: list[dict[str, Any]] = []
        for dimensions, (rate, inertia, decay) in rates.items():
            if chosen := [weight for weight in weights if weight.dim() == dimensions]:
                groups.append({"params": chosen, "lr": rate, "momentum": inertia, "decay": decay})
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates all weights."""
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            initial = group.get("initial_lr", group["lr"])
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if "momentum_buffer" not in self.state[weight]:
                    self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
                gradient, buffer = weight.grad, self.state[weight]["momentum_buffer"]
                if weight.dim() == 4:
                    buffer.mul_(group["momentum"]).add_(gradient)
                    weight.mul_(len(weight) ** 0.5 / weight.norm())
                    update = gradient.add(buffer, alpha=group["momentum"])
                    weight.sub_(orthogonal(update.flatten(1), self.newton_schulz_steps).view_as(weight) * group["lr"])
                else:
                    gradient = gradient.add(weight, alpha=group["decay"] / initial) if initial else gradient
                    buffer.mul_(group["momentum"]).add_(gradient)
                    weight.sub_(gradient.add(buffer, alpha=group["momentum"]), alpha=group["lr"])
        return loss


def orthogonal(matrix: Tensor, steps: int) -> Tensor:
    """`[m, n]` like `matrix`, but with all singular values near 1, by Newton-Schulz iteration."""
    a, b, c = NEWTON_SCHULZ
    x = matrix / (matrix.norm() + 1e-7)
    if len(x) > x.shape[1]:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if len(matrix) > matrix.shape[1] else x


class LinearToZero(LRScheduler):
    """Lets every learning rate fall in a straight line to 0 at the end of training.

    Args:
        optimizer: Whose rates fall.
        total_steps: Steps of the training; by default, as many as it has.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, total_steps: int | None = None) -> None:
        self.total_steps = total_steps
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """The rates of this step."""
        left = 1.0 if self.total_steps is None else max(0.0, 1 - self.last_epoch / self.total_steps)
        return [float(rate) * left for rate in self.base_lrs]
