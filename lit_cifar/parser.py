"""The command line's parser: one sentence for each mistake, with the nearest flag or key that exists."""

import argparse
import difflib
import re
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pytorch_lightning.cli import LightningArgumentParser

from lit_cifar.errors import UsageError

COMMANDS = "fit, validate, test, predict, show, bench"


class Parser(LightningArgumentParser):
    """Lightning's parser, but a mistake is a UsageError; and `--trainer.max_epoch` is one, not an abbreviation."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, allow_abbrev=False)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises the mistake as a UsageError of one sentence."""
        raise UsageError(self._sentence(message)) from ex

    def _sentence(self, message: str) -> str:
        if match := re.search(r"unrecognized arguments: (\S+)", message, re.IGNORECASE):
            flag = match[1].split("=")[0]
            return f"there is no {'flag' if flag.startswith('-') else 'argument'} {flag}{self._nearest(flag)}"
        if match := re.search(r"invalid choice: '(.*?)'", message):
            return f"there is no command {match[1]}; choose one of {COMMANDS}"
        if "subcommand" in message and "not provided" in message:
            return f"which command? Choose one of {COMMANDS}"
        if match := re.search(r"(?:Key|Option|option) [\"'](.*?)[\"'](?: is not (?:expected|accepted))?", message):
            return f"there is no key or flag {match[1]}{self._nearest('--' + match[1])}"
        if match := re.search(r"Parser key \"(.*?)\":(.*)", message, re.DOTALL):
            return f"--{match[1]}: {_reason(match[2])}"
        return _one_line(message)

    def _nearest(self, flag: str) -> str:
        close = difflib.get_close_matches(flag, _flags(self), 1)
        return f"; did you mean {close[0]}?" if close else "; --help lists all that there are"


def _flags(parser: argparse.ArgumentParser) -> set[str]:
    """Every --flag of a parser and of its subcommands."""
    flags: set[str] = set()
    for action in parser._actions:
        flags.update(option for option in action.option_strings if option.startswith("--"))
        if isinstance(action.choices, dict):
            flags.update(*(_flags(subcommand) for subcommand in action.choices.values()))
    return flags


def _reason(text: str) -> str:
    """Why a value does not fit. Of a union, jsonargparse tells what each member thought; a person wants the list."""
    types = re.search(r"Subtypes: \[(.*?)\]\n", text) or re.search(r"Expected an? (.*?)\. Got value", text)
    value = re.search(r"(?:Given|Got) value: (.*)", text)
    if types is None or value is None or "class_path" in text:
        return _one_line(text)
    names = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", types[1])
    names = re.sub(r"(?:typing|collections\.abc|torch|pytorch_lightning)\.(?:\w+\.)*", "", names)
    names = re.sub(r"Literal\[(.*?)\]", r"\1", names).replace("NoneType", "null")
    return f"{value[1].strip()} is not a valid value; it takes {names}"


def _one_line(text: str) -> str:
    return re.sub(r"\s*\n[\s-]*", "; ", text.strip(" -\n")).replace(":;", ":")


def read_recipe(path: str) -> dict[str, Any]:
    """The keys and values of a recipe file, not yet checked.

    Raises:
        UsageError: it is not there, can't be read, or is no YAML mapping.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"--config {path} does not exist; recipes lie in configs/") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}: {getattr(error, 'problem', '')})" if mark else ""
        raise UsageError(f"--config {path} is not valid YAML{where}; correct it or name another recipe") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"--config {path} can't be read: {reason}; name a YAML file") from error
    if not isinstance(content, dict):
        raise UsageError(f"--config {path} is not a recipe: it holds no keys such as trainer, model and data")
    return content
