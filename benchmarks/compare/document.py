"""The page about a run: docs/explanation/performance.md, in words and tables that follow from its figures.

Comes in: a Run, the names of its pictures. Goes out: Markdown. It must never state what the figures of this very run do not show:
every verdict is worked out from them. What is said of reasons is what the programs are known to do, whatever the figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.compare import pictures, table
from benchmarks.compare.accuracy import BASIC, EXACT, WARM, load_name
from benchmarks.compare.certificates import ECDSA, RSA
from benchmarks.compare.delay import COMPILED, DELTA, ONE, PYTHON, TWO
from benchmarks.compare.handshake import CLIENT, EARLY, FULL, RESUMED, SERVER
from benchmarks.compare.oneshot import BYTES, COLD, PACKETS, TICKET, TO_ANSWER, TO_EXIT
from benchmarks.compare.oneshot import CPU as SHOT_CPU
from benchmarks.compare.record import Figure, Run
from benchmarks.compare.rows import ALONE, DATAGRAM, ECHO, NEWCOMER, NODE_ECHO, NTP, NTS, QUICHE, ROWS, STREAM, WHAT
from benchmarks.compare.rows import EXACT as EXACT_ROW

# Differences below this are nothing here.
_NOISE = 0.15
_CLIENTS = "100 clients"
_EACH = "memory for each client"

Key = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Claim:
    """A cell beside another; less is better. why: what makes it so, true either way."""

    what: str
    ours: Key
    theirs: Key
    why: str


def _serving(row: str, load: str = _CLIENTS) -> Key:
    return "serving", row, load, "server CPU"


def _accuracy(row: str, kind: str, load: str = "idle", rate: int = 64) -> Key:
    return "accuracy", row, load_name(rate, load), f"|offset|, {kind}"


def _handshake(row: str, certificate: str, kind: str = FULL, quantity: str = SERVER) -> Key:
    return "handshake", row, f"{certificate}, {kind}", quantity


CLAIMS = (
    Claim(
        "server CPU for a request, against NTS", _serving(DATAGRAM), _serving(NTS),
        "NTS sends 228 bytes where TSQ sends less than half, and opens a cookie and sets up two AES-SIV keys for each request; a QUIC "
        "connection keeps its keys, and requests are received and answered in batches.",
    ),
    Claim(
        "the same with exact T3 in every answer, against NTS", _serving(EXACT_ROW), _serving(NTS),
        "The kernel stamps each answer and hands the stamp over, which costs about as much as receiving a packet.",
    ),
    Claim(
        "server CPU for a request, against plain NTP", _serving(DATAGRAM), _serving(NTP),
        "Plain NTP has 48 bytes and no cryptography, but chronyd makes one system call for each answer; TSQ's batches pay for the AES.",
    ),
    Claim(
        "server CPU for a request, against the floor", _serving(DATAGRAM), _serving(ECHO),
        "What is above the floor is opening, checking and sealing a packet, and memory that each connection touches.",
    ),
    Claim(
        "Stream Mode's server CPU, against NTS", _serving(STREAM), _serving(NTS),
        "Each request is a stream of its own in aioquic, in Python: objects, frames, limits, acknowledgments and the timers of a "
        "stream that lives for one question.",
    ),
    Claim(
        "Datagram Mode, against Stream Mode", _serving(DATAGRAM), _serving(STREAM),
        "Both are QUIC from the same server; only datagrams go through compiled code.",
    ),
    Claim(
        "the data plane, against the same server without it", _serving(DATAGRAM), _serving(ALONE),
        "The same work, compiled and in batches in place of Python objects for each packet.",
    ),
    Claim(
        "against quiche under node", _serving(DATAGRAM), _serving(QUICHE),
        "quiche is compiled; node hands it each datagram singly through JavaScript. The bare echo under node shows node's own part.",
    ),
    Claim(
        "delay of one exchange, both ends on one core, compiled clients, against NTS", ("delay", DATAGRAM, ONE, COMPILED),
        ("delay", NTS, ONE, COMPILED),
        "TSQ's client opens and checks each answer here; the NTS load sends prepared requests and checks nothing, so part of its work is "
        "left out. TSQ's server wakes up through the event loop of Python, which costs some microseconds for each lonely request.",
    ),
    Claim(
        "the same as the timestamps say, (T4-T1)-(T3-T2), claimed T3, against NTS", ("delay", DATAGRAM, ONE, DELTA),
        ("delay", NTS, ONE, DELTA),
        "T3 is taken before the answer is sealed and sent, in TSQ as in NTS; what passes until it leaves counts as delay.",
    ),
    Claim(
        "and with exact T3, against NTS", ("delay", EXACT_ROW, ONE, DELTA), ("delay", NTS, ONE, DELTA),
        "The next answer tells when this one left; nothing but the kernel's path is left in the delay.",
    ),
    Claim(
        "delay as a Python program sees it, against a Python program that asks NTS", ("delay", DATAGRAM, ONE, PYTHON),
        ("delay", NTS, ONE, PYTHON),
        "TSQ's client is a whole client: nonce, checks of the answer, the sample, timers; the NTS program sends prepared bytes and reads "
        "two numbers.",
    ),
    Claim(
        "|offset| of single answers, idle, 64 polls a second, against NTS", _accuracy(DATAGRAM, BASIC), _accuracy(NTS, BASIC),
        "Half of what passes between T3 and the wire is error. chronyd takes T3 a little nearer to its send call, and is woken up by less "
        "code.",
    ),
    Claim(
        "|offset| with exact T3, as NTS's interleaved mode, idle", _accuracy(DATAGRAM, EXACT), _accuracy(NTS, EXACT),
        "All four stamps are the kernel's; what is left is the difference of the kernel's paths in both directions after a rest.",
    ),
    Claim(
        "the same on a path that is kept warm, which is what TSQ's client does from five samples on", _accuracy(DATAGRAM, WARM),
        _accuracy(NTS, EXACT),
        "A request that does not count goes right before each one that does, so caches are warm in both directions. It doubles the "
        "packets.",
    ),
    Claim(
        "the same with both cores loaded", _accuracy(DATAGRAM, WARM, "both cores loaded"), _accuracy(NTS, EXACT, "both cores loaded"),
        "The kernel stamps in interrupts, which programs that want the processor do not hold up.",
    ),
    Claim(
        "one shot, start to answer, against plain NTP", ("oneshot", DATAGRAM, COLD, TO_ANSWER), ("oneshot", NTP, COLD, TO_ANSWER),
        "chronyd waits 200 ms before it asks; TSQ's client imports Python and aioquic, and makes a handshake.",
    ),
    Claim(
        "one shot, start to answer, against NTS", ("oneshot", DATAGRAM, COLD, TO_ANSWER), ("oneshot", NTS, COLD, TO_ANSWER),
        "chronyd establishes keys first, and asks two seconds later.",
    ),
    Claim(
        "one shot, CPU time, against NTS", ("oneshot", DATAGRAM, COLD, SHOT_CPU), ("oneshot", NTS, COLD, SHOT_CPU),
        "An interpreter that starts and imports, against a C program.",
    ),
    Claim(
        "one shot, bytes until the answer, against NTS", ("oneshot", DATAGRAM, COLD, BYTES), ("oneshot", NTS, COLD, BYTES),
        "A QUIC client's first datagram has 1200 bytes at least, whatever is in it; TCP and TLS have none of that, but more packets.",
    ),
    Claim(
        "handshake, server CPU, ECDSA P-256, against NTS-KE", _handshake(DATAGRAM, ECDSA), _handshake(NTS, ECDSA),
        "The key exchange and the signature are compiled on both sides and cost about the same; the rest of a QUIC handshake is Python: "
        "packets, frames, key schedules, transport parameters.",
    ),
    Claim(
        "handshake, server CPU, RSA-2048, against NTS-KE", _handshake(DATAGRAM, RSA), _handshake(NTS, RSA),
        "An RSA signature costs a millisecond and more wherever it is made, and hides part of the difference.",
    ),
    Claim(
        "handshake, client CPU, against an NTS-KE client", _handshake(DATAGRAM, ECDSA, FULL, CLIENT), _handshake(NTS, ECDSA, FULL, CLIENT),
        "The NTS-KE client here is OpenSSL, called from Python.",
    ),
)


@dataclass(frozen=True, slots=True)
class Aim:
    """A cell that is to be at most so many times another, or at most so much."""

    what: str
    ours: Key
    most: float
    theirs: Key | None = None


AIMS = (
    Aim("server CPU for a request at most 1.3 times the floor's", _serving(DATAGRAM), 1.3, _serving(ECHO)),
    Aim("at most plain NTP's", _serving(DATAGRAM), 1.0, _serving(NTP)),
    Aim("at most 0.6 times NTS's", _serving(DATAGRAM), 0.6, _serving(NTS)),
    Aim("handshake: server CPU at most twice that of chronyd's NTS-KE (ECDSA P-256)", _handshake(DATAGRAM, ECDSA), 2.0, _handshake(NTS, ECDSA)),
    Aim("at most 48 KiB for each of 1,000 connected clients", ("memory", DATAGRAM, "1,000 clients", _EACH), 48 * 1024),
    Aim("one shot: below chronyd's plain NTP", ("oneshot", DATAGRAM, COLD, TO_ANSWER), 1.0, ("oneshot", NTP, COLD, TO_ANSWER)),
    Aim("one shot: a tenth of NTS's", ("oneshot", DATAGRAM, COLD, TO_ANSWER), 0.1, ("oneshot", NTS, COLD, TO_ANSWER)),
    Aim("delay (one core, compiled clients) below NTS's", ("delay", DATAGRAM, ONE, COMPILED), 1.0, ("delay", NTS, ONE, COMPILED)),
    Aim("delay by exact timestamps below NTS's", ("delay", EXACT_ROW, ONE, DELTA), 1.0, ("delay", NTS, ONE, DELTA)),
)


def page(run: Run, drawn: Sequence[str]) -> str:
    """The whole page."""
    parts = [
        _head(run), _glance(run), _verdicts(run), _aims(run), _serving_part(run, drawn), _delay_part(run, drawn),
        _accuracy_part(run, drawn), _oneshot_part(run), _handshake_part(run), _memory_part(run, drawn), _method(run),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(run: Run) -> str:
    machine = run.machine
    versions = ", ".join(f"{name} {machine[name]}" for name in machine if name not in _NOT_VERSIONS)
    skipped = "".join(f"\n- {row}: skipped, {why}." for row, why in run.skipped.items())
    notes = "".join(f"\n- {note}." for note in run.notes)
    return f"""# Performance: side by side

