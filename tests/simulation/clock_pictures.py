"""The pictures of docs/explanation/clock-discipline.md. Needs matplotlib (pip install --group plots)."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.simulation.clock_run import Run
from tests.simulation.clock_table import Row
from tests.simulation.clock_worlds import HOUR, WORLDS

BARS, TRACES = "clock-worlds.png", "clock-traces.png"
_OURS, _THEIRS, _SHADE = "#0b7a3b", "#e6a15c", "#d9d9d9"
_SEED = 3
_NAMED = {world.name: world for world in WORLDS}


def draw(rows: Sequence[Row], directory: Path) -> None:
    """Both pictures."""
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    _bars(pyplot, rows, directory / BARS)
    _traces(pyplot, directory / TRACES)


def _bars(pyplot: Any, rows: Sequence[Row], path: Path) -> None:
    """RMS offset and RMS frequency in all worlds."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 7.5), sharey=True, layout="constrained")
    places = range(len(rows))
    for axis, name, title in ((axes[0], "rms", "RMS offset, µs"), (axes[1], "frequency", "RMS frequency, ppm")):
        ours, theirs = [getattr(row.ours, name) for row in rows], [getattr(row.theirs, name) for row in rows]
        axis.hlines(places, ours, theirs, color=_SHADE, linewidth=3, zorder=1)
        axis.scatter(theirs, places, color=_THEIRS, label="chronyd 4.3", zorder=2)
        axis.scatter(ours, places, color=_OURS, label="tsqd", zorder=3)
        axis.set_xscale("log")
        axis.set_xlabel(title)
        axis.grid(axis="x", alpha=0.4)
    axes[0].set_yticks(places, [row.world.name for row in rows])
    axes[0].invert_yaxis()
    axes[0].legend()
    figure.suptitle("The clock's error in simulated worlds: less is better")
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def _traces(pyplot: Any, path: Path) -> None:
    """The clock's error over time, in four worlds."""
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 6.5), layout="constrained")
    for axis, name, first, title in (
        (axes[0][0], "lan-poll4", 0, "LAN, a poll in 16 s: the first 200 s; dashed: the published bound"),
        (axes[0][1], "lan-poll4", 5000, "LAN, a poll in 16 s: later"),
        (axes[1][0], "route-20ms-wan", 3600, "WAN, an hour of +20 ms one way (grey): measured offsets are off by 10 ms"),
        (axes[1][1], "congestion-wan", 3600, "WAN, an hour of congestion one way (grey), 4 ms on average"),
    ):
        world = _NAMED[name]
        kept = Run(world, _SEED).run()
        last = 200 if not first else len(kept.errors)
        axis.plot(range(first, last), [error * 1e6 for error in kept.errors[first:last]], color=_OURS, linewidth=0.8)
        if not first:
            bounds = [(at, bound * 1e6) for at, bound in zip(kept.times, kept.bounds, strict=True) if at < last]
            axis.plot(*zip(*bounds, strict=True), "k--", linewidth=0.8)
            axis.set_yscale("symlog", linthresh=10)
        if world.hour:
            axis.axvspan(world.hour.start, world.hour.start + HOUR, color=_SHADE, alpha=0.5)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("seconds")
        axis.set_ylabel("clock minus true time, µs")
        axis.grid(alpha=0.4)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
