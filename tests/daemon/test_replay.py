"""A recording is replayed bit for bit; what differs, what is missing and what is no recording is said."""

import gzip
import lzma
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.daemon import recorded_day
from tests.daemon.recordings import Recursive, events, reading
from tsq.daemon.recorder import RecordWriter
from tsq.daemon.replay import Report, replay, series
from tsq.discipline.actions import Action, Level, Log, SlewPhase
from tsq.discipline.events import Event, SourceAdded, Started, Tick
from tsq.discipline.machine import Discipline
from tsq.discipline.recording import Part, Record, line
from tsq.errors import ConfigError


def text(given_events: Sequence[Event], machine: Recursive | None = None, run: str = "r") -> str:
    machine = machine or Recursive()
    records = [Record(event, tuple(machine.handle(event))) for event in given_events]
    return line(Part("1.2.3", run)) + "".join(map(line, records))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "record"


def played(path: Path, content: str, factory=Recursive) -> Report:
    path.write_text(content)
    return replay([str(path)], factory)


def test_the_same_machine_does_the_same_bit_for_bit(path):
    report = played(path, text(events(100)))
    (run,) = report.runs
    assert report.equal
    assert report.complete
    assert (run.name, run.version, run.events, run.compared) == ("r", "1.2.3", len(events(100)), len(events(100)))
    assert (run.missing, run.different, run.first) == (0, 0, None)


def test_another_machine_is_found_at_the_first_bit_that_differs(path):
    report = played(path, text(events(100)), lambda: Recursive(gain=0.1 + 2**-56))
    (run,) = report.runs
    assert not report.equal
    assert report.complete
    # The three events of the start, four ticks, and the first poll.
    assert (run.first.number, run.first.event, run.first.place) == (7, "Polled", f"{path}:9")
    assert run.first.recorded != run.first.replayed
    assert '{"type": "Steer", ' in run.first.recorded[0]
    # All polls, and ticks.
    assert run.different >= 25


class Spoken(Recursive):
    def handle(self, event: Event) -> list[Action]:
        return [*super().handle(event), *([Log(Level.DEBUG, "k", "t")] if event == Tick(reading(3)) else [])]


class Signed(Recursive):
    zero = 0.0

    def handle(self, event: Event) -> list[Action]:
        return [SlewPhase(self.zero)]


class Negative(Signed):
    zero = -0.0


def test_one_more_action_is_a_difference(path):
    (run,) = played(path, text(events(9)), Spoken).runs
    assert (run.different, run.first.number) == (1, 5)


def test_a_negative_zero_is_not_zero(path):
    assert played(path, text(events(2), Signed()), Signed).equal
    assert not played(path, text(events(2), Signed()), Negative).equal


def test_the_figures_are_those_of_the_replayed_machine(path):
    (run,) = played(path, text(events(40)), lambda: Recursive(gain=1.0)).runs
    figures = run.figures
    offsets = [event.sample.offset for event in events(40) if hasattr(event, "sample")]
    assert figures.seconds == pytest.approx(40.25)
    assert (figures.polls, figures.samples, figures.updates, figures.steps) == (10, 10, 10, 1)
    assert figures.synchronized_after == pytest.approx(4.25)
    assert figures.rms_offset == pytest.approx((sum(one**2 for one in offsets) / len(offsets)) ** 0.5)
    assert figures.max_offset == pytest.approx(max(offsets))
    assert figures.max_bound == pytest.approx(max(offsets) + 1e-4)
    assert figures.mean_bound == pytest.approx(sum(offsets) / len(offsets) + 1e-4)
    assert (figures.status, figures.frozen, figures.frequency, figures.accumulated_steps) == ("synchronized", "", 1e-6, 0.5)


def test_each_run_has_its_own_machine(path):
    report = played(path, text(events(8)) + text(events(12), run="s"))
    assert report.equal
    assert [run.name for run in report.runs] == ["r", "s"]
    assert [run.figures.updates for run in report.runs] == [2, 3]


def test_a_run_without_its_beginning_is_replayed_but_not_compared(tmp_path, path):
    writer, machine = RecordWriter(str(path), 4000, 2, lambda: 0.0), Recursive()
    for number, event in enumerate(events(60)):
        writer.write("r", number, event, tuple(machine.handle(event)))
    writer.close()
    assert len(series(str(path))) == 3
    made: list[Recursive] = []

    def factory() -> Recursive:
        made.append(Recursive())
        return made[-1]

    report = replay(series(str(path)), factory)
    (run,) = report.runs
    assert (run.compared, run.different) == (0, 0)
    assert not report.equal
    assert not report.complete
    assert run.events + run.missing == len(events(60))
    assert run.reasons == ("earlier files are not there",)
    # It knows the sources all the same, and one machine does it all.
    (only,) = made
    assert isinstance(only.seen[0], Started)
    assert [event.name for event in only.seen if isinstance(event, SourceAdded)] == ["a", "b"]


