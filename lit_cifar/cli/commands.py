"""The commands of `python -m lit_cifar`, and how one of them is found and run."""

import re
from importlib import import_module
from pathlib import Path

from lit_cifar import __version__
from lit_cifar.cli.process import library_settings
from lit_cifar.errors import UsageError, meant

COMMANDS = {
    "fit": ("fit", "Train a network, then test it."),
    "validate": ("fit", "Measure a checkpoint on the images held out of training."),
    "test": ("fit", "Measure a checkpoint on the test images."),
    "predict": ("fit", "Predict the test images."),
    "predict PATH ...": ("predict", "Predict pictures of your own."),
    "show": ("show", "Write a labelled grid of training images to a PNG."),
    "nets": ("nets", "List the networks: size, speed, and accuracy as published."),
    "runs": ("runs", "List what was trained: settings, accuracies, how it ended."),
    "compare": ("compare", "Train variants with the same seeds, and compare them."),
    "sweep": ("sweep", "Search for the best settings, by Optuna."),
    "export": ("export", "Write a trained network to an ONNX, torch.export or safetensors file."),
    "demo": ("demo", "Serve a page on which to try a trained network."),
}
"""How a command is called, the module in this folder whose `main` runs it, and what it does."""
HELP = {"-h", "--help"}
TABLE = "\n".join(f"  {call:<16}  {summary}" for call, (_, summary) in COMMANDS.items())
OVERVIEW = f"""usage: python -m lit_cifar COMMAND [options]

CIFAR-10 in PyTorch Lightning: train, test and look, with one command.

commands:
{TABLE}

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
    """Runs one command: `words` is what follows `python -m lit_cifar`. Raises UsageError or UserError."""
    if not words or words[0] in HELP:
        print(OVERVIEW, end="")
        raise SystemExit(0 if words else 2)
    name = words[0]
    if name == "--version":
        print(f"lit_cifar {__version__}")
        return
    if name not in COMMANDS or " " in name:
        known = [command for command in COMMANDS if " " not in command]
        hint = meant(name, known) or f"choose one of {', '.join(known)}"
        raise UsageError("command-unknown", f"there is no command {name}; {hint}")
    flags, module = [_expanded(word) for word in words[1:]], COMMANDS[name][0]
    if name == "predict":
        from lit_cifar.cli.predict import names_pictures

        if names_pictures(flags) or HELP & {*flags}:
            module = "predict"
    main = import_module(f"lit_cifar.cli.{module}").main
    with library_settings():
        main(*([name, flags] if module == "fit" else [flags]))


def _expanded(word: str) -> str:
    """The word with a leading ~ as the home folder: most shells expand it only at the start of a word, not after =."""
    if re.fullmatch(r"--[\w.]+=--", word):  # argparse would take it for an empty list
        raise UsageError("value-invalid", f"{word}: -- is not a value; use another one")
    return re.sub(r"^(--[\w.+]+=)?~(?=[/\\]|$)", lambda found: f"{found[1] or ''}{Path.home()}", word)
