"""The network that a checkpoint names, made only if it can be trusted.

A class path is a name to import and call. Of those in a checkpoint, only networks of this project, torch, torchvision
and timm are followed. The user has to name any other with `--model.net`. The same holds for what import paths among the
arguments name: layers, functions and types of torch and torchvision, and what belongs to the package that the user
named. All other arguments are numbers and words, which the constructor's type hints may turn into paths and devices.
"""

import collections.abc
import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from importlib import import_module
from pathlib import Path, PurePath
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from jsonargparse import ArgumentParser
from torch import nn

from lit_cifar.errors import UsageError, reason
from lit_cifar.runs.card import Description
from lit_cifar.runs.checkpoint import Checkpoint

TRUSTED = ("lit_cifar.nets.", "torch.nn.", "torchvision.models.")
LAYERS = (*TRUSTED, "torchvision.ops.")
WORDS = (str, int, float, bool, type(None), ...)
"""Types whose values jsonargparse makes of words without importing anything; paths are others."""
NOT_A_WORD = re.compile(r"[{\[\n]|:(\s|$)")  # jsonargparse would read YAML
WEIGHTS = ("weights", "pretrained", "checkpoint_path", "features_only")
TIMM, OUR_TIMM = "timm.create_model", "lit_cifar.nets.timm.Timm"


class UntrustedError(ValueError):
    """An argument in a checkpoint, `name`, is not one that may be followed."""

    def __init__(self, name: str, value: Any) -> None:
        super().__init__(f"{name} {value!s:.80}")
        self.name = name


def check_net(config: Description, path: str | Path) -> None:
    """Raises UsageError unless a checkpoint's network is ours, torch's or torchvision's, with arguments to trust."""
    class_path = str(config.get("class_path"))
    asks = f"--ckpt_path {path} asks for the network {class_path}"
    trust = f"if you trust it, name it yourself with --model.net {class_path}"
    if class_path != TIMM and not class_path.startswith(TRUSTED):
        why = "which isn't part of lit_cifar, torch, torchvision or timm"
        raise UsageError("network-untrusted", f"{asks}, {why}; {trust}")
    try:
        found = _named(class_path)
    except (ImportError, AttributeError, OSError, ValueError) as error:
        raise UsageError("network-unknown", f"{asks}, which this version does not have") from error
    if class_path != TIMM and not _is_network(found):
        raise UsageError("network-untrusted", f"{asks}, which is not a network")
    try:
        restored(config)
    except UntrustedError as error:
        sentence = f"{asks} with an argument that isn't followed, {error}; {trust}"
        raise UsageError("network-untrusted", sentence) from error


def _named(path: str) -> Any:
    """Imports what a path names: a class, a function, a type, or a member of an enum."""
    parts = path.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ValueError(f"{path} is not an import path")
    for end in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:end])
        try:
            found = import_module(name)
        except ModuleNotFoundError as error:
            if end == 1 or not f"{name}.".startswith(f"{error.name}."):
                raise
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise ValueError(path)


def _is_network(found: Any) -> bool:
    """Returns whether it's a module class of TRUSTED, or a function of torchvision's that makes a classifier.

    There are other functions, too: one in torchvision.models._api downloads and unpickles.
    """
    if inspect.isclass(found):
        return issubclass(found, nn.Module) and found.__module__.startswith(TRUSTED)
    from torchvision import models  # takes 1 s; already imported if `found` is one of its functions

    return found in [models.get_model_builder(name) for name in models.list_models(module=models)]


