"""Charts of values over a training: loss, accuracy and learning rate by epoch, and Lightning's search for a rate.

They are drawn from the values of report.json, and compute no metric.
"""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from lit_cifar.evaluation.wording import percent
from lit_cifar.report.figures import BLUE, DPI, GREY, INK, ORANGE, PERCENT, blank, drawing, sentence
from lit_cifar.report.tables import VALIDATED, how_chosen, length, plural

CURVE_POINTS = 200  # of each curve in report.json, of which `runs` reads a thousand
SMOOTHED_FROM = 100  # points of a training curve
MARKED_UP_TO = 40  # validations: the marks of more would hide their line
HEIGHTS = {"loss": 2.6, "accuracy": 2.6, "learning rate": 1.2}  # of the panels, in inches


def thinned(name: str, curve: Sequence[tuple[int, float]], tested: int) -> list[list[float | None]]:
    """Returns (step, value) of a curve with up to CURVE_POINTS, which stand for as many neighbours each.

    A point is the mean of its neighbours in a curve of training batches, else the last or that of the step `tested`.
    A value that is not finite is None: JSON has no other word for it.
    """
    size = math.ceil(len(curve) / CURVE_POINTS)
    groups = [curve[i : i + size] for i in range(0, len(curve), size or 1)]
    if name.endswith("/train"):
        points = [(group[-1][0], fmean(value for _, value in group)) for group in groups]
    else:
        points = [next((point for point in group if point[0] == tested), group[-1]) for group in groups]
    return [[step, float(f"{value:.6g}") if math.isfinite(value) else None] for step, value in points]


@drawing()
def training(report: dict[str, Any], title: str) -> Figure:
    """Draws loss, accuracy and learning rate by epoch, and marks the weights that were tested.

    From 100 points on, training curves are smoothed, and their points drawn lighter. Values that are not finite or far
    from all others are left out and counted.
    """
    curves = {name: np.asarray(curve, float).reshape(-1, 2).T for name, curve in report["curves"].items()}
    panels = {
        "loss": (curves["loss/train"], curves["loss/val"]),
        "accuracy": (curves["accuracy/train"], curves["accuracy/val"]),
        "learning rate": (curves["lr"], curves["lr"]),
    }
    panels = {name: lines for name, lines in panels.items() if any(line.size for line in lines)}
    if not panels:
        return sentence("Nothing was recorded.", title)
    an_epoch = report["steps_per_epoch"] or 1
    tested = report["checkpoint_step"] / an_epoch
    last = max(steps.max() for lines in panels.values() for steps, _ in lines if steps.size) / an_epoch

    heights = [HEIGHTS[name] for name in panels]
    figure = blank(8.2 * DPI, (2.1 + sum(heights)) * DPI, title)
    parts = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (name, lines) in zip(parts, panels.items(), strict=True):
        axes.set_ylabel(name)
        axes.grid()
        if name == "learning rate":
            steps, rates = lines[0]
            axes.plot(steps / an_epoch, rates, color=BLUE, linewidth=1.5, marker="." if len(steps) == 1 else "")
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_locator(MaxNLocator(3))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        else:
            _draw(axes, *lines, an_epoch, most=1.0 if name == "accuracy" else np.inf)
            if name == "accuracy":
                axes.yaxis.set_major_formatter(PERCENT)
        look: dict[str, Any] = {"color": INK, "linestyle": ":", "linewidth": 1.5, "zorder": 1.6}
        axes.axvline(tested, label=_tested(report), **look)

    parts[-1].set(xlabel="epoch", xlim=(0, 1.02 * max(last, tested)))
    parts[-1].xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10], integer=last >= 4))
    parts[-1].xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    above = parts[0].secondary_xaxis("top", functions=(lambda x: x * an_epoch, lambda x: x / an_epoch))
    above.set_xlabel("step")
    above.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    above.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    named = {label: line for axes in parts for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named, loc="outside lower left", ncols=2, frameon=False)
    return figure


def _tested(report: dict[str, Any]) -> str:
    """Returns `tested: after 27 epochs, chosen by validation accuracy (86.5 %)`."""
    chosen, accuracy = report["chosen_by"], report["val_accuracy"]
    value = f" ({percent(accuracy)})" if chosen == VALIDATED and accuracy is not None else ""
    after = length(report["checkpoint_epoch"], report["checkpoint_step"])
    return f"tested: after {after}, {how_chosen(chosen)}{value}"


def _draw(axes: Axes, train: np.ndarray, val: np.ndarray, an_epoch: float, most: float) -> None:
    """Draws steps and values of the training and of the validation images, none of which can be more than `most`."""
    values = np.append(train[1], val[1])
    finite = values[np.isfinite(values)]
    low, high = _limits(finite) if len(finite) else (0, 1)
    low, high = low if (finite < 0).any() else max(0, low), min(high, 1.02 * most)
    axes.set_ylim(low, high)
    steps, raw = train
    if len(raw) > SMOOTHED_FROM:
        window = len(raw) // 25 | 1  # odd, so that it has a middle
        over = float(f"{window * np.median(np.diff(steps)) / an_epoch:.1g}")
        axes.plot(steps / an_epoch, raw, color=BLUE, alpha=0.3, linewidth=0.8, label="training images")
        label = f"training images, smoothed over {plural(int(over) if over >= 1 else over, 'epoch')}"
        axes.plot(steps / an_epoch, _smoothed(raw, window, low, high), color=BLUE, linewidth=2, label=label)
    elif len(raw):
        axes.plot(steps / an_epoch, raw, color=BLUE, linewidth=1.5, marker=".", label="training images")
    if val.size:
        look: dict[str, Any] = {"marker": "D", "markersize": 5} if len(val[1]) <= MARKED_UP_TO else {}
        axes.plot(val[0] / an_epoch, val[1], "--", color=ORANGE, linewidth=1.5, label="validation images", **look)
    beyond = int(((finite < low) | (finite > high)).sum())
    unseen = ((beyond, "off the scale"), (len(values) - len(finite), "not finite"))
    if note := ", ".join(f"{number:,} {what}" for number, what in unseen if number):
        look = {"color": GREY, "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 2}}
        axes.text(0.5, 0.94, f"not drawn: {note}", ha="center", va="top", transform=axes.transAxes, **look)


@drawing()
def learning_rates(rates: Sequence[float], losses: Sequence[float], found: float) -> Figure:
    """Draws loss against learning rate, and the rate that was found."""
    figure = blank(8.2 * DPI, 4.6 * DPI, "Loss while the learning rate rises")
    axes = figure.add_subplot(xlabel="learning rate", ylabel="loss", xscale="log")
    axes.xaxis.set_major_locator(LogLocator(numticks=9))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid()
    axes.plot(rates, losses, color=BLUE, linewidth=1.5)
    axes.axvline(found, color=ORANGE, linestyle="--", label=f"found: {found:.2g}")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, borderaxespad=0.2)
    finite = np.asarray(losses)[np.isfinite(losses)]
    if len(finite):
        low, high = _limits(finite)
        low = low if finite.min() < 0 else max(0, low)
        axes.set_ylim(low, min(high, finite[0] + 0.5 * abs(finite[0])))
    return figure


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
