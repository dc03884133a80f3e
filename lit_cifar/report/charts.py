"""Charts of a run's numbers: confusion matrix, scores of the classes, calibration, loss, time, learning rates.

They are drawn from the values of report.json, and compute no metric.
"""

from collections.abc import Sequence
from math import ceil
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter
from torch import Tensor

from lit_cifar.report.figures import (
    BLUE,
    DPI,
    GREY,
    INK,
    LINE_SPACING,
    ORANGE,
    TEXT_SIZE,
    blank,
    drawing,
    sentence,
    wrap,
)

NO_IMAGES = "#E4E4E4"
CLASSES_UP_TO = 100  # rows of the chart of the classes
SMALLEST = 5.5  # points: 10 pixels; the names of 100 classes
SMOOTHED_FROM = 100  # points of a loss curve
ENOUGH_IMAGES = 10  # in a bin of confidence, for its accuracy to mean something
SCORES = {  # of a class: what it means, and its mark, of a shape of its own
    "precision": ("precision: the share of images predicted as this class that belong to it", ">", 6, BLUE),
    "recall": (
        "recall: the share of images of this class that are predicted as it, and its 95 % interval",
        "<",
        6,
        ORANGE,
    ),
    "f1": ("F1: the harmonic mean of both", "|", 11, INK),
}


@drawing()
def confusion(matrix: Tensor | Sequence[Sequence[int]], classes: Sequence[str], title: str) -> Figure:
    """Draws counts `[C, C]`, rows true, columns predicted, as shares of the row; up to 20 classes with percentages."""
    counts = torch.as_tensor(matrix).cpu().double().numpy()
    total, count = counts.sum(1, keepdims=True), len(classes)
    shares = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)

    side = min(10, max(3.4, min(8, 0.62 * count), 0.1 * count))  # of the matrix, in inches
    cell = side * 72 / count  # in points
    size = min(TEXT_SIZE, max(SMALLEST, cell / LINE_SPACING))
    lines, every = max(1, int(cell / (LINE_SPACING * size))), ceil(LINE_SPACING * size / cell)
    shown = range(0, count, every)  # names that would overlap are left out
    left = [wrap(classes[i], 120, min(lines, 3), size) for i in shown]
    below = [wrap(classes[i], cell - 6, 3, size) for i in shown]
    upright = any("…" in name for name in below)  # a long name reads better upright than cut

    figure = blank((side + 3.2) * DPI, (side + (2.4 if upright else 1.5)) * DPI, title)
    axes = figure.add_subplot(xlabel="predicted class", ylabel="true class")
    colours = matplotlib.colormaps["Blues"].with_extremes(bad=NO_IMAGES)
    drawn = axes.imshow(shares, cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks(shown, left if upright else below, rotation=90 if upright else 0)
    axes.set_yticks(shown, left)
    axes.tick_params(length=0 if every == 1 else 3, labelsize=size)
    axes.spines[:].set_visible(False)
    if count <= 20:
        axes.set_xticks(np.arange(1, count) - 0.5, minor=True)
        axes.set_yticks(np.arange(1, count) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1)
        axes.tick_params(which="minor", length=0)
        for row, column in np.argwhere(shares > 0):
            share = shares[row, column]
            luminance = np.dot(np.power(colours(share)[:3], 2.2), (0.2126, 0.7152, 0.0722))
            ink = "white" if luminance < 0.18 else "black"  # at 0.18 both have the same contrast, 4.6
            look: dict[str, Any] = {"color": ink, "weight": "bold" if row == column else "normal"}
            percent = "<1" if share <= 0.005 else ">99" if 0.995 <= share < 1 else f"{share * 100:.0f}"
            axes.text(int(column), int(row), percent, ha="center", va="center", **look)
        for row in np.flatnonzero(total == 0):
            look = {"color": GREY, "bbox": {"facecolor": NO_IMAGES, "edgecolor": "none"}}
            axes.text((count - 1) / 2, int(row), "no images of this class", ha="center", va="center", **look)
    bar = figure.colorbar(drawn, format=PercentFormatter(1, symbol=" %"), shrink=0.8, aspect=28)
    bar.set_label("share of the images of the true class")
    bar.outline.set_visible(False)
    return figure


@drawing()
def per_class(report: dict[str, Any], title: str) -> Figure:
    """Draws precision, recall and F1 of each class in a row."""
    names = list(report["class_f1"])
    if len(names) > CLASSES_UP_TO:
        names = sorted(names, key=lambda name: report["class_f1"][name] or 0)[:CLASSES_UP_TO]
        title = f"{title}: the {CLASSES_UP_TO} classes with the lowest F1"
    figure = blank(7 * DPI, (1.9 + 0.24 * len(names)) * DPI, title)
    axes = figure.add_subplot(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6))
    for score, (label, marker, size, colour) in SCORES.items():
        values = [report[f"class_{score}"][name] for name in names]
        known = [float("nan") if value is None else value for value in values]
        look: dict[str, Any] = {"marker": marker, "markersize": size, "markeredgewidth": 2, "linestyle": "none"}
        axes.plot(known, range(len(names)), color=colour, clip_on=False, label=label, **look)
    for row, name in enumerate(names):
        if bounds := report["class_accuracy_interval"][name]:
            axes.plot(bounds, [row, row], color=ORANGE, linewidth=1, zorder=1)
        undefined = "never predicted" if report["class_precision"][name] is None else ""
        note = "no images" if report["class_recall"][name] is None else undefined
        axes.text(1.03, row, note, va="center", color=GREY)
    axes.set_yticks(range(len(names)), [wrap(name, 130, 1) for name in names])
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.tick_params(axis="y", length=0, pad=9)  # beside a mark at 0
    axes.spines["left"].set_visible(False)
    axes.grid()
    figure.legend(loc="outside lower left", frameon=False)
    return figure