def restored(config: Description, given: Collection[str] = (), package: str | None = None) -> Description:
    """Returns a network's description with what import paths name in place of these; its class is trusted already.

    Leaves out the arguments `given` otherwise. Raises UntrustedError for one that may not be followed. Trusted is also
    the `package`, by default that of a class which isn't TRUSTED: the user named it.
    """
    class_path, arguments = str(config.get("class_path")), config.get("init_args") or {}
    if not config.keys() <= {"class_path", "init_args"} or not isinstance(arguments, dict):
        raise UntrustedError("a class with more than arguments,", class_path)
    if package is None:
        package = "" if class_path.startswith(TRUSTED) else f"{class_path.partition('.')[0]}."
    hints, found = _hints(_named(class_path)), {}
    unknown = [str] if class_path == OUR_TIMM else [type]  # the kind of arguments that the signature doesn't show
    for name, value in arguments.items():
        # torchvision or timm would download or unpickle pretrained weights, and a checkpoint brings its own
        downloads = class_path.startswith(("torchvision.", TIMM, OUR_TIMM)) and name.startswith(WEIGHTS) and bool(value)
        is_timms_name = (class_path, name) in ((TIMM, "model_name"), (OUR_TIMM, "name"))
        downloads |= is_timms_name and not re.fullmatch(r"[\w.-]+", str(value))  # of a hub, or a path
        if downloads or not re.fullmatch(r"\w+", name):
            raise UntrustedError(name, value)
        if name not in given:
            found[name] = _restored(name, value, hints.get(name, unknown), package)
    return {"class_path": class_path, "init_args": found}


def _restored(name: str, value: Any, kinds: Sequence[Any], package: str) -> Any:
    """Returns an argument's value, whose type is one of `kinds`, with what import paths in it name."""
    if isinstance(value, list | tuple):
        return [_restored(name, each, kinds, package) for each in value]
    if isinstance(value, dict) and "class_path" in value:
        if follow(str(value["class_path"]), package) is None:
            raise UntrustedError(name, value["class_path"])
        return restored(value, package=package)
    if isinstance(value, dict):
        return {key: _restored(name, each, kinds, package) for key, each in value.items()}
    if isinstance(value, bool | int | float | None):
        return value
    if not isinstance(value, str) or NOT_A_WORD.search(value):
        raise UntrustedError(name, value)
    if torch.device in kinds and str not in kinds:
        return torch.device(value)
    if "." not in value or not all(part.isidentifier() for part in value.split(".")):
        return value
    if all(kind in WORDS or (inspect.isclass(kind) and issubclass(kind, PurePath)) for kind in kinds):
        return value
    if (found := follow(value, package)) is not None:
        return found
    if all(kind in (*WORDS, Any) for kind in kinds):  # which jsonargparse leaves as they are
        return value
    raise UntrustedError(name, value)


def follow(path: str, package: str = "") -> Any:
    """Imports the class, function, type or member of an enum that a path names, or returns None if it isn't trusted."""
    trusted = (*LAYERS, package) if package else LAYERS
    if not path.startswith(trusted) and not re.fullmatch(r"torch\.(Tensor\.)?\w+", path):
        return None
    try:
        found = _named(path)
    except (ImportError, AttributeError, ValueError):
        return None
    home = str(getattr(type(found) if isinstance(found, Enum) else found, "__module__", None))
    is_theirs = bool(package) and f"{home}.".startswith(package)
    if inspect.isclass(found):
        is_trusted = is_theirs or (issubclass(found, nn.Module) and home.startswith(LAYERS))
    elif inspect.isfunction(found):
        is_trusted = (
            is_theirs or home.startswith("torch.nn.") or (home.startswith("torchvision.") and _is_network(found))
        )
    elif inspect.isroutine(found):  # written in C
        name = found.__name__
        is_trusted = hasattr(torch.Tensor, name) or getattr(nn.functional, name, None) is found
    else:
        is_trusted = isinstance(found, torch.dtype) or (isinstance(found, Enum) and is_theirs)
    return found if is_trusted else None


def _hints(made: Any) -> dict[str, list[Any]]:
    """Returns for each named parameter of a class or function the types that its hint consists of."""
    try:
        hints = get_type_hints(made.__init__ if inspect.isclass(made) else made)
    except (NameError, TypeError, AttributeError):  # a name that is imported for type checkers only
        hints = {}
    found = {}
    for name, parameter in inspect.signature(made).parameters.items():
        if name in hints:
            found[name] = _kinds(hints[name])
        elif parameter.annotation is not parameter.empty:
            found[name] = [type]
        elif parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            found[name] = [type if inspect.isclass(parameter.default) else Any]
    return found


