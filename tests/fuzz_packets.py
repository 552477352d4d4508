"""Fuzzing of the data plane's packet parser, behind the keys: `python -m tests.fuzz_packets --seconds 60 --seed 1`.

Frames are made, changed at random and then sealed, so that the parser sees them. Each packet goes to a session of the data plane;
the same frames go, under keys of its own, to a server connection of aioquic alone. What must hold:

- the data plane takes a packet exactly when a reader written in Python (`requests_of`) says that it may;
- what it takes, aioquic takes too, and finds the same DATAGRAM frames in it; what ends aioquic's connection is never taken;
- what it does not take leaves no trace in the session, and is handed up as it came;
- answers are for the requests of this packet, each once, in order; packet numbers strictly increase; counters add up.

Anything else ends it with exit status 1 and that input.
"""

import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aioquic.buffer import Buffer
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicConnectionState
from aioquic.quic.packet import pull_ack_frame
from aioquic.tls import Epoch

from tests.datapath.peer import PADDING, PING, SUITES, WISH, Peer, ack, datagram, varint
from tests.support.fuzzing import first_difference, options
from tsq.quic import tls
from tsq.quic.offload import SharedConnection
from tsq.quic.selfsigned import CertificateFiles, self_signed

_NOW = 1000.0
_SERVER, _CLIENT = "the server", "the client"
_MOST = 1150


@dataclass(frozen=True)
class Difference:
    """A packet that is not treated as it should be."""

    frames: bytes
    number: int
    next_number: int
    what: str

    def __str__(self) -> str:
        return f"{self.what}\n  frames {self.frames.hex()}\n  packet number {self.number}, next of the session {self.next_number}"


# --------------------------------------------------------------------------------------------------- the second opinion

def requests_of(frames: bytes, next_number: int, *, defer_acks: bool) -> list[bytes] | None:
    """The requests of a packet that the data plane is to take; None for one that is the control plane's."""
    buffer = Buffer(data=frames)
    messages: list[bytes] = []
    acked = pinged = False
    try:
        while not buffer.eof():
            kind = buffer.pull_uint8()
            if kind == 0x01:
                pinged = True
            elif kind in (0x02, 0x03):
                if acked or not _good_ack(buffer, kind == 0x03, next_number):
                    return None
                acked = True
            elif kind in (0x30, 0x31):
                messages.append(buffer.pull_bytes(buffer.pull_uint_var() if kind == 0x31 else len(frames) - buffer.tell()))
            elif kind != 0x00:
                return None
    except ValueError:
        return None
    if not frames or (pinged and not messages) or (acked and defer_acks) or len(messages) > 16:
        return None
    return messages if all(map(_plain, messages)) else None


def _good_ack(buffer: Buffer, ecn: bool, next_number: int) -> bool:
    start = buffer.tell()
    _, _, more = (buffer.pull_uint_var() for _ in range(3))
    if more > 63:
        return False
    buffer.seek(start)
    ranges, _ = pull_ack_frame(buffer)
    for _ in range(3 if ecn else 0):
        buffer.pull_uint_var()
    return ranges.bounds().stop <= next_number


def _plain(message: bytes) -> bool:
    return message[:2] == b"\x01\x10" and (len(message) == 18 or (len(message) == 28 and message[18:] == WISH))


class Alone:
    """A server connection of aioquic without a data plane, and its client's keys."""

    def __init__(self, certificates: CertificateFiles) -> None:
        configuration = QuicConfiguration(is_client=True, alpn_protocols=["tsq/1"], max_datagram_frame_size=65535)
        configuration.server_name = "localhost"
        configuration.load_verify_locations(cafile=str(certificates.authority))
        client = QuicConnection(configuration=configuration)
        client.connect(_SERVER, _NOW)
        self.quic = SharedConnection(
            configuration=tls.server_configuration(str(certificates.certificate), str(certificates.key)),
            original_destination_connection_id=client.original_destination_connection_id,
        )
        for _ in range(5):
            for data, _ in client.datagrams_to_send(_NOW):
                self.quic.receive_datagram(data, _CLIENT, _NOW)
            for data, _ in self.quic.datagrams_to_send(_NOW):
                client.receive_datagram(data, _SERVER, _NOW)
        self._keys = client._cryptos[Epoch.ONE_RTT].send
        self._id = self.quic.host_cid
        self.number = client._packet_number + 10
        assert self.give(PADDING, 0) == []

    def give(self, frames: bytes, reserved: int) -> list[bytes] | None:
        """The DATAGRAM frames that it finds; None where the connection ends."""
        self.number += 1
        header = bytes([0x43 | reserved << 3]) + self._id + self.number.to_bytes(4, "big")
        try:
            self.quic.receive_datagram(self._keys.encrypt_packet(header, frames, self.number), _CLIENT, _NOW)
        except Exception:
            # A fault of the stack, which costs the peer its connection (tsq.quic.connection).
            return None
        found = []
        while (event := self.quic.next_event()) is not None:
            if isinstance(event, events.DatagramFrameReceived):
                found.append(event.data)
        return None if self.quic._close_event is not None or self.quic._state is not QuicConnectionState.CONNECTED else found

    @property
    def usable(self) -> bool:
        """Whether its connection ID is still in use: a client may retire it."""
        return any(known.cid == self._id for known in self.quic._host_cids) and self.quic._close_event is None


