"""What a checkpoint carries besides weights, and reading it so that it can't run code.

A checkpoint holds tensors, numbers and strings alone (`torch.load(weights_only=True)`). Under the key `lit_cifar` lie
the net's class path and arguments, the normalisation, the class names and the recipe: `test` needs nothing else. A
class path is a name to import and call, so of those in a checkpoint only networks of this project, torch and
torchvision are followed, with numbers and words for arguments.

torch wrote a CRC-32 of all that is in the file, and does not look at it when it reads: we do (1 ms a megabyte).
"""

import inspect
import re
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, get_args
from zipfile import ZipFile, is_zipfile

import torch
from torch import nn

from lit_cifar.errors import UsageError, UserError
from lit_cifar.evaluation.test_time_augmentation import Views

if TYPE_CHECKING:
    from lit_cifar.data.datamodule import CIFAR10DataModule
    from lit_cifar.training.classifier import LitClassifier

KEY = "lit_cifar"
RUNS = "lightning_logs"
TRUSTED = ("lit_cifar.nets.", "torch.nn.", "torchvision.models.")
CARD = {"recipe": str, "net": dict, "classes": list, "dataset": str, "images": int, "mean": list, "std": list} | {
    "val_size": int,
    "batch_size": int,
    "seed": int,
    "record": dict,
}
"""What lies under KEY, and of which type."""
EVALUATION = ("test_time_augmentation", "confidence_threshold")
"""What else lies there, but not in checkpoints of before: settings of LitClassifier, for its tests."""


def class_and_arguments(net: nn.Module) -> dict[str, Any]:
    """Class path and constructor arguments of a net that keeps its arguments as attributes of the same names."""
    names = [name for name in inspect.signature(type(net)).parameters if hasattr(net, name)]
    arguments = {name: getattr(net, name) for name in names}
    plain = {name: value for name, value in arguments.items() if _is_plain(value)}
    return {"class_path": f"{type(net).__module__}.{type(net).__qualname__}", "init_args": plain}


def _is_plain(value: Any, is_text: Callable[[Any], bool] = lambda value: isinstance(value, str)) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(each, is_text) for each in value)
    return isinstance(value, bool | int | float | None) or is_text(value)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint of this project, on the CPU.

    Raises:
        UsageError: there is no such file, or it is not a checkpoint of ours.
        UserError: the file is damaged, or holds anything but tensors, numbers and strings.
    """
    path = Path(path)
    if not _is_file(path):
        raise UsageError(
            f"--ckpt_path {path} does not exist or is not a file; checkpoints lie in"
            " lightning_logs/*/version_*/checkpoints"
        )
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"--ckpt_path {path} can't be read ({error.strerror}); mend that, or name another") from error
    not_ours = f"--ckpt_path {path} is not a checkpoint of lit_cifar"
    if not is_zipfile(path):
        raise UsageError(f"{not_ours}, or only a part of one; name another, such as last.ckpt or best.ckpt of a run")
    damaged = f"--ckpt_path {path} is damaged and can't be read; use another checkpoint"
    if not _is_whole(path):
        raise UserError(damaged)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise UsageError(f"{not_ours}: it holds more than tensors, numbers and strings, and is not opened") from error
    except Exception as error:  # what was made to mislead may raise anything
        raise UserError(damaged) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(KEY), dict) or "state_dict" not in checkpoint:
        raise UsageError(f"{not_ours}; name best.ckpt or last.ckpt of a run")
    if wrong := _wrong(checkpoint):
        raise UserError(f"--ckpt_path {path} is damaged: its {wrong} can't be what was written; use another checkpoint")
    return checkpoint


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


def _is_whole(path: Path) -> bool:
    """Whether every CRC-32 is right, nothing in the file is larger unpacked, and one pickle lies in it."""
    try:
        with ZipFile(path) as file:
            size = sum(entry.file_size for entry in file.infolist())
            pickles = [name for name in file.namelist() if name.endswith(".pkl")]
            return size <= path.stat().st_size and len(pickles) == 1 and file.testzip() is None
    except Exception:  # zipfile has a dozen errors for what is damaged
        return False


def _wrong(checkpoint: dict[str, Any]) -> str | None:
    """The first key whose value is not of the type that `describe` writes."""
    card = checkpoint[KEY]
    for key, kind in CARD.items():
        if not isinstance(card.get(key), kind):
            return key
    numbers = {key: card[key] for key in ("mean", "std")}
    for key, values in numbers.items():
        if len(values) != 3 or not all(isinstance(value, float | int) for value in values):
            return key
    if not all(isinstance(name, str) for name in card["classes"]):
        return "classes"
    if card.get("test_time_augmentation", "none") not in get_args(Views):
        return "test_time_augmentation"
    threshold = card.get("confidence_threshold", 1.0)
    if not isinstance(threshold, float | int) or not 0 < threshold <= 1:
        return "confidence_threshold"
    weights = checkpoint["state_dict"]
    return None if isinstance(weights, dict) and all(isinstance(name, str) for name in weights) else "state_dict"


def check_net(config: dict[str, Any], path: str | Path) -> None:
    """Refuses a net from a checkpoint unless it is one of this project's, torch's or torchvision's.

    Raises:
        UsageError: the class path or an argument is another, or this version does not have it.
    """
    class_path = str(config.get("class_path"))
    if not class_path.startswith(TRUSTED):
        raise UsageError(
            f"--ckpt_path {path} asks for the network {class_path}, which is not lit_cifar's, torch's or torchvision's;"
            f" if you trust it, name it yourself with --model.net {class_path}"
        )
    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, OSError, ValueError) as error:
        raise UsageError(
            f"--ckpt_path {path} needs the network {class_path}, which this version does not have"
        ) from error
    if not _is_network(found):
        raise UsageError(f"--ckpt_path {path} asks for {class_path}, which is no network")
    if not _has_plain_arguments(config):
        raise UsageError(
            f"--ckpt_path {path} gives the network {class_path} arguments other than numbers and words, which are not"
            f" followed; if you trust it, name it yourself with --model.net {class_path}"
        )


def _is_network(found: Any) -> bool:
    """A module class that one of TRUSTED defines, or a function of torchvision's that makes a classifier.

    Other functions live there too: one of torchvision.models._api downloads and unpickles.
    """
    if inspect.isclass(found):
        return issubclass(found, nn.Module) and found.__module__.startswith(TRUSTED)
    from torchvision import models  # 1 s, and imported already where `found` is one of its functions

    return found in [models.get_model_builder(name) for name in models.list_models(module=models)]


def _has_plain_arguments(config: dict[str, Any]) -> bool:
    """Whether there are only numbers and words. No words with dots: jsonargparse imports what looks like a path.

    Nor pretrained weights, which torchvision would download, for a checkpoint brings its own.
    """
    arguments = config.get("init_args") or {}
    return (
        config.keys() <= {"class_path", "init_args"}
        and isinstance(arguments, dict)
        and all(_is_word(name) and _is_plain(value, _is_word) for name, value in arguments.items())
        and not any(value for name, value in arguments.items() if name.startswith("weights"))
    )


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[\w-]*", value) is not None


def default_net(config: dict[str, Any], path: Path, named: str | None, fit: bool) -> dict[str, Any] | None:
    """What a checkpoint says of the net, as far as it can be followed, for the command line to start from.

    Args:
        config: the net's class path and arguments in the checkpoint.
        path: of the checkpoint.
        named: the class path that the user gives, and so trusts.
        fit: whether the recipe tells the net, and the checkpoint may but need not agree.

    Raises:
        UsageError: nobody else tells the net, and this one is not to be trusted.
    """
    if named and named == config.get("class_path") and _has_plain_arguments(config):
        with suppress(Exception):  # where it can't be imported, the parser says so
            import_module(named.rpartition(".")[0])
            return config
    try:
        check_net(config, path)
    except UsageError:
        if fit or named:
            return None
        raise
    return config


def build_net(config: dict[str, Any]) -> nn.Module:
    """The net that a checkpoint's class path and arguments describe; `check_net` comes first."""
    module, _, name = config["class_path"].rpartition(".")
    net: nn.Module = getattr(import_module(module), name)(**config.get("init_args") or {})
    return net


