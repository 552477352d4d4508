"""What a replay showed, as text."""

from dataclasses import replace

from tests.daemon.recordings import Recursive, events
from tsq.daemon.replay import Difference, Figures, Report, Run, replay
from tsq.discipline.recording import Part, Record, line
from tsq.report.replay import text

FIGURES = Figures(
    seconds=7200, polls=10, samples=9, updates=8, synchronized_after=4.25, rms_offset=1.2e-6, max_offset=3.45678e-6,
    mean_bound=0.0012, max_bound=0.0020001, steps=1, accumulated_steps=0.5, foreign_moves=2, frequency=-1.23456e-5,
    status="synchronized",
)  # fmt: skip
RUN = Run("f00f", "1.2.3", 40, 40, 0, (), 0, None, FIGURES)


def test_a_run_that_is_equal():
    assert text(Report((RUN,))).splitlines() == [
        "run f00f, recorded by version 1.2.3: 40 events",
        "  time: 2.00 h, polls: 10, samples: 9, updates: 8",
        "  synchronized after: 4.250 s",
        "  offset at updates: RMS 1.200 µs, most 3.457 µs",
        "  bound at updates: mean 1.200 ms, most 2.001 ms",
        "  steps: 1 (500.000 ms in all), moves by others: 2",
        "  at the end: synchronized, frequency error: -12.3456 ppm",
        "EQUAL: the actions for all 40 events",
    ]


def test_a_difference_is_shown_with_both_sides():
    first = Difference("record:9", 7, "Polled", ('{"type": "Poll"}',), tuple(f"{number}\x1b" for number in range(8)))
    lines = text(Report((RUN, replace(RUN, different=5, first=first)))).splitlines()
    assert lines[-1] == "DIFFERENT: other actions for 5 of 80 compared events"
    at = lines.index("  first difference: record:9, event 7, Polled")
    assert lines[at + 1 : at + 4] == ["    recorded:", '      {"type": "Poll"}', "    now:"]
    assert lines[at + 4] == "      0\\x1b"
    assert lines[at + 10] == "      and 2 more"
    assert "    now: no action" in text(Report((replace(RUN, different=1, first=replace(first, replayed=())),)))


def test_what_is_missing_is_said():
    lines = text(Report((replace(RUN, compared=30, missing=5, reasons=("disk\x07full",)),)))
    assert "  missing events: 5 (disk\\x07full)\n" in lines
    assert "  compared: only the first 30" in lines
    assert lines.endswith("EQUAL as far as they were compared: the actions for 30 events; others are missing\n")


def test_nothing_that_was_compared_is_not_equal():
    empty = replace(RUN, compared=0, figures=Figures(frozen="panic"))
    found = text(Report((empty,)))
    assert found.endswith("NOT COMPARED: no run is recorded from its beginning\n")
    assert "  at the end: unknown\n  frozen: panic\n" in found
    assert "offset at updates" not in found


def test_a_real_replay(tmp_path):
    machine = Recursive()
    records = [Record(event, tuple(machine.handle(event))) for event in events(40)]
    path = tmp_path / "record"
    path.write_text(line(Part("1.2.3", "r")) + "".join(map(line, records)))
    assert text(replay([str(path)], Recursive)).endswith(f"EQUAL: the actions for all {len(records)} events\n")
    assert "DIFFERENT" in text(replay([str(path)], lambda: Recursive(gain=0.2)))
