"""`python -m tests.simulation`, `make sim`: the sweep and all worlds in full, as tables. Exit status 1 if a bound failed."""

import argparse
import sys
import time
from pathlib import Path
from random import Random
from statistics import median

from tests.simulation import clock_pictures, clock_table, filters
from tests.simulation.local_clock import WORLDS, run_world
from tests.simulation.sweep import VIOLATIONS, sweep, table, total
from tests.simulation.votes import VOTES, run_votes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    wanted = "at the least, where an honest majority is compared (default: %(default)s)"
    parser.add_argument("--exchanges", type=int, default=1_000_000, help=wanted)
    each = "in each world of the client's own clock (default: %(default)s)"
    parser.add_argument("--world-exchanges", type=int, default=100_000, help=each)
    parser.add_argument("--votes", type=int, default=50_000, help="selections of each kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--filters", action="store_true", help="compare filters, and nothing else")
    parser.add_argument("--clock", action="store_true", help="keep a clock in all worlds, beside chronyd, and nothing else")
    parser.add_argument("--seeds", type=int, default=10, help="of each of these worlds (default: %(default)s)")
    parser.add_argument("--plots", type=Path, metavar="DIRECTORY", help="with --clock: draw the documentation's pictures there")
    values = parser.parse_args()
    if values.clock:
        return _clock(values.seeds, values.plots)
    if values.filters:
        print("\n".join(filters.table()))
        return 0
    started = time.monotonic()
    failed = _worlds(values.seed, values.world_exchanges) + _votes(values.seed, values.votes)
    tallies = sweep(values.seed, values.exchanges)
    print("\n".join(table(tallies)))
    whole = total(tallies)
    print("violations:", ", ".join(f"{kind} {whole.counts[kind]}" for kind in VIOLATIONS))
    print("\n".join(whole.examples))
    print(f"{whole.counts['requests']} requests in {time.monotonic() - started:.0f} s, seed {values.seed}")
    return int(whole.violations + failed > 0)


def _clock(seeds: int, plots: Path | None) -> int:
    """A table, a line as soon as it is known; 1 if a bound was broken."""
    print(clock_table.markdown([]))
    found = clock_table.rows(seeds, done=lambda row: print(f"| {' | '.join(clock_table.cells(row))} |", flush=True))
    print(clock_table.summary(found))
    if plots is not None:
        clock_pictures.draw(found, plots)
    return int(any(row.broken for row in found))


def _worlds(seed: int, exchanges: int) -> int:
    """A line for each world; how many bounds failed."""
    failed = 0
    for world in WORLDS:
        found = run_world(world, Random(f"{seed} {world}"), exchanges)
        failed += found.violations
        width, error = median(found.widths) * 1e6, median(found.errors) * 1e6
        seen = f"{found.exchanges} exchanges, {found.looks} looks, violations {found.violations}"
        print(f"{world}: {seen}, median bound {width:.0f} µs, median error {error:.0f} µs")
    return failed


def _votes(seed: int, selections: int) -> int:
    """A line for each kind of selection; how many rules were broken."""
    failed = 0
    for kind in VOTES:
        found = run_votes(kind, Random(f"{seed} {kind}"), selections)
        failed += sum(found.violations.values())
        print(f"{kind}: {selections} selections, {found.answered} answered, violations {sum(found.violations.values())}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
