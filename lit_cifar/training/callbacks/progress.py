"""The progress bar or, if the output is neither a terminal nor a notebook, the tutorial's line every 2,000 batches.

The bar costs 0.001 ms a step: it looks at the clock, and draws at most 8 times a second, and when all is done.
"""

import math
import time
from statistics import fmean
from typing import Any

from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TimeRemainingColumn
from torch import Tensor

from lit_cifar.data.progress_bar import SECONDS_BETWEEN_DRAWINGS, can_redraw, progress_bar
from lit_cifar.evaluation.wording import percent
from lit_cifar.training.classifier import LitClassifier

BATCHES_BETWEEN_LINES = 2000  # the tutorial's


class LitProgressBar(ProgressBar):
    """Shows how far the training is, and the mean loss of the steps that were logged last."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._progress: Progress | None = None
        self._next = 0.0
        self._where = (-1, -1)  # epoch and batch of the last line
        self._told: set[str] = set()  # what lines of that place have told

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = not rank_zero_only.rank  # type: ignore[attr-defined]  # Lightning's finders call it on all ranks

    def _begin(self, description: str, total: float, done: int = 0) -> None:
        """Adds a bar, below that of the epoch if one is shown."""
        console = Console()
        if self._progress is None and self._enabled and can_redraw(console):
            numbers = ("{task.fields[count]}", "{task.fields[rate]}", TimeRemainingColumn(), "{task.fields[loss]}")
            columns = ("{task.description}", BarColumn(bar_width=None), *numbers)
            self._progress = progress_bar(console, *columns, auto_refresh=False)
            self._progress.start()
        if self._progress is not None:
            known = None if total == float("inf") else total
            self._progress.add_task(description, total=known, completed=done, **_numbers(done, known))

    def _move(self, done: int, module: LightningModule | None = None) -> None:
        now = time.monotonic()
        if self._progress is None:
            return
        task = self._progress.tasks[-1]
        task.fields["done"] = done
        if now < self._next and done != task.total:
            return
        self._next = now + SECONDS_BETWEEN_DRAWINGS
        curve = module.record.curves["loss/train"] if isinstance(module, LitClassifier) else []
        loss = f"loss {curve[-1][1]:.3f}" if curve else ""
        rate = f"{task.speed:,.0f}/s" if task.speed else ""
        self._progress.update(task.id, completed=done, refresh=True, **_numbers(done, task.total, rate, loss))

    def _end(self) -> None:
        if self._progress is not None:
            task = self._progress.tasks[-1]
            if task.total is None:  # data without a length: now it is known
                done = task.fields["done"]
                self._progress.update(task.id, completed=done, total=done, refresh=True, **_numbers(done, done))
            self._progress.remove_task(task.id)
            if not self._progress.task_ids:
                self._progress.stop()
                self._progress = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fit_loop.restarted_mid_epoch:  # for which Lightning does not call on_train_epoch_start
            self._begin_epoch(trainer, trainer.fit_loop.epoch_loop.batch_progress.current.completed)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_epoch(trainer, 0)

    def _begin_epoch(self, trainer: Trainer, done: int) -> None:
        batches = trainer.num_training_batches
        if trainer.max_steps > 0:  # they may end within the epoch
            batches = min(batches, done + (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches)
        self._begin(f"Epoch {_place(trainer)[0].strip()}", batches, done)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        done = trainer.fit_loop.batch_idx + 1
        if self._progress is not None:
            self._move(done, pl_module)
        elif self._enabled and done % BATCHES_BETWEEN_LINES == 0 and isinstance(pl_module, LitClassifier):
            self._print_line(trainer, pl_module, done)

    def _print_line(
        self, trainer: Trainer, module: LitClassifier, done: int, accuracy: float | Tensor | None = None
    ) -> None:
        """Prints what no line of this epoch and batch has told yet."""
        steps = min(BATCHES_BETWEEN_LINES, done) // trainer.accumulate_grad_batches
        since = trainer.global_step - max(1, steps)
        losses = [value for step, value in module.record.curves["loss/train"][-BATCHES_BETWEEN_LINES:] if step > since]
        known = {"loss": f"{fmean(losses):.3f}"} if losses else {}
        known |= {} if accuracy is None else {"validation accuracy": percent(float(accuracy))}
        is_first = self._where != (where := (trainer.current_epoch, done))
        if is_first:
            self._where, self._told = where, set()
        new = "".join(f"  {name} {value}" for name, value in known.items() if name not in self._told)
        if new or is_first:
            epoch, step = _place(trainer)
            print(f"epoch {epoch}, step {step}{new}", flush=True)
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

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        batches = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self._begin("Validating", sum(batches))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the accuracy of a validation in the middle of an epoch; at the end of one, its line has it."""
        self._end()
        done = trainer.fit_loop.batch_idx + 1
        in_epoch = trainer.state.fn == "fit" and not trainer.sanity_checking and done < trainer.num_training_batches
        if self._enabled and in_epoch and isinstance(pl_module, LitClassifier):
            self._print_line(trainer, pl_module, done, pl_module.val_results["accuracy"])

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin("Testing", sum(trainer.num_test_batches))

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin("Predicting", sum(trainer.num_predict_batches))

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        if self._progress is not None:  # counts by itself: the index begins again with each of several loaders
            self._move(self._progress.tasks[-1].fields["done"] + 1)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end
    on_train_end = on_predict_end = on_test_end

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()  # before others print what was predicted


def _numbers(done: int, total: float | None, rate: str = "", loss: str = "") -> dict[str, Any]:
    """Returns the fields beside a bar, such as `2,000/11,250`."""
    most = "?" if total is None else f"{int(total):,}"
    return {"done": done, "count": f"{done:{len(most)},}/{most}", "rate": rate, "loss": loss}


def _place(trainer: Trainer) -> tuple[str, str]:
    """Returns the epoch and the step as lines show them: `1/2` and ` 2,000`, or `1` and `200/500` if steps are limited.

    Numbers are as wide as the largest of the training, so that lines stand below each other.
    """
    epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs or -1
    step, most = trainer.global_step, trainer.max_steps
    batches, in_all = trainer.num_training_batches, math.inf
    if epochs > 0 and math.isfinite(batches):
        in_all = math.ceil(batches / trainer.accumulate_grad_batches) * epochs
    if 0 < most < in_all:
        return f"{epoch:,}", f"{step:{len(f'{most:,}')},}/{most:,}"
    shown = f"{epoch:{len(f'{epochs:,}')},}/{epochs:,}" if epochs > 0 else f"{epoch:,}"
    return shown, f"{step:{len(f'{in_all:,}')},}" if math.isfinite(in_all) else f"{step:,}"
