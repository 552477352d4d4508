"""NTP timestamps <-> nanoseconds for all numbers: exact, in the nearest era, and never anything but our own error (R9)."""

import datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support import oracle
from tests.support.oracle import ERA, INT64_MAX, INT64_MIN, NS, SAFE_NS
from tsq._fast import ns_from_ntp, ntp_from_ns
from tsq.errors import MalformedMessage

ERA_EDGE_NS = int(datetime.datetime(2036, 2, 7, 6, 28, 16, tzinfo=datetime.UTC).timestamp()) * NS
HALF_ERA_NS = (1 << 31) * NS

int64 = st.integers(INT64_MIN, INT64_MAX)
held = st.integers(-SAFE_NS, SAFE_NS)
uint64 = st.integers(0, ERA - 1)
near_edges = st.builds(
    lambda edge, step: max(INT64_MIN, min(INT64_MAX, edge + step)),
    st.sampled_from([0, ERA_EDGE_NS, ERA_EDGE_NS - 2 * HALF_ERA_NS, ERA_EDGE_NS + 2 * HALF_ERA_NS, INT64_MIN, INT64_MAX, SAFE_NS]),
    st.integers(-3 * NS, 3 * NS),
)


def decoded(ntp: int, pivot_ns: int) -> int | None:
    try:
        return ns_from_ntp(ntp, pivot_ns)
    except MalformedMessage:
        return None


def assert_as_oracle(ntp: int, pivot_ns: int) -> None:
    right = oracle.ns_from_ntp(ntp, pivot_ns)
    found = decoded(ntp, pivot_ns)
    fits = oracle.fits(right)
    if fits is None:
        assert found in (None, right)
    else:
        assert found == (right if fits else None)


@given(int64 | near_edges)
@example(INT64_MIN)
@example(INT64_MAX)
@example(-1)
def test_encoding_is_the_oracles(unix_ns):
    assert ntp_from_ns(unix_ns) == oracle.ntp_from_ns(unix_ns)


@given(uint64, int64 | near_edges)
@example(0, INT64_MIN)
@example(0, INT64_MAX)
@example(ERA - 1, INT64_MIN)
@example(ERA - 1, INT64_MAX)
@settings(max_examples=300)
def test_decoding_is_the_oracles(ntp, pivot_ns):
    assert_as_oracle(ntp, pivot_ns)


@given(near_edges, st.integers(-3, 3), near_edges)
def test_decoding_near_every_edge_is_the_oracles(unix_ns, units, pivot_ns):
    assert_as_oracle((oracle.ntp_from_ns(unix_ns) + units) % ERA, pivot_ns)


@given(held | near_edges.filter(lambda ns: -SAFE_NS <= ns <= SAFE_NS))
@example(SAFE_NS)
@example(-SAFE_NS)
def test_round_trip_is_exact(unix_ns):
    assert ns_from_ntp(ntp_from_ns(unix_ns), unix_ns) == unix_ns


@given(held, st.integers(-HALF_ERA_NS + 1, HALF_ERA_NS - 1))
def test_round_trip_is_exact_with_any_pivot_up_to_68_years_away(unix_ns, away_ns):
    pivot_ns = max(INT64_MIN, min(INT64_MAX, unix_ns + away_ns))
    assert ns_from_ntp(ntp_from_ns(unix_ns), pivot_ns) == unix_ns


@given(uint64, held)
def test_the_decoded_time_is_never_more_than_half_an_era_from_the_pivot(ntp, pivot_ns):
    found = decoded(ntp, pivot_ns)
    assert found is None or abs(found - pivot_ns) <= HALF_ERA_NS


@given(held, st.integers(0, NS))
def test_rounding_never_turns_the_order_of_two_times(unix_ns, later):
    one, other = ntp_from_ns(unix_ns), ntp_from_ns(min(unix_ns + later, INT64_MAX))
    assert (other - one) % ERA < ERA // 2


@given(uint64, st.integers(0, 8))
def test_a_later_timestamp_is_never_an_earlier_time(ntp, units):
    pivot_ns = oracle.ns_from_ntp(ntp, 0)
    assert ns_from_ntp((ntp + units) % ERA, pivot_ns) >= ns_from_ntp(ntp, pivot_ns)


@given(held)
def test_encoding_rounds_up_by_less_than_one_unit(unix_ns):
    exact = (unix_ns + oracle.UNIX_EPOCH * NS) * oracle.UNITS_PER_SECOND
    late = (ntp_from_ns(unix_ns) * NS - exact) % (ERA * NS)
    assert 0 <= late < NS


@pytest.mark.parametrize("step_ns", [-NS, -1, 0, 1, NS])
@pytest.mark.parametrize("pivot_step_ns", [-86400 * NS, -1, 0, 1, 86400 * NS])
def test_the_era_edge_of_2036_is_uneventful(step_ns, pivot_step_ns):
    unix_ns = ERA_EDGE_NS + step_ns
    assert ns_from_ntp(ntp_from_ns(unix_ns), ERA_EDGE_NS + pivot_step_ns) == unix_ns


def test_the_era_begins_at_zero():
    assert ntp_from_ns(ERA_EDGE_NS) == 0
    assert ntp_from_ns(ERA_EDGE_NS - NS) == 0xFFFFFFFF << 32
    assert ntp_from_ns(0) == 2208988800 << 32


@pytest.mark.parametrize("pivot_ns", [INT64_MIN, INT64_MAX])
def test_a_time_that_64_bits_cannot_hold_is_malformed(pivot_ns):
    # Half an era beyond the last time that fits.
    ntp = (oracle.ntp_from_ns(pivot_ns) + (ERA // 4 if pivot_ns > 0 else -ERA // 4)) % ERA
    assert oracle.fits(oracle.ns_from_ntp(ntp, pivot_ns)) is False
    with pytest.raises(MalformedMessage):
        ns_from_ntp(ntp, pivot_ns)


@pytest.mark.parametrize("wrong", [None, "1", b"1"])
def test_another_type_is_a_type_error(wrong):
    with pytest.raises(TypeError):
        ntp_from_ns(wrong)
    with pytest.raises(TypeError):
        ns_from_ntp(wrong, 0)
    with pytest.raises(TypeError):
        ns_from_ntp(0, wrong)


def test_a_float_is_a_type_error_not_a_truncated_time():
    # Seconds instead of nanoseconds would otherwise be the start of 1970, silently.
    with pytest.raises(TypeError):
        ntp_from_ns(1.5)
    with pytest.raises(TypeError):
        ns_from_ntp(0, 1.5)


@pytest.mark.parametrize(("ntp", "pivot_ns"), [(-1, 0), (ERA, 0), (0, INT64_MAX + 1), (0, INT64_MIN - 1)])
def test_a_number_beyond_its_width_is_an_overflow_error(ntp, pivot_ns):
    with pytest.raises(OverflowError):
        ns_from_ntp(ntp, pivot_ns)


@pytest.mark.parametrize("unix_ns", [INT64_MIN - 1, INT64_MAX + 1])
def test_nanoseconds_beyond_64_bits_are_an_overflow_error(unix_ns):
    with pytest.raises(OverflowError):
        ntp_from_ns(unix_ns)
