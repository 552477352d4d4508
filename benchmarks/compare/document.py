"""The page about a run: docs/explanation/performance.md, in words and tables that follow from its figures.

Comes in: a Run, the names of its pictures. Goes out: Markdown. It must never state what the figures of this very run do not show:
every verdict is worked out from them.
"""

import re
import textwrap
from collections.abc import Sequence

from benchmarks.compare import pictures, table
from benchmarks.compare.accuracy import BASIC, EXACT, WARM
from benchmarks.compare.certificates import ECDSA, RSA
from benchmarks.compare.claims import AIMS, CLAIMS, EACH, Key, serving
from benchmarks.compare.delay import COMPILED, DELTA, ONE, PYTHON
from benchmarks.compare.floods import CPU as STRANGER_CPU
from benchmarks.compare.floods import KEPT, LOST, P99, P99_WITHOUT
from benchmarks.compare.handshake import CLIENT, EARLY, FULL, RESUMED, SERVER
from benchmarks.compare.many import CPU as CPU_OF_MANY
from benchmarks.compare.many import EACH as EACH_OF_MANY
from benchmarks.compare.oneshot import BYTES, COLD, CPU, PACKETS, TO_ANSWER, TO_EXIT
from benchmarks.compare.record import Figure, Run, quantile
from benchmarks.compare.rows import ECHO, NODE_ECHO, NTS, QUICHE, ROWS, STREAM, WHAT

# Differences below this are nothing here.
NOISE = 0.15
_WIDTH = 130
# A space at which no line breaks, while lines are made.
_HELD = "\x1f"
_SECTIONS = {"won": "What is won", "even": "What is even", "lost": "What is lost"}
_ABOUT = ("processor", "cores", "memory", "kernel", "interpreter", "its library", "cryptography's", "load before", "load after")


def page(run: Run, drawn: Sequence[str]) -> str:
    """The whole page."""
    parts = [
        _head(run),
        _glance(run),
        _verdicts(run),
        _aims(run),
        _serving(run, drawn),
        _delay(run, drawn),
        _accuracy(run, drawn),
        _oneshot(run),
        _handshake(run),
        _flood(run),
        _many(run),
        _memory(run),
        _method(),
    ]
    return "\n\n".join("\n".join(part).strip() for part in parts if part) + "\n"


def verdict(ratio: float) -> str:
    """In a word; less is better."""
    return "won" if ratio < 1 - NOISE else "lost" if ratio > 1 + NOISE else "even"


def _say(text: str) -> list[str]:
    """A paragraph, and the line after it."""
    return [_filled(text, ""), ""]


def _item(text: str) -> str:
    return _filled(f"- {text}", "  ")


