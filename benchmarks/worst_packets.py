"""What the most expensive packets of a client cost the server: CPU time for each packet, and its ratio to a plain request's.

    python -m benchmarks.worst_packets [--packets 400] [--only PING]

A real server on loopback. For each kind there is a fresh connection with a finished handshake. Its packets are authentic, except
for the forged ones, and up to 1,200 bytes long. They go out in small groups; a plain request after each group
shows that the server has dealt with it. Whoever holds a connection can send all of this, so the most expensive kind says how many
packets a second stop a server. Where the server closes the connection, the line says after how many packets: what was
sent after that is not counted.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aioquic.tls import Epoch

from benchmarks.fleet import Fleet
from benchmarks.measure import cpu_of, machine
from benchmarks.processes import HOST, TsqServer
from tsq.quic.selfsigned import self_signed
from tsq.quic.udp import CONNECTED

_PAYLOAD = 1160
_GROUP = 16
_SECONDS = 3.0
# So many packets of the server's that an ACK frame can name some hundred ranges of numbers that were sent.
_SENT_BEFORE = 1300

Frames = Callable[[int], bytes]


def varint(value: int) -> bytes:
    """RFC 9000 §16, in its shortest form."""
    size = next(n for n in (1, 2, 4, 8) if value < 1 << (8 * n - 2))
    return ((size.bit_length() - 1) << (8 * size - 2) | value).to_bytes(size, "big")


def datagram(message: bytes) -> bytes:
    """A DATAGRAM frame."""
    return b"\x31" + varint(len(message)) + message


def request() -> bytes:
    """A request with nothing but a nonce."""
    return datagram(b"\x01\x10" + os.urandom(16))


def ack(largest: int, ranges: int) -> bytes:
    """An ACK frame of so many single numbers."""
    return b"\x02" + varint(largest) + b"\0" + varint(ranges - 1) + b"\0" + b"\0\0" * (ranges - 1)


def _filled(frame: Callable[[int], bytes]) -> bytes:
    out = b""
    number = 0
    while len(out) + len(more := frame(number)) <= _PAYLOAD:
        out += more
        number += 1
    return out


def _sparse(kind: bytes, start: int) -> bytes:
    return _filled(lambda n: kind + varint(2 * (start + n)) + b"\x01x")


KINDS: dict[str, Frames] = {
    "plain request": lambda n: request(),
    "16 requests": lambda n: b"".join(request() for _ in range(16)),
    "50 requests": lambda n: b"".join(request() for _ in range(50)),
    "PING": lambda n: b"\x01\0\0\0",
    "PING and PADDING": lambda n: b"\x01" + bytes(_PAYLOAD - 1),
    "PING, 1,160 of them": lambda n: b"\x01" * _PAYLOAD,
    "ACK of 64 ranges": lambda n: ack(_SENT_BEFORE - 1, 64),
    "ACK of 560 ranges": lambda n: ack(_SENT_BEFORE - 1, 560),
    "ACK frames, 190 of them": lambda n: ack(_SENT_BEFORE - 1, 1) * 190,
    "empty DATAGRAM frames, 565": lambda n: b"\x31\0" * 565,
    "malformed requests, 60": lambda n: datagram(b"\x02\x10" + bytes(16)) * 60 if n else request(),
    "malformed request": lambda n: datagram(b"\x01\x10" + bytes(15)),
    "sparse STREAM frames, the same": lambda n: _sparse(b"\x0e\x00", 0),
    "sparse STREAM frames, new": lambda n: _sparse(b"\x0e\x00", 190 * n),
    "sparse CRYPTO frames": lambda n: _sparse(b"\x06", 190 * n),
    "STREAM frames, 32: the most": lambda n: b"".join(b"\x0e\x00" + varint(2 * k) + b"\x01x" for k in range(32)),
    "CRYPTO frames, 32: the most": lambda n: b"".join(b"\x06" + varint(2 * k) + b"\x01x" for k in range(32)),
    "MAX_DATA frames, 32: the most": lambda n: b"\x10\x01" * 32,
    "requests with a TLV, 16: the most": lambda n: b"".join(datagram(request()[2:] + b"\xf8\0") for _ in range(16)),
    "request with a TLV": lambda n: datagram(request()[2:] + b"\xf8\0"),
    "MAX_DATA frames, 580": lambda n: b"\x10\x01" * 580,
    "PATH_CHALLENGE frames, 128": lambda n: _filled(lambda k: b"\x1a" + os.urandom(8)),
    "NEW_CONNECTION_ID, the same": lambda n: b"\x18\x01\x00\x08" + b"spare-id" + bytes(16),
    "RETIRE_CONNECTION_ID": lambda n: b"\x19" + varint(n + 1),
    "forged": lambda n: b"",
    "duplicate": lambda n: request(),
}


@dataclass(frozen=True)
class Cost:
    """Seconds of CPU for each packet; after how many the server closed the connection, None where it did not."""

    kind: str
    seconds: float
    closed_after: int | None


class _Sender:
    """The client's end of one connection: seals what it is given, outside of every stack."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        [member] = fleet._all
        quic: Any = member.quic
        self._session: Any = member.plane.session
        self._keys = quic._cryptos[Epoch.ONE_RTT].send
        self.id: bytes = quic._peer_cid.cid

    def seal(self, frames: bytes) -> bytes:
        number = self._session.next_packet_number
        self._session.next_packet_number = number + 1
        header = bytes([0x43 | self._keys.key_phase << 2]) + self.id + number.to_bytes(4, "big")
        packet: bytes = self._keys.encrypt_packet(header, frames, number)
        return packet

    def send(self, packets: list[bytes]) -> None:
        self._fleet._udp.send([(packet, CONNECTED) for packet in packets])

    def settled(self) -> bool:
        """Whether the server has dealt with all that was sent: it answers one more request."""
        for _ in range(5):
            with suppress(ConnectionError):
                if self._fleet.run(1, seconds=0.2):
                    return True
                continue
            return False
        return False