def _kinds(hint: Any) -> list[Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return [str]
    if origin in (type, collections.abc.Callable) or not arguments:
        return [origin or hint]
    return [kind for each in arguments for kind in _kinds(each)]


def named_objects(made: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns arguments with layers and functions for the import paths among those that have no type hint.

    Import paths with a type hint are jsonargparse's.
    """
    try:
        parameters = inspect.signature(made).parameters
    except (TypeError, ValueError):
        return dict(arguments)
    package = f"{made.__module__.partition('.')[0]}."
    found = dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, str) and name in parameters and parameters[name].annotation is inspect.Parameter.empty:
            named = follow(value, package)
            found[name] = value if named is None else named
    return found


def default_net(
    checkpoint: Checkpoint, named: str | None, fit: bool, given: Collection[str] = ()
) -> Description | None:
    """Returns the network that the command line starts from, as far as the checkpoint can be trusted.

    `named` is the class path that the user gives, and therefore trusts, and `given` are the names of arguments that the
    user gives. To `fit`, the recipe names a network. If nothing else names one, and the checkpoint's isn't trusted, it
    raises UsageError.
    """
    config = checkpoint.card.net
    if named and named == config.get("class_path"):
        try:
            return restored(config, given)
        except UntrustedError as error:
            asks = f"--ckpt_path {checkpoint.path} asks for the network {named} with an argument that isn't followed"
            todo = f"if you trust it, give it yourself with --model.net.init_args.{error.name}"
            if not fit:
                raise UsageError("network-untrusted", f"{asks}, {error}; {todo}") from error
        except Exception:  # if it can't be imported, the parser says so
            return None
    try:
        check_net(config, checkpoint.path)
        return restored(config)
    except UsageError:
        if fit or named:
            return None
        raise


def default_loss(checkpoint: Checkpoint) -> Description | None:
    """Returns the loss that a checkpoint was trained with, if it is a class of torch's with plain arguments."""
    config = checkpoint.card.loss
    module, _, name = str(config.get("class_path")).rpartition(".")
    found = getattr(nn.modules.loss, name, None) if module == nn.modules.loss.__name__ else None
    is_loss = inspect.isclass(found) and issubclass(found, nn.modules.loss._Loss)
    with suppress(UntrustedError):
        return restored(config) if is_loss else None
    return None


def build_net(config: Description) -> nn.Module:
    """Returns the network that a class path and arguments describe. Call `check_net` first, unless the user named it.

    jsonargparse makes tuples, paths and objects of the arguments, as it did for the training.
    """
    config = restored(config)
    made, arguments = _named(config["class_path"]), config["init_args"]
    inspect.signature(made).bind(**arguments)  # or jsonargparse takes None for what is missing
    if all(isinstance(value, bool | int | float) for value in arguments.values()):
        return made(**arguments)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "net", fail_untyped=False, required=True)
    try:
        parsed = parser.parse_object({"net": config})
    except Exception:  # it was made in Python, with arguments that its type hints don't allow
        return made(**arguments)
    return parser.instantiate(parsed).net


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
    except UntrustedError as error:
        sentence = f"--ckpt_path {checkpoint.path} asks for {class_path} with an argument that isn't followed, {error}"
        todo = "if you trust it, use LitClassifier.load_from_checkpoint(path, net) in Python"
        raise UsageError("network-untrusted", f"{sentence}; {todo}") from error
    except Exception as error:  # its code may be any Python, and so may what it raises
        sentence = f"{named} can't be made ({reason(error)}); give its module and class"
        raise UsageError("network-unknown", sentence) from error
    if not isinstance(net, nn.Module):
        sentence = f"{named} makes a {type(net).__name__}, not a torch.nn.Module; give the network's class"
        raise UsageError("network-unknown", sentence)
    return net
