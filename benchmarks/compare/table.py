"""A run's figures as Markdown tables: medians with their spreads, ratios to the C echo and to chronyd NTS.

Comes in: a Run. Goes out: lines. It must never compare figures of different runs, nor show a figure that is not in the run.
"""

from collections.abc import Callable, Iterable, Sequence

from benchmarks.compare.accuracy import BASIC, EXACT, WARM, load_name
from benchmarks.compare.certificates import ECDSA
from benchmarks.compare.delay import COMPILED, DELTA, ONE
from benchmarks.compare.handshake import FULL
from benchmarks.compare.oneshot import COLD, CPU, TO_ANSWER
from benchmarks.compare.record import Figure, Run
from benchmarks.compare.rows import DATAGRAM, ECHO, NTS, ROWS

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (0.0, "ns"))
_SIZES = ((2.0**20, "MiB"), (2.0**10, "KiB"), (0.0, "B"))
NOTHING = "–"


def amount(value: float, unit: str) -> str:
    """A value as one reads it."""
    if unit == "s":
        size, name = next((scale, name) for scale, name in _TIMES if abs(value) >= scale)
        return f"{digits(value / (size or 1e-9))} {name}"
    if unit == "bytes":
        size, name = next((scale, name) for scale, name in _SIZES if abs(value) >= scale)
        return f"{digits(value / (size or 1.0))} {name}"
    if unit == "per second":
        return f"{digits(value / 1000)} k/s"
    return f"{value:.0%}" if unit == "share" else digits(value)


def digits(value: float) -> str:
    """Three digits, no exponent."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def cell(figure: Figure | None) -> str:
    """Median, quartiles of the rounds, p99."""
    if figure is None:
        return NOTHING
    low, high = figure.spread
    unit = figure.unit
    median = amount(figure.median, unit)
    if len(figure.values()) < 2:
        return median
    return f"{median} ({amount(low, unit)} – {amount(high, unit)}; p99 {amount(figure.p99, unit)})"


def ratio(run: Run, column: str, row: str, load: str, quantity: str, base: str) -> float | None:
    """Of medians, in one run."""
    ours, theirs = run.median(column, row, load, quantity), run.median(column, base, load, quantity)
    return None if ours is None or not theirs else ours / theirs


def times(value: float | None) -> str:
    return NOTHING if value is None else f"×{digits(value)}"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table; rows with nothing but a name are left out."""
    kept = [row for row in rows if any(one != NOTHING for one in row[1:])]
    if not kept:
        return ["Not measured in this run."]
    lines = [heads, ["---"] * len(heads), *kept]
    return ["| " + " | ".join(one.replace("|", "\\|") for one in line) + " |" for line in lines]


def of_loads(run: Run, column: str, quantity: str, loads: Sequence[str], show: Callable[[Figure | None], str] = cell) -> list[str]:
    """A table of one quantity under several loads."""
    return markdown(["", *loads], ([row, *(show(run.find(column, row, load, quantity)) for load in loads)] for row in ROWS))


def short(figure: Figure | None) -> str:
    """Median and p99."""
    if figure is None:
        return NOTHING
    return f"{amount(figure.median, figure.unit)} (p99 {amount(figure.p99, figure.unit)})"


def median(figure: Figure | None) -> str:
    return NOTHING if figure is None else amount(figure.median, figure.unit)


def best_offset(run: Run, row: str, load: str) -> Figure | None:
    """The best that a row can do."""
    found = [run.find("accuracy", row, load, f"|offset|, {kind}") for kind in (WARM, EXACT, BASIC)]
    return min((one for one in found if one is not None), key=lambda one: one.median, default=None)


def glance(run: Run) -> list[str]:
    """The whole comparison, a line for each row."""
    clients = next((load for load in ("100 clients", "1 client") if load in run.loads("serving")), "")
    grown = [load for load in run.loads("memory") if run.find("memory", DATAGRAM, load, "memory for each client")]
    memory = "1,000 clients" if "1,000 clients" in grown else (grown or [""])[-1]
    cells = [
        (f"server CPU for a request, {clients or 'saturated'}", ("serving", clients, "server CPU"), (ECHO, NTS)),
        ("delay, one core, compiled client", ("delay", ONE, COMPILED), (NTS,)),
        (DELTA, ("delay", ONE, DELTA), ()),
        ("|offset|, 64/s, best", None, ()),
        ("one shot, start to answer", ("oneshot", COLD, TO_ANSWER), ()),
        ("its CPU", ("oneshot", COLD, CPU), ()),
        ("handshake, server CPU", ("handshake", f"{ECDSA}, {FULL}", "server CPU"), ()),
        (f"memory for each of {memory or 'the clients'}", ("memory", memory, "memory for each client"), ()),
    ]
    names = {ECHO: "to the C echo", NTS: "to chronyd NTS"}
    heads = ["", *(head for title, _, bases in cells for head in (title, *(names[base] for base in bases)))]
    rows = []
    for row in ROWS:
        if row in run.skipped:
            rows.append([row, f"skipped: {run.skipped[row]}", *[NOTHING] * (len(heads) - 2)])
            continue
        line = [row]
        for _, key, bases in cells:
            if key is None:
                line.append(median(best_offset(run, row, load_name(64, "idle"))))
                continue
            column, load, quantity = key
            line.append(median(run.find(column, row, load, quantity)))
            line += [times(ratio(run, column, row, load, quantity, base)) for base in bases]
        rows.append(line)
    return markdown(heads, rows)
