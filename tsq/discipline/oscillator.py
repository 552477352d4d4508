"""What is known about this machine's oscillator: its frequency, and how fast true time may run against the raw clock.

Comes in: a drift file's values, the sources' estimates and proven rates. Goes out: a frequency, a rate that ages bounds, and what a
new source begins with. It must never let one source's frequency age the samples of others.
"""

from collections.abc import Sequence

from tsq.discipline.bound import UNKNOWN, Rate, RawInterval
from tsq.discipline.events import SavedDrift
from tsq.discipline.fusion import Fused
from tsq.discipline.source import Learner, TrackedSource
from tsq.timing.intersection import Interval, agreed

# Known well enough to be kept over a restart.
_WORTH_SAVING = 0.5e-6
# What an earlier run learned may have changed since; a source that comes later begins with what the others know.
_SAVED_SD, _SHARED_SD, _SHARED_TIMES = 2e-6, 0.1e-6, 4.0
# The frequency is known when the majority agrees on it within this many times the tolerance.
_KNOWN_TIMES = 4.0


class Oscillator:
    """frequency: None before anything is known; known: by a majority; rate: as the majority says."""

    def __init__(self) -> None:
        # What was assumed beforehand.
        self._prior, self._prior_sd = 0.0, UNKNOWN
        self.weights: tuple[float, ...] = ()
        self.frequency: float | None = None
        self.frequency_sd, self.known = UNKNOWN, False
        self.rate = Rate()

    @property
    def worth_saving(self) -> bool:
        """Whether it is known better than most drift files."""
        return self.known and self.frequency_sd <= _WORTH_SAVING

    def take_saved(self, saved: SavedDrift, tolerance: float) -> float:
        """Begin with what an earlier run learned; its frequency."""
        self._prior, self._prior_sd, self.weights = saved.frequency, max(saved.uncertainty, _SAVED_SD), saved.weights
        self._prior_sd = min(self._prior_sd, UNKNOWN)
        self.frequency, self.frequency_sd, self.rate = self._prior, self._prior_sd, self.assumed(tolerance)
        return self._prior

    def learner(self) -> Learner:
        """For a source that was not measured yet."""
        if self.known and self.frequency is not None:
            return Learner(self.frequency, max(_SHARED_TIMES * self.frequency_sd, _SHARED_SD), self.weights)
        return Learner(self._prior, self._prior_sd, self.weights)

    def assumed(self, tolerance: float) -> Rate:
        """How fast true time may run against the raw clock, before that was measured."""
        return Rate.around(self._prior, max(UNKNOWN, tolerance))

    def rate_of(self, source: TrackedSource) -> Rate:
        """The same as a source measured it itself. One that is wrong must not age the samples of others."""
        return self.rate if source.rate is None else source.rate

    def agree(self, voters: Sequence[TrackedSource], found: Sequence[tuple[RawInterval, Rate] | None], tolerance: float) -> None:
        """The majority's limits of the frequency; a source that does not know it yet votes for all that is possible."""
        assumed = self.assumed(tolerance)
        shown = [
            assumed if here is None else here[1] if one.rate is not None else here[1].hull(assumed)
            for one, here in zip(voters, found, strict=True)
        ]
        common = agreed([Interval(one.low, one.high) for one in shown])
        if common is None:
            common = Interval(min(one.low for one in shown), max(one.high for one in shown))
        self.rate = Rate(common.low, common.high)

    def learn(self, fused: Fused, best: TrackedSource | None, tolerance: float) -> None:
        """What the sources estimate together."""
        self.frequency, self.frequency_sd = fused.frequency, fused.frequency_sd
        self.known = fused.frequency_sd <= tolerance and self.rate.high - self.rate.low <= _KNOWN_TIMES * tolerance
        if best is not None:
            self.weights = best.estimator.weights

    def distrust(self, tolerance: float) -> None:
        """Perhaps it is another oscillator now: what was learned is only where to begin."""
        if self.known and self.frequency is not None:
            self._prior = self.frequency
        self._prior_sd, self.known = UNKNOWN, False
        self.rate = self.assumed(tolerance)
