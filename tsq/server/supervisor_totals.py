"""What all workers did, in one place.

Comes in: reports of workers, each of all that the worker did since it began. Goes out: sums, as of one server. A sum must never go
down: what a worker did stays when it ends.
"""

import time
from collections.abc import Hashable
from dataclasses import asdict
from typing import Any

from tsq.counters import Counters
from tsq.host.keepers.sync_state import SyncState
from tsq.options import Target
from tsq.server.observed import Observed
from tsq.server.worker_link import Message
from tsq.wire.tlv import ClockClass, SourceType


def report(server: Observed) -> Message:
    """A worker's report."""
    clock = server.clock
    return {
        "counts": server.counters.snapshot(),
        "connections": server.connections,
        "send_delay": server.send_delay,
        "secrets_stale": server.secrets_stale,
        "expiry": server.certificate_expiry,
        "clock": None if clock is None else asdict(clock),
        "cpu": time.process_time(),
    }


class Totals:
    """The sums, and what is the same for all. cpu: processor seconds of all workers. draining: set by the supervisor."""

    def __init__(self, addresses: list[Target]) -> None:
        self.addresses = addresses
        self.counters = Counters()
        self.cpu = 0.0
        self.draining = False
        self.send_delay = (0.0, 0)
        self._last: dict[Hashable, Message] = {}

    @property
    def connections(self) -> int:
        """The open connections of all workers."""
        return sum(int(last["connections"]) for last in self._last.values())

    @property
    def connections_each(self) -> dict[Hashable, int]:
        """The open connections of each worker."""
        return {worker: int(last["connections"]) for worker, last in self._last.items()}

    @property
    def secrets_stale(self) -> bool:
        """Whether a worker cannot use the file of secrets."""
        return any(last["secrets_stale"] for last in self._last.values())

    @property
    def certificate_expiry(self) -> float:
        """When the first certificate in use expires."""
        return min((float(last["expiry"]) for last in self._last.values()), default=0.0)

    @property
    def clock(self) -> SyncState | None:
        """The clock as the worker knows it that reported last: it is the same clock."""
        states = [last["clock"] for last in self._last.values() if last["clock"] is not None]
        return _clock(states[-1]) if states else None

    def add(self, worker: Hashable, latest: Message) -> None:
        """A worker's report."""
        # Taken out first: the one that reported last is the last in the order.
        before = self._last.pop(worker, {})
        counted: dict[str, int] = before.get("counts", {})
        for key, count in latest["counts"].items():
            name, _, reason = key.partition(": ")
            self.counters.add(name, reason, int(count) - counted.get(key, 0))
        self.cpu += max(0.0, float(latest["cpu"]) - before.get("cpu", 0.0))
        (delay, count), (delay_before, count_before) = latest["send_delay"], before.get("send_delay", (0.0, 0))
        self.send_delay = (self.send_delay[0] + delay - delay_before, self.send_delay[1] + count - count_before)
        self._last[worker] = latest

    def last(self, worker: Hashable) -> Message:
        """A worker's last report; empty where it has sent none."""
        return self._last.get(worker, {})

    def forget(self, worker: Hashable) -> None:
        """A worker has ended: it has no connections any more. What it did stays in the sums."""
        self._last.pop(worker, None)


def _clock(values: dict[str, Any]) -> SyncState:
    enums = {"source": SourceType(values["source"]), "clock_class": ClockClass(values["clock_class"])}
    return SyncState(**(values | enums))
