"""What a run prints, plain lines and tables, and predictions.csv."""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Column, Table

from lit_cifar.data.files import RUNS_FLAG, write_whole
from lit_cifar.evaluation.statistics import wilson
from lit_cifar.evaluation.wording import interval, percent
from lit_cifar.runs.state import RUNS

if TYPE_CHECKING:  # tables of runs need no torch
    from torch import Tensor

    from lit_cifar.data.sources import Images

IN_ONE_BLOCK = 20  # classes, each with a bar; more stand in several blocks, without bars
BAR = 30  # width of the bar of 100 %, in characters
VALIDATED, LAST = "validation accuracy", "last weights"  # how the weights that are tested were chosen
NARROW = 60  # characters; on a narrower console, runners-up stand below each other

Guesses = list[tuple[str, float]]  # classes with their probabilities, the most probable first


def _console(soft_wrap: bool = True, markup: bool = True) -> Console:
    return Console(soft_wrap=soft_wrap, markup=markup, highlight=False, emoji=False)  # a class may be called :car:


def duration(seconds: float) -> str:
    """Returns `2.6 s`, `41 s` or `12 min 05 s`."""
    if seconds < 600:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def plural(count: float, noun: str) -> str:
    """Returns `1 epoch` or `2 epochs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def print_start(data: str, images: str, net: str, device: str) -> None:
    """Prints the data, what becomes of their images, the network and the device of a training."""
    console = _console()
    for name, text in (("Data", data), ("Images", images), ("Net", net), ("Device", device)):
        console.print(f"[bold]{name:<6}[/bold] {escape(text)}")


def described_images(side: int, resize: str, mean: Sequence[float], std: Sequence[float]) -> str:
    """Returns `64 × 64 pixels (crop), mean 0.4914 0.4822 0.4465, standard deviation 0.2470 0.2435 0.2616`."""
    numbers = (" ".join(f"{value:.4g}" for value in values) for values in (mean, std))
    way = f" ({resize})" if resize else ""
    return "{} × {} pixels{}, mean {}, standard deviation {}".format(side, side, way, *numbers)


def print_drawn_box(images: "Images") -> None:
    """Prints a warning in a box if `--data.dataset auto` fell back on synthetic images."""
    if images.why_drawn:
        text = "These are NOT the images of CIFAR-10 but synthetic ones. Accuracies on them say nothing about CIFAR-10."
        text += f"\n\nReason: {escape(images.why_drawn)}"
        _console(soft_wrap=False).print(Panel(text, title="SYNTHETIC IMAGES", border_style="bold red", padding=(1, 2)))


def print_report(report: dict[str, Any], data: str, trained: bool) -> None:
    """Prints the accuracy on the test images and on each class, and what training took."""
    if trained:
        print_finished(report["epochs"], report["steps"], report["train_seconds"])
    print_weights("Tested", report)
    print_accuracies("test images", report["confusion_matrix"], report, data)


def print_finished(epochs: float, steps: int, seconds: float) -> None:
    """Prints what a training took."""
    epochs = int(epochs) if float(epochs).is_integer() else epochs
    _console().print(f"Finished training: {plural(epochs, 'epoch')}, {steps:,} steps in {duration(seconds)}")


def print_untested(root: Path) -> None:
    """Prints that a folder has nothing to test the trained network on."""
    _console().print(f"Nothing was tested: {escape(str(root))} has no folder test")


def how_chosen(chosen_by: str) -> str:
    """Returns `chosen by validation accuracy`, `the last weights` or `named by the user`."""
    return {VALIDATED: f"chosen by {VALIDATED}", LAST: f"the {LAST}"}.get(chosen_by, chosen_by)


def print_weights(verb: str, weights: Mapping[str, Any]) -> None:
    """Prints, from keys of report.json, which weights were measured, how they were chosen, and what validation gave."""
    path = short(Path(weights["checkpoint"])) if weights["checkpoint"] else "the weights in memory"
    how, after = how_chosen(weights["chosen_by"]), plural(weights["checkpoint_epoch"], "epoch")
    _console(markup=False).print(f"{verb} {printable(path)}, {how}, after {after}")
    if weights["val_accuracy"] is not None:
        found = f"{percent(weights['val_accuracy'])} (95 % interval: {interval(*weights['val_accuracy_interval'])})"
        _console().print(f"Validation accuracy of these weights: {found}")


def print_accuracies(
    images: str, matrix: Sequence[Sequence[int]], scores: Mapping[str, dict[str, Any]], data: str
) -> None:
    """Prints the accuracy on all images as the tutorial does, and a table of the classes that have images."""
    right, total = sum(row[i] for i, row in enumerate(matrix)), sum(map(sum, matrix))
    found = f"[bold]{percent(right / total)}[/bold] (95 % interval: {interval(*wilson(right, total))})"
    _console().print(f"Accuracy of the network on the {total} {images}: {found}")
    _console().print(f"Accuracy per class on {escape(data)}:")
    console = _console(soft_wrap=False)
    rows = [
        (printable(name), scores["class_recall"][name], interval(*bounds))
        for name, bounds in scores["class_accuracy_interval"].items()
        if bounds is not None
    ]
    longest = max(map(len, ["interval", *(text for *_, text in rows)]))
    numbers = len("accuracy") + longest + 6
    width = max(map(cell_len, ["class", *(name for name, *_ in rows)])) + numbers
    # beside each other, four columns each; two spaces follow each column but the last
    blocks = 1 if len(rows) <= IN_ONE_BLOCK else max(1, (console.width + 2) // (width + 2))
    bar = min(BAR, console.width - width) if blocks == 1 else 0
    shown = max(len("class"), console.width - numbers)  # characters of a name; the numbers are never cut
    figures = [Column(title, justify="right", no_wrap=True) for title in ("accuracy", "interval")]
    headers = [Column("class", no_wrap=True, max_width=shown), *figures, Column(no_wrap=True)]
    table = Table(*(header.copy() for _ in range(blocks) for header in headers), box=None, pad_edge=False)
    height = ceil(len(rows) / blocks)
    for i in range(height):
        cells = [
            (escape(name), percent(fraction), text, f"[cyan]{'█' * round(fraction * bar)}[/cyan]")
            for name, fraction, text in rows[i::height]
        ]
        table.add_row(*chain.from_iterable(cells))
    console.print(table)


def print_predictions(files: Sequence[Path], guesses: Sequence[Guesses], count: int, csv_path: Path) -> None:
    """Prints a table of the first of `count` files: predicted class, its probability, and the runners-up."""
    console = _console(soft_wrap=False, markup=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 10_000  # into a pipe, one line a file, however long its name is
    names = [Column(name, overflow="fold") for name in ("file", "class")]
    others = [Column("prob.", justify="right", no_wrap=True), Column("runners-up", no_wrap=True)]
    table = Table(*names, *others, box=None, pad_edge=False)
    between = "\n" if console.width < NARROW else ", "
    for file, (best, *rest) in zip(files, guesses, strict=False):
        runners_up = between.join(f"{printable(name)} {percent(value)}" for name, value in rest)
        table.add_row(printable(str(file)), printable(best[0]), percent(best[1]), runners_up)
    console.print(table)
    if count > len(files):
        _console().print(f"… and {count - len(files):,} more in {short(csv_path)}", markup=False)


def write_predictions(
    path: Path, columns: Mapping[str, Iterable], probabilities: "Tensor", classes: Sequence[str], flag: str = RUNS_FLAG
) -> None:
    """Writes predictions.csv, whole or not at all: for each image the columns, its predicted class, and `[N, C]`.

    Raises UserError, which names `flag`, if it can't.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([*columns, "predicted", *classes])
    rows = zip(*columns.values(), probabilities.argmax(1).tolist(), probabilities.tolist(), strict=True)
    for *values, predicted, row in rows:
        writer.writerow([*values, classes[predicted], *(f"{value:.6f}" for value in row)])
    write_whole(path, text.getvalue().encode("utf-8", "surrogateescape"), flag)  # file names keep their bytes


def printable(text: str) -> str:
    """Returns a name from outside without control characters and what can't be printed."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def print_written(path: Path, content: str) -> None:
    """Prints where something was written."""
    _console().print(f"Written: {short(path)} ({content})", markup=False)


def print_found(what: str, finder: str, chart: Path | None = None) -> None:
    """Prints what one of Lightning's finders found, and where its curve is."""
    _console().print(f"[bold]{'Found':<6}[/bold] {what}, by {finder}{f': {escape(short(chart))}' if chart else ''}")


def print_run_folder(written: list[Path]) -> None:
    """Prints where the run folder is, what was written into it, and how to open TensorBoard on it."""
    shown = short(written[0].parent)
    runs = next((path for path in written[0].parents if path.name == RUNS), written[0].parents[1])  # of all recipes
    quoted = f'"{short(runs)}"' if " " in short(runs) else short(runs)
    _console().print(f"Run folder: {shown}/ with {', '.join(path.name for path in written)}", markup=False)
    _console().print(f"Curves: tensorboard --logdir {quoted}", markup=False)


def short(path: Path) -> str:
    """Returns a path relative to the working folder if it lies in there."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
