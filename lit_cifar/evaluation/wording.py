"""Shares and predictions as people read them; light to import, since a table of runs need not wait for torch."""

import math


def percent(fraction: float, digits: int = 1) -> str:
    """Returns `54.2 %`; rounds to 100 % only what is exactly 1."""
    rounded = f"{fraction * 100:.{digits}f}"
    is_less = fraction < 1 and float(rounded) == 100
    return f">{100 - 10.0**-digits:.{digits}f} %" if is_less else f"{rounded} %"


def interval(low: float, high: float) -> str:
    """Returns `52.7–54.7`, in per cent."""
    return f"{low * 100:.1f}–{high * 100:.1f}"


def judged(predicted: str, probability: float, actual: str | None = None) -> tuple[str, str]:
    """Returns a prediction and the truth as each picture, page and table shows them, one or two lines.

    `✗ predicted horse (99.1 %)` and `actually dog`; `✓ predicted dog (99.1 %)` and nothing, if that is right;
    `predicted dog (99.1 %)` and nothing, if the truth is not known.
    """
    sign = "" if actual is None else "✓ " if actual == predicted else "✗ "
    sure = "" if math.isnan(probability) else f" ({percent(probability)})"
    return f"{sign}predicted {predicted}{sure}", f"actually {actual}" if sign == "✗ " else ""


def judged_on_page(predicted: str, probability: float, actual: str | None = None) -> tuple[str, str]:
    """Returns `judged` for HTML: names don't turn the text around them, and percentages stay on one line."""
    prediction, truth = judged(isolated(predicted), probability, None if actual is None else isolated(actual))
    return prediction.replace(" %", "\u00a0%"), truth


def isolated(name: str) -> str:
    """Returns a name that doesn't turn the text around it if it is written from right to left (Unicode's UAX #9)."""
    return f"\u2068{name}\u2069"
