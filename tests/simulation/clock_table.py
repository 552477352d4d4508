"""The table of `python -m tests.simulation --clock`: how well tsqd keeps a clock in each world, beside chronyd.

Each cell: tsqd / chronyd, medians over the seeds, as both are usually set: makestep 1 3, so the first 0.1 s are slewed. `stepped`:
where both may step them.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from statistics import median

from tests.simulation import chronyd_figures
from tests.simulation.clock_figures import Figures, middle, synchronized
from tests.simulation.clock_run import SLEWED, STEPPED, Run
from tests.simulation.clock_worlds import WORLDS, World

_HEAD = ("world", "RMS µs", "ratio", "max µs", "frequency ppm", "at the end µs", "sync s", "sync s, stepped", "s a poll", "broken")
_BEGINNING = 1500


@dataclass(frozen=True, slots=True)
class Row:
    """One world. ours, theirs: slewed; stepped: seconds until synchronized, ours and theirs; broken, looks: of the bound."""

    world: World
    ours: Figures
    theirs: Figures
    stepped: tuple[float, float]
    broken: int
    looks: int


def _slewed(world: World, seed: int) -> tuple[Figures, int, int]:
    kept = Run(world, seed, SLEWED).run()
    assert kept.figures is not None
    return kept.figures, kept.broken, len(kept.bounds)


def _stepped(world: World, seed: int) -> tuple[int, int, int]:
    """The beginning alone: later it is the same."""
    kept = Run(world, seed, STEPPED).run(_BEGINNING)
    return synchronized(world, kept.errors), kept.broken, len(kept.bounds)


def rows(seeds: int, worlds: Sequence[World] = WORLDS, done: Callable[[Row], None] = lambda row: None) -> list[Row]:
    """All worlds, on all processors."""
    found = []
    with ProcessPoolExecutor() as pool:
        steppings = [[pool.submit(_stepped, world, seed) for seed in range(seeds)] for world in worlds]
        slewings = [[pool.submit(_slewed, world, seed) for seed in range(seeds)] for world in worlds]
        for world, slewing, stepping in zip(worlds, slewings, steppings, strict=True):
            slewed = [future.result() for future in slewing]
            stepped = [future.result() for future in stepping]
            row = Row(
                world,
                middle([figures for figures, _, _ in slewed]),
                chronyd_figures.SLEWED[world.name],
                (median(seconds for seconds, _, _ in stepped), chronyd_figures.STEPPED[world.name].synchronized),
                sum(broken for _, broken, _ in (*slewed, *stepped)),
                sum(looks for _, _, looks in (*slewed, *stepped)),
            )
            done(row)
            found.append(row)
    return found


def cells(row: Row) -> tuple[str, ...]:
    """One line of the table."""
    ours, theirs = row.ours, row.theirs

    def pair(name: str, digits: int) -> str:
        return f"{_round(getattr(ours, name), digits)} / {_round(getattr(theirs, name), digits)}"

    return (
        row.world.name,
        pair("rms", 2),
        f"{ours.rms / theirs.rms:.2f}",
        pair("largest", 2),
        f"{ours.frequency:.3f} / {theirs.frequency:.3f}",
        pair("last", 2),
        f"{ours.synchronized:.0f} / {theirs.synchronized:.0f}",
        f"{row.stepped[0]:.0f} / {row.stepped[1]:.0f}",
        f"{ours.interval:.0f} / {theirs.interval:.0f}",
        f"{row.broken} of {row.looks}",
    )


def _round(value: float, digits: int) -> str:
    """With two or three significant digits."""
    return f"{value:.{digits}f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def markdown(found: Sequence[Row]) -> str:
    """The table as docs/explanation/clock-discipline.md has it."""
    lines = [_HEAD, ("---",) * len(_HEAD), *(cells(row) for row in found)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary(found: Sequence[Row]) -> str:
    """What was won and what was lost."""
    lower = sum(row.ours.rms < row.theirs.rms for row in found)
    half = sum(row.ours.rms <= row.theirs.rms / 2 for row in found)
    calm = sum(row.ours.frequency <= row.theirs.frequency for row in found)
    soon = sum(row.ours.synchronized <= row.theirs.synchronized for row in found)
    stepped = sum(row.stepped[0] <= row.stepped[1] for row in found)
    broken, looks = sum(row.broken for row in found), sum(row.looks for row in found)
    return (
        f"Of {len(found)} worlds: RMS offset lower than chronyd's in {lower}, half of it or less in {half}; frequency calmer in"
        f" {calm}; synchronized no later in {soon}, in {stepped} where both may step."
        f" The bound was broken {broken} times in {looks}."
    )
