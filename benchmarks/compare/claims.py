"""What the page compares in words: pairs of cells with their reasons, and what TSQ wants to be.

Comes in: nothing. Goes out: claims and aims, without any figure. It must never say which side is better: the figures do.
"""

from dataclasses import dataclass

from benchmarks.compare import floods, many
from benchmarks.compare.accuracy import BASIC, EXACT, WARM, load_name
from benchmarks.compare.certificates import ECDSA, RSA
from benchmarks.compare.delay import COMPILED, DELTA, ONE, PYTHON
from benchmarks.compare.handshake import CLIENT, FULL, SERVER
from benchmarks.compare.oneshot import BYTES, COLD, CPU, TO_ANSWER
from benchmarks.compare.rows import ALONE, DATAGRAM, ECHO, NTP, NTS, QUICHE, STREAM
from benchmarks.compare.rows import EXACT as EXACT_ROW

CLIENTS = "100 clients"
EACH = "memory for each client"

# Column, row, load, quantity.
Key = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Claim:
    """A cell beside another; less is better. why: what makes it so, true either way."""

    what: str
    ours: Key
    theirs: Key
    why: str


@dataclass(frozen=True, slots=True)
class Aim:
    """A cell that is to be at most so many times another, or at most so much."""

    what: str
    ours: Key
    most: float
    theirs: Key | None = None


def serving(row: str, load: str = CLIENTS) -> Key:
    return "serving", row, load, "server CPU"


def _accuracy(row: str, kind: str, load: str = "idle") -> Key:
    return "accuracy", row, load_name(64, load), f"|offset|, {kind}"


def _handshake(row: str, certificate: str = ECDSA, quantity: str = SERVER) -> Key:
    return "handshake", row, f"{certificate}, {FULL}", quantity


def _delay(row: str, quantity: str) -> Key:
    return "delay", row, ONE, quantity


def _shot(row: str, quantity: str = TO_ANSWER) -> Key:
    return "oneshot", row, COLD, quantity


