"""What is to be seen of a server, whether it is one process or a supervisor with its workers. It holds nothing and does nothing."""

from typing import Protocol

from tsq.counters import Counters
from tsq.host.keepers.sync_state import SyncState
from tsq.options import Target


class Observed(Protocol):
    """A server, for its metrics, its status and its log."""

    @property
    def counters(self) -> Counters:
        """What it did."""

    @property
    def addresses(self) -> list[Target]:
        """Where it listens."""

    @property
    def connections(self) -> int:
        """Open connections."""

    @property
    def send_delay(self) -> tuple[float, int]:
        """(sum in seconds, count) of the times from T3 to the transmit timestamp."""

    @property
    def certificate_expiry(self) -> float:
        """When the certificate expires, Unix seconds."""

    @property
    def clock(self) -> SyncState | None:
        """The quality of this machine's clock; None where no program is asked."""

    @property
    def draining(self) -> bool:
        """Whether it takes no new connections because it is about to go."""

    @property
    def secrets_stale(self) -> bool:
        """Whether the file of its secrets cannot be used, and the old ones stay."""
