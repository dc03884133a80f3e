"""What `--help` shows: the flags that matter, with a sentence each. `--help=WORD` shows the others, with all details.

A flag is explained where it is declared. Of Lightning's Trainer, those that most trainings need are explained here.
"""

import argparse
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jsonargparse import Namespace

from lit_cifar.errors import UsageError, either, meant

Groups = Mapping[str, Sequence[str]]
"""Titles, each with the flags below it, without their dashes."""

NAMES = 30  # characters of a flag beside its text; a longer one has a line of its own
WIDEST = 100  # columns
AUGMENTATION = ("flip", "crop", "cutout", "jitter", "erase", "mixup", "cutmix", "trivial_augment")
IMAGES = ("data.root", "data.dataset", "data.image_size", "data.resize")
HARDWARE = ("trainer.accelerator", "trainer.devices", "trainer.precision", "fast_precision")
FIT: Groups = {
    "recipe and checkpoint": ("config", "seed_everything", "ckpt_path", "resume", "init_from"),
    "data": (*IMAGES, "data.batch_size", "data.val_size", "data.normalize"),
    "augmentation": tuple(f"data.{name}" for name in AUGMENTATION),
    "network": ("model.net", "model.loss", "model.test_time_augmentation", "model.compile"),
    "optimizer and schedule": ("model.optimizer", "model.lr_scheduler", "model.lr_scheduler_interval"),
    "training": (
        *(f"trainer.{name}" for name in ("max_epochs", "max_steps", "max_time")),
        *HARDWARE,
        *(f"trainer.{name}" for name in ("accumulate_grad_batches", "gradient_clip_val", "limit_train_batches")),
        *("trainer.callbacks", "trainer.fast_dev_run"),
    ),
    "output": (
        *("trainer.default_root_dir", "recipe", "note", "trainer.logger", "checkpoint_seconds"),
        *("trainer.enable_progress_bar", "print_config"),
    ),
}
MEASURE: Groups = {
    "checkpoint": ("ckpt_path", "recipe", "model.net"),
    "data": ("data.root", "data.dataset", "data.eval_batch_size"),
    "measuring": ("model.test_time_augmentation", "model.confidence_threshold", *HARDWARE),
    "output": ("trainer.default_root_dir", "trainer.logger", "trainer.enable_progress_bar"),
}
SHOW: Groups = {
    "picture": ("output", "count", "augmented"),
    "data": ("config", *IMAGES, "data.seed"),
    "augmentation": tuple(f"data.{name}" for name in AUGMENTATION),
}
TEXTS = {
    "help": "Show this help.",
    "print_config": "Print all settings as YAML, and exit.",
    "trainer.max_epochs": "Epochs to train; -1 for no end.",
    "trainer.max_steps": "Steps after which training ends; -1 for no limit.",
    "trainer.max_time": "Time after which training ends, as DAYS:HOURS:MINUTES:SECONDS, such as 00:01:30:00.",
    "trainer.accelerator": "Hardware: cpu, gpu, mps, tpu or auto.",
    "trainer.devices": "How many devices, such as 2, or which, such as [0, 2]; -1 for all. On a CPU, the number of"
    " processes.",
    "trainer.precision": "Precision of numbers: 32-true (the default), bf16-mixed or 16-mixed.",
    "trainer.accumulate_grad_batches": "Batches that make one step of the optimizer.",
    "trainer.gradient_clip_val": "Largest norm of a gradient; a larger one is scaled down to it. By default, there is"
    " no limit. With gradient_clip_algorithm value, the largest absolute value.",
    "trainer.limit_train_batches": "Batches of an epoch: their number, or a share such as 0.1. By default, all.",
    "trainer.callbacks": "Callbacks of Lightning or your own, by class path; --trainer.callbacks+ adds one.",
    "trainer.fast_dev_run": "Only try everything with one batch, or this number of batches; writes nothing.",
    "trainer.default_root_dir": "Folder of lightning_logs/; by default, the current one.",
    "trainer.logger": "Loggers besides TensorBoard's, by class path; with false, there is no run folder.",
    "trainer.enable_progress_bar": "false shows no progress.",
}
"""Explanations in place of those that the flags bring."""


class PlainParser(argparse.ArgumentParser):
    """argparse's parser with our help, for a command that leaves most flags to `fit` or `test`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, add_help=False, allow_abbrev=False, exit_on_error=False)
        self.add_argument("-h", "--help", action=HelpAction)

    def format_help(self) -> str:
        return short_help(self, None)


class HelpAction(argparse._HelpAction):
    """`--help`, or `--help=WORD` for the flags whose names have this word, or `--help=all`."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        argparse.Action.__init__(self, option_strings, dest, "?", "", argparse.SUPPRESS, help=TEXTS["help"])

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        print(chosen_help(parser, values) if values else parser.format_help(), end="")
        parser.exit()


def short_help(parser: argparse.ArgumentParser, groups: Groups | None) -> str:
    """Returns the help: of these groups the first sentence of each flag or, without groups, of all flags everything."""
    known = {action.dest: action for action in _shown(parser)}
    lines = _beginning(parser)
    lines += _paragraph("Most people need these flags; --help=all explains all flags.") if groups else []
    for title, names in (groups or {"options": [*known]}).items():
        names = [name for name in names if name in known]  # classes of a user's own have other flags
        lines += ["", f"{title}:"] if names else []
        for name in names:
            action = known[name]
            if groups:
                lines += _row(", ".join(_names(action)), _described(action, first_sentence=True))
            else:
                lines += _row(_invocation(action), _described(action))
    if groups:
        lines += ["", "more help:"]
        for flag, text in _more(parser):
            if groups is not MEASURE or flag.startswith("--help"):  # what is measured needs no optimizer
                lines += _row(flag, text)
    return "\n".join(lines) + "\n"


