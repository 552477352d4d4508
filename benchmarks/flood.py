"""The effect of a flood on other clients: ten clients query a server while an attacker floods it.

    python -m benchmarks.flood [--seconds 4] [--rate 10000] [--kind PING]
    python -m benchmarks.flood --strangers [--seconds 4]

Each line is measured with a fresh server on loopback. Ten clients in their own process send 50 requests a second each. The flood
comes from one established client, or from 100 senders with unfinished handshakes, at one and a half times the rate; its packets are
made before the clients start. Prints the table in docs/explanation/worst-packets.md: the answers and delays of the ten clients, and
the server's CPU time; the number of sent packets goes to standard error. With --strangers there are no other clients: 5,000
Initials a second from as many senders; it prints the page's other table, the server's largest memory and that some seconds later.
It must never send to another machine.
"""

import argparse
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.tls import Epoch

from benchmarks.fleet import Fleet
from benchmarks.measure import cpu_of, machine
from benchmarks.processes import HOST, Process, TsqServer
from tests.dataplane.peer import PING, datagram, varint
from tests.support.crafted import REQUEST, Stranger, crypto, one_rtt
from tsq.options import Target, parse_target
from tsq.quic.selfsigned import CertificateFiles, self_signed
from tsq.quic.udp import CONNECTED, UdpSocket

NONE = "no flood"
_CLIENTS = 10
_EACH = 50.0
_SENDERS = 100
_MORE = 1.5
# The most packets in one system call, and the pause when none is due.
_GROUP = 64
_PAUSE = 0.0005
# The number of different packets that the server cannot open; they are sent repeatedly.
_DIFFERENT = 2000
# After 10 s the server closes the connection of a client beyond its budget.
_MOST_SECONDS = 10.0
_MOST_RATE = 30_000

# (a connection of aioquic, the number of packets) -> the packets.
Make = Callable[[Any, int], list[bytes]]


def _sealed(frames: Callable[[int], bytes]) -> Make:
    return lambda client, count: [one_rtt(client, frames(number)) for number in range(count)]


def _repeated(one: Callable[[bytes], bytes]) -> Make:
    """Packets that do not open, with the connection ID of the client."""

    def make(client: Any, count: int) -> list[bytes]:
        name = client.quic._peer_cid.cid
        return list(islice(cycle([one(name) for _ in range(min(count, _DIFFERENT))]), count))

    return make


def _coalesced(packets: int, size: int) -> Make:
    """Datagrams of this number of Handshake packets, each with this size of payload."""
    return _repeated(
        lambda name: (b"\xe3\0\0\0\x01" + bytes([len(name)]) + name + b"\0" + varint(size, 2) + os.urandom(size)) * packets
    )


KINDS: dict[str, Make] = {
    # Header protection needs four bytes.
    "PING": _sealed(lambda _: PING + bytes(3)),
    "forged packets": _repeated(lambda name: b"\x43" + name + os.urandom(1191)),
    "50 requests": _sealed(lambda _: datagram(REQUEST) * 50),
    "31 MAX_DATA frames": _sealed(lambda n: (b"\x10" + varint(1 << 20 | n)) * 31),
    "31 PATH_CHALLENGE frames": _sealed(lambda _: b"".join(b"\x1a" + os.urandom(8) for _ in range(31))),
    "16 requests with something to decide": _sealed(lambda _: datagram(REQUEST + b"\xf8\0") * 16),
    "8 Handshake packets that do not open": _coalesced(8, 120),
    "28 Handshake packets that do not open": _coalesced(28, 20),
}
INITIALS = f"PINGs in Initials from {_SENDERS} senders"
NAMES = (NONE, *KINDS, INITIALS)


_STRANGERS_RATE = 5000
# The server drops unfinished handshakes after 5 s.
_AFTERWARDS = 8.0


def _hello() -> tuple[bytes, bytes]:
    """(a real ClientHello, the connection ID of its client)."""
    client = QuicConnection(configuration=QuicConfiguration(is_client=True, alpn_protocols=["tsq/1"], server_name="localhost"))
    client.connect("the server", 0.0)
    stream: Any = client._crypto_streams[Epoch.INITIAL]
    return bytes(stream.sender._buffer), client.host_cid


