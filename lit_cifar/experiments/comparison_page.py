"""compare.html: a comparison on one page that can be mailed. It loads nothing, as its Content-Security-Policy says."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from markupsafe import Markup

from lit_cifar.data.pictures import data_url
from lit_cifar.evaluation import wording
from lit_cifar.report import pages
from lit_cifar.report.svg import MOST_HINTS, Chart

COLOURS = 8  # in the style of the page; then they repeat with other dashes
CURVES = {"accuracy/val": "validation accuracy", "loss/val": "validation loss"}


def render(content: Mapping[str, Any], png: bytes) -> str:
    """Returns the page of the content of compare.json, with compare.png."""
    return pages.render(
        Path(__file__).with_name("comparison.html.jinja"),
        {"percent": percent, "p": p_value, "points": points, "plus_minus": plus_minus},
        content=content,
        statistics=content["statistics"],
        chart=data_url(png),
        described="; ".join(
            f"{each['name']}: {percent(each['val_accuracy'])}{plus_minus(each['val_accuracy_interval'])}"
            for each in content["statistics"]["variants"]
        ),
        curves={title: svg for name, title in CURVES.items() if (svg := _curves(content, name, title))},
        settings=_settings(content),
        classes=_classes(content),
        versions=next((run["about"].get("versions") for run in content["runs"] if run["about"].get("versions")), {}),
        devices=sorted({str(run["about"]["device_name"]) for run in content["runs"] if run["about"]}),
        colours=COLOURS,
    )


def percent(share: float | None) -> str:
    """Returns `54.21 %`, or `–` if there is none."""
    return "–" if share is None else wording.percent(share, 2)


def points(share: float) -> str:
    """Returns `+0.31` for a difference of shares."""
    return f"{share * 100:+.2f}"


def plus_minus(bounds: Sequence[float] | None) -> str:
    """Returns ` ± 0.12`, or nothing if there is no interval."""
    return f" ± {(bounds[1] - bounds[0]) * 50:.2f}" if bounds else ""


def p_value(p: float) -> str:
    """Returns `0.012`, or `<0.001`."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _settings(content: Mapping[str, Any]) -> list[list[str]]:
    """Returns what differs between the variants as a table, whose longer side is the height."""
    variants = content["variants"]
    keys = [*variants[0]["differs"]]
    rows = [["variant", *keys]]
    rows += [[each["name"], *(_shown(each["differs"][key]) for key in keys)] for each in variants]
    return rows if len(variants) > len(keys) else [list(row) for row in zip(*rows, strict=True)]


def _shown(value: Any) -> str:
    return "–" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _classes(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns for each class its mean test accuracy in each variant, and the differences to the first variant."""
    found: dict[str, dict[str, list[float]]] = {}
    for run in content["runs"]:
        for name, value in run["class_accuracy"].items():
            if value is not None:
                found.setdefault(name, {}).setdefault(run["variant"], []).append(value)
    rows, names = [], [each["name"] for each in content["variants"]]
    for name, values in found.items():
        means = [fmean(values[variant]) if variant in values else None for variant in names]
        changes = [mean - means[0] if mean is not None and means[0] is not None else None for mean in means]
        rows.append({"name": name, "means": means, "changes": [None, *changes[1:]]})
    return rows


def _curves(content: Mapping[str, Any], name: str, title: str) -> Markup:
    """Returns an SVG with a line for the mean of each variant's seeds, and a band from the lowest to the highest."""
    drawn: list[tuple[int, list[tuple[float, list[float]]]]] = []
    for number, variant in enumerate(content["variants"]):
        at: dict[float, list[float]] = {}
        for run in content["runs"]:
            if run["variant"] == variant["name"] and run["state"] == "finished":
                for epoch, value in run["curves"].get(name, []):
                    at.setdefault(round(epoch, 3), []).append(value)
        if at:
            drawn.append((number, sorted(at.items())))
    if not drawn:
        return Markup("")
    values = [value for _, curve in drawn for _, each in curve for value in (min(each), max(each))]
    last, is_share = max(curve[-1][0] for _, curve in drawn), name == "accuracy/val"
    chart = Chart(last, min(values), max(values), "epochs", percent=is_share)
    for number, curve in drawn:
        line = f"c{number % COLOURS} d{number // COLOURS % 3}"
        above = [chart.place(x, max(each)) for x, each in curve]
        below = [chart.place(x, min(each)) for x, each in reversed(curve)]
        if len(curve) > 1:
            chart.parts.append(f'<polygon class="band c{number % COLOURS}" points="{" ".join(above + below)}"/>')
        else:
            chart.parts.append(f'<polyline class="line {line}" points="{above[0]} {below[0]}"/>')
        means = [(x, fmean(each)) for x, each in curve]
        chart.line(means, line)
        if 1 < len(curve) <= 30:
            for x, y in means:
                chart.dot(chart.place(x, y), f"c{number % COLOURS}")
    written = percent if is_share else "{:.3g}".format
    names = [each["name"] for each in content["variants"]]
    told = [f"{names[number]} ends at {written(fmean(curve[-1][1]))}" for number, curve in drawn]
    longest = max((curve for _, curve in drawn), key=len)
    hints = []
    for x, _ in longest[:: math.ceil(len(longest) / MOST_HINTS)]:
        near = [(number, *min(curve, key=lambda point: abs(point[0] - x))) for number, curve in drawn]
        hints.append((x, "\n".join(f"{names[i]}: {written(fmean(each))} (epoch {at:g})" for i, at, each in near)))
    chart.hints(hints)
    return chart.svg(f"{title} against epochs: {', '.join(told)}")
