"""What a number of clients needs: requests a second, cores, memory, bandwidth, machines; computed from measured constants.

    python -m benchmarks.capacity [--clients 10000000 --poll 64] [--picture FILE]
    python -m benchmarks.capacity --check

Comes in: constants, each from a run that the documentation shows. Goes out: the tables and the picture of
docs/explanation/scaling.md. With --check: one load on this machine, what it took, and what the model says; as root, because it
runs in a network namespace of its own.
"""

import argparse
import importlib
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# CPU seconds of a request, and bytes of a client at rest, with a million of them: hibernation.md.
REQUEST = 4.8e-6
CLIENT = 953
# CPU seconds of a second's look at a client at rest, of letting a connection rest: hibernation.md.
LOOK = 12e-9
REST = 50e-6
# CPU seconds of a handshake with ECDSA P-256: performance.md. Of a resumed one with 0-RTT: its part of that in handshakes.md.
HANDSHAKE = 1.76e-3
RESUMED = HANDSHAKE * 0.71 / 1.01
# Bytes of a connection before it rests, 2 s after its handshake: performance.md, hibernation.md.
AWAKE = 32.6 * 1024
AWAKE_SECONDS = 2.0
# CPU seconds of an Initial of a flood, which gets a Retry or nothing, from receiving it to the answer: benchmarks/admission.py.
STRANGER = 8.8e-6
INITIAL_BYTES = 1228
# Bytes both ways, with IP headers, of a poll, of a request that keeps a connection, of a resumed poll: connections.md.
POLL_BYTES = 790
KEEP_BYTES = 265
RESUMED_BYTES = 4600
# A poll is two requests. A client that polls every 180 s or more often keeps its connection by a request every 25 s:
# connections.md.
REQUESTS = 2
KEEP_SECONDS = 25.0
KEPT_AT_MOST = 180.0
# What is chosen. Full handshakes of a kept client: it restarts or moves to a network where its connection is lost, once a day.
HANDSHAKES_A_DAY = 1.0
# Of a machine, so that there is room for bursts, and for the clients of a machine that has failed.
LOADED = 0.5
PROCESS = 60 << 20


@dataclass(frozen=True)
class Machine:
    """cores: those that serve. memory: bytes. line: bits a second, both ways together."""

    cores: int = 16
    memory: float = 32 * 2**30
    line: float = 10e9


@dataclass(frozen=True)
class Need:
    """What some clients need: for each second; cores that are busy; bytes; bits a second, both ways together."""

    clients: float
    poll: float
    requests: float
    handshakes: float
    cores: float
    memory: float
    bandwidth: float

    def machines(self, machine: Machine) -> int:
        """How many machines, each loaded by half at most, and one more."""
        parts = (self.cores / machine.cores, self.memory / machine.memory, self.bandwidth / machine.line)
        return math.ceil(max(parts) / LOADED) + 1


def need(clients: float, poll: float) -> Need:
    """What so many clients need, each of which polls once in `poll` seconds, as tsqd does."""
    polls = clients / poll
    if poll <= KEPT_AT_MOST:
        keeping = max(0, math.ceil(poll / KEEP_SECONDS) - 1) * polls
        requests, handshakes, connected = REQUESTS * polls + keeping, clients * HANDSHAKES_A_DAY / 86400, clients
        cores = requests * REQUEST + handshakes * (HANDSHAKE + REST) + connected * LOOK
        sent = polls * POLL_BYTES + keeping * KEEP_BYTES + handshakes * RESUMED_BYTES
    else:
        # Resumed with 0-RTT, closed after the poll; a server keeps it for a moment.
        requests, handshakes, connected = REQUESTS * polls, polls, polls * AWAKE_SECONDS
        cores = requests * REQUEST + handshakes * RESUMED
        sent = polls * RESUMED_BYTES
    memory = connected * CLIENT + handshakes * AWAKE_SECONDS * AWAKE + math.ceil(cores / LOADED) * PROCESS
    return Need(clients, poll, requests, handshakes, cores, memory, 8 * sent)


