"""What an idle client costs a server, up to a million of them: memory, CPU time of a request, looking after them.

    python -m benchmarks.million [--handshakes 2000] [--sessions 1000000] [--draw FILE]
    python -m benchmarks.million --handshakes 100000 --sessions 0

Memory by real handshakes: growth of the resident set of a fresh server process (--workers 1), all told, in one run for ever more
clients, of which each polls every ten seconds or so. Memory and CPU by installed sessions: records that a data plane of this
process is given, each with keys of its own; requests come over loopback, each from another client, in an order in which a client
that polls comes back after all others. CPU is that of receiving, opening, answering, sealing and sending, kernel included.
"""

import argparse
import random
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.bench_handshake import CLIENT_PATH, clock_ns
from benchmarks.crowd import Asked, Crowd
from benchmarks.measure import cpu_of, machine
from benchmarks.memory import resident_set
from benchmarks.million_picture import draw
from benchmarks.processes import HOST, TsqServer
from tsq._fast import pack_address
from tsq.client.channel import Channel
from tsq.counters import Counters
from tsq.dataplane.batches import BATCH, DataPlane
from tsq.dataplane.packet import PacketKeys
from tsq.dataplane.session import Session
from tsq.quic import tls
from tsq.quic.client_connection import ClientConnection
from tsq.quic.router import Limits, Router
from tsq.quic.selfsigned import CertificateFiles, self_signed
from tsq.quic.udp import Datagram, NetworkPath
from tsq.server.core import ServerCore
from tsq.server.responder import Responder

SUITE, VERSION = 0x1301, 1
KEY, IV, SECRET = 16, 12, 32
# The goals: bytes of a client at rest; CPU time of a request at the largest number against that at a thousand.
GOAL_BYTES, GOAL_RATIO = 1024, 1.5
# Clients by real handshakes, step by step in one run.
_STEPS = (2000, 10_000)
# Seconds after the last handshake until all rest.
_REST = 9.0
# Seconds after which a server has given the memory of its start back.
_STARTED = 2.0
_REMAINS = bytes(161)
_IDLE = 3600.0
_BURST = 4 * BATCH


class Crowded(NamedTuple):
    """At a number of clients by real handshakes. grown: bytes of the server's resident set; rate: handshakes a second; used:
    ms of the server's CPU for each, with the requests that kept the others connected; restarted: handshakes begun anew."""

    clients: int
    grown: int
    asked: Asked
    rate: float
    used: float
    restarted: int
    kept: int

    def slope(self, last: "Crowded | None") -> float | None:
        """Bytes of each client that came since."""
        return None if last is None else (self.grown - last.grown) / (self.clients - last.clients)


class Cost(NamedTuple):
    """At a number of clients: bytes of each, µs of CPU a request."""

    clients: int
    size: float
    request: float


# --------------------------------------------------------------------------------------------------------- real handshakes

