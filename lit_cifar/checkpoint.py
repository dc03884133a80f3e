"""What a checkpoint carries besides weights, and reading it so that it can't run code.

A checkpoint holds tensors, numbers and strings alone (`torch.load(weights_only=True)`). Under the key `lit_cifar` lie
the net's class path and arguments, the normalisation, the class names and the recipe: `test` needs nothing else. A
class path is a name to import, so from a checkpoint only names of this project, torch and torchvision are followed.
"""

import inspect
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

import torch
from torch import nn

from lit_cifar.errors import UsageError, UserError

if TYPE_CHECKING:
    from lit_cifar.classifier import LitClassifier
    from lit_cifar.data.datamodule import CIFAR10DataModule

KEY = "lit_cifar"
TRUSTED = ("lit_cifar.nets.", "torch.nn.", "torchvision.models.")


def class_and_arguments(net: nn.Module) -> dict[str, Any]:
    """Class path and constructor arguments of a net that keeps its arguments as attributes of the same names."""
    names = [name for name in inspect.signature(type(net)).parameters if hasattr(net, name)]
    arguments = {name: getattr(net, name) for name in names}
    plain = {name: value for name, value in arguments.items() if isinstance(value, bool | int | float | str | None)}
    return {"class_path": f"{type(net).__module__}.{type(net).__qualname__}", "init_args": plain}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint of this project, on the CPU.

    Raises:
        UsageError: there is no such file, or it is not a checkpoint of ours.
        UserError: the file is damaged, or holds anything but tensors, numbers and strings.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(
            f"--ckpt_path {path} does not exist; checkpoints lie in lightning_logs/*/version_*/checkpoints"
        )
    not_ours = f"--ckpt_path {path} is not a checkpoint of lit_cifar"
    if not is_zipfile(path):
        raise UsageError(f"{not_ours}, or only a part of one; name another, such as last.ckpt or best.ckpt of a run")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise UsageError(f"{not_ours}: it holds more than tensors, numbers and strings, and is not opened") from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"--ckpt_path {path} is damaged and can't be read; use another checkpoint") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(KEY), dict) or "state_dict" not in checkpoint:
        raise UsageError(f"{not_ours}; name best.ckpt or last.ckpt of a run")
    return checkpoint


def newest_checkpoint(runs: Path, name: str) -> Path | None:
    """The newest intact `name`.ckpt (last or best) of a recipe's runs, else None."""
    for path in sorted(
        runs.glob(f"version_*/checkpoints/{name}.ckpt"), key=lambda p: p.stat().st_mtime_ns, reverse=True
    ):
        try:
            read_checkpoint(path)
        except UserError:
            continue  # cut short or damaged: the one before it may do
        return path
    return None


def check_net(config: dict[str, Any], path: str | Path) -> None:
    """Refuses a net from a checkpoint unless it is one of this project's, torch's or torchvision's.

    Raises:
        UsageError: the class path is another, or this version does not have it.
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
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"--ckpt_path {path} needs the network {class_path}, which this version does not have"
        ) from error
    if not (inspect.isfunction(found) or (inspect.isclass(found) and issubclass(found, nn.Module))):
        raise UsageError(f"--ckpt_path {path} asks for {class_path}, which is no network")


def check_resumable(card: dict[str, Any], path: Path, model: "LitClassifier", data: "CIFAR10DataModule") -> None:
    """Refuses to go on from a checkpoint with anything that would make it another training.

    Raises:
        UsageError: recipe, net, data set or batches differ.
    """
    now = {
        "recipe": model.recipe,
        "network": model.net_config,
        "classes": list(data.classes),
        "data set": data.images.kind,
        "--data.batch_size": data.batch_size,
        "--data.val_size": data.val_size,
        "--seed_everything": data.seed,
        "--data.mean": list(data.mean),
        "--data.std": list(data.std),
        "images": data.checksum,
    }
    keys = ("recipe", "net", "classes", "dataset", "batch_size", "val_size", "seed", "mean", "std", "images")
    for (what, value), key in zip(now.items(), keys, strict=True):
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
