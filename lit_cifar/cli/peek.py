"""What must be known before the command line can be parsed: recipe and checkpoint, whose values are its defaults."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_cifar.errors import UsageError
from lit_cifar.runs.checkpoint import Checkpoint, find_checkpoint, newest_checkpoint, read_checkpoint
from lit_cifar.runs.folder import RUNS


def peek(words: Sequence[str]) -> argparse.Namespace:
    """The few flags that decide how the others are read.

    Raises:
        UsageError: one of them lacks its value.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    parser.add_argument("--ckpt_path")
    parser.add_argument("--recipe")
    parser.add_argument("--resume")
    parser.add_argument("--model.net", "--model.net.class_path", dest="net")
    parser.add_argument("--trainer.logger", dest="logger")
    parser.add_argument("--trainer.default_root_dir", dest="default_root_dir")
    parser.add_argument("--trainer.precision", dest="precision")
    parser.add_argument("--data.dataset", dest="dataset")
    try:
        peeked = parser.parse_known_args(words)[0]
    except argparse.ArgumentError as error:
        raise UsageError(f"{error.argument_name}: {error.message}" if error.argument_name else str(error)) from error
    flags = {"--ckpt_path": peeked.ckpt_path, "--recipe": peeked.recipe}
    flags |= {"--trainer.default_root_dir": peeked.default_root_dir, "--config": "" if "" in peeked.config else None}
    for flag, value in flags.items():
        if value == "":
            raise UsageError(f"{flag} is empty; give it a value, or leave it out")
    return peeked


def fill_in(peeked: argparse.Namespace, recipes: Sequence[dict[str, Any]]) -> None:
    """Takes from the recipes, of which the last counts, what the words on the command line leave open."""
    settings = {key: value for recipe in recipes for key, value in recipe.items()}
    trainer = {key: value for recipe in recipes for key, value in (recipe.get("trainer") or {}).items()}
    stem = Path(peeked.config[-1]).stem if peeked.config else "tutorial"
    peeked.ckpt_path = peeked.ckpt_path or _text(settings.get("ckpt_path"))
    peeked.recipe_name = str(peeked.recipe or settings.get("recipe") or stem)
    peeked.resume = peeked.resume or settings.get("resume")
    peeked.logger = peeked.logger or _text(trainer.get("logger"))
    data = {key: value for recipe in recipes for key, value in (recipe.get("data") or {}).items()}
    peeked.dataset = peeked.dataset or data.get("dataset")
    peeked.precision = peeked.precision or _text(trainer.get("precision"))
    peeked.default_root_dir = Path(peeked.default_root_dir or trainer.get("default_root_dir") or ".").expanduser()


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def checkpoint_to_start_from(command: str, peeked: argparse.Namespace) -> Checkpoint | None:
    """`last` and `best` are the newest intact one, of this recipe if it is named.

    Raises:
        UsageError: there is none.
    """
    path, root, recipe = peeked.ckpt_path or None, peeked.default_root_dir, peeked.recipe_name
    name = "last" if path is None and command == "fit" and peeked.resume == "auto" else path
    if name not in ("last", "best"):
        return read_checkpoint(path) if path else None
    logged = peeked.logger not in ("false", "False")
    if logged and command != "fit" and not peeked.config and not peeked.recipe:
        return find_checkpoint(name, root)
    if not logged:  # no run folder: checkpoints lie where Lightning puts them
        folders, pattern = [root], f"checkpoints/{name}.ckpt"
    else:
        kinds = {"real": [recipe], "drawn": [f"{recipe}-drawn"]}.get(str(peeked.dataset), [recipe, f"{recipe}-drawn"])
        folders = [root / RUNS / kind for kind in kinds]
        pattern = f"version_*/checkpoints/{name}.ckpt"
    found = newest_checkpoint(folders, pattern)
    if found is None and path is not None:
        raise UsageError(f"--ckpt_path {name}: there is no intact {folders[0] / pattern}")
    return found
