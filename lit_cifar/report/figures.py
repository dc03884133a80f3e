"""The style of all pictures of a run, and grids of images with captions. Charts of numbers are in charts.py.

Images are enlarged by whole numbers, so each of their pixels is a square of the screen's pixels. Nothing is shown by
colour alone, and the same numbers give the same bytes. Text is measured in the font it is drawn in before it is placed:
long class names are wrapped or cut and never overlap. Figures are made without pyplot and need no closing.
"""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil, isnan
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path
from torch import Tensor

from lit_cifar.data.files import RUNS_FLAG, write_whole
from lit_cifar.evaluation.wording import percent

DPI = 130  # a grid of eight columns fills a laptop's screen
PIXELS_PER_POINT = DPI / 72
TITLE_SIZE, TEXT_SIZE = 13.0, 9.0  # in points
LINE_SPACING = 1.3  # in text sizes
LINE_HEIGHT = LINE_SPACING * TEXT_SIZE
FONT = "DejaVu Sans"  # comes with matplotlib, so the font that is measured is the one that is drawn
BLUE, ORANGE = "#0072B2", "#D55E00"  # of Okabe and Ito's palette
INK, GREY = "#222222", "#666666"
STYLE: Any = {
    "font.family": FONT,
    "font.size": TEXT_SIZE,
    "text.parse_math": False,  # a class may be called "$5"
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "figure.constrained_layout.h_pad": 0.09,
    "figure.constrained_layout.w_pad": 0.12,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Sets matplotlib's style, and hides the warnings about letters that FONT lacks and that are drawn as boxes."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        yield


def blank(width: float, height: float, title: str = "") -> Figure:
    """Returns a figure of this size in pixels. With a title, it arranges its axes by itself."""
    figure = Figure((width / DPI, height / DPI), dpi=DPI, facecolor="white", layout="constrained" if title else None)
    if title:
        text = wrap(title, (width - 60) / PIXELS_PER_POINT, 3, size=TITLE_SIZE, bold=True)
        figure.suptitle(text, x=0.02, ha="left", size=TITLE_SIZE, weight="bold")
    return figure


def cut(text: str, width: float, size: float = TEXT_SIZE, bold: bool = False) -> str:
    """Returns text of at most this width in points, with … in place of what is left out."""
    if _width_of(text, size, bold) <= width:
        return text
    while text and _width_of(f"{text}…", size, bold) > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def wrap(text: str, width: float, lines: int, size: float = TEXT_SIZE, bold: bool = False) -> str:
    """Returns text in at most so many lines of this width in points, broken at spaces and after `_`, `-` and `/`.

    Percentages stay whole.
    """
    rows = [""]
    for word in re.findall(r"(?:\S|\s(?=%))+?(?:[_/-]+|\s+(?!%)|$)", text):
        full = rows[-1].endswith("\n") or _width_of((rows[-1] + word).rstrip(), size, bold) > width
        if rows[-1] and len(rows) < lines and full:
            rows.append("")
        rows[-1] += word
    return "\n".join(cut(row.rstrip(), width, size, bold) for row in rows)


def _width_of(text: str, size: float, bold: bool) -> float:
    font = FontProperties(family=FONT, size=size, weight="bold" if bold else "normal")
    return text_to_path.get_text_width_height_descent(text, font, False)[0]


def _height_of(text: str, size: float = TEXT_SIZE) -> int:
    """Returns the height of wrapped text in pixels."""
    return ceil((text.count("\n") + 1) * LINE_SPACING * size * PIXELS_PER_POINT)


@drawing()
def image_grid(
    images: Tensor,
    captions: Sequence[str],
    title: str,
    columns: int = 8,
    marked: Sequence[bool] | None = None,
    headings: Sequence[str] = (),
) -> Figure:
    """Draws images of uint8 `[N, 3, H, W]` in rows of `columns`, enlarged without smoothing, each above its caption.

    A marked image has a frame and a bold caption. Lines of the title after the first are small. Headings are written
    above the columns.
    """
    count, _, height, width = images.shape
    marked = marked or [False] * count
    columns = min(columns, count)
    side = max(128, 512 // columns, height, width)  # of the screen's pixels: the fewer images, the larger
    height, width = (length * (side // max(height, width)) for length in (height, width))
    margin, gap, cell = 28, 28, max(width, 128)
    caption_width = (cell + gap - 8) / PIXELS_PER_POINT
    texts = [wrap(text, caption_width, 6, bold=bold) for text, bold in zip(captions, marked, strict=True)]
    step_x, step_y = cell + gap, height + 8 + max(map(_height_of, texts)) + gap

    total_width = 2 * margin + max(512, columns * step_x - gap)
    first, _, rest = title.partition("\n")
    text_width = (total_width - 2 * margin) / PIXELS_PER_POINT
    first, rest = wrap(first, text_width, 3, size=TITLE_SIZE, bold=True), wrap(rest, text_width, 3)
    below_first = margin + _height_of(first, TITLE_SIZE)
    top = below_first + (_height_of(rest) + 4 if rest else 0) + 14
    heading_y, top = top, top + (_height_of("") + 4 if headings else 0)
    total_height = top + ceil(count / columns) * step_y - gap + margin

    # One axes over the whole figure whose unit is the screen's pixel: constrained layout would enlarge images by
    # 3.7, and some of their pixels would be 3 wide and others 4.
    figure = blank(total_width, total_height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.text(margin, margin, first, size=TITLE_SIZE, weight="bold", va="top", linespacing=LINE_SPACING)
    axes.text(margin, below_first + 4, rest, color=GREY, va="top", linespacing=LINE_SPACING)
    for column, text in enumerate(headings):
        x = margin + column * step_x + cell / 2
        axes.text(x, heading_y, cut(text, caption_width), color=GREY, ha="center", va="top")
    for i, (image, text, bold) in enumerate(zip(images.permute(0, 2, 3, 1).cpu(), texts, marked, strict=True)):
        row, column = divmod(i, columns)
        x, y = margin + column * step_x + (cell - width) // 2, top + row * step_y
        axes.imshow(image.numpy(), extent=(x, x + width, y + height, y), interpolation="nearest", aspect="auto")
        if bold:
            axes.add_patch(Rectangle((x - 3, y - 3), width + 6, height + 6, fill=False, edgecolor=ORANGE, linewidth=2))
        look: dict[str, Any] = {"color": ORANGE, "weight": "bold"} if bold else {}
        baseline = y + height + 2 + _height_of(text)  # of the last line: the height of the first depends on its letters
        axes.text(x + width / 2, baseline, text, ha="center", va="baseline", linespacing=LINE_SPACING, **look)
    axes.set(xlim=(0, total_width), ylim=(total_height, 0))
    return figure


def predictions(images: Tensor, entries: Sequence[dict[str, Any]], title: str, framed: bool = True) -> Figure:
    """Draws those of all test images, uint8 `[N, 3, H, W]`, that entries of report.json are about.

    Captions say what was predicted and, if that is wrong, what is true. Wrong predictions may be framed.
    """
    if not entries:
        return sentence("There are no such images.", title)
    wrong = [entry["class"] != entry["predicted"] for entry in entries]
    captions = []
    for entry, bad in zip(entries, wrong, strict=True):
        probability = "" if isnan(entry["probability"]) else f" ({percent(entry['probability'])})"
        actual = f"\nactually {cut(entry['class'], 150)}" if bad else ""
        captions.append(f"{cut(entry['predicted'], 150)}{probability}{actual}")
    title += "\nCaptions: the predicted class with its probability, and the actual class if that differs."
    title += " Wrong predictions are framed." if framed else ""
    shown = images[[entry["image"] for entry in entries]]
    return image_grid(shown, captions, title, marked=[framed and bad for bad in wrong])


@drawing()
def sentence(text: str, title: str) -> Figure:
    """Draws a sentence in place of a picture that would be empty."""
    figure = blank(5 * DPI, 1.2 * DPI, title)
    axes = figure.add_subplot()
    axes.axis("off")
    axes.text(0, 0.5, text, va="center", transform=axes.transAxes)
    return figure


@drawing()
def save(figure: Figure, path: Path, flag: str = RUNS_FLAG) -> Path:
    """Writes a PNG, whole or not at all, and returns its path. Raises UserError, which names `flag`, if it can't."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi="figure", metadata={"Software": None})
    return write_whole(path, png.getvalue(), flag)
