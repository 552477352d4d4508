"""Numbers, times and foreign text as people read them.

Comes in: seconds, local times, text from the network. Goes out: strings. A bound is never rounded down, and text from the network
cannot write to a terminal.
"""

from datetime import UTC, datetime
from itertools import accumulate
from math import ceil

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_ROUNDS_UP = 0.9999995
# Less than this is not rounded up, so that binary fractions do not make a bound one step too large.
_SLACK = 1e-6
# Every character before it takes one column.
_FIRST_COMBINING = "\u0300"


def duration(seconds: float, signed: bool = False) -> str:
    """A span with a unit that suits its size: '+12.345 µs', '0.012 µs', '1.234 s'. One with a sign is an offset, with a
    resolution of a microsecond at least: '+1.234567 s'.
    """
    # A span that rounds up to the next unit is written in that unit.
    scale, unit = next(((s, u) for s, u in _UNITS if abs(seconds) >= s * _ROUNDS_UP), _UNITS[-1])
    if signed and unit == "s":
        return f"{seconds:+z.6f} s"
    return f"{seconds / scale:+z.3f} {unit}" if signed else f"{seconds / scale:.3f} {unit}"


def bound(seconds: float) -> str:
    """A bound, as `duration` writes it, but rounded up."""
    scale, _ = next(((s, u) for s, u in _UNITS if abs(seconds) >= s * _ROUNDS_UP), _UNITS[-1])
    return duration(ceil(seconds / scale * 1000 - _SLACK) / 1000 * scale)


def within(offset: float, low: float, high: float) -> str:
    """An offset with its bound, in one unit: '+0.012 ± 10.103 ms'. What is written reaches from `low` to `high` at the least."""
    scale, unit, digits = _unit_of_both(max(abs(offset), high - offset, offset - low))
    steps = round(10**digits / scale)
    shown = _steps(offset, steps, 0)
    reach = max(_steps(high, steps, 1) - shown, shown - _steps(low, steps, -1))
    return f"{shown / 10**digits:+.{digits}f} ± {reach / 10**digits:.{digits}f} {unit}"


def _unit_of_both(seconds: float) -> tuple[float, str, int]:
    """(scale, unit, decimals) for numbers of which this is the largest."""
    scale, unit = next(((s, u) for s, u in _UNITS if seconds >= s * _ROUNDS_UP), _UNITS[-1])
    return scale, unit, 6 if unit == "s" else 3


def rounding(offset: float) -> float:
    """The rounding error of a signed duration, seconds."""
    number, unit = duration(offset, signed=True).split()
    return abs(float(number) * next(scale for scale, name in _UNITS if name == unit) - offset)


def _steps(seconds: float, per_second: int, direction: int) -> int:
    """A number of steps, rounded to the nearest, or up (1) or down (-1) but for the slack."""
    # Integers: a float of some years is coarser than the bound may be.
    numerator, denominator = seconds.as_integer_ratio()
    # In millionths of a step.
    fine = (2 * numerator * per_second * 10**6 + denominator) // (2 * denominator)
    if direction:
        return direction * -((-direction * fine + round(_SLACK * 10**6)) // 10**6)
    return (fine + 500_000) // 10**6


def moment(at_ns: int) -> str:
    """A local time to the second, in UTC."""
    try:
        return str(datetime.fromtimestamp(at_ns // 10**9, UTC).replace(tzinfo=None))
    except (ValueError, OverflowError):
        # A clock may read anything.
        return f"{at_ns // 10**9} s since 1970"


def shortened(text: str, most: int, end: str = "…") -> str:
    """At most so many characters of a text; one that had more has this end."""
    return text if len(text) <= most else text[: most - len(end)] + end


def escaped(text: str) -> str:
    """Text that may come from the network, safe for a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def cells(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(_cells(text))


def beginning(text: str, most: int) -> str:
    """As much of a text as takes at most so many columns of a terminal."""
    return text[: sum(end <= most for end in accumulate(_cells(text)))]


def middle_cut(text: str, most: int) -> str:
    """At most so many cells of a name: its beginning, and its end, which has the port."""
    if cells(text) <= most:
        return text
    rest = most - 2
    return f"{beginning(text, rest - rest // 2)}..{beginning(text[::-1], rest // 2)[::-1]}"


def padded(text: str, width: int, *, left: bool) -> str:
    """A text with spaces up to this width, after it (left) or before it."""
    space = " " * (width - cells(text))
    return text + space if left else space + text


def _cells(text: str) -> list[int]:
    """The columns of each character: wide ones, such as Chinese, take two, and combining ones none."""
    if max(text, default="") < _FIRST_COMBINING:
        return [1] * len(text)
    # Few names need it.
    from unicodedata import combining, east_asian_width  # noqa: PLC0415

    return [0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text]
