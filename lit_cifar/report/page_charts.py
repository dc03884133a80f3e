"""The charts of report.html: curves of the training, and accuracy against confidence, each with a sentence about it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from lit_cifar.evaluation.wording import percent
from lit_cifar.report.svg import MOST_HINTS, Chart, Point
from lit_cifar.report.tables import VALIDATED, plural

BEYOND = 4  # times the span of the lower 95 % of losses: what is higher is off the scale
KINDS = {"train": "training", "val": "validation"}


class Drawn(NamedTuple):
    """A chart, and what it shows."""

    title: str
    svg: Markup
    text: str
    lines: Sequence[str] = ()
    """Names of the lines, in the order of their colours, if there are several."""


def curves(report: Mapping[str, Any]) -> list[Drawn]:
    """Returns loss, accuracy and learning rate by epoch, as far as they were recorded."""
    recorded = report.get("curves") or {}
    per_epoch = report.get("steps_per_epoch") or report["steps"] / (report["epochs"] or 1) or 1
    found = []
    for title, names in (
        ("Loss", {name: recorded.get(f"loss/{name}") for name in KINDS}),
        ("Accuracy", {name: recorded.get(f"accuracy/{name}") for name in KINDS}),
        ("Learning rate", {"lr": recorded.get("lr")}),
    ):
        known = {name: curve for name, curve in names.items() if curve and any(y is not None for _, y in curve)}
        if known:
            found.append(_curve(title, known, per_epoch, report))
    return found


def _curve(title: str, curves: Mapping[str, Sequence[Any]], per_epoch: float, report: Mapping[str, Any]) -> Drawn:
    is_share = title == "Accuracy"
    values = sorted(y for curve in curves.values() for _, y in curve if y is not None)
    low, high = values[0], values[-1]
    usual = values[math.ceil(len(values) * 0.95) - 1]
    if title == "Loss" and high - low > BEYOND * (usual - low) > 0:
        high = usual + (usual - low) / 2
    beyond = sum(value > high for value in values)
    last = max(report["steps"] / per_epoch, *(curve[-1][0] / per_epoch for curve in curves.values()))
    steps = f"epoch ({plural(round(per_epoch), 'step')} each)"
    chart = Chart(last, 0 if title == "Learning rate" else low, high, steps, is_share)
    for name, curve in curves.items():
        points: list[Point] = [(step / per_epoch, y) for step, y in curve]
        style = f"c{[*curves].index(name)}"
        chart.line(points, style)
        if len(curve) <= 30 and len(curve) > 1:
            for x, y in points:
                if y is not None:
                    chart.dot(chart.place(x, y), style)
    if report.get("chosen_by") == VALIDATED and len(curves) > 1:
        chart.mark(report["checkpoint_epoch"], f"chosen: epoch {_epoch(report['checkpoint_epoch'])}")
    chart.hints([*_hints(title, curves, per_epoch)])
    sentences = [_described(title, name, curve, per_epoch) for name, curve in curves.items()]
    if beyond:
        sentences.append(f"{plural(beyond, 'point')} {'is' if beyond == 1 else 'are'} off the scale.")
    text = " ".join(sentences)
    return Drawn(title, chart.svg(text), text, [KINDS[name] for name in curves] if len(curves) > 1 else ())


def _hints(title: str, curves: Mapping[str, Sequence[Any]], per_epoch: float) -> Iterator[tuple[float, str]]:
    """Yields places on the horizontal axis with the nearest value of each curve."""
    longest = max(curves.values(), key=len)
    for step, _ in longest[:: math.ceil(len(longest) / MOST_HINTS)]:
        lines = []
        for name, curve in curves.items():
            at, y = min(curve, key=lambda point: abs(point[0] - step))
            where = f"epoch {_epoch(at / per_epoch)}, step {at:,}"
            lines.append(f"{KINDS.get(name, '')} {title.lower()} {_value(title, y)} ({where})".strip())
        yield step / per_epoch, "\n".join(lines)


def _value(title: str, value: float | None) -> str:
    return "not a number" if value is None else percent(value) if title == "Accuracy" else f"{value:.4g}"


def _epoch(epochs: float) -> str:
    """Returns `0.5`, `27` or `1,234.25`."""
    return f"{epochs:,.2f}".rstrip("0").rstrip(".")


def _described(title: str, name: str, curve: Sequence[Any], per_epoch: float) -> str:
    """Returns `Validation loss goes from 1.4 to 0.52; the lowest is 0.51, after epoch 27.`"""
    known = [(step, y) for step, y in curve if y is not None]
    what = f"{KINDS.get(name, '')} {title.lower()}".strip().capitalize()
    first, last = known[0][1], known[-1][1]
    if len(known) == 1 or all(y == first for _, y in known):
        return f"{what}: {_value(title, first)}."
    word, best = ("lowest", min) if title == "Loss" else ("highest", max)
    at, y = best(known, key=lambda point: point[1])
    peak = f"; the {word} is {_value(title, y)}, after epoch {_epoch(at / per_epoch)}" if y not in (first, last) else ""
    return f"{what} goes from {_value(title, first)} to {_value(title, last)}{peak}."


def reliability(report: Mapping[str, Any]) -> Drawn | None:
    """Returns accuracy against confidence; None if no image has a probability."""
    bins = [each for each in report["calibration"] if each["images"]]
    total = sum(each["images"] for each in bins)
    if not total:
        return None
    chart = Chart(1, 0, 1, "confidence: probability of the predicted class", True)
    for each in bins:
        span = (each["from"], each["to"])
        images = f"{plural(each['images'], 'image')}, {percent(each['images'] / total)} of all"
        text = (
            f"confidence {each['from'] * 100:.0f} to {each['to'] * 100:.0f} %, on average {percent(each['confidence'])}"
        )
        text += f"\naccuracy {percent(each['accuracy'])}\n{images}"
        chart.bar(span, (0, each["accuracy"]), "right", text)
        chart.bar(span, (each["accuracy"], each["confidence"]), "gap", text)
    chart.parts.append(f'<path class="mark" d="M{chart.place(0, 0)}L{chart.place(1, 1)}"/>')
    confidence = sum(each["images"] * each["confidence"] for each in bins) / total
    accuracy = sum(each["images"] * each["accuracy"] for each in bins) / total
    text = f"Confidence is {percent(confidence)} on average, accuracy {percent(accuracy)}"
    apart = f"{abs(confidence - accuracy) * 100:.1f} percentage points"
    if abs(confidence - accuracy) >= 0.0005:
        text += f": the network is {'overconfident' if confidence > accuracy else 'underconfident'} by {apart}"
    return Drawn("Accuracy against confidence", chart.svg(f"{text}."), f"{text}.")
