"""Tables of runs: in the terminal, as CSV, and as a page that sorts itself."""

import csv
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table

from lit_cifar.data.files import write_whole
from lit_cifar.evaluation.wording import interval
from lit_cifar.report import pages
from lit_cifar.report.tables import printable, short
from lit_cifar.runs.catalog import Run
from lit_cifar.runs.selection import RESULTS
from lit_cifar.runs.state import RUNS

NARROWEST_NOTE, NARROWEST = 24, 5  # characters, of the column of notes and of any other
CURVE = (96, 24)  # width and height of a curve, in pixels
NONE = "–"


def when(run: Run) -> str:
    """Returns when a run began, by the clock of this machine."""
    try:
        return f"{run.started.astimezone():%Y-%m-%d %H:%M}" if run.started else NONE
    except (OverflowError, ValueError, OSError):  # a year that the clock has not
        return NONE


def state(run: Run) -> str:
    """Returns `finished` or `interrupted at step 1,234`."""
    is_told = run.step is not None and run.state in ("interrupted", "diverged", "failed", "running")
    return f"{run.state} at step {run.step:,}" if is_told else run.state


def note(run: Run) -> str:
    """Returns the user's note or, of a damaged run, what is wrong with it."""
    return run.problem or run.note or ""


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{share * 100:.2f}"


def _number(value: Any) -> str:
    return NONE if value is None else f"{value:,g}" if isinstance(value, float) else f"{value:,}"


class Column(NamedTuple):
    """A column of the table in the terminal and on the page."""

    title: str
    text: Callable[[Run], str]
    value: Callable[[Run], Any]
    """What to sort by."""
    drop: int = 0
    """Which column a narrow terminal leaves out first: the one with the highest number, and none with 0."""
    is_number: bool = False


COLUMNS = (
    Column("recipe", lambda run: run.recipe, lambda run: run.recipe),
    Column("version", lambda run: str(run.version), lambda run: run.version, is_number=True),
    Column("when", when, lambda run: run.started and run.started.timestamp(), 6),
    Column("data", lambda run: run.dataset or NONE, lambda run: run.dataset, 3),
    Column("network", lambda run: run.net or NONE, lambda run: run.net, 4),
    Column("epochs", lambda run: _number(run.epochs), lambda run: run.epochs, 5, is_number=True),
    Column("val %", lambda run: _percent(run.val_accuracy), lambda run: run.val_accuracy, 1, is_number=True),
    Column("test %", lambda run: _percent(run.test_accuracy), lambda run: run.test_accuracy, is_number=True),
    Column(
        "95 %",
        lambda run: interval(*run.test_interval) if run.test_interval else NONE,
        lambda run: run.test_interval and run.test_interval[0],
        8,
        is_number=True,
    ),
    Column(
        "seconds",
        lambda run: NONE if run.seconds is None else f"{run.seconds:,.1f}",
        lambda run: run.seconds,
        7,
        is_number=True,
    ),
    Column("state", state, lambda run: run.state),
    Column("note", note, note, 2),
)


def place(run: Run, root: Path) -> str:
    """Returns whose `lightning_logs` a run lies in, below a folder."""
    logs = run.folder.parent if run.folder.parent.name == RUNS else run.folder.parent.parent
    return str(logs.parent.relative_to(root)) if logs.parent.is_relative_to(root) else str(logs.parent)


def columns_of(runs: Sequence[Run], root: Path) -> list[Column]:
    """Returns the columns that say something, with the place of each run if there are several."""
    found = [column for column in COLUMNS if column.title != "note" or any(map(note, runs))]
    if len({place(run, root) for run in runs}) > 1:
        found.insert(0, Column("folder", lambda run: place(run, root), lambda run: place(run, root)))
    return found


