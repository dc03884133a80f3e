"""The report of a run in a notebook (Jupyter, Colab, Kaggle): its figures, and report.html folded below them."""

from html import escape
from pathlib import Path

from rich.console import Console

SHOWN = ("training", "confusion", "confused")


def show(folder: Path) -> None:
    """Shows the report that lies in the run folder below the cell, if this process runs one."""
    if not Console().is_jupyter:
        return
    from IPython.display import HTML, Image, display  # a notebook has it

    for path in (folder / f"{name}.png" for name in SHOWN):
        if path.exists():
            display(Image(path.read_bytes(), alt=path.stem))  # not by name: the notebook may be saved elsewhere
    page = escape((folder / "report.html").read_text(encoding="utf-8"))
    frame = f'<iframe srcdoc="{page}" title="Report" style="width: 100%; height: 600px; border: 0"></iframe>'
    display(HTML(f"<details><summary>report.html</summary>{frame}</details>"))
