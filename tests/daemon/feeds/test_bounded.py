"""Bounded time from a status: the interval contains the truth while the clock is slewed, stepped, asleep or at a leap second."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tsq
from tests.daemon.feeds import status
from tests.support.clockbound import Client
from tsq.daemon.feeds import bounded
from tsq.daemon.feeds.bounded import ClockBoundFeed, SegmentFeed, bound_of, update_of
from tsq.discipline.status import ClockStatus, Status
from tsq.host._segment import clocks
from tsq.host.clockbound import ClockBoundStatus
from tsq.host.segment import TimeStatus

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
MIDNIGHT = 20_000 * DAY
KEPT = [
    (ClockStatus.SYNCHRONIZED, TimeStatus.SYNCHRONIZED, ClockBoundStatus.SYNCHRONIZED),
    (ClockStatus.HOLDOVER, TimeStatus.HOLDOVER, ClockBoundStatus.FREE_RUNNING),
    (ClockStatus.FROZEN, TimeStatus.FROZEN, ClockBoundStatus.FREE_RUNNING),
]


def interval_of(update, later_ns: int) -> tuple[float, float]:
    """What a reader calculates so much later by the raw clock (docs/reference/now-segment.md)."""
    middle = later_ns * (1 + update.frequency)
    return update.earliest_ns + middle - later_ns * update.growth, update.latest_ns + middle + later_ns * update.growth


# -------------------------------------------------------------------------------------------------------------- segment


@pytest.mark.parametrize(("kept", "expected", "_"), KEPT)
def test_the_interval_is_that_of_the_sources_not_of_the_clock(kept, expected, _):
    limits = {"earliest_ns": 10**18 - 7, "latest_ns": 10**18 + 9, "rate_low": 3e-6, "rate_high": 7e-6}
    update = update_of(status(status=kept, real_ns=5, raw_ns=77, **limits).tracking)
    assert (update.raw_ns, update.earliest_ns, update.latest_ns, update.status) == (77, 10**18 - 7, 10**18 + 9, expected)
    assert (update.frequency, update.growth) == (pytest.approx(5e-6), pytest.approx(2e-6))
    assert update.void_ns == 77 + 1000 * SECOND


@pytest.mark.parametrize(
    "changes", [{"status": ClockStatus.UNSYNCHRONIZED}, {"earliest_ns": None}, {"latest_ns": None}], ids=str
)
def test_without_limits_there_is_no_interval(changes):
    assert update_of(status(**changes).tracking).status is TimeStatus.UNSYNCHRONIZED


@given(
    low=st.floats(-1e-4, 1e-4), width=st.floats(0, 1e-4), where=st.floats(0, 1), rate=st.floats(0, 1),
    later=st.integers(0, 1000 * SECOND),
)
def test_the_truth_is_inside_at_any_later_time(low, width, where, rate, later):
    """The truth is anywhere between the limits, and runs at any rate that is possible."""
    limits = {"earliest_ns": 10**18, "latest_ns": 10**18 + 11_000_000, "rate_low": low, "rate_high": low + width}
    update = update_of(status(**limits).tracking)
    truth = 10**18 + where * 11e6 + later * (1 + low + rate * width)
    earliest, latest = interval_of(update, later)
    assert earliest - 300 <= truth <= latest + 300


@pytest.mark.parametrize("leap", [1, 2])
@pytest.mark.parametrize("left", [5000, 1100, 1000.01, 500, 60, 10.02, 9.99, 1, 0.001, 0, -0.001, -1, -9])
def test_the_truth_is_inside_around_a_leap_second(leap, left):
    bound = 0.002
    at_ns, wide_ns = MIDNIGHT - round(left * 1e9), round(bound * 1e9)
    update = update_of(status(leap=leap, earliest_ns=at_ns - wide_ns, latest_ns=at_ns + wide_ns).tracking)
    # It may not be used at a time when it would be wrong.
    void = (update.void_ns - update.raw_ns) / 1e9
    for later in (0, left / 2, left - bound, left - 0.0001, left, left + 0.0001, left + 9, void):
        if not 0 <= later <= void:
            continue
        earliest, latest = interval_of(update, round(later * 1e9))
        for wrong in (-1, -0.5, 0.5, 1):
            # Unix time without the leap second, and how that is counted.
            truth = at_ns + round((later + wrong * (bound + later * 15e-6)) * 1e9)
            if truth >= MIDNIGHT:
                truth += -SECOND if leap == 1 else SECOND
            assert earliest - 1000 <= truth <= latest + 1000
    if left > 10.01:
        assert update.latest_ns - update.earliest_ns <= 2 * bound * 1e9 + 2
    # A daemon that is alive publishes long before this.
    assert update.void_ns - update.raw_ns >= 9 * SECOND


def test_the_file_follows_each_status(tmp_path):
    path = str(tmp_path / "run" / "now")
    feed = SegmentFeed(path)
    for kept, expected, _ in KEPT:
        feed.publish(status(status=kept))
        assert tsq.now(path).status is expected
    feed.publish(status(status=ClockStatus.UNSYNCHRONIZED))
    assert tsq.now(path) == (-(2**63), 2**63 - 1, TimeStatus.UNSYNCHRONIZED)
    feed.close()


@pytest.fixture
def machine(monkeypatch):
    """Clocks of a machine that can sleep: raw, monotonic, boot, real. The feed alone sees them."""

    class Machine:
        def __init__(self) -> None:
            self.now = list(clocks())

        def wait(self, seconds: float) -> None:
            self.now = [at + round(seconds * 1e9) for at in self.now]

        def sleep(self, seconds: float) -> None:
            for clock in (2, 3):
                self.now[clock] += round(seconds * 1e9)

        def step(self, seconds: float) -> None:
            self.now[3] += round(seconds * 1e9)

        def status(self, **changes) -> Status:
            return status(raw_ns=self.now[0], real_ns=self.now[3], **changes)

    made = Machine()
    monkeypatch.setattr(bounded, "clocks", lambda: tuple(made.now))
    return made


class Written:
    """Takes what a feed writes, in place of the file."""

    def __init__(self, feed) -> None:
        self.all = []
        feed._segment = self

    def write(self, *what) -> None:
        self.all.append(what)

    @property
    def status(self):
        return self.all[-1][0].status


def test_fault_59_a_status_from_before_a_sleep_is_not_published(machine):
    feed = SegmentFeed("unused")
    written = Written(feed)
    feed.publish(machine.status())
    assert written.status is TimeStatus.SYNCHRONIZED
    before = machine.status()
    machine.sleep(3600)
    for _ in range(2):
        feed.publish(before)
        assert written.status is TimeStatus.DISRUPTED
        machine.wait(1)
    # Somebody has looked at the clock since.
    feed.publish(machine.status())
    assert written.status is TimeStatus.SYNCHRONIZED
    assert written.all[-1][2] - written.all[0][2] == 3600 * SECOND


def test_fault_60_a_step_of_the_clock_changes_nothing_as_the_raw_clock_counts(machine):
    feed = SegmentFeed("unused")
    written = Written(feed)
    before = machine.status()
    feed.publish(before)
    machine.wait(0.5)
    machine.step(7200)
    feed.publish(before)
    assert written.all[0][0] == written.all[1][0]
    assert written.all[1][1] - written.all[0][1] == 7200 * SECOND


def test_a_file_that_cannot_be_written_is_reported_once_and_tried_again(tmp_path, caplog):
    (tmp_path / "run").write_text("in the way")
    feeds = [SegmentFeed(str(tmp_path / "run" / "now")), ClockBoundFeed(str(tmp_path / "run" / "shm0"))]
    for _ in range(3):
        for feed in feeds:
            feed.publish(status())
    assert len(caplog.records) == 2
    (tmp_path / "run").unlink()
    for feed in feeds:
        feed.publish(status())
    assert tsq.now(str(tmp_path / "run" / "now")).status is TimeStatus.SYNCHRONIZED
    assert Client(tmp_path / "run" / "shm0").now()[2] == 1
    for feed in feeds:
        feed.close()


# ----------------------------------------------------------------------------------------------------------- ClockBound


@pytest.mark.parametrize(("kept", "_", "expected"), KEPT)
def test_clockbound_s_bound_is_that_of_the_system_clock(kept, _, expected):
    tracking = status(status=kept, bound=0.0050000001, bound_rate=17.5e-6).tracking
    bound = bound_of(tracking, 123, moved=False)
    assert (bound.as_of_ns, bound.void_ns, bound.bound_ns, bound.status) == (123, 123 + 1000 * SECOND, 5_000_001, expected)
    # The rate, and what the frequency may change by before the next bound.
    assert bound.drift_ppb == 17_501


@pytest.mark.parametrize(
    ("changes", "moved"), [({"status": ClockStatus.UNSYNCHRONIZED}, False), ({"bound": None}, False), ({}, True)], ids=str
)
def test_clockbound_s_clients_learn_when_nothing_is_known(changes, moved):
    bound = bound_of(status(**changes).tracking, 123, moved=moved)
    assert bound.status is ClockBoundStatus.UNKNOWN
    assert bound.bound_ns > 10**18 - 1


def test_clockbound_s_drift_is_always_one_that_its_clients_accept():
    assert bound_of(status(bound_rate=3.0).tracking, 0, moved=False).drift_ppb == 10**9 - 1


@pytest.mark.parametrize(("left", "void", "extra"), [(5000, 1000, 0), (500, 500, 0), (9, 10, 1)])
def test_clockbound_s_bound_around_a_leap_second(left, void, extra):
    tracking = status(leap=1, real_ns=MIDNIGHT - left * SECOND, bound=0.0).tracking
    bound = bound_of(tracking, 0, moved=False)
    assert bound.bound_ns == extra * SECOND
    # A little less where the clock may get there earlier.
    assert bound.void_ns == pytest.approx(void * SECOND, rel=2e-5)


def test_a_client_calculates_the_interval_from_the_file(tmp_path):
    feed = ClockBoundFeed(str(tmp_path / "clockbound" / "shm0"))
    feed.publish(status(bound=0.005))
    client = Client(tmp_path / "clockbound" / "shm0")
    earliest, latest, state = client.now()
    assert state == 1
    assert 10_000_000 <= latest - earliest < 10_000_000 + 2 * SECOND * 30e-6
    # The clocks of the reading, some steps of the coarse clock ago.
    data = client.named()
    raw_ns = clocks()[0]
    feed.publish(replace(status(), tracking=replace(status().tracking, raw_ns=raw_ns - 900 * 1_000_000_000)))
    later = client.named()
    assert math.isclose(later["as_of_s"] - data["as_of_s"], -900, abs_tol=20)
    feed.close()


def test_clockbound_s_clients_learn_of_a_step_after_the_reading(machine, tmp_path):
    feed = ClockBoundFeed(str(tmp_path / "shm0"))
    reading = machine.status()
    feed.publish(reading)
    client = Client(tmp_path / "shm0")
    assert client.named()["status"] == 1
    machine.wait(0.5)
    feed.publish(reading)
    assert client.named()["status"] == 1
    machine.step(0.2)
    feed.publish(reading)
    assert client.named()["status"] == 0
    feed.close()
