"""Fuzzing of the data plane's packet parser, behind the keys: `python -m tests.fuzz_packets --seconds 60 --seed 1`.

Frames are made, changed at random and then sealed, so that the parser sees them. Each packet goes to a session of the data plane;
the same frames go, under keys of its own, to a server connection of aioquic alone. What must hold:

- the data plane takes a packet exactly when a reader written in Python (`requests_of`) says that it may;
- what it takes, aioquic takes too, and finds the same DATAGRAM frames in it; what ends aioquic's connection is never taken;
- what it does not take leaves no trace in the session, and is handed up unchanged, unless it is more work (`work_of`) than the
  control plane is to have: then it is dropped and counted;
- answers are for the requests of this packet, each once, in order; packet numbers strictly increase; counters add up.

Anything else ends it with exit status 1 and that input.
"""

import contextlib
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

from benchmarks import plain
from tests.dataplane.peer import EXACT_T3, PADDING, PING, SUITES, Peer, ack, datagram, varint
from tests.support.fuzzing import first_difference, options
from tsq._fast import MOST_MESSAGE
from tsq.dataplane.frames import MOST_WORK_PER_PACKET
from tsq.quic import tls
from tsq.quic.aioquic.shared_connection import SharedConnection
from tsq.quic.limits import PeerLimits
from tsq.quic.selfsigned import CertificateFiles, self_signed
from tsq.server.responder import Draft, Responder
from tsq.wire.message import Mode

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
    acked = False
    try:
        while not buffer.eof():
            kind = buffer.pull_uint8()
            if kind in (0x02, 0x03):
                if acked or not _good_ack(buffer, kind == 0x03, next_number):
                    return None
                acked = True
            elif kind in (0x30, 0x31):
                messages.append(buffer.pull_bytes(buffer.pull_uint_var() if kind == 0x31 else len(frames) - buffer.tell()))
            elif kind not in (0x00, 0x01):
                return None
    except ValueError:
        return None
    if not frames or (acked and defer_acks) or len(messages) > 64:
        return None
    return messages if all(_plain(message) or _precise(message) or _malformed(message) for message in messages) else None


def work_of(frames: bytes) -> int:
    """How much work these frames are for the control plane: 1 for an ACK range, 8 for a DATAGRAM, 4 for any other frame."""
    buffer = Buffer(data=frames)
    work = 0
    with contextlib.suppress(ValueError):
        while not buffer.eof():
            kind = buffer.pull_uint_var()
            if kind != 0x00:
                work += 8 if kind in (0x30, 0x31) else 4
                work += _skip(buffer, kind)
    return work


# Fields of the frames of RFC 9000 §19 in order: v an integer, d bytes whose number stands before them, c the same with a length of
# one byte, 8 and t so many bytes (t: 16), r the rest of the packet.
_FIELDS = {
    0x01: "", 0x04: "vvv", 0x05: "vv", 0x06: "vd", 0x07: "d", 0x08: "vr", 0x09: "vr", 0x0A: "vd", 0x0B: "vd", 0x0C: "vvr",
    0x0D: "vvr", 0x0E: "vvd", 0x0F: "vvd", 0x10: "v", 0x11: "vv", 0x12: "v", 0x13: "v", 0x14: "v", 0x15: "vv", 0x16: "v",
    0x17: "v", 0x18: "vvct", 0x19: "v", 0x1A: "8", 0x1B: "8", 0x1C: "vvd", 0x1D: "vd", 0x1E: "", 0x30: "r", 0x31: "d",
}