def measure(server: TsqServer, authority: str, kind: str, packets: int) -> Cost:
    """The cost of one kind, on a connection of its own."""
    with Fleet(server.target, authority, 1) as fleet:
        fleet.run(_SENT_BEFORE, window=4, seconds=20.0)
        sender = _Sender(fleet)
        sent = 0
        cpu = cpu_of(server.pid)
        end = time.monotonic() + _SECONDS
        while sent < packets and time.monotonic() < end:
            group = [sender.seal(KINDS[kind](sent + n)) if kind != "forged" else _forged(sender.id) for n in range(_GROUP)]
            if kind == "duplicate":
                group = group[:1] * _GROUP
            sender.send(group)
            if not sender.settled():
                # What the server did with this group counts, but not how it went on for a closed connection.
                return Cost(kind, (cpu_of(server.pid) - cpu) / (sent + _GROUP), sent + _GROUP)
            sent += _GROUP
        return Cost(kind, (cpu_of(server.pid) - cpu) / sent, None)


def _forged(connection_id: bytes) -> bytes:
    return b"\x43" + connection_id + os.urandom(1191)


def table(costs: Sequence[Cost]) -> list[str]:
    """The costs as a table in Markdown."""
    plain = next((cost.seconds for cost in costs if cost.kind == "plain request"), None)
    lines = ["| packet | CPU, µs | in plain requests | |", "|---|---|---|---|"]
    for cost in costs:
        ratio = "" if plain is None else f"{cost.seconds / plain:.1f}"
        closed = "" if cost.closed_after is None else f"closed after {cost.closed_after} packets at most"
        lines.append(f"| {cost.kind} | {cost.seconds * 1e6:.1f} | {ratio} | {closed} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.worst_packets", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--packets", type=int, default=400)
    parser.add_argument("--only", default="", help="kinds whose name has this in it")
    values = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    costs = []
    with tempfile.TemporaryDirectory(prefix="tsq-worst-") as directory:
        files = self_signed(directory, ["localhost", HOST])
        for kind in KINDS:
            if values.only in kind:
                with TsqServer(files.certificate, files.key) as server:
                    costs.append(measure(server, str(files.authority), kind, values.packets))
                    print(f"{kind}: {costs[-1].seconds * 1e6:.1f} µs", file=sys.stderr)
    print("\n".join(table(costs)))
    print(machine())
    return 0


if __name__ == "__main__":
    sys.exit(main())
