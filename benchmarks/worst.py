"""The cost of the worst packet of each kind for a server: `python -m benchmarks.worst`.

Each kind is sent until the costs settle, in a world without sockets: what is measured is the server's own work, from a datagram to
its answers. CPU: of this process, for each datagram of 1,200 bytes or less. Memory: what all datagrams of the kind together leave
behind, for each, while the connection lasts. The lines are those of the table in docs/explanation/worst-packets.md.
"""

import argparse
import contextlib
import gc
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.dataplane.peer import PING, ack, datagram, varint
from tests.support.crafted import REQUEST, Stranger, crypto, one_rtt, reset_stream, stop_sending, stream
from tests.support.foreign import ForeignClient, path
from tests.support.world import CLIENT, World
from tsq.quic.limits import Limits, PeerLimits
from tsq.quic.reassembly import Kept
from tsq.quic.selfsigned import CertificateFiles, self_signed
from tsq.quic.udp import NetworkPath

# Large enough that every packet is processed: the measurement is of the packets, not of the budget that rejects them.
_UNLIMITED = Limits(
    peer=PeerLimits(control_rate=1e9, control_burst=1e9, excessive_packets=1 << 30, handshake_packets=1 << 30),
    **dict.fromkeys(("newcomers", "strangers", "all_control", "most_control"), 1e9),
)


@dataclass(frozen=True)
class Cost:
    """The cost of one datagram of a kind."""

    kind: str
    size: int
    microseconds: float
    kept: float


def _initials(make: Callable[[int], bytes]) -> Callable[[World, int], Iterator[tuple[bytes, NetworkPath]]]:
    def datagrams(_: World, count: int) -> Iterator[tuple[bytes, NetworkPath]]:
        stranger = Stranger()
        for number in range(count):
            yield stranger.initial(make(number)), CLIENT

    return datagrams


def _strangers(make: Callable[[int], bytes]) -> Callable[[World, int], Iterator[tuple[bytes, NetworkPath]]]:
    def datagrams(_: World, count: int) -> Iterator[tuple[bytes, NetworkPath]]:
        for number in range(count):
            yield Stranger(number.to_bytes(8, "big")).initial(make(number)), CLIENT

    return datagrams


def _established(make: Callable[[int], bytes], each: int = 1 << 30) -> Callable[[World, int], Iterator[tuple[bytes, NetworkPath]]]:
    """each: the number of packets of the kind that one connection survives; then a new one is used."""

    def datagrams(world: World, count: int) -> Iterator[tuple[bytes, NetworkPath]]:
        for number in range(count):
            if number % each == 0:
                where = path(number)
                client = ForeignClient(world, where=where)
                for _ in range(3):
                    client.ask(REQUEST)
            yield one_rtt(client, make(number % each)), where

    return datagrams


def _forged(world: World, count: int) -> Iterator[tuple[bytes, NetworkPath]]:
    for data, where in _established(lambda _: PING)(world, count):
        yield data[:9] + bytes(1150), where


def _undecryptable(world: World, count: int) -> Iterator[tuple[bytes, NetworkPath]]:
    for data, where in _strangers(lambda _: PING)(world, count):
        yield data[:-1] + bytes([data[-1] ^ 1]), where


def _sparse(number: int, first: int, kind: Callable[[int, bytes], bytes]) -> bytes:
    return b"".join(kind(2 + 2 * (first * number + i), b"x") for i in range(first))


def _new_id(number: int) -> bytes:
    return b"\x18" + varint(number + 2) + varint(number + 2) + b"\x08" + (1 << 32 | number).to_bytes(8, "big") + bytes(16)


def _coalesced(kind: int, count: int) -> Callable[[World, int], Iterator[tuple[bytes, NetworkPath]]]:
    """Datagrams of this number of packets with long headers, which do not open."""

    def datagrams(world: World, datagrams: int) -> Iterator[tuple[bytes, NetworkPath]]:
        client = ForeignClient(world)
        name = client.quic._peer_cid.cid
        size = 1200 // count - 26
        one = bytes([kind]) + b"\0\0\0\x01" + bytes([len(name)]) + name + b"\0" + varint(size, 2) + bytes(size)
        for _ in range(datagrams):
            yield one * count, CLIENT

    return datagrams


def _moved(world: World, count: int) -> Iterator[tuple[bytes, NetworkPath]]:
    """One client that uses another address for each packet."""
    client = ForeignClient(world)
    for _ in range(3):
        client.ask(REQUEST)
    for number in range(count):
        yield one_rtt(client, PING + bytes(3)), path(number % 50)


