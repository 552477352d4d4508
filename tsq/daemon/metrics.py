"""The daemon's metrics for Prometheus (docs/reference/metrics.md has each with its meaning and unit).

Comes in: the status, counters. Goes out: text of Prometheus's format, over HTTP or to whoever asks for it. What is not known has no
sample. It must never read a clock, and never forget a source: one that is gone reads `tsq_source_up 0`.
"""

from collections.abc import Callable, Iterator, Mapping

from tsq.discipline.settings import Mode
from tsq.discipline.status import ClockStatus, SourceStatus, Status, Tracking
from tsq.exposition import ExpositionServer, Family, Kind, Point, render
from tsq.options import Target

# Sources that are gone, at most; a pool may replace its sources for years.
MOST_GONE = 1000
_SOURCE = ("name", "address")


class Metrics:
    """The metrics of a daemon. status, counters: give the present ones; version: of TSQ."""

    def __init__(
        self, status: Callable[[], Status], counters: Callable[[], Mapping[str, int]] = dict, *, version: str = ""
    ) -> None:
        self._status = status
        self._counters = counters
        self._version = version
        # The address of each source that was ever there, oldest first.
        self._known: dict[str, str] = {}
        self._server: ExpositionServer | None = None

    @property
    def address(self) -> Target | None:
        """Where it listens; None for nowhere."""
        return None if self._server is None else self._server.address

    def text(self) -> str:
        """All metrics in Prometheus's text format."""
        return render(self.families())

    def start(self, listen: Target) -> None:
        """Answer at this address, on the running event loop. Raises ConfigError if it cannot be used."""
        server = ExpositionServer(self.text)
        server.start(listen)
        self._server = server

    def close(self) -> None:
        """Stop answering."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def note(self, status: Status) -> None:
        """Remember the sources of this status, so that they do not disappear. Cheap; `text` calls it, too."""
        for source in status.sources:
            self._known[source.name] = source.address
        if len(self._known) > MOST_GONE + len(status.sources):
            present = {source.name for source in status.sources}
            for name in [name for name in self._known if name not in present][: len(self._known) - MOST_GONE - len(present)]:
                del self._known[name]

    def families(self) -> "Iterator[Family]":
        """All metrics."""
        status = self._status()
        self.note(status)
        yield from _system(status.tracking, self._version)
        yield from _sources(status.sources, self._known)
        yield _counters(self._counters())


_SOURCE_GAUGES: tuple[tuple[str, str, Callable[[SourceStatus], float | None]], ...] = (
    ("tsq_source_online", "Whether the source is polled: 0 while it is offline", lambda s: s.online),
    ("tsq_source_reach", "Which of the last eight polls were answered, as bits, newest lowest; 255: all", lambda s: s.reach),
    ("tsq_source_selected", "Whether the clock follows the source", lambda s: s.mark in ("*", "+")),
    ("tsq_source_falseticker", "Whether the majority of the sources contradicts it", lambda s: s.mark == "x"),
    ("tsq_source_poll_interval_seconds", "Time between two polls", lambda s: 2.0**s.poll),
    (
        "tsq_source_offset_seconds",
        "Offset of the clock from the source, estimated; positive: the clock is behind",
        lambda s: s.offset,
    ),
    ("tsq_source_offset_deviation_seconds", "Standard deviation of that offset", lambda s: s.offset_sd),
    (
        "tsq_source_frequency_error_ratio",
        "Frequency error of the oscillator against the source; positive: slow",
        lambda s: s.frequency,
    ),
    ("tsq_source_delay_seconds", "Round-trip delay of the last sample", lambda s: s.delay),
    ("tsq_source_jitter_seconds", "Jitter of the samples' offsets", lambda s: s.jitter),
    ("tsq_source_root_distance_seconds", "Bound of the offset's error against UTC", lambda s: s.root_distance),
    ("tsq_source_server_error_seconds", "The server's own error, reported or assumed", lambda s: s.server_error),
    ("tsq_source_stratum", "Stratum that the server reports", lambda s: s.stratum),
    ("tsq_source_leap_indicator", "Leap indicator that the server reports", lambda s: s.leap),
    ("tsq_source_age_seconds", "Time since the last valid sample", lambda s: s.age),
)
_SOURCE_COUNTERS: tuple[tuple[str, str, Callable[[SourceStatus], int]], ...] = (
    ("tsq_source_polls", "Polls", lambda s: s.polls),
    ("tsq_source_answers", "Polls that were answered", lambda s: s.answers),
    ("tsq_source_precise_answers", "Polls that were answered in Precision Mode", lambda s: s.precise),
    ("tsq_source_bad_values", "Values about its clock that the server reported in another format", lambda s: s.bad_values),
)
_SYSTEM_GAUGES: tuple[tuple[str, str, Callable[[Tracking], float | None]], ...] = (
    ("tsq_system_frozen", "Whether a limit was passed, and the clock is left alone", lambda t: t.frozen != ""),
    ("tsq_system_stratum", "Stratum of the clock; 0: unsynchronized", lambda t: t.stratum),
    (
        "tsq_system_leap_indicator",
        "0: none, 1: a second is inserted, 2: deleted at the day's end, 3: unsynchronized",
        lambda t: t.leap,
    ),
    ("tsq_system_smeared", "Whether the selected sources smear leap seconds", lambda t: t.smeared),
    ("tsq_system_root_delay_seconds", "Root delay", lambda t: t.root_delay),
    ("tsq_system_root_dispersion_seconds", "Root dispersion", lambda t: t.root_dispersion),
    ("tsq_system_accumulated_steps_seconds", "Sum of the sizes of the daemon's steps", lambda t: t.accumulated_steps),
    ("tsq_system_offset_seconds", "What is still to be added to the clock, estimated; positive: it is behind", lambda t: t.offset),
    ("tsq_system_offset_deviation_seconds", "Standard deviation of that offset", lambda t: t.offset_sd),
    ("tsq_system_bound_seconds", "No error of the clock is larger while a majority of the sources is right", lambda t: t.bound),
    ("tsq_system_bound_growth_ratio", "How fast the bound grows until the next poll, seconds per second", lambda t: t.bound_rate),
    ("tsq_system_last_offset_seconds", "Offset at the last update of the clock", lambda t: t.last_offset),
    ("tsq_system_rms_offset_seconds", "Long-term average of the offset at updates", lambda t: t.rms_offset),
    ("tsq_system_update_interval_seconds", "Time between the last two updates of the clock", lambda t: t.update_interval),
    ("tsq_system_frequency_error_ratio", "Frequency error of the oscillator; positive: it is slow", lambda t: t.frequency),
    ("tsq_system_frequency_deviation_ratio", "Standard deviation of that frequency error", lambda t: t.frequency_sd),
    ("tsq_system_frequency_correction_ratio", "What the kernel's frequency correction is set to", lambda t: t.correction),
    (
        "tsq_system_reading_timestamp_seconds",
        "Unix time of the reading of the clock that all of this is for",
        lambda t: t.real_ns / 1e9,
    ),
    (
        "tsq_system_last_update_timestamp_seconds",
        "Unix time of the last update of the clock",
        lambda t: t.updated_real_ns / 1e9 if t.updated_real_ns else None,
    ),
)
_SYSTEM_COUNTERS: tuple[tuple[str, str, Callable[[Tracking], int]], ...] = (
    ("tsq_system_updates", "Updates of the clock", lambda t: t.updates),
    ("tsq_system_steps", "Steps of the clock by the daemon", lambda t: t.steps),
    ("tsq_system_foreign_moves", "How often another program moved the clock", lambda t: t.foreign_moves),
)


def _system(tracking: Tracking, version: str) -> Iterator[Family]:
    info = Point(1.0, (version, Mode(tracking.mode).value))
    yield Family("tsq_info", Kind.GAUGE, "Always 1; the version and the mode of the daemon", (info,), ("version", "mode"))
    states = tuple(Point(float(one is tracking.status), (one.value,)) for one in ClockStatus)
    yield Family("tsq_system_status", Kind.GAUGE, "1 for the present status of the clock, 0 for the others", states, ("status",))
    for name, meaning, value in _SYSTEM_GAUGES:
        known = value(tracking)
        yield Family(name, Kind.GAUGE, meaning, () if known is None else (Point(float(known)),))
    for name, meaning, count in _SYSTEM_COUNTERS:
        yield Family(name, Kind.COUNTER, meaning, (Point(count(tracking)),))


def _sources(sources: tuple[SourceStatus, ...], known: Mapping[str, str]) -> Iterator[Family]:
    up = [Point(float(source.reach != 0), (source.name, source.address)) for source in sources]
    present = {source.name for source in sources}
    up += [Point(0.0, (name, address)) for name, address in known.items() if name not in present]
    yield Family("tsq_source_up", Kind.GAUGE, "Whether one of the last eight polls was answered", tuple(up), _SOURCE)
    for name, meaning, value in _SOURCE_GAUGES:
        points = tuple(
            Point(float(known_value), (source.name, source.address))
            for source in sources
            for known_value in (value(source),)
            if known_value is not None
        )
        yield Family(name, Kind.GAUGE, meaning, points, _SOURCE)
    for name, meaning, count in _SOURCE_COUNTERS:
        yield Family(
            name, Kind.COUNTER, meaning, tuple(Point(count(source), (source.name, source.address)) for source in sources), _SOURCE
        )


def _counters(counts: Mapping[str, int]) -> Family:
    """Counters of `tsq.counters`: their snapshot has "name" or "name: reason"."""
    points = []
    for key, count in counts.items():
        name, _, reason = key.partition(": ")
        points.append(Point(count, (name, reason)))
    return Family("tsq_daemon_events", Kind.COUNTER, "What the daemon counted", tuple(points), ("event", "reason"))
