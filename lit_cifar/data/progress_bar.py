"""The progress bar of a terminal or of a notebook (Jupyter, Colab, Kaggle); elsewhere, nothing is shown.

In a notebook, rich and tqdm need the package ipywidgets and its extension of the page. HTML that is replaced needs
neither.
"""

import time
from html import escape
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task

SECONDS_BETWEEN_DRAWINGS = 1 / 8


def can_redraw(console: Console) -> bool:
    """Returns whether what is printed there can be drawn again."""
    return console.is_jupyter or (console.is_terminal and not console.is_dumb_terminal)


def progress_bar(console: Console, *columns: str | ProgressColumn, **options: Any) -> Progress:
    """Returns a bar that goes when it is done, if `options`, those of rich's Progress, don't say otherwise."""
    if console.is_jupyter:
        return NotebookProgress(*columns, console=console, auto_refresh=False)
    options = {"transient": True, "disable": not can_redraw(console)} | options
    return Progress(*columns, console=console, **options)


class NotebookProgress(Progress):
    """A Progress that is shown as HTML, with the same columns."""

    _output: Any = None
    _next = 0.0

    def start(self) -> None:
        from IPython.display import HTML, display  # a notebook has it

        if self._output is None:
            self._output = display(HTML(""), display_id=True)

    def stop(self) -> None:
        from IPython.display import HTML

        if self._output is not None:
            self._output.update(HTML(""))
            self._output = None

    def refresh(self) -> None:
        from IPython.display import HTML

        now = time.monotonic()
        if self._output is not None and (now >= self._next or any(task.finished for task in self.tasks)):
            self._next = now + SECONDS_BETWEEN_DRAWINGS
            self._output.update(HTML("".join(self._shown(task) for task in self.tasks if task.visible)))

    def _shown(self, task: Task) -> str:
        cells = []
        for column in self.columns:
            if isinstance(column, BarColumn):
                of = "" if task.total is None else f' value="{task.completed}" max="{task.total}"'
                cells.append(f'<progress{of} aria-label="{escape(task.description)}" style="width: 20em"></progress>')
            else:
                text = column.format(task=task) if isinstance(column, str) else str(column(task))
                cells.append(f"<span>{escape(text)}</span>")
        return f'<div style="display: flex; flex-wrap: wrap; gap: 1em; align-items: center">{"".join(cells)}</div>'
