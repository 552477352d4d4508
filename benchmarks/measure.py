"""Measuring in interleaved rounds: each round measures every side once, so that other load on the machine affects all alike.

Comes in: for each side a function that measures one round and gives seconds by quantity. Goes out: a Comparison, its table, a line
on the machine. A ratio is ours over plain (below 1: ours is quicker, or nearer to the truth): of the medians, and beside it the
quartiles of the single rounds' ratios. Nothing here asserts a time.
"""

import gc
import importlib.metadata
import os
import platform
import ssl
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

from cryptography.hazmat.backends.openssl import backend

PLAIN = "plain"
TSQ = "tsq"
SIDES = (TSQ, PLAIN)

# A round of one side: quantity ("CPU", "wall", ...) -> seconds.
Round = Mapping[str, float]
Side = Callable[[], Round]

_CALLS_SECONDS = 0.004
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, quartiles and 95th percentile of some rounds."""

    median: float
    q1: float
    q3: float
    p95: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        if len(values) < 2:
            return cls(*[values[0]] * 4)
        cuts = statistics.quantiles(values, n=20, method="inclusive")
        return cls(statistics.median(values), cuts[4], cuts[14], cuts[18])


@dataclass(frozen=True, slots=True)
class Comparison:
    """rounds: side -> its rounds, in order; round n of all sides was measured together. The first quantity is the main one."""

    rounds: Mapping[str, Sequence[Round]]

    @property
    def quantities(self) -> list[str]:
        return list(dict.fromkeys(name for rounds in self.rounds.values() for name in rounds[0]))

    def values(self, side: str, quantity: str) -> list[float]:
        """The values of a quantity of one side; empty where the side does not have it."""
        return [one[quantity] for one in self.rounds[side] if quantity in one]

    def ratio(self, side: str, quantity: str, base: str = PLAIN) -> Spread | None:
        """Ratio of medians, with the spread of the rounds' ratios."""
        ours, theirs = self.values(side, quantity), self.values(base, quantity)
        if not ours or not theirs or not statistics.median(theirs):
            return None
        each = Spread.of([a / b for a, b in zip(ours, theirs, strict=True) if b] or [0.0])
        return Spread(statistics.median(ours) / statistics.median(theirs), each.q1, each.q3, each.p95)


def alternate(sides: Mapping[str, Side], rounds: int, warmup: int = 1) -> Comparison:
    """Measure all sides, round by round, in an order that rotates with each round."""
    names = list(sides)
    kept: dict[str, list[Round]] = {name: [] for name in names}
    for number in range(-warmup, rounds):
        for name in names if number % 2 else names[::-1]:
            seconds = sides[name]()
            if number >= 0:
                kept[name].append(seconds)
    return Comparison(kept)


def calls(**sides: tuple[object, ...]) -> Callable[[int], Comparison]:
    """A comparison of function calls by CPU time: side=(function, argument, ...). Both figures include the loop."""

    def compare(rounds: int) -> Comparison:
        return alternate({name: _caller(*call) for name, call in sides.items()}, rounds)

    return compare


def _caller(function: object, *arguments: object) -> Side:
    assert callable(function)

    def run(count: int) -> float:
        gc_was_on = gc.isenabled()
        gc.disable()
        start = time.thread_time_ns()
        for _ in repeat(None, count):
            function(*arguments)
        seconds = (time.thread_time_ns() - start) / 1e9
        if gc_was_on:
            gc.enable()
        return seconds

    run(100)
    count = max(1, round(_CALLS_SECONDS / (run(1000) / 1000)))
    return lambda: {"CPU": run(count) / count}


def cpu_of(pid: int) -> float:
    """CPU seconds of all threads of another process, user and kernel; exact while it sleeps."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def cpu_of_family(pid: int) -> float:
    """CPU seconds of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return cpu_of(pid) + sum(cpu_of_family(int(child)) for child in children)


def machine() -> str:
    """One line about the machine and the versions."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    model = names[0] if names else "unknown CPU"
    return (
        f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Linux {platform.release()}; "
        f"{platform.python_implementation()} {platform.python_version()} ({ssl.OPENSSL_VERSION}); "
        f"aioquic {importlib.metadata.version('aioquic')}; cryptography {importlib.metadata.version('cryptography')} "
        f"({backend.openssl_version_text()})"
    )


def summary(comparisons: Mapping[str, Comparison]) -> list[str]:
    """The table: a line for each quantity and each side that is not plain."""
    rows = [("", "", "ours: median (quartiles; p95)", "plain", "ours/plain (quartiles)", "rounds")]
    for group, comparison in comparisons.items():
        name = group
        for side in comparison.rounds:
            if side == PLAIN:
                continue
            for quantity in comparison.quantities:
                ours, theirs = comparison.values(side, quantity), comparison.values(PLAIN, quantity)
                if not ours:
                    continue
                label = quantity if side == TSQ else f"{side}: {quantity}"
                rows.append((name, label, _spread(ours), _spread(theirs), _ratio(comparison, side, quantity), str(len(ours))))
                name = ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = Spread.of(values)
    scale, unit = _unit(spread.median)
    median, q1, q3, p95 = (_digits(value / scale) for value in (spread.median, spread.q1, spread.q3, spread.p95))
    return f"{median} {unit} ({q1} - {q3}; {p95})"


def _ratio(comparison: Comparison, side: str, quantity: str) -> str:
    ratio = comparison.ratio(side, quantity)
    return "-" if ratio is None else f"{ratio.median:.3g} ({ratio.q1:.3g} - {ratio.q3:.3g})"


def _unit(seconds: float) -> tuple[float, str]:
    return next(((scale, unit) for scale, unit in _UNITS if abs(seconds) >= scale), _UNITS[-1])


def _digits(number: float) -> str:
    return f"{number:.3g}" if abs(number) < 100 else f"{number:.0f}"


def _lines(name: str) -> list[str]:
    try:
        return Path(name).read_text().splitlines()
    except OSError:
        return []
