"""Charts of a comparison: intervals of the variants, and accuracy against time for different budgets."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from lit_cifar.evaluation.wording import percent
from lit_cifar.experiments.comparison import Run
from lit_cifar.report.figures import BLUE, DPI, GREY, INK, ORANGE, PERCENT, blank, cut, drawing, wrap

LOOKS = ((BLUE, "o", "-"), (ORANGE, "s", "--"), (INK, "^", ":"), (GREY, "D", "-."))
SPREAD = 0.16  # of the runs' points around the height of their variant, in rows


@drawing()
def intervals(statistics: Mapping[str, Any], runs: Sequence[Run], title: str) -> Figure:
    """Draws a row for each variant: mean validation accuracy, its 95 % interval, and each run as a small point."""
    variants = statistics["variants"]
    figure = blank(8.2 * DPI, (1.9 + 0.42 * len(variants)) * DPI, title)
    axes = figure.add_subplot(xlabel="validation accuracy", ylim=(len(variants) - 0.4, -0.6))
    for row, each in enumerate(variants):
        values = [run.val_accuracy or 0 for run in runs if run.variant == each["name"] and run.state == "finished"]
        heights = [row + SPREAD + 0.1 * (i % 2) for i in range(len(values))]
        label = "one run" if not row else None
        axes.plot(values, heights, ".", color=GREY, alpha=0.7, markersize=4, label=label)
        if each["val_accuracy"] is None:
            look: dict[str, Any] = {"color": GREY, "backgroundcolor": "white", "transform": axes.get_yaxis_transform()}
            axes.text(0.02, row, "no run has finished", va="center", **look)
            continue
        if bounds := each["val_accuracy_interval"]:
            axes.plot(bounds, [row, row], "|-", color=BLUE, linewidth=1.6, markersize=8)
        label = "mean and 95 % interval" if not row else None
        axes.plot(each["val_accuracy"], row, "o", color=BLUE, markersize=6, label=label)
    if variants[0]["val_accuracy"] is not None:
        axes.axvline(variants[0]["val_accuracy"], color=GREY, linestyle=":", linewidth=1, zorder=0)
    axes.set_yticks(range(len(variants)), [wrap(each["name"], 170, 2) for each in variants])
    axes.xaxis.set_major_formatter(PERCENT)
    axes.margins(x=0.08)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower left", ncols=2, frameon=False)
    return figure


@drawing()
def budgets(
    statistics: Mapping[str, Any], runs: Sequence[Run], lines: Mapping[str, Sequence[tuple[str, str]]], title: str
) -> Figure:
    """Draws validation accuracy against seconds, a line for each entry of `lines`: variants with their labels."""
    by_name = {each["name"]: each for each in statistics["variants"] if each["val_accuracy"] is not None}
    figure = blank(8.2 * DPI, 4.6 * DPI, title)
    axes = figure.add_subplot(xlabel="seconds of training and test", ylabel="validation accuracy")
    for number, (line, points) in enumerate(lines.items()):
        colour, marker, style = LOOKS[number % len(LOOKS)]
        known = sorted(((by_name[name], label) for name, label in points if name in by_name), key=_seconds)
        names = {each["name"] for each, _ in known}
        single = [run for run in runs if run.variant in names and run.state == "finished"]
        axes.plot(
            [run.seconds for run in single], [run.val_accuracy or 0 for run in single], ".", color=GREY, alpha=0.7
        )
        seconds, means = [each["seconds"] for each, _ in known], [each["val_accuracy"] for each, _ in known]
        axes.plot(seconds, means, color=colour, linestyle=style, marker=marker, linewidth=1.5, label=wrap(line, 480, 2))
        for each, label in known:
            if bounds := each["val_accuracy_interval"]:
                axes.plot([each["seconds"]] * 2, bounds, color=colour, marker="_", linewidth=1.2)
            text = cut(f"{label}: {percent(each['val_accuracy'])}", 170)
            axes.annotate(text, (each["seconds"], each["val_accuracy"]), (7, -12), textcoords="offset points")
    longest = max((each["seconds"] for each in by_name.values()), default=1.0)
    axes.set_xlim(0, longest * 1.25)
    axes.margins(y=0.15)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.grid()
    if len(lines) > 1:
        figure.legend(loc="outside lower left", frameon=False)
    return figure


def _seconds(point: tuple[Mapping[str, Any], str]) -> float:
    return float(point[0]["seconds"])
