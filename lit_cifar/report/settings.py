"""The settings of a training as report.html lists them: those that differ from the defaults."""

import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import torch
import yaml
from torch import nn

from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.report.hyperparameters import hyperparameters
from lit_cifar.runs.card import RunCard, describe, plain
from lit_cifar.training.classifier import LitClassifier
from lit_cifar.training.trainer import Trainer

SECTIONS = {"data": CIFAR10DataModule, "model": LitClassifier, "trainer": Trainer}
ELSEWHERE = (
    *("data.root", "trainer.default_root_dir"),  # places
    *("trainer.num_sanity_val_steps", "trainer.enable_model_summary", "trainer.enable_progress_bar"),  # not of a result
)
REQUIRED = "–"  # there is no default


class Setting(NamedTuple):
    """A setting by its flag, as words."""

    name: str
    value: str
    default: str = ""


def known_settings(card: RunCard) -> list[Setting]:
    """Returns what a checkpoint's card says, by short names."""
    return [Setting(name, str(value)) for name, value in hyperparameters(card).items()]


def changed_settings(config: str) -> list[Setting]:
    """Returns the settings in a config.yaml of ours that differ from the defaults, in their order.

    Arguments of a class are compared with its own defaults. No class is imported: those of a run are there already.
    """
    given = yaml.safe_load(config)
    found = [each for name, kind in SECTIONS.items() for each in _changed(name, _defaults(kind), given.get(name))]
    return [Setting(name, _shown(value), _shown(default)) for name, value, default in found if name not in ELSEWHERE]


def _changed(name: str, defaults: Mapping[str, Any], given: Any) -> Iterator[tuple[str, Any, Any]]:
    for key, value in given.items() if isinstance(given, dict) else ():
        flag, default = f"{name}.{key}", defaults.get(key, REQUIRED)
        path = value.get("class_path") if isinstance(value, dict) else None
        if not isinstance(path, str):
            if not _is_same(value, default):
                yield flag, value, default
            continue
        kind = _known(path)
        standard = default if isinstance(default, dict) else {}
        is_standard = kind is not None and kind is _known(standard.get("class_path", ""))
        if not is_standard:
            usual = standard.get("class_path", default)
            yield flag, path.rpartition(".")[2], usual.rpartition(".")[2] if isinstance(usual, str) else usual
        inner = _defaults(kind) | (standard["init_args"] if is_standard else {})
        yield from _changed(flag, inner, value.get("init_args"))


def _defaults(kind: Any) -> dict[str, Any]:
    """Returns the defaults of a class's parameters as config.yaml would have them."""
    found: dict[str, Any] = {}
    with suppress(TypeError, ValueError):  # a class in C has no signature
        for name, parameter in inspect.signature(kind).parameters.items():
            if parameter.default is not parameter.empty:
                is_lambda = getattr(parameter.default, "__name__", "") == "<lambda>"  # of the default optimizer
                with suppress(Exception):  # a default that can't be written down is no default of a file's
                    value = parameter.default([nn.Parameter(torch.zeros(1))]) if is_lambda else parameter.default
                    found[name] = describe(value) if is_lambda else plain(value, name)
    return found


def _known(path: str) -> Any:
    """Returns a class that has been imported, or None."""
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def _is_same(value: Any, default: Any) -> bool:
    return (type(value) is type(default) and value == default) or _number(value) == _number(default) is not None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return str(value)
