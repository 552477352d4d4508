"""Curves as SVG, for pages without scripts. Colours are classes, which the page's style sets for light and dark.

Comes in: points (x, y) or bands (x, low, high). Goes out: SVG text. It must never put text into it that is not escaped, nor draw a
line across a gap in what is known.
"""

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 640, 220
_TOP, _BOTTOM = 26, 30
_STEPS = (1.0, 2.0, 5.0, 10.0)


class Chart:
    """A chart over time. span: (first, last) x in seconds; low, high: of y."""

    def __init__(self, title: str, span: tuple[float, float], low: float, high: float) -> None:
        self._title = title
        self._first, self._last = span
        if self._last <= self._first:
            self._last = self._first + 1
        step = _nice((high - low) / 3) if high > low else _nice(abs(high) or 1.0)
        self._ticks = [step * n for n in range(floor(low / step), ceil(high / step) + 1)]
        if len(self._ticks) < 2:
            self._ticks.append(self._ticks[0] + step)
        self._parts: list[str] = []

    @property
    def ticks(self) -> list[float]:
        """The values of the horizontal lines, from below."""
        return self._ticks

    def x(self, value: float) -> float:
        """The place of a time."""
        return WIDTH * (value - self._first) / (self._last - self._first)

    def y(self, value: float) -> float:
        """The place of a value."""
        low, high = self._ticks[0], self._ticks[-1]
        value = min(max(value, low), high)
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low)

    def band(self, runs: Sequence[Sequence[tuple[float, float, float]]], style: str) -> None:
        """An area between two curves for each run of (x, low, high)."""
        for run in runs:
            there = [f"{self.x(x):.1f},{self.y(high):.1f}" for x, _, high in run]
            back = [f"{self.x(x):.1f},{self.y(low):.1f}" for x, low, _ in reversed(run)]
            self._parts.append(f'<polygon class="{style}" points="{" ".join(there + back)}"/>')

    def line(self, runs: Sequence[Sequence[tuple[float, float]]], style: str) -> None:
        """A curve for each run of (x, y)."""
        for run in runs:
            points = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in run)
            self._parts.append(f'<polyline class="{style}" points="{points}"/>')

    def svg(self, labels: Sequence[str], begin: str, end: str) -> str:
        """The picture. labels: of the ticks; begin, end: of the time axis."""
        lines, texts = [], []
        for tick, label in zip(self._ticks, labels, strict=True):
            y = self.y(tick)
            style = "axis" if tick == 0 else "grid"
            lines.append(f'<line class="{style}" x1="0" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
            # Above its line and in front of the curves: a number of any length finds room.
            texts.append(f'<text x="0" y="{y - 5:.1f}">{escape(label)}</text>')
        texts.append(f'<text x="0" y="{HEIGHT - 6}">{escape(begin)}</text>')
        texts.append(f'<text x="{WIDTH}" y="{HEIGHT - 6}" text-anchor="end">{escape(end)}</text>')
        body = "".join([*lines, *self._parts, *texts])
        return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self._title)}">{body}</svg>'


def runs(values: Sequence[tuple[float, ...] | None]) -> list[list[tuple[float, ...]]]:
    """The values between gaps (None)."""
    found: list[list[tuple[float, ...]]] = [[]]
    for value in values:
        if value is not None:
            found[-1].append(value)
        elif found[-1]:
            found.append([])
    return [run for run in found if run]


def _nice(value: float) -> float:
    """The next larger 1, 2 or 5 times a power of ten."""
    power = 10.0 ** floor(log10(value))
    return next((step * power for step in _STEPS if step * power >= value * 0.999), 10 * power)
