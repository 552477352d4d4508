"""Words for messages."""

import re
from pathlib import Path

import pytest

from tsq.wording import counted

# A number before a word that stands for one and for many at the same time.
CARELESS = re.compile(r"[a-z]\(s\)")


@pytest.mark.parametrize(("number", "text"), [(0, "0 connections"), (1, "1 connection"), (2, "2 connections")])
def test_one_is_not_many(number, text):
    assert counted(number, "connection") == text


def test_no_message_leaves_the_plural_to_its_reader():
    sources = Path(__file__).parent.parent.joinpath("tsq").rglob("*.py")
    assert [path.name for path in sources if CARELESS.search(path.read_text())] == []
