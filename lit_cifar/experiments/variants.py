"""What a comparison compares: each recipe with each combination of the varied values, from words to names and flags."""

import itertools
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lit_cifar.data.files import RESERVED_BY_WINDOWS
from lit_cifar.errors import UsageError
from lit_cifar.experiments.values import split_values

OWN = {
    "seed_everything": "use --runs, which gives every variant the same seeds",
    "ckpt_path": "every training starts anew, and one that was interrupted goes on by itself",
    "resume": "a training that was interrupted goes on by itself",
    "config": "name several recipes instead",
    "recipe": "it is only a name",
    "note": "it is only a note",
    "checkpoint_seconds": "it changes no training",
    "trainer.default_root_dir": "it is only a place",
}
"""Flags of `fit` that make no variant, and why."""
REFUSED = ("seed_everything", "ckpt_path", "resume")
"""Flags of `fit` that no comparison takes."""
LONGEST = 80  # characters of a folder's name


class Variant(NamedTuple):
    """One of the sides of a comparison."""

    name: str
    """As it is shown, such as `resnet20, lr=0.1`."""
    folder: str
    """As it is written on disk."""
    words: tuple[str, ...]
    """What follows `fit`, without a seed."""
    recipe: str
    """The name of its recipe."""
    varied: dict[str, str]
    """Its value of each varied key."""


def recipes_among(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the recipes, which are words that end in .yaml or .yml and are no flag's value, and the other words."""
    recipes: list[str] = []
    others: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        is_value = before.startswith("-") and "=" not in before
        is_recipe = word.lower().endswith((".yaml", ".yml")) and not word.startswith("-") and not is_value
        (recipes if is_recipe else others).append(word)
    return recipes, others


def read_vary(text: str) -> tuple[str, list[str]]:
    """Returns key and values of `KEY=v1,v2`, split at commas that are in no bracket and no quotes."""
    key, equals, values = text.partition("=")
    key = key.strip().lstrip("-")
    if not equals or not re.fullmatch(r"[\w.]+\+?", key):
        raise UsageError("value-invalid", f"--vary {text} must be KEY=v1,v2,..., such as model.optimizer.lr=0.01,0.1")
    if key in OWN:
        raise UsageError("value-invalid", f"--vary {text}: {key} can't be varied; {OWN[key]}")
    try:
        found = split_values(values)
    except UsageError as error:
        raise UsageError(error.code, f"--vary {text}: {error}") from error
    return key, [each[1:-1] if re.fullmatch(r"\"[^\"]*\"|'[^']*'", each) else each for each in found]


def make_variants(recipes: Sequence[str], vary: Mapping[str, Sequence[str]], flags: Sequence[str]) -> list[Variant]:
    """Returns the grid: the first recipe with all combinations, then the next one.

    Without a recipe, that of `flags`, or the tutorial. Of keys that contain each other, such as `model.optimizer` and
    `model.optimizer.lr`, the inner one comes last, as `fit` needs it.
    """
    given = {word.partition("=")[0].removeprefix("--") for word in flags if word.startswith("--")}
    for key in (*REFUSED, *vary):
        if key in given:
            why = OWN.get(key, "it is varied; leave one of the two out")
            raise UsageError("value-invalid", f"--{key} can't be a flag of this comparison: {why}")
    named = [word for name, word in itertools.pairwise(flags) if name in ("--config", "-c")]
    named += [word.partition("=")[2] for word in flags if word.startswith(("--config=", "-c="))]
    stems = _stems(recipes) if recipes else [Path(([*named] or ["tutorial"])[-1]).stem]
    keys = _short_keys([*vary])
    variants = []
    for place, stem in enumerate(stems):
        for values in itertools.product(*vary.values()):
            varied = dict(zip(vary, values, strict=True))
            parts = [f"{keys[key]}={value}" for key, value in varied.items()]
            shown = ", ".join(([stem] if len(stems) > 1 or not parts else []) + parts)
            words = _in_order(varied, flags)
            words = [f"--config={recipes[place]}", *words] if recipes else words
            variants.append(Variant(shown, folder_name("-".join([stem, *parts])), tuple(words), stem, varied))
    return variants


def _in_order(varied: Mapping[str, str], flags: Sequence[str]) -> list[str]:
    outer = [key for key in varied if any(flag.startswith(f"--{key}.") for flag in flags)]
    inner = sorted(varied.keys() - {*outer}, key=lambda key: (key.count("."), [*varied].index(key)))
    return [*(f"--{key}={varied[key]}" for key in outer), *flags, *(f"--{key}={varied[key]}" for key in inner)]


def _stems(paths: Sequence[str]) -> list[str]:
    """Returns a name for each recipe: that of its file or, if there are several of the same name, its path."""
    counts = Counter(Path(path).stem for path in paths)
    return [stem if counts[stem := Path(path).stem] == 1 else str(Path(path).with_suffix("")) for path in paths]


def _short_keys(keys: Sequence[str]) -> dict[str, str]:
    counts = Counter(key.rpartition(".")[2] for key in keys)
    return {key: last if counts[last := key.rpartition(".")[2]] == 1 else key for key in keys}


def folder_name(text: str) -> str:
    """Returns a name that every file system takes, which is another one for another text."""
    name = re.sub(r"[^A-Za-z0-9_.=+-]+", "_", text).strip("._") or "_"
    if name != text or len(name) > LONGEST or re.fullmatch(RESERVED_BY_WINDOWS, name):
        name = f"{name[:LONGEST]}-{zlib.crc32(text.encode('utf-8', 'surrogateescape')):08x}"
    return name


def default_name(variants: Sequence[Variant]) -> str:
    """Returns a name for the comparison, from its recipes and varied keys."""
    keys = [key.rpartition(".")[2] for key in variants[0].varied]
    return folder_name("-".join([*dict.fromkeys(Path(variant.recipe).name for variant in variants), *keys]))


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested settings by their flags: those of a class as `model.optimizer` and `model.optimizer.lr`."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        name = prefix if key in ("class_path", "init_args") else f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            found |= flat(value, name)
        elif key != "dict_kwargs":
            found[name] = value
    return {key: value for key, value in found.items() if key not in OWN}


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the keys whose values are not the same in all."""
    keys = dict.fromkeys(key for each in settings for key in each)
    return [key for key in keys if len({repr(each.get(key)) for each in settings}) > 1]
