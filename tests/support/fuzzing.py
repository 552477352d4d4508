"""The command line of the fuzzers, and their loop: until a number of inputs, a time, or a difference."""

import argparse
import time
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")

# The clock is read once for this many inputs.
BATCH = 64
_SECONDS = 10.0


def first_difference(
    results: Iterator[T | None], count: int | None = None, seconds: float | None = None
) -> tuple[int, T | None]:
    """(number of inputs, the first difference or None), after at most `count` inputs or `seconds`."""
    stop_at = None if seconds is None else time.monotonic() + seconds
    number = 0
    for number, difference in enumerate(results, 1):
        if difference is not None or number == count:
            return number, difference
        if stop_at is not None and number % BATCH == 0 and time.monotonic() >= stop_at:
            break
    return number, None


def options(program: str, description: str, arguments: list[str] | None) -> argparse.Namespace:
    """The options: seconds, inputs and seed; ten seconds by default."""
    parser = argparse.ArgumentParser(prog=program, description=description, allow_abbrev=False)
    parser.add_argument("--seconds", type=float, help="how long (default: 10, where --inputs is not given)")
    parser.add_argument("--inputs", type=int, help="how many inputs")
    parser.add_argument("--seed", type=int, default=0)
    values = parser.parse_args(arguments)
    if values.seconds is None and values.inputs is None:
        values.seconds = _SECONDS
    return values
