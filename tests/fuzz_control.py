"""Fuzzing of the control plane with frames of any kind: `python -m tests.fuzz_control --seconds 60 --seed 1`.

Clients that have a ticket, a handshake under way, or a connection send packets with frames that no correct client would send:
streams that are cut, stopped and reset, CRYPTO out of order, acknowledgments, connection IDs, in 0-RTT and 1-RTT packets and in
Initials. What must hold after each packet:

- a connection is in no table, or it has a deadline no later than its handshake's or the idle time-out;
- it keeps no more than the limits say: streams, bytes out of order, packets that were sent;
- the server's tables agree with each other;
- a correct client, whose request comes in the same batch, is answered.

Anything else ends it with exit status 1 and that input.
"""

import gc
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aioquic.tls import Epoch

from tests.dataplane.peer import PADDING, PING, ack, datagram, varint
from tests.support.crafted import REQUEST, Stranger, crypto, one_rtt, reset_stream, stop_sending, stream, zero_rtt
from tests.support.foreign import ForeignClient, path
from tests.support.fuzzing import first_difference, options
from tests.support.world import World
from tsq.quic.reassembly import Kept
from tsq.quic.selfsigned import CertificateFiles, self_signed
from tsq.quic.tls import IDLE_TIMEOUT
from tsq.quic.udp import NetworkPath

_GOOD = 9999
_MOST_STREAMS = 16
_MOST_CLIENTS = 8
# How often each kind of frame comes, in the order of `_frame`.
_WEIGHTS = {
    "initial": (0.05, 0, 0, 0, 0, 8, 0, 4, 4, 0, 0, 0, 0, 0, 0, 0),
    "0-RTT": (8, 4, 4, 4, 4, 0.02, 0.02, 2, 2, 4, 1, 2, 1, 0, 0, 0),
    "1-RTT": (8, 4, 4, 4, 4, 0.3, 2, 2, 2, 4, 1, 2, 1, 0.3, 0.1, 1),
}


@dataclass(frozen=True)
class Broken:
    """A packet after which something does not hold."""

    kind: str
    frames: bytes
    what: str

    def __str__(self) -> str:
        return f"{self.what}\n  {self.kind} packet with frames {self.frames.hex()}"


class Attacker:
    """One client, and what it has done."""

    def __init__(self, fuzzer: "ControlFuzzer", number: int) -> None:
        self.where = path(number)
        self._router = fuzzer.world.router
        rng = fuzzer.rng
        self.client: ForeignClient | None = None
        self.stranger = Stranger(rng.randbytes(8))
        self.stage = rng.choice(("initial", "0-RTT", "1-RTT", "1-RTT"))
        if self.stage == "0-RTT":
            self.client = fuzzer.early(self.where)
        elif self.stage == "1-RTT":
            self.client = ForeignClient(fuzzer.world, where=self.where)
            for _ in range(rng.choice((0, 0, 3))):
                self.client.ask(REQUEST)

    @property
    def can_send(self) -> bool:
        """Whether its connection is there, at both ends."""
        if self.client is None:
            return True
        quic: Any = self.client.quic
        keys = quic._cryptos[Epoch.ZERO_RTT if self.stage == "0-RTT" else Epoch.ONE_RTT]
        return keys.send.is_valid() and quic._peer_cid.cid in self._router._by_id

    def packet(self, frames: bytes) -> bytes:
        """These frames, as a packet of its stage."""
        if self.client is None:
            return self.stranger.initial(frames[:1000])
        return (zero_rtt if self.stage == "0-RTT" else one_rtt)(self.client, frames)


