"""The selection: the verdict on each source, the agreed offset and its bound (RFC 5905 §11.2; fault cases 47, 48, 62)."""

from dataclasses import replace
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsq.client.result import HostResult, selection
from tsq.errors import ConfigError
from tsq.options import Target
from tsq.timing.filter import estimate
from tsq.timing.sample import make_sample
from tsq.timing.selection import Criteria, Mark, NoTime, Source, Unused, select
from tsq.timing.server_state import ServerState

T = 1_800_000_000_000_000_000
US = 1000


def source(name, offset_us=0, delay_us=1000, *, error_us=100, at_ns=T, samples=1, identity="", assumed=0.0, **reported):
    """A source with equal samples."""
    there = delay_us * US // 2
    at = there + offset_us * US
    state = ServerState(at_ns, **{"stratum": 2, "error": error_us / 1e6, **reported}) if error_us is not None else None
    found = [make_sample(at_ns, at_ns + at, at_ns + at, at_ns + 2 * there, server=state) for _ in range(samples)]
    return Source(name, estimate(found, assumed), identity)


@pytest.mark.parametrize("wanted", [0, -3])
def test_no_fewer_than_one_source_can_be_wanted(wanted):
    with pytest.raises(ConfigError, match=f"minimum of {wanted} sources"):
        Criteria(min_sources=wanted)


def marks(chosen):
    return "".join(verdict.mark for verdict in chosen.verdicts)


def reasons(chosen):
    return [verdict.unused for verdict in chosen.verdicts]


def test_without_an_estimate_there_is_no_time():
    assert select([]).problem is NoTime.NO_SOURCE
    chosen = select([Source("dead", detail="no answer")])
    assert (chosen.agreed, chosen.problem, chosen.at_ns) == (None, NoTime.NO_SOURCE, None)
    assert reasons(chosen) == [Unused.NO_ESTIMATE]
    assert chosen.verdicts[0].detail == "no answer"


def test_a_single_source_is_used_with_its_full_root_distance():
    chosen = select([source("one", 5)])
    found = chosen.agreed
    assert marks(chosen) == "*"
    assert found.offset == pytest.approx(5e-6)
    # Half the delay, the dispersion, the server's own error.
    assert found.root_distance == pytest.approx(600e-6, rel=1e-3)
    assert (found.compared, found.tolerated, found.survivors) == (1, 0, 1)


def test_two_must_overlap_and_their_overlap_is_the_bound():
    chosen = select([source("a", 0), source("b", 1000)])
    assert marks(chosen) == "*+"
    found = chosen.agreed
    assert (found.interval.low, found.interval.high) == (pytest.approx(400e-6, rel=1e-3), pytest.approx(600e-6, rel=1e-3))
    assert found.tolerated == 0
    apart = select([source("a", 0), source("b", 3000)])
    assert (apart.agreed, apart.problem, marks(apart)) == (None, NoTime.TWO_DISAGREE, "xx")
    assert reasons(apart) == [Unused.NO_MAJORITY] * 2


@pytest.mark.draft("7-11", "9-3", "9-4")
def test_47_one_liar_of_four_is_rejected_and_named():
    chosen = select([source("a"), source("b", 100), source("liar", 50_000), source("c", -100)])
    assert marks(chosen) == "*+x+"
    assert [verdict.source.name for verdict in chosen.falsetickers] == ["liar"]
    assert reasons(chosen)[2] is Unused.FALSETICKER
    assert abs(chosen.agreed.offset) < 100e-6
    assert (chosen.agreed.compared, chosen.agreed.tolerated) == (4, 1)


def test_47_two_liars_of_four_leave_no_majority_and_no_time():
    chosen = select([source("a"), source("liar", 50_000), source("b", 100), source("liar too", 50_000)])
    assert (chosen.agreed, chosen.problem) == (None, NoTime.NO_MAJORITY)
    assert marks(chosen) == "xxxx"


def test_48_a_liar_inside_the_intervals_is_bounded_by_the_root_distance():
    honest = [source("a", 0), source("b", 0)]
    for shift in range(-1100, 1101, 100):
        # It reports a very small error, and so weighs more than both others together.
        found = select([*honest, source("liar", shift, 2, error_us=1)]).agreed
        assert found.interval.low <= 0 <= found.interval.high
        assert abs(found.offset) <= found.root_distance
        assert abs(found.offset) <= 600.1e-6


def test_a_chatty_liar_counts_once():
    chatty = source("liar", 50_000, samples=1000)
    chosen = select([source("a"), source("b", 100), chatty, source("c", -100)])
    assert marks(chosen) == "*+x+"
    # The median of all samples would be the liar's offset.
    assert abs(chosen.agreed.offset) < 100e-6


