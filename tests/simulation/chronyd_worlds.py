"""chronyd in the worlds of clock_worlds.py: `python -m tests.simulation.chronyd_worlds DIRECTORY`, of a built clknetsim.

https://github.com/mlichvar/clknetsim simulates the system calls of an unchanged chronyd. chronyd runs without the permission to set
a clock. Prints lines for `chronyd_figures.py`.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

from tests.simulation.clock_figures import Figures, judge, middle
from tests.simulation.clock_worlds import HOUR, WORLDS, Delays, World

# Without any capability.
_HARMLESS = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all")
_SERVER = "local stratum 1\nallow\n"
_LOST = -1000
_MANY = 20_000


def _within(begin: float, end: float) -> str:
    return f"(equal {(end - begin) / 2:g} time {(begin + end) / 2:g})"


def _scaled(factor: float, expression: str) -> str:
    return f"(* {factor:g} {expression})"


def _delay(world: World, forward: bool, directory: Path, rng: Random) -> str:
    """The same distribution as World.delay, as an expression of clknetsim."""
    parts = [f"{world.base:g}"]
    match world.delays:
        case Delays.EXPONENTIAL:
            parts.append(_scaled(world.jitter, "(exponential)"))
        case Delays.ASYMMETRIC:
            parts.append(_scaled(world.jitter if forward else world.jitter / 10, "(exponential)"))
        case Delays.NORMAL:
            parts.append(f"(max 0.0 (+ {5 * world.jitter:g} {_scaled(world.jitter, '(normal)')}))")
        case Delays.PARETO:
            path = directory / f"delays{int(forward)}"
            path.write_text("".join(f"{world.delay(rng, 0, forward) - world.base:.9f}\n" for _ in range(_MANY)))
            parts.append(f'(file "{path}")')
    if world.spikes:
        chance = f"(equal {world.spikes / 2:g} (uniform) {world.spikes / 2:g})"
        parts.append(f"(* {10 * world.jitter:g} (exponential) {chance})")
    if world.hour:
        during = _within(world.hour.start, world.hour.stop)
        parts.append(_scaled(world.hour_forward if forward else world.hour_back, during))
        if forward and world.hour_congestion:
            parts.append(f"(* {world.hour_congestion / 4:g} {during} (+ {'(exponential) ' * 4}))")
    if forward and world.loss:
        parts.append(_scaled(_LOST, f"(equal {world.loss / 2:g} (uniform) {world.loss / 2:g})"))
    if world.silent:
        parts.append(_scaled(_LOST, _within(world.seconds - HOUR, world.seconds + HOUR)))
    return f"(+ {' '.join(parts)})"


def run(world: World, seed: int, tool: Path, options: str, makestep: str) -> Figures:
    """One run of chronyd."""
    rng = Random(f"{world.name} {seed}")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o777)
        frequencies = directory / "frequencies"
        frequencies.write_text("".join(f"{one:.12e}\n" for one in world.frequencies(rng)))
        network = [f"node2_offset = {world.offset:g}", f'node2_freq = (file "{frequencies}")']
        network += [f"node{2 if up else 1}_delay{1 if up else 2} = {_delay(world, up, directory, rng)}" for up in (True, False)]
        if world.stepped:
            network.append(f"node2_step = (* {world.stepped:g} (equal 0.5 (sum 1.0) {world.late}.0))")
        (directory / "network").write_text("\n".join(network) + "\n")
        client = f"server 192.168.123.1 minpoll {world.min_poll} maxpoll {world.max_poll} {options}\nmakestep {makestep}\n"
        running = []
        for number, text in enumerate((_SERVER, client), 1):
            (directory / f"conf{number}").write_text(f"pidfile {directory}/pid{number}\ncmdport 0\n{text}")
            environment = (f"CLKNETSIM_NODE={number}", f"CLKNETSIM_SOCKET={directory}/socket", f"LD_PRELOAD={tool}/clknetsim.so")
            command = [*_HARMLESS, "env", *environment, "chronyd", "-d", "-f", f"{directory}/conf{number}"]
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        logs = ("-o", f"{directory}/offsets", "-f", f"{directory}/rates", "-p", f"{directory}/packets")
        command = [*_HARMLESS, f"{tool}/clknetsim", "-l", str(world.seconds), *logs, "-s", f"{directory}/socket"]
        subprocess.run([*command, f"{directory}/network", "2"], check=True, capture_output=True, timeout=300)
        for process in running:
            process.wait(60)
        errors = _column(directory / "offsets")
        rates = _column(directory / "rates")
        packets = [line.split() for line in (directory / "packets").read_text().splitlines()]
        polls = sum(sender == "2" for at, sender, *_ in packets if not world.silent or float(at) < world.judged.start)
    return judge(world, errors, rates, polls)


def _column(path: Path) -> list[float]:
    return [float(line.split("\t")[1]) for line in path.read_text().splitlines()]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("clknetsim", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--options", default="", help="of the server line, such as iburst")
    parser.add_argument("--makestep", default="1 3")
    values = parser.parse_args(arguments)
    for world in WORLDS:
        runs = [run(world, seed, values.clknetsim.resolve(), values.options, values.makestep) for seed in range(values.seeds)]
        sys.stdout.write(f'    "{world.name}": {middle(runs)!r},\n')
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
