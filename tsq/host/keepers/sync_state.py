"""The quality of this machine's clock, as reported by the clock daemon: tsqd, chronyd, ntpd-rs, or else the kernel.

Comes in: where to query, what the operator declares. Goes out: a SyncState, error = root delay / 2 + root dispersion. It must never
make the clock better than it was reported: without a report it is unsynchronized, stratum 0, leap 3. Ignore implausible reports,
such as an error that is no number, negative, or over 16 s.
"""

# The root dispersion includes the known offset that is not corrected yet, and the drift until the next poll. The kernel has no
# stratum: a clock that it calls synchronized gets stratum 15, the worst that NTP has.

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf

from tsq.errors import ClockError, ConfigError, NotPermitted
from tsq.host.clock import SystemClock
from tsq.host.clock_readings import ClockState
from tsq.host.keepers.chrony import DEFAULT, LEAP_UNSYNCHRONIZED, UNIX_SOCKET, Address, Tracking, ask_tracking
from tsq.host.keepers.ntpd_rs import DEFAULT as OBSERVE
from tsq.host.keepers.ntpd_rs import Observation, observe
from tsq.host.keepers.tsqd import DEFAULT as CONTROL
from tsq.host.keepers.tsqd import Report, ask_status
from tsq.options import LocalClock
from tsq.wire.tlv import ClockClass, SourceType

WORST_STRATUM = 15
# RFC 5905 §7.2, MAXDISP, and the kernel's limit: a clock with a larger error is not synchronized.
MOST_ERROR = 16.0
# The most drift that the Clock Quality TLV can carry: a larger one would be understated.
_MOST_DRIFT_PPM = 65.535
# `tsq.server.clock_watch`: how old a state may become, and how long clients may use it then, seconds.
_LONGEST_USED = 14.0
_UNSYNCHRONIZED_STRATUM = 16
# RFC 5905 §7.2: 15 ppm, where no program reports how fast the clock drifts.
TOLERANCE_PPM = 15.0
# chrony's default for how fast a clock's error grows beside what it has measured (maxclockerror).
_CHRONY_ERROR_PPM = 1.0
# chrony's reference ID 127.127.1.x: its own clock, declared by `local`.
_CHRONY_LOCAL = 0x7F7F01
_GNSS = ("GPS", "GNS", "NME", "PPS", "SOC", "GAL", "GLO", "BDS")
_PTP = ("PHC", "PTP")


class Keeper(StrEnum):
    """What to query about the clock; none: query nothing, and report nothing.

    auto: the first of these that answers; a tsqd only if it steers: else another program keeps the clock.
    """

    AUTO = "auto"
    TSQD = "tsqd"
    CHRONY = "chrony"
    NTPD_RS = "ntpd-rs"
    KERNEL = "kernel"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class SyncState:
    """The clock's quality; seconds and ppm. keeper: which program reports it; reference: what it follows, as text.

    trouble: why the state is unknown, or which reported value is impossible; empty if there is none. correction: what the keeper
    is about to add to the clock, where it reports that; the error contains it. smeared: whether leap seconds are smeared; None: the
    keeper does not say.
    """

    keeper: str
    stratum: int
    leap: int
    source: SourceType
    clock_class: ClockClass
    reference: str
    root_delay: float
    root_dispersion: float
    drift_ppm: float = TOLERANCE_PPM
    trouble: str = ""
    correction: float | None = None
    smeared: bool | None = None

    @property
    def synchronized(self) -> bool:
        """Whether the clock is reported or declared to be synchronized."""
        return self.stratum != 0

    @property
    def error(self) -> float:
        """Bound of the clock's error."""
        return self.root_delay / 2 + self.root_dispersion

    def lasting(self, seconds: float) -> "SyncState":
        """The same, valid for so long: with the drift of that time."""
        return replace(self, root_dispersion=self.root_dispersion + self.drift_ppm * 1e-6 * seconds)