def by_handshakes(directory: Path, steps: Sequence[int], processes: int) -> Iterator[Crowded]:
    """A fresh server process at ever more clients, each after a handshake, at rest."""
    files = self_signed(str(directory), ["localhost", HOST])
    # Clients that begin anew would take the place of others.
    most = ["--max-connections", str(steps[-1] * 11 // 10 + 100)]
    server = TsqServer(files.certificate, files.key, more=most)
    with server, Crowd(server.target, str(files.authority), processes) as crowd:
        time.sleep(_STARTED)
        before = resident_set(server.pid)
        for step in steps:
            fresh, began, used = step - crowd.count, time.monotonic(), cpu_of(server.pid)
            crowd.grow(step)
            rate, used = fresh / (time.monotonic() - began), (cpu_of(server.pid) - used) / fresh
            time.sleep(_REST)
            grown = resident_set(server.pid) - before
            yield Crowded(crowd.count, grown, crowd.ask(), rate, 1e3 * used, crowd.restarted, crowd.kept)


def crowds(directory: Path, most: int, processes: int) -> list[str]:
    """The table of real handshakes, and what it comes to."""
    steps = [step for step in _STEPS if step < most] + [most]
    head = ("clients", "grew by", "bytes each", "each further", "answers", "handshakes/s", "CPU ms each", "began anew")
    print("  ".join(f"{word:>12}" for word in head), flush=True)
    last: Crowded | None = None
    for one in by_handshakes(directory, steps, processes):
        slope = one.slope(last)
        further = "" if slope is None else f"{slope:.0f}"
        cells = [
            f"{one.clients:,}", f"{one.grown / 1e6:.1f} MB", f"{one.grown / one.clients:.0f}", further,
            f"{one.asked.answers:,}", f"{one.rate:.0f}", f"{one.used:.2f}", f"{one.restarted:,}",
        ]
        print("  ".join(f"{cell:>12}" for cell in cells), flush=True)
        last = one
    assert last is not None
    each = last.grown / last.clients
    return [
        f"{last.clients:,} clients by real handshakes, one worker: {each:.0f} bytes each in all   goal <= {GOAL_BYTES}: "
        f"{_verdict(each <= GOAL_BYTES)}",
        f"at the end {last.asked.answers:,} of {last.clients:,} got an answer: {_verdict(last.asked.answers == last.clients)}; "
        f"on the first sockets {last.asked.first:,}, on the last {last.asked.last:,}; {last.kept:,} requests kept them connected",
        "",
    ]


# ------------------------------------------------------------------------------------------------------ installed sessions

def material(number: int) -> tuple[bytes, bytes, bytes, bytes]:
    """One client's keys: receive, send, and for header protection."""
    data = random.Random(number).randbytes(2 * (KEY + IV) + 2 * KEY)
    return data[: KEY + IV], data[KEY + IV : 2 * (KEY + IV)], data[-2 * KEY : -KEY], data[-KEY:]


def name(number: int) -> bytes:
    """A connection ID, spread as random ones are."""
    return (number * 0x9E3779B97F4A7C15 % (1 << 64)).to_bytes(8, "big")


def session(number: int, path: tuple[bytes, bytes], now: float) -> Session:
    """A session with keys of its own."""
    receive, send, protection, sending = material(number)
    made = Session()
    made.set_protection(SUITE, protection, sending)
    made.set_keys(0, receive[:KEY], receive[KEY:], send[:KEY], send[KEY:], receive[:KEY], send[KEY:], now)
    made.set_secrets(VERSION, bytes(SECRET), bytes(SECRET))
    made.set_path(*path, b"client-1")
    made.set_received(-1, 0.0, 0, -1)
    made.set_recovery(12_000, 0, 1 << 62, 0.0, False)
    made.set_round_trip(True, 0.02, 0.02, 0.005, 0.02, 0.025, 3)
    made.active = True
    return made


class Million:
    """A data plane with many sessions, and their clients' packets."""

    def __init__(self) -> None:
        self.data_plane = DataPlane()
        self.server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for end in (self.server, self.client):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            end.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_TIMESTAMPNS", 35), 1)
            end.bind((HOST, 0))
            end.setblocking(False)
        self.server.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_PKTINFO", 8), 1)
        self.client.connect(self.server.getsockname())
        self.path = (pack_address(*self.client.getsockname()), socket.inet_aton(HOST))
        self.count = 0
        self.asked: dict[int, int] = {}

    def close(self) -> None:
        """Close the sockets."""
        self.server.close()
        self.client.close()

    def install(self, count: int) -> None:
        """Have so many sessions at rest."""
        now = time.monotonic()
        for number in range(self.count, count):
            ids = (name(2 * number), name(2 * number + 1))
            made = session(number, self.path, now)
            self.data_plane.rest(made, ids, _REMAINS, _IDLE, now)
        self.count = max(self.count, count)

    def packets(self, numbers: Sequence[int]) -> list[bytes]:
        """One request of each of these clients, with an acknowledgment of the last answer."""
        out = []
        for number in numbers:
            receive, _, protection, _ = material(number)
            asked = self.asked.get(number, 0)
            self.asked[number] = asked + 1
            frames = b"\x02" + (asked - 1 | 1 << 31).to_bytes(4, "big") + b"\0\0\0" if asked else b""
            frames += b"\x31\x12\x01\x10" + number.to_bytes(16, "big")
            header = b"\x43" + name(2 * number) + asked.to_bytes(4, "big")
            out.append(PacketKeys(SUITE, receive[:KEY], receive[KEY:], protection).protect(header, asked, frames))
        return out

    def ask(self, packets: Sequence[bytes], burst: int) -> float:
        """CPU seconds of the server's for these packets, each of which must be answered. burst: how many are sent at once."""
        used = 0.0
        before = self.data_plane.answered
        for start in range(0, len(packets), burst):
            for packet in packets[start : start + burst]:
                self.client.send(packet)
            begin = time.thread_time()
            self.data_plane.receive(self.server.fileno())
            used += time.thread_time() - begin
            while self._drain():
                pass
        if self.data_plane.answered - before != len(packets):
            raise RuntimeError(f"{self.data_plane.answered - before} answers to {len(packets)} requests")
        return used

    def _drain(self) -> bool:
        try:
            return bool(self.client.recv(2048))
        except BlockingIOError:
            return False


def awake(million: Million, count: int, requests: int) -> float:
    """CPU µs a request of sessions that never rest."""
    now = time.monotonic()
    kept = [session(number, million.path, now) for number in range(count)]
    for number, made in enumerate(kept):
        million.data_plane.add(name(2 * number), made)
    used = best(million, count, requests)
    for number in range(count):
        million.data_plane.discard(name(2 * number))
    million.asked.clear()
    return used


def order(count: int, requests: int) -> Iterator[list[int]]:
    """Rounds of clients: each asks again after all others have."""
    clients = random.Random(7).sample(range(count), min(count, requests))
    for _ in range(max(1, requests // len(clients))):
        yield clients


def best(million: Million, count: int, requests: int) -> float:
    """CPU µs a request: the least of five parts, since other programs use this machine, too."""
    numbers = [number for clients in order(count, requests) for number in clients]
    part = len(numbers) // 5
    found = []
    for at in range(5):
        packets = million.packets(numbers[at * part : (at + 1) * part])
        found.append(1e6 * million.ask(packets, min(_BURST, count)) / len(packets))
    return sorted(found)[1]


def own_memory() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def growth(million: Million, steps: Sequence[int], requests: int) -> list[Cost]:
    """Costs at ever more sessions."""
    found = []
    base = own_memory()
    for count in steps:
        million.install(count)
        million.data_plane.cool()
        # The first round expands what a small number of clients keeps expanded.
        million.ask(million.packets(next(order(count, min(count, requests)))[:4000]), min(_BURST, count))
        request = best(million, count, requests)
        # With the states of those that were used last.
        found.append(Cost(count, (own_memory() - base) / count, request))
    return found


# ------------------------------------------------------------------------------------------------------------ other costs

def _expire(router: Router, core: ServerCore) -> None:
    for connection in router.connections[-1:]:
        due = router.deadline(connection)
        if due is not None and due <= time.monotonic():
            core.expired(connection, time.monotonic())


def rebuild(files: CertificateFiles, connections: int = 60) -> tuple[float, float]:
    """Milliseconds of CPU to let a connection rest, and to make it again."""
    configuration = tls.server_configuration(str(files.certificate), str(files.key))
    router = Router(configuration, Counters(), Limits(rest_after=0.0, rebuilds=1e6, half_open=10_000))
    core = ServerCore(router, Responder(), Counters(), clock_ns, DataPlane())
    trust = tls.Trust(ca_file=str(files.authority))
    for number in range(connections):
        path = NetworkPath(pack_address(HOST, 2000 + number), CLIENT_PATH.local)
        client = Channel(ClientConnection(tls.client_configuration("localhost", trust)))
        client.start(time.monotonic())
        for _ in range(15):
            for data in client.datagrams(time.monotonic()):
                for reply, _ in core.received(Datagram(data, path, clock_ns(), True), time.monotonic()).datagrams:
                    client.receive(Datagram(reply, path, clock_ns(), True), time.monotonic())
            time.sleep(0.003)
            client.handle_timer(time.monotonic())
            _expire(router, core)
    kept = [next(iter(connection.ids & {connection.quic.host_cid})) for connection in router.connections]
    begin = time.thread_time()
    rested = router.rest(time.monotonic() + 10, connections)
    resting = time.thread_time() - begin
    begin = time.thread_time()
    made = sum(router.wake(connection_id, time.monotonic() + 10) is not None for connection_id in kept)
    waking = time.thread_time() - begin
    if not made or made != rested:
        raise RuntimeError(f"{rested} connections rested, {made} were made again")
    return 1e3 * resting / rested, 1e3 * waking / made


def sweep(million: Million) -> float:
    """Milliseconds of CPU to look once at all connections at rest."""
    found = []
    for _ in range(5):
        begin = time.thread_time()
        million.data_plane.sweep(time.monotonic())
        found.append(1e3 * (time.thread_time() - begin))
    return min(found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.million", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--handshakes", type=int, default=2000, help="clients with real handshakes (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=4, help="of those clients (default: %(default)s)")
    parser.add_argument("--sessions", type=int, default=1_000_000, help="installed sessions, 0 for none (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=100_000, help="requests at each number of clients (default: %(default)s)")
    parser.add_argument("--draw", metavar="FILE", help="a picture of the growth, as SVG or PNG")
    values = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(machine() + "\n")
    with tempfile.TemporaryDirectory(prefix="tsq-million-") as directory:
        files = self_signed(directory, ["localhost", HOST])
        rested, made = rebuild(files)
        if values.handshakes:
            print(*crowds(Path(directory), values.handshakes, values.processes), sep="\n", flush=True)
        if not values.sessions:
            return 0
    million = Million()
    base = awake(million, min(1000, values.sessions), values.requests)
    steps = [step for step in (1, 10, 100, 1000, 10_000, 100_000, 1_000_000) if step <= values.sessions]
    costs = growth(million, steps, values.requests)
    thousand = next((cost.request for cost in costs if cost.clients == 1000), costs[-1].request)
    print(f"CPU of a request of 1,000 sessions that never rest: {base:.2f} µs\n")
    print(f"{'clients at rest':>15}  {'bytes each':>10}  {'µs a request':>12}  against 1,000")
    for cost in costs:
        size = f"{cost.size:10.0f}" if cost.clients >= 10_000 else f"{'':10}"
        print(f"{cost.clients:15,}  {size}  {cost.request:12.2f}  {cost.request / thousand:.2f}")
    ratio = costs[-1].request / thousand
    print(f"\n{costs[-1].clients:,} clients against 1,000: {ratio:.2f}   goal <= {GOAL_RATIO}: {_verdict(ratio <= GOAL_RATIO)}")
    print(f"{costs[-1].size:.0f} bytes each   goal <= {GOAL_BYTES}: {_verdict(costs[-1].size <= GOAL_BYTES)}")
    print(f"to rest {rested:.2f} ms, to be made again {made:.2f} ms; a look at all of them {sweep(million):.1f} ms, once a second")
    if values.draw:
        draw([(cost.clients, cost.size, cost.request) for cost in costs], base, Path(values.draw))
    million.close()
    return 0


def _verdict(met: bool) -> str:
    return "met" if met else "MISSED"


if __name__ == "__main__":
    sys.exit(main())
