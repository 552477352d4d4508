"""Samples: the formulas, and the checks in their order (protocol R8, R11; RFC 5905 §8)."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsq.timing.local_clock import TOLERANCE
from tsq.timing.sample import Reason, Sample, StampSource, make_sample

T = 1_800_000_000_000_000_000
DAY = 86400 * 10**9


def sample(receive=10, send=20, arrive=30, **options):
    """T1 = T; the others in ns after it."""
    return make_sample(T, T + receive, T + send, T + arrive, **options)


def test_offset_and_delay_are_those_of_the_rfc():
    found = sample(1_000_000, 1_200_000, 1_400_000)
    assert found.offset == pytest.approx(((1_000_000 - 0) + (1_200_000 - 1_400_000)) / 2e9, abs=1e-15)
    assert found.delay == pytest.approx((1_400_000 - 200_000) / 1e9, abs=1e-15)
    assert found.valid


@given(st.integers(-(10**12), 10**12), st.integers(0, 10**8), st.integers(0, 10**6))
def test_symmetric_paths_give_the_servers_offset_exactly(offset_ns, there, work):
    found = sample(there + offset_ns, there + work + offset_ns, 2 * there + work)
    assert round(found.offset * 1e9) == offset_ns
    assert found.valid


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(-(10**10), 10**10), st.integers(0, 10**7))
def test_the_true_offset_is_within_the_root_distance(there, back, offset_ns, work):
    found = sample(there + offset_ns, there + work + offset_ns, there + work + back)
    assert found.valid
    assert abs(found.offset - offset_ns / 1e9) <= found.root_distance


@pytest.mark.parametrize("beyond_ns", range(1, 2000, 7))
def test_the_bound_holds_for_the_offset_as_a_float_has_it(beyond_ns):
    # A float of 30 years has a resolution of 120 ns; the delay is 2 ns, and the bound without the rounding error even less.
    offset_ns = 946_080_000 * 10**9 + beyond_ns
    found = sample(1 + offset_ns, 1 + offset_ns, 2, offset_limit=float("inf"))
    assert found.valid
    assert abs(Fraction(found.offset) - Fraction(offset_ns, 10**9)) <= Fraction(found.root_distance)


def test_nanoseconds_are_not_lost_in_large_times():
    assert sample(0, 0, 3, precision_ns=1).offset == -1.5e-9
    assert sample(0, 0, 3, precision_ns=1).delay == 3e-9


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        ((10, 9, 30), Reason.SEND_BEFORE_RECEIVE),
        ((10, 20, -1), Reason.ANSWER_BEFORE_REQUEST),
        ((10, 32, 20), Reason.NEGATIVE_DELAY),
        ((DAY + 1, DAY + 1, 0), Reason.OFFSET_LIMIT),
        ((-DAY - 1, -DAY - 1, 0), Reason.OFFSET_LIMIT),
        ((DAY, DAY, 0), None),
        ((10, 10, 0), None),
        ((10, 31, 20), None),
    ],
)
def test_each_check_has_its_reason(times, reason):
    assert sample(*times).reason is reason
    assert sample(*times).valid is (reason is None)


def test_the_first_check_that_fails_gives_the_reason():
    # All four faults at once, then one fewer each time.
    assert sample(3 * DAY, 3 * DAY - 1, -1).reason is Reason.SEND_BEFORE_RECEIVE
    assert sample(3 * DAY, 3 * DAY, -10).reason is Reason.ANSWER_BEFORE_REQUEST
    assert sample(3 * DAY, 3 * DAY + 10, 5).reason is Reason.NEGATIVE_DELAY
    assert sample(3 * DAY, 3 * DAY, 5).reason is Reason.OFFSET_LIMIT


@pytest.mark.parametrize("delay_ns", [-50, -49, 0, 49, 50])
def test_a_delay_within_the_precision_is_the_precision(delay_ns):
    assert sample(10, 110, 100 + delay_ns, precision_ns=50).delay == 50e-9


@pytest.mark.parametrize(("delay_ns", "valid"), [(-51, False), (51, True)])
def test_a_delay_beyond_the_precision_is_kept(delay_ns, valid):
    found = sample(10, 110, 100 + delay_ns, precision_ns=50)
    assert found.valid is valid
    assert found.delay == delay_ns / 1e9


def test_a_rejected_sample_keeps_what_was_measured():
    found = sample(DAY * 2, DAY * 2, 10)
    assert found.offset == pytest.approx(2 * 86400)
    assert (found.t2_ns, found.t3_ns, found.t4_ns) == (T + 2 * DAY, T + 2 * DAY, T + 10)


def test_dispersion_is_both_precisions_and_the_frequency_tolerance():
    found = sample(10, 20, 10**9, precision_ns=100)
    assert found.dispersion == pytest.approx(101e-9 + TOLERANCE, rel=1e-12)
    assert found.root_distance == pytest.approx(found.delay / 2 + found.dispersion)


def test_sources_are_kept():
    found = sample(t1_source=StampSource.KERNEL, t4_source=StampSource.HARDWARE)
    assert (found.t1_source, found.t4_source) == (StampSource.KERNEL, StampSource.HARDWARE)


def test_a_sample_without_an_answer_has_no_numbers():
    found = Sample(T, reason=Reason.NO_ANSWER)
    assert not found.valid
    assert found.root_distance is None
    assert found.offset is found.delay is None
