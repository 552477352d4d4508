"""The cluster and combine algorithms (RFC 5905 §11.2.2, §11.2.3)."""

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsq.timing.cluster import MIN_SURVIVORS, Candidate, cluster, combine


def candidates(*offsets, distance=1.0, jitter=1e-3):
    return [Candidate(number, offset, distance, jitter) for number, offset in enumerate(offsets)]


def test_the_farthest_candidate_is_dropped_first_and_three_stay():
    assert {one.offset for one in cluster(candidates(0.0, 0.1, 0.9, 0.2, -0.8))} == {0.0, 0.1, 0.2}
    assert len(cluster(candidates(0.0, 5.0, -5.0))) == MIN_SURVIVORS


def test_no_candidate_is_dropped_while_noise_explains_the_spread():
    assert len(cluster(candidates(0.0, 0.1, 0.2, 0.3, 0.4, jitter=1.0))) == 5


def test_the_least_peer_jitter_is_the_limit_for_the_spread():
    steady = Candidate(0, 0.0, 1.0, 1e-6)
    noisy = [Candidate(number, offset, 1.0, 10.0) for number, offset in enumerate((0.1, 0.2, 0.9), 1)]
    # RFC 5905 §11.2.2: the largest selection jitter is compared with the least jitter of a peer.
    assert {one.number for one in cluster([steady, *noisy])} == {0, 1, 2}


def test_the_best_comes_first_by_stratum_then_distance():
    found = [Candidate(0, 0, 0.1, 1, 3), Candidate(1, 0, 0.5, 1, 2), Candidate(2, 0, 0.4, 1, 2), Candidate(3, 0, 0.01, 1)]
    assert [one.number for one in cluster(found)] == [2, 1, 0, 3]


def test_candidates_with_a_small_root_distance_weigh_more():
    offset, jitter = combine([Candidate(0, 0.0, 1.0, 0.0), Candidate(1, 4.0, 3.0, 0.0)])
    assert offset == pytest.approx(1.0)
    assert jitter == pytest.approx(4.0)
    assert combine([Candidate(0, 7.0, 0.0, 0.5)]) == (7.0, 0.5)


def test_jitter_is_the_noise_of_each_and_their_spread():
    assert combine(candidates(0.0, 0.0, jitter=0.25))[1] == pytest.approx(0.25)
    assert combine(candidates(0.0, 3.0, 3.0, jitter=4.0))[1] == pytest.approx(sqrt(16 + 9))


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(1e-6, 1), st.floats(1e-9, 1)), min_size=1, max_size=9))
def test_the_combined_offset_lies_among_those_of_the_survivors(found):
    survivors = cluster([Candidate(number, *each) for number, each in enumerate(found)])
    assert min(len(found), MIN_SURVIVORS) <= len(survivors) <= len(found)
    offset, jitter = combine(survivors)
    slack = 1e-12
    assert min(one.offset for one in survivors) - slack <= offset <= max(one.offset for one in survivors) + slack
    assert jitter >= 0
