"""What a sweep searches: `model.optimizer.lr=log:1e-4..1e-1`, `data.mixup=0..1`, `data.batch_size=32,64,128`."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lit_cifar.errors import UsageError, require
from lit_cifar.experiments.values import split_values

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

NUMBER = r"[-+]?(?:\d+(?:\.\d+|\.(?!\.))?|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"(log:)?({NUMBER})\.\.({NUMBER})")
INTEGER = re.compile(r"[-+]?\d+")
EXAMPLES = "use KEY=0..1, KEY=log:1e-4..1e-1 or KEY=32,64,128"
NOT_SEARCHED = {
    "seed_everything": "the best seed is luck; a sweep trains its winner again with others",
    **dict.fromkeys(
        ("data.root", "data.dataset", "data.labels", "data.val_size", "trainer.limit_val_batches"),
        "trials can be compared only if they are measured on the same images",
    ),
    **dict.fromkeys(
        (
            "config",
            "ckpt_path",
            "resume",
            "recipe",
            "note",
            "checkpoint_seconds",
            "trainer.default_root_dir",
            "trainer.logger",
            "trainer.devices",
        ),
        "it is not a setting of what is trained",
    ),
}
"""Keys of fit that a sweep can't search, and why."""


@dataclass(frozen=True)
class Choices:
    """A parameter with a few values, of any type, as they are written."""

    key: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        return ",".join(self.values)

    @property
    def tried(self) -> tuple[str, ...]:
        """The values that fit must take before a sweep begins."""
        return self.values

    def holds(self, value: Any) -> bool:
        return value in self.values

    def distribution(self) -> "BaseDistribution":
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)


@dataclass(frozen=True)
class Range:
    """A number between two others, which are included."""

    key: str
    low: float
    high: float
    log: bool
    """Whether a tenfold value is as far away everywhere."""
    integers: bool
    """Until `floats` is called: whether both ends are."""

    def __str__(self) -> str:
        return f"{'log:' if self.log else ''}{'..'.join(self.tried)}"

    @property
    def tried(self) -> tuple[str, ...]:
        """The values that fit must take before a sweep begins."""
        return str(self.low), str(self.high)

    @property
    def middle(self) -> str:
        """A number between integers: if fit takes it, the range is of floats."""
        return str((self.low + self.high) // 2 + 0.5)

    def floats(self) -> "Range":
        return replace(self, low=float(self.low), high=float(self.high), integers=False)

    def holds(self, value: Any) -> bool:
        return isinstance(value, int if self.integers else int | float) and self.low <= value <= self.high

    def distribution(self) -> "BaseDistribution":
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.integers:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)


Parameter = Choices | Range


def parse_search(searches: Sequence[str], flags: Iterable[str]) -> list[Parameter]:
    """Returns what the words after each `--search` mean. Raises UsageError for one that makes no sense.

    `flags` are those for all trials, none of which may set what is searched.
    """
    if not searches:
        raise UsageError("value-missing", f"sweep has nothing to search; add --search: {EXAMPLES}")
    parameters = [_parsed(each) for each in searches]
    keys = [_canonical(parameter.key) for parameter in parameters]
    for key in keys:
        if keys.count(key) > 1:
            raise UsageError("value-invalid", f"--search {key} is there twice; leave one out")
        if why := NOT_SEARCHED.get(key):
            raise UsageError("value-invalid", f"--search {key}: {why}; search something else")
    set_by_flags = {_canonical(flag.partition("=")[0].removeprefix("--")) for flag in flags if flag.startswith("--")}
    for key in keys:
        if key in set_by_flags:
            raise UsageError("value-invalid", f"--search {key} and --{key} exclude each other; leave one out")
    return parameters


def as_words(parameters: Iterable[Parameter], values: dict[str, Any]) -> list[str]:
    """Returns values as flags of fit: a class before its arguments."""
    keys = sorted((parameter.key for parameter in parameters), key=lambda key: key.count("."))
    return [f"--{key}={values[key]}" for key in keys]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Returns the last part of each key, such as `lr`, or as many parts as tell it from the others."""
    names = {}
    for key in keys:
        parts = key.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        names[key] = next((end for end in ends if sum(f".{each}".endswith(f".{end}") for each in keys) == 1), key)
    return names


def shown(value: Any) -> str:
    """Returns a value for people: a number with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _canonical(key: str) -> str:
    return key.replace(".init_args", "")


def _parsed(search: str) -> Parameter:
    key, equals, spec = search.partition("=")
    key, spec = key.strip().removeprefix("--"), spec.strip()
    if not equals or not spec or not re.fullmatch(r"[\w.]+\+?", key):
        raise UsageError("value-invalid", f"--search {search} is not KEY=VALUES; {EXAMPLES}")
    if not (found := RANGE.fullmatch(spec)):
        return _choices(key, spec)
    ends = found.groups()[1:]
    low, high = map(float, ends)
    require(math.isfinite(low) and math.isfinite(high), f"--search {search}: both ends must be finite numbers")
    require(low < high, f"--search {search}: {found[2]} must be below {found[3]}; a single value is a flag of fit")
    require(low > 0 or not found[1], f"--search {search}: log: needs ends above 0; leave it out, or raise {found[2]}")
    if all(INTEGER.fullmatch(end) for end in ends):
        return Range(key, int(ends[0]), int(ends[1]), bool(found[1]), integers=True)
    return Range(key, low, high, bool(found[1]), integers=False)


def _choices(key: str, spec: str) -> Choices:
    values = tuple(split_values(spec))
    if spec.startswith("log:") or (len(values) == 1 and ".." in spec):
        raise UsageError("value-wrong-type", f"--search {key}={spec}: LOW..HIGH must be two numbers; {EXAMPLES}")
    if len({*values}) < len(values):
        raise UsageError("value-invalid", f"--search {key}={spec} has a value twice; leave one out")
    if len(values) == 1:
        raise UsageError("value-invalid", f"--search {key}={spec} has one value; set it with --{key}={spec}")
    return Choices(key, values)
