"""Checks of values that have the right type, but that Lightning or torch would answer with a traceback or nonsense."""

import inspect
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

from lit_cifar.data.files import RESERVED_BY_WINDOWS
from lit_cifar.errors import UsageError, UserError, reason

LARGEST = 2**63 - 1  # torch's integers
LONGEST_NOTE = 500  # characters
PROCESSES_PER_CORE = 8  # the most that --trainer.devices may start on a CPU
OURS = ("seed_everything", "recipe", "resume", "checkpoint_seconds", "fast_precision")
OPTIONAL = ("dataset", "mirrors", "train_labels", "eval_batch_size", "transform", "lr_scheduler")
NOT_FLOAT32 = ("64", "64-true", "16-true", "bf16-true", "transformer-engine-float16")
LEAST = dict.fromkeys(("accumulate_grad_batches", "check_val_every_n_epoch"), 1)
LEAST |= dict.fromkeys(("min_epochs", "min_steps", "log_every_n_steps", "gradient_clip_val"), 0)
LIGHTNING = {"pytorch_lightning", "lightning_fabric"}


def check_values(config: Any) -> None:
    """Raises UsageError for the first value of a parsed command that no command can do; no class is made yet."""

    def require(is_fit: bool, name: str, why: str) -> None:
        if not is_fit:
            raise UsageError("value-out-of-range", f"--{name} {config[name]} {why}")

    check_numbers(config)
    needed = {name: config[name] for name in OURS}
    for section in ("data", "model"):
        values = config.get(section)
        if values and "class_path" not in values:  # a module of one's own may bring its data
            needed |= {f"{section}.{name}": value for name, value in vars(values).items() if name not in OPTIONAL}
    for name, value in needed.items():
        if value is None:
            raise UsageError("value-missing", f"--{name} is null; give it a value, or leave it out")
    transform = (config.get("data") or {}).get("transform")
    if inspect.isbuiltin(transform):
        sentence = f"--data.transform {transform.__module__}.{transform.__name__} is not a transform of images"
        raise UsageError(
            "value-invalid", f"{sentence}; use one of torchvision.transforms.v2, or a function of your own"
        )
    require(0 <= config.seed_everything < 2**32, "seed_everything", f"must be between 0 and {2**32 - 1:,}")
    require(config.checkpoint_seconds >= 0, "checkpoint_seconds", "must be 0 or more")
    check_name("recipe", config.recipe)
    trainer = config.trainer
    for name, least in LEAST.items():
        is_fit = not isinstance(trainer[name], int | float) or trainer[name] >= least
        require(is_fit, f"trainer.{name}", f"must be {least} or more")
    for name in ("limit_test_batches", "limit_predict_batches", "val_check_interval"):
        require(trainer[name] != 0, f"trainer.{name}", "must be above 0")
    try:
        Timer(trainer.max_time)
    except (MisconfigurationException, TypeError) as error:
        raise UsageError("value-invalid", f"--trainer.max_time {trainer.max_time}: {reason(error)}") from error
    is_float32 = str(trainer.precision) not in NOT_FLOAT32
    require(is_float32, "trainer.precision", "doesn't fit images in float32; use 32-true, bf16-mixed or 16-mixed")
    try:
        devices = len(trainer.devices) if isinstance(trainer.devices, list) else int(trainer.devices)
    except ValueError:
        return  # auto, or what Lightning refuses
    most = PROCESSES_PER_CORE * (os.cpu_count() or 1)
    is_fit = trainer.accelerator not in ("auto", "cpu") or devices <= most
    require(is_fit, "trainer.devices", f"is too much for this machine; use at most {most}")


def check_name(flag: str, name: str) -> None:
    """Raises UsageError for a name that a folder can't have everywhere."""
    why = ""
    if not re.fullmatch(r"(?!\.)[\w.-]{1,200}(?<!\.)", name):
        why = "must be a name of letters, digits, - and _, not a path"
    elif re.fullmatch(RESERVED_BY_WINDOWS, name):
        why = "can't be a folder on Windows; use another"
    if why:
        raise UsageError("value-out-of-range", f"--{flag} {name} {why}")


def checked_note(note: str | None) -> str | None:
    """Returns `--note` in one line, or raises UsageError if it is empty or too long."""
    text = None if note is None else " ".join(note.split())
    if text == "":
        raise UsageError("value-missing", "--note is empty; add a text, or leave the flag out")
    if text and len(text) > LONGEST_NOTE:
        sentence = f"--note has {len(text):,} characters; use at most {LONGEST_NOTE}"
        raise UsageError("value-out-of-range", sentence)
    return text


def check_numbers(config: Any) -> None:
    """Raises UsageError for a number that is not finite, or too large for torch."""
    for name, value in _numbers("", config.as_dict()):
        is_infinite = math.isinf(value) and name.startswith((".model", ".data"))
        if math.isnan(value) or is_infinite or (isinstance(value, int) and abs(value) > LARGEST):
            raise UsageError("value-out-of-range", f"--{name[1:]} {value} must be a finite number, up to {LARGEST:,}")


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
    """Treats what Lightning's own lines refuse, such as an EarlyStopping of no known metric, as a wrong value."""
    try:
        yield
    except Exception as error:
        place = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        is_lightnings = isinstance(error, MisconfigurationException) or LIGHTNING & {*place.parts}
        if isinstance(error, UserError | OSError) or not is_lightnings:
            raise
        why = " ".join(str(error).split()).rstrip(".!")
        refusal = UsageError("value-invalid", f"{why}. Change the value on the command line or in the recipe")
        refusal.on_every_rank = True
        raise refusal from error
