"""Schedules that torch does not have, and how long a training is, which schedules and growing or mixed images need.

Schedules get their length when they are made.
"""

import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from math import ceil, cos, isfinite, pi
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from pytorch_lightning.utilities.seed import isolate_rng
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau

from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.data.loader import BatchLoader
from lit_cifar.errors import UsageError, UserError, reason
from lit_cifar.runs.checkpoint import readable


class WholeTraining(LRScheduler):
    """A schedule that is as long as the training; its subclasses say what share of the learning rates a step has."""

    def __init__(self, optimizer: torch.optim.Optimizer, total_steps: int | None) -> None:
        if total_steps is None:
            flags = "--trainer.max_epochs, or --model.lr_scheduler.init_args.total_steps"
            raise ValueError(f"it needs total_steps, since the length of the training is unknown; set {flags}")
        self.total_steps = total_steps
        super().__init__(optimizer)

    def share(self, step: int) -> float:
        """Returns the share of the learning rates, from 0 to 1, that a step has, counted from 0."""
        raise NotImplementedError

    def get_lr(self) -> list[float]:  # type: ignore[override]
        share = self.share(self.last_epoch)
        return [float(rate) * share for rate in self.base_lrs]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken, but with the length and the shape that this schedule was made for."""
        own = {name: value for name, value in vars(self).items() if name in inspect.signature(type(self)).parameters}
        super().load_state_dict(state_dict | own)
        self._last_lr = [*self.get_lr()]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate  # of the next step, which differs if the length does


class LinearToZero(WholeTraining):
    """Lets every learning rate fall in a straight line to 0 at the end of training, perhaps after a rise from 0.

    With a rise it is the one cycle of Smith and Topin (arXiv 1708.07120), as David Page uses it ("How to train your
    ResNet"). Raises ValueError if `rise` is out of range or `total_steps` is missing.

    Args:
        optimizer: The optimizer whose rates fall.
        total_steps: Number of steps until 0; by default, LitClassifier passes the length of the training.
        rise: Share of the training in which the rates rise, at least 0 and below 1.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, total_steps: int | None = None, rise: float = 0.0) -> None:
        if not 0 <= rise < 1:
            raise ValueError(f"rise {rise} must be at least 0 and below 1")
        self.rise = rise
        super().__init__(optimizer, total_steps)

    def share(self, step: int) -> float:
        top = self.rise * self.total_steps
        left = (self.total_steps - step) / max(1, self.total_steps - top)
        return max(0.0, min(1.0, left, (step + 1) / (top + 1)))