class ControlFuzzer:
    """One run: the same inputs for the same seed."""

    def __init__(self, seed: int, certificates: CertificateFiles) -> None:
        self.rng = random.Random(seed)
        # What other worlds of this process kept is not this one's.
        gc.collect()
        self._kept_before = Kept.total
        self.world = World(certificates, data_plane=True)
        self.tickets: list[Any] = []
        self._number = 0
        self.good = self._good_client()
        self.attackers: list[Attacker] = []

    def _good_client(self) -> ForeignClient:
        self._number += 1
        self._good_path = path(_GOOD + self._number)
        client = ForeignClient(self.world, where=self._good_path, connect=False)
        client.quic._session_ticket_handler = self.tickets.append
        client.quic.connect("the server", self.world.now)
        self.world.pump(client)
        self.world.run(0.2)
        assert client.ask(REQUEST)
        return client

    def early(self, where: NetworkPath) -> ForeignClient:
        """A client whose Initial has come, and nothing else yet."""
        ticket = self.tickets[-1]
        client = ForeignClient(self.world, where=where, connect=False, session_ticket=ticket)
        client.quic.connect("the server", self.world.now)
        for data in client.datagrams(self.world.now):
            self.world.deliver_to_server(data, where)
        # No answer reaches it, so that it stays there.
        client.receive = lambda datagram, now: None  # type: ignore[method-assign]
        return client

    def step(self) -> Broken | None:
        """One packet, with a good client's in the same batch."""
        rng, world = self.rng, self.world
        self.attackers = [attacker for attacker in self.attackers if attacker.can_send]
        if len(self.attackers) < _MOST_CLIENTS or rng.random() < 0.02:
            self._number += 1
            self.attackers = [*self.attackers[-_MOST_CLIENTS + 1 :], Attacker(self, self._number)]
        attacker = rng.choice([attacker for attacker in self.attackers if attacker.can_send] or self.attackers)
        if not attacker.can_send:
            return None
        frames = b"".join(self._frame(attacker.stage) for _ in range(rng.choice((1, 1, 2, 3, 5, 20))))[:1100]
        if rng.random() < 0.1:
            at = rng.randrange(len(frames))
            frames = frames[:at] + rng.randbytes(1) + frames[at + 1 :]
        data = attacker.packet(frames)
        before = len(self.good.datagram_messages)
        self._deliver([(data, attacker.where)])
        self.good.quic.send_datagram_frame(REQUEST)
        self._deliver([(packet, self._good_path) for packet in self.good.datagrams(world.now)])
        world.run(rng.choice((0.005, 0.01, 0.2)))
        if len(self.good.datagram_messages) == before:
            return Broken(attacker.stage, frames, "the good client is not answered")
        if rng.random() < 0.01:
            world.run(rng.choice((3.0, 20.0)))
            self.good = self._good_client()
        what = self._check()
        return None if what is None else Broken(attacker.stage, frames, what)

    def _deliver(self, batch: list[tuple[bytes, NetworkPath]]) -> None:
        for data, where in batch:
            self.world.deliver_to_server(data, where)

    def _check(self) -> str | None:
        router, now = self.world.router, self.world.now
        table = router._by_id
        if set(table) != {known for connection in router.connections for known in connection.ids}:
            return "connection IDs in the table that no connection has, or the other way round"
        for connection in router.connections:
            deadline = router.deadline(connection)
            if deadline is None or deadline > now + IDLE_TIMEOUT + 1e-6:
                return f"a connection whose deadline is {deadline}, at {now}"
            half_open = connection in router._half_open
            if half_open and deadline > connection.created + router.limits.handshake_timeout:
                return "a handshake without an end"
            quic: Any = connection.quic
            if max(len(quic._streams), len(connection._streams), len(connection._stopped)) > _MOST_STREAMS:
                return "too many streams"
            if any(len(space.sent_packets) > 700 for space in quic._spaces.values()):
                return "too many packets that were sent"
        kept = sum(held(connection.quic) for connection in router.connections)
        if Kept.total - self._kept_before > kept:
            return f"{Kept.total - self._kept_before} bytes out of order are counted, and {kept} are there"
        return None

    def _frame(self, stage: str) -> bytes:
        rng = self.rng
        stream_id = 4 * rng.choice((0, 0, 0, 1, 2, 3, rng.randrange(16))) + (rng.randrange(4) if rng.random() < 0.01 else 0)
        size = rng.choice((0, 1, 18, 18, 100))
        data = (REQUEST + bytes(100))[:size]
        offset = rng.choice((0, 0, 0, 1, 18, 300, 3000)) if rng.random() < 0.97 else rng.choice((4000, 5000, 1 << 20))
        makers = (
            lambda: stream(stream_id, data, offset, fin=rng.random() < 0.5),
            lambda: stream(stream_id, REQUEST, fin=True) + stop_sending(stream_id),
            lambda: stop_sending(stream_id, rng.getrandbits(20)),
            lambda: stop_sending(stream_id),
            lambda: reset_stream(stream_id, rng.choice((18, 18, 118, 4000)), rng.getrandbits(5)),
            lambda: crypto(offset, data),
            lambda: ack(rng.getrandbits(1), 0),
            lambda: PING,
            lambda: PADDING * rng.choice((1, 5)),
            lambda: datagram(rng.choice((REQUEST, b"", bytes(20)))),
            lambda: rng.choice((b"\x10", b"\x12", b"\x14", b"\x16")) + varint(rng.getrandbits(14)),
            lambda: b"\x11" + varint(stream_id) + varint(rng.getrandbits(20)),
            lambda: b"\x15" + varint(stream_id) + varint(5),
            lambda: b"\x19" + varint(rng.choice((0, 1, 2))),
            lambda: b"\x18" + varint(rng.getrandbits(3)) + varint(rng.getrandbits(1)) + b"\x08" + rng.randbytes(24),
            lambda: rng.choice((b"\x1a", b"\x1b")) + rng.randbytes(8),
        )
        # What may not come at a stage ends the connection, so it comes seldom.
        return rng.choices(makers, _WEIGHTS[stage])[0]()


def held(connection: Any) -> int:
    """How many bytes of a connection wait for others before them."""
    streams = [*connection._streams.values(), *connection._crypto_streams.values()]
    return sum(item.receiver.kept for item in streams)


def inputs(fuzzer: ControlFuzzer) -> Iterator[Broken | None]:
    """The result of one input after another, without end."""
    while True:
        yield fuzzer.step()


def run(fuzzer: ControlFuzzer, *, count: int | None = None, seconds: float | None = None) -> tuple[int, Broken | None]:
    """(how many inputs, what broke first) until `count` inputs or `seconds` have passed."""
    return first_difference(inputs(fuzzer), count, seconds)


def main(arguments: list[str] | None = None) -> int:
    """Run it; the exit status."""
    values = options("python -m tests.fuzz_control", __doc__.partition("\n")[0], arguments)
    with tempfile.TemporaryDirectory() as directory:
        fuzzer = ControlFuzzer(values.seed, self_signed(directory, ["localhost"]))
        number, broken = run(fuzzer, count=values.inputs, seconds=values.seconds)
    if broken is not None:
        sys.stdout.write(f"seed {values.seed}, input {number}: {broken}\n")
        return 1
    counts = fuzzer.world.counters.snapshot()
    sys.stdout.write(f"seed {values.seed}: {number} inputs, all that must hold held; {counts}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