def _skip(buffer: Buffer, kind: int) -> int:
    """Read a frame after its type; the number of ranges of an ACK frame below the first. Raises ValueError where it is broken."""
    ranges = 0
    if kind in (0x02, 0x03):
        _, _, count, _ = (buffer.pull_uint_var() for _ in range(4))
        try:
            for _ in range(min(count, _MOST)):
                # One that is cut has been begun.
                ranges += 1
                buffer.pull_uint_var()
                buffer.pull_uint_var()
            for _ in range(3 if kind == 0x03 else 0):
                buffer.pull_uint_var()
        except ValueError:
            buffer.seek(buffer.capacity)
        return ranges
    if kind not in _FIELDS:
        raise ValueError(f"frame type {kind}")
    for field in _FIELDS[kind]:
        if field == "v":
            buffer.pull_uint_var()
        elif field == "d":
            buffer.pull_bytes(buffer.pull_uint_var())
        elif field == "c":
            buffer.pull_bytes(buffer.pull_uint8())
        else:
            buffer.pull_bytes({"8": 8, "t": 16, "r": buffer.capacity - buffer.tell()}[field])
    return 0


def _good_ack(buffer: Buffer, ecn: bool, next_number: int) -> bool:
    start = buffer.tell()
    buffer.seek(start)
    ranges, _ = pull_ack_frame(buffer)
    for _ in range(3 if ecn else 0):
        buffer.pull_uint_var()
    return ranges.bounds().stop <= next_number


def _plain(message: bytes) -> bool:
    return message[:2] == b"\x01\x10" and (len(message) == 18 or (len(message) == 28 and message[18:] == EXACT_T3))


def _precise(message: bytes) -> bool:
    """Whether it asks for Precision Mode, in the order of protocol.md R4, and for nothing else but exact T3."""
    if _malformed(message):
        return False
    tlvs = plain.unpack_message(message)[1:]
    if tlvs[:1] == [(253, EXACT_T3[2:])]:
        tlvs = tlvs[1:]
    return tlvs[:1] == [(250, b"")] and all(kind == 254 for kind, _ in tlvs[1:])


def _answer_of_the_other_plane(message: bytes, at_ns: int) -> bytes:
    draft = Responder().prepare(message, at_ns, Mode.DATAGRAM)
    assert isinstance(draft, Draft)
    answer = draft.within(MOST_MESSAGE).complete(at_ns)
    assert isinstance(answer, bytes)
    return answer