class CosineWithWarmup(WholeTraining):
    """Lets every learning rate fall along half a cosine, perhaps after a warm-up, in which it rises in a straight line.

    The cosine is that of Loshchilov and Hutter (arXiv 1608.03983) without restarts, as in torch's CosineAnnealingLR;
    the warm-up is that of Goyal et al. (arXiv 1706.02677), as in torch's LinearLR. Raises ValueError if a share is out
    of range or `total_steps` is missing.

    Args:
        optimizer: The optimizer whose rates fall.
        total_steps: Number of steps until the end; by default, LitClassifier passes the length of the training.
        warmup: Share of the training in which the rates rise, at least 0 and below 1.
        final: Share of its learning rate that is left at the end, from 0 to 1.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        total_steps: int | None = None,
        warmup: float = 0.0,
        final: float = 0.0,
    ) -> None:
        if not (0 <= warmup < 1 and 0 <= final <= 1):
            raise ValueError(f"warmup {warmup} must be at least 0 and below 1, and final {final} from 0 to 1")
        self.warmup, self.final = warmup, final
        super().__init__(optimizer, total_steps)

    def share(self, step: int) -> float:
        top = self.warmup * self.total_steps
        if step < top:
            return (step + 1) / (top + 1)
        done = min(1.0, (step - top) / max(1, self.total_steps - top))
        return self.final + (1 - self.final) * (1 + cos(pi * done)) / 2


def try_schedule(
    make: Callable[..., Any], optimizer: torch.optim.Optimizer, interval: str, trainer: pl.Trainer, data: Any
) -> None:
    """Makes a schedule of an optimizer that is used for nothing else, and raises what `make_schedule` does.

    Raises UsageError, too, if its state can't be written, or if it is one of torch's that fails at its first step.
    """
    with isolate_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the optimizer has taken no step
        scheduler = make_schedule(make, optimizer, interval, trainer, data)
        name = type(scheduler).__name__
        readable(scheduler.state_dict(), name)
        if type(scheduler).__module__ == LRScheduler.__module__ and not isinstance(scheduler, ReduceLROnPlateau):
            try:
                scheduler.step()
            except Exception as error:  # of a function that LambdaLR was given, or such as StepLR's division by 0
                given = make.keywords if isinstance(make, partial) else {}
                arguments = "".join(f", {key} {value}" for key, value in given.items() if key != "last_epoch")
                sentence = f"--model.lr_scheduler {name}{arguments}: the first step fails ({reason(error)})"
                raise UsageError("schedule-refused", f"{sentence}; change its arguments") from error


def make_schedule(
    make: Callable[..., Any], optimizer: torch.optim.Optimizer, interval: str, trainer: pl.Trainer, data: Any
) -> Any:
    """Makes a schedule that advances every `step` or `epoch` by `make`, a class, a function, or a partial of one.

    One that takes `total_steps` and was given none gets the length of the training on `data`. Raises UsageError if it
    refuses its arguments, ends before the training, or goes by a validation that there won't be.
    """
    given = make.keywords if isinstance(make, partial) else {}
    takes_length = "total_steps" in {**inspect.signature(make).parameters, **given}
    has_length = any(given.get(name) is not None for name in ("total_steps", "epochs"))  # OneCycleLR multiplies epochs
    length = _length(trainer, data, interval)
    options = {"total_steps": length} if takes_length and not has_length and length else {}
    try:
        scheduler = make(optimizer, **options)
    except UserError:
        raise
    except Exception as error:  # a user's own may raise anything
        raise UsageError("schedule-refused", f"--model.lr_scheduler: {reason(error)}") from error
    holds_out = not isinstance(data, CIFAR10DataModule) or data.val_size
    validates = holds_out and trainer.limit_val_batches and trainer.check_val_every_n_epoch == 1
    if isinstance(scheduler, ReduceLROnPlateau) and (interval == "step" or not validates):
        plateau = "--model.lr_scheduler ReduceLROnPlateau goes by the validation of every epoch"
        epoch = "--model.lr_scheduler_interval epoch and --data.val_size, and leave --trainer.limit_val_batches"
        raise UsageError("schedule-refused", f"{plateau}; set {epoch} and --trainer.check_val_every_n_epoch at 1")
    require_room(scheduler, interval, trainer, data)
    return scheduler


def require_room(scheduler: Any, interval: str, trainer: pl.Trainer, data: Any) -> None:
    """Raises UsageError for a schedule, perhaps loaded from a checkpoint, that has fewer steps than the training."""
    length = _length(trainer, data, interval) or 0
    if interval == "step" and trainer.max_steps != -1:
        length = min(length, trainer.max_steps)
    if isinstance(scheduler, OneCycleLR) and scheduler.total_steps < length:  # torch raises at the first step too many
        remedy = f"set --model.lr_scheduler.init_args.total_steps {length}"
        if scheduler.last_epoch:
            remedy = "a training that began with it can't get longer; start one without --ckpt_path and --resume"
        sizes = f"has {scheduler.total_steps:,} steps, the training {length:,}"
        raise UsageError("schedule-refused", f"--model.lr_scheduler OneCycleLR {sizes}; {remedy}")


def batches_of_an_epoch(trainer: pl.Trainer, data: Any) -> int | None:
    """Counts without Lightning, which would start to read before a checkpoint says where, and read from the front.

    Returns None for own data of unknown length.
    """
    if not isinstance(data, CIFAR10DataModule):
        trainer.fit_loop.setup_data()
        return int(trainer.num_training_batches) if isfinite(trainer.num_training_batches) else None
    limit, batches = trainer.limit_train_batches, ceil(len(data.split()[0]) / data.batch_size)
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def begin_epoch(loader: BatchLoader, sides: Sequence[tuple[float, int]], trainer: pl.Trainer) -> None:
    """Tells a loader the epoch, the side of its images (the last of `sides` that has begun), and how much is mixed."""
    middle = share_done(trainer, trainer.current_epoch + 0.5)
    begun = [side for share, side in sides if share <= middle]
    data, until = trainer.datamodule, loader.augmentation.mix_until  # type: ignore[attr-defined]
    mixed = batches_before(trainer, data, until, trainer.current_epoch)
    epoch = 0 if trainer.overfit_batches else trainer.current_epoch  # type: ignore[attr-defined]  # the same images
    loader.set_epoch(epoch, begun[-1] if begun else None, mixed)


def batches_before(trainer: pl.Trainer, data: Any, share: float, epoch: int) -> int | None:
    """Returns how many batches of an epoch come before this share of the training is done; None for all of them.

    Raises UsageError if the length of the training is unknown.
    """
    if share == 1:
        return None
    batches = batches_of_an_epoch(trainer, data) or 0
    epochs: float | None = _length(trainer, data, "epoch")
    if not epochs and (steps := _length(trainer, data, "step")):
        epochs = steps / max(1, ceil(batches / trainer.accumulate_grad_batches))
    if not epochs:
        flags = "--trainer.max_epochs or --trainer.max_steps"
        raise UsageError("value-invalid", f"--data.mix_until {share} needs the length of the training; set {flags}")
    return min(batches, max(0, round(share * epochs * batches) - epoch * batches))


def share_done(trainer: pl.Trainer, epoch: float) -> float:
    """Returns the share of the training, from 0 to 1, that is done in `epoch`: 2.5 is the middle of the third."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    if epochs := _length(trainer, data, "epoch"):
        return epoch / epochs
    if steps := _length(trainer, data, "step"):
        of_an_epoch = ceil((batches_of_an_epoch(trainer, data) or 0) / trainer.accumulate_grad_batches)
        return min(1.0, epoch * of_an_epoch / steps)
    return 0.0


def _length(trainer: pl.Trainer, data: Any, interval: str) -> int | None:
    """Returns the epochs or steps of a training, if known; steps are `max_steps` only if there is no `max_epochs`."""
    epochs = None if trainer.max_epochs == -1 else trainer.max_epochs
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if epochs and isinstance(callback, StochasticWeightAveraging):  # it may have added an epoch that trains nothing
            epochs = int(getattr(callback, "swa_end", epochs - 1)) + 1
    if interval == "epoch":
        return epochs
    if epochs is None:
        return None if trainer.max_steps == -1 else trainer.max_steps
    scheduler = next((c for c in trainer.callbacks if isinstance(c, GradientAccumulationScheduler)), None)  # type: ignore[attr-defined]
    batches = batches_of_an_epoch(trainer, data)
    if batches is None:
        return None
    if scheduler is None:
        return epochs * ceil(batches / trainer.accumulate_grad_batches)
    return sum(ceil(batches / scheduler.get_accumulate_grad_batches(epoch)) for epoch in range(epochs))
