"""The command line's parser: one sentence for each mistake, with the nearest flag or key that exists."""

import argparse
import difflib
import re
import warnings
from enum import Enum
from numbers import Number
from typing import Any, Literal, NoReturn

import torch
import yaml
from jsonargparse import add_instantiator
from jsonargparse.typing import register_type
from pytorch_lightning.cli import LightningArgumentParser

from lit_cifar.errors import UsageError, UserError

# What arguments of Lightning's callbacks are by default, and config.yaml must be able to say
register_type(torch.device)
# What torchvision's transforms take, such as RandomRotation's degrees
register_type(Number, lambda value: value, lambda text: _number(text), type_check=isinstance)
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_data(value.value))

COMMANDS = "fit, validate, test, predict, show, bench, export, demo"


class MistakeError(UsageError, ValueError):
    """What the parser of a class's arguments refuses, to which jsonargparse adds the key of the class."""


class Parser(LightningArgumentParser):
    """Lightning's parser, but a mistake is a UsageError; and `--trainer.max_epoch` is one, not an abbreviation."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, allow_abbrev=False)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises the mistake as a UsageError of one sentence."""
        raise MistakeError(self._sentence(message)) from ex

    def _sentence(self, message: str) -> str:
        if match := re.search(r"unrecognized arguments: (\S+)", message, re.IGNORECASE):
            flag = match[1].split("=")[0]
            return f"there is no {'flag' if flag.startswith('-') else 'argument'} {flag}{self._nearest(flag)}"
        if match := re.search(r"invalid choice: '(.*?)'", message):
            return f"there is no command {match[1]}; choose one of {COMMANDS}"
        if "subcommand" in message and "not provided" in message:
            return f"which command? Choose one of {COMMANDS}"
        if match := re.search(r"(?:Key|Option|option) [\"'](.*?)[\"'](?: is not (?:expected|accepted))?", message):
            return f"there is no key or flag {match[1]}{self._nearest(f'--{match[1]}', '')}"
        if match := re.match(r"Parser key \"(.*?)\":(.*)", message, re.DOTALL):
            return f"--{match[1]}: {cause(match[2])}"
        if match := re.match(r"Linked \"(.*?)\" must be given via \"(.*?)\"", message):
            return f"--{match[1]} is set by --{match[2]}; give that instead"
        return _one_line(message)

    def _nearest(self, flag: str, dashes: str = "--") -> str:
        close = difflib.get_close_matches(flag, _flags(self), 1)
        return f"; did you mean {dashes}{close[0].lstrip('-')}?" if close else "; --help lists all that there are"


def add_run_arguments(parser: Any, recipe: str) -> None:
    """Adds what fit, validate, test and predict take beside Lightning's flags; `recipe` is a default."""
    parser.add_argument(
        "--recipe",
        type=str,
        default=recipe,
        help="Name of the recipe, by default the file's; runs land in lightning_logs/<recipe>/version_N.",
    )
    parser.add_argument(
        "--resume",
        type=Literal["never", "auto"],
        default="never",
        help="auto: go on from the newest intact last.ckpt of this recipe, if there is one (fit).",
    )
    parser.add_argument(
        "--checkpoint_seconds",
        type=float,
        default=60,
        help="Seconds between two writings of last.ckpt, which is also written at the end of each epoch (fit).",
    )
    parser.add_argument(
        "--fast_precision",
        type=bool,
        default=False,
        help="Compute in bf16 or half where the hardware is fast at it, unless --trainer.precision is given.",
    )


def _flags(parser: argparse.ArgumentParser) -> set[str]:
    """Every --flag of a parser and of its subcommands."""
    flags: set[str] = set()
    for action in parser._actions:
        flags.update(option for option in action.option_strings if option.startswith("--"))
        if isinstance(action.choices, dict):
            flags.update(*(_flags(subcommand) for subcommand in action.choices.values()))
    return flags


def _made(class_type: type[Any], *args: Any, **kwargs: Any) -> Any:
    """An object of a class that the user names; what it refuses is a mistake that names the class."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # what has none is refused by others
            return class_type(*args, **kwargs)
    except (UserError, OSError):
        raise
    except Exception as error:  # a network's or callback's code may be any Python, and so may what it raises
        raise MistakeError(f"{class_type.__name__}: {' '.join(str(error).split()) or type(error).__name__}") from error


add_instantiator(_made, object)

SPECIFIC = (
    r"(there is no (?:key|flag|argument) .*)",
    r"--([\w.]+: .*)",
    r"(the following arguments are required: .*)",
    r"(Multiple subclasses with name .*)",
    r"((?!Errors|Subtypes)[A-Z]\w+: .*)",
    r"Problem with given class_path '.*?':\s+(.*)",
    r"Type .* expects a function or a callable class: (.*)",
    r"(Import path .* does not correspond to .*)",
)
"""The reasons that a person can act on, among those that jsonargparse tells for each type it tried; the best first."""


def cause(text: str) -> str:
    """Why a value does not fit: of all the reasons in jsonargparse's message, the one that tells most."""
    for pattern in SPECIFIC:
        if match := re.search(rf"^[\s-]*{pattern}$", text, re.MULTILINE):
            return _plain(match[1])
    if match := re.search(r"Errors:\s*(?:- Expected an? <class .*\s+)?- (?!Expected |Not )(.*)", text):
        return _plain(match[1])
    return _reason(text)


def _plain(text: str) -> str:
    text = re.sub(r"\.* Got value: .*|<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    return text.strip().rstrip(".").replace("the following arguments are required:", "it needs")


def _reason(text: str) -> str:
    """Why a value does not fit. Of a union, jsonargparse tells what each member thought; a person wants the list."""
    types = re.search(r"Subtypes: \[(.*?)\]\n", text) or re.search(r"Expected an? (.*?)\. Got value", text)
    value = re.search(r"(?:Given|Got) value: (.*)|Expected a dot import path string: (.*)", text)
    if value is None:
        return _one_line(text)
    names = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", types[1] if types else "the path of a class")
    names = re.sub(r"(?:typing|collections\.abc|torch|pytorch_lightning|lightning_fabric)\.(?:\w+\.)*", "", names)
    names = re.sub(r"Literal\[(.*?)\]", r"\1", names).replace("NoneType", "null")
    given = next(part for part in value.groups() if part is not None).strip()
    return f"{given or 'nothing'} is not a valid value; it takes {names}"


def _one_line(text: str) -> str:
    return re.sub(r"\s*\n[\s-]*", "; ", text.strip(" -\n")).replace(":;", ":")


def _number(text: Any) -> Number:
    value = yaml.safe_load(text) if isinstance(text, str) else text
    if isinstance(value, bool) or not isinstance(value, Number):
        raise ValueError(f"{text} is no number")
    return value
