"""Types of the compiled table of sessions; see batches.pyx."""

from typing import final

from tsq.dataplane.session import Session

BATCH: int

def wait(epoll: int, serving: dict[int, DataPlane], timeout: float) -> list[tuple[int, int]]: ...

@final
class DataPlane:
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
    unsent: int
    truncated: int
    exact: int
    send_delay_ns: int
    key_update_after: int
    failed_open_limit: int
    excessive_limit: int
    stamping: bool
    def __new__(cls, discard_fd: int = -1) -> DataPlane: ...
    def __len__(self) -> int: ...
    def __sizeof__(self) -> int: ...
    def add(self, connection_id: bytes, session: Session) -> None: ...
    def discard(self, connection_id: bytes) -> None: ...
    def receive(self, fd: int) -> tuple[int, list[tuple[bytes, bytes, bytes, int, bool]]]: ...
    def process(
        self, datagrams: list[tuple[bytes, bytes, bytes, int, bool]], now: float, clock_ns: int
    ) -> tuple[list[tuple[bytes, bytes, bytes]], list[tuple[bytes, bytes, bytes, int, bool]]]: ...
    def send_stamped(
        self, fd: int, data: bytes, remote: bytes, local: bytes, session: Session, nonce: bytes, send_ns: int
    ) -> int: ...
    def due(self, now: float) -> list[Session]: ...