What TSQ costs and brings beside NTP, NTS, streams and other QUIC servers, all measured in one run on one machine.
`python -m benchmarks.compare` wrote this page, its tables and its pictures from [one run's figures](performance/run.json);
`make compare` measures again, on your machine, in about ten minutes.

This run ({run.mode}) began {run.started} and took {run.seconds:,.0f} s: {machine.get("processor", "?")}, {machine.get("cores", "?")} cores,
{machine.get("memory", "?")}; {machine.get("kernel", "?")}; load average before {machine.get("load before", "?")}, after
{machine.get("load after", "?")}. {versions}.
Take the ratios to another machine, not the figures. Differences below {_NOISE:.0%} are nothing.{skipped}{notes}"""


_NOT_VERSIONS = {"processor", "cores", "memory", "kernel", "load before", "load after"}


def _glance(run: Run) -> str:
    rows = "\n".join(f"- **{row}**: {what}." for row, what in WHAT.items())
    return "\n".join([
        "## At a glance", "", *table.glance(run), "",
        "Medians; the sections below have spreads. `–`: does not apply, or was not measured.", "", rows,
    ])


def _value(run: Run, key: Key) -> Figure | None:
    return run.find(*key)


def verdict(ratio: float) -> str:
    """In a word; less is better."""
    return "won" if ratio < 1 - _NOISE else "lost" if ratio > 1 + _NOISE else "even"


def _verdicts(run: Run) -> str:
    lines: dict[str, list[str]] = {"won": [], "even": [], "lost": []}
    for claim in CLAIMS:
        ours, theirs = _value(run, claim.ours), _value(run, claim.theirs)
        if ours is None or theirs is None or not theirs.median:
            continue
        ratio = ours.median / theirs.median
        values = f"{table.amount(ours.median, ours.unit)} to {table.amount(theirs.median, theirs.unit)}"
        lines[verdict(ratio)].append(f"- **{claim.what[0].upper()}{claim.what[1:]}: ×{table.digits(ratio)}** ({values}). {claim.why}")
    resumption = (
        "\n\nNTS-KE as chronyd has it offers no resumption; NTS servers need no memory for their clients, and TSQ's keep a connection "
        "for each ([memory](#memory))."
    )
    sections = {"won": "What is won", "even": "What is even", "lost": "What is lost"}
    parts = [f"## {title}\n\n" + "\n".join(lines[kind]) for kind, title in sections.items() if lines[kind]]
    return "\n\n".join(parts) + (resumption if parts else "")


def _aims(run: Run) -> str:
    rows = []
    for aim in AIMS:
        ours = _value(run, aim.ours)
        theirs = _value(run, aim.theirs) if aim.theirs is not None else None
        if ours is None or (aim.theirs is not None and theirs is None):
            continue
        found = ours.median if theirs is None else ours.median / theirs.median
        shown = table.amount(found, ours.unit) if theirs is None else f"×{table.digits(found)}"
        rows.append([aim.what, shown, "met" if found <= aim.most else "missed"])
    return "\n".join(["## Aims", "", "What TSQ wants to be, and what this run says.", "", *table.markdown(["aim", "found", ""], rows)])


def _picture(drawn: Sequence[str], name: str, text: str) -> list[str]:
    return [f"![{text}](performance/{name})", ""] if name in drawn else []


def _serving_part(run: Run, drawn: Sequence[str]) -> str:
    loads = run.loads("serving")
    if not loads:
        return ""
    lines = ["## Serving", "", *_picture(drawn, pictures.CPU, "Bars: server CPU time for one request, by clients; the floor as a line")]
    lines += [
        "CPU time of the server's process for each answer, user and kernel, while a load on the other core keeps requests under way: 16 of",
        "one client, 4 of each of 100, one of each of 1,000; fewer for chronyd and for servers in Python and JavaScript, whose receive",
        "buffers hold no more. \"busy\" is the share of the time that the server ran: below 100 % the load is the slower end, and the server",
        "pays for waking up.", "",
    ]
    for load in [one for one in ("1 client", "100 clients", "1,000 clients") if one in loads]:
        lines += [f"### {load}", ""]
        rows = []
        for row in ROWS:
            cells = [run.find("serving", row, load, name) for name in ("server CPU", "answers", "busy", "load CPU")]
            ratios = [table.times(table.ratio(run, "serving", row, load, "server CPU", base)) for base in (ECHO, NTS)]
            shown = [table.NOTHING if one is None else table.amount(one.median, one.unit) for one in cells[1:]]
            rows.append([row, table.cell(cells[0]), *ratios, *shown])
        heads = ["", "server CPU for a request", "to the floor", "to chronyd NTS", "answers", "busy", "load's CPU"]
        lines += [*table.markdown(heads, (row for row in rows if row[1] != table.NOTHING)), ""]
    node = run.median(*_serving(NODE_ECHO)), run.median(*_serving(QUICHE))
    if node[0] and node[1]:
        lines += [f"Of quiche's {table.amount(node[1], 's')} node takes {table.amount(node[0], 's')} to move a datagram in and out; the rest is",
                  "JavaScript around quiche, and quiche.", ""]
    lines += ["### As clients grow", "", *_picture(drawn, pictures.GROWTH, "Curves: server CPU time for one request, and memory, over connected clients")]
    lines += table.of_loads(run, "serving", "server CPU", loads, table.short)
    return "\n".join(lines)


def _delay_part(run: Run, drawn: Sequence[str]) -> str:
    if not run.loads("delay"):
        return ""
    lines = [
        "## Delay of one exchange", "",
        *_picture(drawn, pictures.EXCHANGE, "Bars: the parts of one exchange from T1 to T4 and the client's own, for each row"),
        "One exchange after another over loopback. On one core the ends take turns, and the figure is their work. With a core each, both",
        "block and have to be woken up, which costs more than any server's work: that figure is the machine's.", "",
    ]
    for load in run.loads("delay"):
        lines += [f"### On {load}" if load == ONE else "### With a core each", ""]
        quantities = (COMPILED, PYTHON, DELTA)
        rows = []
        for row in ROWS:
            cells = [run.find("delay", row, load, quantity) for quantity in quantities]
            rows.append([row, *map(table.short, cells), table.times(table.ratio(run, "delay", row, load, COMPILED, NTS)),
                         table.times(table.ratio(run, "delay", row, load, DELTA, NTS))])
        heads = ["", *quantities, f"{COMPILED}: to NTS", f"{DELTA}: to NTS"]
        lines += [*table.markdown(heads, rows), ""]
    lines += ["The compiled client of Stream Mode is qh3's core driven by Python, so it is not one to compare with the others'."]
    return "\n".join(lines)


def _accuracy_part(run: Run, drawn: Sequence[str]) -> str:
    loads = run.loads("accuracy")
    if not loads:
        return ""
    lines = [
        "## Accuracy", "",
        *_picture(drawn, pictures.OFFSETS, "Curves: share of samples within an offset, idle and with both cores loaded"),
        "|offset| between two network namespaces joined by a veth pair. They share one clock, so the true offset is 0 and what is found is",
        "error. No filter: every sample counts. \"K\" and \"U\": whether the kernel or user space took T1, T2, T3, T4.", "",
    ]
    for load in loads:
        rows = []
        for row in ROWS:
            for kind in (BASIC, EXACT, WARM):
                one, theirs = run.find("accuracy", row, load, f"|offset|, {kind}"), run.find(*_accuracy_key(NTS, kind, load))
                ratio = None if one is None or theirs is None or not theirs.median else one.median / theirs.median
                rows.append([f"{row}, {kind}", *_offset(one), table.times(ratio), run.shapes.get(f"stamps of {row}, {kind}", table.NOTHING)])
        heads = ["", "median", "quartiles of rounds", "p95", "p99", "samples", "to NTS", "stamps"]
        lines += [f"### {load}", "", *table.markdown(heads, (row for row in rows if row[1] != table.NOTHING)), ""]
    lines += [
        "\"To NTS\" compares basic with basic, and exact T3 (cold and warm) with the interleaved mode. chronyd's client asks at most 128 times a",
        "second, so it has no row at 1,000.",
    ]
    return "\n".join(lines)


def _accuracy_key(row: str, kind: str, load: str) -> Key:
    return "accuracy", row, load, f"|offset|, {BASIC if kind == BASIC else EXACT}"


def _offset(one: Figure | None) -> list[str]:
    if one is None:
        return [table.NOTHING] * 5
    low, high = one.spread
    values = sorted(one.values())
    p95 = values[min(len(values) - 1, int(len(values) * 0.95))]
    return [
        table.amount(one.median, "s"), f"{table.amount(low, 's')} – {table.amount(high, 's')}", table.amount(p95, "s"),
        table.amount(one.p99, "s"), str(len(values)),
    ]


def _oneshot_part(run: Run) -> str:
    if not run.loads("oneshot"):
        return ""
    quantities = (TO_ANSWER, TO_EXIT, SHOT_CPU, PACKETS, BYTES)
    rows = []
    for row in ROWS:
        for load in run.loads("oneshot"):
            cells = [run.find("oneshot", row, load, quantity) for quantity in quantities]
            if cells[0] is not None:
                ratio = table.ratio(run, "oneshot", row, COLD, TO_ANSWER, NTS) if load == COLD else None
                rows.append([f"{row}, {load}", *(table.cell(one) if one and one.unit == "s" else _count(one) for one in cells), table.times(ratio)])
    return "\n".join([
        "## One shot", "",
        "A program is started, asks once, and ends: wall time from before its start to the answer's arrival, CPU time of the whole process,",
        "packets and bytes of IP on the wire in both directions until the answer. chronyd is `chronyd -Q`; the rows of TSQ servers other than",
        f"{NEWCOMER} have `tsq-client` as their client.", "",
        *table.markdown(["", *quantities, "to chronyd NTS"], rows),
    ])


def _count(one: Figure | None) -> str:
    return table.NOTHING if one is None else f"{one.median:,.0f}"


def _handshake_part(run: Run) -> str:
    if not run.loads("handshake"):
        return ""
    lines = [
        "## Handshakes", "",
        "From nothing to the first answer, the connection then closed. For NTS: NTS-KE over TCP, then one protected exchange. The client is",
        "this program: TSQ's own, or OpenSSL and AES-SIV for NTS. Certificates are verified. \"resumed\": with a session ticket; \"0-RTT\": the",
        "request travels with it.", "",
    ]
    for certificate in (ECDSA, RSA):
        for kind in (FULL, RESUMED, EARLY):
            load = f"{certificate}, {kind}"
            rows = []
            for row in ROWS:
                cells = [run.find("handshake", row, load, quantity) for quantity in (SERVER, CLIENT, "wall")]
                base = run.median("handshake", NTS, f"{certificate}, {FULL}", SERVER)
                ratio = None if cells[0] is None or not base else cells[0].median / base
                rows.append([row, *map(table.cell, cells), table.times(ratio)])
            if any(row[1] != table.NOTHING for row in rows):
                heads = ["", SERVER, CLIENT, "wall", "server, to NTS-KE's full one"]
                lines += [f"### {load}", "", *table.markdown(heads, rows), ""]
    return "\n".join(lines).rstrip()


def _memory_part(run: Run, drawn: Sequence[str]) -> str:
    loads = [load for load in run.loads("memory") if load != "1 client"]
    if not loads:
        return ""
    return "\n".join([
        "## Memory", "",
        "The server's own memory (proportional set size), and what each client adds once it has connected and asked. NTP and NTS servers",
        "keep nothing but chronyd's log of client addresses, which is bounded.", "",
        *table.of_loads(run, "memory", "memory", run.loads("memory"), table.cell), "",
        "For each client:", "", *table.of_loads(run, "memory", _EACH, loads, table.cell),
    ])


def _method(run: Run) -> str:
    del run
    return f"""## How it is measured

- **In turn.** The rows of a table take turns round by round, in an order that turns too: the speed of a core changes by a third and more
  while other programs run. Figures are medians over all rounds, spreads are the quartiles of the rounds' medians. Ratios are of
  medians of the same run.
- **CPU time** is the process's own from the scheduler's accounting (`/proc/PID/schedstat`), with its helpers, such as chronyd's for
  NTS-KE. Over loopback it contains the kernel's delivery of what the process sends.
- **{ECHO}** and the load for it, for chronyd and for the bare node echo are C (`benchmarks/echo.c`, `benchmarks/volley.c`). NTS requests are
  real: keys from NTS-KE, 96 cookies, AES-SIV-CMAC-256; a server accepts a cookie again. More than one client of these is as many source
  addresses.
- **TSQ's load** is `benchmarks/fleet.py`: real connections, each with its own keys, through the client's data plane. Streams come from qh3.
- **chronyd** runs with `-x`, a configuration, ports and files of its own. As a client it has `noselect`, and its raw measurements are read
  from its log: with `-x` it would else discipline a clock of its own.
- **Never**: another address than loopback or the run's own namespaces, the system clock.
- At one poll a second all rows ask at the same time; the largest number of clients is measured for one row at a time, beside the floor."""