@drawing()
def reliability(report: dict[str, Any], title: str) -> Figure:
    """Draws accuracy against confidence, and below it the share of images with each confidence."""
    bins = [b for b in report["calibration"] if b["images"]]
    if not bins:
        return sentence("No image has a probability.", title)
    figure = blank(5.4 * DPI, 6.3 * DPI, title)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1), subplot_kw={"axisbelow": True})
    width = bins[0]["to"] - bins[0]["from"]
    hatched = {"facecolor": "white", "edgecolor": BLUE, "hatch": "////"}
    hatched["label"] = f"accuracy of fewer than {ENOUGH_IMAGES} images"
    for few, look in enumerate(({"color": BLUE, "label": "accuracy"}, hatched)):
        if some := [b for b in bins if (b["images"] < ENOUGH_IMAGES) == few]:
            upper.bar([b["from"] for b in some], [b["accuracy"] for b in some], 0.9 * width, align="edge", **look)
    left, right = ([b["from"] + edge * width for b in bins] for edge in (0, 0.9))
    label = "mean confidence: where the accuracy should be"
    upper.hlines([b["confidence"] for b in bins], left, right, ORANGE, linewidth=3, clip_on=False, label=label)
    upper.plot([0, 1], [0, 1], color=INK, linestyle="--", linewidth=1)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    figure.legend(loc="outside lower left", frameon=False)
    total = sum(b["images"] for b in bins)
    lower.bar(left, [b["images"] / total for b in bins], 0.9 * width, align="edge", color=GREY)
    lower.set(xlabel="confidence: probability of the predicted class", ylabel="images")
    lower.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    for axis in (upper.xaxis, upper.yaxis, lower.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    upper.grid()
    lower.grid()
    return figure


@drawing()
def loss(train: Sequence[tuple[int, float]], val: Sequence[tuple[int, float]], title: str) -> Figure:
    """Draws training loss, raw and from 100 points on smoothed too, and validation loss, as (step, loss) pairs."""
    figure, axes = _chart(title, xlabel="step", ylabel="cross-entropy loss")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    (steps, raw), (val_steps, val_losses) = (np.asarray(curve, float).reshape(-1, 2).T for curve in (train, val))
    losses = np.append(raw, val_losses)
    finite = losses[np.isfinite(losses)]
    low, high = _limits(finite) if len(finite) else (0, 1)
    axes.set_ylim(low, high)

    if len(raw) > SMOOTHED_FROM:
        window = len(raw) // 25 | 1  # odd, so that it has a middle
        axes.plot(steps, raw, color=BLUE, alpha=0.3, linewidth=0.8, label="train")
        smoothed = _smoothed(raw, window, low, high)
        axes.plot(steps, smoothed, color=BLUE, linewidth=2, label=f"train, mean of {window} points")
    elif len(raw):
        axes.plot(steps, raw, color=BLUE, linewidth=1.5, marker=".", label="train")
    if len(val):
        look: dict[str, Any] = {"linewidth": 1.5, "linestyle": "--", "marker": "D", "markersize": 6}
        axes.plot(val_steps, val_losses, color=ORANGE, label="validation", **look)
    if axes.lines:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, borderaxespad=0.2)

    beyond = int(((finite < low) | (finite > high)).sum())
    unseen = ((beyond, "off the scale"), (len(losses) - len(finite), "not finite"))
    note = ", ".join(f"{number:,} {what}" for number, what in unseen if number)
    note = f"not drawn: {note}" if note else "" if len(losses) else "no loss was recorded"
    axes.text(0.012, 0.03, note, color=GREY, transform=axes.transAxes)
    return figure


@drawing()
def learning_rates(rates: Sequence[float], losses: Sequence[float], found: float) -> Figure:
    """Draws loss against learning rate, and the rate that was found."""
    title = "Loss while the learning rate rises"
    figure, axes = _chart(title, xlabel="learning rate", ylabel="cross-entropy loss", xscale="log")
    axes.plot(rates, losses, color=BLUE, linewidth=1.5)
    axes.axvline(found, color=ORANGE, linestyle="--", label=f"found: {found:.2g}")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, borderaxespad=0.2)
    finite = np.asarray(losses)[np.isfinite(losses)]
    if len(finite):
        low, high = _limits(finite)
        axes.set_ylim(low, min(high, finite[0] * 1.5))
    return figure


def _chart(title: str, **settings: Any) -> tuple[Figure, Axes]:
    figure = blank(8.2 * DPI, 4.6 * DPI, title)
    axes = figure.add_subplot(**settings)
    axes.grid()
    return figure, axes


def _smoothed(values: np.ndarray, window: int, low: float, high: float) -> np.ndarray:
    """Returns the mean of the window around each value, without values that are off the scale or not finite."""
    near = (values >= low) & (values <= high)
    number = np.convolve(near, np.ones(window), "same")
    total = np.convolve(np.where(near, values, 0), np.ones(window), "same")
    return np.divide(total, number, out=np.full_like(values, np.nan), where=number > 0.5)


def _limits(losses: np.ndarray) -> tuple[float, float]:
    """Returns the range of the losses, without those beyond the middle 98 % by more than three times its span."""
    low, high = losses.min(), losses.max()
    if len(losses) >= 10:
        first, last = np.quantile(losses, 0.01, method="higher"), np.quantile(losses, 0.99, method="lower")
        near = losses[(losses >= first - 3 * (last - first)) & (losses <= last + 3 * (last - first))]
        low, high = near.min(), near.max()
    pad = 0.06 * (high - low) or 0.1
    return low - pad, high + pad
