"""Checks of values that have the right type, but that Lightning or torch would answer with a traceback or nonsense."""

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
PROCESSES_PER_CORE = 8  # the most that --trainer.devices may start on a CPU
OURS = ("seed_everything", "recipe", "resume", "checkpoint_seconds", "fast_precision")
OPTIONAL = ("transform", "lr_scheduler")
NOT_FLOAT32 = ("64", "64-true", "16-true", "bf16-true", "transformer-engine-float16")
AT_LEAST_ONE = ("accumulate_grad_batches", "check_val_every_n_epoch")
AT_LEAST_ZERO = ("min_epochs", "min_steps", "log_every_n_steps", "gradient_clip_val")
LIGHTNING = {"pytorch_lightning", "lightning_fabric"}
RESERVED_BY_WINDOWS = r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?"


def check_values(config: Any) -> None:
    """Refuses what no command can do.

    Args:
        config: What was parsed for a command; no class in it is made yet.

    Raises:
        UsageError: A value is out of range; names the first of these flags.
    """
    for name, value in _numbers("", config.as_dict()):
        if math.isnan(value) or (math.isinf(value) and name.startswith((".model", ".data"))):
            raise _out_of_range(name[1:], value, "must be a finite number")
        if isinstance(value, int) and abs(value) > LARGEST:
            raise _out_of_range(name[1:], value, f"is too large; the largest number is {LARGEST}")
    for name, value in _must_have_values(config):
        if value is None:
            raise UsageError("value-missing", f"--{name} is null; give it a value, or leave it out")
    if not 0 <= config.seed_everything < 2**32:
        raise _out_of_range("seed_everything", config.seed_everything, f"must be between 0 and {2**32 - 1}")
    if config.checkpoint_seconds < 0:
        raise _out_of_range("checkpoint_seconds", config.checkpoint_seconds, "must be 0 or more")
    recipe = config.recipe
    if not re.fullmatch(r"[\w.-]+", recipe) or recipe[0] == "." or recipe[-1] == ".":
        raise _out_of_range("recipe", recipe, "must be a name of letters, digits, - and _, not a path")
    if re.fullmatch(RESERVED_BY_WINDOWS, recipe):
        raise _out_of_range("recipe", recipe, "can't be the name of a folder on Windows; use another name")
    _check_trainer(config.trainer)


def _out_of_range(name: str, value: Any, why: str) -> UsageError:
    return UsageError("value-out-of-range", f"--{name} {value} {why}")


def _must_have_values(config: Any) -> Iterator[tuple[str, Any]]:
    yield from ((name, config[name]) for name in OURS)
    for section in ("data", "model"):
        values = config.get(section) or {}
        if "class_path" not in values:
            yield from ((f"{section}.{name}", value) for name, value in vars(values).items() if name not in OPTIONAL)


def _check_trainer(trainer: Any) -> None:
    for names, least in ((AT_LEAST_ONE, 1), (AT_LEAST_ZERO, 0)):
        for name in names:
            value = trainer[name]
            if isinstance(value, int | float) and value < least:
                raise _out_of_range(f"trainer.{name}", value, f"must be {least} or more")
    for name in ("limit_test_batches", "limit_predict_batches"):
        if trainer[name] == 0:
            raise _out_of_range(f"trainer.{name}", trainer[name], "leaves nothing to measure; use 1 or more")
    if trainer.val_check_interval == 0:
        raise _out_of_range("trainer.val_check_interval", trainer.val_check_interval, "must be above 0")
    try:
        Timer(trainer.max_time)
    except (MisconfigurationException, TypeError) as error:
        why = " ".join(str(error).split())
        raise UsageError("value-invalid", f"--trainer.max_time {trainer.max_time}: {why}") from error
    if str(trainer.precision) in NOT_FLOAT32:
        why = "doesn't fit images in float32; use 32-true, bf16-mixed or 16-mixed"
        raise _out_of_range("trainer.precision", trainer.precision, why)
    try:
        devices = len(trainer.devices) if isinstance(trainer.devices, list) else int(trainer.devices)
    except ValueError:
        return  # auto, or what Lightning refuses
    most = PROCESSES_PER_CORE * (os.cpu_count() or 1)
    if trainer.accelerator in ("auto", "cpu") and devices > most:
        raise _out_of_range("trainer.devices", devices, f"is too much for this machine; use at most {most}")


def _numbers(name: str, value: Any) -> Iterator[tuple[str, int | float]]:
    """Yields every number in nested values, with the name of its flag."""
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
    """Treats what Lightning refuses, such as an EarlyStopping whose metric doesn't exist, as a wrong value.

    Raises:
        UsageError: An error came from Lightning's own lines, not from a network, torch or the system.
    """
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        place = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if not isinstance(error, MisconfigurationException) and not LIGHTNING & {*place.parts}:
            raise
        why = " ".join(str(error).split()).rstrip(".")
        refusal = UsageError("value-invalid", f"{why}. Change the value on the command line or in the recipe")
        refusal.on_every_rank = True
        raise refusal from error
