"""Curves and counts of a training, and the watch that ends it when its numbers are no longer finite.

`TrainingRecord` goes on over interruptions and devices; checkpoints hold it. `DivergenceWatch` names the first layer
that overflowed. On a CPU the summed loss is checked every 10 steps: 0.001 ms. On CUDA it is copied without waiting and
checked 10 steps later; elsewhere it is checked when it is logged. Weights are checked before a checkpoint is written.
Only after a failed check does the last batch go through the network again, layer by layer.
"""

import math
import time
from contextlib import ExitStack
from functools import partial
from itertools import islice
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lit_cifar.errors import UserError
from lit_cifar.training.step import Loss, Share
from lit_cifar.training.tested import Tested, Validated

CHECKED_EVERY = 10  # steps
CURVES = ("loss/train", "loss/val", "accuracy/train", "accuracy/val", "lr")
FORMER_CURVES = {"train/loss": "loss/train", "val/loss": "loss/val"}  # as checkpoints of version 0.2.0 name them


class DivergedError(UserError):
    """The loss or the weights are no longer finite."""

    on_every_rank = True

    def __init__(self, sentence: str, step: int) -> None:
        super().__init__("diverged", sentence)
        self.step = step


class DivergenceWatch:
    """Ends a training that has diverged; all its checks raise DivergedError."""

    def __init__(self, trainer: Trainer, net: nn.Module, loss: Loss) -> None:
        self._trainer, self._net, self._loss = trainer, net, loss
        self._copied: tuple[Tensor, torch.Event, int] | None = None

    def look(self, total: Tensor, step: int) -> None:
        """Checks that a sum of losses is finite on all ranks, which call it, without making the device wait."""
        if self._trainer.world_size > 1:
            total = total.clone()
            torch.distributed.all_reduce(total)
        if total.device.type == "cuda":
            here = torch.empty((), dtype=total.dtype, pin_memory=True)
            here.copy_(total, non_blocking=True)
            copied = torch.Event(total.device)
            copied.record()
            before, self._copied = self._copied, (here, copied, step)
            if before is None:
                return
            total, event, step = before
            event.synchronize()  # a step that the device began 10 steps ago
        elif total.device.type != "cpu":
            return  # checked when it is logged
        self.require_finite_loss(total.item(), step)

    def require_finite_loss(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {'NaN' if math.isnan(loss) else 'infinite'}", step)

    def require_finite_weights(self) -> None:
        if not _is_finite([*self._net.parameters()]):
            raise self._diverged("the weights are not finite", self._trainer.global_step)

    def _diverged(self, what: str, step: int) -> DivergedError:
        optimizer = self._trainer.optimizers[0]
        rate = optimizer.param_groups[0]["lr"]
        mixed = str(self._trainer.precision).endswith("mixed")
        unfused = " --model.optimizer.fused false" if optimizer.defaults.get("fused") and mixed else ""
        remedy = f"lower --model.optimizer.lr, or limit gradients with --trainer.gradient_clip_val 1{unfused}"
        sentence = f"{what} at step {step:,} (learning rate {rate:g}): {self._first_overflow()}; {remedy}"
        return DivergedError(f"{sentence} (earlier checkpoints are kept)", step)

    @torch.no_grad()
    def _first_overflow(self) -> str:
        """Says what is not finite first in the last batch: a weight, the output of a layer, or the loss."""
        loader: Any = self._trainer.train_dataloader
        batch = next(islice(loader, self._trainer.fit_loop.batch_idx, None), None)
        if batch is not None:
            batch = self._trainer.strategy.batch_to_device(batch)  # that of a user's own loader
        found: list[str] = []
        with ExitStack() as hooks:
            for name, layer in self._net.named_modules():
                if not [*layer.children()]:
                    hooks.enter_context(layer.register_forward_hook(partial(_look_at, name, found), with_kwargs=True))
            if batch is not None and len(batch[1]):
                with torch.compiler.set_stance("force_eager"), self._trainer.precision_plugin.forward_context():
                    logits = self._net(batch[0])
                    loss = self._loss(logits, batch[1])
                if not _is_finite(logits):
                    found.append("the network's output")
                if not _is_finite(loss):
                    found.append("the loss itself")
        found += [f"the weight {name}" for name, weight in self._net.named_parameters() if not _is_finite(weight)]
        return f"{found[0]} is the first that is not finite" if found else "the cause is the batch before"


def _look_at(name: str, found: list[str], layer: nn.Module, inputs: Any, named: dict[str, Any], output: Any) -> None:
    """Adds to `found` what is not finite, in the order of computation."""
    if not _is_finite((inputs, named)):
        found.append(f"the input of the layer {name}")
    found += [f"the weight {name}.{weight}" for weight, value in layer.named_parameters() if not _is_finite(value)]
    if not _is_finite(output):
        found.append(f"the output of the layer {name}")


def _is_finite(values: Any) -> bool:
    return all(bool(value.isfinite().all()) for value in tree_leaves(values) if isinstance(value, Tensor))


def epochs_done(trainer: Trainer) -> float:
    """Returns how many epochs are trained, such as 1.25; 0 if it isn't known how long they are."""
    return round(trainer.fit_loop.epoch_loop.batch_progress.total.ready / (trainer.num_training_batches or math.inf), 2)


class TrainingRecord:
    """Curves, counts, and sums: one tensor, read only for logging. 0.02 ms a step; self.log and torchmetrics take 1."""

    def __init__(self) -> None:
        self.curves: dict[str, list[tuple[int, float]]] = {name: [] for name in CURVES}  # of (step, value)
        self.trained: dict[str, Any] = {"epochs": 0, "steps": 0, "images": 0, "batch_size": 0, "seconds": 0.0}
        """Totals of the training so far; seconds are wall time of the loop, validation included. From its beginning on,
        there is `steps_per_epoch`, 0 if it isn't known."""
        self.validated: Validated | None = None
        """What the last validation gave."""
        self._sums = torch.zeros(2)  # since the last logging, on this rank: of losses, of correct predictions
        self._images = 0  # since the last logging, over all devices
        self._divisor: float | Tensor = 0  # the same, of their loss
        self._rng: dict[str, Tensor] | None = None  # states to go on with, for dropout
        self._started: float | None = None
        self._log_every: int | float = 0

    def begin(self, trainer: Trainer, device: torch.device) -> None:
        """Starts the clock on the device that trains, and restores the random states of a resumed run."""
        self._started = time.perf_counter() - self.trained["seconds"]
        steps = trainer.num_training_batches / trainer.accumulate_grad_batches
        self.trained["steps_per_epoch"] = math.ceil(steps) if math.isfinite(steps) else 0
        self._log_every = min(trainer.log_every_n_steps, max(1, math.ceil(steps) if math.isfinite(steps) else steps))  # type: ignore[attr-defined]
        # in float64, sums hardly depend on their order; mps has none
        self._sums = self._sums.to(device, torch.float32 if device.type == "mps" else torch.float64)
        if self._rng is not None:
            torch.set_rng_state(self._rng["cpu"])
            if device.type == "cuda" and "cuda" in self._rng:
                torch.cuda.set_rng_state(self._rng["cuda"], device)

    def add(self, share: Share, counts: Tensor) -> None:
        """Adds the `count` of this rank's share of a batch; the black image of an empty share does not count."""
        self._images += share.whole
        self._divisor = self._divisor + share.divisor
        self.trained["images"] += share.whole
        if len(share.labels):
            self._sums += counts

    def means(self, trainer: Trainer) -> dict[str, float]:
        """Returns loss and accuracy since the last call, over all devices."""
        loss, right = trainer.strategy.reduce(self._sums, reduce_op="sum").tolist()
        means = {"loss/train": loss / (float(self._divisor) or 1), "accuracy/train": right / self._images}
        self._sums.zero_()
        self._images = self._divisor = 0
        return means

    def log(self, trainer: Trainer, step: int, watch: DivergenceWatch | None) -> None:
        """Logs every `log_every_n_steps` steps, and once in an epoch that has fewer; a loss that diverged is raised."""
        if watch and step % CHECKED_EVERY == 0:
            watch.look(self._sums[0], step)
        if not self._log_every or step % self._log_every:
            return
        means = self.means(trainer)
        if watch:
            watch.require_finite_loss(means["loss/train"], step)
        logged = means | {"lr": float(trainer.optimizers[0].param_groups[0]["lr"])}
        for name, value in logged.items():
            self.curves[name].append((step, value))
        for logger in trainer.loggers:
            logger.log_metrics(logged, step)

    def update(self, trainer: Trainer, batch_size: int) -> None:
        self.trained |= {"epochs": epochs_done(trainer), "steps": trainer.global_step, "batch_size": batch_size}
        if self._started is not None:  # Lightning's finders write a checkpoint before the training starts
            self.trained["seconds"] = time.perf_counter() - self._started

    def state_dict(self, trainer: Trainer) -> dict[str, Any]:
        """Returns the state of all ranks; call it on all of them."""
        device = trainer.strategy.root_device
        rng = {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(device)
        here: dict[str, Any] = {"sums": self._sums.cpu(), "rng": rng}
        ranks = [here] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(ranks, here)
        # as tensors: pickling 10,000 points as tuples took longer than a short epoch
        curves = {name: torch.tensor(curve, dtype=torch.float64) for name, curve in self.curves.items()}
        since = {"images_since": self._images, "divisor_since": float(self._divisor)}
        validated = self.validated and [*self.validated]
        return {"curves": curves, "trained": self.trained, "validated": validated, "ranks": ranks} | since

    def load_state_dict(self, state: dict[str, Any], trainer: Trainer) -> None:
        """Goes on; sums go to the rank they come from or, if the number of devices has changed, to the first one."""
        for name, curve in state["curves"].items():
            name = FORMER_CURVES.get(name, name)
            self.curves[name] = [(int(step), value) for step, value in curve.tolist()]
        self.trained = dict(state["trained"])
        self.validated = Tested.of(None, self.trained, state.get("validated")).validated  # older checkpoints have none
        self._images, self._divisor = state["images_since"], state["divisor_since"]
        self._started = None
        rank, ranks = trainer.global_rank, state["ranks"]
        if len(ranks) == trainer.world_size:
            self._sums, self._rng = ranks[rank]["sums"], ranks[rank]["rng"]
        else:
            self._sums = torch.stack([other["sums"] for other in ranks]).sum(0) if rank == 0 else torch.zeros(2)