def test_a_server_that_is_asked_twice_counts_once():
    liars = [source("liar", 50_000, identity="192.0.2.9 443"), source("by another name", 50_000, identity="192.0.2.9 443")]
    chosen = select([source("a", identity="192.0.2.1 443"), *liars, source("b", 10, identity="192.0.2.2 443")])
    assert marks(chosen) == "*x?+"
    assert reasons(chosen)[2] is Unused.DUPLICATE
    assert chosen.agreed.compared == 3


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("192.0.2.9", "::ffff:192.0.2.9", True),
        ("::FFFF:c000:209", "192.0.2.9", True),
        ("192.0.2.9", "::ffff:192.0.2.8", False),
        ("fe80::1%eth0", "fe80::1%eth1", False),
        ("64:ff9b::1", "::ffff:x", False),
    ],
)
def test_a_server_is_one_however_its_address_is_written(one, two, same):
    sample = make_sample(T, T + 500_000, T + 500_000, T + 1_000_000)
    named = (("a", one), ("b", two))
    chosen = selection([HostResult(Target(name), address=address, samples=(sample,)) for name, address in named])
    assert chosen.compared == (1 if same else 2)


@pytest.mark.parametrize("limit", [nan, 0.0, -1.0, -inf])
def test_a_limit_that_forbids_nothing_or_everything_is_refused(limit):
    with pytest.raises(ConfigError, match=r"for the root distance \(expected a number of seconds above 0\)"):
        Criteria(max_distance=limit)


@pytest.mark.draft("6.3.2-28")
@pytest.mark.parametrize(
    ("reported", "why"),
    [
        ({"stratum": 0}, Unused.UNSYNCHRONIZED),
        ({"stratum": 16}, Unused.STRATUM),
        ({"leap": 3}, Unused.LEAP_ALARM),
        ({"error": None, "beyond": True}, Unused.ERROR_BEYOND),
        ({"error": 2.0}, Unused.DISTANCE),
    ],
)
def test_a_source_that_reports_an_unusable_clock_is_never_used(reported, why):
    alone = select([source("bad", **reported)])
    assert (alone.agreed, alone.problem, marks(alone), reasons(alone)) == (None, NoTime.NO_SOURCE, "?", [why])
    chosen = select([source("a"), source("bad", **reported), source("b")])
    assert (marks(chosen), reasons(chosen)[1], chosen.agreed.compared) == ("*?+", why, 2)


@pytest.mark.parametrize(
    ("reported", "why"), [({"stratum": 2}, None), ({"stratum": 0}, Unused.UNSYNCHRONIZED), ({"leap": 3}, Unused.LEAP_ALARM)]
)
def test_a_single_hosts_result_has_the_reason_why_it_is_unusable(reported, why):
    """For a program that asks only one server."""
    state = ServerState(T, **({"error": 1e-6} | reported))
    result = HostResult(Target("a"), samples=(make_sample(T, T + 500_000, T + 500_000, T + 1_000_000, server=state),))
    assert result.estimate is not None
    assert result.unused is why
    assert HostResult(Target("a")).unused is Unused.NO_ESTIMATE
    assert replace(result, state_unknown=True).unused is (why or Unused.STATE_UNKNOWN)


def test_the_caller_sets_the_limits_of_root_distance_and_number():
    far = [source("far", 0, 400_000)]
    assert select(far).agreed is not None
    assert reasons(select(far, criteria=Criteria(max_distance=0.1))) == [Unused.DISTANCE]
    few = select([source("a"), source("b")], criteria=Criteria(min_sources=3))
    assert (few.agreed, few.problem, reasons(few)) == (None, NoTime.TOO_FEW, [Unused.TOO_FEW] * 2)


def test_62_smeared_and_unsmeared_are_not_mixed():
    plain = [source("a", 0, smeared=False), source("b", 100)]
    chosen = select([*plain, source("smears", 90, smeared=True)])
    assert marks(chosen) == "*+?"
    assert reasons(chosen)[2] is Unused.SMEAR
    assert chosen.agreed.smeared is False
    smears = [source("s", 0, smeared=True), source("t", 0, smeared=True), source("u", 0, smeared=True)]
    chosen = select([*plain, *smears])
    assert marks(chosen) == "??*++"
    assert chosen.agreed.smeared is True


def test_62_half_smeared_and_half_unsmeared_give_no_time():
    chosen = select([source("a"), source("s", smeared=True)])
    assert (chosen.agreed, chosen.problem, reasons(chosen)) == (None, NoTime.SMEAR, [Unused.SMEAR] * 2)


def tight_liars(**reports):
    """Three right sources, and two liars close together inside their intervals, which make the right ones outliers."""
    honest = [source(name, offset, 1000, stratum=2, leap=0) for name, offset in (("a", -300), ("b", 300), ("c", 0))]
    return [*honest, *(source(name, 100, 10, error_us=1, **reports) for name in ("liar", "liar too"))]


def test_liars_close_together_inside_the_others_intervals_decide_neither_leap_nor_stratum():
    chosen = select(tight_liars(leap=1, stratum=1))
    found = chosen.agreed
    assert (found.leap, found.stratum, found.compared) == (0, 2, 5)
    assert found.interval.low <= 0 <= found.interval.high
    # If the right sources do not report it, it is unknown.
    silent = [replace(one, estimate=replace(one.estimate, server=None)) for one in tight_liars(leap=1, stratum=1)[:3]]
    found = select([*silent, *tight_liars(leap=1, stratum=1)[3:]]).agreed
    assert (found.leap, found.stratum) == (None, None)


