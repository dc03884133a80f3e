"""The command line's parser: a mistake is one sentence, with the nearest flag or key that exists; a short `--help`."""

import argparse
import difflib
import re
import shutil
import textwrap
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace  # type: ignore[attr-defined]

from lit_cifar.cli.recipes import SECTIONS, Given
from lit_cifar.errors import UsageError, UserError, either, meant

UNKNOWN = re.compile(r"unrecognized arguments: ([^\s=]+)|(?:Option|accept option) '(.*?)'")
NOISE = re.compile(
    r"Expected a path but|Does not validate against|Subtypes:|Errors:|Expected a <class 'NoneType'>|a dict with|"
    r"Subclass types expect|a class path \(str\)|Given value type:|Given value: \[?Namespace"
)
"""Lines of jsonargparse's messages that say nothing about the value."""
WRONG = re.compile(r"(Expected a .*?)(?:; Given|\. Got) value: (.*)")
INNER = re.compile(r"""Problem with given class_path '[^']*': Parser key "([\w.]+)": (.*)""")
KINDS = {"int": ["an integer"], "float": ["a number"], "bool": ["true", "false"]}
FIRST = [f"trainer.{name}" for name in ("max_epochs", "max_steps", "accelerator", "devices", "precision")]
FIRST += [f"trainer.{name}" for name in ("callbacks", "logger", "default_root_dir")]
"""The flags of the Trainer that `--help` shows before the others."""
RENAMED = {"--data.mean": "--data.normalize", "--data.std": "--data.normalize"}
OPTIMIZER = ("model.optimizer", "model.lr_scheduler", "model.lr_scheduler_interval")


class RecipeAction(ActionConfigFile):
    """`--config FILE`: applies what `Given` has read from the file, without reading it again."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        recipe = parser.given.recipes[values]
        parser.refuse_unknown_keys(recipe, f"--config {values}")
        merged = parser.parse_object(recipe, namespace, env=False, defaults=False, _skip_validation=True)
        namespace.__dict__.update(merged.__dict__)


class Parser(ArgumentParser):
    """jsonargparse's parser, but a mistake is a UsageError, and `--trainer.max_epoch` is not taken for `max_epochs`."""

    given = Given(())
    """Flags and recipes, to say which of them a wrong value is from."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **({"allow_abbrev": False} | kwargs))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        code, sentence = "value-invalid", message
        if match := UNKNOWN.search(message):
            code, name = "flag-unknown", match[1] or match[2]
            what = "flag" if name.startswith("-") else "argument" if match[1] else "key or flag"
            sentence = f"there is no {what} {name}{self._nearest(name)}"
        elif "expected one argument" in message or "are required" in message:
            code = "value-missing"
        if not self.exit_on_error:  # the parser of a class: the one of the command adds the key
            super().error(sentence, ex)
        if match := re.match(r'Parser key "(.*?)":(.*)', sentence, re.DOTALL):
            source = self.given.source(match[1])
            code = "recipe-invalid" if source.startswith("--config") else code
            raise UsageError(code, _plain(source, one_line(match[2]))) from ex
        raise UsageError(code, one_line(sentence)) from ex

    def refuse_unknown_keys(self, recipe: dict[str, Any], source: str) -> None:
        """Refuses a recipe with a key that no flag has; keys of classes are checked when their values are parsed."""
        for key, value in recipe.items():
            whole = key not in SECTIONS or "class_path" in value
            for name in [key] if whole else [f"{key}.{inner}" for inner in value]:
                if f"--{name.rstrip('+')}" not in self._option_string_actions:
                    raise UsageError("recipe-invalid", f"{source}: there is no key {name}{self._nearest(name)}")

    def _nearest(self, name: str) -> str:
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        inner = [flag for flag in flags if flag.endswith(f".{name.lstrip('-')}")]  # without its section
        renamed = RENAMED.get(f"--{name.lstrip('-')}")
        close = (
            [renamed] if renamed in flags else inner[:1] or difflib.get_close_matches(f"--{name.lstrip('-')}", flags, 1)
        )
        if not close:
            return "; --help lists all that exist"
        return f"; did you mean {close[0] if name.startswith('-') else close[0].lstrip('-')}?"

    def make(self, config: Namespace) -> Namespace:
        """Returns the values with objects in place of the classes that they name. UsageError if a class refuses."""
        try:
            return self.instantiate(config, instantiators=[(_made, object, True)])
        except (TypeError, ValueError, ImportError) as error:
            raise UsageError("value-invalid", one_line(str(error))) from error

    def format_help(self, formatter: Any = None) -> str:
        """Returns the help: a line for each flag, and its description below it."""
        width = min(shutil.get_terminal_size().columns, 100) - 2
        lines = [f"usage: {self.usage or f'{self.prog} [options]'}".replace("%(prog)s", self.prog)]
        for text in (self.description, self.epilog):
            lines += ["", *textwrap.wrap(text, width)] if text else []
        for title, actions in self._sections():
            lines += ["", f"{title}:"] if actions else []
            for action in actions:
                lines.append(f"  {_invocation(action)}")
                lines += textwrap.wrap(_description(action), width, initial_indent=" " * 6, subsequent_indent=" " * 6)
        return "\n".join(lines) + "\n"

    def _sections(self) -> Iterator[tuple[str, list[argparse.Action]]]:
        for group in self._action_groups:
            shown = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
            # what has no flag is explained in the usage
            shown = [a for a in shown if a.option_strings and not a.option_strings[0].endswith(".help")]
            shown = [action for action in shown if action.metavar != "CONFIG"]
            shown.sort(key=lambda action: FIRST.index(action.dest) if action.dest in FIRST else len(FIRST))
            yield group.title or "options", [action for action in shown if action.dest not in OPTIMIZER]
            yield "optimizer and schedule", [action for action in shown if action.dest in OPTIMIZER]


def add_run_arguments(parser: Parser, recipe: str) -> None:
    """Adds what fit, validate, test and predict take besides data, model and Trainer; `recipe` is a default."""
    add = parser.add_argument
    add("-c", "--config", action=RecipeAction, metavar="FILE", help="Recipe; of several, later ones win.")
    add("--ckpt_path", type=str | None, help="Checkpoint to start from: a path, or best or last.")
    weights = "Start a new training from a checkpoint's weights (fit): its path, or best or last of the newest run."
    add("--init_from", type=str | None, help=weights)
    add("--resume", type=Literal["never", "auto"], default="never", help="auto: go on from the newest last.ckpt (fit).")
    add("--seed_everything", type=int, default=0, help="Seed of everything random.")
    add("--recipe", type=str, default=recipe, help="Name of the recipe; runs are kept in lightning_logs/<recipe>.")
    seconds = "Seconds between two writings of last.ckpt, which is also written at the end of each epoch (fit)."
    add("--checkpoint_seconds", type=float, default=60.0, help=seconds)
    note = "What to remember about the run: shown by the command runs and in its report (fit)."
    add("--note", type=str, metavar="TEXT", help=note)
    precision = "Compute in bf16 or fp16 if the hardware is fast at it, unless --trainer.precision is given."
    add("--fast_precision", type=bool, default=False, help=precision)


def add_checkpoint_arguments(parser: Parser) -> None:
    """Adds the flags with which predict, export and demo name a trained network."""
    parser.add_argument("--ckpt_path", type=str, help="A checkpoint, or best (the default) or last of the newest run.")
    parser.add_argument("--model.net", type=str, help="Class path of your own network, if the checkpoint is of one.")
    parser.add_argument("--trainer.default_root_dir", type=Path, default=Path(), help="Folder of lightning_logs.")


def one_line(message: str) -> str:
    """Returns jsonargparse's message in one line, without the modules of the types that it lists."""
    lines = [line.strip(" -").partition(". Got value: Namespace")[0] for line in message.splitlines()]
    text = "; ".join(line for line in lines if line and not NOISE.match(line))
    text = re.sub(r"<class '(?:[\w<>]+\.)*(\w+)'>|\b(?:\w+\.)+(?=[A-Z]\w+[\[\],])", r"\1", text)
    return text.replace(":;", ":").rstrip(".:")


