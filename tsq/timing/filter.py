"""The clock filter: of several samples of one source, the one to believe (RFC 5905 §10).

Comes in: samples. Goes out: an Estimate, or None where no sample is valid. The sample with the least delay has the least room for
error, so its offset stands; the others say how much the offset jitters. It must never use a sample that has a reason.

    jitter ψ = sqrt( Σ (θ_best - θ_i)² / (n - 1) ),  at least the precision
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from tsq.timing.sample import Sample, StampSource

_LEAST_JITTER = 1e-9


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the samples of one source say together; float seconds, offset positive when the local clock is behind."""

    offset: float
    root_distance: float
    delay: float
    jitter: float
    best: Sample

    @property
    def stamps(self) -> str:
        """Who took T1 and T4 of the best sample, as users read it."""
        sources = {self.best.t1_source, self.best.t4_source or StampSource.USER}
        taken = "/".join(sorted(source.value for source in sources))
        return f"{taken}, exact T3" if self.best.exact else taken


def estimate(samples: Sequence[Sample]) -> Estimate | None:
    """The estimate from the valid samples among these."""
    usable = [(s.delay, s.offset, s) for s in samples if s.valid and s.delay is not None and s.offset is not None]
    if not usable:
        return None
    delay, offset, best = min(usable, key=lambda item: item[0])
    spread = sum((other - offset) ** 2 for _, other, _ in usable)
    jitter = sqrt(spread / (len(usable) - 1)) if len(usable) > 1 else 0.0
    return Estimate(offset, best.root_distance or 0.0, delay, max(jitter, _LEAST_JITTER), best)
