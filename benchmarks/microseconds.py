"""The parts of one exchange from T1 to T4, and the server's cost of an answer: a picture and its figures.

    python -m benchmarks.microseconds [docs/explanation/microseconds.png]

Client and server are processes on this machine, over loopback, so that one clock takes all timestamps and their differences are
true. "left" is when the kernel saw the answer leave, which exact T3 tells. Needs matplotlib (pip install matplotlib) when a file is
named; without one it prints the figures. Nothing here asserts a time.
"""

import importlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fleet import Fleet
from benchmarks.load import cpu_seconds
from benchmarks.measure import machine
from benchmarks.peers import BlockingClient
from benchmarks.processes import HOST, TsqServer
from tsq import _sockets
from tsq.client.channel import Channel
from tsq.dataplane.packet import PacketKeys
from tsq.host.clock import now_ns
from tsq.options import ClientOptions, Trust
from tsq.quic.selfsigned import CertificateFiles, self_signed
from tsq.quic.udp import UdpSocket

_IDLE_SECONDS = 0.015
_EXCHANGES = {"back to back": 1000, "rested 15 ms": 200}
_ALONE_EXCHANGES = {"back to back": 300, "rested 15 ms": 100}
_WARM_UP = 20
_CONNECTIONS, _WINDOW = 100, 4
_LOADS, _LOAD_SECONDS = 4, 2.0
_TICKS = os.sysconf("SC_CLK_TCK")
# Plain sizes of what is opened and sealed: ACK and DATAGRAM frame with a request of 28 bytes, with an answer of 80.
_REQUEST_PLAIN, _ANSWER_PLAIN = 37, 90
_PACKET_HEADER = bytes([0x43]) + bytes(8) + bytes(4)

_NAMES = {
    "T1 to T2": "T1 to T2: the kernel carries the request",
    "T2 to T3": "T2 to T3: the server wakes up, receives, opens the packet",
    "T3 to left": "T3 to left: it builds, seals and sends the answer",
    "left to T4": "left to T4: the kernel carries the answer",
    "T3 to T4": "T3 to T4: seal, send, carry (when it left is not known)",
    "user": "user: open, check, answer, seal",
    "kernel": "kernel: receive, send, transmit timestamps",
}
_COLOURS = {
    "T1 to T2": "#9ecae1", "T2 to T3": "#4292c6", "T3 to left": "#d94801", "left to T4": "#fdd0a2", "T3 to T4": "#f16913",
    "user": "#41ab5d", "kernel": "#c7e9c0",
}
_ROWS = {"back to back": "one exchange after another", "rested 15 ms": "after 15 ms of rest"}
_THIRD = f"The server's CPU time for each answer, {_CONNECTIONS} connections, {_WINDOW} requests under way on each"
_FOURTH = "Single steps: AES-128-GCM; sendmmsg of one datagram, from the call to its transmit timestamp"

