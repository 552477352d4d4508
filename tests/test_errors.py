"""The exception tree: its shape is what its documentation draws, and each error is one sentence for a person."""

import ast
import pickle
import re
from pathlib import Path

import pytest

from tsq import errors
from tsq.errors import TSQError

KINDS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}


def drawn_tree() -> dict[str, str]:
    """Name of each error -> name of its parent, from the drawing at the top of the module."""
    parents: dict[str, str] = {}
    way: list[tuple[int, str]] = []
    for line in ast.get_docstring(ast.parse(Path(errors.__file__).read_text(encoding="utf-8"))).splitlines():
        match = re.match(r"([ │]*)(?:[├└]── )?((?:[A-Z]\w+)(?:, [A-Z]\w+)*)(?: {2,}|$)", line)
        if not match or not set(match[2].split(", ")) <= set(KINDS):
            continue
        depth = line.index(match[2])
        while way and way[-1][0] >= depth:
            way.pop()
        for name in match[2].split(", "):
            parents[name] = way[-1][1] if way else ""
        way.append((depth, match[2]))
    return parents


def test_the_drawing_is_the_tree():
    assert drawn_tree() == {name: "" if kind is TSQError else kind.__base__.__name__ for name, kind in KINDS.items()}


@pytest.mark.parametrize("name", KINDS)
def test_every_error_has_a_docstring(name):
    assert KINDS[name].__doc__


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({}, "a thing"),
        ({"expected": "another"}, "a thing (expected another)"),
        ({"advice": "do this"}, "a thing: do this"),
        ({"section": "RFC 9000 §12.3"}, "a thing [RFC 9000 §12.3]"),
        (
            {"expected": "another", "advice": "do this", "section": "RFC 9000 §12.3"},
            "a thing (expected another) [RFC 9000 §12.3]: do this",
        ),
    ],
)
def test_an_error_says_found_expected_section_and_advice_in_this_order(parts, text):
    error = TSQError("a thing", **parts)
    assert str(error) == text
    assert error.found == "a thing"
    assert (error.expected, error.advice, error.section) == tuple(parts.get(key, "") for key in ("expected", "advice", "section"))


def test_the_text_of_an_error_for_a_developer_has_all_its_parts():
    assert repr(errors.NoAnswer("no\nthing")) == r"NoAnswer('no\nthing')"
    error = errors.WrongName("a thing", expected="another", advice="do this", section="R4")
    assert repr(error) == "WrongName('a thing', expected='another', advice='do this', section='R4')"


def test_an_error_as_a_dictionary_has_its_sentence_and_its_kind():
    error = errors.WrongName("a thing", advice="do this")
    assert error.to_dict() == {"error": "a thing: do this", "error_kind": "WrongName"}


@pytest.mark.parametrize("name", KINDS)
def test_errors_travel_between_processes_whole(name):
    error = KINDS[name]("a thing", expected="another", advice="do this", section="R4")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
