"""Shares from 0 to 1 as people read them; light to import, since a table of runs need not wait for torch."""


def percent(fraction: float) -> str:
    """Returns `54.2 %`; rounds to 100 % only what is exactly 1."""
    return ">99.9 %" if 0.9995 <= fraction < 1 else f"{fraction * 100:.1f} %"


def interval(low: float, high: float) -> str:
    """Returns `52.7–54.7`, in per cent."""
    return f"{low * 100:.1f}–{high * 100:.1f}"
