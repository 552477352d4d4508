"""One source as the machine sees it: its polls, its estimator, its interval, and what it reports about its clock.

Comes in: outcomes of polls. Goes out: measurements in raw time, predictions, intervals, `SourceStatus`. It must never use a sample
that has a reason, or one of a server that says that its clock is not synchronized.

    raw T1 = T1 - D(sent)      raw T4 = T4 - D(received)      D: the clock minus the raw clock, as read beside the two stamps
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from tsq.discipline.bound import History, Rate, RawInterval
from tsq.discipline.estimator import Estimator, Measurement, Prediction
from tsq.discipline.events import Polled, Reading
from tsq.discipline.polling import Polling
from tsq.discipline.settings import SourceSettings
from tsq.discipline.status import SourceStatus, claims_of
from tsq.timing.filter import Estimate
from tsq.timing.intersection import Interval
from tsq.timing.local_clock import MAX_DRIFT, ClockReading, movement
from tsq.timing.sample import Sample
from tsq.timing.selection import Source
from tsq.timing.server_state import ServerState

_REACH = 0xFF
# A stamp and its reading are taken within this time, ns.
_LATEST_NS = 250_000_000
_LEAST_JITTER = 1e-9
# The kernel's loop corrects up to a quarter of what is pending in a second.
_LOOP_PART = 0.25
# No program slews faster; what moved the clock faster was a step.
_FASTEST_SLEW = 0.12
_JITTER_PART = 1 / 8
# How long limits of the frequency are good where newer samples give wider ones, ns.
_RATE_LASTS_NS = 3600 * 1_000_000_000
# A source knows the frequency when its standard deviation is that much smaller than the tolerance, and than it was beforehand.
_KNOWN_PART, _LEARNED_PART = 1 / 10, 1 / 3
_LEAST_JUMP_NS = 1_000_000
MOST_CONTRADICTIONS = 8


@dataclass(frozen=True, slots=True)
class RawSample:
    """One exchange in raw time. begin_ns, end_ns: T1 and T4 by the raw clock. middle_ns: true time minus the raw clock as measured,
    at end_ns; reach: bound of its error against the server's clock, seconds.
    """

    begin_ns: int
    end_ns: int
    middle_ns: int
    delay: float
    reach: float

    @property
    def center_ns(self) -> int:
        """The raw time that the measured offset is most likely to hold for."""
        return (self.begin_ns + self.end_ns) // 2


def in_raw_time(sample: Sample, reading: Reading, tolerance: float) -> RawSample | None:
    """The sample in raw time; None where its readings contradict its stamps. reading: in place of missing ones.

    tolerance: how wrong the assumed frequency of the raw clock may be, seconds per second.
    """
    t1, t2, t3, t4 = sample.t1_ns, sample.t2_ns, sample.t3_ns, sample.t4_ns
    if t2 is None or t3 is None or t4 is None or sample.dispersion is None:
        return None
    end = _beside(sample.received, reading)
    begin = _beside(sample.sent, end)
    if (sample.sent is not None and abs(t1 - begin.real_ns) > _LATEST_NS) or abs(t4 - end.real_ns) > _LATEST_NS:
        # The process was stopped in between, and the clock may have been stepped meanwhile.
        return None
    raw1, raw4 = t1 - _difference_at(t1, begin, end), t4 - _difference_at(t4, end, begin)
    width_ns = begin.width_ns + end.width_ns
    # Between a stamp and its reading the clock may be slewed.
    loose = abs(t1 - begin.real_ns) * _fastest(begin) + abs(t4 - end.real_ns) * _fastest(end)
    delay_ns = (raw4 - raw1) - (t3 - t2)
    if raw4 < raw1 or delay_ns < -(width_ns + loose + 1000):
        return None
    delay = max(delay_ns, 1) / 1e9
    middle_ns = ((t2 - raw1) + (t3 - raw4)) // 2
    moved = movement(sample.sent, sample.received)
    # The dispersion allows for slews during the exchange, which the raw clock does not see, and for the other clock's drift.
    excess = (abs(moved.moved_ns) + moved.width_ns if moved.moved_ns else 0) + sample.tolerance * abs(t4 - t1)
    dispersion = max(0.0, sample.dispersion - excess / 1e9) + max(tolerance, sample.tolerance) * (raw4 - raw1) / 1e9
    return RawSample(raw1, raw4, middle_ns, delay, delay / 2 + dispersion + (width_ns + loose + 1) / 1e9)


def _difference_at(stamp_ns: int, near: Reading, far: Reading) -> int:
    """The clock minus the raw clock at a stamp between two readings: on the line between them where the clock was slewed."""
    change_ns, elapsed_ns = far.difference_ns - near.difference_ns, far.real_ns - near.real_ns
    if not near.width_ns + far.width_ns < abs(change_ns) <= _FASTEST_SLEW * abs(elapsed_ns):
        return near.difference_ns
    return near.difference_ns + change_ns * (stamp_ns - near.real_ns) // elapsed_ns


def _beside(taken: ClockReading | None, other: Reading) -> Reading:
    """The reading beside a stamp, in the machine's own type."""
    if taken is None:
        return other
    return Reading(taken.at_ns, taken.at_ns - taken.difference_ns, taken.width_ns, 0, taken.frequency, taken.pending_ns)


