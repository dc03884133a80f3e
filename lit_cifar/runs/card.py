"""RunCard: what a run is. It is made once, before training, and read everywhere.

Checkpoints hold it; resuming compares it; reports, loggers and exports take their headers from it. It consists of
numbers, words, and import paths for classes and functions, so that whatever reads it can do so without running code.
"""

import inspect
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from enum import Enum
from functools import partial
from pathlib import PurePath
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import nn

from lit_cifar.data.augmentation import Augmentation
from lit_cifar.data.cifar import Labels
from lit_cifar.data.image_files import LARGEST_SIZE, SIDE, SMALLEST_SIZE, Resize
from lit_cifar.data.sources import Kind
from lit_cifar.errors import UsageError, listed
from lit_cifar.evaluation.test_time_augmentation import Views

Description = dict[str, Any]
"""An object as `class_path`, its import path, and `init_args`, its constructor's arguments."""

LABELS = {
    "recipe": "recipe",
    "net": "network --model.net",
    "classes": "classes",
    "dataset": "data set",
    "images": "images or labels",
    "training_set": "--data",
    "seed": "--seed_everything",
    "augmentation": "--data",
    "trainer": "--trainer",
    "mean": "mean --data.normalize",
    "std": "standard deviation --data.normalize",
} | {name: f"--data.{name}" for name in ("labels", "val_size", "batch_size", "image_size", "resize")}
"""What to call the fields that are not parameters `--model.<name>`."""
FREE = ("test_time_augmentation", "confidence_threshold", "init_from", "train_size", "changed_labels")
"""Fields in which a training and its resumption may differ: they concern only the test, what was before, or sums."""
UNCHANGED = {"fraction": 1.0, "imbalance": 1.0, "label_noise": 0.0, "train_labels": None}
"""A training set to which nothing was done."""
TRAINER = (
    *("precision", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm"),
    *("limit_train_batches", "overfit_batches"),
)
"""Settings of the Trainer that make a training what it is; devices, epochs, loggers, progress and paths don't."""


@dataclass(frozen=True)
class RunCard:
    """What a run is."""

    recipe: str
    """Name of the recipe; `python` if there was none."""
    net: Description
    classes: list[str]
    """Class names in the order of the labels."""
    dataset: Kind | Literal["own"]
    """The data set's kind; `own` if a user brought another data module or loaders, and nothing is known of it."""
    images: int
    """CRC-32 of all images and labels; 0 of own data, like the two sizes below."""
    mean: list[float]
    std: list[float]
    """Both are empty if it isn't known how own data were normalised."""
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
    trainer: dict[str, Any] = field(default_factory=dict)
    """The settings in TRAINER; of a checkpoint that has none, they are unknown."""
    labels: Labels = "fine"
    """Those of CIFAR-100."""
    init_from: str | None = None
    """The checkpoint whose weights the training started from, if any."""
    training_set: dict[str, Any] = field(default_factory=lambda: {**UNCHANGED})
    """What was done to the training set; see TrainingChanges."""
    train_size: int = 0
    """Number of images that are trained on; 0 if it isn't known, as in old checkpoints."""
    changed_labels: int = 0
    """How many of them have another label than their true one."""
    decay_norms_and_biases: bool = True
    image_size: int = SIDE
    """Side of the images in pixels."""
    resize: Resize = "squeeze"
    """How pictures became images of this size."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the card as a checkpoint holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunCard":
        """Returns the card that a checkpoint holds, or raises ValueError with the name of a missing or wrong value."""
        hints = get_type_hints(cls)
        needed = {each.name for each in fields(cls) if each.default is each.default_factory is MISSING}
        hints = {name: hint for name, hint in hints.items() if name in values or name in needed}
        for name, hint in hints.items():
            if name not in values or not _fits(values[name], hint):
                raise ValueError(name)
        for name in ("mean", "std"):
            if len(values[name]) not in (0, 3):
                raise ValueError(name)
        if not 0 < values["confidence_threshold"] <= 1:
            raise ValueError("confidence_threshold")
        if not SMALLEST_SIZE <= values.get("image_size", SIDE) <= LARGEST_SIZE:
            raise ValueError("image_size")
        card = cls(**{name: values[name] for name in hints})
        if card.augmentation:  # what a checkpoint's version did not have yet was off
            card = replace(card, augmentation=vars(Augmentation()) | card.augmentation)
        return card

    def differences(self, other: "RunCard") -> list[str]:
        """Returns what makes `other` another training, such as `--data.batch_size (4, now 8)`."""
        found = []
        for name in LABELS | self.as_dict():
            if name in FREE or (name == "trainer" and not self.trainer):
                continue
            label = LABELS.get(name, f"--model.{name}")
            old, new = dict(_settings(label, getattr(self, name))), dict(_settings(label, getattr(other, name)))
            if name in ("images", "classes"):
                values = f" ({listed(self.classes)}, now {listed(other.classes)})" if name == "classes" else ""
                found += [f"{label}{values}"] if old != new else []
                continue
            if old.get(label) != new.get(label):  # arguments of another class say nothing
                old, new = {label: old.get(label)}, {label: new.get(label)}
            found += [
                f"{key} ({old.get(key)}, now {new.get(key)})" for key in old | new if old.get(key) != new.get(key)
            ]
        return found


def _settings(label: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields each setting in a field, by its flag; that of a class is its class path."""
    if not isinstance(value, dict):
        yield label, value
        return
    if "class_path" in value:
        yield label, value["class_path"]
        for key in value.keys() - {"class_path", "init_args"}:
            yield f"{label}_{key}", value[key]
        value = value.get("init_args") or {}
    for key, inner in value.items():
        yield from _settings(f"{label}.{key}", inner)


def plain(value: Any, flag: str) -> Any:
    """Returns a value as numbers, words, lists and dictionaries of them; classes and functions as import paths.

    If it can't be written down, it raises UsageError with the `flag` that it comes from.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, torch.Tensor):  # such as class weights
        return as_list(value)
    if isinstance(value, Namespace):  # of jsonargparse
        value = vars(value)
    if isinstance(value, Mapping):
        if not all(type(key) in (bool, int, float, str) for key in value):
            raise UsageError("value-unwritable", f"{flag} has a key that is neither a word nor a number; use those")
        return {key: plain(each, f"{flag}.{key}") for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, flag) for each in value]
    if isinstance(value, set | frozenset):
        return [plain(each, flag) for each in sorted(value, key=repr)]
    if isinstance(value, np.generic):
        return plain(value.item(), flag)
    if isinstance(value, PurePath | torch.dtype | torch.device):
        return str(value)
    if isinstance(value, Enum) or inspect.isclass(value) or inspect.isroutine(value):
        if path := _found_again(value):
            return path
        named = getattr(value, "__qualname__", value)
        why = "can't be imported, so a checkpoint can't hold it; define it at the top of a module"
        raise UsageError("value-unwritable", f"{flag} is {named}, which {why}")
    instead = "which a checkpoint can't hold; use numbers, words, classes or functions"
    raise UsageError("value-unwritable", f"{flag} is a {type(value).__name__}, {instead}")


def as_list(tensor: torch.Tensor) -> Any:
    """Returns the shortest numbers that give the tensor again: 0.1, not 0.10000000149011612."""
    values = tensor.detach().cpu()
    if not values.is_floating_point():
        return values.tolist()
    values = values if values.dtype == torch.float64 else values.float()  # NumPy has no bfloat16
    return values.numpy().astype(str).astype(float).tolist()


def _found_again(value: Any) -> str | None:
    """Returns an import path that leads to a class, a function or a member of an enum, if there is one."""
    if isinstance(value, Enum):
        kind = type(value)
        return f"{import_path(kind)}.{value.name}" if _found_again(kind) else None
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    found: Any = sys.modules.get(str(module))
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is value and not str(module).startswith("torch._"):
        return f"{module}.{name}"
    for place, path in ((nn.functional, "torch.nn.functional"), (torch, "torch"), (torch.Tensor, "torch.Tensor")):
        short = getattr(value, "__name__", "")
        if getattr(place, short, None) is value:  # written in C, where functions know no module
            return f"{path}.{short}"
    return None


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
        arguments = {}
        for name, parameter in inspect.signature(type(made)).parameters.items():
            if hasattr(made, name):
                further = parameter.kind is parameter.VAR_KEYWORD
                arguments |= getattr(made, name) if further else {name: getattr(made, name)}
    return {"class_path": import_path(type(made)), "init_args": _writable(arguments)}


def _writable(arguments: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in arguments.items():
        is_constant = isinstance(value, np.ndarray | torch.Tensor) and not isinstance(value, nn.Parameter)
        with suppress(UsageError):
            found[name] = plain(value.tolist() if is_constant else value, name)
    return found


def _fits(value: Any, hint: Any) -> bool:
    """Returns whether a value from outside is of a field's type."""
    kind, arguments = get_origin(hint), get_args(hint)
    if kind is Literal:
        return value in arguments
    if kind is list:
        return isinstance(value, list) and all(_fits(each, arguments[0]) for each in value)
    if kind in (Union, UnionType):
        return any(_fits(value, each) for each in arguments)
    if hint is float:
        return isinstance(value, int | float)
    return isinstance(value, kind or hint)
