"""TrainingRecord: curves and counts of a training, over all its interruptions and devices; checkpoints hold it."""

import time
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from lit_cifar.training.callbacks.divergence import CHECKED_EVERY, DivergenceWatch
from lit_cifar.training.step import Share


class TrainingRecord:
    """Curves, counts, and sums: one tensor, read only for logging. 0.02 ms a step; self.log and torchmetrics take 1."""

    def __init__(self) -> None:
        self.curves: dict[str, list[tuple[int, float]]] = {"train/loss": [], "val/loss": []}  # of (step, value)
        self.trained: dict[str, Any] = {"epochs": 0, "steps": 0, "images": 0, "batch_size": 0, "seconds": 0.0}
        """Totals of the training so far; seconds are wall time of the loop, validation included."""
        self._sums = torch.zeros(2)  # since the last logging, on this rank: of losses, of correct predictions
        self._images = 0  # since the last logging, over all devices
        self._rng: dict[str, Tensor] | None = None  # states to go on with, for dropout
        self._started: float | None = None
        self._log_every: int | float = 0

    def begin(self, trainer: Trainer, device: torch.device) -> None:
        """Starts the clock on the device that trains, and restores the random states of a resumed run."""
        self._started = time.perf_counter() - self.trained["seconds"]
        steps = -(-trainer.num_training_batches // trainer.accumulate_grad_batches)
        self._log_every = min(trainer.log_every_n_steps, max(1, steps))  # type: ignore[attr-defined]
        # in float64, sums hardly depend on their order; mps has none
        self._sums = self._sums.to(device, torch.float32 if device.type == "mps" else torch.float64)
        if self._rng is not None:
            torch.set_rng_state(self._rng["cpu"])
            if device.type == "cuda" and "cuda" in self._rng:
                torch.cuda.set_rng_state(self._rng["cuda"], device)

    def add(self, share: Share, counts: Tensor) -> None:
        """Adds the `count` of this rank's share of a batch; the black image of an empty share does not count."""
        self._images += share.whole
        self.trained["images"] += share.whole
        if share.mine:
            self._sums += counts

    def means(self, trainer: Trainer) -> dict[str, float]:
        """Returns loss and accuracy since the last call, over all devices."""
        loss, right = trainer.strategy.reduce(self._sums, reduce_op="sum").tolist()
        means = {"train/loss": loss / self._images, "train/accuracy": right / self._images}
        self._sums.zero_()
        self._images = 0
        return means

    def log(self, trainer: Trainer, step: int, watch: DivergenceWatch | None) -> None:
        """Logs every `log_every_n_steps` steps, and once in an epoch that has fewer; a loss that diverged is raised."""
        if watch and step % CHECKED_EVERY == 0:
            watch.look(self._sums[0], step)
        if not self._log_every or step % self._log_every:
            return
        means = self.means(trainer)
        if watch:
            watch.require_finite_loss(means["train/loss"], step)
        self.curves["train/loss"].append((step, means["train/loss"]))
        for logger in trainer.loggers:
            logger.log_metrics(means | {"lr": trainer.optimizers[0].param_groups[0]["lr"]}, step)

    def update(self, trainer: Trainer, batch_size: int) -> None:
        batches = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        epochs = round(batches / trainer.num_training_batches, 2)
        self.trained |= {"epochs": epochs, "steps": trainer.global_step, "batch_size": batch_size}
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
        return {"curves": curves, "trained": self.trained, "images_since": self._images, "ranks": ranks}

    def load_state_dict(self, state: dict[str, Any], trainer: Trainer) -> None:
        """Goes on; sums go to the rank they come from or, if the number of devices has changed, to the first one."""
        for name, curve in state["curves"].items():
            self.curves[name] = [(int(step), value) for step, value in curve.tolist()]
        self.trained = dict(state["trained"])
        self._images = state["images_since"]
        self._started = None
        rank, ranks = trainer.global_rank, state["ranks"]
        if len(ranks) == trainer.world_size:
            self._sums, self._rng = ranks[rank]["sums"], ranks[rank]["rng"]
        else:
            self._sums = torch.stack([other["sums"] for other in ranks]).sum(0) if rank == 0 else torch.zeros(2)
