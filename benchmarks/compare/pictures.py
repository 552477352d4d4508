"""A run's pictures: the offsets' distribution, CPU time of a request, growth with clients, where the time of one exchange goes.

Comes in: a Run. Goes out: PNG files. Needs matplotlib (pip install --group plots); without it there are none, and that is said.
It must never draw what the run did not measure.
"""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare.accuracy import BASIC, EXACT, WARM
from benchmarks.compare.delay import ONE, SPANS
from benchmarks.compare.floods import RESTING
from benchmarks.compare.record import Figure, Run, quantile
from benchmarks.compare.rows import ALONE, DATAGRAM, ECHO, NEWCOMER, NODE_ECHO, NTP, NTS, QUICHE, ROWS, STREAM
from benchmarks.compare.rows import EXACT as EXACT_ROW
from benchmarks.compare.table import amount

WITHOUT = "no pictures: matplotlib is not installed (pip install --group plots)"
OFFSETS, CPU, GROWTH, EXCHANGE = "offsets.png", "cpu.png", "growth.png", "exchange.png"
_COLOURS = {
    ECHO: "#7f7f7f",
    NTP: "#e6a15c",
    NTS: "#b5460f",
    STREAM: "#8c6bb1",
    DATAGRAM: "#0b7a3b",
    EXACT_ROW: "#5fbf7f",
    ALONE: "#1f4e9c",
    NEWCOMER: "#7fa8e0",
    QUICHE: "#c2185b",
    NODE_ECHO: "#e79bb8",
}
_MARKS = dict(zip(ROWS, "oosDsv^<>P", strict=True))
_SPAN_COLOURS = ("#9ecae1", "#4292c6", "#d94801", "#d9d9d9")
_SPAN_NAMES = (
    "T1 to T2: the kernel carries the request",
    "T2 to T3: the server wakes up, receives, works",
    "T3 to T4: it seals and sends, the kernel carries the answer",
    "the client itself (in Python)",
)
_KINDS = {BASIC: ":", EXACT: "-", WARM: "--"}
_KIND_NAMES = {
    BASIC: "T3 as claimed (basic)",
    EXACT: "exact T3 (NTP's and NTS's interleaved mode)",
    WARM: "exact T3, path kept warm",
}


def draw(run: Run, place: Path) -> list[str]:
    """What can be drawn; the files' names."""
    if importlib.util.find_spec("matplotlib") is None:
        return []
    importlib.import_module("matplotlib").use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    pyplot.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    drawers: dict[str, Callable[[Run, Any], Any]] = {OFFSETS: _offsets, CPU: _cpu, GROWTH: _growth, EXCHANGE: _exchange}
    drawn = []
    for name, drawer in drawers.items():
        figure = drawer(run, pyplot)
        if figure is None:
            continue
        figure.savefig(place / name, dpi=110, facecolor="white", bbox_inches="tight", pad_inches=0.15)
        pyplot.close(figure)
        drawn.append(name)
    return drawn


def _plain(axis: Any, which: str) -> None:
    """Numbers in place of powers on a logarithmic axis."""
    ticker: Any = importlib.import_module("matplotlib.ticker")
    getattr(axis, f"{which}axis").set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
    getattr(axis, f"{which}axis").set_minor_formatter(ticker.NullFormatter())


