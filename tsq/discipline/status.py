"""What is known about the clock and its sources, for everything that shows or passes it on.

Goes out: frozen values; seconds, seconds per second and integer ns. Offset positive: the clock is behind the truth. It must never
hold a value that was not measured: None is "not known".
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tsq.discipline.settings import Mode
from tsq.timing.server_state import ServerState


class ClockStatus(StrEnum):
    """How far the clock may be relied on."""

    # Never measured since the start, or the bound has grown over the limit.
    UNSYNCHRONIZED = "unsynchronized"
    SYNCHRONIZED = "synchronized"
    # No source is usable at present; the clock runs on with what was learned, and the bound grows.
    HOLDOVER = "holdover"
    # A limit was passed: measured and reported, but not touched until an operator says so.
    FROZEN = "frozen"


@dataclass(frozen=True, slots=True)
class Tracking:
    """The clock at one reading.

    real_ns, raw_ns: the reading. offset: what is still to be added to the clock; offset_sd: its standard deviation. bound: no
    error of the clock is larger while a majority of the sources is right; it holds at real_ns, and grows by `bound_rate` a second.
    frequency: the oscillator's error, seconds per second, positive: it is slow; frequency_sd. correction: what the kernel is set
    to. stratum, leap, root_delay, root_dispersion: as an NTP server reports them (RFC 5905) that gives the true time, as it is
    estimated; stratum 0: that is not known well enough. reference: the best source.
    last_offset, rms_offset: at updates of the clock. update_interval: seconds between the last two; updates: how many.
    updated_real_ns: when the clock was last updated, 0: never. steps, accumulated_steps: by this machine since its start, and the
    sum of their sizes. frozen: why, empty if it is not. foreign_moves: how often another program moved the clock.
    earliest_ns, latest_ns: the true time at raw_ns lies between them, Unix ns, while a majority of the sources is right;
    rate_low, rate_high: how fast it may run against the raw clock from then on, minus 1. smeared: whether the sources smear leap
    seconds, and so this clock; None: none of them says.
    """

    mode: Mode
    status: ClockStatus
    real_ns: int
    raw_ns: int
    offset: float | None = None
    offset_sd: float | None = None
    bound: float | None = None
    bound_rate: float = 15e-6
    frequency: float | None = None
    frequency_sd: float | None = None
    correction: float | None = None
    stratum: int = 0
    leap: int = 3
    root_delay: float = 0.0
    root_dispersion: float = 16.0
    reference: str = ""
    reference_address: str = ""
    last_offset: float | None = None
    rms_offset: float | None = None
    update_interval: float | None = None
    updated_real_ns: int = 0
    updates: int = 0
    steps: int = 0
    accumulated_steps: float = 0.0
    frozen: str = ""
    foreign_moves: int = 0
    earliest_ns: int | None = None
    latest_ns: int | None = None
    rate_low: float = 0.0
    rate_high: float = 0.0
    smeared: bool | None = None


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """One source at the reading of the tracking.

    mark: of the last selection, as in `timing.selection.Mark`; unused: why it is not used. poll: the present interval, a power
    of 2. reach: the last eight polls, newest in the lowest bit. offset, offset_sd, frequency, frequency_sd: of its own estimator.
    interval_low, interval_high: its correctness interval then. last_*: of the last valid sample.
    age: seconds since that sample; None: there is none. server_error: reported, or assumed. source_type, source, clock_class,
    clock_tag: what the server says of its clock. bad_values: how many values it reported in another format than protocol R13's.
    """

    name: str
    address: str = ""
    mark: str = "?"
    unused: str = ""
    online: bool = True
    poll: int = 0
    reach: int = 0
    stratum: int | None = None
    leap: int | None = None
    offset: float | None = None
    offset_sd: float | None = None
    frequency: float | None = None
    frequency_sd: float | None = None
    interval_low: float | None = None
    interval_high: float | None = None
    root_distance: float | None = None
    delay: float | None = None
    jitter: float | None = None
    server_error: float | None = None
    last_offset: float | None = None
    last_root_distance: float | None = None
    age: float | None = None
    samples: int = 0
    polls: int = 0
    answers: int = 0
    last_reason: str = ""
    span: float = 0.0
    prefer: bool = False
    trust: bool = False
    no_select: bool = False
    precise: int = 0
    source_type: int | None = None
    source: str = ""
    clock_class: int | None = None
    clock_tag: str = ""
    bad_values: int = 0


def claims_of(server: ServerState | None) -> dict[str, Any]:
    """What a server says of its clock, as fields of its SourceStatus."""
    if server is None:
        return {}
    return {
        "source_type": server.source_type,
        "source": server.source,
        "clock_class": server.clock_class,
        "clock_tag": server.tag,
    }


@dataclass(frozen=True, slots=True)
class Status:
    """All of it, at one reading."""

    tracking: Tracking
    sources: tuple[SourceStatus, ...] = ()
