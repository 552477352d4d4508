"""Lines that the rules ask for are limited by kind, and what is left out is said."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsq.daemon.action_log import ActionLog
from tsq.discipline.actions import Level, Log


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append((record.levelno, record.getMessage()))


def made(level: int = logging.DEBUG, **settings) -> tuple[ActionLog, list[tuple[int, str]]]:
    logger = logging.Logger("tsq.test", level)
    handler = Lines()
    logger.addHandler(handler)
    return ActionLog(logger, **settings), handler.found


def said(kind: str, number: int, level: Level = Level.WARNING) -> Log:
    return Log(level, kind, f"{kind} {number} %s")


def test_so_many_lines_of_a_kind_and_then_how_many_more():
    log, found = made(lines=3, seconds=60)
    for number in range(10):
        log.write(said("a", number), float(number))
    assert found == [(logging.WARNING, f"a {number} %s") for number in range(3)]
    log.write(said("a", 10), 60.0)
    assert found[3:] == [(logging.WARNING, "7 more like this, the last: a 9 %s"), (logging.WARNING, "a 10 %s")]


def test_other_kinds_and_levels_are_not_held_back():
    log, found = made(lines=1, seconds=60)
    for number in range(5):
        log.write(said("a", number), 0.0)
    log.write(said("b", 0), 0.0)
    log.write(said("a", 6, Level.ERROR), 0.0)
    assert found[1:] == [(logging.WARNING, "b 0 %s"), (logging.ERROR, "a 6 %s")]


def test_what_was_left_out_is_said_when_the_kind_is_quiet():
    log, found = made(lines=1, seconds=60)
    log.write(said("a", 0), 0.0)
    log.write(said("a", 1), 1.0)
    log.flush(59.0)
    assert len(found) == 1
    log.flush(60.0)
    log.flush(120.0)
    assert found[1:] == [(logging.WARNING, "1 more like this, the last: a 1 %s")]


def test_a_level_that_is_not_logged_uses_up_nothing():
    log, found = made(logging.WARNING, lines=1)
    log.write(said("a", 0, Level.INFO), 0.0)
    assert found == []
    log.write(said("a", 1), 0.0)
    assert found == [(logging.WARNING, "a 1 %s")]


@pytest.mark.parametrize(("level", "expected"), [(Level.DEBUG, 10), (Level.INFO, 20), (Level.WARNING, 30), (Level.ERROR, 40)])
def test_levels_are_those_of_logging(level, expected):
    log, found = made()
    log.write(said("a", 0, level), 0.0)
    assert found[0][0] == expected


def test_kinds_without_number_take_no_memory():
    log, found = made(lines=1)
    for number in range(10_000):
        log.write(said(f"kind {number}", number), 0.0)
    assert len(found) == 10_000
    assert len(log._kinds) <= 200


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 30)), max_size=60), st.integers(1, 4))
def test_each_line_is_written_or_counted_and_never_too_many(given_lines, most):
    log, found = made(lines=most, seconds=10)
    now, written_at = 0.0, {"a": [], "b": []}
    for kind, after in given_lines:
        now += after
        before = len(found)
        log.write(Log(Level.INFO, kind, kind), now)
        written_at[kind] += [now for _, text in found[before:] if text == kind]
    log.flush(now + 1000)
    counted = sum(int(text.split()[0]) for _, text in found if "more like this" in text)
    assert counted + sum(len(times) for times in written_at.values()) == len(given_lines)
    for times in written_at.values():
        assert all(times[number + most] - times[number] >= 10 for number in range(len(times) - most))
