"""The style of all pictures of a run, and grids of images with captions. Charts of numbers are in charts.py.

Images are enlarged by whole numbers, so each of their pixels is a square of the screen's pixels. Nothing is shown by
colour alone, all text has a contrast of at least 4.5, and the same numbers give the same bytes. Text is measured in the
font it is drawn in before it is placed: long class names are wrapped or cut and never overlap. Figures are made without
pyplot and need no closing.
"""

import io
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter
from torch import Tensor

from lit_cifar.data.files import RUNS_FLAG, write_whole
from lit_cifar.evaluation.wording import judged, percent
from lit_cifar.report import fonts

DPI = 130  # a grid of eight columns fills a laptop's screen
PIXELS_PER_POINT = DPI / 72
TITLE_SIZE, TEXT_SIZE = 13.0, 9.0  # in points
LINE_SPACING = 1.3  # in text sizes
LINE_HEIGHT = LINE_SPACING * TEXT_SIZE
LONGEST_NAME = 150.0  # points, of a class in a caption
BLUE, ORANGE = "#0072B2", "#B34700"  # of Okabe and Ito's palette, the orange darker: its contrast on white is 5.4
INK, GREY = "#222222", "#666666"
IDEOGRAPH = "[\u2e80-\ua4cf\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]"  # after which a line may break
PERCENT = FuncFormatter(lambda share, _: f"{share * 100:.4g} %")  # on an axis
STYLE: Any = {
    "font.family": fonts.FONT,
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
    """Sets matplotlib's style.

    If a font has no bold letters, matplotlib takes the others, and need not say so.
    """
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with matplotlib.rc_context(STYLE):
            yield
    finally:
        logger.setLevel(level)


class Picture(Figure):
    """A figure whose names are drawn in the fonts that `cut` and `wrap` have found for them."""

    def draw(self, renderer: Any) -> None:
        if len(fonts.families()) > 1:
            for text in self.findobj(Text):
                text.set_fontfamily(fonts.families())
        super().draw(renderer)

    def _repr_png_(self) -> bytes:  # below the cell of a notebook
        return png(self)


def blank(width: float, height: float, title: str = "") -> Figure:
    """Returns a figure of this size in pixels. With a title, it arranges its axes by itself."""
    figure = Picture((width / DPI, height / DPI), dpi=DPI, facecolor="white", layout="constrained" if title else None)
    if title:
        text = wrap_title(title, (width - 60) / PIXELS_PER_POINT)
        figure.suptitle(text, x=0.02, ha="left", size=TITLE_SIZE, weight="bold")
    return figure


def wrap_title(title: str, width: float) -> str:
    """Returns a title in at most three lines of this width in points, broken at spaces, but never in a folder's path.

    A path that is too long for a line is written without its first folders.
    """
    before, folder, path = fonts.drawable(title).partition("the folder ")
    rows = [""]
    for word in [*before.split(), *folder.split(), path]:
        parts, short = re.split(r"(?<=[/\\])", word), word
        while len(parts) > 1 and width_of(short, TITLE_SIZE, True) > width:
            parts = parts[1:]
            short = f"…/{''.join(parts)}"
        if rows[-1] and len(rows) < 3 and width_of(f"{rows[-1]} {short}", TITLE_SIZE, True) > width:
            rows.append("")
        rows[-1] = f"{rows[-1]} {short}".strip()
    return "\n".join(cut(row, width, TITLE_SIZE, bold=True) for row in rows)


def cut(text: str, width: float, size: float = TEXT_SIZE, bold: bool = False) -> str:
    """Returns text of at most this width in points, with … in place of what is left out."""
    text = fonts.drawable(text)
    if width_of(text, size, bold) <= width:
        return fonts.left_to_right(text)
    while text and width_of(f"{text}…", size, bold) > width:
        text = text[:-1]
    return fonts.left_to_right(f"{text.rstrip()}…")


def wrap(text: str, width: float, lines: int, size: float = TEXT_SIZE) -> str:
    """Returns text in at most so many lines of this width in points, broken at spaces and after `_`, `-` and `/`.

    Percentages stay whole.
    """
    rows = [""]
    for word in re.findall(rf"(?:\S|\s(?=%))+?(?:[_/-]+|\s+(?!%)|(?<={IDEOGRAPH})(?!\s)|$)", fonts.drawable(text)):
        if rows[-1] and len(rows) < lines and width_of((rows[-1] + word).rstrip(), size, False) > width:
            rows.append("")
        rows[-1] += word
    return "\n".join(cut(row.rstrip(), width, size) for row in rows)


def width_of(text: str, size: float = TEXT_SIZE, bold: bool = False) -> float:
    """Returns the width of a line of text in points."""
    font = FontProperties(family=fonts.families(), size=size, weight="bold" if bold else "normal")
    return text_to_path.get_text_width_height_descent(text, font, False)[0]


@drawing()
def image_grid(
    images: Tensor,
    captions: Sequence[str],
    title: str,
    columns: int = 8,
    wrong: Sequence[bool] | None = None,
    headings: Sequence[str] = (),
    rows: Sequence[tuple[str, int]] = (),
) -> Figure:
    """Draws images of uint8 `[N, 3, H, W]` in rows of `columns`, enlarged without smoothing, each above its caption.

    Captions of wrong predictions are orange. Lines of the title after the first are small. Headings are written above
    the columns. `rows`, of a label and a number of images, makes rows of different lengths below their labels.
    """
    count, _, height, width = images.shape
    columns = min(columns, count)
    side = max(128, 512 // columns, height, width)  # of the screen's pixels: the fewer images, the larger
    height, width = (length * (side // max(height, width)) for length in (height, width))
    margin, gap, cell = 28, 28, max(width, 128)
    line, title_line = (round(LINE_SPACING * size * PIXELS_PER_POINT) for size in (TEXT_SIZE, TITLE_SIZE))
    caption_width = (cell + gap - 8) / PIXELS_PER_POINT
    texts = [[row for part in text.split("\n") for row in _rows(part, caption_width, 5)] for text in captions]
    total_width = 2 * margin + max(512, columns * (cell + gap) - gap)
    text_width = (total_width - 2 * margin) / PIXELS_PER_POINT
    first, _, rest = title.partition("\n")

    look: dict[str, Any] = {"size": TITLE_SIZE, "weight": "bold"}
    written: list[tuple[float, float, str, dict[str, Any]]] = []  # x, baseline, one line of text, how it looks
    places: list[tuple[int, int]] = []  # of images
    y = margin - 4
    for text in wrap_title(first, text_width).split("\n"):
        written.append((margin, y := y + title_line, text, look))
    for text in _rows(rest, text_width, 3):
        written.append((margin, y := y + line + 1, text, {"color": GREY}))
    y += 20
    if headings:
        y += line
        centres = [margin + column * (cell + gap) + cell / 2 for column in range(columns)]
        look = {"color": GREY, "ha": "center"}
        written += [(x, y - 8, cut(text, caption_width), look) for x, text in zip(centres, headings, strict=False)]
    for label, number in rows or [("", columns)] * ceil(count / columns):
        for text in _rows(label, text_width, 2):
            written.append((margin, y := y + line, text, {"weight": "bold"}))
        y += 10 if label else 0
        here = range(len(places), min(count, len(places) + number))
        for i in here:
            left = margin + (i - here.start) * (cell + gap)
            places.append((left + (cell - width) // 2, y))
            look = {"color": ORANGE if wrong and wrong[i] else INK, "ha": "center"}
            lines = enumerate(texts[i], 1)
            written += [(left + cell / 2, y + height + 2 + number * line, text, look) for number, text in lines]
        y += height + max(len(texts[i]) for i in here) * line + gap + 8

    # One axes over the whole figure whose unit is the screen's pixel: constrained layout would enlarge images by
    # 3.7, and some of their pixels would be 3 wide and others 4.
    total_height = y - gap + margin - 8
    figure = blank(total_width, total_height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    for x, baseline, text, look in written:
        axes.text(x, baseline, text, va="baseline", **look)
    for image, (left, top) in zip(images.permute(0, 2, 3, 1).cpu(), places, strict=True):
        extent = (left, left + width, top + height, top)
        axes.imshow(image.numpy(), extent=extent, interpolation="nearest", aspect="auto")
    axes.set(xlim=(0, total_width), ylim=(total_height, 0))
    return figure


def _rows(text: str, width: float, lines: int) -> list[str]:
    return wrap(text, width, lines).split("\n") if text else []


@drawing()
def predictions(images: Tensor, entries: Sequence[dict[str, Any]], title: str, files: Sequence[str] = ()) -> Figure:
    """Draws those of the images, uint8 `[N, 3, H, W]`, that entries of report.json are about.

    An entry's class is None if the truth is not known. Names of files stand below the predictions.
    """
    if not entries:
        return sentence("There are no such images.", title.partition("\n")[0])
    captions = []
    for i, entry in enumerate(entries):
        predicted, actual = entry["predicted"], entry["class"]
        short = [cut(name, LONGEST_NAME) if name is not None else None for name in (predicted, actual)]
        if (short[0] == short[1]) == (predicted == actual):  # otherwise, two names would seem to be one
            predicted, actual = short
        lines = *judged(predicted, entry["probability"], actual), *files[i : i + 1]
        captions.append("\n".join(line for line in lines if line))
    wrong = [entry["class"] not in (None, entry["predicted"]) for entry in entries]
    return image_grid(images[[entry["image"] for entry in entries]], captions, title, wrong=wrong)


def confused_pairs(images: Tensor, pairs: Sequence[dict[str, Any]], title: str) -> Figure:
    """Draws the images of each of report.json's confused pairs in a row, with the probability of each prediction."""
    if not pairs:
        return sentence("There are no mistakes.", title.partition("\n")[0])
    entries = [entry for pair in pairs for entry in pair["images"]]
    captions = [f"✗ {percent(entry['probability'])}" for entry in entries]
    labels = [f"{pair['class']} taken for {pair['predicted']}: {pair['count']:,} of {pair['of']:,}" for pair in pairs]
    rows = [(label, len(pair["images"])) for label, pair in zip(labels, pairs, strict=True)]
    shown = images[[entry["image"] for entry in entries]]
    return image_grid(
        shown,
        captions,
        title,
        max(map(len, (pair["images"] for pair in pairs))),
        wrong=[True] * len(entries),
        rows=rows,
    )


@drawing()
def sentence(text: str, title: str) -> Figure:
    """Draws a sentence in place of a picture that would be empty."""
    figure = blank(5 * DPI, 1.2 * DPI, title)
    axes = figure.add_subplot()
    axes.axis("off")
    axes.text(0, 0.5, text, va="center", transform=axes.transAxes)
    return figure


def save(figure: Figure, path: Path, flag: str = RUNS_FLAG) -> Path:
    """Writes a PNG, whole or not at all, and returns its path. Raises UserError, which names `flag`, if it can't."""
    return write_whole(path, png(figure), flag)


@drawing()
def png(figure: Figure) -> bytes:
    """Returns a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi="figure", metadata={"Software": None})
    return file.getvalue()
