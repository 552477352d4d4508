"""A recorded day of a simulated machine: `python -m tests.daemon.recorded_day` writes tests/data/day.jsonl.xz anew.

The temperature changes, one of four servers is wrong from the eighth hour on, another program steps the clock, the machine
sleeps, and for an hour no server answers. Run this when the rules were changed on purpose: the test compares all that they decide.
"""

import lzma
import math
import random
from hashlib import sha256
from pathlib import Path

from tests.discipline.clock_world import Clock, Server, World
from tsq.discipline.events import Event, Tick
from tsq.discipline.machine import Discipline
from tsq.discipline.recording import Part, Record, line
from tsq.discipline.settings import SourceSettings

FILE = Path(__file__).resolve().parent.parent / "data" / "day.jsonl.xz"
HOUR = 3600.0
# Ticks come less often than in a real day, for a small file: about once a minute after the first minutes.
_FIRST, _PAUSE = 300.0, 60.0


class SlowWorld(World):
    """A world in which a tick comes once a minute."""

    last = -math.inf

    def _do(self, what):
        if what[0] == "tick" and self.now > _FIRST and self.now - self.last < _PAUSE:
            self._tick_at = self.clock.true_ns + 20_000_000_000
            self._push(self._tick_at, what)
            return
        super()._do(what)

    def give(self, event):
        if isinstance(event, Tick):
            self.last = self.now
        super().give(event)


def frequency(seconds: float) -> float:
    """The oscillator: 18 ppm slow, and 1.5 ppm of temperature in a day, half a ppm in an hour."""
    return 18e-6 + 1.5e-6 * math.sin(2 * math.pi * seconds / 86_400) + 0.25e-6 * math.sin(2 * math.pi * seconds / 3_600)


def servers() -> list[Server]:
    settings = SourceSettings(min_poll=6, max_poll=10)

    def lost(seconds: float, dice: random.Random) -> bool:
        return 16 * HOUR <= seconds < 17 * HOUR or dice.random() < 0.02

    wrong = Server("d", 4e-3, 300e-6, offset=lambda seconds: 0.15 if seconds > 8 * HOUR else 0.0, settings=settings, lost=lost)
    return [
        Server("a", 200e-6, 20e-6, settings=settings, lost=lost),
        Server("b", 1e-3, 100e-6, stratum=2, error=1e-3, settings=settings, lost=lost),
        Server("c", 8e-3, 1e-3, settings=settings, lost=lost),
        wrong,
    ]


def library() -> str:
    """What tells apart mathematical libraries that round differently: the last bit of exp, log, erf and others is theirs."""
    dice = random.Random(1)
    values = [dice.uniform(1e-6, 20.0) for _ in range(2000)]
    results = [function(value) for value in values for function in (math.exp, math.log, math.erf, math.erfc, math.atan)]
    return sha256(repr(results).encode()).hexdigest()[:16]


def day() -> World:
    """The day's world."""
    world = SlowWorld(servers(), clock=Clock(error_ns=0.4e9, frequency=frequency), seed=12)
    world.run_until(6 * HOUR)
    world.clock.step(0.3)
    world.run_until(12 * HOUR)
    world.clock.suspend(2 * HOUR, rtc_error=-0.2)
    world.run_until(24 * HOUR)
    return world


def recorded(events: list[Event]) -> str:
    """The recording of these events, with what today's rules do."""
    machine = Discipline()
    records = [Record(event, tuple(machine.handle(event))) for event in events]
    return line(Part(events[0].version, library())) + "".join(map(line, records))


def main() -> None:
    FILE.write_bytes(lzma.compress(recorded(day().events).encode(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main()