def test_own_errors_are_known_only_if_those_of_outliers_are_known_too():
    found = [source(str(number), offset, 400) for number, offset in enumerate((0, 1, 2))]
    outlier = source("outlier", 350, 1000, error_us=None, assumed=1e-4)
    chosen = select([*found, outlier])
    assert marks(chosen) == "*++-"
    assert not chosen.agreed.server_errors_known
    # A falseticker's error is no part of the bound.
    liar = source("liar", 50_000, 1000, error_us=None, assumed=1e-4)
    assert select([*found, liar]).agreed.server_errors_known


def test_the_stratum_is_the_best_that_a_majority_reaches():
    def of(*strata):
        return select([source(str(number), stratum=stratum) for number, stratum in enumerate(strata)]).agreed.stratum

    assert of(1) == 1
    assert of(1, 3) == 3
    assert of(1, 3, 2) == 2
    assert of(1, 1, 4, 4, 4) == 4
    assert of(1, None, None) is None


def test_liars_that_join_a_minority_of_smearing_servers_do_not_win():
    smeared = [source(name, 0, smeared=True) for name in ("a", "b")]
    chosen = select([*smeared, source("c", 0, smeared=False), *(source(name, 200_000, smeared=False) for name in ("x", "y"))])
    # Three of five do not smear, but only two of them agree; a majority needs three.
    assert (chosen.agreed, chosen.problem) == (None, NoTime.NO_MAJORITY)
    # Four of five do not smear, and three of them agree: the liar is a minority.
    honest = [source(name, 0, smeared=False) for name in ("a", "b", "c")]
    chosen = select([*honest, source("x", 200_000, smeared=False), source("d", 0, smeared=True)])
    assert marks(chosen) == "*++x?"


def test_the_number_of_usable_sources_is_given_without_an_agreed_time_too():
    apart = [source(str(number), 50_000 * number) for number in range(4)]
    assert (select(apart).problem, select(apart).compared) == (NoTime.NO_MAJORITY, 4)
    assert select([*apart[:1], source("s", smeared=True)]).compared == 2
    assert select(apart[:1], criteria=Criteria(min_sources=3)).compared == 1
    assert select([source("bad", stratum=0)]).compared == 0


def test_62_the_leap_indicator_is_that_of_a_majority():
    def of(*leaps):
        return select([source(str(number), leap=leap) for number, leap in enumerate(leaps)]).agreed.leap

    assert of(1) == 1
    assert of(1, 1, 0) == 1
    assert of(1, 0) is None
    assert of(None, None, 1) is None
    assert of(0, 0, None) == 0


def test_an_outlier_agrees_but_is_not_combined():
    found = [source(str(number), offset, 400) for number, offset in enumerate((0, 1, 2))]
    chosen = select([*found, source("outlier", 350, 1000)])
    assert marks(chosen) == "*++-"
    assert reasons(chosen)[3] is Unused.OUTLIER
    # Its interval counts for the majority.
    assert chosen.agreed.compared == 4


def test_an_unknown_own_error_is_assumed_and_marked():
    known, unknown = source("a"), source("b", error_us=None, assumed=0.01)
    assert unknown.estimate.root_distance == pytest.approx(0.0105, rel=1e-3)
    assert select([known]).agreed.server_errors_known
    assert not select([known, unknown]).agreed.server_errors_known


def test_bounds_are_aged_to_the_time_of_the_selection():
    one = [source("a")]
    now, later = select(one).agreed.root_distance, select(one, at_ns=T + 100 * 10**9).agreed.root_distance
    assert later - now == pytest.approx(15e-6 * 100, rel=1e-3)
    # All intervals of a selection are aged to the time of the newest estimate.
    chosen = select([source("old", at_ns=T), source("new", at_ns=T + 100 * 10**9)])
    old, new = (verdict.interval.high - verdict.interval.low for verdict in chosen.verdicts)
    assert old - new == pytest.approx(2 * 15e-6 * 100, rel=1e-3)


@given(
    st.lists(
        st.tuples(st.integers(-(10**7), 10**7), st.integers(2, 10**5), st.integers(0, 10**5), st.booleans()), min_size=1, max_size=9
    )
)
def test_every_selection_is_consistent(found):
    sources = [
        source(str(number), offset, delay, error_us=error, smeared=smeared)
        for number, (offset, delay, error, smeared) in enumerate(found)
    ]
    chosen = select(sources)
    assert (chosen.agreed is None) != (chosen.problem is None)
    assert [verdict.source for verdict in chosen.verdicts] == sources
    for verdict in chosen.verdicts:
        used = verdict.mark in (Mark.BEST, Mark.COMBINED)
        assert used == (verdict.unused is None)
    if chosen.agreed is not None:
        agreement = chosen.agreed
        assert marks(chosen).count("*") == 1
        assert agreement.survivors == len(chosen.survivors)
        assert agreement.interval.low <= agreement.offset <= agreement.interval.high
        assert agreement.root_distance == max(
            agreement.interval.high - agreement.offset, agreement.offset - agreement.interval.low
        )
        assert agreement.tolerated == (agreement.compared - 1) // 2
