"""The pictures that tell where a network fails: its mistakes, its doubts, its classes, and how sure it may be.

Drawn from the values of report.json, in the style of figures.py.
"""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from lit_cifar.evaluation.metrics import percent
from lit_cifar.report.canvas import BLUE, DPI, GREY, INK, ORANGE, STYLE, blank, cut, wrap
from lit_cifar.report.figures import image_grid

CLASSES_UP_TO = 100  # rows of the figure of the classes
SHOULD_BE = "mean confidence: where the accuracy should be"
MANY = 10  # images of a bin, from which on its accuracy tells something
FEW: dict[str, Any] = {
    "facecolor": "white",
    "edgecolor": BLUE,
    "hatch": "////",
    "label": f"accuracy of fewer than {MANY} images",
}
MEASURES: dict[str, dict[str, Any]] = {  # of a class: its mark, told by shape as well as by colour
    "precision": {"marker": ">", "color": BLUE, "markersize": 7},
    "recall": {"marker": "<", "color": ORANGE, "markersize": 7},
    "f1": {"marker": "|", "color": INK, "markersize": 11, "markeredgewidth": 2},
}
MEANINGS = {
    "precision": "precision: of the images called one, the share that are one",
    "recall": "recall: of the images that are one, the share called one",
    "f1": "F1: the harmonic mean of the two",
}


def mistakes(images: Tensor, ranked: Sequence[dict[str, Any]], title: str) -> Figure:
    """The mistakes of report.json among the test images, uint8 `[N, 3, H, W]`."""
    legend = "Caption: probability and name of the predicted class, and the true class. The surest mistake comes first."
    return _ranking(images, ranked, f"{title}\n{legend}", "There are no mistakes to show.", mark=False)


def uncertain(images: Tensor, ranked: Sequence[dict[str, Any]], title: str) -> Figure:
    """The uncertain images of report.json among the test images, uint8 `[N, 3, H, W]`."""
    legend = (
        "Caption: probability and name of the predicted class. A frame marks a wrong one. The least sure comes first."
    )
    return _ranking(images, ranked, f"{title}\n{legend}", "No image has a probability.", mark=True)


def _ranking(images: Tensor, ranked: Sequence[dict[str, Any]], title: str, nothing: str, mark: bool) -> Figure:
    if not ranked:
        return _sentence(nothing, title.partition("\n")[0])
    captions = []
    for entry in ranked:
        truth = "" if entry["class"] == entry["predicted"] else f"\nnot {cut(entry['class'], 150)}"
        captions.append(f"{percent(entry['probability'])} {cut(entry['predicted'], 150)}{truth}")
    marked = [mark and entry["class"] != entry["predicted"] for entry in ranked]
    return image_grid(images[[entry["image"] for entry in ranked]], captions, title, marked=marked)


@STYLE
def _sentence(text: str, title: str) -> Figure:
    figure = blank(5 * DPI, 1.2 * DPI, title)
    axes = figure.add_subplot()
    axes.axis("off")
    axes.text(0, 0.5, text, va="center", transform=axes.transAxes)
    return figure


@STYLE
def reliability(report: dict[str, Any], title: str) -> Figure:
    """Accuracy against confidence, and below how many images have that confidence."""
    bins = [b for b in report["calibration"] if b["images"]]
    if not bins:
        return _sentence("No image has a probability.", title)
    figure = blank(5.4 * DPI, 6.3 * DPI, title)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    width = bins[0]["to"] - bins[0]["from"]
    for few, look in ((False, {"color": BLUE, "label": "accuracy"}), (True, FEW)):
        if some := [b for b in bins if (b["images"] < MANY) == few]:
            upper.bar([b["from"] for b in some], [b["accuracy"] for b in some], 0.9 * width, align="edge", **look)
    sure = [b["confidence"] for b in bins]
    left, right = ([b["from"] + edge * width for b in bins] for edge in (0, 0.9))
    upper.hlines(sure, left, right, color=ORANGE, linewidth=3, clip_on=False, label=SHOULD_BE)
    upper.plot([0, 1], [0, 1], color=INK, linestyle="--", linewidth=1)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    figure.legend(loc="outside lower left", frameon=False)
    total = sum(b["images"] for b in bins)
    shares = [b["images"] / total for b in bins]
    lower.bar([b["from"] for b in bins], shares, 0.9 * width, align="edge", color=GREY)
    lower.set(xlabel="confidence: probability of the predicted class", ylabel="images")
    lower.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    for axis in (upper.xaxis, upper.yaxis, lower.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    for axes in (upper, lower):
        axes.grid(color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
    return figure


@STYLE
def per_class(report: dict[str, Any], title: str) -> Figure:
    """Precision, recall and F1 of each class, a row for each."""
    names = list(report["class_f1"])
    if len(names) > CLASSES_UP_TO:
        names = sorted(names, key=lambda name: report["class_f1"][name] or 0)[:CLASSES_UP_TO]
        title = f"{title}: the {CLASSES_UP_TO} classes with the lowest F1"
    figure = blank(7 * DPI, (1.9 + 0.24 * len(names)) * DPI, title)
    axes = figure.add_subplot()
    rows = range(len(names))
    for measure, look in MEASURES.items():
        values = [report[f"class_{measure}"][name] for name in names]
        known = [float("nan") if value is None else value for value in values]
        axes.plot(known, rows, linestyle="none", label=MEANINGS[measure], clip_on=False, **look)
    for row, name in enumerate(names):
        unknown = "no images" if report["class_recall"][name] is None else ""
        unknown = unknown or ("never predicted" if report["class_precision"][name] is None else "")
        axes.text(1.03, row, unknown, va="center", color=GREY)
    axes.set_yticks(rows, [wrap(name, 130, 1) for name in names])
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6))
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.tick_params(axis="y", length=0, pad=9)  # clear of a mark at 0
    axes.spines["left"].set_visible(False)
    axes.grid(color="#DDDDDD", linewidth=0.6)
    figure.legend(loc="outside lower left", frameon=False)
    return figure
