"""compare.html: a comparison on one page that can be mailed. It loads nothing, and runs no script, as its
Content-Security-Policy says. Curves are SVG, drawn here with the classes of the page's style, for light and dark.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from markupsafe import Markup, escape

from lit_cifar.data.pictures import data_url
from lit_cifar.report import tables

WIDTH, HEIGHT = 360, 240  # of a chart, in CSS pixels on a phone
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 36  # margins of a chart
COLOURS = 8  # in the style of the page; then they repeat with other dashes
CURVES = {"accuracy/val": "validation accuracy", "loss/val": "validation loss"}


def render(content: Mapping[str, Any], png: bytes) -> str:
    """Returns the page of the content of compare.json, with compare.png."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    options: dict[str, Any] = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, **options)
    environment.filters |= {"duration": tables.duration, "plural": tables.plural, "percent": percent, "p": p_value}
    environment.filters |= {"points": points, "plus_minus": plus_minus}
    template = environment.get_template("comparison.html.jinja")
    return template.render(
        content=content,
        statistics=content["statistics"],
        chart=data_url(png),
        curves={title: svg for name, title in CURVES.items() if (svg := _curves(content, name, title))},
        settings=_settings(content),
        classes=_classes(content),
        versions=next((run["about"].get("versions") for run in content["runs"] if run["about"].get("versions")), {}),
        devices=sorted({str(run["about"]["device_name"]) for run in content["runs"] if run["about"]}),
        colours=COLOURS,
    )


def percent(share: float | None) -> str:
    """Returns `54.21 %`."""
    return "–" if share is None else f"{share * 100:.2f} %"


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
    last = max(curve[-1][0] for _, curve in drawn)
    y_ticks = ticks(min(values), max(values))
    low, high = min(y_ticks[0], *values), max(y_ticks[-1], *values)
    x_ticks = [tick for tick in ticks(0, last) if tick <= last]

    def place(x: float, y: float) -> str:
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / (last or 1)
        down = TOP + (HEIGHT - TOP - BOTTOM) * (1 - (y - low) / ((high - low) or 1))
        return f"{across:.1f},{down:.1f}"

    parts = []
    for tick in y_ticks:
        x, y = place(0, tick).split(",")
        label = f"{tick * 100:g} %" if name == "accuracy/val" else f"{tick:g}"
        parts.append(f'<path class="grid" d="M{x} {y}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{float(y) + 4:.1f}" text-anchor="end">{label}</text>')
    for tick in x_ticks:
        x, _ = place(tick, low).split(",")
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{tick:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">epochs</text>')
    for number, curve in drawn:
        line = f"line c{number % COLOURS} d{number // COLOURS % 3}"
        above = [place(x, max(each)) for x, each in curve]
        below = [place(x, min(each)) for x, each in reversed(curve)]
        if len(curve) > 1:
            parts.append(f'<polygon class="band c{number % COLOURS}" points="{" ".join(above + below)}"/>')
        else:
            parts.append(f'<polyline class="{line}" points="{above[0]} {below[0]}"/>')
        means = [place(x, fmean(each)) for x, each in curve]
        parts.append(f'<polyline class="{line}" points="{" ".join(means)}"/>')
        if len(curve) <= 30:
            dots = (point.split(",") for point in means)
            parts += [f'<circle class="dot c{number % COLOURS}" cx="{x}" cy="{y}" r="2.5"/>' for x, y in dots]
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)} against epochs">'
    return Markup(f"{svg}{''.join(parts)}</svg>")


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Returns round numbers from at most `low` to at least `high`."""
    if high <= low:
        low, high = low - 0.01, high + 0.01
    rough = (high - low) / (most - 1)
    step = 10.0 ** math.floor(math.log10(rough))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]
