"""tsq-adjtime on a virtual clock: `python -m tests.support.adjtime ARGUMENTS` is the command on a machine with a wrong clock.

The file TSQ_VIRTUAL_CLOCK (JSON) holds the clock between runs. Without that file, the clock is 182.4 s behind and drifts like this
machine's. No other program controls it.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from tests.support.harmless import give_up_the_clock
from tests.support.kernel import VirtualKernel
from tsq._fast import clock_ns
from tsq.cli import adjtime
from tsq.client import blocking as client
from tsq.client.result import HostResult
from tsq.host.clock import SystemClock

_KEPT = ("error_ns", "status", "maxerror_us", "esterror_us", "constant", "pending_ns")
_BEHIND_NS = -182_400_000_000


def shifted(result: HostResult, shift_ns: int) -> HostResult:
    """The same result with T1 and T4 by another clock, which is ahead of this machine's by this much."""
    samples = tuple(
        replace(
            sample,
            t1_ns=sample.t1_ns + shift_ns,
            t4_ns=None if sample.t4_ns is None else sample.t4_ns + shift_ns,
            offset=None if sample.offset is None else sample.offset - shift_ns / 1e9,
            server=None if sample.server is None else replace(sample.server, told_ns=sample.server.told_ns + shift_ns),
        )
        for sample in result.samples
    )
    return replace(result, samples=samples)


def main(arguments: list[str]) -> int:
    """Run the command; its exit status."""
    give_up_the_clock()
    file = Path(os.environ["TSQ_VIRTUAL_CLOCK"])
    kept = json.loads(file.read_text()) if file.exists() else {"error_ns": _BEHIND_NS}
    twin = VirtualKernel(truth_ns=clock_ns(), **kept)

    def ask(*values, **options) -> list[HostResult]:
        results = client.query_all(*values, **options)
        twin.truth_ns = clock_ns()
        return [shifted(result, round(twin.error_ns)) for result in results]

    adjtime.query_all = ask
    status = adjtime.main(arguments, SystemClock(twin), lambda: None)
    file.write_text(json.dumps({name: getattr(twin, name) for name in _KEPT}))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
