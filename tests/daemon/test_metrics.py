"""The daemon's metrics: what is known has a sample, what is gone reads 0, and the page describes what is exported."""

import asyncio
from collections.abc import Mapping
from dataclasses import fields, replace

import pytest

from tests.support.metrics import PROCESS, documented, parsed, scrape, value
from tsq.daemon import metrics as module
from tsq.daemon.metrics import Metrics
from tsq.discipline.settings import Mode
from tsq.discipline.status import ClockStatus, SourceStatus, Status, Tracking
from tsq.errors import ConfigError
from tsq.options import Target

NOW_NS = 1_795_399_200_250_000_000
TRACKING = Tracking(
    Mode.STEER, ClockStatus.SYNCHRONIZED, NOW_NS, 77, offset=-1.5e-06, offset_sd=2e-07, bound=0.00125, bound_rate=1.5e-05,
    frequency=3e-06, frequency_sd=1e-09, correction=-2.5e-06, stratum=2, leap=0, root_delay=0.004, root_dispersion=0.001,
    reference="a", last_offset=4e-06, rms_offset=5e-06, update_interval=16.25, updated_real_ns=NOW_NS - 10**9, updates=12, steps=1,
    accumulated_steps=0.75, foreign_moves=3, smeared=False,
)  # fmt: skip
SOURCE = SourceStatus(
    "a", "192.0.2.1:443", "*", poll=4, reach=0o377, stratum=1, leap=0, offset=-1e-06, offset_sd=1e-07, frequency=2e-06,
    root_distance=0.002, delay=0.0031, jitter=1e-06, server_error=1e-05, age=3.5, polls=20, answers=19, precise=17,
)  # fmt: skip
DEAD = SourceStatus("b", "192.0.2.2:443", "?", online=False, poll=6)
STATUS = Status(TRACKING, (SOURCE, DEAD))
OF_A = {"name": "a", "address": "192.0.2.1:443"}
OF_B = {"name": "b", "address": "192.0.2.2:443"}


class Changing:
    """A status that a test may change."""

    def __init__(self, status: Status) -> None:
        self.status = status

    def __call__(self) -> Status:
        return self.status


def text(status: Status = STATUS, counters: Mapping[str, int] | None = None) -> str:
    return Metrics(lambda: status, lambda: counters or {}, version="1.2.3").text()


def test_everything_that_is_exported_is_on_the_page_and_nothing_else():
    status = replace(STATUS, sources=(replace(SOURCE, mark="x"),))
    found = parsed(text(status, {"polled": 1}))
    page = documented("## Of tsqd: the clock", "## Of tsqd: each source", PROCESS)
    assert {name: one.type for name, one in found.items()} == {name: kind for name, (kind, _) in page.items()}
    for name, one in found.items():
        assert one.samples, f"{name} has no value with everything known"
        assert {tuple(sorted(sample.labels)) for sample in one.samples} == {tuple(sorted(page[name][1]))}, name
        assert one.documentation


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("tsq_info", {"version": "1.2.3", "mode": "steer"}, 1),
        ("tsq_system_status", {"status": "synchronized"}, 1),
        ("tsq_system_status", {"status": "unsynchronized"}, 0),
        ("tsq_system_status", {"status": "holdover"}, 0),
        ("tsq_system_status", {"status": "frozen"}, 0),
        ("tsq_system_frozen", {}, 0),
        ("tsq_system_stratum", {}, 2),
        ("tsq_system_leap_indicator", {}, 0),
        ("tsq_system_root_delay_seconds", {}, 0.004),
        ("tsq_system_root_dispersion_seconds", {}, 0.001),
        ("tsq_system_accumulated_steps_seconds", {}, 0.75),
        ("tsq_system_offset_seconds", {}, -1.5e-06),
        ("tsq_system_offset_deviation_seconds", {}, 2e-07),
        ("tsq_system_bound_seconds", {}, 0.00125),
        ("tsq_system_bound_growth_ratio", {}, 1.5e-05),
        ("tsq_system_last_offset_seconds", {}, 4e-06),
        ("tsq_system_rms_offset_seconds", {}, 5e-06),
        ("tsq_system_update_interval_seconds", {}, 16.25),
        ("tsq_system_frequency_error_ratio", {}, 3e-06),
        ("tsq_system_frequency_deviation_ratio", {}, 1e-09),
        ("tsq_system_frequency_correction_ratio", {}, -2.5e-06),
        ("tsq_system_reading_timestamp_seconds", {}, 1795399200.25),
        ("tsq_system_last_update_timestamp_seconds", {}, 1795399199.25),
        ("tsq_system_updates_total", {}, 12),
        ("tsq_system_steps_total", {}, 1),
        ("tsq_system_foreign_moves_total", {}, 3),
        ("tsq_source_up", OF_A, 1),
        ("tsq_source_up", OF_B, 0),
        ("tsq_source_online", OF_A, 1),
        ("tsq_source_online", OF_B, 0),
        ("tsq_source_reach", OF_A, 255),
        ("tsq_source_selected", OF_A, 1),
        ("tsq_source_selected", OF_B, 0),
        ("tsq_source_falseticker", OF_A, 0),
        ("tsq_source_poll_interval_seconds", OF_A, 16),
        ("tsq_source_poll_interval_seconds", OF_B, 64),
        ("tsq_source_offset_seconds", OF_A, -1e-06),
        ("tsq_source_offset_seconds", OF_B, None),
        ("tsq_source_offset_deviation_seconds", OF_A, 1e-07),
        ("tsq_source_frequency_error_ratio", OF_A, 2e-06),
        ("tsq_source_delay_seconds", OF_A, 0.0031),
        ("tsq_source_jitter_seconds", OF_A, 1e-06),
        ("tsq_source_root_distance_seconds", OF_A, 0.002),
        ("tsq_source_server_error_seconds", OF_A, 1e-05),
        ("tsq_source_stratum", OF_A, 1),
        ("tsq_source_stratum", OF_B, None),
        ("tsq_source_leap_indicator", OF_A, 0),
        ("tsq_source_age_seconds", OF_A, 3.5),
        ("tsq_source_polls_total", OF_A, 20),
        ("tsq_source_answers_total", OF_A, 19),
        ("tsq_source_precise_answers_total", OF_A, 17),
    ],
)
def test_each_metric_has_its_value(name, labels, expected):
    assert value(text(), name, **labels) == (None if expected is None else pytest.approx(expected, rel=1e-12))


