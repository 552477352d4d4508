"""A server's report about its clock: what counts as reported, and how the error grows (protocol R13)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsq.timing.server_state import ServerState, server_state
from tsq.wire.message import ClockQuality, Response, TimeSource
from tsq.wire.tlv import LEAP, ROOT_DELAY, ROOT_DISPERSION, SMEAR

T = 1_800_000_000_000_000_000


def state(quality=None, source=None, **pairs) -> ServerState | None:
    names = {"leap": LEAP, "delay": ROOT_DELAY, "dispersion": ROOT_DISPERSION, "smear": SMEAR}
    metadata = {names[key]: value for key, value in pairs.items()}
    return server_state(Response(bytes(16), 0, 0, quality, source, metadata), T)


def test_a_response_without_a_report_gives_no_state():
    assert state() is None
    assert server_state(Response(bytes(16), 0, 0, metadata={"tsq.t3": "0" * 32, "site": "us-east"}), T) is None


def test_clock_quality_and_time_source_are_kept():
    found = state(ClockQuality(3, 120, 15000, "lab"), TimeSource(2, 3, "ntp"))
    assert (found.stratum, found.source_type, found.source, found.clock_class, found.tag) == (2, 3, "ntp", 3, "lab")
    assert (found.error, found.beyond, found.leap, found.smeared) == (120e-6, False, None, None)


def test_root_delay_and_dispersion_are_preferred_to_clock_quality():
    found = state(ClockQuality(3, 121, 0), delay="100000", dispersion="70400")
    assert found.error == pytest.approx(120.4e-6)


def test_a_saturated_error_is_unknown_unless_metadata_has_it():
    assert (state(ClockQuality(3, 65535, 0)).error, state(ClockQuality(3, 65535, 0)).beyond) == (None, True)
    found = state(ClockQuality(3, 65535, 0), delay="0", dispersion="2000000000")
    assert (found.error, found.beyond) == (2.0, False)


@pytest.mark.parametrize("pairs", [{}, {"delay": "0", "dispersion": "0"}, {"delay": "5"}, {"dispersion": "5"}])
def test_a_zero_error_and_half_a_report_count_as_not_reported(pairs):
    found = state(ClockQuality(0, 0, 0), **pairs)
    assert (found.error, found.beyond) == (None, False)


def test_the_error_grows_with_the_time_since_the_report():
    slow, fast = state(ClockQuality(3, 100, 10)), state(ClockQuality(3, 100, 50000))
    assert slow.error_at(T) == pytest.approx(100e-6)
    assert slow.error_at(T + 10**10) == slow.error_at(T - 10**10) == pytest.approx(100e-6 + 150e-6)
    assert fast.error_at(T + 10**10) == pytest.approx(100e-6 + 500e-6)
    assert ServerState(T).error_at(T) is None


def test_a_saturated_drift_counts_as_the_largest_possible():
    assert state(ClockQuality(3, 100, 65534)).error_at(T + 10**10) == pytest.approx(100e-6 + 655.34e-6)
    assert state(ClockQuality(3, 100, 65535)).error_at(T + 10**10) == pytest.approx(100e-6 + 10e-3)


@pytest.mark.parametrize(
    ("text", "leap"), [("0", 0), ("1", 1), ("2", 2), ("3", 3), ("4", None), ("", None), ("-1", None), ("٣", None)]
)
def test_leap_is_one_of_four(text, leap):
    assert state(None, TimeSource(1, 1), leap=text).leap == leap


@pytest.mark.parametrize(("text", "smeared"), [("0", False), ("1", True), ("2", None), ("yes", None), ("", None)])
def test_smear_is_yes_no_or_not_reported(text, smeared):
    assert state(None, TimeSource(1, 1), smear=text).smeared is smeared


@pytest.mark.parametrize(
    ("pairs", "ignored"),
    [
        ({"leap": "0", "delay": "1", "dispersion": "1", "smear": "0"}, 0),
        ({"leap": "4", "delay": "1", "dispersion": "1"}, 1),
        ({"leap": "", "delay": "-1", "dispersion": "1e3", "smear": "true"}, 4),
        ({"delay": "1" * 19, "dispersion": "٣"}, 2),
    ],
)
def test_values_in_another_format_are_ignored_and_counted(pairs, ignored):
    found = state(ClockQuality(1, 7, 10), TimeSource(1, 1), **pairs)
    assert found.ignored == ignored
    assert found.error == pytest.approx(7e-6 if ignored > 1 else 1.5e-9)
    # Also where nothing else is reported.
    assert state(**pairs).ignored == ignored


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=5), st.text(max_size=5))
def test_any_text_is_accepted_and_gives_a_positive_finite_error_or_none(delay, dispersion, leap, smear):
    found = state(delay=delay, dispersion=dispersion, leap=leap, smear=smear)
    if found is not None and found.error is not None:
        assert 0 < found.error <= 1.5e9
