"""What a worker shows of all workers, over HTTP/3 (docs/howto/http3.md).

Comes in: the worker's server; from the supervisor, what the other workers did, as old as its last message. Goes out: sums, as of
one server. What is shown must never be counted: the worker's own counts stay its own.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from tsq.counters import Counters
from tsq.exposition import Family, Kind, Point
from tsq.host.keepers.sync_state import SyncState
from tsq.options import Target
from tsq.server.observed import Observed
from tsq.server.worker_link import Message


class Whole:
    """All workers, seen from one of them; this one alone until the supervisor has said more."""

    def __init__(self, own: Observed) -> None:
        self._own = own
        self._others: Message = {}

    def learn(self, others: Message) -> None:
        """What the supervisor says of the others (`others`)."""
        self._others = others

    @property
    def counters(self) -> Counters:
        """The sums of all counts."""
        sums = Counters()
        for counts in (self._own.counters.snapshot(), self._others.get("counts", {})):
            for key, count in counts.items():
                name, _, reason = key.partition(": ")
                sums.add(name, reason, count)
        return sums

    @property
    def addresses(self) -> list[Target]:
        """Where all of them listen."""
        return self._own.addresses

    @property
    def connections(self) -> int:
        """The open connections of all."""
        return self._own.connections + int(self._others.get("connections", 0))

    @property
    def send_delay(self) -> tuple[float, int]:
        """The sums of all."""
        (delay, count), (more, further) = self._own.send_delay, self._others.get("send_delay", (0.0, 0))
        return delay + more, count + further

    @property
    def certificate_expiry(self) -> float:
        """When the worker's own certificate expires."""
        return self._own.certificate_expiry

    @property
    def clock(self) -> SyncState | None:
        """The clock as the worker knows it: it is the same clock."""
        return self._own.clock

    @property
    def draining(self) -> bool:
        """Whether the worker drains, as all do then."""
        return self._own.draining

    @property
    def secrets_stale(self) -> bool:
        """Whether any worker cannot use the file of secrets."""
        return self._own.secrets_stale or bool(self._others.get("secrets_stale", False))

    def families(self) -> Iterator[Family]:
        """The supervisor's own metrics."""
        for one in self._others.get("families", ()):
            points = tuple(Point(point["value"], tuple(point["labels"]), point["count"]) for point in one["points"])
            yield Family(one["name"], Kind(one["kind"]), one["meaning"], points, tuple(one["labels"]))


def others(total: Observed, last: Message, families: Iterable[Family]) -> Message:
    """What a worker is to learn. last: its own last report, which is part of the totals."""
    own: dict[str, int] = last.get("counts", {})
    (delay, count), (own_delay, own_count) = total.send_delay, last.get("send_delay", (0.0, 0))
    values: dict[str, Any] = {
        "counts": {key: number - own.get(key, 0) for key, number in total.counters.snapshot().items()},
        "connections": total.connections - int(last.get("connections", 0)),
        "send_delay": (max(0.0, delay - own_delay), count - own_count),
        "secrets_stale": total.secrets_stale,
        "families": [asdict(family) for family in families],
    }
    return values
