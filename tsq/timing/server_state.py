"""What a server says about its own clock, as the client keeps it (docs/reference/protocol.md R13; RFC 5905 §11.2).

Comes in: a decoded response and when it came. Goes out: a frozen ServerState, or None where the response says nothing. What is
told badly counts as not told. It must never read a clock, and never take silence for accuracy.
"""

from dataclasses import dataclass

from tsq.timing.local_clock import TOLERANCE
from tsq.wire.message import ClockQuality, Response
from tsq.wire.tlv import LEAP, ROOT_DELAY, ROOT_DISPERSION, SMEAR

LEAP_ALARM = 3
MAX_STRATUM = 15
_SATURATED = 65535
# What a server's drift is taken for where Clock Quality Info cannot tell it, seconds a second: no oscillator is off by more.
_MOST_DRIFT = 1e-3
_MOST_DIGITS = 18


@dataclass(frozen=True, slots=True)
class ServerState:
    """A server's word about itself. None: it did not say.

    told_ns: the local time at which the word came. error: how far its clock may be from UTC, seconds, at that time. beyond: it is
    more than Clock Quality Info can say. drift: how fast the error may grow, seconds a second.
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

    @property
    def unusable(self) -> bool:
        """Whether the server says that its clock is not to be followed (RFC 5905 §11.2)."""
        follows_nobody = self.stratum is not None and not 0 < self.stratum <= MAX_STRATUM
        return follows_nobody or self.leap == LEAP_ALARM or self.beyond

    def error_at(self, at_ns: int) -> float | None:
        """The server's own error at another local time; it grows with the distance, either way."""
        if self.error is None:
            return None
        return self.error + self.drift * abs(at_ns - self.told_ns) / 1e9


def server_state(response: Response, told_ns: int) -> ServerState | None:
    """What a response says about its server."""
    quality, source, pairs = response.clock_quality, response.time_source, response.metadata
    leap = _whole(pairs.get(LEAP), most=LEAP_ALARM)
    smear = _whole(pairs.get(SMEAR), most=1)
    error, beyond = _error(quality, _whole(pairs.get(ROOT_DELAY)), _whole(pairs.get(ROOT_DISPERSION)))
    if quality is None and source is None and error is None and leap is None and smear is None:
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
    )


def _error(quality: ClockQuality | None, delay_ns: int | None, dispersion_ns: int | None) -> tuple[float | None, bool]:
    """(error in seconds, whether it is more than the field holds). No clock is without error: 0 says nothing."""
    if delay_ns is not None and dispersion_ns is not None and delay_ns + dispersion_ns:
        # RFC 5905 §11.2: half the root delay, and the root dispersion.
        return (delay_ns / 2 + dispersion_ns) / 1e9, False
    if quality is None or not quality.error_us:
        return None, False
    if quality.error_us >= _SATURATED:
        return None, True
    return quality.error_us / 1e6, False


def _drift(quality: ClockQuality | None) -> float:
    """How fast the server's error may grow, seconds a second."""
    if quality is None:
        return TOLERANCE
    return _MOST_DRIFT if quality.drift_ppb >= _SATURATED else max(TOLERANCE, quality.drift_ppb / 1e9)


def _whole(text: str | None, most: int = 10**_MOST_DIGITS) -> int | None:
    """A whole number in plain decimal digits; None for anything else."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > _MOST_DIGITS:
        return None
    number = int(text)
    return number if number <= most else None