def unreadable(count: int) -> list[bytes]:
    return [b"\xc3\0\0\0\x01\x08" + os.urandom(8) + b"\x08source..\0\x44\x96" + os.urandom(1200 - 25) for _ in range(count)]


def _far_ahead(count: int) -> list[bytes]:
    return [Stranger(os.urandom(8)).initial(crypto(16_000, b"x")) for _ in range(count)]


def hellos(count: int) -> list[bytes]:
    hello, source = _hello()
    return [Stranger(os.urandom(8), source).initial(crypto(0, hello)) for _ in range(count)]


# Floods of Initials, each from another sender: (number -> packets, options of the server).
STRANGERS: dict[str, tuple[Callable[[int], list[bytes]], tuple[str, ...]]] = {
    "Initials that do not open": (unreadable, ()),
    "Initials with one byte of TLS far ahead, `--retry never`": (_far_ahead, ("--retry", "never")),
    "handshakes begun, `--retry auto`": (hellos, ()),
    "handshakes begun, `--retry never`": (hellos, ("--retry", "never")),
}


@dataclass(frozen=True, slots=True)
class Memory:
    """The cost of a flood of strangers. cpu: share of a core; at_most, afterwards: resident memory, bytes."""

    kind: str
    cpu: float
    at_most: int
    afterwards: int

    def __str__(self) -> str:
        at_most, afterwards = (f"{size / 2**20:.0f} MB" for size in (self.at_most, self.afterwards))
        return f"| {self.kind} | {100 * self.cpu:.0f} % | {at_most} | {afterwards} |"


@dataclass(frozen=True, slots=True)
class Harm:
    """The service for the ten clients during a flood. kept and cpu: shares; delays in µs; sent: packets of the flood."""

    kind: str
    kept: float
    median: float
    p99: float
    cpu: float
    sent: int = 0

    def __str__(self) -> str:
        kept = f"{100 * self.kept:.1f}".removesuffix(".0")
        return f"| {self.kind} | {kept} % | {self.median:.0f} µs | {self.p99:.0f} µs | {100 * self.cpu:.0f} % |"


class _Clients(Process):
    """Start the ten clients; they begin when all are connected."""

    def __init__(self, target: Target, authority: str, seconds: float) -> None:
        where = f"{target.host}:{target.port}"
        command = [sys.executable, "-m", "benchmarks.flood", "--ask", where, "--ca", authority, "--seconds", str(seconds)]
        super().__init__(command)

    def ready(self) -> None:
        if self.line() != "ready\n":
            raise RuntimeError("the clients did not start")

    def found(self) -> tuple[float, float, float]:
        """The share of answered requests; median and 99th percentile of the delays, µs."""
        kept, median, p99 = json.loads(self.line())
        assert self.process is not None
        # The process closes its connections before it ends.
        self.process.wait(timeout=10)
        return kept, median, p99


def _ask(target: Target, authority: str, seconds: float) -> None:
    total = round(_CLIENTS * _EACH * seconds)
    with Fleet(target, authority, _CLIENTS) as fleet:
        print("ready", flush=True)
        delays = sorted(fleet.run(total, rate=_CLIENTS * _EACH, seconds=seconds))
        if not delays:
            delays = [float("nan")]
        found = (fleet.asker.answered / total, *(delays[int(len(delays) * part)] * 1e6 for part in (0.5, 0.99)))
        print(json.dumps(found), flush=True)


def _initials(count: int) -> list[bytes]:
    """The first packet of each sender starts a handshake, which it does not continue."""
    senders = [Stranger(os.urandom(8)) for _ in range(_SENDERS)]
    return [senders[n % _SENDERS].initial(crypto(9, b"x") if n < _SENDERS else PING) for n in range(count)]


@contextmanager
def _flood(kind: str, server: TsqServer, authority: str, count: int) -> Iterator[tuple[UdpSocket, list[bytes]]]:
    """A socket and the packets to send on it."""
    if kind in KINDS:
        with Fleet(server.target, authority, 1) as fleet:
            fleet.run(40, seconds=3.0)
            [client] = fleet.taken_back()
            yield fleet.udp, KINDS[kind](client, count)
        return
    with closing(UdpSocket.connected(socket.AF_INET, (HOST, server.target.port))) as udp:
        yield udp, _initials(round(_MORE * count)) if kind == INITIALS else []


