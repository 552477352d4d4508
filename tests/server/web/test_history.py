"""The bounded history, and what is drawn and written from it."""

import itertools
import random
import re
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsq.host.keepers.sync_state import SyncState
from tsq.server.web import units
from tsq.server.web.drawing import HEIGHT, WIDTH, Chart, runs
from tsq.server.web.history import CAPACITY, COUNTED, LEAST_INTERVAL, MOST_INTERVAL, History, Point, point
from tsq.server.web.status import clock_chart, rate_chart
from tsq.wire.tlv import ClockClass, SourceType


def state_at(uptime: float, error: float | None = 1e-3, answered: int = 0) -> Point:
    return Point(1e9 + uptime, uptime, error, None, dict.fromkeys(COUNTED, answered), 1)


@pytest.mark.parametrize("hours", [0.1, 1, 5, 40])
def test_it_stays_bounded_and_covers_at_least_a_day(hours):
    history = History()
    source = random.Random(hours)
    errors: list[tuple[float, float]] = []
    for number in range(int(hours * 3600 / LEAST_INTERVAL)):
        uptime, error = number * LEAST_INTERVAL, source.random()
        errors.append((uptime, error))
        history.add(state_at(uptime, error, number))
        assert len(history.points) <= CAPACITY
    points = history.points
    uptimes = [one.uptime for one in points]
    assert uptimes == sorted(uptimes)
    assert uptimes[-1] == errors[-1][0]
    assert points[-1].counts["answered"] == len(errors) - 1
    assert history.interval <= MOST_INTERVAL
    covered = uptimes[-1] - uptimes[0]
    assert covered >= min(errors[-1][0], 86400)
    # No bound has become smaller: each part holds the worst clock that it had.
    for earlier, later in itertools.pairwise(points):
        within = errors[round(earlier.uptime / LEAST_INTERVAL) + 1 : round(later.uptime / LEAST_INTERVAL) + 1]
        assert later.error >= max(error for _, error in within)


def test_a_time_without_a_known_clock_stays_one():
    history = History()
    for number in range(2000):
        history.add(state_at(number * LEAST_INTERVAL, None if number == 1000 else 1e-3))
    assert [one for one in history.points if one.error is None]


def test_rates_are_those_of_the_last_minute():
    history = History()
    assert history.rate("answered") == 0
    history.add(state_at(0))
    assert history.rate("answered") == 0
    for number in range(1, 100):
        history.add(state_at(number * 5.0, 1e-3, 50 * min(number, 80)))
        assert history.rate("answered") == pytest.approx(10.0) or number > 80
    assert history.rate("answered") == 0


def test_a_clock_that_is_not_synchronized_has_no_bound():
    known = SyncState("chrony", 2, 0, SourceType.NTP, ClockClass.UNKNOWN, "", 0.002, 0.003, correction=-0.001)
    assert point(1.0, 0.0, known, {}, 3).error == pytest.approx(0.004)
    assert point(1.0, 0.0, known, {}, 3).correction == -0.001
    lost = SyncState("chrony", 0, 3, SourceType.UNKNOWN, ClockClass.UNKNOWN, "", 0.0, 16.0, correction=1.0)
    for state in (lost, None):
        assert point(1.0, 0.0, state, {}, 3).error is point(1.0, 0.0, state, {}, 3).correction is None


@given(
    st.lists(
        st.tuples(st.one_of(st.none(), st.floats(0, 16)), st.floats(-1, 1), st.integers(0, 10**9)), min_size=1, max_size=50
    )
)
def test_charts_can_be_drawn_of_everything_and_stay_in_their_frame(values):
    points = [
        Point(1e9 + n, float(n), error, None if error is None else correction, dict.fromkeys(COUNTED, n + answered), 0)
        for n, (error, correction, answered) in enumerate(values)
    ]
    for svg in (clock_chart(points), rate_chart(points)):
        assert "nan" not in svg
        assert "inf" not in svg
        for pair in re.findall(r"(-?[\d.]+),(-?[\d.]+)", " ".join(re.findall(r'points="([^"]+)"', svg))):
            assert 0 <= float(pair[0]) <= WIDTH
            assert 0 <= float(pair[1]) <= HEIGHT


def test_the_band_contains_the_reported_error_and_the_curve_its_middle():
    points = [Point(1e9, 0.0, 3e-6, 1e-6, {}, 0), Point(1e9 + 60, 60.0, 3e-6, 1e-6, {}, 0)]
    svg = clock_chart(points)
    (band,) = re.findall(r'class="band" points="([^"]+)"', svg)
    (curve,) = re.findall(r'class="curve" points="([^"]+)"', svg)
    ys = {float(one.split(",")[1]) for one in band.split()}
    middle = float(curve.split()[0].split(",")[1])
    # The correction is to be added: the clock is 1 µs behind; the rest of the bound lies around that.
    zero = float(re.search(r'class="axis" x1="0" x2="\d+" y1="([\d.]+)"', svg)[1])
    assert middle > zero
    assert (min(ys) + max(ys)) / 2 == pytest.approx(middle, abs=0.2)
    assert (max(ys) - middle) / (middle - zero) == pytest.approx(2, rel=0.05)


def test_a_gap_is_not_bridged():
    assert runs([(1.0,), None, None, (2.0,), (3.0,), None]) == [[(1.0,)], [(2.0,), (3.0,)]]
    points = [state_at(0), state_at(1), state_at(2, None), state_at(3), state_at(4)]
    assert clock_chart(points).count("<polygon") == 2


def test_ticks_contain_what_is_drawn():
    for low, high in [(0.0, 1.0), (-3.3, 3.3), (0.0, 71.0), (-1e-9, 1e-9), (0.0, 0.0)]:
        ticks = Chart("", (0.0, 1.0), low, high).ticks
        assert ticks[0] <= low
        assert ticks[-1] >= high
        assert 2 <= len(ticks) <= 8


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.01e-6, "13 µs"), (3.41e-3, "3.5 ms"), (1.0, "1.0 s"), (1e-9, "1.0 ns"), (0.0, "0.0 ns"), (99e-6, "99 µs"), (16.0, "16 s")],
)
def test_bounds_are_rounded_up(seconds, text):
    assert units.bound(seconds) == text


def test_numbers_and_times_as_people_read_them():
    assert units.span(93784) == "1 d 02:03:04"
    assert units.span(-1) == "00:00:00"
    assert units.rate(0) == "0"
    assert units.rate(0.0123) == "0.012"
    assert units.rate(7123.4) == "7\u202f123"
    assert units.count(1234567) == "1\u202f234\u202f567"
    assert units.offset(-3.2e-6) == "−3.2 µs"
    assert units.when(0) == "1970-01-01 00:00:00 UTC"
    assert units.when(inf) == units.when(1e18) == "unknown"
