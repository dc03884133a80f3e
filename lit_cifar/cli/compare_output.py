"""What `compare` prints: a line for each run, a bar on a terminal, and the table at the end."""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TimeElapsedColumn
from rich.table import Column, Table

from lit_cifar.cli.worker_process import Job
from lit_cifar.experiments.comparison import Run, seconds_left
from lit_cifar.experiments.comparison_files import Record
from lit_cifar.experiments.comparison_page import p_value, percent, plus_minus, points
from lit_cifar.report import tables


class Output:
    """Prints while the runs of a comparison are made."""

    def __init__(self, record: Record, at_once: int) -> None:
        self.running: dict[str, tuple[str, float]] = {}
        """Of each running job, its variant and the share of it that is done."""
        self._record, self._at_once = record, at_once
        self._epochs = {
            variant.name: _length(each) for variant, each in zip(record.variants, record.settings, strict=True)
        }
        self._waiting = [variant.name for _ in range(record.seeds) for variant in record.variants]
        self._total = sum(self._epochs[name] for name in self._waiting)
        self._done = 0.0
        self._began: dict[str, float] = {}
        self._took: dict[str, list[float]] = {}  # seconds of finished runs, report and all
        self._console = _console()
        self._progress: Progress | None = None

    def start(self) -> None:
        """Prints what is compared, and begins the bar."""
        record = self._record
        runs = len(record.variants) * record.seeds
        of = f"{tables.plural(len(record.variants), 'variant')}, {tables.plural(record.seeds, 'seed')} each"
        self._say(f"Comparing {of}: {tables.plural(runs, 'run')} in {tables.short(record.folder)}/")
        for drawn in [each for each in record.data if each["why_drawn"]][:1]:
            self._say(f"SYNTHETIC IMAGES, which say nothing about CIFAR-10: {drawn['why_drawn']}")
        if self._console.is_terminal:
            columns = ("{task.description}", BarColumn(bar_width=None), TimeElapsedColumn(), "{task.fields[left]}")
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._progress.add_task("", total=self._total, left="")
            self._progress.start()

    def begun(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """Passes jobs on, and remembers which are running."""
        for job in jobs:
            self.running[job.name] = self._waiting.pop(0), 0.0
            self._began[job.name] = time.monotonic()
            self._draw()
            yield job

    def move(self, job: Job, share: float) -> None:
        """Moves the bar."""
        self.running[job.name] = self.running[job.name][0], share
        self._draw()

    def ended(self, name: str, run: Run, trained: bool) -> None:
        """Prints a line about a run."""
        del self.running[name]
        self._done += self._epochs[run.variant]
        seconds = time.monotonic() - self._began[name]
        if run.state == "finished":  # one that was found took no time now, and a resumed one less than all
            self._took.setdefault(run.variant, []).append(max(seconds, run.seconds))
        runs, ended = len(self._record.variants) * self._record.seeds, len(self._record.runs)
        line = f"[{ended:,}/{runs:,}] {name}: "
        if run.state == "finished":
            line += f"validation {percent(run.val_accuracy)}, test {percent(run.test_accuracy)}, "
            line += tables.duration(run.seconds) if trained else "found finished"
        else:
            line += f"{run.state}: {run.sentence} [{run.code}]"
        left = self._left()
        line += f"; about {tables.duration(left)} left" if left and trained and ended < runs else ""
        self._say(line)
        self._draw()

    def stop(self) -> None:
        """Removes the bar."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _left(self) -> float | None:
        begun = [variant for variant, _ in self.running.values()]
        every = seconds_left([*self._waiting, *begun], self._epochs, self._took, self._at_once)
        if every is None or not self.running:
            return every
        of_running = seconds_left(begun, self._epochs, self._took, self._at_once) or 0.0
        return every - of_running * sum(share for _, share in self.running.values()) / len(self.running)

    def _draw(self) -> None:
        if self._progress is None:
            return
        done = self._done + sum(self._epochs[variant] * share for variant, share in self.running.values())
        left = self._left()
        text = f"about {tables.duration(left)} left" if left else ""
        name = next(iter(self.running), "")
        self._progress.update(
            self._progress.task_ids[0], completed=done, left=text, description=tables.printable(name)[:40]
        )

    def _say(self, line: str) -> None:
        self._console.print(tables.printable(line), soft_wrap=True)


def _length(settings: Mapping[str, Any]) -> float:
    """Returns the epochs of a training, or 1 if it ends by something else."""
    epochs = settings.get("trainer.max_epochs")
    return float(epochs) if isinstance(epochs, int | float) and epochs > 0 else 1.0


def print_results(content: Mapping[str, Any], paths: Sequence[Path]) -> None:
    """Prints the table of a comparison, what it says, and where it was written."""
    console = _console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 10_000  # into a pipe, one line a variant
    statistics = content["statistics"]
    compares = len(content["variants"]) > 1
    titles = [
        "validation\n%",
        *(["difference\n% points", "p"] if compares else []),
        "test %\nnot ranked by",
        "time",
        "runs",
    ]
    numbers = [Column(title, justify="right", no_wrap=True) for title in titles]
    table = Table(Column("variant", overflow="fold"), *numbers, box=None, pad_edge=False)
    for each in statistics["variants"]:
        cells = [_mean(each, "val_accuracy")]
        if compares:
            difference = each["difference"] or {"mean": None, "interval": None, "p": None}
            known = difference["mean"] is not None
            cells += [f"{points(difference['mean'])}{plus_minus(difference['interval'])}" if known else "–"]
            cells += ["–" if difference["p"] is None else p_value(difference["p"])]
        time_taken = "–" if each["seconds"] is None else tables.duration(each["seconds"])
        mark = " ★" if each["name"] == statistics["best"] else ""
        name, runs = tables.printable(each["name"]) + mark, str(len(each["seeds"]))
        table.add_row(name, *cells, _mean(each, "test_accuracy"), time_taken, runs)
    console.print()
    console.print(table)
    for sentence in content["conclusions"]:
        console.print(tables.printable(sentence), soft_wrap=True)
    console.print(f"Folder: {tables.short(paths[0].parent)}/", soft_wrap=True)
    console.print(f"Report: {tables.short(paths[0])}", soft_wrap=True)


def _mean(each: Mapping[str, Any], key: str) -> str:
    return percent(each[key]).removesuffix(" %") + plus_minus(each[f"{key}_interval"])


def _console() -> Console:
    return Console(markup=False, highlight=False, emoji=False)
