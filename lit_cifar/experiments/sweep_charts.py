"""Pictures of a sweep: its history, which parameters matter, and the accuracy at the values of each.

They are drawn from the values of sweep.json, and compute nothing.
"""

from math import ceil
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from lit_cifar.report.figures import (
    BLUE,
    DPI,
    GREY,
    INK,
    ORANGE,
    PERCENT,
    TEXT_SIZE,
    blank,
    cut,
    drawing,
    sentence,
    wrap,
)

MARKS: dict[str, dict[str, Any]] = {  # of a trial's state, told by shape as well as by colour
    "complete": {"marker": "o", "color": BLUE, "markersize": 6},
    "pruned": {"marker": "x", "color": GREY, "markersize": 6, "markeredgewidth": 1.5},
    "failed": {"marker": "|", "color": ORANGE, "markersize": 12, "markeredgewidth": 2},
}
LABELS = {
    "complete": "complete",
    "pruned": "pruned: the best epoch until then",
    "failed": "failed or diverged: no accuracy",
}
COLUMNS = 3
WIDEST_NAME = 90  # points, of a category


@drawing()
def history(sweep: dict[str, Any]) -> Figure:
    """Draws the validation accuracy of each trial, and the best one so far."""
    title = f"Validation accuracy of the trials of {sweep['name']}"
    if not any(trial["val_accuracy"] is not None for trial in sweep["trials"]):
        return sentence("No trial has a validation accuracy.", title)
    figure = blank(8.2 * DPI, 4.6 * DPI, title)
    axes = figure.add_subplot(xlabel="trial", ylabel="validation accuracy")
    best, steps = None, []
    for trial in sweep["trials"]:
        if trial["state"] == "complete" and (best is None or trial["val_accuracy"] > best):
            best = trial["val_accuracy"]
        steps.append((trial["number"], best))
    known = [(number, value) for number, value in steps if value is not None]
    if known:
        numbers, values = zip(*known, strict=True)
        axes.step(numbers, values, where="post", color=INK, linewidth=1, label="best so far")
    _mark(axes, sweep["trials"], [trial["number"] for trial in sweep["trials"]])
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    figure.legend(loc="outside lower left", ncols=2, frameon=False)
    return figure


@drawing()
def importance(sweep: dict[str, Any]) -> Figure:
    """Draws how much each parameter matters."""
    title = "Which parameters decide whether a trial is among the best tenth"
    shares = sweep["importances"]
    if not shares:
        return sentence("Too few complete trials to say so.", title)
    figure = blank(8.2 * DPI, (1.3 + 0.42 * len(shares)) * DPI, title)
    axes = figure.add_subplot(xlim=(0, max(1e-9, *shares.values()) * 1.15))
    bars = axes.barh(range(len(shares)), [*shares.values()], 0.6, color=BLUE)
    axes.bar_label(bars, [f"{share * 100:.0f} %" for share in shares.values()], padding=4)
    axes.set_yticks(range(len(shares)), [wrap(name, 230, 2) for name in shares])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_visible(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


@drawing()
def slices(sweep: dict[str, Any]) -> Figure:
    """Draws the validation accuracy of the trials against the values of each parameter."""
    search, trials = sweep["search"], sweep["trials"]
    title = f"Validation accuracy of {sweep['name']} by the values of each parameter"
    if not any(trial["val_accuracy"] is not None for trial in trials):
        return sentence("No trial has a validation accuracy.", title)
    columns = 2 if len(search) == 4 else min(COLUMNS, len(search))
    rows = ceil(len(search) / columns)
    figure = blank(max(2, columns) * 3.2 * DPI, (1.2 + 2.9 * rows) * DPI, title)
    parts = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in parts.flat[len(search) :]:
        axes.set_axis_off()
    for axes, (key, parameter) in zip(parts.flat, search.items(), strict=False):
        values = [trial["values"][key] for trial in trials]
        if "values" in parameter:
            names = parameter["values"]
            width = min(WIDEST_NAME, 150 / len(names))
            labels = [cut(name, WIDEST_NAME) for name in names]
            upright = any(cut(name, width) != name for name in names)
            axes.set_xticks(range(len(names)), labels, rotation=90 if upright else 0)
            axes.set_xlim(-0.5, len(names) - 0.5)
            values = [names.index(value) for value in values]
        elif parameter["log"]:
            axes.set_xscale("log")
            pad = (parameter["high"] / parameter["low"]) ** 0.04
            axes.set_xlim(parameter["low"] / pad, parameter["high"] * pad)
            axes.xaxis.set_major_locator(LogLocator(numticks=5))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")
        else:
            pad = 0.04 * (parameter["high"] - parameter["low"])
            axes.set_xlim(parameter["low"] - pad, parameter["high"] + pad)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=parameter["integers"], min_n_ticks=1))
        _mark(axes, trials, values)
        axes.set_xlabel(wrap(key, 190, 2))
    for row in parts:
        row[0].set_ylabel("validation accuracy")
    handles, labels = parts[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=2, frameon=False, fontsize=TEXT_SIZE)
    return figure


def _mark(axes: Axes, trials: list[dict[str, Any]], places: list[float]) -> None:
    """Draws a mark for each trial; those without an accuracy stand at the lower edge."""
    for state, look in MARKS.items():
        some = [(place, trial) for place, trial in zip(places, trials, strict=True) if trial["state"] == state]
        known = [(place, trial["val_accuracy"]) for place, trial in some if trial["val_accuracy"] is not None]
        if state == "failed":
            known = [(place, 0.03) for place, _ in some]
        if known:
            options: dict[str, Any] = {"transform": axes.get_xaxis_transform()} if state == "failed" else {}
            x, y = zip(*known, strict=True)
            axes.plot(x, y, linestyle="none", label=LABELS[state], **look, **options)
    axes.margins(y=0.12)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.grid()
