"""RunCard: what a run is. It is made once, before training, and read everywhere.

Checkpoints hold it; resuming compares it; reports, loggers and exports take their headers from it. It consists of
numbers, words, and import paths for classes and functions, so that whatever reads it can do so without running code.
"""

import inspect
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch

from lit_cifar.data.sources import Kind
from lit_cifar.errors import UsageError
from lit_cifar.evaluation.test_time_augmentation import Views

Description = dict[str, Any]
"""An object as `class_path`, its import path, and `init_args`, its constructor's arguments."""

RESUMED = {
    "recipe": "recipe",
    "net": "network",
    "classes": "classes",
    "dataset": "data set",
    "images": "images",
    "mean": "--data.mean",
    "std": "--data.std",
    "val_size": "--data.val_size",
    "batch_size": "--data.batch_size",
    "seed": "--seed_everything",
}
"""Fields in which a training and its resumption must agree, and what to call them."""


@dataclass(frozen=True)
class RunCard:
    """What a run is."""

    recipe: str
    """Name of the recipe; `python` if there was none."""
    net: Description
    classes: list[str]
    """Class names in the order of the labels."""
    dataset: Kind
    images: int
    """CRC-32 of all images and labels."""
    mean: list[float]
    std: list[float]
    val_size: int
    """Number of training images held out for validation."""
    batch_size: int
    """Images in a batch, over all devices together."""
    seed: int
    augmentation: dict[str, Any]
    optimizer: Description
    lr_scheduler: Description | None
    loss: Description
    slice_size: int
    sides: list[list[float]]
    test_time_augmentation: Views
    confidence_threshold: float

    def as_dict(self) -> dict[str, Any]:
        """Returns the card as a checkpoint holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunCard":
        """Returns the card that a checkpoint holds, or raises ValueError with the name of a missing or wrong value."""
        hints = get_type_hints(cls)
        for name, hint in hints.items():
            if name not in values or not _fits(values[name], hint):
                raise ValueError(name)
        for name in ("mean", "std"):
            if len(values[name]) != 3:
                raise ValueError(name)
        if not 0 < values["confidence_threshold"] <= 1:
            raise ValueError("confidence_threshold")
        return cls(**{name: values[name] for name in hints})

    def differences(self, other: "RunCard") -> list[str]:
        """Returns what makes `other` another training, such as `--data.batch_size (4, now 8)`."""
        found = []
        for name, label in RESUMED.items():
            old, new = getattr(self, name), getattr(other, name)
            if old != new:
                found.append(label if name == "images" else f"{label} ({old}, now {new})")
        return found


def plain(value: Any, flag: str) -> Any:
    """Returns a value as numbers, words, lists and dictionaries of them; classes and functions as import paths.

    If it can't be written down, it raises UsageError with the `flag` that it comes from.
    """
    if value is None or (isinstance(value, bool | int | float | str) and not isinstance(value, Enum)):
        return value
    if isinstance(value, torch.Tensor):  # such as class weights
        return as_list(value)
    if isinstance(value, list | tuple | set):
        return [plain(each, flag) for each in value]
    if isinstance(value, Mapping):
        return {str(key): plain(each, f"{flag}.{key}") for key, each in value.items()}
    if isinstance(value, Enum):
        return f"{import_path(type(value))}.{value.name}"
    if isinstance(value, Path | torch.dtype | torch.device):
        return str(value)
    if inspect.isclass(value) or inspect.isroutine(value):
        return import_path(value)
    instead = "which a checkpoint can't hold; use numbers, words, classes or functions"
    raise UsageError("value-unwritable", f"{flag} is a {type(value).__name__}, {instead}")


def as_list(tensor: torch.Tensor) -> Any:
    """Returns the shortest numbers that give the tensor again: 0.1, not 0.10000000149011612."""
    return tensor.detach().cpu().numpy().astype(str).astype(float).tolist()


def import_path(named: Any) -> str:
    """Returns `module.name` of a class or function."""
    return f"{named.__module__}.{named.__qualname__}"


def describe(made: Any) -> Description:
    """Returns the import path and, as far as they can be written down, the arguments of an object or of its factory.

    Args:
        made: A function or class; a `functools.partial` of one, which is what the command line makes of an optimizer's
            class path; or an object that keeps its constructor's arguments as attributes of the same names.
    """
    if isinstance(made, partial):
        target = next((each for each in made.args if inspect.isclass(each)), made.func)
        return {"class_path": import_path(target), "init_args": _writable(made.keywords)}
    if inspect.isclass(made) or inspect.isroutine(made):
        return {"class_path": import_path(made), "init_args": {}}
    arguments = getattr(made, "defaults", None)  # of an optimizer
    if not isinstance(arguments, dict):
        names = inspect.signature(type(made)).parameters
        arguments = {name: getattr(made, name) for name in names if hasattr(made, name)}
    return {"class_path": import_path(type(made)), "init_args": _writable(arguments)}


def _writable(arguments: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in arguments.items():
        with suppress(UsageError):
            found[name] = plain(value, name)
    return found


def _fits(value: Any, hint: Any) -> bool:
    """Returns whether a value from outside is of a field's type."""
    kind, arguments = get_origin(hint), get_args(hint)
    if kind is Literal:
        return value in arguments
    if kind is list:
        return isinstance(value, list) and all(_fits(each, arguments[0]) for each in value)
    if kind is UnionType:
        return any(_fits(value, each) for each in arguments)
    if hint is float:
        return isinstance(value, int | float)
    return isinstance(value, kind or hint)