CLAIMS = (
    Claim(
        "server CPU for a request, against NTS",
        serving(DATAGRAM),
        serving(NTS),
        "NTS sends 228 bytes where TSQ sends less than half, and opens a cookie and sets up two AES-SIV keys for each request. "
        "A QUIC connection keeps its keys, and requests are received and answered in batches.",
    ),
    Claim(
        "server CPU for a request with exact T3, against NTS",
        serving(EXACT_ROW),
        serving(NTS),
        "The kernel stamps each answer and hands the stamp over, which costs about as much as receiving a packet.",
    ),
    Claim(
        "server CPU for a request, against plain NTP",
        serving(DATAGRAM),
        serving(NTP),
        "Plain NTP has 48 bytes and no cryptography, but chronyd makes one system call for each answer. TSQ's batches pay "
        "for the AES.",
    ),
    Claim(
        "server CPU for a request, against the C echo",
        serving(DATAGRAM),
        serving(ECHO),
        "The difference is opening, checking and sealing a packet, and the memory that each connection touches.",
    ),
    Claim(
        "server CPU for a request of one of a million clients, against NTS",
        ("many", DATAGRAM, many.load_name(1_000_000), many.CPU),
        ("many", NTS, many.load_name(1_000_000), many.CPU),
        "TSQ reads a record from memory, expands its keys, and puts another one back. NTS needs no memory for that: it opens a "
        "cookie and sets up two AES-SIV keys, for each client alike.",
    ),
    Claim(
        "server CPU for a stranger's packet in a flood of 5,000 a second, against NTS",
        ("flood", DATAGRAM, floods.load_name(5_000), floods.CPU),
        ("flood", NTS, floods.load_name(5_000), floods.CPU),
        "An Initial has 1200 bytes at least, whose protection is opened before anything else is done; it then gets a Retry. A "
        "cookie that does not open ends the work on a request.",
    ),
    Claim(
        "Stream Mode's server CPU for a request, against NTS",
        serving(STREAM),
        serving(NTS),
        "Each request is a stream of its own in aioquic, in Python: objects, frames, limits, acknowledgments, for one question.",
    ),
    Claim(
        "server CPU of Datagram Mode, against Stream Mode",
        serving(DATAGRAM),
        serving(STREAM),
        "Both are QUIC from the same server. Only datagrams go through compiled code.",
    ),
    Claim(
        "server CPU with the data plane, against the same server without it",
        serving(DATAGRAM),
        serving(ALONE),
        "The same work, compiled and in batches, in place of Python objects for each packet.",
    ),
    Claim(
        "server CPU for a request, against quiche under node",
        serving(DATAGRAM),
        serving(QUICHE),
        "quiche is compiled, but node hands it each datagram singly, through JavaScript. The bare echo under node shows "
        "node's part.",
    ),
    Claim(
        "delay of one exchange, both ends on one core, compiled clients, against NTS",
        _delay(DATAGRAM, COMPILED),
        _delay(NTS, COMPILED),
        "TSQ's client opens and checks each answer here; the client for NTS sends prepared requests and checks nothing, so "
        "that part "
        "of the work is left out. TSQ's server answers where its event loop waits, without a way through Python.",
    ),
    Claim(
        "delay as the timestamps say, (T4-T1)-(T3-T2), T3 as claimed, against NTS",
        _delay(DATAGRAM, DELTA),
        _delay(NTS, DELTA),
        "T3 is taken before the answer is sealed and sent, in TSQ as in NTS. What passes until it leaves counts as delay.",
    ),
    Claim(
        "delay as the timestamps say, exact T3, against NTS",
        _delay(EXACT_ROW, DELTA),
        _delay(NTS, DELTA),
        "The next answer tells when this one left. Nothing but the kernel's path is left in the delay. (NTS has an "
        "interleaved mode "
        "for the same; this client does not use it.)",
    ),
    Claim(
        "delay as a Python program sees it, against a Python program that asks NTS",
        _delay(DATAGRAM, PYTHON),
        _delay(NTS, PYTHON),
        "TSQ's client is a whole client: nonce, checks of the answer, the sample, timers. The program for NTS sends prepared bytes "
        "and reads two numbers.",
    ),
    Claim(
        "|offset| with T3 as claimed, idle, 64 polls a second, against NTS",
        _accuracy(DATAGRAM, BASIC),
        _accuracy(NTS, BASIC),
        "Half of what passes between T3 and the wire is error: sealing and the send call, after a rest.",
    ),
    Claim(
        "|offset| with exact T3, idle, against NTS's interleaved mode",
        _accuracy(DATAGRAM, EXACT),
        _accuracy(NTS, EXACT),
        "All four stamps are the kernel's. What is left is the difference of the kernel's paths in both directions after a rest.",
    ),
    Claim(
        "|offset| with exact T3 on a path that is kept warm, idle, against NTS's interleaved mode",
        _accuracy(DATAGRAM, WARM),
        _accuracy(NTS, EXACT),
        "TSQ's client does so from five samples on: a request that does not count goes right before each one that does, so caches "
        "are warm in both directions. It doubles the packets; chronyd has nothing like it.",
    ),
    Claim(
        "|offset|, the same with both cores loaded",
        _accuracy(DATAGRAM, WARM, "both cores loaded"),
        _accuracy(NTS, EXACT, "both cores loaded"),
        "The kernel stamps packets as it sends and receives them, whoever waits for the processor.",
    ),
    Claim(
        "one shot, start to answer, against plain NTP",
        _shot(DATAGRAM),
        _shot(NTP),
        "chronyd waits 200 ms before it asks. TSQ's client loads Python and aioquic, and makes a handshake.",
    ),
    Claim(
        "one shot, start to answer, against NTS",
        _shot(DATAGRAM),
        _shot(NTS),
        "chronyd establishes keys first, and asks two seconds later.",
    ),
    Claim(
        "one shot, CPU time, against NTS",
        _shot(DATAGRAM, CPU),
        _shot(NTS, CPU),
        "An interpreter that starts and imports, against a C program.",
    ),
    Claim(
        "one shot, bytes until the answer, against NTS",
        _shot(DATAGRAM, BYTES),
        _shot(NTS, BYTES),
        "A QUIC client's first datagram has 1200 bytes at least, whatever is in it. TCP and TLS need more packets, most of "
        "them small.",
    ),
    Claim(
        "handshake, server CPU, ECDSA P-256, against NTS-KE",
        _handshake(DATAGRAM),
        _handshake(NTS),
        "Key exchange and signature are compiled on both sides. The rest of a QUIC handshake is Python: packets, frames, key "
        "schedules, transport parameters.",
    ),
    Claim(
        "handshake, server CPU, RSA-2048, against NTS-KE",
        _handshake(DATAGRAM, RSA),
        _handshake(NTS, RSA),
        "An RSA signature costs its part of a millisecond and more wherever it is made, and hides some of the difference.",
    ),
    Claim(
        "handshake, client CPU, against an NTS-KE client",
        _handshake(DATAGRAM, quantity=CLIENT),
        _handshake(NTS, quantity=CLIENT),
        "The NTS-KE client here is OpenSSL, called from Python.",
    ),
)

AIMS = (
    Aim("server CPU for a request: at most 1.3 times the C echo's", serving(DATAGRAM), 1.3, serving(ECHO)),
    Aim("server CPU for a request: at most plain NTP's", serving(DATAGRAM), 1.0, serving(NTP)),
    Aim("server CPU for a request: at most 0.6 times NTS's", serving(DATAGRAM), 0.6, serving(NTS)),
    Aim("handshake: server CPU at most twice NTS-KE's (ECDSA P-256)", _handshake(DATAGRAM), 2.0, _handshake(NTS)),
    Aim("memory: at most 48 KiB for each of 1,000 connected clients", ("memory", DATAGRAM, "1,000 clients", EACH), 48 * 1024),
    Aim("one shot: below chronyd's plain NTP", _shot(DATAGRAM), 1.0, _shot(NTP)),
    Aim("one shot: a tenth of NTS's", _shot(DATAGRAM), 0.1, _shot(NTS)),
    Aim("delay of one exchange (one core, compiled clients): below NTS's", _delay(DATAGRAM, COMPILED), 1.0, _delay(NTS, COMPILED)),
    Aim("delay as exact timestamps say: below NTS's", _delay(EXACT_ROW, DELTA), 1.0, _delay(NTS, DELTA)),
)
