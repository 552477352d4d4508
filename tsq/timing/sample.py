"""One exchange's result: four timestamps, what follows from them, and whether to believe it (RFC 5905 §8, protocol R8, R11).

Comes in: T1..T4 as integer Unix nanoseconds, each with its source. Goes out: a frozen Sample. It must never read a clock; an
implausible sample is kept, marked with its reason, and never used.

    offset θ = ((T2 - T1) + (T3 - T4)) / 2      positive: the local clock is behind the server's
    delay δ = (T4 - T1) - (T3 - T2)
    dispersion ε = ρ_local + ρ_server + φ (T4 - T1)
    root distance Λ = δ / 2 + ε                 the offset's error, but for the server's own

Every stamp errs to the side that makes δ longer (docs/explanation/error-bounds.md): T1 and T3 early, T2 and T4 late. So does a T3
that is not exact, and the bound holds for it as it is.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tsq.timing.server_state import ServerState

# RFC 5905 §7.2: frequency tolerance, 15 ppm.
TOLERANCE = 15e-6
# One unit of an NTP timestamp is 0.23 ns, and the clock's unit is 1 ns.
SERVER_PRECISION_NS = 1
DEFAULT_OFFSET_LIMIT = 86400.0


class StampSource(StrEnum):
    """Who took a timestamp."""

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
    OFFSET_LIMIT = "offset over the limit"


@dataclass(frozen=True, slots=True)
class Sample:
    """One exchange. Absolute times in integer Unix ns; offset, delay, dispersion in float seconds; None where there is nothing.

    reason is None for a sample that may be used; detail says more of what was found. server: what the server had said about itself
    by then; None: nothing.
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

    @property
    def valid(self) -> bool:
        """Whether the sample may be used."""
        return self.reason is None

    @property
    def root_distance(self) -> float | None:
        """Bound of the offset's error in seconds, but for the server's own error."""
        if self.delay is None or self.dispersion is None:
            return None
        return self.delay / 2 + self.dispersion


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
) -> Sample:
    """A sample from four timestamps, with the checks of R8 in their order.

    precision_ns: that of both clocks together. offset_limit: in seconds; a larger offset is not believed. server: what the server
    has said about itself.
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
        # RFC 5905 §8: a delay within the clocks' precision is as good as the precision, no better.
        delay_ns = max(delay_ns, precision_ns)
    dispersion = (precision_ns + SERVER_PRECISION_NS) / 1e9 + TOLERANCE * abs(t4_ns - t1_ns) / 1e9
    return Sample(
        t1_ns, t2_ns, t3_ns, t4_ns, t1_source, t4_source, offset, delay_ns / 1e9, dispersion, reason=reason, server=server
    )
