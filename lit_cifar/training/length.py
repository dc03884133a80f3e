"""How long a training is, and how much of it is done: what schedules and growing images go by."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from lit_cifar.errors import UsageError
from lit_cifar.training.schedules import LinearToZero


def fit_schedule(scheduler: Any, interval: str, trainer: pl.Trainer) -> None:
    """Tells a schedule that falls to zero how long the training is, and refuses one that ends before it.

    Raises:
        UsageError: nobody knows how long the training is, or it is longer than the schedule; or a
            plateau is to be looked for at every step, or without validation.
    """
    if isinstance(scheduler, ReduceLROnPlateau) and interval == "step":
        raise UsageError(
            "--model.lr_scheduler ReduceLROnPlateau goes by the validation, which there is once an epoch;"
            " leave --model.lr_scheduler_interval at epoch"
        )
    validates = trainer.datamodule.val_size and trainer.limit_val_batches and trainer.check_val_every_n_epoch == 1  # type: ignore[attr-defined]
    if isinstance(scheduler, ReduceLROnPlateau) and not validates:
        raise UsageError(
            "--model.lr_scheduler ReduceLROnPlateau goes by the validation of every epoch; hold images out with"
            " --data.val_size, and leave --trainer.limit_val_batches and --trainer.check_val_every_n_epoch at 1"
        )
    require_room(scheduler, interval, trainer)
    length = _steps(trainer) if interval == "step" else _epochs(trainer)
    if isinstance(scheduler, LinearToZero) and scheduler.total_steps is None:
        if length is None:
            raise UsageError(
                "--model.lr_scheduler LinearToZero needs to know how long the training is;"
                " give --trainer.max_epochs, or --model.lr_scheduler.init_args.total_steps"
            )
        scheduler.total_steps = length
        for group, rate in zip(scheduler.optimizer.param_groups, scheduler.get_lr(), strict=True):
            group["lr"] = rate  # of the first step, before which no schedule steps


def require_room(scheduler: Any, interval: str, trainer: pl.Trainer) -> None:
    """Refuses a schedule, perhaps one that a checkpoint brought with it, that has fewer steps than the training.

    Raises:
        UsageError: so it is; torch would find out at the first step too many.
    """
    if not isinstance(scheduler, OneCycleLR):
        return
    length = _steps(trainer) if interval == "step" else _epochs(trainer)
    if length is not None and interval == "step" and trainer.max_steps != -1:
        length = min(length, trainer.max_steps)
    if length is not None and scheduler.total_steps < length:
        remedy = (
            "a training that was begun with it can't be prolonged; begin anew without --ckpt_path and --resume"
            if scheduler.last_epoch
            else f"set --model.lr_scheduler.init_args.total_steps {length}"
        )
        has = f"--model.lr_scheduler OneCycleLR has {scheduler.total_steps:,} steps, and the training {length:,}"
        raise UsageError(f"{has}; {remedy}")


def share_done(trainer: pl.Trainer, epoch: float) -> float:
    """Share of the training, from 0 to 1, that is done in `epoch`, such as 2.5, the middle of the third."""
    if epochs := _epochs(trainer):
        return epoch / epochs
    if steps := _steps(trainer):
        return min(1.0, epoch * _steps_of_an_epoch(trainer, trainer.accumulate_grad_batches) / steps)
    return 0.0


def _epochs(trainer: pl.Trainer) -> int | None:
    return None if trainer.max_epochs == -1 else trainer.max_epochs


def _steps(trainer: pl.Trainer) -> int | None:
    """Of all epochs, even where `max_steps` ends the training before; where their number is open, `max_steps`."""
    if (epochs := _epochs(trainer)) is not None:
        scheduler = next((c for c in trainer.callbacks if isinstance(c, GradientAccumulationScheduler)), None)  # type: ignore[attr-defined]
        if scheduler is None:
            return epochs * _steps_of_an_epoch(trainer, trainer.accumulate_grad_batches)
        accumulated = map(scheduler.get_accumulate_grad_batches, range(epochs))
        return sum(_steps_of_an_epoch(trainer, batches) for batches in accumulated)
    return None if trainer.max_steps == -1 else trainer.max_steps


def _steps_of_an_epoch(trainer: pl.Trainer, accumulated: int) -> int:
    """Not asked of Lightning: it would begin to read before a checkpoint tells where, and read from the beginning."""
    data, limit = trainer.datamodule, trainer.limit_train_batches  # type: ignore[attr-defined]
    batches = -(-len(data.split()[0]) // data.batch_size)
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return -(-batches // accumulated)
