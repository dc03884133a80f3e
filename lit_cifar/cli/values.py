"""Values that the parser lets pass, but Lightning or torch would answer with a traceback or with nonsense."""

import math
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Timer

from lit_cifar.errors import UsageError, UserError

LARGEST = 2**63 - 1  # torch's integers
PROCESSES_A_CORE = 8  # of --trainer.devices on a CPU
OURS = ("seed_everything", "recipe", "resume", "checkpoint_seconds", "fast_precision")
OPTIONAL = ("transform", "lr_scheduler")
NOT_FLOAT32 = ("64", "64-true", "16-true", "bf16-true", "transformer-engine-float16")
AT_LEAST_ONE = ("accumulate_grad_batches", "check_val_every_n_epoch")
AT_LEAST_NOTHING = ("min_epochs", "min_steps", "log_every_n_steps", "gradient_clip_val")
LIGHTNING = {"pytorch_lightning", "lightning_fabric"}
ELSE = "Change the value on the command line or in the recipe"
TAKEN_BY_WINDOWS = r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?"


def check_values(config: Any) -> None:
    """Refuses what no command can do.

    Args:
        config: What was parsed for a command, of which nothing is made yet.

    Raises:
        UsageError: names the first of these flags and its value.
    """
    for name, value in _numbers("", config.as_dict()):
        if math.isnan(value) or (math.isinf(value) and name.startswith((".model", ".data"))):
            raise UsageError(f"--{name[1:]} {value} must be a finite number")
        if isinstance(value, int) and abs(value) > LARGEST:
            raise UsageError(f"--{name[1:]} {value} is too large; the largest number is {LARGEST}")
    for name, value in _must_have_values(config):
        if value is None:
            raise UsageError(f"--{name} is null; give it a value, or leave it out")
    if isinstance(config.seed_everything, bool):
        raise UsageError("--seed_everything must be a number, so that the run can be repeated; name one, such as 7")
    if not 0 <= config.seed_everything < 2**32:
        raise UsageError(f"--seed_everything {config.seed_everything} must be between 0 and {2**32 - 1}")
    if config.checkpoint_seconds < 0:
        raise UsageError(f"--checkpoint_seconds {config.checkpoint_seconds} must be 0 or more")
    recipe = config.recipe
    if not re.fullmatch(r"[\w.-]+", recipe) or recipe[0] == "." or recipe[-1] == ".":
        raise UsageError(f"--recipe {recipe} must be a name of letters, digits, - and _, not a path")
    if re.fullmatch(TAKEN_BY_WINDOWS, recipe):
        raise UsageError(f"--recipe {recipe} can't name a folder on Windows; choose another name")
    _check_trainer(config.trainer)


def _must_have_values(config: Any) -> Iterator[tuple[str, Any]]:
    yield from ((name, config[name]) for name in OURS)
    for section in ("data", "model"):
        values = config.get(section) or {}
        if "class_path" not in values:
            yield from ((f"{section}.{name}", value) for name, value in vars(values).items() if name not in OPTIONAL)


def _check_trainer(trainer: Any) -> None:
    for names, least in ((AT_LEAST_ONE, 1), (AT_LEAST_NOTHING, 0)):
        for name in names:
            value = trainer[name]
            if isinstance(value, int | float) and value < least:
                raise UsageError(f"--trainer.{name} {value} must be {least} or more")
    for name in ("limit_test_batches", "limit_predict_batches"):
        if trainer[name] == 0:
            raise UsageError(f"--trainer.{name} {trainer[name]} leaves nothing to measure; take 1 or more, or a share")
    if trainer.val_check_interval == 0:
        raise UsageError(f"--trainer.val_check_interval {trainer.val_check_interval} must be above 0")
    try:
        Timer(trainer.max_time)
    except (MisconfigurationException, TypeError) as error:
        raise UsageError(f"--trainer.max_time {trainer.max_time}: {' '.join(str(error).split())}") from error
    if str(trainer.precision) in NOT_FLOAT32:
        raise UsageError(
            f"--trainer.precision {trainer.precision} can't be, for images are float32;"
            " take 32-true, bf16-mixed or 16-mixed"
        )
    try:
        devices = len(trainer.devices) if isinstance(trainer.devices, list) else int(trainer.devices)
    except ValueError:
        return  # auto, or what Lightning refuses
    most = PROCESSES_A_CORE * (os.cpu_count() or 1)
    if trainer.accelerator in ("auto", "cpu") and devices > most:
        raise UsageError(f"--trainer.devices {devices} is more than this machine can bear; at most {most}")


def _numbers(name: str, value: Any) -> Iterator[tuple[str, int | float]]:
    """Every number in nested values, with the name of its flag."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(f"{name}.{key}", inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _numbers(name, inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value


@contextmanager
def refusals_of_lightning() -> Iterator[None]:
    """Takes what Lightning refuses while it runs, such as a metric that an EarlyStopping asks for, for a mistake.

    Raises:
        UsageError: an error came from Lightning's own lines, and not from a network, torch or the system.
    """
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        place = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if not isinstance(error, MisconfigurationException) and not LIGHTNING & {*place.parts}:
            raise
        refusal = UsageError(f"{' '.join(str(error).split()).rstrip('.')}. {ELSE}")
        refusal.on_every_rank = True
        raise refusal from error
