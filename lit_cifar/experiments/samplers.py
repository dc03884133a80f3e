"""Optuna's samplers and pruners, by the names of their classes, without what Optuna logs and warns of."""

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from lit_cifar.errors import UsageError, listed, meant, reason

UNSAFE = {"CmaEsSampler": "it reads pickles from the study, which could run code"}


def make_sampler(name: str, seed: int) -> BaseSampler:
    """Returns a sampler of Optuna's by the name of its class. Raises UsageError if it can't be used."""
    return _made("sampler", name, optuna.samplers, BaseSampler, seed=seed)


def make_pruner(name: str) -> BasePruner:
    """Returns a pruner of Optuna's by the name of its class. Raises UsageError if it can't be used."""
    return _made("pruner", name, optuna.pruners, BasePruner)


def _made(kind: str, name: str, module: Any, base: type, **options: Any) -> Any:
    classes = {each: getattr(module, each) for each in module.__all__}
    known = {key: each for key, each in classes.items() if inspect.isclass(each) and issubclass(each, base)}
    known = {key: each for key, each in known.items() if not inspect.isabstract(each)}
    if name not in known:
        hint = meant(name, known) or f"use one of {listed(known, len(known))}"
        raise UsageError("value-invalid", f"--{kind} {name}: Optuna has none of this name; {hint}")
    if why := UNSAFE.get(name):
        raise UsageError("value-invalid", f"--{kind} {name}: {why}; use another")
    taken = inspect.signature(known[name]).parameters
    try:
        return known[name](**{key: value for key, value in options.items() if key in taken})
    except TypeError as error:
        sentence = f"--{kind} {name} needs arguments, which the command line can't give; use another"
        raise UsageError("value-invalid", sentence) from error
    except ImportError as error:
        raise UsageError("package-missing", f"--{kind} {name} needs another package: {reason(error)}") from error


@contextmanager
def quietly() -> Iterator[None]:
    """Hides what Optuna logs, and its warnings that a feature is experimental."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"optuna\.")
            warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def try_sampler(name: str, distributions: dict[str, BaseDistribution]) -> None:
    """Refuses a sampler that can't search these, such as BruteForceSampler on a range of floats."""
    study = optuna.create_study(sampler=make_sampler(name, 0))
    try:
        study.ask(distributions)
    except (ImportError, ValueError, NotImplementedError) as error:
        sentence = f"--sampler {name} can't search this: {reason(error)}; use another"
        raise UsageError("value-invalid", sentence) from error