KINDS: dict[str, Callable[[World, int], Iterator[tuple[bytes, NetworkPath]]]] = {
    "a plain request": _established(lambda _: datagram(REQUEST)),
    "Initial that does not open": _undecryptable,
    "Initial with one byte of CRYPTO far ahead": _strangers(lambda _: crypto(16_000, b"x")),
    "Initials with 60 CRYPTO frames of one byte": _initials(lambda n: _sparse(n, 60, crypto)),
    "Initials with 150 CRYPTO frames of one byte": _initials(lambda n: _sparse(n, 150, crypto)),
    "packet that is forged": _forged,
    "1-RTT: PING": _established(lambda _: PING),
    "1-RTT: 1,100 PINGs": _established(lambda _: PING * 1100),
    "1-RTT: PING and PADDING in turns": _established(lambda _: (PING + b"\0") * 32),
    "1-RTT: ACK of 64 ranges": _established(lambda _: ack(200, 0, *[(0, 0)] * 63)),
    "1-RTT: ACK of 560 ranges": _established(lambda _: ack(2000, 0, *[(0, 0)] * 559)),
    "1-RTT: ACK and PING": _established(lambda _: ack(0) + PING),
    "1-RTT: CRYPTO far ahead": _established(lambda _: crypto(4000, b"x")),
    "1-RTT: STREAM frames out of order": _established(lambda n: b"".join(stream(4 * n, b"x", 2 + 4 * i) for i in range(15)), 16),
    "1-RTT: a request on a stream": _established(lambda n: stream(4 * n, REQUEST, fin=True), 16),
    "1-RTT: requests on 16 streams": _established(
        lambda n: b"".join(stream(4 * (16 * n + i), REQUEST, fin=True) for i in range(16)), 1
    ),
    "1-RTT: 16 streams, reset at once": _established(
        lambda n: b"".join(stream(4 * (16 * n + i), b"x") + reset_stream(4 * (16 * n + i), 1) for i in range(16)),
        1,
    ),
    "1-RTT: 16 requests that are not wanted": _established(
        lambda n: b"".join(stream(4 * (16 * n + i), REQUEST, fin=True) + stop_sending(4 * (16 * n + i)) for i in range(16)),
        1,
    ),
    "1-RTT: 60 empty DATAGRAM frames": _established(lambda _: b"\x31\x00" * 60),
    "1-RTT: 565 empty DATAGRAM frames": _established(lambda _: b"\x31\x00" * 565),
    "1-RTT: 50 requests": _established(lambda _: datagram(REQUEST) * 50),
    "1-RTT: malformed request": _established(lambda _: datagram(b"\x01\x10" + bytes(15))),
    "1-RTT: 16 requests with something to decide": _established(lambda _: datagram(REQUEST + b"\xf8\0") * 16),
    "1-RTT: PING from another address each time": _moved,
    "1-RTT: NEW_CONNECTION_ID": _established(_new_id, 4),
    "1-RTT: 60 PATH_CHALLENGE frames": _established(lambda n: b"".join(b"\x1a" + bytes([n % 256]) * 8 for _ in range(60))),
    "1-RTT: 31 PATH_CHALLENGE frames": _established(lambda n: b"".join(b"\x1a" + bytes([n % 256]) * 8 for _ in range(31))),
    "1-RTT: 60 MAX_DATA frames": _established(lambda n: (b"\x10" + varint(1 << 20 | n)) * 60),
    "1-RTT: 31 MAX_DATA frames": _established(lambda n: (b"\x10" + varint(1 << 20 | n)) * 31),
    "8 Handshake packets that do not open": _coalesced(0xE3, 8),
    "8 0-RTT packets that do not open": _coalesced(0xD3, 8),
    "28 Handshake packets that do not open": _coalesced(0xE3, 28),
}


def measure(kind: str, certificates: CertificateFiles, count: int, limits: Limits = _UNLIMITED) -> Cost:
    """Measure the cost of a datagram of this kind, over this number of them."""
    world = World(certificates, data_plane=True, limits=limits)
    datagrams = list(KINDS[kind](world, count))
    world.to_client = lambda data, number: []
    gc.collect()
    started = time.process_time()
    for data, where in datagrams:
        world.deliver_to_server(data, where)
    seconds = time.process_time() - started
    return Cost(kind, max(len(data) for data, _ in datagrams), seconds / count * 1e6, _kept(kind, certificates, count, limits))


def _kept(kind: str, certificates: CertificateFiles, count: int, limits: Limits) -> float:
    world = World(certificates, data_plane=True, limits=limits)
    datagrams = list(KINDS[kind](world, count))
    world.to_client = lambda data, number: []
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for data, where in datagrams:
        world.deliver_to_server(data, where)
        world.sent.clear()
    world._events.clear()
    gc.collect()
    kept = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return kept / count


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worst", description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--count", type=int, default=500, help="datagrams of each kind (default: 500)")
    values = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stderr(None):
        certificates = self_signed(directory, ["localhost"])
        print("| the packet | bytes | CPU | memory that stays |")
        print("|---|---|---|---|")
        for kind in KINDS:
            cost = measure(kind, certificates, values.count)
            print(f"| {cost.kind} | {cost.size} | {cost.microseconds:.0f} µs | {cost.kept:.0f} bytes |", flush=True)
    assert Kept.total == 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
