"""How well a clock was kept: figures of one run, and their medians over several."""

from collections.abc import Sequence
from math import sqrt
from statistics import median
from typing import NamedTuple

from tests.simulation.clock_worlds import World

_SYNCHRONIZED = 1e-3


class Figures(NamedTuple):
    """Root of the mean square and the largest of the clock's errors in the judged seconds, µs; of its frequency, ppm.

    synchronized: since when the error is under 1 ms for good, seconds, before anything is done to the world; interval: seconds a
    poll; last: the error at the end, µs.
    """

    rms: float
    largest: float
    frequency: float
    synchronized: float
    interval: float
    last: float


def judge(world: World, errors: Sequence[float], rates: Sequence[float], polls: int) -> Figures:
    """The figures of a run. errors: of the clock at each second, s; rates: how fast it ran then, minus 1."""
    judged = [errors[second] for second in world.judged]
    frequencies = [rates[second] for second in world.judged]
    return Figures(
        round(_rms(judged) * 1e6, 3),
        round(max(abs(error) for error in judged) * 1e6, 3),
        round(_rms(frequencies) * 1e6, 4),
        synchronized(world, errors),
        round((world.judged.start if world.silent else world.seconds) / max(polls, 1), 1),
        round(abs(errors[world.seconds - 1]) * 1e6, 3),
    )


def synchronized(world: World, errors: Sequence[float]) -> int:
    """Since when the error is under 1 ms for good, before anything is done to the world."""
    end = min(world.judged.start, world.late, len(errors))
    return next((second + 1 for second in range(end - 1, -1, -1) if abs(errors[second]) >= _SYNCHRONIZED), 0)


def _rms(values: Sequence[float]) -> float:
    return sqrt(sum(value * value for value in values) / len(values))


def middle(runs: Sequence[Figures]) -> Figures:
    """The medians."""
    return Figures(*(round(median(column), 4) for column in zip(*runs, strict=True)))
