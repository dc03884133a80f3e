"""Arguments of a network that its signature doesn't show, and `num_classes` and `image_size`, which the data know.

`timm.create_model` passes what it doesn't know on to the network that it makes. jsonargparse takes such arguments as
`dict_kwargs`; here they are written like all others: `--model.net.num_classes 3`.
"""

import inspect
import re
from importlib import import_module
from typing import Any

from jsonargparse import Namespace

from lit_cifar.cli.recipes import Given

OPEN = ("timm.create_model", "torchvision.models.")
"""Builders of networks that pass further arguments on."""
OWN = ("class_path", "init_args", "dict_kwargs", "help")


def take_open_arguments(given: Given, default: dict[str, Any] | None) -> dict[str, Any] | None:
    """Moves arguments that timm passes on to `dict_kwargs`: of flags, recipes, and the default, which it returns."""
    nets = [recipe["model"].get("net") for recipe in given.recipes.values() if "model" in recipe]
    named = [*given.flags("--model.net"), *given.flags("--model.net.class_path")]
    named += [net if isinstance(net, str) else net.get("class_path") for net in reversed(nets) if net]
    named += [default["class_path"]] if default else []
    if not named or named[0] != OPEN[0]:
        return default
    try:
        known = inspect.signature(import_module("timm").create_model).parameters
    except ImportError:  # the parser says so
        return default
    for i, word in enumerate(given.words):
        if word.startswith("--model.net."):
            rest = word.removeprefix("--model.net.").removeprefix("init_args.")
            if rest.partition("=")[0].partition(".")[0] not in (*known, *OWN):
                given.words[i] = f"--model.net.dict_kwargs.{rest}"
    for net in [*nets, default]:
        if isinstance(net, dict) and net.get("class_path") == OPEN[0]:
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
    if config["class_path"] == OPEN[0]:
        arguments |= {"pretrained": False, "checkpoint_path": None}
    return config | {"init_args": arguments}
