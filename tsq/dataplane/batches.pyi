"""Types of the compiled data plane; see batches.pyx."""

from typing import final

from tsq.dataplane.admission import Admission
from tsq.dataplane.session import Session
from tsq.dataplane.upkeep import Upkeep

BATCH: int
NEWCOMERS_BATCH: int

@final
class DataPlane(Upkeep):
    received: int
    taken: int
    answered: int
    held_back: int
    stepped_back: int
    unstamped: int
    warmed: int
    forged: int
    duplicates: int
    excessive: int
    malformed: int
    shortened: int
    unsent: int
    truncated: int
    turned_away: int
    drained: int
    stamping: bool
    def __new__(cls, discard_fd: int = -1, *, hot: int = 1024) -> DataPlane: ...
    def __sizeof__(self) -> int: ...
    @property
    def exact(self) -> int: ...
    @property
    def send_delay_ns(self) -> int: ...
    def guard(self, admission: Admission) -> None: ...
    def divide(self, fd: int, newcomers: int) -> None: ...
    def receive(self, fd: int) -> tuple[int, list[tuple[bytes, bytes, bytes, int, bool]]]: ...
    def process(
        self, datagrams: list[tuple[bytes, bytes, bytes, int, bool]], now: float, clock_ns: int
    ) -> tuple[list[tuple[bytes, bytes, bytes]], list[tuple[bytes, bytes, bytes, int, bool]]]: ...
    def send_stamped(
        self, fd: int, data: bytes, remote: bytes, local: bytes, session: Session | bytes, nonce: bytes, send_ns: int
    ) -> int: ...
