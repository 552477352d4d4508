"""What a run found: every raw figure, where and how it was measured; to and from JSON.

Comes in: figures, as they are measured. Goes out: the same as JSON, and back, checked; medians and spreads. Times are seconds,
memory is bytes. It must never round away more than the fifth digit.
"""

import gzip
import json
import math
import statistics
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

SCHEMA = 1
UNITS = ("s", "bytes", "per second", "share", "count")
COLUMNS = {
    "serving": "serving at saturation",
    "delay": "delay of one exchange",
    "accuracy": "|offset| where the truth is 0",
    "oneshot": "one shot",
    "handshake": "handshake to the first answer",
    "memory": "server memory",
    "flood": "clients in a flood of strangers",
    "many": "very many clients in turn",
}


_LATER = "measured later than the rest: "


@dataclass(frozen=True, slots=True)
class Figure:
    """One cell: a quantity of one row under one load, all its values, round by round."""

    column: str
    row: str
    load: str
    quantity: str
    unit: str
    rounds: tuple[tuple[float, ...], ...]

    def values(self) -> list[float]:
        return [value for one in self.rounds for value in one]

    @property
    def median(self) -> float:
        return statistics.median(self.values())

    @property
    def p99(self) -> float:
        return quantile(self.values(), 0.99)

    @property
    def spread(self) -> tuple[float, float]:
        """Quartiles of the rounds' medians."""
        medians = [statistics.median(one) for one in self.rounds if one]
        return quantile(medians, 0.25), quantile(medians, 0.75)


@dataclass(slots=True)
class Run:
    """All of one run."""

    started: str
    mode: str
    machine: dict[str, str]
    seconds: float = 0.0
    shapes: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    def add(self, column: str, row: str, load: str, quantity: str, unit: str, rounds: Iterable[Sequence[float]]) -> None:
        """Keep a cell, unless it has no values."""
        kept = tuple(tuple(shortened(value) for value in one) for one in rounds if one)
        if kept:
            self.figures.append(Figure(column, row, load, quantity, unit, kept))

    def find(self, column: str, row: str, load: str, quantity: str) -> Figure | None:
        return next(
            (one for one in self.figures if (one.column, one.row, one.load, one.quantity) == (column, row, load, quantity)), None
        )

    def median(self, column: str, row: str, load: str, quantity: str) -> float | None:
        figure = self.find(column, row, load, quantity)
        return None if figure is None else figure.median

    def loads(self, column: str) -> list[str]:
        return list(dict.fromkeys(one.load for one in self.figures if one.column == column))


def check_machine(earlier: Run, machine: Mapping[str, str]) -> None:
    """Raises ValueError where an earlier run's figures are another machine's."""
    there, here = (" of ".join(one.get(name, "unknown") for name in ("cores", "processor")) for one in (earlier.machine, machine))
    if here != there:
        raise ValueError(f"figures of a machine with {there} found, {here} expected; measure all parts, without an earlier run")


def merged(earlier: Run, later: Run, parts: Sequence[str]) -> Run:
    """The earlier run with the later one's figures in the place of its own, and a note that says so.

    All rows under one load are replaced together, so that no ratio is of two runs. Raises ValueError for another machine.
    """
    check_machine(earlier, later.machine)
    loads = {(one.column, one.load) for one in later.figures}
    kept = [one for one in earlier.figures if (one.column, one.load) not in loads]
    load = f"load average before {later.machine.get('load before', 'unknown')}, after {later.machine.get('load after', 'unknown')}"
    note = f"{_LATER}{', '.join(parts)}: {later.started}, {load}"
    # An earlier note of the same parts holds no longer.
    notes = [one for one in earlier.notes if not one.startswith(f"{_LATER}{', '.join(parts)}:")]
    return replace(earlier, notes=list(dict.fromkeys([*notes, *later.notes, note])), figures=[*kept, *later.figures])


def quantile(values: Sequence[float], share: float) -> float:
    """Of a sample, linear between neighbours; NaN of none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def shortened(value: float) -> float:
    """Five digits."""
    return float(f"{value:.5g}")


def write(run: Run, file: Path) -> None:
    """As JSON, a line for each figure; compressed where the name ends with .gz."""
    head: dict[str, Any] = {"schema": SCHEMA} | {name: value for name, value in asdict(run).items() if name != "figures"}
    figures = ",\n".join(json.dumps(asdict(one), ensure_ascii=False, separators=(",", ":")) for one in run.figures)
    text = json.dumps(head, ensure_ascii=False, indent=1).rstrip("}\n") + f',\n "figures": [\n{figures}\n]}}\n'
    # Without a name and a time in it, the same run is the same file.
    file.write_bytes(gzip.compress(text.encode(), mtime=0) if file.suffix == ".gz" else text.encode())


def read(file: Path) -> Run:
    """A run from its JSON. Raises ValueError that says what was found and expected."""
    try:
        content = file.read_bytes()
        data = json.loads(gzip.decompress(content) if file.suffix == ".gz" else content)
    except (ValueError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{file}: no JSON ({error}); a file that benchmarks.compare wrote is expected") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{file}: schema {found} found, {SCHEMA} expected; measure again with this version")
    figures = [_figure(one, file) for one in data.pop("figures", [])]
    data.pop("schema")
    try:
        return Run(**data, figures=figures)
    except TypeError as error:
        raise ValueError(f"{file}: {error}; measure again with this version") from error


def _figure(data: Any, file: Path) -> Figure:
    names = {"column", "row", "load", "quantity", "unit", "rounds"}
    if not isinstance(data, dict) or data.keys() != names:
        raise ValueError(
            f"{file}: a figure with {sorted(data) if isinstance(data, dict) else data!r} found, {sorted(names)} expected"
        )
    if data["column"] not in COLUMNS or data["unit"] not in UNITS:
        raise ValueError(f"{file}: a figure of {data['column']!r} in {data['unit']!r} found, known columns and units expected")
    rounds = tuple(tuple(float(value) for value in one) for one in data["rounds"])
    if not rounds or not all(rounds):
        raise ValueError(f"{file}: {data['row']}, {data['quantity']}: no values")
    return Figure(**{**data, "rounds": rounds})
