"""The cluster and combine algorithms (RFC 5905 §11.2.2, §11.2.3).

Comes in: the truechimers as candidates. Goes out: the survivors, and their combined offset with its jitter. Must never decide who
is right, nor bound the error: the selection does both.

    selection jitter ψ_s,i = sqrt( Σ_j (θ_i - θ_j)² / (n - 1) )
    combined offset θ = Σ w_i θ_i / Σ w_i      w_i = part_i / Λ_i
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, sqrt

# RFC 5905 §11.2.2: NMIN.
MIN_SURVIVORS = 3
# RFC 5905 §11.2.1: candidates are ordered by stratum * MAXDIST + root distance.
_STRATUM_WEIGHT = 1.5
_UNKNOWN_STRATUM = 15


@dataclass(frozen=True, slots=True)
class Candidate:
    """A truechimer. number: the index of its source. root_distance, stratum, part: as they count (`tsq.timing.weight`)."""

    number: int
    offset: float
    root_distance: float
    jitter: float
    stratum: int | None = None
    part: float = 1.0

    @property
    def merit(self) -> tuple[float, int]:
        """The sort key of the candidates; the least is the best."""
        stratum = _UNKNOWN_STRATUM if self.stratum is None else self.stratum
        return _STRATUM_WEIGHT * stratum + self.root_distance, self.number


def cluster(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The survivors, best first: drop the candidate with the largest selection jitter while that exceeds the least peer jitter."""
    survivors = sorted(candidates, key=lambda candidate: candidate.merit)
    while len(survivors) > MIN_SURVIVORS:
        spreads = [_spread(one, survivors) for one in survivors]
        worst = max(range(len(survivors)), key=lambda place: spreads[place])
        if spreads[worst] <= min(one.jitter for one in survivors):
            break
        del survivors[worst]
    return survivors


def combine(survivors: Sequence[Candidate]) -> tuple[float, float]:
    """(offset, jitter) of the survivors, which are sorted, best first."""
    weights = [one.part / max(one.root_distance, 1e-9) for one in survivors]
    total = sum(weights)
    offset = sum(weight * one.offset for weight, one in zip(weights, survivors, strict=True)) / total
    jitter = sqrt(sum(weight * one.jitter**2 for weight, one in zip(weights, survivors, strict=True)) / total)
    return offset, hypot(jitter, _spread(survivors[0], survivors))


def _spread(one: Candidate, others: Sequence[Candidate]) -> float:
    if len(others) < 2:
        return 0.0
    return sqrt(sum((one.offset - other.offset) ** 2 for other in others) / (len(others) - 1))
