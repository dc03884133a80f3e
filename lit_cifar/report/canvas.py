"""What every figure is drawn on: a size in pixels, one font, a few colours, and text that fits.

Text is measured before it is placed, in the font that is drawn, so that long class names are wrapped or cut and never
overlap. No pyplot: a figure belongs to whoever asked for it and needs no closing.
"""

import re
import warnings
from math import ceil

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

DPI = 130  # a grid of eight columns fills a laptop's screen
POINT = DPI / 72  # in pixels
TITLE, TEXT = 13.0, 9.0  # sizes, in points
LINE = 1.3  # from one line to the next, in sizes
FONT = "DejaVu Sans"  # comes with matplotlib, so that what is measured is what is drawn
BLUE, ORANGE = "#0072B2", "#D55E00"  # of Okabe and Ito's palette
INK, GREY, NO_IMAGES = "#222222", "#666666", "#E4E4E4"

# Letters that FONT lacks are drawn as boxes.
warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")

STYLE = matplotlib.rc_context(
    {
        "font.family": FONT,
        "font.size": TEXT,
        "text.parse_math": False,  # a class may be called "$5"
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": GREY,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.constrained_layout.h_pad": 0.09,
        "figure.constrained_layout.w_pad": 0.12,
    }
)


def blank(across: float, down: float, title: str = "") -> Figure:
    """A figure of so many pixels; with a title it lays itself out."""
    figure = Figure((across / DPI, down / DPI), dpi=DPI, facecolor="white", layout="constrained" if title else None)
    FigureCanvasAgg(figure)
    if title:
        text = wrap(title, (across - 60) / POINT, 3, size=TITLE, bold=True)
        figure.suptitle(text, x=0.02, ha="left", size=TITLE, weight="bold")
    return figure


def height_of(text: str, size: float = TEXT) -> int:
    """Of wrapped text, in pixels."""
    return ceil((text.count("\n") + 1) * LINE * size * POINT)


def width_of(text: str, size: float = TEXT, bold: bool = False) -> float:
    """In points."""
    font = FontProperties(family=FONT, size=size, weight="bold" if bold else "normal")
    return text_to_path.get_text_width_height_descent(text, font, False)[0]


def cut(text: str, width: float, size: float = TEXT, bold: bool = False) -> str:
    """At most so many points of text, with … where something is left out."""
    if width_of(text, size, bold) <= width:
        return text
    while text and width_of(f"{text}…", size, bold) > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def wrap(text: str, width: float, lines: int, size: float = TEXT, bold: bool = False) -> str:
    """Text in at most so many lines of so many points, broken at line ends and after spaces, `_`, `-` and `/`."""
    rows = [""]
    for word in re.findall(r"\S+?(?:[_/-]+|\s+|$)", text):
        full = rows[-1].endswith("\n") or width_of((rows[-1] + word).rstrip(), size, bold) > width
        if rows[-1] and len(rows) < lines and full:
            rows.append("")
        rows[-1] += word
    return "\n".join(cut(row.rstrip(), width, size, bold) for row in rows)
