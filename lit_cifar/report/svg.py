"""Charts on pages: SVG whose colours and sizes are the page's style, so that they follow light and dark.

No script is needed: bands over the chart, or shapes in it, tell their values in a `<title>`, which browsers show when
the pointer rests on them.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 240  # of a chart, in CSS pixels on a phone
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 36  # margins of a chart
MOST_HINTS = 100  # of a chart: each is a band of 3 pixels

Point = tuple[float, float | None]


class Chart:
    """Axes from 0 to `last` and from `low` to `high`, to which lines and shapes are added.

    Args:
        x_title: What the horizontal axis shows.
        percent: Whether values are shares, and labelled in per cent.
    """

    def __init__(self, last: float, low: float, high: float, x_title: str, percent: bool = False) -> None:
        y_ticks = ticks(low, high)
        if percent:
            y_ticks = [tick for tick in y_ticks if 0 <= tick <= 1]
        self.last, self.low, self.high = last or 1, min(y_ticks[0], low), max(y_ticks[-1], high)
        self.parts: list[str] = []
        for tick in y_ticks:
            y = self.y(tick)
            label = f"{tick * 100:g} %" if percent else f"{tick:g}"
            self.parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            self.parts.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
        for tick in (tick for tick in ticks(0, self.last) if tick <= self.last):
            place = f'x="{self.x(tick):.1f}" y="{HEIGHT - BOTTOM + 15}"'
            self.parts.append(f'<text {place} text-anchor="middle">{tick:g}</text>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        self.parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_title)}</text>')

    def x(self, value: float) -> float:
        """Returns where a value is on the horizontal axis."""
        return LEFT + (WIDTH - LEFT - RIGHT) * value / self.last

    def y(self, value: float) -> float:
        """Returns where a value is on the vertical axis; what is off the scale lies on its edge."""
        share = (min(max(value, self.low), self.high) - self.low) / ((self.high - self.low) or 1)
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)

    def place(self, x: float, y: float) -> str:
        """Returns a point of a polyline or polygon."""
        return f"{self.x(x):.1f},{self.y(y):.1f}"

    def line(self, points: Sequence[Point], style: str) -> None:
        """Adds a line, which is interrupted where a value is None. A point between two gaps is a dot."""
        run: list[str] = []
        for x, y in (*points, (0.0, None)):
            if y is not None:
                run.append(self.place(x, y))
            elif run:
                if len(run) > 1:
                    self.parts.append(f'<polyline class="line {style}" points="{" ".join(run)}"/>')
                else:
                    self.dot(run[0], style)
                run = []

    def dot(self, place: str, style: str) -> None:
        """Adds a dot at a place."""
        x, y = place.split(",")
        self.parts.append(f'<circle class="dot {style}" cx="{x}" cy="{y}" r="2.5"/>')

    def mark(self, x: float, text: str) -> None:
        """Adds a vertical line with a text beside it."""
        at = self.x(x)
        anchor, shift = ("end", -4) if at > WIDTH / 2 else ("start", 4)
        self.parts.append(f'<path class="mark" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        self.parts.append(
            f'<text class="mark" x="{at + shift:.1f}" y="{TOP + 10}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def hints(self, hints: Sequence[tuple[float, str]]) -> None:
        """Adds a band around each of rising places, as far as halfway to the next one, that tells a text."""
        edges = [LEFT, *(self.x((a[0] + b[0]) / 2) for a, b in pairwise(hints)), WIDTH - RIGHT]
        height = HEIGHT - TOP - BOTTOM
        for (_, text), (start, end) in zip(hints, pairwise(edges), strict=True):
            size = f'x="{start:.1f}" y="{TOP}" width="{end - start:.1f}" height="{height}"'
            self.shape(f'rect class="hint" {size}', text)

    def bar(self, x: tuple[float, float], y: tuple[float, float], style: str, text: str = "") -> None:
        """Adds a bar between two values of each axis, which tells a text."""
        left, right, top, bottom = self.x(x[0]), self.x(x[1]), self.y(max(y)), self.y(min(y))
        size = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"'
        self.shape(f'rect class="{style}" {size}', text)

    def shape(self, tag: str, text: str) -> None:
        """Adds an element that tells a text."""
        self.parts.append(f"<{tag}><title>{escape(text)}</title></{tag.split()[0]}>" if text else f"<{tag}/>")

    def svg(self, label: str) -> Markup:
        """Returns the chart; the label says to a screen reader what is seen."""
        start = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        return Markup(f"{start}{''.join(self.parts)}</svg>")


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Returns round numbers from at most `low` to at least `high`."""
    if high <= low:
        pad = abs(low) / 10 or 0.01
        low, high = low - pad, high + pad
    rough = (high - low) / (most - 1)
    step = 10.0 ** math.floor(math.log10(rough))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.10g}") for i in range(first, last + 1)]
