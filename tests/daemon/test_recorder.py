"""A recorder writes everything in order, rotates, and goes on when the disk does not; what it could not write is marked."""

import errno
import logging
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.daemon.recordings import Recursive, events, polled, reading
from tsq.daemon import recorder as module
from tsq.daemon.recorder import Recorder, RecordWriter, RunSetup
from tsq.daemon.replay import replay, series
from tsq.discipline.actions import Action
from tsq.discipline.events import (
    Event,
    LeapKnown,
    Reconfigured,
    SetOnline,
    SourceAdded,
    SourceChanged,
    SourceRemoved,
    Started,
    Tick,
)
from tsq.discipline.recording import Part, Record, parse
from tsq.discipline.settings import ClockSettings, Mode, SourceSettings
from tsq.host import files
from tsq.wording import counted


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def lines(path: str | Path) -> list[Part | Record]:
    return [parse(text) for text in Path(path).read_text().splitlines() if text.strip()]


def all_lines(path: Path) -> list[Part | Record]:
    return [value for file in series(str(path)) for value in lines(file)]


def record(path: Path, given: list[Event], **settings) -> list[tuple[Event, tuple[Action, ...]]]:
    recorder = Recorder(str(path), **settings)
    machine = Recursive()
    done = []
    for event in given:
        actions = machine.handle(event)
        recorder.event(event, actions)
        done.append((event, tuple(actions)))
    recorder.close()
    return done


def test_every_event_is_written_with_its_actions_in_order(tmp_path):
    done = record(tmp_path / "record", events())
    part, *rest = lines(tmp_path / "record")
    assert part == Part("1.2.3", part.run)
    assert [(one.event, one.actions) for one in rest] == done
    assert (tmp_path / "record").stat().st_mode & 0o777 == 0o600


def test_actions_that_change_after_the_call_are_recorded_as_they_were(tmp_path):
    recorder = Recorder(str(tmp_path / "record"))
    actions = Recursive().handle(events()[0])
    recorder.event(events()[0], actions)
    actions.clear()
    recorder.close()
    assert len(lines(tmp_path / "record")[1].actions) == 1


def test_files_are_rotated_between_events_and_make_one_series(tmp_path):
    path = tmp_path / "record"
    done = record(path, events(60), max_bytes=6000, keep=50)
    assert len(series(str(path))) > 4
    assert max(Path(one).stat().st_size for one in series(str(path))) <= 6000
    found = all_lines(path)
    assert [(one.event, one.actions) for one in found if isinstance(one, Record)] == done
    parts = [one for one in found if isinstance(one, Part)]
    assert len(parts) == len(series(str(path)))
    assert {part.run for part in parts} == {parts[0].run}
    assert all(not part.missed for part in parts)
    assert replay(series(str(path)), Recursive).equal


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_so_many_old_files_are_kept(tmp_path, keep):
    path = tmp_path / "record"
    record(path, events(60), max_bytes=3000, keep=keep)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["record", *(f"record.{number}" for number in range(1, keep + 1))]


def test_a_later_part_says_how_to_begin_in_the_middle(tmp_path):
    writer = RecordWriter(str(tmp_path / "record"), 10**6, 1, Clock())
    given = [
        *events(0), SourceAdded("c", SourceSettings()), SetOnline(False, "a"), SetOnline(False), SetOnline(True, "b"),
        SourceRemoved("c"), SourceChanged("b", SourceSettings(max_poll=6), "192.0.2.9:443", True), Tick(reading(7)),
        Reconfigured(ClockSettings(mode=Mode.FEED)), SetOnline(False, "stranger"), LeapKnown(1, 7), LeapKnown(0, 8),
    ]  # fmt: skip
    for number, event in enumerate(given):
        writer.write("r", number, event, ())
    writer.close()
    writer.write("r", len(given), Tick(reading(9)), ())
    writer.close()
    part = lines(tmp_path / "record")[-2]
    assert part == Part("1.2.3", "r", len(given), 0, "", (
        Started("1.2.3", ClockSettings(mode=Mode.FEED), reading(7)), SourceAdded("a", SourceSettings()),
        SourceAdded("b", SourceSettings(max_poll=6), "192.0.2.9:443"), SetOnline(False, "a"), LeapKnown(0, 8),
    ))  # fmt: skip


def test_a_recording_that_begins_during_a_run_says_how_the_run_was_set_up(tmp_path):
    """As after a reload that turned it on."""
    path, machine, setup = tmp_path / "record", Recursive(), RunSetup()
    given = events(30)
    for event in given[:20]:
        machine.handle(event)
        setup.note(event)
    recorder = Recorder(str(path), setup=setup.events())
    for event in given[20:]:
        recorder.event(event, machine.handle(event))
    recorder.close()
    part = lines(path)[0]
    assert (part.version, part.first, part.missed, part.why) == ("1.2.3", 1, 1, "the recording began later")
    assert part.setup == (replace(given[0], reading=given[19].reading), *given[1:3])
    (run,) = replay([str(path)], Recursive).runs
    assert (run.events, run.compared, run.missing, run.reasons) == (len(given) - 20, 0, 1, ("the recording began later",))
    assert run.figures.polls == 4