# -------------------------------------------------------------------------------------------------------------- inputs

class Fuzzer:
    """One run: the same inputs for the same seed."""

    def __init__(self, seed: int, certificates: CertificateFiles) -> None:
        self.rng = random.Random(seed)
        self.certificates = certificates
        self.peer = Peer(self.rng.choice(SUITES), seed=seed)
        self.alone = Alone(certificates)
        self.taken = self.refused = self.ended = 0
        self._requests = 0
        self._defer = False

    def step(self) -> Difference | None:
        """One input."""
        rng, session = self.rng, self.peer.session
        if rng.random() < 0.1:
            self._refresh()
        # Both have sent the same packets.
        next_number = max(session.next_packet_number, self.alone.quic._packet_number) + rng.choice((0, 0, 0, 1, 5))
        session.next_packet_number = self.alone.quic._packet_number = next_number
        self.peer.now += rng.choice((0.0, 0.001, 0.05))
        frames = b"".join(self._frame(next_number) for _ in range(rng.choice((1, 1, 2, 2, 3, 5, 8))))[:_MOST]
        if rng.random() < 0.5:
            frames = self._changed(frames)
        reserved = rng.randint(1, 3) if rng.random() < 0.02 else 0
        number = self.peer.number if rng.random() < 0.95 else rng.randint(max(0, self.peer.number - 140), self.peer.number)
        what = self._check(frames, number, reserved, next_number)
        return None if what is None else Difference(frames, number, next_number, what)

    def _check(self, frames: bytes, number: int, reserved: int, next_number: int) -> str | None:
        peer, datapath = self.peer, self.peer.datapath
        before, counts = peer.state, (datapath.received, datapath.taken, datapath.answered + datapath.held_back)
        duplicate = _received(before[0], number)
        expected = None if reserved else requests_of(frames, next_number, defer_acks=self._defer)
        packets = peer.deliver(peer.seal(frames, number, reserved=reserved))
        after = (datapath.received, datapath.taken, datapath.answered + datapath.held_back)
        grown = tuple(a - b for a, b in zip(after, counts, strict=True))
        if duplicate and not reserved:
            return None if peer.taken and not packets and peer.state == before else "a duplicate that is not dropped"
        self._requests += len(expected or ())
        if peer.taken != (expected is not None):
            return "taken, and is the control plane's" if peer.taken else "not taken, and is the data plane's"
        if grown != (1, int(peer.taken), len(expected or ())):
            return f"counters that grew by {grown}"
        found = self.alone.give(frames, reserved)
        if not peer.taken:
            self.refused += 1
            if peer.state != before:
                return f"not taken, but changed the session: {before} -> {peer.state}"
            self.ended += found is None
        else:
            self.taken += 1
            what = self._check_answer(expected or [], packets, next_number)
            if what is not None:
                return what
            if found != expected:
                return f"taken, and aioquic finds {'a protocol error' if found is None else found} in it"
        if found is None or not self.alone.usable:
            self.alone = Alone(self.certificates)
        return None

    def _check_answer(self, expected: list[bytes], packets: list[Any], next_number: int) -> str | None:
        if len(packets) != bool(expected):
            return f"{len(packets)} packets for {len(expected)} requests"
        if not packets:
            return None
        [packet] = packets
        if packet.number != next_number or self.peer.session.next_packet_number != next_number + 1:
            return f"packet number {packet.number}"
        if packet.messages and [message[:18] for message in packet.messages] != [message[:18] for message in expected]:
            return "answers to other requests"
        if any(len(message) != 38 for message in packet.messages):
            return "an answer of another length"
        if max(packet.acked) != self.peer.session.received[0]:
            return "an ACK of other packets"
        return None

    def _refresh(self) -> None:
        """What the control plane does now and then; and all is acknowledged."""
        self._defer = self.rng.random() < 0.1
        self.peer.recover(self.rng.choice((2000, 1 << 20)), 0.1, 0.3, defer=self._defer)
        if self.peer.session.next_packet_number:
            self.peer.session.acknowledged([(0, self.peer.session.next_packet_number - 1)], self.peer.now)

    def _frame(self, next_number: int) -> bytes:
        rng = self.rng
        choice = rng.random()
        if choice < 0.12:
            return PADDING * rng.choice((1, 2, 30))
        if choice < 0.22:
            return PING
        if choice < 0.48:
            return self._ack(next_number)
        if choice < 0.88:
            return datagram(self._message())
        if choice < 0.90:
            return b"\x30" + self._message()
        if choice < 0.95:
            return b"".join(datagram(self._request()) for _ in range(rng.choice((8, 15, 16, 17))))
        return rng.choice(
            (
                b"\x04\x00\x00\x00", b"\x05\x00\x00", b"\x06\x00\x01x", b"\x08\x00x", b"\x0b\x00\x12" + self._request(),
                b"\x10\x40\x40", b"\x11\x00\x40\x40", b"\x12\x10", b"\x14\x05", b"\x15\x00\x05", b"\x16\x05",
                b"\x18\x02\x00\x08" + rng.randbytes(24), b"\x19\x00", b"\x1a" + rng.randbytes(8), b"\x1b" + rng.randbytes(8),
                b"\x1c\x00\x00\x00", b"\x1d\x00\x00", b"\x1e", b"\x40\x01", b"\x40\x31\x00", varint(rng.getrandbits(14)),
            )
        )

    def _ack(self, next_number: int) -> bytes:
        rng = self.rng
        largest = max(0, next_number - rng.choice((1, 1, 1, 1, 2, 2, 3, 10, 10, 0, -1)))
        count = rng.choice((0, 0, 1, 3, 10, 62, 63, 64))
        ranges = [(rng.choice((0, 0, 1, 5)), rng.choice((0, 0, 1, 4))) for _ in range(count)]
        low = largest - sum(gap + length + 2 for gap, length in ranges)
        first = rng.randint(0, max(0, min(low, 40))) if rng.random() < 0.95 else rng.getrandbits(rng.choice((8, 62)))
        ecn = (rng.getrandbits(5), rng.getrandbits(30), 0) if rng.random() < 0.3 else None
        return ack(largest, first, *ranges, ecn=ecn, delay=rng.getrandbits(rng.choice((3, 20, 62))))

    def _message(self) -> bytes:
        rng = self.rng
        message = self._request()
        if rng.random() < 0.1:
            message += rng.choice((b"\xf8\x02\0\0", b"\xfa\x00", b"\xfd\x08\x06tsq.t4\x00", b"x", WISH))
        if rng.random() < 0.05:
            message = message[: rng.randint(0, len(message))]
        return message

    def _request(self) -> bytes:
        return b"\x01\x10" + self.rng.randbytes(16) + (WISH if self.rng.random() < 0.3 else b"")

    def _changed(self, frames: bytes) -> bytes:
        rng = self.rng
        out = bytearray(frames)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            at = rng.randrange(len(out) + 1)
            # Most of what decides stands at the beginning of a frame.
            at = min(at, rng.choice((len(out), 40, 4)))
            choice = rng.randrange(6)
            if choice == 0 and at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            elif choice == 1 and at < len(out):
                out[at] = rng.choice((0, 1, 2, 3, 0x30, 0x31, 0x3F, 0x40, 0x7F, 0x80, 0xBF, 0xC0, 0xFF, 18, 28))
            elif choice == 2:
                del out[at : at + rng.choice((1, 2, 8))]
            elif choice == 3:
                out[at:at] = rng.choice((b"\x00", b"\x01", b"\xff", varint((1 << 62) - 1), rng.randbytes(3)))
            elif choice == 4:
                del out[at:]
            else:
                out[at:at] = out[at : at + rng.choice((1, 4, 20))]
        return bytes(out[:_MOST])


