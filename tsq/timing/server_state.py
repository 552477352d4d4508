"""The state of a server's clock, as the server reports it (docs/reference/protocol.md R13; RFC 5905 §11.2).

Comes in: a decoded response and its local time. Goes out: a frozen ServerState, or None where the response reports nothing. A
malformed value counts as not reported. Must never read a clock, and never take a missing report for an error of zero.
"""

from dataclasses import dataclass

from tsq.timing.local_clock import MAX_DRIFT, TOLERANCE
from tsq.wire.message import ClockQuality, Response
from tsq.wire.tlv import LEAP, ROOT_DELAY, ROOT_DISPERSION, SATURATED, SMEAR

# RFC 5905 §7.3: leap indicator 3, the alarm condition: the clock is not synchronized.
LEAP_ALARM = 3
MAX_STRATUM = 15
_MAX_DIGITS = 18
# The largest number that each key may have.
_MOST = {LEAP: LEAP_ALARM, SMEAR: 1, ROOT_DELAY: 10**_MAX_DIGITS, ROOT_DISPERSION: 10**_MAX_DIGITS}


@dataclass(frozen=True, slots=True)
class ServerState:
    """A server's report about its clock. None: not reported.

    told_ns: the local time of the report. error: the bound of the clock's distance from UTC at that time, seconds. beyond: the
    error is more than the field of Clock Quality Info holds. drift: how fast the error may grow, seconds per second. ignored: how
    many keys had a value in another format.
    """

    told_ns: int
    stratum: int | None = None
    source_type: int | None = None
    source: str = ""
    clock_class: int | None = None
    tag: str = ""
    error: float | None = None
    beyond: bool = False
    drift: float = TOLERANCE
    leap: int | None = None
    smeared: bool | None = None
    ignored: int = 0

    @property
    def unusable(self) -> bool:
        """Whether the report forbids the use of this server (RFC 5905 §11.2)."""
        unsynchronized = self.stratum is not None and not 0 < self.stratum <= MAX_STRATUM
        return unsynchronized or self.leap == LEAP_ALARM or self.beyond

    def error_at(self, at_ns: int) -> float | None:
        """The server's own error at another local time; it grows with the distance in both directions."""
        if self.error is None:
            return None
        return self.error + self.drift * abs(at_ns - self.told_ns) / 1e9


def server_state(response: Response, told_ns: int) -> ServerState | None:
    """The report in a response; None where there is none."""
    quality, source, pairs = response.clock_quality, response.time_source, response.metadata
    leap, smear, delay, dispersion = (_number(pairs.get(key), _MOST[key]) for key in (LEAP, SMEAR, ROOT_DELAY, ROOT_DISPERSION))
    error, beyond = _error(quality, delay, dispersion)
    ignored = sum(_number(pairs[key], most) is None for key, most in _MOST.items() if key in pairs)
    if quality is None and source is None and error is None and leap is None and smear is None and not ignored:
        return None
    return ServerState(
        told_ns,
        stratum=None if source is None else source.stratum,
        source_type=None if source is None else source.source_type,
        source="" if source is None else source.description,
        clock_class=None if quality is None else quality.clock_class,
        tag="" if quality is None else quality.tag,
        error=error,
        beyond=beyond,
        drift=_drift(quality),
        leap=leap,
        smeared=None if smear is None else smear == 1,
        ignored=ignored,
    )


def _error(quality: ClockQuality | None, delay_ns: int | None, dispersion_ns: int | None) -> tuple[float | None, bool]:
    """(error in seconds, whether it is more than the field holds). An error of 0 counts as not reported: no clock is perfect."""
    if delay_ns is not None and dispersion_ns is not None and delay_ns + dispersion_ns:
        # RFC 5905 §11.2: half the root delay, and the root dispersion.
        return (delay_ns / 2 + dispersion_ns) / 1e9, False
    if quality is None or not quality.error_us:
        return None, False
    if quality.error_us >= SATURATED:
        return None, True
    return quality.error_us / 1e6, False


def _drift(quality: ClockQuality | None) -> float:
    """How fast the server's error may grow, seconds per second; a saturated field may stand for any drift."""
    if quality is None:
        return TOLERANCE
    return MAX_DRIFT if quality.drift_ppb >= SATURATED else max(TOLERANCE, quality.drift_ppb / 1e9)


def _number(text: str | None, most: int) -> int | None:
    """A whole number in plain decimal digits; None for anything else."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > _MAX_DIGITS:
        return None
    number = int(text)
    return number if number <= most else None