def test_every_number_of_the_tracking_changes_a_metric():
    """So that none is exported in the place of another one."""
    other = {
        "mode": Mode.OBSERVE, "status": ClockStatus.HOLDOVER, "real_ns": 10**18, "reference": None, "reference_address": None,
        "frozen": "panic", "raw_ns": None, "earliest_ns": None, "latest_ns": None, "rate_low": None, "rate_high": None,
    }  # fmt: skip
    for field in fields(Tracking):
        changed = other.get(field.name, 7)
        if changed is not None:
            assert text(replace(STATUS, tracking=replace(TRACKING, **{field.name: changed}))) != text(), field.name


@pytest.mark.parametrize(("mark", "selected", "falseticker"), [("*", 1, 0), ("+", 1, 0), ("-", 0, 0), ("x", 0, 1), ("?", 0, 0)])
def test_marks(mark, selected, falseticker):
    found = text(replace(STATUS, sources=(replace(SOURCE, mark=mark),)))
    assert value(found, "tsq_source_selected", **OF_A) == selected
    assert value(found, "tsq_source_falseticker", **OF_A) == falseticker


def test_what_is_not_known_has_no_sample():
    found = parsed(text(Status(Tracking(Mode.FEED, ClockStatus.UNSYNCHRONIZED, NOW_NS, 1))))
    unknown = {name for name, one in found.items() if not one.samples}
    assert {"tsq_system_offset_seconds", "tsq_system_bound_seconds", "tsq_system_last_update_timestamp_seconds"} <= unknown
    assert "nan" not in text(Status(Tracking(Mode.FEED, ClockStatus.UNSYNCHRONIZED, NOW_NS, 1))).lower()
    assert value(text(Status(Tracking(Mode.FEED, ClockStatus.FROZEN, 0, 1, frozen="panic"))), "tsq_system_frozen") == 1


def test_a_source_that_is_gone_reads_0_and_does_not_disappear():
    status = Changing(STATUS)
    metrics = Metrics(status)
    metrics.text()
    status.status = replace(STATUS, sources=(SOURCE,))
    for _ in range(3):
        found = metrics.text()
        assert value(found, "tsq_source_up", **OF_A) == 1
        assert value(found, "tsq_source_up", **OF_B) == 0
        assert value(found, "tsq_source_poll_interval_seconds", **OF_B) is None
    status.status = replace(STATUS, sources=())
    assert value(metrics.text(), "tsq_source_up", **OF_A) == 0
    status.status = STATUS
    assert value(metrics.text(), "tsq_source_up", **OF_A) == 1


def test_a_source_that_came_and_went_between_two_scrapes_is_known():
    metrics = Metrics(lambda: replace(STATUS, sources=()))
    metrics.note(STATUS)
    assert value(metrics.text(), "tsq_source_up", **OF_A) == 0


def test_a_source_with_a_new_address_is_not_gone():
    status = Changing(STATUS)
    metrics = Metrics(status)
    metrics.text()
    moved = replace(SOURCE, address="192.0.2.99:443")
    status.status = replace(STATUS, sources=(moved, DEAD))
    found = metrics.text()
    assert value(found, "tsq_source_up", name="a", address="192.0.2.99:443") == 1
    assert value(found, "tsq_source_up", **OF_A) is None


def test_sources_that_are_gone_are_bounded_and_those_that_are_there_stay(monkeypatch):
    monkeypatch.setattr(module, "MOST_GONE", 10)
    status = Changing(STATUS)
    metrics = Metrics(status)
    for number in range(100):
        status.status = replace(STATUS, sources=(SOURCE, replace(SOURCE, name=f"pool {number}")))
        found = parsed(metrics.text())["tsq_source_up"].samples
    names = [sample.labels["name"] for sample in found]
    assert names[:2] == ["a", "pool 99"]
    assert names[2:] == [f"pool {number}" for number in range(89, 99)]


def test_odd_names_of_sources_are_quoted():
    odd = 'x"\\\n{}é'
    found = text(replace(STATUS, sources=(replace(SOURCE, name=odd),)))
    assert value(found, "tsq_source_up", name=odd, address="192.0.2.1:443") == 1


def test_the_daemons_counters_are_exported_by_name_and_reason():
    found = text(counters={"polled": 7, "failed: no answer: at all": 2})
    assert value(found, "tsq_daemon_events_total", event="polled", reason="") == 7
    assert value(found, "tsq_daemon_events_total", event="failed", reason="no answer: at all") == 2


def test_a_real_scrape_over_http():
    async def main() -> None:
        metrics = Metrics(lambda: STATUS, version="1.2.3")
        assert metrics.address is None
        metrics.start(Target("127.0.0.1", 0))
        found = await asyncio.to_thread(scrape, metrics.address)
        assert value(found, "tsq_system_bound_seconds") == 0.00125
        with pytest.raises(ConfigError, match="cannot serve metrics"):
            Metrics(lambda: STATUS).start(metrics.address)
        metrics.close()
        metrics.close()
        assert metrics.address is None

    asyncio.run(main())
