"""The clock filter: samples of one source -> Estimate at one local time (RFC 5905 §10).

Comes in: samples, and a local time. Goes out: an Estimate, or None where no sample is valid. Must never use a sample that has a
reason, nor give an offset without the time that it holds for.

    aged root distance Λ = δ / 2 + ε + E + drift × age        E: the server's own error at T4
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, sqrt
from typing import Any

from tsq.timing.ageing import Drift, UsableSample, aged, common, drift
from tsq.timing.intersection import Interval, with_bound
from tsq.timing.local_clock import ClockReading, Movement, movement
from tsq.timing.sample import Sample, StampSource, newest
from tsq.timing.server_state import ServerState

# The assumed own error of a server that reports none, seconds.
DEFAULT_SERVER_ERROR = 0.01
# RFC 5905 §7.2: NSTAGE.
_STAGES = 8
# Of more samples, only those of the last ten seconds are used. Older ones than the newest eight: the best of each of 24 blocks.
_MAX_SAMPLES = 512
_BLOCKS = 24
_WINDOW_NS = 10_000_000_000
_MIN_JITTER = 1e-9


@dataclass(frozen=True, slots=True)
class Estimate:
    """The offset of one source at one local time, seconds; positive: the local clock is behind.

    at_ns: the local time that it holds for. interval: the correctness interval at that time. root_distance: the distance from the
    offset to the farther end of the interval; it includes the server's own error, reported or assumed. best: the sample with the
    least aged root distance. server: the newest state that the server reported; None: none. drift: the range of the local clock's
    drift. moved: how far programs moved the clock since the first request of these samples.
    """

    offset: float
    root_distance: float
    delay: float
    jitter: float
    best: Sample
    server: ServerState | None = None
    server_error: float = 0.0
    server_error_known: bool = False
    at_ns: int = 0
    interval: Interval = field(default=Interval(0.0, 0.0))
    drift: Drift = field(default_factory=Drift)
    moved: Movement = field(default_factory=Movement)

    def __repr__(self) -> str:
        return f"<Estimate {with_bound(self.offset, self.root_distance)}>"

    def to_dict(self) -> dict[str, Any]:
        """The estimate with the keys that it has in a host of `tsq-client --json` (docs/reference/cli.md)."""
        server = self.server
        return {
            "at_ns": self.at_ns,
            "offset": self.offset,
            "root_distance": self.root_distance,
            "delay": self.delay,
            "jitter": self.jitter,
            "server_error": self.server_error,
            "server_error_known": self.server_error_known,
            "stratum": None if server is None else server.stratum,
            "leap": None if server is None else server.leap,
            "smeared": None if server is None else server.smeared,
            "source": None if server is None else server.source,
            "source_type": None if server is None else server.source_type,
            "clock_class": None if server is None else server.clock_class,
            "clock_tag": None if server is None else server.tag,
            "bad_values": None if server is None else server.ignored,
            "drift": self.drift.shown,
            "drift_error": None if self.drift.shown is None else self.drift.shown_error,
        }

    @property
    def server_distance(self) -> float:
        """Bound of the offset's error against the server's clock: the root distance without the server's own error."""
        return self.root_distance - self.server_error

    def interval_at(self, at_ns: int) -> Interval:
        """The correctness interval at another local time, widened by the drift in between."""
        if at_ns == self.at_ns:
            return self.interval
        rates = self.drift.over((at_ns - self.at_ns) / 1e9)
        return Interval(self.interval.low + min(rates), self.interval.high + max(rates))

    def root_distance_at(self, at_ns: int) -> float:
        """The root distance of the same offset at another local time."""
        return self.interval_at(at_ns).distance_from(self.offset)

    @property
    def stamps(self) -> str:
        """The sources of T1 and T4 of the best sample, as text for users."""
        sources = {self.best.t1_source, self.best.t4_source or StampSource.USER}
        taken = "/".join(sorted(source.value for source in sources))
        return f"{taken}, exact T3" if self.best.exact else taken