def _filled(text: str, indent: str) -> str:
    """In lines; what stands in back quotes stays in one."""
    kept = re.sub(r"`[^`]+`", lambda code: code[0].replace(" ", _HELD), text)
    lines = textwrap.fill(kept, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return lines.replace(_HELD, " ")


def _picture(drawn: Sequence[str], name: str, text: str) -> list[str]:
    return [f"![{text}](performance/{name})", ""] if name in drawn else []


def _head(run: Run) -> list[str]:
    about = {name: run.machine.get(name, "unknown") for name in _ABOUT}
    versions = "; ".join(f"{name} {value}" for name, value in run.machine.items() if name not in _ABOUT)
    return [
        "# Performance: side by side",
        "",
        *_say(
            "What TSQ costs and brings beside NTP, NTS, streams and other QUIC servers, all measured on one machine, the rows of a "
            "table in turn in one run. `python -m benchmarks.compare` wrote this page, its tables and its pictures from [the "
            "figures](performance/run.json.gz). `make compare` measures again, on your machine, in about fifteen minutes."
        ),
        *_say(
            f"This run ({run.mode}) began {run.started} and took {run.seconds:,.0f} s. {about['processor']}, {about['cores']} "
            "cores, "
            f"{about['memory']}; {about['kernel']}; {about['interpreter']} with {about['its library']}, cryptography's own "
            f"{about[_ABOUT[6]]}; load average before {about['load before']}, after {about['load after']}. {versions}."
        ),
        *_say(f"Take the ratios to another machine, not the figures. Differences below {NOISE:.0%} are nothing."),
        *[_item(f"{row}: skipped, {why}.") for row, why in run.skipped.items()],
        *[_item(f"{note}.") for note in run.notes],
    ]


def _glance(run: Run) -> list[str]:
    return [
        "## At a glance",
        "",
        *table.glance(run),
        "",
        *_say("Medians; the sections below have spreads. `–`: does not apply, or was not measured."),
        *[_item(f"**{row}**: {what}.") for row, what in WHAT.items()],
    ]


def _verdicts(run: Run) -> list[str]:
    found: dict[str, list[str]] = {kind: [] for kind in _SECTIONS}
    for claim in CLAIMS:
        ours, theirs = run.find(*claim.ours), run.find(*claim.theirs)
        if ours is None or theirs is None or not theirs.median:
            continue
        ratio = ours.median / theirs.median
        values = f"{table.amount(ours.median, ours.unit)} to {table.amount(theirs.median, theirs.unit)}"
        what = claim.what[0].upper() + claim.what[1:]
        found[verdict(ratio)].append(_item(f"**{what}: {table.times(ratio)}** ({values}). {claim.why}"))
    if not any(found.values()):
        return []
    found["lost"].append(
        _item(
            "**State.** An NTS server keeps nothing for its clients but a bounded log of addresses; a TSQ server keeps "
            "[a connection for each](#memory)."
        )
    )
    return [line for kind, items in found.items() if items for line in (f"## {_SECTIONS[kind]}", "", *items, "")]


def _aims(run: Run) -> list[str]:
    rows = []
    for aim in AIMS:
        ours, theirs = run.find(*aim.ours), None if aim.theirs is None else run.find(*aim.theirs)
        if ours is None or (aim.theirs is not None and theirs is None):
            continue
        found = ours.median if theirs is None else ours.median / theirs.median
        shown = table.amount(found, ours.unit) if theirs is None else table.times(found)
        rows.append([aim.what, shown, "met" if found <= aim.most else "missed"])
    return ["## Aims", "", *_say("What TSQ wants to be, and what this run says."), *table.markdown(["aim", "found", ""], rows)]


def _serving(run: Run, drawn: Sequence[str]) -> list[str]:
    loads = run.loads("serving")
    if not loads:
        return []
    lines = [
        "## Serving",
        "",
        *_picture(drawn, pictures.CPU, "Bars: server CPU time for one request, by clients; the C echo as a line"),
        *_say(
            "CPU time of the server's process for each answer, user and kernel, while a load on the other core keeps "
            "requests under "
            "way: 16 of one client, 4 of each of 100, one of each of 1,000; fewer for chronyd and for servers in Python and "
            'JavaScript, whose receive buffers hold no more. "busy" is the share of the time that the server ran: below 100 '
            '% the load '
            "is the slower end, and the server pays for waking up."
        ),
    ]
    for load in [one for one in ("1 client", "100 clients", "1,000 clients") if one in loads]:
        lines += [f"### {load}", "", *_served(run, load), ""]
    nodes, whole = run.median(*serving(NODE_ECHO)), run.median(*serving(QUICHE))
    if nodes and whole:
        lines += _say(
            f"Of quiche's {table.amount(whole, 's')}, node takes {table.amount(nodes, 's')} to move a datagram in and out; "
            "the rest is "
            "JavaScript around quiche, and quiche."
        )
    return [
        *lines,
        "### As clients grow",
        "",
        *_picture(drawn, pictures.GROWTH, "Curves: server CPU time for one request, and memory, over connected clients"),
        *table.of_loads(run, "serving", "server CPU", loads, table.short),
    ]


def _served(run: Run, load: str) -> list[str]:
    rows = []
    for row in ROWS:
        cells = [run.find("serving", row, load, name) for name in ("server CPU", "answers", "busy", "load CPU")]
        ratios = [table.times(table.ratio(run, "serving", row, load, "server CPU", base)) for base in (ECHO, NTS)]
        rows.append([row, table.cell(cells[0]), *ratios, *map(table.median, cells[1:])])
    heads = ["", "server CPU for a request", "to the C echo", "to chronyd NTS", "answers", "busy", "load's CPU"]
    return table.markdown(heads, rows)


def _delay(run: Run, drawn: Sequence[str]) -> list[str]:
    if not run.loads("delay"):
        return []
    lines = [
        "## Delay of one exchange",
        "",
        *_picture(drawn, pictures.EXCHANGE, "Bars: the parts of one exchange from T1 to T4 and the client's own, for each row"),
        *_say(
            "One exchange after another over loopback. On one core the ends take turns, and the figure is their work. With a "
            "core each, the compiled clients look for the answer without sleeping while the server blocks and has to be woken "
            "up; the Python clients block too. Waking up costs more than any server's work: those figures are the machine's."
        ),
    ]
    for load in run.loads("delay"):
        rows = []
        for row in ROWS:
            cells = [run.find("delay", row, load, quantity) for quantity in (COMPILED, PYTHON, DELTA)]
            ratios = [table.times(table.ratio(run, "delay", row, load, quantity, NTS)) for quantity in (COMPILED, DELTA)]
            rows.append([row, *map(table.short, cells), *ratios])
        heads = ["", COMPILED, PYTHON, DELTA, f"{COMPILED}: to NTS", f"{DELTA}: to NTS"]
        lines += [f"### On {load}" if load == ONE else "### With a core each", "", *table.markdown(heads, rows), ""]
    return [
        *lines,
        *_say(f"The compiled client of {STREAM} is qh3's core driven by Python; it is not one to compare with the others'."),
    ]


def _accuracy(run: Run, drawn: Sequence[str]) -> list[str]:
    if not run.loads("accuracy"):
        return []
    lines = [
        "## Accuracy",
        "",
        *_picture(drawn, pictures.OFFSETS, "Curves: share of samples within an offset, idle and with both cores loaded"),
        *_say(
            "|offset| between two network namespaces joined by a veth pair. They share one clock, so the true offset is 0 "
            "and what is "
            'found is error. No filter: every sample counts. "K" and "U": whether the kernel or user space took T1, T2, T3, '
            'T4. "To NTS" '
            "compares basic with basic, and exact T3 (cold and warm) with the interleaved mode. chronyd's client asks at "
            "most 128 times "
            "a second, so it has no row at 1,000."
        ),
    ]
    for load in run.loads("accuracy"):
        rows = []
        for row in ROWS:
            for kind in (BASIC, EXACT, WARM):
                ours, theirs = run.find(*_offset(row, kind, load)), run.find(*_offset(NTS, BASIC if kind == BASIC else EXACT, load))
                ratio = None if ours is None or theirs is None or not theirs.median else ours.median / theirs.median
                stamps = table.NOTHING if ours is None else run.shapes.get(f"stamps of {row}, {kind}", table.NOTHING)
                rows.append([f"{row}, {kind}", *_distribution(ours), table.times(ratio), stamps])
        heads = ["", "median", "quartiles of rounds", "p95", "p99", "samples", "to NTS", "stamps"]
        lines += [f"### {load}", "", *table.markdown(heads, rows), ""]
    return lines


def _offset(row: str, kind: str, load: str) -> Key:
    return "accuracy", row, load, f"|offset|, {kind}"


def _distribution(one: Figure | None) -> list[str]:
    if one is None:
        return [table.NOTHING] * 5
    low, high = (table.amount(value, "s") for value in one.spread)
    values = one.values()
    quantiles = [table.amount(quantile(values, share), "s") for share in (0.95, 0.99)]
    return [table.amount(one.median, "s"), f"{low} – {high}", *quantiles, f"{len(values):,}"]


def _oneshot(run: Run) -> list[str]:
    if not run.loads("oneshot"):
        return []
    rows = []
    for row in ROWS:
        for load in run.loads("oneshot"):
            cells = [run.find("oneshot", row, load, quantity) for quantity in (TO_ANSWER, TO_EXIT, CPU, PACKETS, BYTES)]
            answer, base = cells[0], run.median("oneshot", NTS, COLD, TO_ANSWER)
            ratio = None if answer is None or not base else answer.median / base
            rows.append([f"{row}, {load}", *map(table.cell, cells[:3]), *map(_count, cells[3:]), table.times(ratio)])
    heads = ["", TO_ANSWER, TO_EXIT, CPU, PACKETS, BYTES, f"{TO_ANSWER}: to NTS"]
    return [
        "## One shot",
        "",
        *_say(
            "A program is started, asks once, and ends: wall time from before its start to the answer's arrival, CPU time of "
            "the whole "
            "process, packets and bytes of IP on the wire in both directions until the answer. chronyd is `chronyd -Q`; the other "
            "servers are asked by `tsq-client`, but for the plain program, which has its own client."
        ),
        *table.markdown(heads, rows),
    ]


def _count(one: Figure | None) -> str:
    return table.NOTHING if one is None else f"{one.median:,.0f}"


def _handshake(run: Run) -> list[str]:
    if not run.loads("handshake"):
        return []
    lines = [
        "## Handshakes",
        "",
        *_say(
            "From nothing to the first answer; the connection is closed then. For NTS: NTS-KE over TCP, then one protected "
            "exchange; "
            "chronyd's NTS-KE offers no resumption. The client is this program: TSQ's own, or OpenSSL and AES-SIV for NTS. "
            "Certificates "
            'are verified. "resumed": with a session ticket; "0-RTT": the request travels with it. "A second of one core": how '
            "many handshakes the server's CPU time allows."
        ),
    ]
    for certificate in (ECDSA, RSA):
        base = run.median("handshake", NTS, f"{certificate}, {FULL}", SERVER)
        for load in (f"{certificate}, {kind}" for kind in (FULL, RESUMED, EARLY)):
            rows = []
            for row in ROWS:
                cells = [run.find("handshake", row, load, quantity) for quantity in (SERVER, CLIENT, "wall")]
                ratio = None if cells[0] is None or not base else cells[0].median / base
                each = table.NOTHING if cells[0] is None else f"{1 / cells[0].median:,.0f}"
                rows.append([row, *map(table.cell, cells), table.times(ratio), each])
            heads = ["", SERVER, CLIENT, "wall", "server, to NTS-KE's full one", "a second of one core"]
            lines += [f"### {load}", "", *table.markdown(heads, rows), ""]
    return lines


def _flood(run: Run) -> list[str]:
    loads = run.loads("flood")
    if not loads:
        return []
    lines = [
        "## In a flood of strangers",
        "",
        *_say(
            "Ten clients with 500 requests a second together, while strangers send from 200 networks: to TSQ Initials that begin a "
            "handshake, to chronyd NTS requests whose cookie does not open. Server and clients share one core, the flood has the "
            "other. A TSQ server reads newcomers' packets from a socket of their own, between those of its clients."
        ),
    ]
    for load in loads:
        rows = []
        for row in ROWS:
            cells = [run.find("flood", row, load, name) for name in (KEPT, P99, P99_WITHOUT, STRANGER_CPU, LOST)]
            slower = None if cells[1] is None or cells[2] is None else cells[1].median / cells[2].median
            rows.append([row, *map(table.median, cells[:3]), table.times(slower), *map(table.median, cells[3:])])
        heads = ["", KEPT, P99, P99_WITHOUT, "ratio", "server CPU for a stranger's packet", LOST]
        lines += [f"### {load[0].upper() + load[1:]}", "", *table.markdown(heads, rows), ""]
    return lines


def _many(run: Run) -> list[str]:
    loads = run.loads("many")
    if not loads:
        return []
    rows = []
    for row in ROWS:
        costs = [run.find("many", row, load, CPU_OF_MANY) for load in loads]
        each = run.find("many", row, loads[-1], EACH_OF_MANY)
        growth = None if costs[0] is None or costs[-1] is None else costs[-1].median / costs[0].median
        rows.append([row, *map(table.cell, costs), table.times(growth), table.median(each)])
    first, last = (load.partition(" ")[0] for load in (loads[0], loads[-1]))
    heads = ["", *(f"server CPU for a request, {load}" for load in loads), f"{last} to {first}", f"memory for each of {last}"]
    return [
        f"## {last} clients",
        "",
        *_say(
            "Each client asks again after all others have, as clients with one poll interval do. chronyd's are as many source "
            "addresses; it keeps nothing for them but a bounded log. TSQ's are sessions at rest, each with keys of its own, in a "
            "data plane that `benchmarks/million.py` feeds: its CPU time has the kernel's part, but no waiting for packets. Real "
            "handshakes: [connections at rest](hibernation.md#by-real-handshakes)."
        ),
        *table.markdown(heads, rows),
    ]


def _memory(run: Run) -> list[str]:
    loads = [load for load in run.loads("memory") if load != "1 client"]
    if not loads:
        return []
    return [
        "## Memory",
        "",
        *_say(
            "The server's own memory (proportional set size), and what each client adds once it has connected and asked. NTP "
            "and NTS "
            "servers keep nothing but chronyd's log of client addresses, which is bounded. The curves are "
            "[above](#as-clients-grow). At rest: some seconds after the last request, when a connection is a record of the data "
            "plane; with what the heap has grown by in these handshakes."
        ),
        *table.of_loads(run, "memory", "memory", run.loads("memory"), table.median),
        "",
        "For each client:",
        "",
        *table.of_loads(run, "memory", EACH, loads, table.median),
    ]


def _method() -> list[str]:
    items = (
        "**In turn.** The rows of a table take turns round by round, in an order that turns too: the speed of a core changes "
        "by a third "
        "and more while other programs run. Figures are medians over all rounds, spreads are the quartiles of the rounds' medians. "
        "Ratios are of medians of the same run.",
        "**CPU time** is the process's own from the scheduler's accounting (`/proc/PID/schedstat`), with its helpers, such "
        "as chronyd's "
        "for NTS-KE. Over loopback it contains the kernel's delivery of what the process sends.",
        f"**{ECHO}**, and the load for it, for chronyd and for the bare node echo, are C (`benchmarks/echo.c`, "
        "`benchmarks/volley.c`). "
        "NTS requests are real: keys from NTS-KE, 96 cookies, AES-SIV-CMAC-256; a server accepts a cookie again. More than "
        "one client "
        "of these is as many source addresses.",
        "**TSQ's load** is `benchmarks/fleet.py`: real connections, each with its own keys, through the client's data plane. "
        "Streams "
        "come from qh3 (`benchmarks/streams.py`).",
        "**chronyd** runs with `-x` and a configuration, ports and files of its own. As a client it has `noselect`, and its raw "
        "measurements are read from its log: with `-x` it would else discipline a clock of its own.",
        "**Never**: an address that is neither loopback nor the run's own namespaces'; the system clock.",
        "At one poll a second all rows ask at the same time. The largest number of clients is measured for one row at a "
        "time, Datagram "
        "Mode beside the C echo.",
    )
    return ["## How it is measured", "", *map(_item, items)]
