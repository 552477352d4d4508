"""Numbers, spans and times for pages. Bounds are rounded up, never down. Times are UTC."""

from datetime import UTC, datetime
from math import ceil, floor, log10

_UNITS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))


def unit_for(seconds: float) -> tuple[str, float]:
    """The unit in which a span is a number from 1 to 1000, and its size in seconds."""
    return next(((name, size) for name, size in _UNITS if abs(seconds) >= size), _UNITS[-1])


def bound(seconds: float) -> str:
    """A bound with two digits or more, rounded up: 12 µs, 3.4 ms."""
    name, size = unit_for(seconds)
    value = seconds / size
    # 1e-9: what binary fractions add must not become the next digit.
    digits = 1 if value < 10 else 0
    scaled = ceil(value * 10**digits - 1e-9) / 10**digits
    return f"{scaled:.{digits}f} {name}"


def offset(seconds: float) -> str:
    """A span with its sign: +12.3 µs, −4.0 ms."""
    name, size = unit_for(seconds)
    return f"{'−' if seconds < 0 else '+'}{abs(seconds) / size:.1f} {name}"


def span(seconds: float) -> str:
    """How long: 3 d 04:05:06."""
    minutes, second = divmod(max(0, int(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{f'{days} d ' if days else ''}{hour:02}:{minute:02}:{second:02}"


def rate(value: float) -> str:
    """How many a second, with two digits or more."""
    if value == 0:
        return "0"
    digits = max(0, 1 - floor(log10(abs(value)))) if abs(value) < 10 else 0
    return f"{value:,.{min(digits, 3)}f}".replace(",", "\u202f")


def count(value: int) -> str:
    """A whole number in groups of three digits."""
    return f"{value:,}".replace(",", "\u202f")


def when(unix: float, form: str = "%Y-%m-%d %H:%M:%S UTC") -> str:
    """A time; "unknown" for what no calendar has."""
    try:
        return datetime.fromtimestamp(unix, UTC).strftime(form)
    except (ValueError, OverflowError, OSError):
        return "unknown"