def chosen_help(parser: argparse.ArgumentParser, word: str) -> str:
    """Returns all that is known about the flags of a section or, in any section, with a word in their names."""
    sections = dict(_sections(parser))
    found = sections if word == "all" else {title: each for title, each in sections.items() if title == word}
    if not found:
        having = {title: [each for each in flags if word in each.dest] for title, flags in sections.items()}
        found = {title: flags for title, flags in having.items() if flags}
    if not found:
        hint = meant(word, [*sections, *(each.dest for flags in sections.values() for each in flags)])
        raise UsageError("flag-unknown", f"--help={word}: no flag has {word} in its name; {hint or 'use --help=all'}")
    lines = _beginning(parser)[:1]
    for title, flags in found.items():
        lines += ["", f"{title}:", *_in_full(flags)]
    return "\n".join(lines) + "\n"


def class_help(parser: argparse.ArgumentParser) -> str:
    """Returns the help of jsonargparse's `--model.optimizer.help AdamW`, whose parser knows no command."""
    lines = [(parser.description or "").rpartition("=")[2]]
    for group in parser._action_groups:
        if flags := [action for action in _shown(parser) if action in group._group_actions]:
            lines += ["", *_wrapped(f"{group.title}:", 0), *_in_full(flags)]
    return "\n".join(lines if len(lines) > 1 else [*lines, "It has no arguments."]) + "\n"


def _in_full(flags: Iterable[argparse.Action]) -> Iterator[str]:
    for action in flags:
        yield f"  {_invocation(action)}"
        yield from _wrapped(_described(action), 6)


def _beginning(parser: argparse.ArgumentParser) -> list[str]:
    usage = f"usage: {parser.usage or '%(prog)s [options]'}".replace("%(prog)s", parser.prog)
    return [*usage.splitlines(), *_paragraph(parser.description), *_paragraph(parser.epilog)]


def _more(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    sections = [title for title, _ in _sections(parser) if title != "options"]
    yield f"--help={sections[0]}", f"Everything about the flags of a section: {either(sections)}."
    yield "--help=WORD", "The same of flags with this word in their names, such as --help=batch."
    yield "--help=all", "The same of all flags."
    if "trainer" in sections:
        yield (
            "--model.optimizer.help NAME",
            "Arguments of an optimizer, such as AdamW; --model.optimizer.lr 0.01 sets one.",
        )
        yield "--model.net.help NAME", "Arguments of a network; the command nets lists the networks."
        yield "--model.lr_scheduler.help NAME", "Arguments of a schedule, such as OneCycleLR."
        yield "--trainer.callbacks.help NAME", "Arguments of a callback, such as EarlyStopping."


def _sections(parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[argparse.Action]]]:
    named = {id(group): name for name, group in (getattr(parser, "groups", None) or {}).items()}
    for group in parser._action_groups:
        if shown := [action for action in _shown(parser) if action in group._group_actions]:
            yield named.get(id(group), group.title or "options"), shown


def _shown(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Returns the flags that are shown; what has no flag is explained in the usage."""
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS and action.option_strings]
    return [each for each in shown if not each.option_strings[0].endswith(".help") and each.metavar != "CONFIG"]


def _row(flag: str, text: str) -> list[str]:
    """Returns lines with a flag in the first column and its text in the second."""
    lines = _wrapped(text, NAMES + 4)
    if len(flag) > NAMES or not lines:
        return [f"  {flag}", *lines]
    return [f"  {flag:<{NAMES}}  {lines[0].lstrip()}", *lines[1:]]


def _wrapped(text: str, indent: int) -> list[str]:
    width = min(shutil.get_terminal_size().columns, WIDEST) - 2
    return textwrap.wrap(text, max(width, indent + 20), initial_indent=" " * indent, subsequent_indent=" " * indent)


def _paragraph(text: str | None) -> list[str]:
    return ["", *_wrapped(" ".join(text.split()), 0)] if text else []


def _names(action: argparse.Action) -> list[str]:
    names = [name for name in action.option_strings if not name.endswith("+")]
    names[-1] += "[+]" if len(names) < len(action.option_strings) else ""
    return names


def _invocation(action: argparse.Action) -> str:
    if action.nargs == 0 or isinstance(action, HelpAction):
        return ", ".join(_names(action))
    return f"{', '.join(_names(action))} {action.metavar or action.dest.rpartition('.')[2].upper()}"


def _described(action: argparse.Action, first_sentence: bool = False) -> str:
    text = TEXTS.get(action.dest) or " ".join((action.help or "").split())
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", text).replace("``", "")
    if first_sentence:
        text = re.split(r"(?<=\.)\s", text)[0]
    if action.default in (None, argparse.SUPPRESS, "", ()) or action.nargs == 0 or "by default" in text:
        return text
    text = re.sub(r"\s*Default: .*?(\.$|\. |$)", " ", text).strip()
    return f"{text} (default: {_value(action.default)})"


def _value(value: Any) -> str:
    if isinstance(value, dict | Namespace):  # a class and its arguments
        return str(value["class_path"])
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
