"""Types of the compiled data plane; see _datapath.pyx."""

from collections.abc import Callable, Iterable, Mapping
from typing import final

CONNECTION_ID_SIZE: int
WINDOW_SIZE: int
BATCH: int

@final
class Session:
    active: bool
    client: bool
    next_packet_number: int
    def set_protection(self, suite: int, receive: bytes, send: bytes) -> None: ...
    def set_keys(
        self,
        phase: int,
        receive: bytes,
        receive_iv: bytes,
        send: bytes,
        send_iv: bytes,
        next_receive: bytes,
        next_receive_iv: bytes,
    ) -> None: ...
    def set_path(self, remote: bytes, local: bytes, peer_id: bytes) -> None: ...
    def set_received(self, largest: int, largest_at: float, bits: int, ack_floor: int) -> None: ...
    def set_recovery(self, window: int, loss_delay: float, probe_timeout: float, defer_acks: bool) -> None: ...
    def set_spin(self, spin: bool, packet_number: int) -> None: ...
    def open(self, packet: bytes, now: float) -> list[bytes] | None: ...
    def seal(self, messages: list[bytes], now: float) -> bytes | None: ...
    def tell(self) -> str: ...
    def acknowledged(self, ranges: Iterable[tuple[int, int]], now: float) -> None: ...
    @property
    def received(self) -> tuple[int, float, int, bool]: ...
    @property
    def spin(self) -> tuple[bool, int]: ...
    @property
    def largest_acknowledged(self) -> int: ...
    @property
    def last_receive(self) -> float: ...
    @property
    def last_activity(self) -> float: ...
    @property
    def probe_at(self) -> float | None: ...
    @property
    def ack_wanted(self) -> bool: ...
    @property
    def in_flight(self) -> tuple[int, int]: ...
    @property
    def counts(self) -> dict[str, int]: ...

@final
class Datapath:
    received: int
    taken: int
    answered: int
    held_back: int
    stepped_back: int
    unstamped: int
    unsent: int
    truncated: int
    exact: int
    key_update_after: int
    failed_open_limit: int
    def __len__(self) -> int: ...
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

@final
class Asker:
    sent: int
    answered: int
    lost: int
    exact: int
    def __new__(cls, sessions: Mapping[bytes, Session]) -> Asker: ...
    def run(
        self,
        fd: int,
        total: int,
        window: int,
        rate: float,
        seconds: float,
        exact: bool,
        control: Callable[[bytes], None] | None = None,
    ) -> list[float]: ...
