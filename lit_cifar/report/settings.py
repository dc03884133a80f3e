"""The settings of a training as report.html lists them: those that differ from the defaults."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import torch
import yaml
from torch import nn

from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.report.hyperparameters import defaults, hyperparameters, imported
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


def _changed(name: str, usual: Mapping[str, Any], given: Any) -> Iterator[tuple[str, Any, Any]]:
    for key, value in given.items() if isinstance(given, dict) else ():
        flag, default = f"{name}.{key}", usual.get(key, REQUIRED)
        path = value.get("class_path") if isinstance(value, dict) else None
        if not isinstance(path, str):
            if not _is_same(value, default):
                yield flag, value, default
            continue
        kind = imported(path)
        standard = default if isinstance(default, dict) else {}
        is_standard = kind is not None and kind is imported(standard.get("class_path", ""))
        if not is_standard:
            other = standard.get("class_path", default)
            yield flag, path.rpartition(".")[2], other.rpartition(".")[2] if isinstance(other, str) else other
        inner = _defaults(kind) | (standard["init_args"] if is_standard else {})
        yield from _changed(flag, inner, value.get("init_args"))


def _defaults(kind: Any) -> dict[str, Any]:
    """Returns the defaults of a class's parameters as config.yaml would have them."""
    found: dict[str, Any] = {}
    for name, default in defaults(kind).items():
        is_lambda = getattr(default, "__name__", "") == "<lambda>"  # of the default optimizer
        with suppress(Exception):  # a default that can't be written down is no default of a file's
            value = default([nn.Parameter(torch.zeros(1))]) if is_lambda else default
            found[name] = describe(value) if is_lambda else plain(value, name)
    return found


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
