"""docs/reference/conformance.md, the list of `tsq-conformance` and the tests agree, in both directions."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tsq.conformance.statements import MAY, MUST, MUST_NOT, RULE, SHOULD, SHOULD_NOT, STATEMENTS

TESTS = Path(__file__).resolve().parent.parent
PAGE = (TESTS.parent / "docs" / "reference" / "conformance.md").read_text(encoding="utf-8")
STATUS = re.compile(r"(done)(; .*)?|(ruled otherwise), \[R\d+\]\(protocol\.md#r\d+\): \S.*|(does not apply): \S.*")
NO_TEST = "—"


class Row(NamedTuple):
    """A row of the page."""

    number: str
    section: str
    sentence: str
    level: str
    status: str
    test: str

    @property
    def kind(self) -> str:
        """done, ruled otherwise, or does not apply."""
        found = STATUS.fullmatch(self.status)
        assert found is not None, self.status
        return found[1] or found[3] or found[4]


ROWS = [
    Row(*(cell.strip() for cell in line.strip("|").split("|")))
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| number")
]


@cache
def marked() -> dict[str, list[str]]:
    """Which tests name a statement, by its number: from the source, so that no module has to be loaded."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for call in getattr(node, "decorator_list", []):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.draft":
                    for number in map(ast.literal_eval, call.args):
                        found.setdefault(number, []).append(f"`{path.relative_to(TESTS)}::{node.name}`")
    return found


def test_the_page_has_every_statement_once_in_the_order_of_the_list():
    numbers = [row.number for row in ROWS]
    keyed = [number for number, one in STATEMENTS.items() if one.level != RULE]
    rules = [number for number, one in STATEMENTS.items() if one.level == RULE]
    assert numbers == keyed + rules


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.number)
def test_a_row_has_the_section_the_sentence_and_the_level_of_the_list(row):
    statement = STATEMENTS[row.number]
    assert (row.sentence, row.level) == (statement.sentence, statement.level)
    assert row.section.removeprefix("§") == statement.section
    assert row.level in (MUST, MUST_NOT, SHOULD, SHOULD_NOT, MAY, RULE)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.number)
def test_a_row_names_the_test_that_names_its_statement(row):
    assert marked().get(row.number, [NO_TEST]) == [row.test]
    assert (row.test == NO_TEST) == (row.kind == "does not apply")


def test_no_test_names_a_statement_that_does_not_exist():
    assert set(marked()) <= set(STATEMENTS)


def test_the_rulings_that_are_named_exist():
    rulings = set(re.findall(r'<a id="(r\d+)">', (TESTS.parent / "docs" / "reference" / "protocol.md").read_text(encoding="utf-8")))
    named = {found[1] for row in ROWS if (found := re.search(r"protocol\.md#(r\d+)", row.status))}
    assert named
    assert named <= rulings


def test_the_page_counts_its_rows():
    keyed = [row for row in ROWS if row.level != RULE]
    levels, kinds = Counter(row.level for row in keyed), Counter(row.kind for row in keyed)
    sentence = f"{len(keyed)} statements: " + ", ".join(f"{levels[one]} {one}" for one in (MUST, MUST_NOT, SHOULD, SHOULD_NOT, MAY))
    assert sentence in PAGE
    assert f"{kinds['done']} are done, {kinds['ruled otherwise']} ruled otherwise, {kinds['does not apply']} do not apply" in PAGE


def test_numbers_are_counted_within_their_section():
    seen: Counter[str] = Counter()
    for number, one in STATEMENTS.items():
        place = number.rpartition("-")[2]
        if place.isdigit():
            seen[one.section] += 1
            assert int(place) == seen[one.section], number


NOTES = (TESTS.parent / "docs" / "explanation" / "spec-notes.md").read_text(encoding="utf-8")
NOTE_SECTIONS = re.split(r"^### ", NOTES, flags=re.MULTILINE)[1:]


def test_the_notes_name_every_ruling():
    page = (TESTS.parent / "docs" / "reference" / "protocol.md").read_text(encoding="utf-8")
    assert set(re.findall(r"protocol\.md#(r\d+)", NOTES)) == set(re.findall(r'<a id="(r\d+)">', page))


@pytest.mark.parametrize("note", NOTE_SECTIONS, ids=lambda note: note.partition("\n")[0])
def test_a_note_names_its_sections_what_tsq_does_and_proposed_words(note):
    if note.startswith("References"):
        return
    head, _, rest = note.partition("**TSQ**")
    assert rest
    without = ("Limits", "The largest", "The end of", "Keys for", "Errors after", "Eras", "The timescale", "Mutual")
    assert "§" in head or note.startswith(without)
    assert re.search(r"^> \S", rest, re.MULTILINE) or note.startswith(("What the client's nonce", "Private"))
