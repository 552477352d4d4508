"""When a source is polled: by the error that its estimate would have at the next poll (docs/explanation/clock-discipline.md).

Comes in: outcomes, the estimate and the noise of a sample. Goes out: the raw time of the next poll. It must never ask before the
last outcome is known.

    sd(i)² = P_θθ + 2 T P_θf + T² P_ff + w² T³ / 3      T = 2^i s; longer while sd(i + 1) < R / 5, shorter while sd(i) > 2 R / 5

    after a burst T doubles up to the least interval, but not while sd(i + 1) > 2 R / 5, nor when a poll fails; 16 times at the most
"""

from math import sqrt

from tsq.discipline.estimator import Prediction
from tsq.discipline.settings import MAX_POLL, SourceSettings

BURST = 4
_SECOND = 1_000_000_000
_BURST_INTERVAL = 2
_CALM = 4
_LONGER = 1 / 5
_SHORTER = 2 / 5
# After the first burst so many intervals do not double because the estimate is bad, and so many in all, to keep sources in step.
_MOST_FOR_ESTIMATE, _MOST_EARLY = 16, 24
# A timer may end a little early: once more for that is not worth it, ns.
_EARLY = 1_000_000
# An outcome that never came, seconds.
_LOST = 300
# A source that does not answer is not asked more often than that: 2^4 s.
_UNREACHABLE_POLL = 4


class Polling:
    """The polls of one source."""

    def __init__(self, settings: SourceSettings, now_ns: int) -> None:
        self._settings = settings
        self.poll = settings.min_poll
        self.burst = BURST
        self._ramp = _BURST_INTERVAL
        self._calm = 0
        # Since the beginning: whether no poll was answered, and how many intervals did not double.
        self._origin_ns, self._fresh, self._early = now_ns, True, 0
        # When the last poll began, and the one whose outcome is not known yet.
        self._begun_ns: int | None = None
        self._asked_ns: int | None = None
        self.next_ns = now_ns

    @property
    def due_ns(self) -> int:
        """When something is to be done, raw ns."""
        return self.next_ns if self._asked_ns is None else self._asked_ns + _LOST * _SECOND

    def is_due(self, now_ns: int) -> bool:
        """Whether to poll now."""
        return now_ns >= self.due_ns - _EARLY

    def asked(self, now_ns: int) -> None:
        """A poll has begun."""
        self._asked_ns = self._begun_ns = now_ns
        self.burst = max(0, self.burst - 1)

    def soon(self, now_ns: int, count: int = BURST) -> None:
        """Some polls in quick succession, from now on."""
        self.burst = max(self.burst, count)
        earliest_ns = now_ns if self._begun_ns is None else max(now_ns, self._begun_ns + self._burst_ns)
        self.next_ns = min(self.next_ns, earliest_ns)

    def change(self, settings: SourceSettings) -> None:
        """Other limits, which a wait that has begun must not exceed either."""
        self._settings = settings
        self.poll = max(settings.min_poll, min(self.poll, settings.max_poll))
        if self._begun_ns is not None:
            self.next_ns = min(self.next_ns, self._begun_ns + (_SECOND << self.poll))

    def answered(self, now_ns: int, prediction: Prediction, noise: float, wander: float) -> None:
        """A poll gave a sample that was used."""
        if self._fresh:
            # Polls before the first answer do not count for the burst.
            self._fresh, self.burst = False, max(self.burst, BURST - 1)
        self._choose(prediction, noise, wander)
        self._schedule(now_ns, self.poll, _sd(prediction, wander, 2.0 * self._ramp) <= noise * _SHORTER)

    def failed(self, now_ns: int, reachable: bool) -> None:
        """A poll gave nothing that can be used: ask again earlier, but not a source that has been silent for long."""
        self.poll = max(self._settings.min_poll, self.poll - 1)
        self._calm = 0
        longest = self.poll if reachable else max(self.poll, min(_UNREACHABLE_POLL, self._settings.max_poll))
        self._schedule(now_ns, longest, self._fresh or not reachable)

    def reset(self, now_ns: int) -> None:
        """Begin anew: a burst, then the least interval."""
        self.poll, self._calm = self._settings.min_poll, 0
        self._origin_ns, self._fresh, self._early = now_ns, True, 0
        self.soon(now_ns)

    def _schedule(self, now_ns: int, poll: int, longer: bool) -> None:
        """longer: whether the next interval may be twice as long, until 2^poll s."""
        # From the beginning of the last poll: its duration does not add to the interval.
        begin_ns = now_ns if self._asked_ns is None else self._asked_ns
        self._asked_ns = None
        if self.burst:
            self._ramp, interval_ns = _BURST_INTERVAL, self._burst_ns
        else:
            if self._ramp >= 1 << poll or self._doubles(begin_ns, longer):
                self._ramp = min(2 * self._ramp, 1 << MAX_POLL)
            interval_ns = min(self._ramp, 1 << poll) * _SECOND
        self.next_ns = begin_ns + interval_ns

    def _doubles(self, begin_ns: int, longer: bool) -> bool:
        """Whether the interval doubles after this poll: until the frequency is known, the clock runs away from what was measured.

        Sources that began together are still asked together later on, even if their intervals do not double together.
        """
        seconds = round((begin_ns - self._origin_ns) / _SECOND) - _BURST_INTERVAL
        in_step = seconds % (2 * self._ramp) == 0
        if ((longer or self._early >= _MOST_FOR_ESTIMATE) and in_step) or self._early >= _MOST_EARLY:
            return True
        self._early += 1
        return False

    @property
    def _burst_ns(self) -> int:
        return min(_BURST_INTERVAL, 1 << self._settings.min_poll) * _SECOND

    def _choose(self, prediction: Prediction, noise: float, wander: float) -> None:
        """The rule above; longer only when it holds four times running."""
        limits = self._settings
        if limits.min_poll == limits.max_poll:
            return
        longer = noise * _LONGER
        if _sd(prediction, wander, 2.0 ** (self.poll + 1)) < longer:
            self._calm += 1
        elif _sd(prediction, wander, 2.0**self.poll) < longer:
            self._calm = max(0, self._calm - 1)
        else:
            self._calm = 0
        if self._calm >= _CALM and self.poll < limits.max_poll:
            self.poll, self._calm = self.poll + 1, 0
        while self.poll > limits.min_poll and _sd(prediction, wander, 2.0**self.poll) > noise * _SHORTER:
            self.poll -= 1


def _sd(found: Prediction, wander: float, time: float) -> float:
    """The standard deviation of the offset so many seconds later."""
    variance = found.sd**2 + 2 * time * found.covariance + (time * found.frequency_sd) ** 2 + wander**2 * time**3 / 3
    return sqrt(max(0.0, variance))
