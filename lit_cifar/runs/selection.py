"""Which runs are shown, in what order, and how two of them differ, by results and by settings.

A key is a result, such as `test_accuracy`, or a setting by the name of fit's flag, such as `data.batch_size`; its last
part is enough if no other setting has the same.
"""

import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from lit_cifar.errors import UsageError, listed, meant
from lit_cifar.runs.catalog import Run

RESULTS = (
    *("recipe", "version", "started", "dataset", "net", "seed", "epochs", "val_accuracy", "test_accuracy"),
    *("seconds", "state", "step", "note", "problem"),
)
"""What is known of each run, in the order of the columns."""
TITLES = {"when": "started", "data": "dataset", "network": "net", "val": "val_accuracy", "test": "test_accuracy"}
"""Results that have a shorter name in the table."""
SHARES = ("val_accuracy", "test_accuracy")
CONDITION = re.compile(r"\s*([^=<>!\s]+)\s*(>=|<=|!=|=|>|<)\s*(.*?)\s*", re.DOTALL)
ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    **{">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
}
MISSING = object()

Reader = Callable[[Run], Any]


def select(runs: Sequence[Run], conditions: Sequence[str]) -> list[Run]:
    """Returns the runs that meet all conditions, such as `data.dataset=cifar100` or `test_accuracy>0.9`.

    Raises UsageError for what is no condition, and for a key that no run has.
    """
    found = list(runs)
    for text in conditions:
        match = CONDITION.fullmatch(text)
        if not match:
            sentence = f"--where {text} is no condition; use KEY=VALUE, such as data.dataset=cifar100 or epochs>=8"
            raise UsageError("value-invalid", sentence)
        key, sign, value = match.groups()
        name, read = _reader(runs, key, f"--where {text}")
        fits = _test(name, sign, value, f"--where {text}")
        found = [run for run in found if fits(read(run))]
    return found


def in_order(runs: Sequence[Run], key: str) -> list[Run]:
    """Returns runs by a key, descending if it begins with `-`; those that have no such value come last."""
    _, read = _reader(runs, key.removeprefix("-"), f"--sort {key}")

    def place(run: Run) -> Any:
        value = read(run)
        is_number = isinstance(value, int | float)
        return is_number, value if is_number or isinstance(value, datetime) else str(value)

    known = [run for run in runs if read(run) not in (None, MISSING)]
    unknown = [run for run in runs if read(run) in (None, MISSING)]
    return sorted(known, key=place, reverse=key.startswith("-")) + unknown


def differences(first: Run, second: Run) -> dict[str, tuple[Any, Any]]:
    """Returns the settings in which two runs differ; None stands for one that a run does not have."""
    both = [run.config | run.settings if first.config and second.config else run.settings for run in (first, second)]
    names = sorted((both[0].keys() | both[1].keys()) - {"trainer.default_root_dir"})  # where they lie is shown anyway
    pairs = {name: (both[0].get(name), both[1].get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def named_run(runs: Sequence[Run], name: str) -> Run:
    """Returns the run that `tutorial/version_3`, or the end of its path, names. Raises UsageError without just one."""
    parts = Path(name).parts
    found = [run for run in runs if parts and run.folder.parts[-len(parts) :] == parts]
    if len(found) > 1:
        paths = listed(str(run.folder) for run in found)
        raise UsageError("value-invalid", f"--diff {name} may be {paths}; name more of its path")
    if not found:
        known = ["/".join(run.folder.parts[-2:]) for run in runs]
        hint = meant(name, known) or (f"there are {listed(known)}" if known else "there are none")
        raise UsageError("runs-missing", f"--diff {name}: there is no such run; {hint}")
    return found[0]


def _reader(runs: Sequence[Run], key: str, flag: str) -> tuple[str, Reader]:
    """Returns the whole name of a key, and what reads its value from a run."""
    name = re.sub(r"\.(init_args|class_path)(?=\.|$)", "", key.lstrip("-"))
    name = TITLES.get(name, name)
    if name in RESULTS:
        return name, lambda run: getattr(run, name)
    for sources in ("settings", "config"):  # YAML takes a millisecond a run: only if no card has the key
        names = {each for run in runs for each in getattr(run, sources)}
        found = [name] if name in names else sorted(each for each in names if each.endswith(f".{name}"))
        if len(found) > 1:
            raise UsageError("value-invalid", f"{flag}: {key} may be {listed(found)}; name more of it")
        if found:
            return found[0], _setting(found[0])
    known = {*RESULTS, *TITLES, *(each for run in runs for each in (run.settings or run.config))}
    hint = meant(name, known) or f"use a flag of fit, such as data.dataset, or one of {listed(RESULTS, 20)}"
    raise UsageError("setting-unknown", f"{flag}: no run has a setting {key}; {hint}")


def _setting(name: str) -> Reader:
    def read(run: Run) -> Any:
        return run.settings[name] if name in run.settings else run.config.get(name, MISSING)

    return read


def _test(name: str, sign: str, text: str, flag: str) -> Callable[[Any], bool]:
    """Returns what tests a value of this name."""
    wanted: Any = _parsed(text)
    if name in SHARES:
        wanted = float(text[:-1]) / 100 if re.fullmatch(r"[\d.]+ *%", text) and text.count(".") < 2 else wanted
        if isinstance(wanted, int | float) and not 0 <= wanted <= 1:
            sentence = f"{flag}: an accuracy is a share from 0 to 1; use for example {name}{sign}0.9 or {name}{sign}90%"
            raise UsageError("value-out-of-range", sentence)
    if name == "started":
        return _test_of_time(sign, text, flag)
    if sign == "=":
        return lambda value: _is_same(value, wanted, text)
    if sign == "!=":
        return lambda value: not _is_same(value, wanted, text)
    if isinstance(wanted, bool) or not isinstance(wanted, int | float):
        raise UsageError("value-invalid", f"{flag}: {text} is not a number; use = or != for words")
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and ORDERS[sign](value, wanted)


def _test_of_time(sign: str, text: str, flag: str) -> Callable[[Any], bool]:
    if sign in ("=", "!="):  # a day, or an hour of it, as the table shows it
        shown = text.replace("T", " ")
        return lambda value: (
            (value is not None and f"{value.astimezone():%Y-%m-%d %H:%M}".startswith(shown)) is (sign == "=")
        )
    try:
        time = datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError) as error:
        raise UsageError("value-invalid", f"{flag}: {text} is not a time; use for example 2026-01-31") from error
    return lambda value: value is not None and ORDERS[sign](value, time)


def _parsed(text: str) -> Any:
    """Returns a value of the command line as a number, a truth value, None, a list or text."""
    words = {"true": True, "false": False, "null": None, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _is_same(value: Any, wanted: Any, text: str) -> bool:
    """Returns whether a value is the one that is wanted; of a class, its name is enough."""
    if value is MISSING:
        return False
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if not isinstance(value, str):
        return bool(value == wanted)
    value_parts, parts = value.split("."), text.split(".")  # torch.optim.SGD is torch.optim.sgd.SGD
    return value == text or (
        value_parts[-1] == parts[-1] and len(value_parts) > 1 and parts[0] in (value_parts[0], parts[-1])
    )
