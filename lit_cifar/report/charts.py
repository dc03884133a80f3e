"""Charts of a test's numbers: confusion matrix, scores of the classes, calibration.

They are drawn from the values of report.json, and compute no metric.
"""

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from lit_cifar.report.figures import (
    BLUE,
    DPI,
    GREY,
    INK,
    LINE_SPACING,
    ORANGE,
    PERCENT,
    TEXT_SIZE,
    blank,
    drawing,
    sentence,
    width_of,
    wrap,
)
from lit_cifar.report.tables import plural

NO_IMAGES = "#E4E4E4"
NUMBERS_UP_TO = 20  # classes in the confusion matrix
RIGHT = LinearSegmentedColormap.from_list("right", ["#FFFFFF", "#7FB4D9"])  # pale, so that the confusions stand out
WRONG = LinearSegmentedColormap.from_list("wrong", ["#FFFFFF", "#FFC98F", "#E06A1B", ORANGE, "#6B2900"])
LEGEND: dict[str, Any] = {"loc": "outside lower left", "frameon": False}
CLASSES_UP_TO = 100  # rows of the chart of the classes
SMALLEST = 5.5  # points: 10 pixels; the names of 100 classes
ENOUGH_IMAGES = 10  # in a bin of confidence, for its accuracy to mean something
SCORES = {  # of a class: what it means, and its mark, of a shape of its own
    "precision": ("precision: the share of images predicted as this class that belong to it", ">", 6, BLUE),
    "recall": (
        "recall: the share of images of this class that are predicted correctly, and its 95 % interval",
        "<",
        6,
        ORANGE,
    ),
    "f1": ("F1: the harmonic mean of both", "|", 11, INK),
}


@drawing()
def confusion(matrix: Tensor | Sequence[Sequence[int]], classes: Sequence[str], title: str) -> Figure:
    """Draws counts `[C, C]`, rows true, columns predicted, as shares of the row; up to 20 classes with percentages.

    The diagonal is blue; the orange of the confusions ends at the largest of them, so that small ones are seen.
    """
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

    longest = max(width_of(line, size) for name in left for line in name.split("\n")) / 72
    figure = blank((side + longest + 2.9) * DPI, (side + (2.2 if upright else 1.3)) * DPI, title)
    axes = figure.add_subplot(xlabel="predicted class", ylabel="true class: each row is 100 %")
    diagonal = np.eye(count, dtype=bool)
    empty = np.broadcast_to(total == 0, shares.shape)
    right, wrong = np.ma.masked_array(shares, ~diagonal | empty), np.ma.masked_array(shares, diagonal | empty)
    axes.set_facecolor(NO_IMAGES)
    parts = [axes.imshow(right, cmap=RIGHT, vmin=0, vmax=1, interpolation="nearest")]
    parts.append(axes.imshow(wrong, cmap=WRONG, vmin=0, vmax=wrong.max() or 1, interpolation="nearest"))
    axes.set_xticks(shown, left if upright else below, rotation=90 if upright else 0)
    axes.set_yticks(shown, left)
    axes.tick_params(length=0 if every == 1 else 3, labelsize=size)
    axes.spines[:].set_visible(False)
    if count <= NUMBERS_UP_TO:
        axes.set_xticks(np.arange(1, count) - 0.5, minor=True)
        axes.set_yticks(np.arange(1, count) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1)
        axes.tick_params(which="minor", length=0)
        for row, column in np.argwhere(shares > 0):
            share = shares[row, column]
            red, green, blue, _ = parts[int(row != column)].to_rgba(share)
            look: dict[str, Any] = {"color": ink_on(red, green, blue), "weight": "bold" if row == column else "normal"}
            percent = "<1" if share <= 0.005 else ">99" if 0.995 <= share < 1 else f"{share * 100:.0f}"
            axes.text(int(column), int(row), percent, ha="center", va="center", **look)
        for row in np.flatnonzero(total == 0):
            look = {"color": INK, "bbox": {"facecolor": NO_IMAGES, "edgecolor": "none"}}
            axes.text((count - 1) / 2, int(row), "no images of this class", ha="center", va="center", **look)
    elif empty.any():
        figure.legend(handles=[Patch(color=NO_IMAGES, label="no images of this class")], **LEGEND)
    labels = "right, on the diagonal", "taken for another class"
    for part, label, known in zip(parts, labels, (right, wrong), strict=True):
        if known.count() and known.max() > 0:
            bar = figure.colorbar(part, ax=axes, format=PERCENT, aspect=28, fraction=0.04, pad=0.02)
            bar.set_label(label)
            bar.outline.set_visible(False)
    return figure


def ink_on(red: float, green: float, blue: float) -> str:
    """Returns the ink of text over a colour of sRGB, whose contrast is at least 4.58 (WCAG 2, relative luminance)."""
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in (red, green, blue)]
    return "white" if np.dot(linear, (0.2126, 0.7152, 0.0722)) < 0.179 else "black"


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
    axes.xaxis.set_major_formatter(PERCENT)
    axes.tick_params(axis="y", length=0, pad=9)  # beside a mark at 0
    axes.spines["left"].set_visible(False)
    axes.grid()
    figure.legend(**LEGEND)
    return figure


@drawing()
def reliability(report: dict[str, Any], title: str) -> Figure:
    """Draws accuracy against confidence, the mean difference of both, and the share of images with each confidence."""
    bins = [b for b in report["calibration"] if b["images"]]
    if not bins:
        return sentence("There are no predictions to show.", title)
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
    figure.legend(**LEGEND)
    total = sum(b["images"] for b in bins)
    lower.bar(left, [b["images"] / total for b in bins], 0.9 * width, align="edge", color=GREY)
    lower.set(xlabel="confidence: probability of the predicted class", ylabel="images")
    lower.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    for axis in (upper.xaxis, upper.yaxis, lower.yaxis):
        axis.set_major_formatter(PERCENT)
    upper.grid()
    lower.grid()
    error, unknown = report["calibration_error"], report["without_probability"]
    left_out = f"\nWithout {plural(unknown, 'image')} that have no probability" if unknown else ""
    text = f"Expected calibration error: {error * 100:.1f} percentage points{left_out}"
    upper.set_title(text, loc="left", size=TEXT_SIZE, color=GREY)
    return figure
