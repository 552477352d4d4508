"""Results as the JSON document of `tsq-client --json` (docs/reference/cli.md).

Comes in: HostResults and the Selection among them. Goes out: one dictionary. Its schema only grows: no key changes its meaning.
"""

from collections.abc import Sequence
from typing import Any

from tsq.client.result import HostResult
from tsq.report.text import clock_notices
from tsq.timing.local_clock import ClockReading
from tsq.timing.selection import Selection


def document(results: Sequence[HostResult], chosen: Selection, version: str, now: ClockReading | None = None) -> dict[str, Any]:
    """The whole document. now: the reading of the clock that the selection is for."""
    hosts = [result.to_dict(verdict) for result, verdict in zip(results, chosen.verdicts, strict=True)]
    return {"version": version, "hosts": hosts, "selection": chosen.to_dict(), "notices": clock_notices(chosen, now)}
