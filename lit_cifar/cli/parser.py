"""The command line's parser: a mistake is one sentence, with the nearest flag or key that exists."""

import difflib
import re
from ast import literal_eval
from pathlib import Path
from typing import Any, Literal, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace  # type: ignore[attr-defined]

from lit_cifar.cli.help import Groups, HelpAction, class_help, short_help
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
LACKING = re.compile(
    r"(?:Problem with given class_path '[\w.]*?(\w+)')?.*?the following arguments are required: (\w+(?:, \w+)*).*"
)
KINDS = {"int": ["an integer"], "float": ["a number"], "bool": ["true", "false"]}
RENAMED = {"--data.mean": "--data.normalize", "--data.std": "--data.normalize"}


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
    essentials: Groups | None = None
    """The flags that `--help` shows, if it doesn't show all."""

    def __init__(self, *args: Any, add_help: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, add_help=False, **({"allow_abbrev": False} | kwargs))
        if add_help:
            self.add_argument("-h", "--help", action=HelpAction)

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
            return "; --help=all lists all that exist"
        return f"; did you mean {close[0] if name.startswith('-') else close[0].lstrip('-')}?"

    def make(self, config: Namespace) -> Namespace:
        """Returns the values with objects in place of the classes that they name. UsageError if a class refuses."""
        try:
            return self.instantiate(config, instantiators=[(_made, object, True)])
        except (TypeError, ValueError, ImportError) as error:
            raise UsageError("value-invalid", one_line(str(error))) from error

    def format_help(self, formatter: Any = None) -> str:
        """Returns the help, of a command or of a class whose help was asked for."""
        if (self.description or "").startswith("Help for --"):
            return class_help(self)
        return short_help(self, self.essentials)


def add_run_arguments(parser: Parser, recipe: str) -> None:
    """Adds what fit, validate, test and predict take besides data, model and Trainer; `recipe` is a default."""
    add = parser.add_argument
    add("-c", "--config", action=RecipeAction, metavar="FILE", help="Recipe, a YAML file; of several, later ones win.")
    path = "Checkpoint to go on with, or to measure: a path, or best or last of the newest run."
    add("--ckpt_path", type=str | None, help=path)
    weights = "Checkpoint whose weights a new training starts from: a path, or best or last. Only fit takes it."
    add("--init_from", type=str | None, help=weights)
    resume = "With auto, training goes on from the newest last.ckpt, if there is one. Only fit does it."
    add("--resume", type=Literal["never", "auto"], default="never", help=resume)
    add("--seed_everything", type=int, default=0, help="Seed of everything random.")
    add("--recipe", type=str, default=recipe, help="Name of the recipe; runs are kept in lightning_logs/<recipe>.")
    seconds = "Seconds between two writings of last.ckpt. It is also written at the end of each epoch of fit."
    add("--checkpoint_seconds", type=float, default=60.0, help=seconds)
    note = "What to remember about the run. It is shown by the command runs and in the report. Only fit takes it."
    add("--note", type=str, metavar="TEXT", help=note)
    precision = "Compute in bf16 or fp16 if the hardware is fast at it, unless --trainer.precision is given."
    add("--fast_precision", type=bool, default=False, help=precision)


def add_checkpoint_arguments(parser: Parser) -> None:
    """Adds the flags with which predict, export and demo name a trained network."""
    add, net = parser.add_argument, "Class path of your own network, if the checkpoint is of one."
    add("--ckpt_path", type=str, metavar="FILE", help="A checkpoint, or best (the default) or last of the newest run.")
    add("--model.net", type=str, metavar="CLASS", help=net)
    add("--trainer.default_root_dir", type=Path, default=Path(), metavar="FOLDER")


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
    if match := LACKING.fullmatch(text):
        prefix = "init_args" if source.startswith("--config") else source
        needed = " and ".join(f"{prefix}.{name}" for name in match[2].split(", "))
        return f"{source} {match[1]} needs {needed}" if match[1] else f"{source} needs {needed}"
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