def _offsets(run: Run, pyplot: Any) -> Any:
    """How many samples are within how much, idle and loaded, at 64 polls a second."""
    loads = [load for load in run.loads("accuracy") if load.startswith("64/s")]
    if not loads:
        return None
    figure, axes = pyplot.subplots(1, len(loads), figsize=(6.2 * len(loads), 4.6), sharey=True, squeeze=False, layout="constrained")
    rows: dict[str, Any] = {}
    for axis, load in zip(axes[0], loads, strict=True):
        for one in run.figures:
            if one.column != "accuracy" or one.load != load or not one.quantity.startswith("|offset|, "):
                continue
            kind = one.quantity.partition(", ")[2]
            values = [max(value * 1e6, 0.01) for value in sorted(one.values())]
            shares = [(n + 1) / len(values) * 100 for n in range(len(values))]
            rows[one.row] = axis.plot(
                values, shares, color=_COLOURS[one.row], linestyle=_KINDS[kind], linewidth=2.0, label=one.row
            )[0]
        axis.set_xscale("log")
        axis.set_xlim(0.01, 10_000)
        _plain(axis, "x")
        axis.set_xlabel("|offset| in µs; the truth is 0")
        axis.set_title(load.partition(", ")[2], loc="left", fontweight="bold", fontsize=10.5)
        axis.grid(True, which="major", alpha=0.3)
    axes[0][0].set_ylabel("% of samples at or below")
    lines: Any = importlib.import_module("matplotlib.lines")
    handles = [lines.Line2D([], [], color=_COLOURS[row], linewidth=3) for row in rows]
    styles = [lines.Line2D([], [], color="black", linestyle=style, linewidth=2) for style in _KINDS.values()]
    figure.legend(
        [*handles, *styles],
        [*rows, *(_KIND_NAMES[kind] for kind in _KINDS)],
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    figure.suptitle("Offset between two network namespaces that share one clock, 64 polls a second", fontsize=11)
    return figure


def _cpu(run: Run, pyplot: Any) -> Any:
    """Bars of CPU time for a request, by clients; the C echo as a line."""
    loads = [load for load in ("1 client", "100 clients", "1,000 clients") if load in run.loads("serving")]
    rows = [row for row in ROWS if any(run.find("serving", row, load, "server CPU") for load in loads)]
    if not loads or not rows:
        return None
    figure, axis = pyplot.subplots(figsize=(10, 0.62 * len(rows) + 1.4), layout="constrained")
    height = 0.8 / len(loads)
    shades = (0.4, 0.7, 1.0)[-len(loads) :]
    for number, load in enumerate(loads):
        for at, row in enumerate(rows):
            one = run.find("serving", row, load, "server CPU")
            if one is None:
                continue
            value, (low, high) = one.median * 1e6, (part * 1e6 for part in one.spread)
            place = at + (number - (len(loads) - 1) / 2) * height
            axis.barh(place, value, height=height * 0.92, color=_COLOURS[row], alpha=shades[number])
            axis.plot([low, high], [place, place], color="black", linewidth=1.2)
            axis.text(max(value, high) * 1.04, place, f"{amount(one.median, 's')}   {load}", va="center", fontsize=8)
    echo = run.median("serving", ECHO, loads[-1 if len(loads) == 1 else 1], "server CPU")
    if echo is not None:
        axis.axvline(echo * 1e6, color="black", linestyle="--", linewidth=1)
        axis.text(echo * 1.05e6, -0.5, "C echo", ha="left", va="bottom", fontsize=8.5)
    axis.set_xscale("log")
    axis.set_xlim(1, max(_largest(run, rows, loads) * 3.2, 10))
    _plain(axis, "x")
    axis.set_yticks(range(len(rows)), rows)
    axis.set_ylim(len(rows) - 0.45, -0.7)
    axis.set_xlabel("server CPU time for one request in µs, user and kernel, at saturation; black: quartiles of the rounds")
    axis.grid(True, axis="x", which="major", alpha=0.3)
    axis.set_axisbelow(True)
    return figure


def _largest(run: Run, rows: Sequence[str], loads: Sequence[str]) -> float:
    """µs."""
    found = [run.median("serving", row, load, "server CPU") for row in rows for load in loads]
    return max(value for value in found if value is not None) * 1e6


def _growth(run: Run, pyplot: Any) -> Any:
    """CPU time of a request and memory over the number of clients."""
    panels = (
        ("serving", "server CPU", 1e6, "server CPU for one request in µs"),
        ("memory", "memory", 2.0**-20, "server's memory in MiB"),
    )
    if len(run.loads("serving")) < 2:
        return None
    figure, axes = pyplot.subplots(1, 2, figsize=(12.4, 4.8), layout="constrained")
    shown: dict[str, Any] = {}
    for axis, (column, quantity, scale, title) in zip(axes, panels, strict=True):
        for row in ROWS:
            points = sorted(
                (int(one.load.split()[0].replace(",", "")), one.median * scale)
                for one in run.figures
                if (one.column, one.row, one.quantity) == (column, row, quantity) and not one.load.endswith(RESTING)
            )
            if len(points) > 1:
                xs, ys = zip(*points, strict=True)
                shown[row] = axis.plot(xs, ys, color=_COLOURS[row], marker=_MARKS[row], markersize=4.5, linewidth=1.6)[0]
        if column == "memory":
            _at_rest(run, axis)
        axis.set_xscale("log")
        axis.set_yscale("log")
        _plain(axis, "x")
        _plain(axis, "y")
        axis.set_xlabel("connected clients (chronyd, echo: client addresses)")
        axis.set_title(title, loc="left", fontweight="bold", fontsize=10.5)
        axis.grid(True, which="major", alpha=0.3)
    figure.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _at_rest(run: Run, axis: Any) -> None:
    """Memory of clients at rest: a hollow mark, for it is no part of the curve of connected ones."""
    for one in run.figures:
        if one.column == "memory" and one.quantity == "memory" and one.load.endswith(RESTING):
            at = int(one.load.split()[0].replace(",", "")), one.median * 2.0**-20
            axis.plot(*at, color=_COLOURS[one.row], marker=_MARKS[one.row], markersize=7, fillstyle="none", linestyle="none")
            axis.annotate("at rest", at, xytext=(-8, 0), textcoords="offset points", ha="right", va="center", fontsize=9)


def _exchange(run: Run, pyplot: Any) -> Any:
    """Where the time of one exchange goes, compiled servers and the others, each with its own scale."""
    rows = [row for row in ROWS if run.find("delay", row, ONE, SPANS[0])]
    if not rows:
        return None
    groups = [
        [row for row in rows if row in (NTP, NTS, DATAGRAM, EXACT_ROW)],
        [row for row in rows if row in (STREAM, ALONE, NEWCOMER, QUICHE)],
    ]
    groups = [group for group in groups if group]
    sizes = [len(group) for group in groups]
    figure, axes = pyplot.subplots(
        len(groups), 1, figsize=(10.5, 0.5 * sum(sizes) + 2.2), height_ratios=sizes, squeeze=False, layout="constrained"
    )
    bars: list[Any] = []
    for axis, group in zip(axes[:, 0], groups, strict=True):
        bars = _spans(run, axis, group)
        axis.set_xlabel("µs")
    figure.legend(bars, _SPAN_NAMES, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.suptitle("One exchange after another, both ends on one core, a Python client that blocks; medians", fontsize=11)
    return figure


def _spans(run: Run, axis: Any, group: Sequence[str]) -> list[Any]:
    medians = {row: [_median(run.find("delay", row, ONE, span)) for span in SPANS] for row in group}
    widest = max(sum(parts) for parts in medians.values())
    bars: list[Any] = []
    for row, parts in medians.items():
        at = 0.0
        bars = []
        for value, colour in zip(parts, _SPAN_COLOURS, strict=True):
            bars.append(axis.barh(row, value, left=at, height=0.68, color=colour))
            if value > widest * 0.045:
                ink, text = "white" if colour in _SPAN_COLOURS[1:3] else "black", f"{value:.3g}" if value < 100 else f"{value:.0f}"
                axis.text(at + value / 2, row, text, ha="center", va="center", color=ink, fontsize=8.5)
            at += value
        axis.text(at + widest * 0.008, row, f"{at:.0f} µs", va="center", fontsize=9)
    axis.set_xlim(0, widest * 1.09)
    axis.set_ylim(len(group) - 0.5, -0.5)
    return bars


def _median(one: Figure | None) -> float:
    """µs; never below nothing."""
    return 0.0 if one is None else max(0.0, quantile(one.values(), 0.5) * 1e6)
