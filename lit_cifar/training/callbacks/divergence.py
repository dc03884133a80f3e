"""A loss that is NaN or infinite ends the training, and the first layer that overflowed is named.

On a CPU the summed loss is checked every 10 steps: 0.001 ms. On CUDA it is copied without waiting and checked 10 steps
later; elsewhere it is checked when it is logged. Weights are checked before a checkpoint is written, so that the last
good one stays. The last batch goes through the network again, layer by layer, only after a failed check.
"""

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lit_cifar.errors import UserError
from lit_cifar.training.step import Loss

CHECKED_EVERY = 10  # steps


class DivergedError(UserError):
    """The loss or the weights are no longer finite."""

    on_every_rank = True


class DivergenceWatch:
    """Ends a training that has diverged.

    Args:
        trainer: That trains.
        net: Network that it trains.
        loss: Mean loss of logits and labels.
    """

    def __init__(self, trainer: pl.Trainer, net: nn.Module, loss: Loss) -> None:
        self._trainer, self._net, self._loss = trainer, net, loss
        self._copied: tuple[Tensor, torch.Event, int] | None = None

    def look(self, total: Tensor, step: int) -> None:
        """Checks a sum of losses without making the device wait; call it on all ranks.

        Raises:
            DivergedError: It is not finite on one of them.
        """
        if self._trainer.world_size > 1:
            total = total.clone()
            torch.distributed.all_reduce(total)
        if total.device.type == "cuda":
            before, self._copied = self._copied, (*_copy(total), step)
            if before is None:
                return
            total, event, step = before
            event.synchronize()  # a step that the device began 10 steps ago
        elif total.device.type != "cpu":
            return  # checked when it is logged
        self.require_finite_loss(total.item(), step)

    def require_finite_loss(self, loss: float, step: int) -> None:
        """Checks a loss.

        Raises:
            DivergedError: It is not finite.
        """
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {'NaN' if math.isnan(loss) else 'infinite'} at step {step:,}")

    def require_finite_weights(self) -> None:
        """Checks the weights, before a checkpoint is written.

        Raises:
            DivergedError: They are not finite.
        """
        if not all(bool(weight.isfinite().all()) for weight in self._net.parameters()):
            raise self._diverged(f"the weights are not finite at step {self._trainer.global_step:,}")

    def _diverged(self, what: str) -> DivergedError:
        optimizer = self._trainer.optimizers[0]
        rate = optimizer.param_groups[0]["lr"]
        mixed = str(self._trainer.precision).endswith("mixed")
        unfused = " --model.optimizer.fused false" if optimizer.defaults.get("fused") and mixed else ""
        return DivergedError(
            "diverged",
            f"{what} (learning rate {rate:g}): {self._first_overflow()}; lower --model.optimizer.lr, or limit gradients"
            f" with --trainer.gradient_clip_val 1{unfused} (earlier checkpoints are kept)",
        )

    @torch.no_grad()
    def _first_overflow(self) -> str:
        """Says what is not finite first in the last batch: a weight, the output of a layer, or the loss."""
        loader: Any = self._trainer.train_dataloader
        batch = next(islice(loader, self._trainer.fit_loop.batch_idx, None), None)
        found: list[str] = []
        handles = [
            part.register_forward_hook(_hook(name, found), with_kwargs=True)
            for name, part in self._net.named_modules()
            if not any(True for _ in part.children())
        ]
        try:
            if batch is not None and len(batch[1]):
                with torch.compiler.set_stance("force_eager"), self._trainer.precision_plugin.forward_context():
                    logits = self._net(batch[0])
                    loss = self._loss(logits, batch[1])
                if not found and not logits.isfinite().all():
                    found.append("the network's output is the first that is not finite")
                if not found and not loss.isfinite():
                    found.append("the loss itself is the first that is not finite, although the logits are")
        finally:
            for handle in handles:
                handle.remove()
        found += [_weight(name) for name, weight in self._net.named_parameters() if not weight.isfinite().all()]
        return next(iter(found), "the cause is the batch before")


def _copy(total: Tensor) -> tuple[Tensor, torch.Event]:
    here = torch.empty((), dtype=total.dtype, pin_memory=True)
    here.copy_(total, non_blocking=True)
    event = torch.Event(total.device)
    event.record()
    return here, event


def _hook(name: str, found: list[str]) -> Any:
    def hook(part: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        if found:
            return
        if not all(tensor.isfinite().all() for tensor in _tensors((arguments, named))):
            found.append(f"the input of the layer {name} is the first that is not finite")
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