# A row's name -> its parts' names -> µs.
Bars = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of the picture: medians; the CPU time is an average."""

    exchange: Bars
    alone: Bars
    cpu: Bars
    steps: Bars


def timeline(client: BlockingClient, channel: Channel, exchanges: int, rest: float) -> dict[str, float]:
    """Medians of the spans between the timestamps of an exchange."""
    spans: dict[str, list[float]] = {}
    for number in range(-_WARM_UP, exchanges):
        client.rest(rest)
        sample = client.exchange()
        early, late = channel.exchange.revised or (sample, None)
        if number < 0:
            continue
        times = {"T1 to T2": (early.t1_ns, early.t2_ns), "T2 to T3": (early.t2_ns, early.t3_ns)}
        if late is None:
            times["T3 to T4"] = (early.t3_ns, early.t4_ns)
        else:
            times |= {"T3 to left": (early.t3_ns, late.t3_ns), "left to T4": (late.t3_ns, late.t4_ns)}
        for name, (begin, end) in times.items():
            assert begin is not None
            assert end is not None
            spans.setdefault(name, []).append((end - begin) / 1000)
    return {name: statistics.median(values) for name, values in spans.items()}


def exchanges(server: TsqServer, options: ClientOptions, counts: Mapping[str, int]) -> Bars:
    """The time spans of the exchanges, back to back and rested."""
    found = {}
    for shape, count in counts.items():
        client = BlockingClient(server.target.port, options)
        try:
            found[shape] = timeline(client, client.channel, count, 0.0 if shape == "back to back" else _IDLE_SECONDS)
        finally:
            client.close()
    return found


def cpu(server: TsqServer, ca: str) -> Bars:
    """µs of the server's CPU time for each answer, at saturation; user and kernel as the scheduler's ticks share it out."""
    kinds = {"plain request": False, "with exact T3": True}
    answered, spent, user, kernel = (dict.fromkeys(kinds, 0.0) for _ in range(4))
    for name, exact in list(kinds.items()) * _LOADS:
        with Fleet(server.target, ca, _CONNECTIONS) as fleet:
            fleet.run(20_000, window=_WINDOW, exact=exact)
            before, ticks = cpu_seconds(server.pid), _ticks(server.pid)
            fleet.run(10_000_000, window=_WINDOW, seconds=_LOAD_SECONDS, exact=exact)
            after = _ticks(server.pid)
            spent[name] += cpu_seconds(server.pid) - before
            answered[name] += fleet.asker.answered
            user[name] += after[0] - ticks[0]
            kernel[name] += after[1] - ticks[1]
    found = {}
    for name in kinds:
        each = spent[name] * 1e6 / max(1.0, answered[name])
        share = user[name] / max(1.0, user[name] + kernel[name])
        found[name] = {"user": each * share, "kernel": each * (1 - share)}
    return found


def _ticks(pid: int) -> tuple[int, int]:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]), int(fields[12])


def steps() -> Bars:
    """Single steps: compiled functions called from Python, and a send up to the moment at which the kernel stamps it."""
    keys = PacketKeys(0x1301, bytes(16), bytes(12), bytes(range(16)))
    packet = keys.protect(_PACKET_HEADER, 0, bytes(_REQUEST_PLAIN))
    answer = bytes(_ANSWER_PLAIN)
    return {
        "read the clock": {"user": _each(now_ns)},
        "open a request": {"user": _each(lambda: keys.open(packet, 9, 0))},
        "seal an answer": {"user": _each(lambda: keys.protect(_PACKET_HEADER, 0, answer))},
        "send an answer": {"kernel": _sending()},
    }


def _each(call: Callable[[], object], count: int = 100, rounds: int = 400) -> float:
    spans = []
    for _ in range(rounds):
        start = time.perf_counter_ns()
        for _ in range(count):
            call()
        spans.append((time.perf_counter_ns() - start) / count / 1000)
    return statistics.median(spans)


def _sending() -> float:
    receiver = UdpSocket.listening(HOST, 0)
    sender = UdpSocket.connected(receiver.socket.family, receiver.address)
    spans = []
    try:
        for number in range(1000):
            _, before_ns = _sockets.send(sender.fileno(), [(bytes(120), b"", b"")], True)
            times = _sockets.transmit_times(sender.fileno())
            spans += [(left_ns - before_ns) / 1000 for wanted, left_ns in times if wanted == number]
            receiver.receive()
    finally:
        sender.close()
        receiver.close()
    return statistics.median(spans)


def measure() -> Figures:
    """All figures, in less than a minute."""
    with tempfile.TemporaryDirectory(prefix="tsq-microseconds-") as directory:
        files: CertificateFiles = self_signed(directory, ["localhost", HOST])
        ca = str(files.authority)
        options = ClientOptions(trust=Trust(ca_file=ca))
        with TsqServer(files.certificate, files.key) as server:
            exchange = exchanges(server, options, _EXCHANGES)
            work = cpu(server, ca)
        with TsqServer(files.certificate, files.key, data_plane=False) as server:
            alone = exchanges(server, options, _ALONE_EXCHANGES)
    return Figures(exchange, alone, work, steps())


def describe(figures: Figures) -> str:
    """The figures as text, µs."""
    lines = []
    for title, bars in _panels(figures):
        lines.append(f"{title} (µs)")
        for row, parts in bars.items():
            listed = "   ".join(f"{name} {value:.2f}" for name, value in parts.items())
            lines.append(f"  {row:<20} {listed}" + (f"   together {sum(parts.values()):.2f}" if len(parts) > 1 else ""))
    return "\n".join([*lines, machine()])


def _panels(figures: Figures) -> list[tuple[str, Bars]]:
    """Titles and bars. Each exchange of the data plane has an axis of its own: their lengths are too far apart."""
    panels = [(f"An exchange through the data plane, {_ROWS[shape]}", {shape: parts}) for shape, parts in figures.exchange.items()]
    panels.append(("The same server without its data plane: everything through aioquic, in Python", figures.alone))
    return [*panels, (_THIRD, figures.cpu), (_FOURTH, figures.steps)]


def draw(figures: Figures, file: str) -> None:
    """The picture; its format by the file's name."""
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    pyplot.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    panels = _panels(figures)
    # Bars, and room for the title, the axis and, where there is one, the legend.
    heights = [0.42 * len(bars) + 0.75 + (0.5 if _legend(number) else 0.0) for number, (_, bars) in enumerate(panels)]
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(11, sum(heights)), height_ratios=[len(bars) for _, bars in panels], layout="constrained"
    )
    figure.get_layout_engine().set(h_pad=0.09)
    for number, (axis, (title, bars)) in enumerate(zip(axes, panels, strict=True)):
        _panel(axis, title, bars, _legend(number))
    note = f"{machine().partition('; Linux')[0]}; loopback, one clock. Medians; CPU time: averages. Each panel has its own scale."
    figure.supxlabel(note, fontsize=9)
    figure.savefig(file, facecolor="white", dpi=110, bbox_inches="tight", pad_inches=0.15)


