"""What clients of a fleet lose while they move, and while servers are rolled, killed and drained: in network namespaces, as root.

    python -m benchmarks.balanced [--clients 1000] [--interval 10]

Prints for a balancer that hashes addresses (nftables), for one that reads server IDs in clear (nftables) and for one that reads
QUIC-LB connection IDs (a relay): polls, polls that failed, requests, requests that were lost, new connections. It ends with 1 if a
poll failed. tests/integration/test_balanced_fleet.py runs it small.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import machine
from tests.support.balanced import story, table
from tsq.quic.selfsigned import self_signed

_MOST_CLIENTS = 2000
_LEAST_INTERVAL = 0.2
_HANDSHAKES = 80.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.balanced", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--interval", type=float, default=10.0, help="seconds between the polls of a client (default: %(default)s)")
    values = parser.parse_args(arguments)
    if not 1 <= values.clients <= _MOST_CLIENTS or values.interval < _LEAST_INTERVAL:
        parser.error(f"1 to {_MOST_CLIENTS} clients, {_LEAST_INTERVAL} s and more expected")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(machine())
    print(f"{values.clients} clients, each polls every {values.interval:g} s; three servers\n")
    failed = 0
    for by in ("address", "server ID", "connection ID"):
        with tempfile.TemporaryDirectory(prefix="tsq-balanced-") as directory:
            files = self_signed(directory, ["localhost"])
            # A second for so many handshakes, which cost both ends' processors some milliseconds each.
            reconnecting = values.clients / _HANDSHAKES
            chapters = story(
                Path(directory), files, by=by, clients=values.clients, interval=values.interval,
                pause=1.6 * values.interval + reconnecting, drain=max(2.0, 2 * reconnecting),
            )  # fmt: skip
        failed += sum(chapter["failed"] for chapter in chapters)
        print(f"The balancer chooses by {by}:\n{table(chapters)}\n", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
