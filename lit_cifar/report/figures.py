"""The pictures that a run leaves behind: images with captions, the confusion matrix, the loss. No metric is computed.

Remarkable: images are enlarged by whole numbers, so that each of their pixels is a square of the screen's; nothing is
told by colour alone; the same numbers give the same bytes.
"""

import io
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter
from torch import Tensor

from lit_cifar.files import RUNS_FLAG, write_whole
from lit_cifar.report.canvas import (
    BLUE,
    DPI,
    GREY,
    LINE,
    NO_IMAGES,
    ORANGE,
    POINT,
    STYLE,
    TEXT,
    TITLE,
    blank,
    cut,
    height_of,
    wrap,
)

NUMBERS_UP_TO = 20  # classes of a confusion matrix
SMOOTHED_FROM = 100  # points of a loss curve


@STYLE
def image_grid(
    images: Tensor, captions: Sequence[str], title: str, columns: int = 8, marked: Sequence[bool] | None = None
) -> Figure:
    """Images of uint8 `[N, 3, H, W]` in rows of `columns`, enlarged without smoothing, a caption under each.

    A marked image has a frame and a bold caption. What follows the first line of the title is written small.
    """
    count, _, height, width = images.shape
    marked = marked or [False] * count
    columns = min(columns, count)
    side = max(128, 512 // columns)  # of the screen's pixels: the fewer images, the larger
    scale = side / max(height, width)
    height, width = (round(length * (int(scale) if scale > 1 else scale)) for length in (height, width))
    margin, gap, cell = 28, 28, max(width, 128)
    texts = [wrap(text, (cell + gap - 8) / POINT, 6, bold=bold) for text, bold in zip(captions, marked, strict=True)]
    step_x, step_y = cell + gap, height + 8 + max(map(height_of, texts)) + gap

    across = 2 * margin + max(512, columns * step_x - gap)
    first, _, rest = title.partition("\n")
    first = wrap(first, (across - 2 * margin) / POINT, 3, size=TITLE, bold=True)
    rest = wrap(rest, (across - 2 * margin) / POINT, 3)
    top = margin + height_of(first, TITLE) + (height_of(rest) + 4 if rest else 0) + 14
    down = top + ceil(count / columns) * step_y - gap + margin

    # One axes over the whole figure whose unit is the screen's pixel: constrained layout would enlarge images by
    # 3.7, and some of their pixels would be 3 wide and others 4.
    figure = blank(across, down)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.text(margin, margin, first, size=TITLE, weight="bold", va="top", linespacing=LINE)
    axes.text(margin, margin + height_of(first, TITLE) + 4, rest, color=GREY, va="top", linespacing=LINE)
    for i, (image, text, bold) in enumerate(zip(images.permute(0, 2, 3, 1).cpu(), texts, marked, strict=True)):
        row, column = divmod(i, columns)
        x, y = margin + column * step_x + (cell - width) // 2, top + row * step_y
        axes.imshow(image.numpy(), extent=(x, x + width, y + height, y), interpolation="nearest", aspect="auto")
        if bold:
            axes.add_patch(Rectangle((x - 3, y - 3), width + 6, height + 6, fill=False, edgecolor=ORANGE, linewidth=2))
        look: dict[str, Any] = {"color": ORANGE, "weight": "bold"} if bold else {}
        baseline = y + height + 2 + height_of(text)  # of the last line: tops differ with the letters
        axes.text(x + width / 2, baseline, text, ha="center", va="baseline", linespacing=LINE, **look)
    axes.set(xlim=(0, across), ylim=(down, 0))
    return figure


def predictions(images: Tensor, labels: Tensor, predicted: Tensor, classes: Sequence[str], title: str) -> Figure:
    """Images of uint8 `[N, 3, H, W]` with what was predicted and, where that is wrong, what is true."""
    names = [cut(name, 150) for name in classes]
    wrong = (labels.cpu() != predicted.cpu()).tolist()
    captions = [
        f"{names[guess]}, not {names[label]}" if bad else names[guess]
        for guess, label, bad in zip(predicted.tolist(), labels.tolist(), wrong, strict=True)
    ]
    legend = "Caption: the predicted class. A frame marks a wrong one: “A, not B” is a B predicted as A."
    return image_grid(images, captions, f"{title}\n{legend}", marked=wrong)


@STYLE
def confusion(matrix: Tensor | Sequence[Sequence[int]], classes: Sequence[str], title: str) -> Figure:
    """Counts `[C, C]`, rows true, columns predicted, drawn as shares of the row; up to 20 classes with percentages."""
    counts = torch.as_tensor(matrix).cpu().double().numpy()
    total, count = counts.sum(1, keepdims=True), len(classes)
    shares = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)

    side = min(8, max(3.4, 0.62 * count))  # of the matrix, in inches
    cell = side * 72 / count  # in points
    lines, every = max(1, int(cell / (TEXT * LINE))), ceil(TEXT * LINE / cell)  # names are thinned rather than overlap
    shown = range(0, count, every)
    left = [wrap(classes[i], 120, min(lines, 3)) for i in shown]
    below = [wrap(classes[i], cell - 6, 3) for i in shown]
    upright = any("…" in name for name in below)  # better a long name on its side than half of it

    figure = blank((side + 3.2) * DPI, (side + (2.4 if upright else 1.5)) * DPI, title)
    axes = figure.add_subplot()
    colours = matplotlib.colormaps["Blues"].with_extremes(bad=NO_IMAGES)
    drawn = axes.imshow(shares, cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_xticks(shown, left if upright else below, rotation=90 if upright else 0)
    axes.set_yticks(shown, left)
    axes.tick_params(length=0 if every == 1 else 3)
    axes.spines[:].set_visible(False)
    if count <= NUMBERS_UP_TO:
        axes.set_xticks(np.arange(1, count) - 0.5, minor=True)
        axes.set_yticks(np.arange(1, count) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1)
        axes.tick_params(which="minor", length=0)
        for row, column in np.argwhere(shares > 0):
            luminance = np.dot(np.power(colours(shares[row, column])[:3], 2.2), (0.2126, 0.7152, 0.0722))
            ink = "white" if luminance < 0.18 else "black"  # where both have the same contrast, 4.6
            look: dict[str, Any] = {"color": ink, "weight": "bold" if row == column else "normal"}
            axes.text(int(column), int(row), _percent(shares[row, column]), ha="center", va="center", **look)
        for row in np.flatnonzero(total == 0):
            look = {"color": GREY, "bbox": {"facecolor": NO_IMAGES, "edgecolor": "none"}}
            axes.text((count - 1) / 2, int(row), "no images of this class", ha="center", va="center", **look)
    bar = figure.colorbar(drawn, format=PercentFormatter(1, symbol=" %"), shrink=0.8, aspect=28)
    bar.set_label("share of the images of the true class")
    bar.outline.set_visible(False)
    return figure


@STYLE
def loss(
    train: tuple[Sequence[int], Sequence[float]], val: tuple[Sequence[int], Sequence[float]], title: str
) -> Figure:
    """Training loss (raw, and smoothed where there are many points) and validation loss, each as (steps, losses)."""
    figure = blank(8.2 * DPI, 4.6 * DPI, title)
    axes = figure.add_subplot()
    axes.set(xlabel="step", ylabel="cross-entropy loss")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(color="#DDDDDD", linewidth=0.6)
    raw = np.asarray(train[1], float)
    losses = np.concatenate([raw, np.asarray(val[1], float)])
    finite = losses[np.isfinite(losses)]
    low, high = _limits(finite) if len(finite) else (0, 1)
    axes.set_ylim(low, high)

    if len(raw) > SMOOTHED_FROM:
        window = len(raw) // 25 | 1  # odd, so that it has a middle
        axes.plot(train[0], raw, color=BLUE, alpha=0.3, linewidth=0.8, label="train")
        smoothed = _smoothed(raw, window, low, high)
        axes.plot(train[0], smoothed, color=BLUE, linewidth=2, label=f"train, mean of {window} points")
    elif len(raw):
        axes.plot(train[0], raw, color=BLUE, linewidth=1.5, marker=".", label="train")
    if len(val[1]):
        axes.plot(*val, color=ORANGE, linewidth=1.5, linestyle="--", marker="D", markersize=6, label="validation")
    if axes.lines:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, borderaxespad=0.2)

    beyond = int(((finite < low) | (finite > high)).sum())
    unseen = ((beyond, "off the scale"), (len(losses) - len(finite), "not finite"))
    note = ", ".join(f"{number:,} {what}" for number, what in unseen if number)
    note = f"not drawn: {note}" if note else "" if len(losses) else "no loss was recorded"
    axes.text(0.012, 0.03, note, color=GREY, transform=axes.transAxes)
    return figure