def estimate(
    samples: Sequence[Sample],
    server_error: float = DEFAULT_SERVER_ERROR,
    at_ns: int | None = None,
    *,
    now: ClockReading | None = None,
) -> Estimate | None:
    """The estimate from the valid samples among these: the middle of the intersection of their aged intervals.

    server_error: the own error to assume for a server that reports none. at_ns: the local time of the estimate; None: that of
    `now`, or the newest T4. now: a reading of the clock at about that time, which shows slews and steps; None: the newest sample's.
    """
    window = _window(samples)
    if not window:
        return None
    last = newest(window)
    assert last is not None
    if at_ns is None:
        at_ns = now.at_ns if now is not None else last.t4_ns or last.t1_ns
    now = now or last.received or next((sample.received for sample in reversed(window) if sample.received is not None), None)
    kept = _kept(_usable(window, server_error))
    found = aged(kept, at_ns, now)
    range_ = drift(found, now)
    best = min(found, key=lambda one: one.width_ns(range_))
    low_ns, high_ns = common(found, range_)
    interval = Interval.of_ns(low_ns, high_ns)
    # The middle has the least bound (docs/explanation/error-bounds.md#one-server).
    offset = interval.clamp((low_ns + high_ns) / (2 * 10**9))
    root_distance = interval.distance_from(offset)
    return Estimate(
        offset,
        root_distance,
        best.sample.delay or 0.0,
        _jitter(window, best.sample),
        best.sample,
        next((sample.server for sample in reversed(window) if sample.server is not None), None),
        min(best.own_error, root_distance),
        all(one.known for one in kept),
        at_ns,
        interval,
        range_,
        _moved(window, now),
    )


def _window(samples: Sequence[Sample]) -> list[Sample]:
    """The valid samples that the filter considers, oldest first."""
    window: list[Sample] = []
    for sample in reversed(samples):
        if not sample.valid or sample.delay is None or sample.offset is None:
            continue
        if len(window) >= _MAX_SAMPLES and window[0].t1_ns - sample.t1_ns > _WINDOW_NS:
            break
        window.append(sample)
    return window[::-1]


def _usable(window: Sequence[Sample], server_error: float) -> list[UsableSample]:
    """The samples that may be used, with the server's own error: the larger of the reports before and after the sample.

    A later report of a smaller error does not improve a sample: the server may have been corrected in between. A later report of a
    larger error does count: the server may have been wrong for some time before it noticed.
    """
    usable: list[UsableSample] = []
    current: ServerState | None = None
    since, doubted = 0.0, False
    lost = next((sample.server.unusable for sample in reversed(window) if sample.server is not None), False)
    for sample in reversed(window):
        if sample.server is not current:
            if current is not None:
                since, doubted = max(since, current.error or 0.0), doubted or current.unusable
            current = sample.server
        if not lost and (doubted or (current is not None and current.unusable)):
            continue
        reported = None if current is None else current.error_at(sample.t4_ns or sample.t1_ns)
        usable.append(UsableSample(sample, max(server_error if reported is None else reported, since), reported is not None))
    if any(one.known for one in usable):
        # Prefer a bound from reported errors to one from an assumption.
        usable = [one for one in usable if one.known]
    return usable[::-1]


def _kept(usable: Sequence[UsableSample]) -> list[UsableSample]:
    """The newest samples, and the best of each block of older ones: the cost of `drift` is the square of their number."""
    older, newest = usable[:-_STAGES], usable[-_STAGES:]
    size = max(1, ceil(len(older) / _BLOCKS))
    blocks = [older[begin : begin + size] for begin in range(0, len(older), size)]
    best = [min(block, key=lambda one: (one.sample.root_distance or 0.0) + one.own_error) for block in blocks]
    return [*best, *newest]


def _jitter(window: Sequence[Sample], best: Sample) -> float:
    """RFC 5905 §10: ψ = sqrt(Σ (θ_best - θ_i)² / (n - 1)) of the newest samples, at least 1 ns."""
    begin_ns = window[-1].t1_ns - _WINDOW_NS
    recent = [sample for place, sample in enumerate(reversed(window)) if place < _STAGES or sample.t1_ns >= begin_ns]
    spread = sum(((sample.offset or 0.0) - (best.offset or 0.0)) ** 2 for sample in recent)
    return max(sqrt(spread / (len(recent) - 1)) if len(recent) > 1 else 0.0, _MIN_JITTER)


def _moved(window: Sequence[Sample], now: ClockReading | None) -> Movement:
    readings = [reading for sample in window for reading in (sample.sent, sample.received) if reading is not None]
    return movement(readings[0], now) if readings else Movement()
