"""What commands print, as numbers: spans with their units, offsets with their bounds."""

import re

_UNITS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}
_SPAN = r"([+-]?\d+\.\d+) (s|ms|µs)\b"


def seconds(text: str) -> float:
    """A whole text such as "+12.345 ms"."""
    number, unit = re.fullmatch(_SPAN, text).groups()
    return float(number) * _UNITS[unit]


def within(text: str, line: str = "") -> list[tuple[float, float]]:
    """All (offset, bound) of a text; line: what stands before each, a regular expression."""
    found = re.findall(rf"{line}([+-]\d+\.\d+) ± (\d+\.\d+) (s|ms|µs)\b", text, re.MULTILINE)
    return [(float(offset) * _UNITS[unit], float(bound) * _UNITS[unit]) for offset, bound, unit in found]


def wrong_by(text: str) -> tuple[float, float]:
    """(offset, bound) of the last line "System clock wrong by"."""
    return within(text, "System clock wrong by ")[-1]


def spans(text: str, line: str) -> list[float]:
    """The span behind each match of a regular expression, seconds."""
    return [float(number) * _UNITS[unit] for number, unit in re.findall(line + _SPAN, text, re.MULTILINE)]
