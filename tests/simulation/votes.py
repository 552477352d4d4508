"""Selections with a minority of liars, who also lie about leap seconds, stratum and smearing.

Without exchanges: each source has one sample, made to fit. True time is 0; for honest sources that smear, smeared time.

    tight     liars close together inside the span of the honest intervals; they claim stratum 1 and announce a leap second
    smear     honest sources that smear and others that do not; the liars join one of the groups
"""

from collections import Counter
from dataclasses import dataclass, field
from random import Random

from tsq.timing.filter import estimate
from tsq.timing.sample import make_sample
from tsq.timing.selection import Selection, Source, select
from tsq.timing.server_state import ServerState

VOTES = ("tight", "smear")
T = 1_800_000_000_000_000_000
US = 1000


@dataclass
class Votes:
    """The results."""

    answered: int = 0
    violations: Counter[str] = field(default_factory=Counter)


@dataclass
class Voter:
    """A source with the interval that it claims, ns, and its report."""

    middle_ns: int
    reach_ns: int
    lies: bool
    stratum: int
    leap: int
    smeared: bool | None
    known: bool = True

    def source(self, number: int) -> Source:
        """The input of the selection."""
        error = 1e-9 if self.known else None
        state = ServerState(T, stratum=self.stratum, leap=self.leap, smeared=self.smeared, error=error)
        at_ns = T + self.reach_ns + self.middle_ns
        sample = make_sample(T, at_ns, at_ns, T + 2 * self.reach_ns, server=state)
        return Source(f"server {number}", estimate([sample], 1e-6))


def run_votes(kind: str, rng: Random, selections: int) -> Votes:
    """Run this number of selections of one kind."""
    votes = Votes()
    for _ in range(selections):
        smear_ns = int(rng.choice([-1, 1]) * rng.uniform(1e5, 5e8)) if kind == "smear" else 0
        voters = _tight(rng) if kind == "tight" else _smear(rng, smear_ns)
        rng.shuffle(voters)
        _judge(voters, select([voter.source(number) for number, voter in enumerate(voters)]), smear_ns, votes)
    return votes


def _honest(rng: Random, truth_ns: int = 0, smeared: bool | None = False) -> Voter:
    reach_ns = int(10 ** rng.uniform(4.5, 7))
    middle_ns = truth_ns + int(rng.uniform(-1, 1) * reach_ns)
    return Voter(middle_ns, reach_ns, False, rng.randint(2, 4), 0, smeared, rng.random() < 0.8)


def _numbers(rng: Random) -> tuple[int, int]:
    sources = rng.randint(3, 9)
    return sources, rng.randint(1, (sources - 1) // 2)


def _tight(rng: Random) -> list[Voter]:
    sources, liars = _numbers(rng)
    honest = [_honest(rng) for _ in range(sources - liars)]
    low = min(one.middle_ns - one.reach_ns for one in honest)
    high = max(one.middle_ns + one.reach_ns for one in honest)
    at_ns = int(rng.uniform(low, high))
    return honest + [Voter(at_ns + rng.randint(-US, US), rng.randint(2, 20) * US, True, 1, 1, False) for _ in range(liars)]


def _smear(rng: Random, smear_ns: int) -> list[Voter]:
    sources, liars = _numbers(rng)
    voters = []
    for _ in range(sources - liars):
        smeared = rng.random() < 0.5
        voters.append(_honest(rng, smear_ns if smeared else 0, True if smeared else rng.choice([None, False])))
    lie_ns, smeared = int(rng.choice([-1, 1]) * 10 ** rng.uniform(5, 9)), rng.random() < 0.5
    return voters + [Voter(lie_ns, rng.randint(2, 5000) * US, True, 1, 1, smeared) for _ in range(liars)]


def _judge(voters: list[Voter], chosen: Selection, smear_ns: int, votes: Votes) -> None:
    found = chosen.agreed
    if found is None:
        # With smeared and unsmeared sources there may be no majority; without, there always is one.
        votes.violations["silent"] += not smear_ns
        return
    votes.answered += 1
    honest = [voter for voter in voters if not voter.lies]
    truth = smear_ns / 1e9 if found.smeared else 0.0
    votes.violations["bound"] += not found.interval.low <= truth <= found.interval.high
    votes.violations["offset"] += abs(found.offset - truth) > found.root_distance
    votes.violations["leap"] += found.leap == 1
    votes.violations["stratum"] += found.stratum is not None and found.stratum < min(voter.stratum for voter in honest)
    # The bound depends on all overlapping sources, so all of them must have reported their own error.
    used = [v for v in chosen.verdicts if (v.interval is not None and v.unused is None) or v.mark == "-"]
    votes.violations["known"] += found.server_errors_known and not all(v.source.estimate.server_error_known for v in used)
