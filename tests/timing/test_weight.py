"""What claims weigh: a server may make itself count less, never more than the others (error-bounds.md, "What claims weigh")."""

import random

import pytest

from tsq.timing.cluster import Candidate, combine
from tsq.timing.filter import Estimate
from tsq.timing.intersection import Interval, majority
from tsq.timing.sample import Sample
from tsq.timing.selection import Mark, Source, select
from tsq.timing.server_state import ServerState
from tsq.timing.weight import common_error, counted_stratum, part_of, weighing_distance
from tsq.wire.tlv import ClockClass, SourceType

NOW = 1_800_000_000_000_000_000
SEEDS = range(200)


def source(number: int, offset: float, path: float, error: float, **state) -> Source:
    """A source `path` seconds of bound away, whose server claims this error."""
    server = ServerState(NOW, **({"stratum": 2, "error": error} | state))
    interval = Interval(offset - path - error, offset + path + error)
    found = Estimate(offset, path + error, 2 * path, 1e-3, Sample(NOW), server, error, True, NOW, interval)
    return Source(f"s{number}", found, str(number))


def weights(*claims: tuple[float, float]) -> list[float]:
    """Of servers with these (path, error), but for rounding errors."""
    common = common_error([error for _, error in claims], majority(len(claims)))
    return [float(f"{1 / weighing_distance(path + error, error, common):.9g}") for path, error in claims]


def test_the_common_error_covers_the_claims_of_a_majority():
    assert common_error([5.0], 1) == 5.0
    assert common_error([5.0, 1.0], 2) == 5.0
    assert common_error([0.0, 7.0, 3.0], 2) == 3.0
    assert common_error([0.0, 0.0, 3.0, 4.0], 3) == 3.0
    assert common_error([0.0, 0.0, 3.0, 4.0, 9.0], 3) == 3.0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_claim_never_raises_a_weight_above_those_of_others_that_are_as_near(seed):
    rng = random.Random(seed)
    others = [(rng.uniform(1e-5, 1e-2), 10 ** rng.uniform(-6, -1)) for _ in range(rng.randint(2, 8))]
    path = rng.uniform(1e-5, 1e-2)
    claims = [0.0, *sorted(10 ** rng.uniform(-9, 0) for _ in range(20))]
    own = [weights(*others, (path, claim))[-1] for claim in claims]
    assert own == sorted(own, reverse=True)
    as_near = weights(*((path, error) for _, error in others), (path, 0.0))
    assert as_near[-1] == max(as_near)
    # It shares that place with so many that there is an honest one among them.
    assert as_near.count(max(as_near)) >= majority(len(as_near))


@pytest.mark.parametrize("seed", SEEDS)
def test_liars_that_claim_to_be_perfect_pull_no_more_than_their_number(seed):
    """They stay within the honest servers' intervals, where nothing shows that they lie."""
    rng = random.Random(seed)
    total = rng.randint(3, 9)
    liars = rng.randint(1, (total - 1) // 2)
    error, lie = 10 ** rng.uniform(-4, -2), rng.choice([-1, 1])
    sources = [source(number, rng.uniform(-1e-5, 1e-5), 1e-4, error) for number in range(total - liars)]
    sources += [
        source(total - number, lie * 0.9 * error, 1e-4, 1e-9, stratum=1, clock_class=ClockClass.GNSS) for number in range(liars)
    ]
    rng.shuffle(sources)
    chosen = select(sources, NOW)
    assert chosen.agreed.interval.low <= 0.0 <= chosen.agreed.interval.high
    kept = [one.source.estimate for one in chosen.survivors]
    false = sum(abs(one.offset) > 1e-4 for one in kept if error > 2e-4)
    assert abs(chosen.agreed.offset) <= 0.9 * error * max(false, liars) / len(kept) + 1e-5 + 1e-12


@pytest.mark.parametrize("seed", SEEDS)
def test_a_falseticker_does_not_win_by_what_it_claims(seed):
    rng = random.Random(seed)
    honest = [source(number, rng.uniform(-1e-5, 1e-5), 1e-3, 1e-3) for number in range(rng.randint(2, 6))]
    claim = {"stratum": rng.choice([1, 2, 15]), "clock_class": rng.choice(list(ClockClass)), "source_type": rng.randint(0, 9)}
    false = source(99, rng.choice([-1, 1]) * rng.uniform(0.01, 10.0), rng.uniform(0, 1e-3), 10 ** rng.uniform(-9, -4), **claim)
    sources = [*honest, false]
    rng.shuffle(sources)
    chosen = select(sources, NOW)
    assert [one.source.name for one in chosen.falsetickers] == ["s99"]
    assert abs(chosen.agreed.offset) <= 1e-5


def test_the_best_mark_is_not_got_by_a_claimed_stratum():
    near, far = source(0, 0.0, 1e-4, 1e-3), source(1, 0.0, 2e-4, 1e-3)
    liar = source(2, 0.0, 5e-3, 1e-9, stratum=1)
    chosen = select([liar, far, near], NOW)
    assert [one.mark for one in chosen.verdicts] == [Mark.COMBINED, Mark.COMBINED, Mark.BEST]
    # A worse one than the others' counts as it is.
    worse = select([source(0, 0.0, 1e-4, 1e-3, stratum=5), far, source(2, 0.0, 5e-3, 1e-3)], NOW)
    assert [one.mark for one in worse.verdicts] == [Mark.COMBINED, Mark.BEST, Mark.COMBINED]
    assert counted_stratum(None, 2) is None
    assert counted_stratum(3, None) == 3


@pytest.mark.parametrize(
    ("state", "part"),
    [
        ({"clock_class": ClockClass.HOLDOVER}, 0.5),
        ({"source_type": SourceType.MANUAL}, 0.5),
        ({"clock_class": ClockClass.HOLDOVER, "source_type": SourceType.MANUAL}, 0.5),
        ({"clock_class": ClockClass.GNSS, "source_type": SourceType.GPS}, 1.0),
        ({"clock_class": 77, "source_type": 77}, 1.0),
        ({}, 1.0),
    ],
)
def test_class_and_source_can_only_lower_a_weight(state, part):
    assert part_of(ServerState(NOW, **state)) == part <= part_of(None)


def test_a_server_in_holdover_counts_half():
    held = Candidate(0, 0.0, 1.0, 0.0, part=0.5)
    assert combine([held, Candidate(1, 3.0, 1.0, 0.0)])[0] == pytest.approx(2.0)
    pair = [source(0, 0.0, 1e-3, 1e-3), source(1, 3e-4, 1e-3, 1e-3, clock_class=ClockClass.HOLDOVER)]
    assert select(pair, NOW).agreed.offset == pytest.approx(1e-4)