def test_files_in_the_wrong_order_are_refused(path):
    writer = RecordWriter(str(path), 4000, 9, lambda: 0.0)
    for number, event in enumerate(events(60)):
        writer.write("r", number, event, ())
    writer.close()
    with pytest.raises(ConfigError, match=r"record\.\d:1: event \d+ of a run after its event .*oldest first"):
        replay(series(str(path))[::-1], Recursive)


@pytest.mark.parametrize(("suffix", "opener"), [(".xz", lzma.open), (".gz", gzip.open)])
def test_compressed_files_are_read(tmp_path, suffix, opener):
    path = tmp_path / f"record{suffix}"
    with opener(path, "wt") as stream:
        stream.write(text(events(20)))
    assert replay([str(path)], Recursive).equal
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match="cannot read"):
        replay([str(path)], Recursive)
    path.write_bytes(b"no archive")
    with pytest.raises(ConfigError, match="cannot read"):
        replay([str(path)], Recursive)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "no events"),
        ("\n\n", "no events"),
        ("hello\n", "record:1: not a line of JSON"),
        (line(Record(Tick(reading(1)))), "record:1: an event (expected the beginning of a recording"),
        ('{"tsq_recording": 9}\n', "record:1: a recording of format 9"),
        (text(events(3)) + "torn\n" + line(Record(Tick(reading(9)))), "record:8: not a line of JSON"),
        (text(events(3)) + "torn\ntorn\n" + text(events(3), run="s"), "record:8: not a line of JSON"),
        (text(events(3)) + '{"event":{"type":"Dance"},"actions":[]}\n', "record:8: event of type 'Dance'"),
        (text(events(3)) + '{"tsq_recording":1,"version":"1","run":"r","first":2}\n', "record:8: event 2 of a run"),
        (text(events(3)[1:]), "record:2: SourceAdded (expected Started"),
        ("\x1f\x8b\x00\xff\n", "record:1: not a line of JSON"),
    ],
)
def test_what_is_no_recording_is_refused_with_its_place(path, content, found):
    with pytest.raises(ConfigError) as caught:
        played(path, content)
    assert found in str(caught.value)


def test_a_torn_line_before_a_new_part_is_that_of_a_killed_daemon(path):
    content = text(events(8))
    report = played(path, content[:-40] + "\n" + text(events(8), run="s"))
    assert report.equal
    assert [run.events for run in report.runs] == [len(events(8)) - 1, len(events(8))]
    assert played(path, content[:-40]).equal


def test_a_missing_file_is_named(path):
    with pytest.raises(ConfigError, match=f"cannot read {path}: No such file"):
        replay([str(path)], Recursive)
    with pytest.raises(ConfigError, match="no file: no events"):
        replay([], Recursive)


def test_a_line_without_end_takes_no_memory(path, monkeypatch):
    monkeypatch.setattr("tsq.daemon.replay._MOST_LINE", 1000)
    with pytest.raises(ConfigError, match="record:1: a line of more than 1000 bytes"):
        played(path, "x" * 5000)


class Broken(Recursive):
    def handle(self, event: Event) -> list[Action]:
        if event == Tick(reading(2)):
            raise ZeroDivisionError("float division by zero")
        return super().handle(event)


def test_a_discipline_that_fails_says_where(path):
    with pytest.raises(ConfigError, match=r"record:6: the discipline fails on Tick: ZeroDivisionError") as caught:
        played(path, text(events(8)), Broken)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_the_recorded_day_is_decided_as_it_was():
    """If the rules were changed on purpose: `python -m tests.daemon.recorded_day` records it anew."""
    report = replay([str(recorded_day.FILE)], Discipline)
    (run,) = report.runs
    if run.name != recorded_day.library():
        pytest.skip("the mathematical library of this machine rounds differently")
    assert run.first is None
    assert report.equal
    assert report.complete
    assert run.events > 4000
    figures = run.figures
    assert figures.seconds > 20 * 3600
    assert figures.foreign_moves >= 1
    assert figures.samples < figures.polls
    assert figures.status == "synchronized"


def test_a_series_is_all_files_of_a_recorder_oldest_first(tmp_path, path):
    for name in ("record", "record.1", "record.2", "record.4", "record.x"):
        (tmp_path / name).touch()
    assert series(str(path)) == [f"{path}.2", f"{path}.1", str(path)]
    assert series(str(tmp_path / "none")) == [str(tmp_path / "none")]


@given(st.lists(st.sampled_from([*text(events(5)).splitlines(keepends=True), "torn\n", "\n", text([], run="s")]), max_size=12))
def test_any_order_of_lines_gives_a_report_or_our_error(tmp_path_factory, found):
    path = tmp_path_factory.getbasetemp() / "any-order"
    path.write_text("".join(found))
    try:
        report = replay([str(path)], Recursive)
    except ConfigError:
        return
    assert report.runs
