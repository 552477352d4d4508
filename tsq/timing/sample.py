"""The sample of one exchange: four timestamps, offset, delay and dispersion, and the checks (RFC 5905 §8; protocol R8, R11).

Comes in: T1..T4 as integer Unix nanoseconds, T1 and T4 with their sources. Goes out: a frozen Sample. Must never read a clock; an
implausible sample is kept with its reason, and never used. All stamps err to the side that makes δ longer: T1 and T3 early, T2 and
T4 late. With an exact T3 (interleaved mode, RFC 9769; protocol R12) δ is shorter, but the bound holds without it, too.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from math import ulp
from typing import TYPE_CHECKING, Any

from tsq.timing.local_clock import TOLERANCE, ClockReading, greatest_drift, movement

if TYPE_CHECKING:
    from tsq.timing.server_state import ServerState

# One unit of an NTP timestamp is 0.23 ns, and the clock's unit is 1 ns.
SERVER_PRECISION_NS = 1
DEFAULT_OFFSET_LIMIT = 86400.0


class StampSource(StrEnum):
    """What took a timestamp."""

    USER = "user"
    KERNEL = "kernel"
    HARDWARE = "hardware"


class Reason(StrEnum):
    """Why a sample is not used."""

    NO_ANSWER = "no answer in time"
    NOT_SENT = "could not be sent"
    CONNECTION_LOST = "connection lost"
    WRONG_NONCE = "answer with a nonce that was not asked"
    MALFORMED = "malformed answer"
    ERROR_REPLY = "server answered with an error"
    SIGNATURE = "signature missing or not valid"
    SEND_BEFORE_RECEIVE = "T3 is before T2"
    ANSWER_BEFORE_REQUEST = "T4 is before T1"
    NEGATIVE_DELAY = "negative delay"
    NOT_PRECISE = "answer of another length than the request"
    OFFSET_LIMIT = "offset over the limit"


@dataclass(frozen=True, slots=True)
class Sample:
    """One exchange. Absolute times in integer Unix ns; offset, delay, dispersion in float seconds; None: unknown.

    reason: why the sample is not used; None: it may be used. detail: more about the reason. server: the newest state that the
    server had reported by then; None: none. sent, received: readings of the local clock just before the request left and just after
    the answer came; None: not read. tolerance: the frequency tolerance φ in the dispersion, seconds per second. precise: in
    Precision Mode, so request and answer had the same length (R7).
    """

    t1_ns: int
    t2_ns: int | None = None
    t3_ns: int | None = None
    t4_ns: int | None = None
    t1_source: StampSource = StampSource.USER
    t4_source: StampSource | None = None
    offset: float | None = None
    delay: float | None = None
    dispersion: float | None = None
    exact: bool = False
    reason: Reason | None = None
    detail: str = ""
    server: "ServerState | None" = None
    sent: ClockReading | None = None
    received: ClockReading | None = None
    tolerance: float = TOLERANCE
    precise: bool = False

    @property
    def valid(self) -> bool:
        """Whether the sample may be used."""
        return self.reason is None

    @property
    def root_distance(self) -> float | None:
        """Λ = δ / 2 + ε: bound of the offset's error against the server's clock, seconds."""
        if self.delay is None or self.dispersion is None:
            return None
        return self.delay / 2 + self.dispersion

    def to_dict(self) -> dict[str, Any]:
        """The sample as `tsq-client --json` prints it (docs/reference/cli.md)."""
        return {
            "t1_ns": self.t1_ns,
            "t2_ns": self.t2_ns,
            "t3_ns": self.t3_ns,
            "t4_ns": self.t4_ns,
            "t1_source": self.t1_source.value,
            "t4_source": None if self.t4_source is None else self.t4_source.value,
            "offset": self.offset,
            "delay": self.delay,
            "dispersion": self.dispersion,
            "root_distance": self.root_distance,
            "exact": self.exact,
            "precise": self.precise,
            "valid": self.valid,
            "reason": None if self.reason is None else self.reason.value,
            "detail": self.detail or None,
        }


def newest(samples: Iterable[Sample]) -> Sample | None:
    """The valid sample that came last: by the raw clock if all samples have it, because the local clock may have been set."""
    valid = [sample for sample in samples if sample.valid and sample.t4_ns is not None]
    raw = {id(sample): sample.received.at_ns - sample.received.difference_ns for sample in valid if sample.received is not None}
    if len(raw) < len(valid):
        return max(valid, key=lambda sample: sample.t4_ns or 0, default=None)
    return max(valid, key=lambda sample: raw[id(sample)], default=None)


def make_sample(
    t1_ns: int,
    t2_ns: int,
    t3_ns: int,
    t4_ns: int,
    *,
    t1_source: StampSource = StampSource.USER,
    t4_source: StampSource = StampSource.USER,
    precision_ns: int = 1,
    offset_limit: float = DEFAULT_OFFSET_LIMIT,
    server: "ServerState | None" = None,
    sent: ClockReading | None = None,
    received: ClockReading | None = None,
    exact: bool = False,
    precise: bool = False,
) -> Sample:
    """A sample from four timestamps, with the checks of R8 in their order (RFC 5905 §8).

        offset θ = ((T2 - T1) + (T3 - T4)) / 2      positive: the local clock is behind the server's
        delay δ = (T4 - T1) - (T3 - T2)
        dispersion ε = ρ_local + ρ_server + φ (T4 - T1) + |M|      M: how far programs moved the local clock meanwhile

    precision_ns: ρ_local. offset_limit: a larger offset is implausible, seconds. server: the state that the server reported. sent,
    received: readings of the local clock around the exchange. exact: T3 is the kernel's transmit timestamp of the answer.
    precise: request and answer had the same length.
    """
    # Differences of integers first: a float of seconds since 1970 is 240 ns coarse.
    offset = ((t2_ns - t1_ns) + (t3_ns - t4_ns)) / 2e9
    delay_ns = (t4_ns - t1_ns) - (t3_ns - t2_ns)
    reason: Reason | None = None
    if t3_ns < t2_ns:
        reason = Reason.SEND_BEFORE_RECEIVE
    elif t4_ns < t1_ns:
        reason = Reason.ANSWER_BEFORE_REQUEST
    elif delay_ns < -precision_ns:
        reason = Reason.NEGATIVE_DELAY
    elif abs(offset) > offset_limit:
        reason = Reason.OFFSET_LIMIT
    if reason is None:
        # RFC 5905 §8: the delay is at least the precision.
        delay_ns = max(delay_ns, precision_ns)
    tolerance = greatest_drift(sent, received)
    moved = movement(sent, received)
    moved_ns = abs(moved.moved_ns) + moved.width_ns if moved.moved_ns else 0
    dispersion = (precision_ns + SERVER_PRECISION_NS + moved_ns) / 1e9 + tolerance * abs(t4_ns - t1_ns) / 1e9
    return Sample(
        t1_ns,
        t2_ns,
        t3_ns,
        t4_ns,
        t1_source,
        t4_source,
        offset,
        delay_ns / 1e9,
        # A float of some years is 100 ns coarse.
        dispersion + ulp(offset),
        exact=exact,
        reason=reason,
        server=server,
        sent=sent,
        received=received,
        tolerance=tolerance,
        precise=precise,
    )
