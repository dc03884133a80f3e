"""The commands of `python -m lit_cifar`, and how one of them is found and run."""

import difflib
import re
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from lit_cifar import __version__
from lit_cifar.cli.process import collect_from_now_on, library_settings
from lit_cifar.errors import UsageError


class Command(NamedTuple):
    """One line of the table: how it is called, what it does, and the module in this folder whose `main` runs it."""

    call: str
    summary: str
    module: str


COMMANDS = {
    "fit": Command("fit", "Train a network, then test it.", "fit"),
    "validate": Command("validate", "Measure a checkpoint on the images held out of training.", "evaluate"),
    "test": Command("test", "Measure a checkpoint on the test images.", "evaluate"),
    "predict": Command("predict", "Predict the test images.", "evaluate"),
    "predict PATH": Command("predict PATH ...", "Predict pictures of your own.", "predict"),
    "show": Command("show", "Write a labelled grid of training images to a PNG.", "show"),
    "bench": Command("bench", "Train with several seeds or numbers of epochs, and compare.", "bench"),
    "export": Command("export", "Write a trained network to an ONNX, torch.export or safetensors file.", "export"),
    "demo": Command("demo", "Serve a page on which to try a trained network.", "demo"),
}
HELP = {"-h", "--help"}


def overview() -> str:
    """What `--help` prints: every command in one line."""
    width = max(len(command.call) for command in COMMANDS.values())
    table = "\n".join(f"  {command.call:<{width}}  {command.summary}" for command in COMMANDS.values())
    return f"""usage: python -m lit_cifar COMMAND [options]

CIFAR-10 in PyTorch Lightning: train, test and look, with one command.

commands:
{table}

options:
  -h, --help   Show this table, or after a command its options.
  --version    Show the version.

examples:
  python -m lit_cifar fit
  python -m lit_cifar fit --config configs/resnet18.yaml --trainer.max_epochs 10
  python -m lit_cifar test --ckpt_path best
  python -m lit_cifar predict photo.jpg
"""


def run(words: list[str]) -> None:
    """Runs one command.

    Args:
        words: What follows `python -m lit_cifar` on the command line.

    Raises:
        UsageError: The words on the command line, or in a recipe, are wrong.
        UserError: Something outside the program went wrong.
    """
    if not words:
        print(overview(), end="")
        raise SystemExit(2)
    name, *rest = words
    if name in HELP:
        print(overview(), end="")
    elif name == "--version":
        print(f"lit_cifar {__version__}")
    elif name not in COMMANDS or " " in name:
        raise UsageError("command-unknown", f"there is no command {name}{_nearest(name)}")
    else:
        _run(name, [_expanded(word) for word in rest])


def _run(name: str, words: list[str]) -> None:
    if name == "predict":
        from lit_cifar.cli.predict import names_pictures

        if names_pictures(words) or HELP & {*words}:
            name = "predict PATH"
    module = import_module(f"lit_cifar.cli.{COMMANDS[name].module}")
    collect_from_now_on()
    with library_settings():
        if COMMANDS[name].module == "evaluate":
            module.main(name, words)
        else:
            module.main(words)


def _expanded(word: str) -> str:
    """The word with a leading ~ as the home folder: most shells expand it only at the start of a word, not after =."""
    if re.fullmatch(r"--[\w.]+=--", word):  # argparse would take it for an empty list
        raise UsageError("value-invalid", f"{word}: -- is not a value; use another one")
    return re.sub(r"^(--[\w.+]+=)?~(?=[/\\]|$)", lambda found: f"{found[1] or ''}{Path.home()}", word)


def _nearest(name: str) -> str:
    known = [command for command in COMMANDS if " " not in command]
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else f"; choose one of {', '.join(known)}"
