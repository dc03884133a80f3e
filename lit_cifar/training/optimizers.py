"""An optimizer that torch does not have, which weights decay, and which learn: those may change during a training."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BaseFinetuning
from torch import Tensor, nn

from lit_cifar.errors import UsageError


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
            weights = list(group["params"])  # those that are frozen now may learn later
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


def make_optimizer(
    make: Callable[[Any], torch.optim.Optimizer], weights: Iterable[nn.Parameter], undecayed_in: nn.Module | None = None
) -> torch.optim.Optimizer:
    """Makes an optimizer; the norms and biases of a module, if it is given, get a group without weight decay.

    Raises UsageError if it refuses its arguments, knows no weight decay, or is for sparse gradients.
    """
    try:
        undecayed = weights_that_do_not_decay(undecayed_in) if undecayed_in else set()
        optimizer = make(_without_decay({"params": weights}, undecayed) if undecayed else weights)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError("optimizer-refused", f"--model.optimizer: {error}") from error
    name = type(optimizer).__name__
    if isinstance(optimizer, torch.optim.SparseAdam):
        raise UsageError("optimizer-refused", f"--model.optimizer {name} is for sparse gradients; use another")
    if undecayed:
        if "weight_decay" not in optimizer.param_groups[0]:
            sentence = f"--model.optimizer {name} has no weight_decay, which --model.decay_norms_and_biases false needs"
            raise UsageError("optimizer-refused", f"{sentence}; use another, or leave that out")
        add = optimizer.add_param_group

        def add_param_group(group: dict[str, Any]) -> None:
            for part in _without_decay(group, undecayed):
                add(part)

        vars(optimizer)["add_param_group"] = add_param_group  # Lightning's BaseFinetuning adds what it unfreezes
    return optimizer


def weights_that_do_not_decay(module: nn.Module) -> set[nn.Parameter]:
    """Returns biases, the weights of normalization, and those that a network names in `no_weight_decay()`.

    That is what timm's networks do for class tokens and positional embeddings. All weights of one dimension count as
    biases or normalization, as they do in timm's `param_groups_weight_decay`.
    """
    found = set()
    for layer in module.modules():
        names = layer.no_weight_decay() if callable(getattr(layer, "no_weight_decay", None)) else ()  # type: ignore[operator]
        found |= {weight for name, weight in layer.named_parameters() if name in names}
        is_norm = isinstance(layer, nn.LayerNorm | nn.RMSNorm)  # whose weights may have several dimensions
        own = layer.named_parameters(recurse=False)
        found |= {weight for name, weight in own if weight.ndim <= 1 or name == "bias" or is_norm}
    return found


def _without_decay(group: dict[str, Any], undecayed: Collection[nn.Parameter]) -> list[dict[str, Any]]:
    """Splits a group of weights in two, the second without weight decay; leaves out one without weights."""
    weights = [group["params"]] if isinstance(group["params"], Tensor) else [*group["params"]]
    parts = [
        group | {"params": [weight for weight in weights if weight not in undecayed]},
        group | {"params": [weight for weight in weights if weight in undecayed], "weight_decay": 0.0},
    ]
    return [part for part in parts if part["params"]]


def weights_to_train(module: nn.Module, trainer: pl.Trainer, has_schedule: bool) -> list[nn.Parameter]:
    """Returns the weights for an optimizer: all, because those that are frozen now may learn later.

    Lightning's BaseFinetuning adds them with a rate of their own when they begin to learn, but a schedule has rates for
    the groups that it was made with, and fails if one is added.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    are_added = not has_schedule and any(isinstance(callback, BaseFinetuning) for callback in callbacks)
    return [weight for weight in module.parameters() if weight.requires_grad or not are_added]


def frozen(module: nn.Module) -> list[str]:
    """Returns the names of the weights that don't learn."""
    return [name for name, weight in module.named_parameters() if not weight.requires_grad]


def freeze(module: nn.Module, names: Collection[str]) -> None:
    """Makes all weights learn but these."""
    for name, weight in module.named_parameters():
        weight.requires_grad_(name not in names)


def admit_late_weights(optimizer: torch.optim.Optimizer) -> None:
    """Lets weights join a fused SGD after its first step, where torch raises TypeError: their momentum starts at 0."""
    if isinstance(optimizer, torch.optim.SGD) and optimizer.defaults["fused"] and optimizer.defaults["momentum"]:
        optimizer.register_step_pre_hook(_start_momentum)


def _start_momentum(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        learning = [weight for weight in group["params"] if weight.grad is not None]
        late = [weight for weight in learning if optimizer.state[weight].get("momentum_buffer") is None]
        for weight in late if len(late) < len(learning) else ():
            optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
