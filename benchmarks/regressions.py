"""Regressions of the benchmarks: a run of `pytest --benchmark-only`, compared with a stored one, as ratios.

    python -m pytest --benchmark-only --benchmark-json=build/bench.json benchmarks
    python -m benchmarks.regressions build/bench.json
    python -m benchmarks.regressions build/bench.json --store

It compares each figure's ratio to plain in its own run, because a slower or busy machine slows both. A change of a quarter or more
is reported; it is no failure, because ratios are noisy, too. The stored run is benchmarks/stored.json; `--store` replaces it.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import PLAIN

STORED = Path(__file__).parent / "stored.json"
_SCHEMA = 1
_NOTABLE = 1.25

# Group -> side -> seconds.
Medians = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Change:
    """A figure's ratio to plain, then and now; None where one of the runs has no such figure."""

    group: str
    side: str
    then: float | None
    now: float | None

    @property
    def factor(self) -> float | None:
        return self.now / self.then if self.now is not None and self.then else None

    @property
    def verdict(self) -> str:
        if self.factor is None:
            return "new" if self.then is None else "gone"
        return "slower" if self.factor >= _NOTABLE else "quicker" if self.factor <= 1 / _NOTABLE else ""


def of_pytest(file: Path) -> Medians:
    """Medians from pytest-benchmark's JSON. Raises ValueError that says what was found and expected."""
    try:
        found: dict[str, dict[str, float]] = {}
        for one in _read(file)["benchmarks"]:
            found.setdefault(one["group"], {})[one["params"]["side"]] = float(one["stats"]["median"])
    except (KeyError, TypeError) as error:
        expected = "JSON of `pytest --benchmark-only --benchmark-json=FILE benchmarks`"
        raise ValueError(f"{file}: no {error}; {expected} expected") from error
    return found


def of_stored(file: Path) -> Medians:
    """Medians of a stored run. Raises ValueError as `of_pytest`."""
    data = _read(file)
    if not isinstance(data, dict) or data.get("schema") != _SCHEMA:
        raise ValueError(f"{file}: no stored run of schema {_SCHEMA}; store one with --store")
    groups: Medians = data["groups"]
    return groups


def store(medians: Medians, file: Path) -> None:
    """Write a run with five digits, and without the machine's name."""
    groups = {group: {side: float(f"{value:.5g}") for side, value in sides.items()} for group, sides in medians.items()}
    file.write_text(json.dumps({"schema": _SCHEMA, "groups": groups}, indent=1, sort_keys=True) + "\n")


def changes(then: Medians, now: Medians) -> list[Change]:
    """A change for each figure that has a plain side."""
    found = []
    for group in dict.fromkeys([*now, *then]):
        ours, theirs = now.get(group, {}), then.get(group, {})
        for side in dict.fromkeys([*ours, *theirs]):
            if side != PLAIN:
                found.append(Change(group, side, _ratio(theirs, side), _ratio(ours, side)))
    return found


def _ratio(sides: Mapping[str, float], side: str) -> float | None:
    return sides[side] / sides[PLAIN] if side in sides and sides.get(PLAIN) else None


def table(found: Sequence[Change]) -> list[str]:
    """A line for each figure, and a summary."""
    rows = [("ratio to plain", "", "then", "now", "now/then", "")]
    for one in found:
        numbers = ["-" if value is None else f"{value:.3g}" for value in (one.then, one.now, one.factor)]
        rows.append((one.group, one.side, *numbers, one.verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    factors = [one.factor for one in found if one.factor is not None]
    slower = sum(one.verdict == "slower" for one in found)
    median = f"; median now/then {statistics.median(factors):.2f}" if factors else ""
    return [*lines, "", f"{slower} of {len(found)} slower by a quarter or more{median}"]


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}; run the benchmarks first") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: no JSON ({error})") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.regressions", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("run", type=Path, metavar="FILE", help="JSON of pytest-benchmark")
    parser.add_argument("--stored", type=Path, default=STORED, metavar="FILE", help="what to compare with (default: %(default)s)")
    parser.add_argument("--store", action="store_true", help="store this run instead")
    values = parser.parse_args(arguments)
    try:
        now = of_pytest(values.run)
        if values.store:
            store(now, values.stored)
            print(f"stored: {values.stored}")
            return 0
        print("\n".join(table(changes(of_stored(values.stored), now))))
    except ValueError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
