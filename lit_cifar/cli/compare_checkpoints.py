"""`python -m lit_cifar compare --checkpoints A B …`: are trained networks different on the same test images?

Each is tested as `test` does, with its own normalization and size of images. What only one of two predicts right tells
them apart much better than their accuracies, whose intervals don't know that the images are the same.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from lit_cifar.cli.arguments import refusals_of_lightning
from lit_cifar.cli.build import build
from lit_cifar.cli.help import PlainParser
from lit_cifar.cli.recipes import Given
from lit_cifar.errors import UsageError, UserError, listed
from lit_cifar.evaluation.statistics import mcnemar, paired_shares, scipy_stats, wilson
from lit_cifar.evaluation.wording import interval, percent
from lit_cifar.report.run_report import RunReport, in_order
from lit_cifar.report.tables import plural, printable
from lit_cifar.runs.checkpoint import Checkpoint, find_checkpoint
from lit_cifar.training.classifier import LitClassifier

DESCRIPTION = "Compare checkpoints on the same test images, each with the first."
ALONE = ("--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.logger=false")  # tests write nothing


class Tested(NamedTuple):
    """What a network made of the test images."""

    path: str  # as it is printed
    data: str
    labels: Tensor
    right: Tensor  # bool, of each image


def main(argv: list[str]) -> None:
    """Tests each of the checkpoints, and prints accuracies and what differs from the first."""
    parser = PlainParser(
        prog="python -m lit_cifar compare",
        description=DESCRIPTION,
        epilog="Flags of test, such as --data.root DIR, are passed on to it.",
    )
    help_text = "Two or more: paths, or best or last of the newest run."
    parser.add_argument("--checkpoints", nargs="*", action="extend", default=[], metavar="PATH", help=help_text)
    try:
        options, flags = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UsageError("value-missing", f"compare: {error}") from error
    for flag in flags:
        if flag.partition("=")[0] in ("--ckpt_path", "--init_from", "--resume"):
            raise UsageError("value-invalid", f"{flag} is not for compare; name checkpoints with --checkpoints")
    scipy_stats()  # or refuses before anything is tested
    checkpoints = _read(options.checkpoints, Path(Given(flags).get("trainer.default_root_dir") or "."))
    first = _test(checkpoints[0], flags)
    print(f"Tested on the {plural(len(first.right), 'test image')} of {first.data}, with 95 % intervals:", flush=True)
    _print_accuracy(first)
    others = []
    for checkpoint in checkpoints[1:]:
        others.append(other := _test(checkpoint, flags))
        if not other.labels.equal(first.labels):
            sentence = f"{other.path} is tested on {other.data}, and {first.path} on {first.data}"
            raise UsageError("data-unfit", f"--checkpoints: {sentence}; name one with --data.root and --data.dataset")
        _print_accuracy(other)
    for other in others:
        _print_difference(first, other)


def _read(paths: list[str], root: Path) -> list[Checkpoint]:
    """Reads the checkpoints, or raises UsageError if they can't be compared."""
    if len(paths) < 2:
        named = f"--checkpoints {' '.join(paths)}".strip()
        raise UsageError("value-missing", f"{named}: compare needs at least two checkpoints; add another one")
    found: dict[Path, Checkpoint] = {}
    for path in paths:
        try:
            checkpoint = find_checkpoint(path, root)
        except UserError as error:
            raise type(error)(error.code, str(error).replace("--ckpt_path", "--checkpoints")) from error
        real = checkpoint.path.resolve()
        if real in found:
            sentence = f"--checkpoints {path} is the same file as {found[real].path}"
            raise UsageError("value-invalid", f"{sentence}; name each checkpoint once")
        found[real] = checkpoint
    first, *others = found.values()
    for other in others:
        if other.card.classes != first.card.classes:
            known = f"{first.path} knows the classes {listed(first.card.classes)}"
            sentence = f"{known}, but {other.path} {listed(other.card.classes)}"
            raise UsageError("data-classes", f"--checkpoints: {sentence}; compare checkpoints of the same classes")
    return [first, *others]


def _test(checkpoint: Checkpoint, flags: list[str]) -> Tested:
    with refusals_of_lightning():
        run = build("test", [*flags, f"--ckpt_path={checkpoint.path}", *ALONE], DESCRIPTION)
        if not isinstance(run.model, LitClassifier):
            raise UsageError("value-invalid", "compare --checkpoints is not for a module or data module of your own")
        callbacks: list[object] = run.trainer.callbacks
        callbacks[:] = [each for each in callbacks if not isinstance(each, RunReport)]  # which prints all of it
        run.trainer.test(run.model, None, run.checkpoint, verbose=False, datamodule=run.data, weights_only=True)
    predicted = in_order(run.trainer, run.model.test_logits).argmax(1)
    data = run.model.datamodule
    labels = data.images.test.labels[: len(predicted)]
    return Tested(printable(str(checkpoint.path)), printable(data.title), labels, predicted == labels)


def _print_accuracy(tested: Tested) -> None:
    right, total = int(tested.right.sum()), len(tested.right)
    print(f"{percent(right / total)} ({interval(*wilson(right, total))})  {tested.path}", flush=True)


def _print_difference(first: Tested, second: Tested) -> None:
    """Prints the difference of two networks, with an interval and the p of McNemar's exact test."""
    only_first, only_second = int((first.right & ~second.right).sum()), int((second.right & ~first.right).sum())
    total = len(first.right)
    low, high = (bound * 100 for bound in paired_shares(only_first, only_second, total))
    p = mcnemar(only_first, only_second)
    print(f"\n{second.path} compared with {first.path}:")
    print(f"  only the first is right about {plural(only_first, 'image')}, only the second about {only_second:,}")
    points = (only_second - only_first) / total * 100
    print(f"  difference: {points:+.2f} percentage points (95 % interval: {low:+.2f} to {high:+.2f})")
    print(f"  McNemar's exact test: p {'< 0.0001' if p < 0.0001 else f'= {p:.4f}'}")