def most_clients(poll: float, machine: Machine) -> int:
    """How many clients one machine serves when it is loaded by half."""
    low, high = 1.0, 1e12
    for _ in range(100):
        middle = math.sqrt(low * high)
        fits = need(middle, poll).machines(machine) <= 2
        low, high = (middle, high) if fits else (low, middle)
    return int(low)


def storm(clients: float, machine: Machine, machines: int) -> float:
    """Seconds until all clients of a machine that has failed have resumed at the others, with the half that these have free."""
    free = (machines - 1) * machine.cores * (1 - LOADED)
    return clients / machines * RESUMED / free


def flood(initials: float) -> tuple[float, float]:
    """Busy cores, and bits a second, of so many Initials a second from addresses that prove nothing."""
    return initials * STRANGER, 8 * initials * INITIAL_BYTES


SCENES = (
    ("an office", 1e3), ("a campus", 1e5), ("a cloud region", 1e6), ("a country", 1e7), ("a continent", 1e8), ("the world", 1e9),
)  # fmt: skip
POLLS = (16.0, 64.0, 1024.0)


def sized(value: float, unit: str = "") -> str:
    """Two significant figures with a prefix."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{float(f'{value / size:.2g}'):g} {prefix}{unit}".rstrip()
    return f"{float(f'{value:.2g}'):g} {unit}".rstrip()


def rows(machine: Machine) -> list[list[str]]:
    """The table of scenes."""
    head = ["", "clients", "poll, s", "requests/s", "handshakes/s", "busy cores", "memory", "both ways", "machines", "one fails"]
    table = [head, ["---"] * len(head)]
    for name, clients in SCENES:
        for poll in POLLS:
            found = need(clients, poll)
            table.append([
                name if poll == POLLS[0] else "", f"10^{round(math.log10(clients))}", f"{poll:g}", sized(found.requests),
                sized(found.handshakes), sized(found.cores), sized(found.memory, "B"), sized(found.bandwidth, "bit/s"),
                f"{found.machines(machine):,}",
                sized(storm(clients, machine, found.machines(machine)), "s") if poll <= KEPT_AT_MOST else "",
            ])  # fmt: skip
    return table


def one_machine() -> list[list[str]]:
    """The table of what one machine serves."""
    sizes = (("1 core, 1 GiB, 1 Gbit/s", Machine(1, 2**30, 1e9)), ("4 cores, 8 GiB, 1 Gbit/s", Machine(4, 8 * 2**30, 1e9)),
             ("16 cores, 32 GiB, 10 Gbit/s", Machine()))  # fmt: skip
    table = [["one machine", *(f"clients, poll {poll:g} s" for poll in POLLS)], ["---"] * (1 + len(POLLS))]
    return table + [[name, *(sized(most_clients(poll, machine)) for poll in POLLS)] for name, machine in sizes]


def markdown(table: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in table)


def draw(place: Path) -> None:
    """The picture: busy cores and machines over clients."""
    importlib.import_module("matplotlib").use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    pyplot.rcParams.update({
        "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none", "svg.hashsalt": "tsq",
    })  # fmt: skip
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 4))
    clients = [10 ** (place / 8) for place in range(24, 73)]
    colors = dict(zip(POLLS, ("#b3441e", "#0b7a3b", "#1f4e9c"), strict=True))
    columns = (("busy cores", "cores"), ("memory, bytes", "memory"), ("bit/s, both ways", "bandwidth"))
    for axis, (title, name) in zip(axes, columns, strict=True):
        for poll in POLLS:
            found = [getattr(need(count, poll), name) for count in clients]
            axis.loglog(clients, found, color=colors[poll], label=f"poll {poll:g} s")
        axis.set(xlabel="clients", title=title)
        axis.minorticks_off()
        axis.grid(alpha=0.25)
        for count, text in ((1e6, "region"), (1e7, "country"), (1e9, "world")):
            axis.axvline(count, color="#7f7f7f", linestyle=":", linewidth=0.8)
            axis.annotate(text, (count, 0.02), xycoords=("data", "axes fraction"), rotation=90, ha="right", color="#7f7f7f")
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(place, dpi=110, metadata={"Date": None} if place.suffix == ".svg" else None)
    pyplot.close(figure)


def check(connections: int = 200, rates: Sequence[int] = (10_000, 60_000), seconds: float = 3.0) -> int:
    """Load a server of this checkout, and print what it took beside what the model's constants say."""
    from benchmarks.fleet import Fleet  # noqa: PLC0415 (needs the compiled load; computing does not)
    from benchmarks.load import cpu_seconds  # noqa: PLC0415
    from benchmarks.measure import machine  # noqa: PLC0415
    from benchmarks.memory import resident  # noqa: PLC0415
    from tests.support.processes import ServerProcess  # noqa: PLC0415
    from tsq.quic.selfsigned import self_signed  # noqa: PLC0415

    def on_wire() -> int:
        # Not /sys: it shows the network that it was mounted in.
        line = next(line for line in Path("/proc/self/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
        return int(line.partition(":")[2].split()[8])

    with tempfile.TemporaryDirectory(prefix="tsq-capacity-") as directory:
        files = self_signed(directory, ["localhost"])
        arguments = ["--listen", "127.0.0.1:0", "--cert", files.certificate, "--key", files.key, "--log-level", "error"]
        with ServerProcess([*arguments, "--workers", "1"]) as server, Fleet(server.target, str(files.authority), 20) as first:
            first.run(200, seconds=5)
            before, memory = cpu_seconds(server.pid), resident(server.pid)
            with Fleet(server.target, str(files.authority), connections) as fleet:
                connected, held = cpu_seconds(server.pid), resident(server.pid)
                costs = []
                for rate in rates:
                    began, wire = cpu_seconds(server.pid), on_wire()
                    fleet.run(int(rate * seconds), window=1, rate=rate, seconds=2 * seconds)
                    answered = fleet.asker.answered
                    costs.append((cpu_seconds(server.pid) - began) / answered)
                    # Loopback has frames with an Ethernet header: a request, an answer, and an acknowledgment now and then.
                    datagrams = (on_wire() - wire) / answered - 14 * 2
    found = [
        ["", "measured", "model"],
        ["---"] * 3,
        ["server's CPU of a handshake, ms", f"{(connected - before) / connections * 1e3:.2f}", f"{HANDSHAKE * 1e3:.2f}"],
        *(
            [f"server's CPU of a request at {rate:,}/s, µs", f"{cost * 1e6:.1f}", f"{REQUEST * 1e6:.1f}"]
            for rate, cost in zip(rates, costs, strict=True)
        ),
        ["bytes of a request and its answer, with IP headers", f"{datagrams:.0f}", f"{KEEP_BYTES} with all acknowledgments"],
        ["memory of a connection that is awake, KiB", f"{(held - memory) / connections:.1f}", f"{AWAKE / 1024:.1f}"],
    ]
    print(f"{machine()}\n\n{markdown(found)}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.capacity", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--clients", type=float)
    parser.add_argument("--poll", type=float, default=64.0, help="seconds (default: %(default)s)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the picture (needs matplotlib)")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    values = parser.parse_args(arguments)
    if values.check and not values.inside:
        alone = 'ip link set lo up && exec "$@"'
        command = ["unshare", "--net", "sh", "-c", alone, "sh", sys.executable, "-m", "benchmarks.capacity", "--check", "--inside"]
        return subprocess.run(command, check=False, env=dict(os.environ)).returncode
    if values.check:
        return check()
    if values.picture is not None:
        draw(values.picture)
        return 0
    if values.clients is not None:
        found = need(values.clients, values.poll)
        print(f"requests/s    {sized(found.requests)}\nhandshakes/s  {sized(found.handshakes)}\nbusy cores    {sized(found.cores)}")
        print(f"memory        {sized(found.memory, 'B')}\nboth ways     {sized(found.bandwidth, 'bit/s')}")
        print(f"machines      {found.machines(Machine()):,} of 16 cores, 32 GiB, 10 Gbit/s")
        return 0
    print(markdown(one_machine()), markdown(rows(Machine())), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
