"""The progress bar or, if the output is neither a terminal nor a notebook, the tutorial's line every 2,000 steps.

The bar costs 0.001 ms a step: it looks at the clock, and draws at most 8 times a second, and when all is done.
"""

import time
from statistics import fmean
from typing import Any

from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from torch import Tensor

from lit_cifar.data.progress_bar import SECONDS_BETWEEN_DRAWINGS, progress_bar
from lit_cifar.evaluation.wording import percent
from lit_cifar.training.classifier import LitClassifier

STEPS_BETWEEN_LINES = 2000  # the tutorial's


class LitProgressBar(ProgressBar):
    """Shows how far the training is, and the mean loss of the steps that were logged last."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._progress: Progress | None = None
        self._next = 0.0
        self._place = (-1, -1)  # epoch and batch of the last line
        self._told: set[str] = set()  # what lines of that place have told

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = not rank_zero_only.rank  # type: ignore[attr-defined]  # Lightning's finders call it on all ranks

    def _begin(self, description: str, total: float) -> None:
        """Adds a bar, below that of the epoch if one is shown."""
        console = Console()
        if self._progress is None and self._enabled and (console.is_terminal or console.is_jupyter):
            numbers = (MofNCompleteColumn(), "{task.fields[rate]}", TimeRemainingColumn(), "{task.fields[loss]}")
            columns = ("{task.description}", BarColumn(bar_width=None), *numbers)
            self._progress = progress_bar(console, *columns, auto_refresh=False)
            self._progress.start()
        if self._progress is not None:
            known = None if total == float("inf") else total
            self._progress.add_task(description, total=known, loss="", rate="")

    def _move(self, done: int, module: LightningModule | None = None) -> None:
        now = time.monotonic()
        if self._progress is None:
            return
        task = self._progress.tasks[-1]
        if now < self._next and done != task.total:
            return
        self._next = now + SECONDS_BETWEEN_DRAWINGS
        curve = module.record.curves["loss/train"] if isinstance(module, LitClassifier) else []
        loss = f"loss {curve[-1][1]:.3f}" if curve else ""
        rate = f"{task.speed:,.0f} steps/s" if task.speed else ""
        self._progress.update(task.id, completed=done, loss=loss, rate=rate, refresh=True)

    def _end(self) -> None:
        if self._progress is not None:
            self._progress.remove_task(self._progress.task_ids[-1])
            if not self._progress.task_ids:
                self._progress.stop()
                self._progress = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fit_loop.restarted_mid_epoch:  # for which Lightning does not call on_train_epoch_start
            self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
        self._begin(f"Epoch {trainer.current_epoch + 1}/{epochs}", self.total_train_batches)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        done = trainer.fit_loop.batch_idx + 1
        if self._progress is not None:
            self._move(done, pl_module)
        elif self._enabled and done % STEPS_BETWEEN_LINES == 0 and isinstance(pl_module, LitClassifier):
            self._print_line(trainer, pl_module, done)

    def _print_line(
        self, trainer: Trainer, module: LitClassifier, done: int, accuracy: float | Tensor | None = None
    ) -> None:
        """Prints what no line of this epoch and batch has told yet."""
        steps = min(STEPS_BETWEEN_LINES, done) // trainer.accumulate_grad_batches
        since = trainer.global_step - max(1, steps)
        losses = [value for step, value in module.record.curves["loss/train"][-STEPS_BETWEEN_LINES:] if step > since]
        loss = f"{fmean(losses):.3f}" if losses else "not logged yet"
        known = {"loss": loss} | ({} if accuracy is None else {"validation accuracy": percent(float(accuracy))})
        if self._place != (place := (trainer.current_epoch + 1, done)):
            self._place, self._told = place, set()
        if new := "  ".join(f"{name}: {value}" for name, value in known.items() if name not in self._told):
            print(f"[{place[0]}, {done:5d}] {new}", flush=True)
        self._told |= known.keys()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()
        if self._enabled and isinstance(pl_module, LitClassifier):
            accuracy = trainer.callback_metrics.get("accuracy/val")  # missing if it was measured before resuming
            new = trainer.global_step in dict(pl_module.record.curves["loss/val"])
            self._print_line(trainer, pl_module, trainer.fit_loop.batch_idx + 1, accuracy if new else None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        while self._progress is not None:  # so that the message stands alone
            self._end()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin("Validating", sum(trainer.num_val_batches))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the accuracy of a validation in the middle of an epoch; at the end of one, its line has it."""
        self._end()
        done = trainer.fit_loop.batch_idx + 1
        in_epoch = trainer.state.fn == "fit" and not trainer.sanity_checking and done < trainer.num_training_batches
        if self._enabled and in_epoch and isinstance(pl_module, LitClassifier):
            self._print_line(trainer, pl_module, done, pl_module.val_results["accuracy"])

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin("Testing", sum(trainer.num_test_batches))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin("Predicting", sum(trainer.num_predict_batches))

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        self._move(args[2] + 1)  # its index

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end
    on_train_end = on_predict_end = on_test_end
