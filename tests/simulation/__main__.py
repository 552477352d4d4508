"""`python -m tests.simulation`, `make sim`: the sweep in full, as a table. Ends with 1 where a bound did not hold."""

import argparse
import sys
import time

from tests.simulation.sweep import VIOLATIONS, sweep, table, total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    wanted = "at the least, where an honest majority is compared (default: %(default)s)"
    parser.add_argument("--exchanges", type=int, default=1_000_000, help=wanted)
    parser.add_argument("--seed", type=int, default=1)
    values = parser.parse_args()
    started = time.monotonic()
    tallies = sweep(values.seed, values.exchanges)
    print("\n".join(table(tallies)))
    whole = total(tallies)
    print("violations:", ", ".join(f"{kind} {whole.counts[kind]}" for kind in VIOLATIONS))
    print("\n".join(whole.examples))
    print(f"{whole.counts['requests']} requests in {time.monotonic() - started:.0f} s, seed {values.seed}")
    return int(whole.violations > 0)


if __name__ == "__main__":
    sys.exit(main())
