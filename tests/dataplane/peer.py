"""A client's end of one data plane session, made of keys alone: no handshake, no aioquic connection.

It seals whatever frames a test wants under whatever packet number, key phase and header bits, and opens what the session sends.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from aioquic.buffer import Buffer
from aioquic.quic.packet import pull_ack_frame

from tsq._fast import pack_address
from tsq.dataplane.batches import DataPlane
from tsq.dataplane.packet import PacketKeys
from tsq.dataplane.session import Session

CLOCK_NS = 1_800_000_000_000_000_000
ID = b"server01"
PEER_ID = b"client-id"
REMOTE = pack_address("192.0.2.2", 40000)
LOCAL = b"\xc0\x00\x02\x01"
KEY_SIZES = {0x1301: 16, 0x1302: 32, 0x1303: 32}
SUITES = tuple(KEY_SIZES)
MAX_ACK_DELAY = 0.025
EXACT_T3 = b"\xfd\x08\x06tsq.t3\x00"
PING = b"\x01"
PADDING = b"\x00"


def varint(value: int, size: int = 0) -> bytes:
    """RFC 9000 §16; size 0: the shortest form."""
    size = size or next(n for n in (1, 2, 4, 8) if value < 1 << (8 * n - 2))
    return ((size.bit_length() - 1) << (8 * size - 2) | value).to_bytes(size, "big")


def ack(largest: int, first: int = 0, *ranges: tuple[int, int], ecn: tuple[int, int, int] | None = None, delay: int = 0) -> bytes:
    """An ACK frame. first: how many below the largest; ranges: (gap, length) as they stand in the frame."""
    out = (b"\x02" if ecn is None else b"\x03") + varint(largest) + varint(delay) + varint(len(ranges)) + varint(first)
    for gap, length in ranges:
        out += varint(gap) + varint(length)
    return out + b"".join(varint(count) for count in ecn or ())


def datagram(message: bytes) -> bytes:
    """A DATAGRAM frame with its length."""
    return b"\x31" + varint(len(message)) + message


def request(number: int, *, exact: bool = False) -> bytes:
    """A request whose nonce is a number."""
    return b"\x01\x10" + number.to_bytes(16, "big") + (EXACT_T3 if exact else b"")


def nonce_of(message: bytes) -> int:
    """The number in a nonce, of a request or an answer."""
    return int.from_bytes(message[2:18], "big")


@dataclass
class Packet:
    """What the session sent, opened."""

    number: int
    first: int
    acked: list[int] = field(default_factory=list)
    ranges: int = 0
    delay: int = 0
    messages: list[bytes] = field(default_factory=list)
    size: int = 0
    padding: int = 0

    @property
    def spin(self) -> int:
        return self.first >> 5 & 1

    @property
    def phase(self) -> int:
        return self.first >> 2 & 1

    @property
    def nonces(self) -> list[int]:
        return [nonce_of(message) for message in self.messages]


class Peer:
    """One session in a table of its own. `give` hands a packet over; `taken` and `packets` tell what came of the last one."""

    def __init__(
        self, suite: int = 0x1301, *, seed: int = 1, window: int = 1 << 20, loss_delay: float = 0.1, probe_timeout: float = 0.3,
        data_plane: DataPlane | None = None, connection_id: bytes = ID, remote: bytes = REMOTE, local: bytes = LOCAL,
        peer_id: bytes = PEER_ID,
    ) -> None:
        self.random = random.Random(seed)
        self.suite = suite
        self.now = 1000.0
        self.clock_ns = CLOCK_NS
        self.number = 0
        self.id = connection_id
        self.remote, self.local, self.peer_id = remote, local, peer_id
        self.data_plane = DataPlane() if data_plane is None else data_plane
        size = KEY_SIZES[suite]
        self._in_protection, self._out_protection = (self.random.randbytes(size) for _ in range(2))
        self._phase_keys = [self._material() for _ in range(2)]
        self._next = self._material()
        self.phase = 0
        self.session = Session()
        self.session.set_protection(suite, self._in_protection, self._out_protection)
        self._hand_keys()
        self.session.set_path(remote, local, peer_id)
        self.session.set_received(-1, 0.0, 0, -1)
        self.recover(window, loss_delay, probe_timeout)
        self.session.active = True
        self.data_plane.add(connection_id, self.session)
        self.taken = False
        self.packets: list[Packet] = []

    def recover(self, window: int, loss_delay: float = 0.1, probe_timeout: float = 0.3, *, defer: bool = False) -> None:
        """Hand over a congestion window, and a round trip from which these two times follow."""
        round_trip = loss_delay / 1.125
        spread = probe_timeout - round_trip - MAX_ACK_DELAY
        assert spread >= 0.001
        self.session.set_recovery(window, 0, 1 << 62, 0.0, defer)
        self.session.set_round_trip(True, round_trip, round_trip, spread / 4, round_trip, MAX_ACK_DELAY, 3)

    # ------------------------------------------------------------------------------------------------------------- keys

    def update_keys(self) -> None:
        """The next phase, as the control plane hands it over after a key update."""
        self._phase_keys = [self._next, self._material()]
        self._next = self._material()
        self.phase ^= 1
        self._hand_keys()

    def _material(self) -> tuple[bytes, bytes]:
        return self.random.randbytes(KEY_SIZES[self.suite]), self.random.randbytes(12)

    def _hand_keys(self) -> None:
        received, sent = self._phase_keys
        self.session.set_keys(self.phase, *received, *sent, *self._next, self.now)
        self.sealer = PacketKeys(self.suite, *received, self._in_protection)
        self.next_sealer = PacketKeys(self.suite, *self._next, self._in_protection)
        self.opener = PacketKeys(self.suite, *sent, self._out_protection)

    # ---------------------------------------------------------------------------------------------------------- packets

    def seal(
        self, frames: bytes, number: int | None = None, *, pn_size: int = 4, phase: int | None = None, reserved: int = 0,
        spin: int = 0, sealer: PacketKeys | None = None,
    ) -> bytes:
        """A packet of the client's."""
        number = self.number if number is None else number
        self.number = max(self.number, number + 1)
        phase = self.phase if phase is None else phase
        first = 0x40 | spin << 5 | reserved << 3 | phase << 2 | pn_size - 1
        header = bytes([first]) + self.id + (number % (1 << 8 * pn_size)).to_bytes(pn_size, "big")
        return (sealer or self.sealer).protect(header, number, frames)

    def open(self, data: bytes) -> Packet:
        """A packet of the session's, which must be well formed."""
        opened = self.opener.open(data, 1 + len(self.peer_id), self.session.next_packet_number)
        assert opened is not None, "a packet that does not open"
        header, number, payload = opened
        assert header[1 : 1 + len(self.peer_id)] == self.peer_id
        assert header[0] & 0xD8 == 0x40
        packet = Packet(number, header[0], size=len(data))
        buffer = Buffer(data=payload)
        while not buffer.eof():
            kind = buffer.pull_uint_var()
            if kind == 0x02:
                assert not packet.acked
                found, packet.delay = pull_ack_frame(buffer)
                packet.ranges = len(found)
                assert sum(map(len, found)) <= 128, "an ACK of more than ever came"
                packet.acked = [number for part in found for number in part]
            elif kind == 0x00:
                # An answer's last byte may be zero, too.
                assert packet.messages
                assert not any(buffer.data_slice(buffer.tell(), len(payload)))
                packet.padding = len(payload) - buffer.tell() + 1
                break
            else:
                assert kind == 0x31
                packet.messages.append(buffer.pull_bytes(buffer.pull_uint_var()))
        return packet

    def deliver(
        self, data: bytes, *, remote: bytes | None = None, local: bytes | None = None, received_ns: int = 0
    ) -> list[Packet]:
        """Hand bytes to the table; what the session sent."""
        remote = self.remote if remote is None else remote
        local = self.local if local is None else local
        item = (data, remote, local, received_ns or self.clock_ns, True)
        answers, rest = self.data_plane.process([item], self.now, self.clock_ns)
        assert rest in ([], [item]), "what is not taken is handed up unchanged"
        assert not (answers and rest)
        assert all(answer[1:] == (remote, local) for answer in answers)
        self.taken = not rest
        self.packets = [self.open(answer[0]) for answer in answers]
        return self.packets

    def give(self, frames: bytes, number: int | None = None, **options: Any) -> list[Packet]:
        """Seal these frames and hand the packet over."""
        return self.deliver(self.seal(frames, number, **options))

    def ask(self, *numbers: int, exact: bool = False, number: int | None = None) -> list[Packet]:
        """One packet with these requests."""
        return self.give(b"".join(datagram(request(n, exact=exact)) for n in numbers), number)

    def receive(self, numbers: Iterable[int]) -> None:
        """Packets with these numbers come, in this order; they hold nothing that is answered."""
        for number in numbers:
            self.give(PADDING, number)
            assert self.taken
            assert not self.packets

    @property
    def state(self) -> tuple[Any, ...]:
        """All that Python can see of the session."""
        session = self.session
        return (
            session.received, session.next_packet_number, session.largest_acknowledged, session.last_receive, session.in_flight,
            session.spin, tuple(session.counts.items()), session.active,
        )
