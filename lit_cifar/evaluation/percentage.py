"""A share from 0 to 1 as people read it; light to import, since commands that print tables need not wait for torch."""


def percent(fraction: float) -> str:
    """Returns `54.2 %`; rounds to 100 % only what is exactly 1."""
    return ">99.9 %" if 0.9995 <= fraction < 1 else f"{fraction * 100:.1f} %"
