"""Shares and predictions as people read them; light to import, since a table of runs need not wait for torch."""

import math


def percent(fraction: float) -> str:
    """Returns `54.2 %`; rounds to 100 % only what is exactly 1."""
    return ">99.9 %" if 0.9995 <= fraction < 1 else f"{fraction * 100:.1f} %"


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
