"""The settings of a run as loggers show them: flat, by short names, such as `optimizer.momentum` or `mixup`.

A setting is there if it differs from its default. Those that people compare runs by are always there, so that a column
has a value for each run.
"""

import inspect
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

from lit_cifar.data.augmentation import Augmentation
from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.nets import net_name
from lit_cifar.runs.card import UNCHANGED, Description, RunCard
from lit_cifar.training.classifier import LitClassifier

ALWAYS = {
    *("flip", "crop", "cutout", "erase", "mixup", "cutmix", "trivial_augment"),
    *("optimizer.lr", "optimizer.momentum", "optimizer.weight_decay"),
}
"""Settings that are shown even if they have their default, beside those that a run is never without."""
TRAINER = {"accumulate_grad_batches": 1, "limit_train_batches": 1.0, "overfit_batches": 0.0}
"""Values of Lightning's Trainer if nothing is set; those that are not here are None."""
LONGEST = 250  # characters of a value

Setting = str | int | float


def hyperparameters(card: RunCard) -> dict[str, Setting]:
    """Returns the settings that a run's card holds."""
    found: dict[str, Any] = {"recipe": card.recipe, "dataset": card.dataset, "seed": card.seed}
    found |= _parts("net", card.net) | {"net": net_name(card.net)}
    found |= _parts("optimizer", card.optimizer) | _parts("loss", card.loss)
    found |= _parts("lr_scheduler", card.lr_scheduler) if card.lr_scheduler else {"lr_scheduler": "none"}
    if card.dataset != "own":  # of which nothing is known
        found |= {"batch_size": card.batch_size, "val_size": card.val_size}
        augmentation = vars(Augmentation()) | card.augmentation  # an old checkpoint lacks what is newer
        transform = augmentation.pop("transform", None)
        found |= _differing(augmentation, vars(Augmentation()))
        found |= _parts("transform", transform) if isinstance(transform, dict) else {}
    if card.mean and {*card.mean, *card.std} != {0.5}:
        found["normalize"] = [card.mean, card.std]
    found |= _differing(card.training_set, UNCHANGED)
    for kind in (CIFAR10DataModule, LitClassifier):
        usual, own = defaults(kind), vars(card).keys() - found.keys() - {"augmentation", "lr_scheduler"}
        found |= _differing({name: getattr(card, name) for name in own & usual.keys()}, usual)
    found |= {"init_from": card.init_from} if card.init_from else {}
    trainer = dict(card.trainer)
    found |= {"precision": trainer.pop("precision")} if "precision" in trainer else {}
    found |= _differing(trainer, dict.fromkeys(trainer) | TRAINER)
    return {str(name): _shown(value) for name, value in found.items()}


def _parts(name: str, described: Description) -> dict[str, Any]:
    """Returns the name of a class, and its arguments that differ from their defaults."""
    path, arguments = str(described["class_path"]), described.get("init_args")
    arguments = dict(arguments) if isinstance(arguments, Mapping) else {}
    usual = defaults(imported(path))
    for key in usual.keys() - arguments.keys():
        if f"{name}.{key}" in ALWAYS:
            arguments[key] = usual[key]
    found: dict[str, Any] = {name: path.rpartition(".")[2]}
    for key, value in arguments.items():
        if isinstance(value, Mapping) and "class_path" in value:
            found |= _parts(f"{name}.{key}", dict(value))
        else:
            found |= _differing({f"{name}.{key}": value}, {f"{name}.{key}": usual[key]} if key in usual else {})
    further = {key: value for key, value in described.items() if key not in ("class_path", "init_args")}
    return found | _differing({f"{name}.{key}": value for key, value in further.items()}, {f"{name}.interval": "epoch"})


def imported(path: str) -> Any:
    """Returns the class of a path if it has been imported, or None: no class is imported for its defaults."""
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def defaults(made: Callable[..., Any] | None) -> dict[str, Any]:
    """Returns the defaults of a class's parameters, by their names; none if they are not known."""
    try:
        parameters = inspect.signature(made).parameters.values() if made else ()
    except (TypeError, ValueError):  # written in C
        return {}
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def _differing(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in values.items()
        if name in ALWAYS or name not in defaults or _shown(value) != _shown(defaults[name])
    }


def _shown(value: Any) -> Setting:
    """Returns a number or words: TensorBoard's table has nothing else."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) and math.isfinite(value):
        return value
    return str([*value] if isinstance(value, tuple) else "none" if value is None else value)[:LONGEST]