@STYLE
def budgets(seconds: Sequence[float], accuracies: Sequence[float], epochs: Sequence[int], title: str) -> Figure:
    """Accuracy of trainings of so many epochs against the seconds they took."""
    figure = blank(8.2 * DPI, 4.6 * DPI, title)
    axes = figure.add_subplot()
    axes.set(xlabel="seconds of training and test", ylabel="accuracy on the test images")
    axes.plot(seconds, accuracies, color=BLUE, linewidth=1.5, marker="o")
    for x, y, number in zip(seconds, accuracies, epochs, strict=True):
        text = f"{number} epoch{'s' if number > 1 else ''}: {y * 100:.1f} %"
        axes.annotate(text, (x, y), (6, -12), textcoords="offset points")
    axes.set_xlim(0, max(seconds) * 1.2)
    axes.margins(y=0.15)
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.grid(color="#DDDDDD", linewidth=0.6)
    return figure


@STYLE
def learning_rates(rates: Sequence[float], losses: Sequence[float], found: float) -> Figure:
    """Loss against learning rate, and the rate that was found."""
    figure = blank(8.2 * DPI, 4.6 * DPI, "Loss while the learning rate rises")
    axes = figure.add_subplot(xlabel="learning rate", ylabel="cross-entropy loss", xscale="log")
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.plot(rates, losses, color=BLUE, linewidth=1.5)
    axes.axvline(found, color=ORANGE, linestyle="--", label=f"found: {found:.2g}")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, borderaxespad=0.2)
    finite = np.asarray(losses)[np.isfinite(losses)]
    if len(finite):
        low, high = _limits(finite)
        axes.set_ylim(low, min(high, finite[0] * 1.5))
    return figure