def _malformed(message: bytes) -> bool:
    try:
        plain.unpack_message(message)
    except ValueError:
        return True
    return not message


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
        # What aioquic itself would find: the data plane takes more ranges, at little cost, than the control plane is given.
        self.quic.limits = PeerLimits(ack_ranges=1 << 20, acks=1 << 20, frames=1 << 20, messages=1 << 20)
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
        self.taken = self.refused = self.ended = self.excessive = 0
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
        peer, data_plane = self.peer, self.peer.data_plane
        before, counts = peer.state, (data_plane.received, data_plane.taken, self._counted())
        duplicate = _received(before[0], number)
        expected = None if reserved else requests_of(frames, next_number, defer_acks=self._defer)
        dropped = peer.session.counts["excessive"]
        packets = peer.deliver(peer.seal(frames, number, reserved=reserved))
        dropped = peer.session.counts["excessive"] - dropped
        after = (data_plane.received, data_plane.taken, self._counted())
        grown = tuple(a - b for a, b in zip(after, counts, strict=True))
        if duplicate and not reserved:
            return None if peer.taken and not packets and peer.state == before else "a duplicate that is not dropped"
        self._requests += len(expected or ())
        if expected is None and not reserved and work_of(frames) > MOST_WORK_PER_PACKET:
            self.excessive += 1
            without = [part for part in zip(peer.state, before, strict=True) if part[0] != part[1]]
            if not dropped or packets or len(without) != 1 or grown != (1, 0, 0):
                return f"too much work, and not just dropped and counted: {without}"
            return None
        if dropped:
            return "dropped as too much work, and is not"
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
            what = self._check_answer(expected or [], packets, next_number, _eliciting(frames))
            if what is not None:
                return what
            if found != expected:
                return f"taken, and aioquic finds {'a protocol error' if found is None else found} in it"
        if found is None or not self.alone.usable:
            self.alone = Alone(self.certificates)
        return None

    def _counted(self) -> int:
        """Requests that the data plane dealt with."""
        data_plane = self.peer.data_plane
        return data_plane.answered + data_plane.held_back + data_plane.malformed

    def _check_answer(self, expected: list[bytes], packets: list[Any], next_number: int, eliciting: bool) -> str | None:
        all_plain = all(_plain(message) or _malformed(message) for message in expected)
        expected = [message for message in expected if not _malformed(message)]
        answers = [_answer_of_the_other_plane(message, self.peer.clock_ns) for message in expected]
        numbers = list(range(next_number, next_number + len(packets)))
        if [packet.number for packet in packets] != numbers or self.peer.session.next_packet_number != next_number + len(packets):
            return f"packet numbers {[packet.number for packet in packets]}"
        if bool(packets) != eliciting:
            return f"{len(packets)} packets for {len(expected)} requests"
        answered = [packet for packet in packets if packet.messages]
        # What the window does not admit is one ACK alone at the end.
        found = [message for packet in answered for message in packet.messages]
        if len(packets) != len(answered) + (not answered or len(found) < len(answers)) and packets:
            return f"{len(packets)} packets, {len(answered)} with answers, to {len(expected)} requests"
        if found != answers[: len(found)]:
            return "answers that the control plane would not give"
        sizes = [len(packet.messages) for packet in answered]
        if any(size > 16 for size in sizes) or (all_plain and any(size < 16 for size in sizes[:-1])):
            return f"packets with {sizes} answers"
        if any(max(packet.acked) != self.peer.session.received[0] for packet in packets):
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
        if rng.random() < 0.03:
            # Many of one kind.
            some = rng.choice((PING, b"\x10\x40\x40", b"\x0e\x00\x00\x01x", b"\x06\x00\x01x", datagram(b""), b"\x1a" + bytes(8)))
            return some * rng.choice((10, 31, 32, 33, 100))
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
            return b"".join(datagram(self._request()) for _ in range(rng.choice((8, 15, 16, 17, 33, 40))))
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
        count = rng.choice((0, 0, 1, 3, 10, 62, 63, 64, 130))
        ranges = [(rng.choice((0, 0, 1, 5)), rng.choice((0, 0, 1, 4))) for _ in range(count)]
        low = largest - sum(gap + length + 2 for gap, length in ranges)
        first = rng.randint(0, max(0, min(low, 40))) if rng.random() < 0.95 else rng.getrandbits(rng.choice((8, 62)))
        ecn = (rng.getrandbits(5), rng.getrandbits(30), 0) if rng.random() < 0.3 else None
        return ack(largest, first, *ranges, ecn=ecn, delay=rng.getrandbits(rng.choice((3, 20, 62))))

    def _message(self) -> bytes:
        rng = self.rng
        message = self._request()
        if rng.random() < 0.1:
            message += rng.choice((b"\xf8\x02\0\0", b"\xfa\x00\xfd\x00", b"\xfd\x08\x06tsq.t4\x00", b"x", EXACT_T3))
        if rng.random() < 0.05:
            message = message[: rng.randint(0, len(message))]
        return message

    def _request(self) -> bytes:
        rng = self.rng
        request = b"\x01\x10" + rng.randbytes(16) + (EXACT_T3 if rng.random() < 0.3 else b"")
        if rng.random() < 0.2:
            request += b"\xfa\x00"
            for _ in range(rng.choice((0, 1, 1, 1, 2))):
                size = rng.choice((0, 9, 10, 18, 19, 20, rng.randrange(64), rng.randrange(150)))
                request += bytes([254, size]) + bytes(size)
        return request

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


def _eliciting(frames: bytes) -> bool:
    """Whether a packet that the data plane takes has to be acknowledged (RFC 9000 §13.2.1)."""
    buffer = Buffer(data=frames)
    while not buffer.eof():
        kind = buffer.pull_uint8()
        if kind not in (0x00, 0x02, 0x03):
            return True
        if kind != 0x00:
            _skip(buffer, kind)
    return False


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
        f"{fuzzer.ended} of them protocol errors, {fuzzer.excessive} too much work\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