def test_a_recording_that_begins_during_a_run_without_a_setup_replays_nothing(tmp_path):
    path = tmp_path / "record"
    record(path, events(30)[20:])
    (run,) = replay([str(path)], Recursive).runs
    assert (run.events, run.compared, run.missing) == (0, 0, len(events(30)) - 19)


def test_another_start_is_another_run_in_the_same_file(tmp_path):
    path = tmp_path / "record"
    record(path, events(4))
    record(path, events(4) + events(5))
    parts = [one for one in lines(path) if isinstance(one, Part)]
    assert [(part.first, part.missed, part.setup) for part in parts] == [(0, 0, ())] * 3
    assert len({part.run for part in parts}) == 3


def test_a_torn_last_line_does_not_harm_what_follows(tmp_path):
    path = tmp_path / "record"
    record(path, events(4))
    path.write_bytes(path.read_bytes()[:-30])
    record(path, events(4))
    report = replay([str(path)], Recursive)
    assert report.equal
    assert [run.events for run in report.runs] == [len(events(4)) - 1, len(events(4))]


class Disk:
    """Writes until it is full; `room` in bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = 10**9
        self.real = os.write
        monkeypatch.setattr(files.os, "write", self.write)

    def write(self, fd: int, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = self.real(fd, data[: self.room])
        self.room -= count
        return count


@pytest.mark.parametrize("room", [0, 1, 300, 700])
def test_a_full_disk_costs_one_warning_and_leaves_a_marked_gap(tmp_path, monkeypatch, caplog, room):
    path, clock = tmp_path / "record", Clock()
    disk = Disk(monkeypatch)
    writer, machine = RecordWriter(str(path), 10**6, 1, clock), Recursive()
    given = events(40)
    with caplog.at_level(logging.INFO):
        for number, event in enumerate(given):
            if number == 10:
                disk.room = room
            if number == 30:
                disk.room = 10**9
                clock.now += 3600
            writer.write("r", number, event, tuple(machine.handle(event)))
    writer.close()
    warnings = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert warnings == [f"cannot record to {path}: No space left on device; the daemon goes on, and tries again"]
    report = replay([str(path)], Recursive)
    (run,) = report.runs
    assert report.equal
    assert not report.complete
    assert run.compared + run.missing == 30
    assert run.events + run.missing == len(given)
    assert 18 <= run.missing <= 20
    assert run.reasons == ("No space left on device",)
    assert caplog.records[-1].getMessage() == f"{path}: recording again; {counted(run.missing, 'event')} missing"


def test_a_full_disk_is_tried_again_only_after_a_while(tmp_path, monkeypatch):
    clock, tries = Clock(), []
    writer = RecordWriter(str(tmp_path / "no" / "record"), 10**6, 1, clock)
    monkeypatch.setattr(files, "open_log", lambda path: tries.append(clock.now) or os.open(path, os.O_WRONLY))
    for number, event in enumerate(events(30)):
        clock.now = 100.0 + number
        writer.write("r", number, event, ())
    assert tries == [100.0, 110.0, 120.0, 130.0]


def test_a_directory_that_appears_later_is_used(tmp_path, caplog):
    path, clock = tmp_path / "later" / "record", Clock()
    writer = RecordWriter(str(path), 10**6, 1, clock)
    writer.write("r", 0, events()[0], ())
    assert "No such file or directory" in caplog.text
    path.parent.mkdir()
    clock.now += 60
    writer.write("r", 1, events()[1], ())
    writer.close()
    part, only = lines(path)
    assert (part.first, part.missed, part.why, part.setup) == (1, 1, "No such file or directory", (events()[0],))
    assert only.event == events()[1]


def test_without_the_permission_to_rotate_nothing_grows(tmp_path, monkeypatch, caplog):
    path, clock = tmp_path / "record", Clock()
    writer = RecordWriter(str(path), 2000, 1, clock)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(module.os, "replace", refuse)
    for number, event in enumerate(events(30)):
        clock.now += 20
        writer.write("r", number, event, ())
    assert "Permission denied" in caplog.text
    # One byte for each attempt: the end of the line before.
    assert path.stat().st_size < 2100
    monkeypatch.undo()
    clock.now += 20
    writer.write("r", len(events(30)), Tick(reading(99)), ())
    writer.close()
    assert path.stat().st_size < 2000
    assert lines(path)[0].missed > 20


@pytest.mark.parametrize("make", ["link", "fifo", "directory", "readable"])
def test_what_is_not_its_own_file_is_not_used(tmp_path, caplog, make):
    path, other = tmp_path / "record", tmp_path / "other"
    if make == "link":
        other.touch(0o600)
        path.symlink_to(other)
    elif make == "fifo":
        os.mkfifo(path, 0o600)
    elif make == "directory":
        path.mkdir()
    else:
        path.write_text("")
        path.chmod(0o644)
    record(path, events(3))
    assert f"cannot record to {path}" in caplog.text
    assert not other.exists() or other.read_text() == ""


def test_a_file_that_was_moved_is_opened_anew(tmp_path):
    path, moved = tmp_path / "record", tmp_path / "moved"
    recorder, machine = Recorder(str(path)), Recursive()
    for number, event in enumerate(events()):
        if number == 7:
            assert recorder.flush(60)
            path.rename(moved)
            recorder.reopen()
            assert recorder.flush(60)
        recorder.event(event, machine.handle(event))
    recorder.close()
    assert len(lines(moved)) == 8
    report = replay([str(moved), str(path)], Recursive)
    assert report.equal
    assert report.complete
    assert report.runs[0].events == len(events())


def test_a_disk_that_does_not_answer_stops_nobody(tmp_path, monkeypatch, caplog):
    """The writer hangs; events are dropped, not queued for ever; what sets up the run is kept."""
    monkeypatch.setattr(module, "MOST_QUEUED", 5)
    monkeypatch.setattr(module, "_PATIENCE", 0.01)
    path, hangs, go = tmp_path / "record", threading.Event(), threading.Event()
    real = os.write

    def slow(fd: int, data: bytes) -> int:
        hangs.set()
        go.wait(60)
        return real(fd, data)

    monkeypatch.setattr(files.os, "write", slow)
    recorder = Recorder(str(path))
    given = events(40)
    recorder.event(given[0], ())
    assert hangs.wait(60)
    for event in given[1:]:
        recorder.event(event, ())
    recorder.event(SourceAdded("late", SourceSettings()), ())
    assert not recorder.flush(0.01)
    recorder.close()
    assert "the disk does not answer" in caplog.text
    recorder.event(Tick(reading(99)), ())
    go.set()
    recorder._thread.join(60)
    assert not recorder._thread.is_alive()
    assert [one.event for one in lines(path) if isinstance(one, Record)] == given[:6]


def test_after_a_slow_disk_the_gap_is_marked(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_QUEUED", 5)
    path, hangs, go = tmp_path / "record", threading.Event(), threading.Event()
    real = os.write

    def slow(fd: int, data: bytes) -> int:
        hangs.set()
        go.wait(60)
        return real(fd, data)

    monkeypatch.setattr(files.os, "write", slow)
    recorder = Recorder(str(path))
    given = events(40)
    recorder.event(given[0], ())
    assert hangs.wait(60)
    for event in given[1:]:
        recorder.event(event, ())
    recorder.event(SourceAdded("late", SourceSettings()), ())
    go.set()
    assert recorder.flush(60)
    recorder.event(Tick(reading(99)), ())
    recorder.close()
    part, last = lines(path)[-2:]
    assert (part.first, part.missed, part.why) == (len(given) + 1, len(given) + 1 - 6, "the disk was too slow")
    assert SourceAdded("late", SourceSettings()) in part.setup
    assert last.event == Tick(reading(99))


def test_a_value_that_cannot_be_written_costs_only_itself(tmp_path, caplog):
    path, clock = tmp_path / "record", Clock()
    writer = RecordWriter(str(path), 10**6, 1, clock)
    for number, event in enumerate(events(3)):
        clock.now += 60
        writer.write("r", number, event, (object(),) if number == 4 else ())  # type: ignore[arg-type]
    writer.close()
    assert "Tick cannot be written" in caplog.text
    assert [one.missed for one in lines(path) if isinstance(one, Part)] == [0, 1]


def test_no_thread_is_no_reason_to_fail(tmp_path, monkeypatch, caplog):
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    recorder = Recorder(str(tmp_path / "record"))
    for event in events(5):
        recorder.event(event, ())
    assert recorder.flush()
    recorder.close()
    assert caplog.text.count("nothing is recorded: can't start new thread") == 1


def test_a_recorder_that_was_given_nothing_makes_no_file(tmp_path):
    recorder = Recorder(str(tmp_path / "record"))
    assert recorder.flush()
    recorder.close()
    assert not list(tmp_path.iterdir())


def test_a_sample_is_recorded_as_it_was(tmp_path):
    (done,) = record(tmp_path / "record", [polled("a", 4.5)])
    assert lines(tmp_path / "record")[1] == Record(*done)