def _plain(source: str, text: str) -> str:
    """Returns jsonargparse's message as `--data.resize foo must be squeeze, crop or pad`, or as it is."""
    while inner := INNER.fullmatch(text):
        source, text = f"{source}.{inner[1]}", inner[2]
    match, choices = WRONG.fullmatch(text), list[str]()
    for kind in match[1].split("; ") if match else ():
        kind = kind.removeprefix("Expected a ")
        if not kind.startswith("Literal[") and kind not in KINDS:
            return f"{source}: {text}"
        choices += KINDS.get(kind) or map(str, literal_eval(kind.removeprefix("Literal")))
    if not match:
        return f"{source}: {text}"
    if "a number" in choices:
        choices = [choice for choice in choices if choice != "an integer"]
    hint = meant(match[2], choices)
    if source.endswith("data.dataset"):
        from lit_cifar.data.sources import meant_dataset  # imports torch, which not all commands need: 2 s

        hint = meant_dataset(match[2])
    return f"{source} {match[2]} must be {either(choices)}" + (f"; {hint}" if hint else "")


def _made(class_type: type[Any], *args: Any, **kwargs: Any) -> Any:
    """Makes an object of a class that the user names; a refusal of its own names the class."""
    from lit_cifar.runs.network import named_objects

    try:
        return class_type(*args, **named_objects(class_type, kwargs))
    except (UserError, OSError):
        raise
    except Exception as error:  # the code of a network or callback may raise anything
        raise ValueError(f"{class_type.__name__}: {' '.join(str(error).split()) or type(error).__name__}") from error


def _invocation(action: argparse.Action) -> str:
    names = [name for name in action.option_strings if not name.endswith("+")]
    names[-1] += "[+]" if len(names) < len(action.option_strings) else ""
    if action.nargs == 0:
        return ", ".join(names)
    return f"{', '.join(names)} {action.metavar or action.dest.rpartition('.')[2].upper()}"


def _description(action: argparse.Action) -> str:
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", " ".join((action.help or "").split())).replace("``", "")
    if action.default in (None, argparse.SUPPRESS, "", ()) or action.nargs == 0:
        return text
    text = re.sub(r"\s*Default: .*?(\.$|\. |$)", " ", text).strip()
    return f"{text} (default: {_shown(action.default)})"


def _shown(value: Any) -> str:
    if isinstance(value, dict | Namespace):  # a class and its arguments
        return str(value["class_path"])
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
