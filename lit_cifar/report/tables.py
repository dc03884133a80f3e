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


def _print_table(table: Table, console: Console) -> None:
    """Prints a table without spaces at the ends of lines; into a pipe, a row is a line, however long it is."""
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 10_000
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip())


def duration(seconds: float) -> str:
    """Returns `2.6 s`, `41 s` or `12 min 05 s`."""
    if seconds < 600:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def plural(count: float, noun: str) -> str:
    """Returns `1 epoch` or `2 epochs`, `1 class` or `2 classes`."""
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def print_start(data: str, images: str, net: str, device: str) -> None:
    """Prints the data, what becomes of their images, the network and the device of a training."""
    console = _console(soft_wrap=False)
    if not console.is_terminal:
        console.width = 10_000
    table = Table.grid(Column(style="bold", no_wrap=True), Column(overflow="fold"), padding=(0, 1, 0, 0))
    for name, text in (("Data", data), ("Images", images), ("Net", net), ("Device", device)):
        table.add_row(name, escape(text))
    _print_table(table, console)


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


def print_finished(epochs: float, steps: int, seconds: float) -> None:
    """Prints what a training took."""
    number = int(epochs) if float(epochs).is_integer() else epochs
    whole = f"{plural(number, 'epoch')}, " if epochs else ""  # rounded: a few steps are 0 epochs
    _console().print(f"Finished training: {whole}{plural(steps, 'step')} in {duration(seconds)}")


def print_untested(root: Path) -> None:
    """Prints that a folder has nothing to test the trained network on."""
    _console().print(f"Nothing was tested: {escape(str(root))} has no folder test")


def how_chosen(chosen_by: str) -> str:
    """Returns `chosen by validation accuracy`, `the last weights` or `named by the user`."""
    return {VALIDATED: f"chosen by {VALIDATED}", LAST: f"the {LAST}"}.get(chosen_by, chosen_by)


def print_weights(verb: str, weights: Mapping[str, Any]) -> None:
    """Prints, from keys of report.json, which weights are measured."""
    _console(markup=False).print(f"{verb} {named(weights)}")


def print_validation(weights: Mapping[str, Any]) -> None:
    """Prints, from keys of report.json, what validation during training gave these weights, if that is known."""
    if weights["val_accuracy"] is not None:
        chosen = weights["chosen_by"] == VALIDATED
        what = f"Chosen by {VALIDATED}" if chosen else "Validation accuracy of these weights"
        found = f"{percent(weights['val_accuracy'])} (95 % interval: {interval(*weights['val_accuracy_interval'])})"
        _console().print(f"{what}: {found}")


def print_result(verb: str, image: str, matrix: Sequence[Sequence[int]], weights: Mapping[str, Any]) -> None:
    """Prints the last lines: the weights and, again, their accuracy. `image` is what one of the images is called."""
    right, total = sum(row[i] for i, row in enumerate(matrix)), sum(map(sum, matrix))
    _console(markup=False).print(f"{verb}: {named(weights)}")
    found = f"{percent(right / total)} of {plural(total, image)}"
    _console().print(f"Accuracy: [bold]{found}[/bold] (95 % interval: {interval(*wilson(right, total))})")


def named(weights: Mapping[str, Any]) -> str:
    """Returns `runs/version_0/checkpoints/best.ckpt after 2 epochs`, from keys of report.json."""
    path = printable(short(Path(weights["checkpoint"]))) if weights["checkpoint"] else "the weights in memory"
    return f"{path} after {length(weights['checkpoint_epoch'], weights['checkpoint_step'])}"


def length(epochs: float, steps: int) -> str:
    """Returns how long a training was: `2 epochs`, or `112 steps` if it was no whole number of them."""
    return plural(int(epochs), "epoch") if epochs and float(epochs).is_integer() else plural(steps, "step")


def print_accuracies(
    image: str, matrix: Sequence[Sequence[int]], scores: Mapping[str, dict[str, Any]], data: str
) -> None:
    """Prints the accuracy on all images as the tutorial does, and a table of the classes that have images.

    `image` is what one of them is called.
    """
    right, total = sum(row[i] for i, row in enumerate(matrix)), sum(map(sum, matrix))
    _console().print(f"Accuracy of the network on the {plural(total, image)}: [bold]{percent(right / total)}[/bold]")
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
    _print_table(table, console)


def print_predictions(files: Sequence[Path], guesses: Sequence[Guesses], count: int, csv_path: Path) -> None:
    """Prints a table of the first of `count` files: predicted class, its probability, and the runners-up."""
    console = _console(soft_wrap=False, markup=False)
    names = [Column(name, overflow="fold") for name in ("file", "predicted")]
    table = Table(*names, Column("runners-up", no_wrap=True), box=None, pad_edge=False)
    between = "\n" if console.width < NARROW else ", "
    for file, ranked in zip(files, guesses, strict=False):
        best, *rest = (f"{printable(name)} ({percent(value)})" for name, value in ranked)
        table.add_row(printable(str(file)), best, between.join(rest))
    _print_table(table, console)
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


def print_run_folder(folder: Path) -> None:
    """Prints where the run folder and its report are, and how to open TensorBoard on the runs of all recipes."""
    shown = short(folder)
    runs = short(next((path for path in folder.parents if path.name == RUNS), folder.parent))
    quoted = f'"{runs}"' if " " in runs else runs
    console = _console(markup=False)
    console.print(f"Run folder: {shown}/")
    console.print(f"Report: {shown}/report.html")
    console.print(f"Curves: tensorboard --logdir {quoted}")


def short(path: Path) -> str:
    """Returns a path relative to the working folder if it lies in there."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
