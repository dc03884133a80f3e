"""What is refused before training because of a callback: a metric that there is none of, or a file that is ours."""

import inspect
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lit_cifar.errors import UsageError

KNOWN = ("pytorch_lightning.", "lit_cifar.")  # modules of callbacks that log no metrics of their own
OURS = {"best", "last"}
MOST_CLASSES = 10  # named in a sentence


def require_metrics(
    trainer: pl.Trainer, classes: Sequence[str], validates: bool, schedule: Callable[..., Any] | None
) -> None:
    """Raises UsageError if a callback or the schedule goes by a metric that this training won't have.

    Nothing is refused if there is a callback of the user's own, which may log metrics.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if not all(type(callback).__module__.startswith(KNOWN) for callback in callbacks):
        return
    metrics = ["loss/val", "accuracy/val", *(f"val_class/{name}" for name in classes)] if validates else []
    rates = any(isinstance(callback, LearningRateMonitor) for callback in callbacks)
    for callback in callbacks:
        ours = type(callback).__module__.startswith("lit_cifar.")
        if ours or not isinstance(callback, EarlyStopping | ModelCheckpoint) or callback.monitor is None:
            continue
        others = ["epoch", "step"] if isinstance(callback, ModelCheckpoint) else []
        if callback.monitor not in metrics + others and not (rates and callback.monitor.startswith("lr-")):
            what = f"--trainer.callbacks {type(callback).__name__} monitors {callback.monitor}"
            raise UsageError("metric-missing", f"{what}, {_instead(metrics, others)}")
    given = schedule.keywords if isinstance(schedule, partial) else {}
    named = next(filter(inspect.isclass, schedule.args), schedule.func) if isinstance(schedule, partial) else schedule
    if inspect.isclass(named) and issubclass(named, ReduceLROnPlateau) and metrics:
        if "monitor" not in given:
            todo = "use pytorch_lightning.cli.ReduceLROnPlateau, and set --model.lr_scheduler.monitor loss/val"
            raise UsageError("metric-missing", f"--model.lr_scheduler {named.__name__} needs a metric; {todo}")
        if given["monitor"] not in metrics:
            what = f"--model.lr_scheduler {named.__name__} monitors {given['monitor']}"
            raise UsageError("metric-missing", f"{what}, {_instead(metrics, [])}")


def _instead(metrics: list[str], others: list[str]) -> str:
    if not metrics:
        return "but there is no validation; hold out images with --data.val_size, and leave --trainer.limit_val_batches"
    shown = metrics if len(metrics) <= MOST_CLASSES + 2 else [*metrics[:2], "val_class/NAME of each class"]
    return f"which does not exist; use one of {', '.join(shown + others)}"


def refuse_overwriting(callbacks: Iterable[Callback], root: Path) -> None:
    """Raises UsageError if a ModelCheckpoint would write best.ckpt or last.ckpt into a run folder below `root`."""
    for callback in callbacks:
        if not isinstance(callback, ModelCheckpoint):
            continue
        folder = Path(callback.dirpath).resolve() if callback.dirpath else None
        if folder and not any(
            folder.is_relative_to((root / ours).resolve()) for ours in ("lightning_logs", "checkpoints")
        ):
            continue
        names = {callback.filename or "": "filename"} | (
            {callback.CHECKPOINT_NAME_LAST: "save_last"} if callback.save_last else {}
        )
        for name, option in names.items():
            if os.path.normpath(name).lower() in OURS:
                what = f"--trainer.callbacks {type(callback).__name__} with {option} would overwrite {name}.ckpt"
                todo = "leave it out" if option == "save_last" else "use another filename"
                raise UsageError("output-refused", f"{what}, which fit writes itself; {todo}, or set another dirpath")