@dataclass(frozen=True, slots=True)
class HostClock:
    """Where to query, and what the operator declares for a clock that no program reports to be synchronized."""

    keeper: Keeper = Keeper.AUTO
    chrony: Address = DEFAULT
    chrony_socket: str = UNIX_SOCKET
    ntpd_rs: str = OBSERVE
    local: LocalClock | None = None
    tsqd: str = CONTROL

    def __post_init__(self) -> None:
        if not isinstance(self.keeper, Keeper):
            raise ConfigError(f"keeper {self.keeper!r}", expected=", ".join(f"Keeper.{keeper.name}" for keeper in Keeper))
        if not (isinstance(self.local, LocalClock) or self.local is None):
            raise ConfigError(f"local {self.local!r}", expected="a LocalClock or None")


def sync_state(host_clock: HostClock, clock: SystemClock | None = None) -> SyncState | None:
    """The clock's quality now; None if nothing is to be queried. Blocks for seconds at the most."""
    if host_clock.keeper is Keeper.NONE:
        return None
    only_steering = host_clock.keeper is Keeper.AUTO
    ways: dict[Keeper, Callable[[], SyncState | None]] = {
        Keeper.TSQD: lambda: _by_tsqd(ask_status(host_clock.tsqd), only_steering=only_steering),
        Keeper.CHRONY: lambda: _by_chrony(ask_tracking(host_clock.chrony, host_clock.chrony_socket)),
        Keeper.NTPD_RS: lambda: _by_ntpd_rs(observe(host_clock.ntpd_rs)),
        Keeper.KERNEL: lambda: by_kernel((clock or SystemClock()).state()),
    }
    chosen = list(ways) if host_clock.keeper is Keeper.AUTO else [host_clock.keeper]
    state: SyncState | None = None
    for keeper in chosen:
        try:
            state = ways[keeper]()
        except NotPermitted:
            state = unsynchronized(
                keeper.value, "a filter of system calls forbids clock_adjtime, which reads the kernel's state of the clock"
            )
        except (ClockError, OSError) as error:
            state = unsynchronized(keeper.value, str(error))
        if state is not None:
            break
    state = checked(state or unsynchronized(host_clock.keeper.value))
    return state if host_clock.local is None else declared(state, host_clock.local)


def checked(state: SyncState) -> SyncState:
    """The same state if it is possible and can be sent to clients; else that of an unsynchronized clock."""
    sizes = (state.root_delay, state.root_dispersion, state.error)
    if not all(0 <= size < inf for size in sizes):
        trouble = f"root delay {state.root_delay} s and root dispersion {state.root_dispersion} s are impossible"
    elif state.error > MOST_ERROR and state.synchronized:
        trouble = f"an error of {state.error:.6g} s is over {MOST_ERROR:.0f} s"
    elif not 0 <= state.drift_ppm <= _MOST_DRIFT_PPM:
        trouble = f"a drift of {state.drift_ppm:.6g} ppm is over {_MOST_DRIFT_PPM} ppm"
    elif not (0 <= state.stratum <= WORST_STRATUM and 0 <= state.leap <= LEAP_UNSYNCHRONIZED):
        trouble = f"stratum {state.stratum} with leap indicator {state.leap} is impossible"
    else:
        return state
    return unsynchronized(state.keeper, f"{state.keeper} reports values that cannot be used: {trouble}")


def unknown(host_clock: HostClock, trouble: str) -> SyncState:
    """The state if no program could be queried: what the operator declares, if anything."""
    state = unsynchronized(host_clock.keeper.value, trouble)
    return state if host_clock.local is None else declared(state, host_clock.local)


def by_tracking(report: Tracking) -> SyncState:
    """The state in chronyd's report."""
    synchronized = report.leap != LEAP_UNSYNCHRONIZED and 0 < report.stratum != _UNSYNCHRONIZED_STRATUM
    source, clock_class = _kind(report.reference_id, report.reference)
    return SyncState(
        Keeper.CHRONY.value,
        report.stratum if synchronized else 0,
        report.leap if synchronized else LEAP_UNSYNCHRONIZED,
        source if synchronized else SourceType.UNKNOWN,
        clock_class if synchronized else ClockClass.UNKNOWN,
        report.reference if synchronized else "",
        report.root_delay,
        # The least of the two alone: a negative one must not hide behind the other.
        report.root_dispersion + abs(report.correction) if report.root_dispersion >= 0 else report.root_dispersion,
        _CHRONY_ERROR_PPM + abs(report.residual_ppm) + abs(report.skew_ppm),
        correction=report.correction,
    )


