"""Lines for systemd's journal: priorities only where JOURNAL_STREAM names the stream, one for each line."""

import io
import logging
import os

import pytest

from tsq.host.journal import JournalFormatter, is_journal, priority


def named(stream) -> dict[str, str]:
    status = os.fstat(stream.fileno())
    return {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}


@pytest.fixture
def stream(tmp_path):
    with open(tmp_path / "log", "w", encoding="utf-8") as file:
        yield file


def test_the_stream_that_the_variable_names_is_the_journal(stream):
    assert is_journal(stream, named(stream))


@pytest.mark.parametrize("value", ["", "1", "1:2", "none", ":", "0:0"])
def test_a_variable_that_names_something_else_is_none(stream, value):
    assert not is_journal(stream, {"JOURNAL_STREAM": value})


def test_another_file_than_the_one_that_is_named_is_none(stream, tmp_path):
    with open(tmp_path / "other", "w", encoding="utf-8") as other:
        assert not is_journal(other, named(stream))


def test_without_the_variable_or_a_descriptor_it_is_none(stream):
    assert not is_journal(stream, {})
    assert not is_journal(None, named(stream))
    assert not is_journal(io.StringIO(), named(stream))


@pytest.mark.parametrize(
    ("level", "number"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7), (logging.INFO + 5, 6)],
)
def test_levels_have_the_priorities_of_syslog(level, number):
    assert priority(level) == number


def test_each_line_has_the_priority():
    record = logging.LogRecord("tsq", logging.ERROR, __file__, 1, "first\nsecond", (), None)
    assert JournalFormatter("%(levelname)s: %(message)s").format(record) == "<3>ERROR: first\n<3>second"
