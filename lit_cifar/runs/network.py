"""The network that a checkpoint names, made only if it can be trusted.

A class path is a name to import and call. Of those in a checkpoint, only networks of this project, torch,
torchvision and timm are followed, with numbers and words for arguments. The user has to name any other with
`--model.net`.
"""

import inspect
import re
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from lit_cifar.errors import UsageError, reason
from lit_cifar.runs.card import Description
from lit_cifar.runs.checkpoint import Checkpoint

TRUSTED = ("lit_cifar.nets.", "torch.nn.", "torchvision.models.")
WEIGHTS = ("weights", "pretrained", "checkpoint_path", "features_only")
TIMM = "timm.create_model"


def check_net(config: Description, path: str | Path) -> None:
    """Raises UsageError unless a checkpoint's network is ours, torch's or torchvision's, with plain arguments."""
    class_path = str(config.get("class_path"))
    asks = f"--ckpt_path {path} asks for the network {class_path}"
    trust = f"if you trust it, name it yourself with --model.net {class_path}"
    if class_path != TIMM and not class_path.startswith(TRUSTED):
        why = "which isn't part of lit_cifar, torch, torchvision or timm"
        raise UsageError("network-untrusted", f"{asks}, {why}; {trust}")
    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, OSError, ValueError) as error:
        raise UsageError("network-unknown", f"{asks}, which this version does not have") from error
    if class_path != TIMM and not _is_network(found):
        raise UsageError("network-untrusted", f"{asks}, which is not a network")
    if not _has_plain_arguments(config):
        raise UsageError("network-untrusted", f"{asks} with arguments other than numbers and words; {trust}")


def _is_network(found: Any) -> bool:
    """Returns whether it's a module class of TRUSTED, or a function of torchvision's that makes a classifier.

    There are other functions, too: one in torchvision.models._api downloads and unpickles.
    """
    if inspect.isclass(found):
        return issubclass(found, nn.Module) and found.__module__.startswith(TRUSTED)
    from torchvision import models  # takes 1 s; already imported if `found` is one of its functions

    return found in [models.get_model_builder(name) for name in models.list_models(module=models)]


def _has_plain_arguments(config: Description) -> bool:
    """Returns whether all arguments are numbers and words without dots, since jsonargparse imports dotted paths.

    Pretrained weights don't count as plain: torchvision or timm would download or unpickle them, and a checkpoint
    brings its own.
    """
    arguments = config.get("init_args") or {}
    return (
        config.keys() <= {"class_path", "init_args"}
        and isinstance(arguments, dict)
        and all(_is_word(name) and _is_plain(value) for name, value in arguments.items())
        and not any(value for name, value in arguments.items() if name.startswith(WEIGHTS))
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | None) or _is_word(value)


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[\w-]*", value) is not None


def default_net(checkpoint: Checkpoint, named: str | None, fit: bool) -> Description | None:
    """Returns the network that the command line starts from, as far as the checkpoint can be trusted.

    `named` is the class path that the user gives, and therefore trusts. To `fit`, the recipe names a network. If
    nothing else names one, and the checkpoint's isn't trusted, it raises UsageError.
    """
    config = checkpoint.card.net
    if named and named == config.get("class_path") and _has_plain_arguments(config):
        with suppress(Exception):  # if it can't be imported, the parser says so
            import_module(named.rpartition(".")[0])
            return config
    try:
        check_net(config, checkpoint.path)
    except UsageError:
        if fit or named:
            return None
        raise
    return config


def build_net(config: Description) -> nn.Module:
    """Returns the network that a class path and arguments describe. Call `check_net` first."""
    module, _, name = config["class_path"].rpartition(".")
    return getattr(import_module(module), name)(**config.get("init_args") or {})


def own_net(class_path: str, checkpoint: Checkpoint) -> nn.Module:
    """Returns the network that the user names with `--model.net`, made with the checkpoint's arguments.

    Raises UsageError if it can't be imported or made, or is not a network.
    """
    named = f"--model.net {class_path}"
    try:
        net = build_net(checkpoint.card.net | {"class_path": class_path})
    except ImportError as error:
        sentence = f"{named} can't be imported ({reason(error)}); start in the folder of its module, or install it"
        raise UsageError("network-unknown", sentence) from error
    except Exception as error:  # its code may be any Python, and so may what it raises
        sentence = f"{named} can't be made ({reason(error)}); give its module and class"
        raise UsageError("network-unknown", sentence) from error
    if not isinstance(net, nn.Module):
        sentence = f"{named} makes a {type(net).__name__}, not a torch.nn.Module; give the network's class"
        raise UsageError("network-unknown", sentence)
    return net