def _send(udp: UdpSocket, packets: Sequence[bytes], seconds: float) -> int:
    """Send the packets evenly over this time; the number of sent ones. Answers are read and dropped."""
    started = time.monotonic()
    sent = taken = 0
    while (now := time.monotonic() - started) < seconds:
        due = min(_GROUP, int(now / seconds * len(packets)) - taken)
        if due <= 0:
            time.sleep(_PAUSE)
            continue
        sent += udp.send([(packet, CONNECTED) for packet in packets[taken : taken + due]])
        taken += due
        while udp.receive():
            pass
    return sent


def measure(kind: str, files: CertificateFiles, seconds: float, rate: int) -> Harm:
    """Measure one line of the table, with a fresh server."""
    authority = str(files.authority)
    with ExitStack() as stack:
        server = stack.enter_context(TsqServer(files.certificate, files.key))
        udp, packets = stack.enter_context(_flood(kind, server, authority, round(rate * seconds)))
        clients = stack.enter_context(_Clients(server.target, authority, seconds))
        started, cpu = time.monotonic(), cpu_of(server.pid)
        sent = _send(udp, packets, seconds)
        used = (cpu_of(server.pid) - cpu) / (time.monotonic() - started)
        kept, median, p99 = clients.found()
    return Harm(kind, kept, median, p99, used, sent)


def _resident(pid: int, line: str) -> int:
    """A value of the process's status, bytes: VmRSS is the present resident memory, VmHWM the largest."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(found.split()[1]) for found in text.splitlines() if found.startswith(f"{line}:")) * 1024


def measure_strangers(kind: str, files: CertificateFiles, seconds: float) -> Memory:
    """Measure one line of the other table, with a fresh server."""
    make, options = STRANGERS[kind]
    packets = make(round(_STRANGERS_RATE * seconds))
    with (
        TsqServer(files.certificate, files.key, more=options) as server,
        closing(UdpSocket.connected(socket.AF_INET, (HOST, server.target.port))) as udp,
    ):
        started, cpu = time.monotonic(), cpu_of(server.pid)
        _send(udp, packets, seconds)
        used = (cpu_of(server.pid) - cpu) / (time.monotonic() - started)
        time.sleep(_AFTERWARDS)
        return Memory(kind, used, _resident(server.pid, "VmHWM"), _resident(server.pid, "VmRSS"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser("python -m benchmarks.flood", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds of each flood (default: %(default)g)")
    parser.add_argument("--rate", type=int, default=10_000, help="datagrams a second of one client (default: %(default)s)")
    parser.add_argument("--kind", choices=NAMES, action="append", help="only this one; can be repeated (default: all)")
    parser.add_argument("--strangers", action="store_true", help="measure the server's memory with Initials from strangers")
    # Internal: this program starts the process of the ten clients with it.
    parser.add_argument("--ask", type=parse_target, help=argparse.SUPPRESS)
    parser.add_argument("--ca", help=argparse.SUPPRESS)
    values = parser.parse_args(arguments)
    if not (0.1 <= values.seconds <= _MOST_SECONDS and 1 <= values.rate <= _MOST_RATE):
        parser.error(f"expected --seconds from 0.1 to {_MOST_SECONDS:g} and --rate from 1 to {_MOST_RATE}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if values.ask is not None:
        if values.ask.host != HOST or values.ca is None:
            parser.error(f"expected a server on {HOST} and its CA file")
        _ask(values.ask, values.ca, values.seconds)
        return 0
    with tempfile.TemporaryDirectory(prefix="tsq-flood-") as directory:
        files = self_signed(str(Path(directory)), ["localhost", HOST])
        print(machine(), file=sys.stderr)
        if values.strangers:
            print(f"| {_STRANGERS_RATE:,} datagrams a second | CPU | memory at most | afterwards |\n|---|---|---|---|", flush=True)
            for kind in STRANGERS:
                print(measure_strangers(kind, files, values.seconds), flush=True)
            return 0
        print("| flood | answers kept | median | 99th percentile | CPU of the server |")
        print("|---|---|---|---|---|", flush=True)
        for kind in values.kind or NAMES:
            harm = measure(kind, files, values.seconds, values.rate)
            print(harm, flush=True)
            print(f"{kind}: {harm.sent / values.seconds:.0f} datagrams a second", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
