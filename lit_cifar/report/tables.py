"""What a run prints: plain lines, and one table of the classes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from lit_cifar.data.sources import Images
from lit_cifar.evaluation.metrics import percent

BAR = 30  # width of the bar of 100 %, in characters
NARROW = 60  # characters, below which runners-up stand below each other

Guesses = list[tuple[str, float]]
"""Classes with their probabilities, the likeliest first."""


def _console() -> Console:
    return Console(soft_wrap=True, highlight=False, emoji=False)  # a class may be called :car:


def duration(seconds: float) -> str:
    """`41 s`, `2.6 s`, `12 min 05 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def plural(count: float, noun: str) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def print_start(data: str, net: str, device: str) -> None:
    """Says what trains on what."""
    console = _console()
    for name, text in (("Data", data), ("Net", net), ("Device", device)):
        console.print(f"[bold]{name:<6}[/bold] {escape(text)}")


def print_drawn_box(images: Images) -> None:
    """Where `auto` fell back on drawn images: a box that nobody can miss."""
    if images.why_drawn:
        console = Console(highlight=False, emoji=False)
        text = (
            "These are NOT the images of CIFAR-10, but ten classes drawn by code: accuracies on them say nothing about"
            f" CIFAR-10.\n\nWhy: {escape(images.why_drawn)}"
        )
        console.print(Panel(text, title="DRAWN IMAGES", border_style="bold red", padding=(1, 2)))


def print_report(report: dict[str, Any], data: str, trained: bool) -> None:
    """Prints a report as the tutorial does, and the accuracy of each class with a bar."""
    if trained:
        epochs = plural(report["epochs"], "epoch")
        _console().print(
            f"Finished training: {epochs}, {report['steps']:,} steps in {duration(report['train_seconds'])}"
        )
    total = sum(map(sum, report["confusion_matrix"]))
    tested = {name: accuracy for name, accuracy in report["class_accuracy"].items() if accuracy is not None}
    print_accuracies("test images", total, report["test_accuracy"], tested, data)


def print_accuracies(images: str, total: int, accuracy: float, per_class: dict[str, float], data: str) -> None:
    """Prints the accuracy on all images, and a table of the classes."""
    _console().print(f"Accuracy of the network on the {total} {images}: [bold]{percent(accuracy)}[/bold]")
    _console().print(f"Accuracy per class on {escape(data)}:")
    console = Console(highlight=False, emoji=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("class", no_wrap=True)
    table.add_column("accuracy", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    names = [printable(name) for name in per_class]
    bar = min(BAR, console.width - max(map(cell_len, ["class", *names])) - len("accuracy") - 4)  # what they leave
    for name, fraction in zip(names, per_class.values(), strict=True):
        table.add_row(escape(name), percent(fraction), f"[cyan]{'█' * round(fraction * bar)}[/cyan]")
    console.print(table)


def print_predictions(files: Sequence[Path], guesses: Sequence[Guesses], count: int, csv_path: Path) -> None:
    """Prints a table of the first files of `count`: the class predicted, its probability, and the runners-up."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 10_000  # a pipe has no edge: a line for each file, whatever the length of its name
    table = Table(box=None, pad_edge=False)
    table.add_column("file", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("prob.", justify="right", no_wrap=True)
    table.add_column("runners-up", no_wrap=True)
    between = "\n" if console.width < NARROW else ", "
    for file, (best, *others) in zip(files, guesses, strict=False):
        runners_up = between.join(f"{printable(name)} {percent(value)}" for name, value in others)
        table.add_row(printable(str(file)), printable(best[0]), percent(best[1]), runners_up)
    console.print(table)
    if count > len(files):
        _console().print(f"… and {count - len(files):,} more in {_short(csv_path)}", markup=False)


def printable(text: str) -> str:
    """A name from outside without what a terminal would obey or can't print."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def print_written(path: Path, content: str) -> None:
    """Says where something was written."""
    _console().print(f"Written: {_short(path)} ({content})", markup=False)


def print_found(what: str, finder: str, drawn: Path | None = None) -> None:
    """Says what one of Lightning's finders found, and where its curve is."""
    _console().print(f"[bold]{'Found':<6}[/bold] {what}, by {finder}{f': {escape(_short(drawn))}' if drawn else ''}")


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def print_paths(written: list[Path]) -> None:
    """Says where the run folder is, what is in it, and how to open TensorBoard on it."""
    if not written:
        return
    console = _console()
    folder = written[0].parent
    shown = _short(folder)
    console.print(f"Run folder: {shown}/ with {', '.join(path.name for path in written)}", markup=False)
    runs = os.path.dirname(shown) or "."  # noqa: PTH120
    quoted = f'"{runs}"' if " " in runs else runs
    console.print(f"Curves: tensorboard --logdir {quoted}", markup=False)