def print_runs(runs: Sequence[Run], root: Path) -> None:
    """Prints a line for each run. A narrow terminal gets fewer columns and shorter notes, a pipe gets everything."""
    console = Console()
    width = console.width if console.is_terminal else sys.maxsize
    cells = {
        column: [column.title, *(printable(column.text(run)) for run in runs)] for column in columns_of(runs, root)
    }
    needed = {column: max(map(cell_len, texts)) for column, texts in cells.items()}
    last = next((column for column in needed if column.text is note), None)
    if last:
        whole, needed[last] = needed[last], min(needed[last], NARROWEST_NOTE)
    for column in sorted(cells, key=lambda column: -column.drop):
        if column.drop and sum(needed.values()) + 2 * len(needed) - 2 > width:
            del needed[column]
    if last in needed:
        needed[last] = min(whole, width - sum(each + 2 for column, each in needed.items() if column is not last))
    while sum(needed.values()) + 2 * len(needed) - 2 > width and max(needed.values()) > NARROWEST:
        needed[max(needed, key=lambda column: needed[column])] -= 1
    for i in range(len(runs) + 1):
        parts = (_fitted(cells[column][i], needed[column], column.is_number) for column in needed)
        print("  ".join(parts).rstrip())
    for run in runs if last not in needed else ():
        if run.problem:
            print(printable(f"{run.recipe}/{run.folder.name} is damaged: {run.problem}"))


def _fitted(text: str, width: int, is_number: bool) -> str:
    """Returns a text that is `width` characters wide on the screen."""
    room = width - cell_len(text)
    if room < 0:
        return set_cell_size(text, width - 1) + "…"
    return " " * room + text if is_number else text + " " * room


def print_differences(first: Run, second: Run, settings: Mapping[str, tuple[Any, Any]]) -> None:
    """Prints the settings in which two runs differ, and their results beside each other."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 1_000_000
    table = Table(box=None, pad_edge=False)
    names = ["/".join(run.folder.parts[-2:]) for run in (first, second)]
    if names[0] == names[1]:
        names = [short(run.folder) for run in (first, second)]
    for title in ("", *map(printable, names)):
        table.add_column(title, overflow="fold")
    for name, values in settings.items():
        table.add_row(printable(name), *(printable(_written(value)) for value in values))
    if not settings:
        table.add_row("no setting differs", "", "")
    table.add_row()
    for column in COLUMNS[2:]:
        texts = [printable(column.text(run)) for run in (first, second)]
        if any(text not in ("", NONE) for text in texts):
            table.add_row(column.title if column.title != "95 %" else "test, 95 %", *texts)
    console.print(table)


def _written(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: NONE}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def as_csv(runs: Sequence[Run]) -> str:
    """Returns a header and a line for each run; accuracies are from 0 to 1, and times in UTC."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*RESULTS, "test_low", "test_high", "folder"])
    for run in runs:
        values = [getattr(run, name) for name in RESULTS] + [*(run.test_interval or (None, None)), short(run.folder)]
        values[RESULTS.index("started")] = run.started and run.started.isoformat(timespec="seconds")
        writer.writerow(["" if value is None else printable(str(value)) for value in values])
    return text.getvalue()


def write_page(runs: Sequence[Run], root: Path, path: Path) -> None:
    """Writes the page of the runs, which loads nothing and sorts itself by a script of its own."""
    has_curves = any(len(run.curve) > 1 for run in runs)
    page = pages.render(
        Path(__file__).with_name("runs.html.jinja"),
        {"printable": printable},
        runs=runs,
        columns=columns_of(runs, root),
        root=printable(str(root)),
        curve=curve if has_curves else None,
        size=CURVE,
    )
    write_whole(path, page, "--html")


def curve(run: Run) -> str:
    """Returns the points of a polyline of validation accuracy, from 0 at the bottom to 1 at the top."""
    if len(run.curve) < 2:
        return ""
    width, height = CURVE
    last = max(step for step, _ in run.curve) or 1
    return " ".join(
        f"{1 + step / last * (width - 2):.1f},{1 + (1 - value) * (height - 2):.1f}" for step, value in run.curve
    )
