"""Names of networks, arguments that a network's signature doesn't show, and those that the data know.

A network of ours may be named without its module: `--model.net ResNet20`. Everything behind the command line, such as
`config.yaml` and checkpoints, sees the whole class path.

`Timm` and `timm.create_model` pass what they don't know on to the network that they make. jsonargparse takes such
arguments as `dict_kwargs`; here they are written like all others: `--model.net.drop_path_rate 0.1`.
"""

import difflib
import inspect
import re
from importlib import import_module
from typing import Any

from jsonargparse import Namespace
from torch import nn

from lit_cifar.cli.recipes import Given
from lit_cifar.errors import UsageError
from lit_cifar.nets import NETS, class_path

TIMM = ("lit_cifar.nets.timm.Timm", "timm.create_model")
"""Builders of networks by name, which pass further arguments on and can load pretrained weights."""
OPEN = ("timm.create_model", "torchvision.models.")
"""Builders of networks whose signature doesn't show `num_classes`."""
NAMING = ("--model.net", "--model.net.class_path", "--model.net.help")
OWN = ("class_path", "init_args", "dict_kwargs", "help")


def full_class_path(name: str, source: str = "--model.net") -> str:
    """Returns the class path of a network that may be named without its module. UsageError for a name that isn't ours.

    A class of torch.nn may be named in the same way; jsonargparse finds it.
    """
    module, _, short = name.rpartition(".")
    if short in NETS and name in (short, class_path(short)):
        return class_path(short)
    if module.startswith("lit_cifar.nets") or (re.fullmatch(r"\w[\w-]*", name) and not hasattr(nn, name)):
        raise UsageError("network-unknown", f"{source} {name}: there is no network of this name; {nearest_net(short)}")
    return name


def nearest_net(name: str) -> str:
    """Returns what to use in place of a name that no network has."""
    by_lower = {each.lower(): each for each in NETS}
    close = difflib.get_close_matches(name.lower(), by_lower, 1)
    if close:
        return f"did you mean {by_lower[close[0]]}?"
    return f"use {', '.join(NETS)}, or the import path of another"


def complete_class_paths(given: Given) -> None:
    """Replaces names without a module, in flags and recipes, by class paths."""
    for i, word in enumerate(given.words):
        flag, equals, name = word.partition("=")
        if flag in NAMING and equals:
            given.words[i] = f"{flag}={full_class_path(name, flag)}"
        elif word in NAMING and i + 1 < len(given.words):
            given.words[i + 1] = full_class_path(given.words[i + 1], word)
    for file, recipe in given.recipes.items():
        model = recipe.get("model", {})
        for section in (model, model.get("init_args")):  # the latter if the recipe names LitClassifier itself
            net, source = section.get("net") if isinstance(section, dict) else None, f"--config {file}: model.net"
            if isinstance(net, str):
                section["net"] = full_class_path(net, source)
            elif isinstance(net, dict) and isinstance(net.get("class_path"), str):
                net["class_path"] = full_class_path(net["class_path"], source)


def take_open_arguments(given: Given, default: dict[str, Any] | None) -> dict[str, Any] | None:
    """Moves arguments that timm passes on to `dict_kwargs`: of flags, recipes, and the default, which it returns."""
    nets = [recipe["model"].get("net") for recipe in given.recipes.values() if "model" in recipe]
    named = [*given.flags("--model.net"), *given.flags("--model.net.class_path")]
    named += [net if isinstance(net, str) else net.get("class_path") for net in reversed(nets) if net]
    named += [default["class_path"]] if default else []
    if not named or named[0] not in TIMM:
        return default
    try:
        module, _, builder = named[0].rpartition(".")
        known = inspect.signature(getattr(import_module(module), builder)).parameters
    except ImportError:  # the parser says so
        return default
    for i, word in enumerate(given.words):
        if word.startswith("--model.net."):
            rest = word.removeprefix("--model.net.").removeprefix("init_args.")
            if rest.partition("=")[0].partition(".")[0] not in (*known, *OWN):
                given.words[i] = f"--model.net.dict_kwargs.{rest}"
    for net in [*nets, default]:
        if isinstance(net, dict) and net.get("class_path") == named[0]:
            arguments = net.get("init_args") or {}
            further = {name: arguments.pop(name) for name in [*arguments] if name not in known}
            net["dict_kwargs"] = (net.get("dict_kwargs") or {}) | further
    return default


def set_from_data(net: Namespace, given: Given, classes: int, image_size: int) -> None:
    """Sets `num_classes` and `image_size` of a network that has them, unless the user has set them."""
    words = [word for word in given.words if not word.startswith("--data.")]
    settings = str([words, *(recipe.get("model") for recipe in given.recipes.values())])
    for name, value in (("num_classes", classes), ("image_size", image_size)):
        if re.search(rf"\b{name}['\"]?\s*[:=,]", settings):  # not only part of a class path
            continue
        if name in (net.get("init_args") or {}):
            net.init_args[name] = value
        elif name == "num_classes" and net.class_path.startswith(OPEN):
            net.dict_kwargs = {**(net.get("dict_kwargs") or {}), name: value}


def described(net: Namespace) -> dict[str, Any]:
    """Returns a network's class path and all its arguments, without pretrained weights: a checkpoint brings its own."""
    config = net.as_dict()
    arguments = (config.get("init_args") or {}) | (config.pop("dict_kwargs", None) or {})
    if config["class_path"] in TIMM:
        arguments["pretrained"] = False
    if config["class_path"] == "timm.create_model":
        arguments["checkpoint_path"] = None
    return config | {"init_args": arguments}


def without_download(config: Namespace) -> Namespace:
    """Returns a copy in which no pretrained weights are loaded, as those of a checkpoint will take their place."""
    config = config.clone()
    if config.model.net.class_path in TIMM:
        config.model.net.init_args.pretrained = False
    return config
