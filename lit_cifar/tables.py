"""What a run prints: plain lines, and one table of the classes."""

import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from lit_cifar.data.sources import Images

BAR = 30  # width of the bar of 100 %, in characters


def _console() -> Console:
    return Console(soft_wrap=True, highlight=False)


def percent(fraction: float) -> str:
    """`54.2 %`."""
    return f"{fraction * 100:.1f} %"


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
        console.print(f"[bold]{name:<6}[/bold] {text}")


def print_drawn_box(images: Images) -> None:
    """Where `auto` fell back on drawn images: a box that nobody can miss."""
    if images.why_drawn:
        console = Console(highlight=False)
        text = (
            "These are NOT the images of CIFAR-10, but ten classes drawn by code: accuracies on them say nothing about"
            f" CIFAR-10.\n\nWhy: {images.why_drawn}"
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
    print_accuracies("test images", total, report["test_accuracy"], report["class_accuracy"], data)


def print_accuracies(images: str, total: int, accuracy: float, per_class: dict[str, float], data: str) -> None:
    """Prints the accuracy on all images, and a table of the classes."""
    _console().print(f"Accuracy of the network on the {total} {images}: [bold]{percent(accuracy)}[/bold]")
    _console().print(f"Accuracy per class on {data}:")
    table = Table(box=None, pad_edge=False)
    table.add_column("class", no_wrap=True)
    table.add_column("accuracy", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name, fraction in per_class.items():
        table.add_row(name, percent(fraction), f"[cyan]{'█' * round(fraction * BAR)}[/cyan]")
    Console(highlight=False).print(table)


def print_written(path: Path, content: str) -> None:
    """Says where something was written."""
    _console().print(f"Written: {_short(path)} ({content})")


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def print_paths(written: list[Path]) -> None:
    """Says where the run folder is, what is in it, and how to open TensorBoard on it."""
    if not written:
        return
    console = _console()
    folder = written[0].parent
    shown = _short(folder)
    console.print(f"Run folder: {shown}/ with {', '.join(path.name for path in written)}")
    console.print(f"Curves: tensorboard --logdir {os.path.dirname(shown) or '.'}")  # noqa: PTH120