def by_observation(report: Observation) -> SyncState:
    """The state in ntpd-rs's report."""
    source, clock_class = SourceType.UNKNOWN, ClockClass.UNKNOWN
    if report.stratum:
        source, clock_class = SourceType.NTP, ClockClass.NTP_SYNCHRONIZED
    distances = report.root_delay, report.root_dispersion
    return SyncState(Keeper.NTPD_RS.value, report.stratum, report.leap, source, clock_class, "", *distances)


def by_report(report: Report) -> SyncState:
    """The state in tsqd's report."""
    if not report.stratum:
        return unsynchronized(Keeper.TSQD.value)
    clock_class = ClockClass.HOLDOVER if report.holdover else ClockClass.NTP_SYNCHRONIZED
    rate = report.bound_rate * 1e6
    # What is too fast for the TLV is added to the error, for as long as a state may be used.
    drift = min(rate, _MOST_DRIFT_PPM)
    dispersion = report.root_dispersion + (rate - drift) * 1e-6 * _LONGEST_USED
    return SyncState(
        Keeper.TSQD.value, report.stratum, report.leap, SourceType.NTP, clock_class, report.reference,
        report.root_delay, dispersion, drift, smeared=report.smeared,
    )  # fmt: skip


def by_kernel(state: ClockState) -> SyncState:
    """The state by the kernel's report."""
    if not state.synchronized:
        return replace(unsynchronized(Keeper.KERNEL.value), root_dispersion=state.max_error)
    error = state.max_error + abs(state.pending)
    unknown_kind = SourceType.UNKNOWN, ClockClass.UNKNOWN
    return SyncState(Keeper.KERNEL.value, WORST_STRATUM, state.leap, *unknown_kind, "", 0.0, error, correction=state.pending)


def declared(state: SyncState, local: LocalClock) -> SyncState:
    """The operator's declaration, if no program reports the clock synchronized; only its stratum, if just the kernel does."""
    source = SourceType[local.source.upper()]
    if not state.synchronized:
        # The declared error is a bound at any time.
        stratum, trouble = local.stratum, state.trouble
        return SyncState("operator", stratum, 0, source, ClockClass.UNKNOWN, "", 0.0, local.error, drift_ppm=0.0, trouble=trouble)
    if state.keeper == Keeper.KERNEL.value:
        return replace(state, stratum=local.stratum, source=source)
    return state


def _by_tsqd(report: Report | None, *, only_steering: bool) -> SyncState | None:
    return None if report is None or (only_steering and not report.steers) else by_report(report)


def _by_chrony(report: Tracking | None) -> SyncState | None:
    return None if report is None else by_tracking(report)


def _by_ntpd_rs(report: Observation | None) -> SyncState | None:
    return None if report is None else by_observation(report)


def unsynchronized(keeper: str, trouble: str = "") -> SyncState:
    """The state of a clock that no program reports to be synchronized. Its error is the most that there is."""
    unknown_kind = SourceType.UNKNOWN, ClockClass.UNKNOWN
    return SyncState(keeper, 0, LEAP_UNSYNCHRONIZED, *unknown_kind, "", 0.0, MOST_ERROR, trouble=trouble)


def _kind(reference_id: int, reference: str) -> tuple[SourceType, ClockClass]:
    """What chronyd follows: a server has an address, a reference clock a name of up to four letters."""
    if reference_id >> 8 == _CHRONY_LOCAL:
        return SourceType.MANUAL, ClockClass.UNKNOWN
    if "." in reference or ":" in reference:
        return SourceType.NTP, ClockClass.NTP_SYNCHRONIZED
    if reference.startswith(_PTP):
        return SourceType.PTP, ClockClass.PTP_GRANDMASTER
    if reference.startswith(_GNSS):
        return SourceType.GPS, ClockClass.GNSS
    return SourceType.UNKNOWN, ClockClass.UNKNOWN