def save(figure: Figure, path: Path, flag: str = RUNS_FLAG) -> Path:
    """Writes a PNG, whole or not at all, and returns its path; `flag` names another place to write to.

    Raises:
        UserError: it can't be written there.
    """
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi="figure", metadata={"Software": None})
    return write_whole(path, png.getvalue(), flag)


def _percent(share: float) -> str:
    """`54`; and what is rounded to nothing or to all is told from it."""
    return "<1" if share <= 0.005 else ">99" if 0.995 <= share < 1 else f"{share * 100:.0f}"


def _smoothed(values: np.ndarray, window: int, low: float, high: float) -> np.ndarray:
    """The mean of the values around each, of fewer at the ends, without those that are off the scale or not finite."""
    near = (values >= low) & (values <= high)
    number = np.convolve(near, np.ones(window), "same")
    total = np.convolve(np.where(near, values, 0), np.ones(window), "same")
    return np.divide(total, number, out=np.full_like(values, np.nan), where=number > 0.5)


def _limits(losses: np.ndarray) -> tuple[float, float]:
    """From the smallest to the largest, but for what lies further out than thrice the span of the middle 98 %."""
    low, high = losses.min(), losses.max()
    if len(losses) >= 10:
        first, last = np.quantile(losses, 0.01, method="higher"), np.quantile(losses, 0.99, method="lower")
        near = losses[(losses >= first - 3 * (last - first)) & (losses <= last + 3 * (last - first))]
        low, high = near.min(), near.max()
    pad = 0.06 * (high - low) or 0.1
    return low - pad, high + pad