def _received(received: tuple[int, float, int, bool], number: int) -> bool:
    largest, _, bits, _ = received
    distance = largest - number
    return distance >= 0 and (distance >= 128 or bool(bits >> distance & 1))


def inputs(fuzzer: Fuzzer) -> Iterator[Difference | None]:
    """The result of one input after another, without end."""
    while True:
        yield fuzzer.step()


def run(fuzzer: Fuzzer, *, count: int | None = None, seconds: float | None = None) -> tuple[int, Difference | None]:
    """(how many inputs, the first difference) until `count` inputs or `seconds` have passed."""
    return first_difference(inputs(fuzzer), count, seconds)


def main(arguments: list[str] | None = None) -> int:
    """Run it; the exit status."""
    values = options("python -m tests.fuzz_packets", __doc__.partition("\n")[0], arguments)
    with tempfile.TemporaryDirectory() as directory:
        fuzzer = Fuzzer(values.seed, self_signed(directory, ["localhost"]))
        number, difference = run(fuzzer, count=values.inputs, seconds=values.seconds)
    if difference is not None:
        sys.stdout.write(f"seed {values.seed}, input {number}: {difference}\n")
        return 1
    sys.stdout.write(
        f"seed {values.seed}: {number} packets as they should be: {fuzzer.taken} taken, {fuzzer.refused} not, "
        f"{fuzzer.ended} of them protocol errors\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
