"""The worlds in which a clock is kept: its oscillator, the delays of its only server, and what happens to both.

One true server, one client; the client's clock starts 0.1 s and 100 ppm fast, and its frequency walks by normal(0, wander) each
second. Each direction takes base + exponential(jitter) seconds, or what `delays` says.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from math import pi, sin
from random import Random

HOUR = 3600
# Where in a world with an hour of something this hour begins, from the end.
_HOUR_BEGINS = 9000
# What comes before it and is judged with it.
_BEFORE = 1800
_LATE = 3 / 4


class Delays(Enum):
    """The distribution of the delay in each direction, without the base."""

    EXPONENTIAL = "exponential"
    # Mean five times the jitter: no delay is near the base.
    NORMAL = "normal"
    # Of the answers a tenth.
    ASYMMETRIC = "asymmetric"
    PARETO = "pareto"


@dataclass(frozen=True, slots=True)
class World:
    """seconds: how long it lasts. temperature: amplitude of a sine of one hour in the frequency. jump: of the frequency at 3/4.

    hour_forward, hour_back: what an hour adds to the delays; hour_congestion: the mean of what it adds to requests (gamma, 4).
    spikes: so many delays are longer by exponential(10 jitter). loss: so many exchanges fail. silent: no answer in the last hour.
    stepped: by another program, at 3/4, seconds.
    """

    name: str
    base: float
    jitter: float
    wander: float = 1e-9
    seconds: int = 10_000
    min_poll: int = 4
    max_poll: int = 4
    delays: Delays = Delays.EXPONENTIAL
    temperature: float = 0.0
    jump: float = 0.0
    hour_forward: float = 0.0
    hour_back: float = 0.0
    hour_congestion: float = 0.0
    spikes: float = 0.0
    loss: float = 0.0
    silent: bool = False
    stepped: float = 0.0
    offset: float = 0.1
    frequency: float = 1e-4

    @property
    def hour(self) -> range:
        """The hour of something; empty if there is none."""
        some = self.hour_forward or self.hour_back or self.hour_congestion
        begin = self.seconds - _HOUR_BEGINS
        return range(begin, begin + HOUR if some else begin)

    @property
    def judged(self) -> range:
        """The seconds whose errors count: the second half; the hour, and what is before and after it; the hour of silence."""
        if self.silent:
            return range(self.seconds - HOUR, self.seconds)
        begin = self.hour.start - _BEFORE if self.hour else self.seconds // 2
        return range(begin, self.seconds)

    @property
    def late(self) -> int:
        """When the frequency jumps, or another program steps the clock."""
        return int(self.seconds * _LATE)

    def frequencies(self, rng: Random) -> Iterator[float]:
        """How fast the oscillator runs in each second, minus 1."""
        frequency, phase = self.frequency, rng.uniform(0, 2 * pi)
        for second in range(self.seconds):
            frequency += rng.gauss(0, self.wander)
            if second == self.late:
                frequency += self.jump
            yield frequency + self.temperature * sin(phase + 2 * pi * second / HOUR)

    def delay(self, rng: Random, second: int, forward: bool) -> float:
        """Of one packet, seconds."""
        found = self.base + self._variable(rng, forward)
        if rng.random() < self.spikes:
            found += rng.expovariate(1 / (10 * self.jitter))
        if second in self.hour:
            found += self.hour_forward if forward else self.hour_back
            if forward and self.hour_congestion:
                found += rng.gammavariate(4, self.hour_congestion / 4)
        return found

    def _variable(self, rng: Random, forward: bool) -> float:
        match self.delays:
            case Delays.NORMAL:
                return abs(rng.gauss(5 * self.jitter, self.jitter))
            case Delays.PARETO:
                return min(2.0, 0.2 * self.jitter * (rng.paretovariate(1.2) - 1))
            case Delays.ASYMMETRIC if not forward:
                return rng.expovariate(10 / self.jitter)
        return rng.expovariate(1 / self.jitter)

    def lost(self, rng: Random, second: int) -> bool:
        """Whether an exchange fails."""
        return rng.random() < self.loss or (self.silent and second >= self.seconds - HOUR)


_DC, _LAN, _WAN = (50e-6, 5e-6), (100e-6, 100e-6), (10e-3, 1e-3)
SEVEN = (
    World("dc-poll0", *_DC, seconds=4000, min_poll=0, max_poll=0),
    World("dc-poll4", *_DC),
    World("lan-poll4", *_LAN),
    World("lan-default", *_LAN, min_poll=6, max_poll=10),
    World("lan-wander8", *_LAN, wander=1e-8, min_poll=6, max_poll=10),
    World("wan-poll4", *_WAN),
    World("wan-default", *_WAN, seconds=20_000, min_poll=6, max_poll=10),
)
OTHERS = (
    World("temperature-lan", *_LAN, seconds=14_400, temperature=5e-7),
    World("temperature-wan", *_WAN, seconds=14_400, temperature=5e-7),
    World("route-20ms-wan", *_WAN, seconds=14_400, hour_forward=20e-3),
    World("route-2ms-wan", *_WAN, seconds=14_400, hour_forward=2e-3),
    World("route-symmetric-wan", *_WAN, seconds=14_400, hour_forward=10e-3, hour_back=10e-3),
    World("congestion-wan", *_WAN, seconds=14_400, hour_congestion=4e-3),
    World("spikes-lan", *_LAN, spikes=0.3),
    World("spikes-wan", *_WAN, spikes=0.3),
    World("hold-over-lan", *_LAN, seconds=12_000, silent=True),
    World("hold-over-wan", *_WAN, seconds=12_000, silent=True),
    World("jump-1ppm-lan", *_LAN, jump=1e-6),
    World("jump-1ppm-wan", *_WAN, jump=1e-6),
    World("step-10ms-wan", *_WAN, stepped=10e-3),
    World("normal-lan", 100e-6, 10e-6, delays=Delays.NORMAL),
    World("asymmetric-wan", *_WAN, delays=Delays.ASYMMETRIC),
    World("pareto-wan", *_WAN, delays=Delays.PARETO),
    World("loss-30-wan", *_WAN, loss=0.3),
    World("wander7-lan", *_LAN, wander=1e-7, max_poll=10),
    World("wander10-wan", *_WAN, wander=1e-10, seconds=20_000, min_poll=6, max_poll=10),
)
WORLDS = SEVEN + OTHERS