def _legend(panel: int) -> tuple[str, ...]:
    """The legend below this panel."""
    return {1: ("T1 to T2", "T2 to T3", "T3 to left", "left to T4"), 2: ("T3 to T4",), 3: ("user", "kernel")}.get(panel, ())


def _panel(axis: Any, title: str, bars: Bars, legend: Sequence[str]) -> None:
    widest = max(sum(parts.values()) for parts in bars.values())
    shown: dict[str, Any] = {}
    for row, parts in bars.items():
        at = 0.0
        for name, value in parts.items():
            shown[name] = axis.barh(row, value, left=at, height=0.66, color=_COLOURS[name])
            if len(parts) > 1 and value > widest * 0.03:
                colour = "white" if name in ("T2 to T3", "T3 to left", "T3 to T4", "user") else "black"
                axis.text(at + value / 2, row, _number(value), ha="center", va="center", color=colour, fontsize=9)
            at += value
        axis.text(at + widest * 0.008, row, f"{_number(at)} µs", va="center", fontsize=9)
    axis.set_title(f"{title} (µs)", loc="left", fontsize=10.5, fontweight="bold")
    axis.set_xlim(0, widest * 1.1)
    axis.set_ylim(len(bars) - 0.5, -0.5)
    if legend:
        labels = [_NAMES[name] for name in legend]
        # Below the axis: nothing lies over the bars.
        axis.legend(
            [shown[name] for name in legend], labels, loc="upper left", bbox_to_anchor=(-0.01, -0.7 / len(bars)),
            ncols=2, frameon=False, fontsize=9,
        )


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    figures = measure()
    print(describe(figures))
    for file in arguments:
        draw(figures, file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