def evaluation_settings(card: dict[str, Any]) -> dict[str, Any]:
    """Arguments of LitClassifier with which a checkpoint's net was tested."""
    return {key: card[key] for key in EVALUATION if key in card}


def describe(model: "LitClassifier", data: "CIFAR10DataModule") -> dict[str, Any]:
    """What a checkpoint says of the net, the data and the training, beside weights and states."""
    return {
        "recipe": model.recipe,
        "net": model.net_config,
        "classes": list(data.classes),
        "dataset": data.images.kind,
        "images": data.checksum,
        "mean": list(data.mean),
        "std": list(data.std),
        "val_size": data.val_size,
        "batch_size": data.batch_size,
        "seed": data.seed,
    } | {key: getattr(model, key) for key in EVALUATION}


def check_classes(card: dict[str, Any], data: "CIFAR10DataModule") -> None:
    """Refuses images of other classes than the network knows, or in another order.

    Raises:
        UsageError: so they are.
    """
    known = tuple(card["classes"])
    if known != data.classes:
        raise UsageError(
            f"The network knows the classes {', '.join(known)}, and the images of {data.title} are of"
            f" {', '.join(data.classes)}; name other images with --data.root, or another --ckpt_path"
        )


def check_resumable(card: dict[str, Any], path: Path, model: "LitClassifier", data: "CIFAR10DataModule") -> None:
    """Refuses to go on from a checkpoint with anything that would make it another training.

    Raises:
        UsageError: recipe, net, data set or batches differ.
    """
    names = {
        "recipe": "recipe",
        "net": "network",
        "classes": "classes",
        "dataset": "data set",
        "batch_size": "--data.batch_size",
        "val_size": "--data.val_size",
        "seed": "--seed_everything",
        "mean": "--data.mean",
        "std": "--data.std",
        "images": "images",
    }
    now = describe(model, data)
    for key, what in names.items():
        value = now[key]
        if key == "images" and card[key] != value:
            raise UsageError(
                f"The images in {data.root} have changed since {path} was written;"
                " restore them, or start anew without --ckpt_path"
            )
        if card[key] != value:
            raise UsageError(
                f"--ckpt_path {path} is of another training: its {what} is {card[key]}, not {value};"
                " set it to the same, or start anew without --ckpt_path"
            )
