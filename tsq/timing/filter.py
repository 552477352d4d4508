"""The clock filter: of several samples of one source, the one to believe (RFC 5905 §10).

Comes in: samples. Goes out: an Estimate, or None where no sample is valid. The sample with the least delay has the least room for
error, so its offset stands; the others say how much the offset jitters. It must never use a sample that has a reason.

    jitter ψ = sqrt( Σ (θ_best - θ_i)² / (n - 1) ),  at least the precision
    root distance Λ = δ / 2 + ε + E + φ |t - t_best|     E: the server's own error; t: the time that Λ is for

The filter's window are the newest eight samples, as in RFC 5905, or those of the last ten seconds where these are more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from tsq.timing.local_clock import TOLERANCE
from tsq.timing.sample import Sample, StampSource
from tsq.timing.server_state import ServerState

# What a server's own error is taken for where it does not tell, seconds.
DEFAULT_SERVER_ERROR = 0.01
# RFC 5905 §7.2: NSTAGE.
_STAGES = 8
_WINDOW_NS = 10_000_000_000
_LEAST_JITTER = 1e-9


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the samples of one source say together; float seconds, offset positive when the local clock is behind.

    root_distance: bound of the offset's error against UTC at the best sample's time, with the server's own error in it, told or
    assumed. server: the newest of what the server said about itself; None: nothing.
    """

    offset: float
    root_distance: float
    delay: float
    jitter: float
    best: Sample
    server: ServerState | None = None
    server_error: float = 0.0
    server_error_known: bool = False

    @property
    def at_ns(self) -> int:
        """The local time that offset and root distance hold for: the best sample's T4."""
        return self.best.t4_ns or self.best.t1_ns

    @property
    def server_distance(self) -> float:
        """Bound of the offset's error against the server's clock: the root distance but for the server's own error."""
        return self.best.root_distance or 0.0

    def root_distance_at(self, at_ns: int) -> float:
        """The root distance at another local time: the local clock may have drifted since (RFC 5905 §7.2)."""
        return self.root_distance + TOLERANCE * abs(at_ns - self.at_ns) / 1e9

    @property
    def stamps(self) -> str:
        """Who took T1 and T4 of the best sample, as users read it."""
        sources = {self.best.t1_source, self.best.t4_source or StampSource.USER}
        taken = "/".join(sorted(source.value for source in sources))
        return f"{taken}, exact T3" if self.best.exact else taken


def estimate(samples: Sequence[Sample], server_error: float = DEFAULT_SERVER_ERROR) -> Estimate | None:
    """The estimate from the valid samples among these. server_error: what to take the server's own error for if it is unknown."""
    usable = [(s.delay, s.offset, s) for s in _window(samples) if s.delay is not None and s.offset is not None]
    if not usable:
        return None
    delay, offset, best = min(usable, key=lambda item: item[0])
    spread = sum((other - offset) ** 2 for _, other, _ in usable)
    jitter = sqrt(spread / (len(usable) - 1)) if len(usable) > 1 else 0.0
    server = next((s.server for s in reversed(samples) if s.valid and s.server is not None), None)
    told = best.server or server
    error = None if told is None else told.error_at(best.t4_ns or best.t1_ns)
    own = server_error if error is None else error
    return Estimate(
        offset, (best.root_distance or 0.0) + own, delay, max(jitter, _LEAST_JITTER), best, server, own, error is not None
    )


def _window(samples: Sequence[Sample]) -> list[Sample]:
    """The valid samples that the filter looks at."""
    window: list[Sample] = []
    for sample in reversed(samples):
        if not sample.valid:
            continue
        if len(window) >= _STAGES and window[0].t1_ns - sample.t1_ns > _WINDOW_NS:
            break
        window.append(sample)
    return window[::-1]