def _fastest(reading: Reading) -> float:
    """How fast the clock may run away from the raw clock."""
    return abs(reading.frequency or 0.0) + _LOOP_PART * abs(reading.pending_ns or 0) / 1e9


@dataclass(frozen=True, slots=True)
class Learner:
    """What a source's estimator begins with."""

    frequency: float
    frequency_sd: float
    weights: tuple[float, ...]

    def estimator(self) -> Estimator:
        """A new estimator."""
        return Estimator(self.frequency, self.frequency_sd, self.weights)


class TrackedSource:
    """One source: outcomes come in, its interval and prediction at a raw time go out."""

    def __init__(self, name: str, settings: SourceSettings, address: str, learner: Learner, now_ns: int) -> None:
        self.name, self.settings, self.address = name, settings, address
        self.estimator, self._learner = learner.estimator(), learner
        # The frequency as this source measured it, with the tolerance; None: it is not known well enough.
        self.rate: Rate | None = None
        self._rate_ns = 0
        self.polling = Polling(settings, now_ns)
        self.history = History()
        self.online = True
        self.reach = 0
        self.mark, self.unused, self.is_false = "?", "", False
        self.polls = self.answers = self.precise = self.samples = 0
        self.last_reason = ""
        # The newest valid sample, as it was and in raw time.
        self.last: Sample | None = None
        self.last_raw: RawSample | None = None
        self.server: ServerState | None = None
        self.state_unknown = False
        self.bad_values = 0
        # Whether the estimator's offset holds: not after the raw clock stood still.
        self.measured = False
        # Whether a poll had an outcome since the beginning, or since the raw clock stood still.
        self.heard = False
        # Where the source was before a sample that contradicts it, and how many such samples there were.
        self.before: RawInterval | None = None
        self.contradictions = 0
        self.contradicted_ns = self.jumped_ns = 0
        self.was_false = False
        self._told_raw_ns = 0
        self._first_ns = 0
        self._jitter = 0.0
        self._doubted = False

    @property
    def pool(self) -> str:
        """The name of the pool that it is a member of; empty: of none."""
        return self.name.rpartition("/")[0]

    @property
    def usable(self) -> bool:
        """Whether it takes part in the selection."""
        return self.online and self.reach != 0 and self.measured and not self.settings.no_select

    @property
    def last_interval(self) -> RawInterval:
        """Where the newest sample says that true time is."""
        raw, last = self.last_raw, self.last
        assert raw is not None
        assert last is not None
        half_ns = ceil((raw.reach + self._own_error(last, raw)) * 1e9)
        return RawInterval(raw.end_ns, raw.middle_ns - half_ns, raw.middle_ns + half_ns)

    def failed(self, reason: str, now_ns: int, answered: bool) -> None:
        """A poll gave nothing that can be used. answered: the server did answer."""
        self.polls += 1
        self.answers += answered
        self.heard = True
        self.reach = (self.reach << 1 | answered) & _REACH
        self.last_reason = reason
        self.polling.failed(now_ns, self.reach != 0)

    def learn(self, polled: Polled) -> None:
        """What the server reports about its clock, whether or not the sample can be used."""
        state = polled.sample.server
        if state is not None and state is not self.server:
            if self.server is None or state != self.server:
                self._told_raw_ns = polled.reading.raw_ns
            self.server = state
            self.bad_values += state.ignored
        self.state_unknown = polled.state_unknown
        if polled.address:
            self.address = polled.address
        if self.server is not None and self.server.unusable:
            self._doubted = True

    def add(self, sample: Sample, raw: RawSample, now_ns: int, rate: Rate, tolerance: float) -> int:
        """Use a sample. Returns by how much it contradicts what the source said before, ns; 0: it does not."""
        if self._doubted:
            # What the server said before it noticed that its clock was wrong may have been wrong too.
            self._doubted = False
            self.history.clear()
        gap_ns = self._contradiction(raw, self._own_error(sample, raw), rate)
        if self.measured and self.estimator.started:
            expected = self.estimator.predict(max(now_ns, raw.end_ns)).difference_ns
            self._jitter += (abs(raw.middle_ns - expected) / 1e9 - self._jitter) * _JITTER_PART
        self.history.add(raw.end_ns, raw.middle_ns, raw.reach, self._own_error(sample, raw), rate)
        self.estimator.add(Measurement(raw.center_ns, raw.middle_ns, raw.delay))
        if not self.samples:
            self._first_ns = raw.end_ns
        self.polls += 1
        self.answers += 1
        self.precise += sample.precise
        self.samples += 1
        self.reach = (self.reach << 1 | 1) & _REACH
        self.last_reason = ""
        self.last, self.last_raw, self.measured, self.heard = sample, raw, True, True
        found = self.estimator.predict(max(now_ns, raw.end_ns))
        self.polling.answered(now_ns, found, self.estimator.noise, self.estimator.wander)
        if self.rate is not None or found.frequency_sd <= min(_KNOWN_PART * tolerance, _LEARNED_PART * self._learner.frequency_sd):
            self._know_rate(found.frequency, tolerance, raw.end_ns)
        return gap_ns

    def _know_rate(self, frequency: float, tolerance: float, now_ns: int) -> None:
        """The estimate may be wrong, as on a route that changes: whatever the samples do not exclude counts, too."""
        proven = self.history.proven()
        if proven is None:
            if self.rate is not None:
                # No single frequency explains the last hour: it changes, and what held then may not hold now.
                self.rate = self.rate.hull(Rate(frequency - tolerance, frequency + tolerance))
            return
        fresh = Rate(min(frequency, proven.low) - tolerance, max(frequency, proven.high) + tolerance)
        old = self.rate
        # After a restart few samples limit it less than those before did.
        if old is None or fresh.high - fresh.low <= old.high - old.low or now_ns - self._rate_ns > _RATE_LASTS_NS:
            self.rate, self._rate_ns = fresh, now_ns

    def restart(self, now_ns: int, learner: Learner | None = None) -> None:
        """The raw clock is not what it was: nothing that was measured before holds but the frequency. Measure anew, at once."""
        if learner is None:
            self.estimator.forget_offset()
        else:
            self.estimator, self._learner, self.rate = learner.estimator(), learner, None
        self.history.clear()
        self.measured, self.heard, self.before, self.contradictions = False, False, None, 0
        self.polling.reset(now_ns)

    def settle(self) -> None:
        """The others do not see the contradiction: the server's clock was set, and stays so."""
        self.before, self.contradictions = None, 0

    def keep_last(self, rate: Rate) -> None:
        """After a restart: the newest sample was measured with the raw clock as it is now."""
        if self.last is None or self.last_raw is None:
            return
        raw = self.last_raw
        self.history.add(raw.end_ns, raw.middle_ns, raw.reach, self._own_error(self.last, raw), rate)
        self.estimator.add(Measurement(raw.center_ns, raw.middle_ns, raw.delay))
        self.measured = self.heard = True

    def shift(self, seconds: int) -> None:
        """True time was set by whole seconds: a leap second."""
        self.history.shift(seconds)
        self.before = None
        if self.estimator.started:
            self.estimator.shift(seconds)

    def predict(self, now_ns: int) -> Prediction:
        """The estimator's prediction."""
        return self.estimator.predict(now_ns)

    def as_source(self, reading: Reading, found: tuple[RawInterval, Rate] | None) -> Source:
        """The source as the selection takes it, at this reading."""
        if found is None or self.last is None:
            return Source(self.name, None, self.address, self.last_reason, self.state_unknown)
        interval = Interval.of_ns(found[0].low_ns - reading.difference_ns, found[0].high_ns - reading.difference_ns)
        offset = interval.clamp((self.predict(reading.raw_ns).difference_ns - reading.difference_ns) / 1e9)
        distance = interval.distance_from(offset)
        return Source(
            self.name,
            Estimate(
                offset,
                distance,
                self.last.delay or 0.0,
                max(self._jitter, self.estimator.noise, _LEAST_JITTER),
                self.last,
                self.server,
                min(self.own_error, distance),
                self.server is not None and self.server.error is not None,
                reading.real_ns,
                interval,
            ),
            self.address,
            self.last_reason,
            self.state_unknown,
        )

    @property
    def own_error(self) -> float:
        """The server's own error, reported or assumed, seconds."""
        if self.server is None or self.server.error is None:
            return self.settings.server_error
        return self.server.error

    @property
    def stratum(self) -> int | None:
        """The server's stratum, as reported."""
        return None if self.server is None else self.server.stratum

    def status(self, reading: Reading, rate: Rate) -> SourceStatus:
        """Everything that is known about the source."""
        found = self.history.at(reading.raw_ns, rate)
        values: Mapping[str, Any] = {} if found is None or not self.measured else self._values(reading, found[0])
        last, raw = self.last, self.last_raw
        own_error = None if last is None else self.own_error
        return SourceStatus(
            self.name,
            self.address,
            self.mark,
            self.unused,
            self.online,
            self.polling.poll,
            self.reach,
            self.stratum,
            None if self.server is None else self.server.leap,
            delay=None if raw is None else raw.delay,
            jitter=None if last is None else max(self._jitter, _LEAST_JITTER),
            server_error=own_error,
            last_offset=None if last is None else last.offset,
            last_root_distance=None if raw is None or own_error is None else raw.reach + own_error,
            age=None if raw is None else (reading.raw_ns - raw.end_ns) / 1e9,
            samples=len(self.history),
            polls=self.polls,
            answers=self.answers,
            precise=self.precise,
            last_reason=self.last_reason,
            span=0.0 if raw is None else (raw.end_ns - self._first_ns) / 1e9,
            prefer=self.settings.prefer,
            trust=self.settings.trust,
            no_select=self.settings.no_select,
            **claims_of(self.server),
            bad_values=self.bad_values,
            **values,
        )

    def _values(self, reading: Reading, interval: RawInterval) -> Mapping[str, float]:
        found = self.predict(max(reading.raw_ns, interval.at_ns))
        offset_ns = found.difference_ns - reading.difference_ns
        return {
            "offset": offset_ns / 1e9,
            "offset_sd": found.sd,
            "frequency": found.frequency,
            "frequency_sd": found.frequency_sd,
            "interval_low": (interval.low_ns - reading.difference_ns) / 1e9,
            "interval_high": (interval.high_ns - reading.difference_ns) / 1e9,
            "root_distance": interval.distance_from(found.difference_ns),
        }

    def _own_error(self, sample: Sample, raw: RawSample) -> float:
        """The server's own error at T4. Its report may be older than the clock shows, if that was stepped since."""
        state = self.server
        if state is None or state.error is None:
            return self.settings.server_error
        elapsed_ns = max(abs((sample.t4_ns or 0) - state.told_ns), raw.end_ns - self._told_raw_ns)
        return state.error + state.drift * elapsed_ns / 1e9

    def _contradiction(self, raw: RawSample, own_error: float, rate: Rate) -> int:
        """Counts samples in a row that the samples before exclude."""
        if self.before is None:
            found = self.history.at(raw.end_ns, rate)
            before = None if found is None or not self.measured else found[0]
        else:
            before = self.before.aged(raw.end_ns, rate)
        if before is None:
            return 0
        half_ns = ceil((raw.reach + own_error) * 1e9)
        gap_ns = before.gap_ns(RawInterval(raw.end_ns, raw.middle_ns - half_ns, raw.middle_ns + half_ns))
        elapsed_ns = raw.end_ns - self.last_raw.end_ns if self.last_raw is not None else 0
        if abs(gap_ns) <= max(_LEAST_JUMP_NS, MAX_DRIFT * elapsed_ns):
            # A frequency may explain it.
            gap_ns = 0
        self.contradictions = self.contradictions + 1 if gap_ns else 0
        self.before = before if gap_ns else None
        if self.contradictions == 1:
            self.contradicted_ns, self.was_false = raw.end_ns, self.is_false
        self.jumped_ns = raw.middle_ns - (before.low_ns + before.high_ns) // 2 if gap_ns else 0
        return gap_ns
