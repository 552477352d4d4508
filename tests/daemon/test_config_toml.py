"""TOML with lines: every key has the line where tomllib found it, every syntax error is reported, nothing else is accepted."""

import tomllib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tsq.daemon import toml_lines
from tsq.daemon.toml_lines import MOST_CHARACTERS, Document, dotted, quoted, read_toml, shown

GOOD = '''\
# A comment
[clock]
mode = "steer" # the default
makestep = [
  1.0, # seconds
  3,
]

[[source]]
host = "a"
pins = ["""
x""",
  'y' ]

  [[source]]
  host = "b"
  client.trust = { ca = "x", pins = [1] }
[feed]
ntp.listen = "x"
ntp.more = "y"
[ log . "deep.er" ]
level = 1
'''
LINES = {
    ("clock",): 2, ("clock", "mode"): 3, ("clock", "makestep"): 4, ("source",): 9, ("source", 0): 9, ("source", 0, "host"): 10,
    ("source", 0, "pins"): 11, ("source", 1): 15, ("source", 1, "host"): 16, ("source", 1, "client"): 17,
    ("source", 1, "client", "trust"): 17, ("source", 1, "client", "trust", "ca"): 17, ("feed",): 18, ("feed", "ntp"): 19,
    ("feed", "ntp", "listen"): 19, ("feed", "ntp", "more"): 20, ("log",): 21, ("log", "deep.er"): 21,
    ("log", "deep.er", "level"): 22,
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_key_has_its_line(end):
    document = read_toml(GOOD.replace("\n", end))
    assert document.problems == ()
    assert document.values == tomllib.loads(GOOD)
    assert {path: line for path, line in document.lines.items() if path in LINES} == LINES


def test_a_table_of_a_table_of_an_array_belongs_to_the_last_one():
    document = read_toml("[[source]]\n[source.x]\na = 1\n[[source]]\n[source.x]\na = 2\n[[source.y]]\n[[source.y]]\nb = 1\n")
    assert document.values == {"source": [{"x": {"a": 1}}, {"x": {"a": 2}, "y": [{}, {"b": 1}]}]}
    assert document.lines["source", 0, "x", "a"] == 3
    assert document.lines["source", 1, "x", "a"] == 6
    assert document.lines["source", 1, "y", 1, "b"] == 9


def test_all_errors_of_a_text_are_found_and_the_rest_is_read():
    document = read_toml('[clock]\nmode = steer\nleap = True\npanic = 3\n= 4\n'
                         '[source\nhost = 1\n[log]\nlevel = "info\nrecord = "x"\n')
    assert document.problems == (
        (2, 'not TOML: invalid value (column 8), expected text in quotes: "steer"'),
        (3, "not TOML: invalid value (column 8), expected true"),
        (5, "not TOML: invalid statement (column 1)"),
        (6, "not TOML: expected ']' at the end of a table declaration (column 8)"),
        (9, "not TOML: this text does not end in its line (column 14)"),
    )
    # host is in a table that is not known: it is left out, and so no error of its own.
    assert document.values == {"clock": {"panic": 3}, "log": {"record": "x"}}


@pytest.mark.parametrize(("text", "line", "words"), [
    ("a = 1\nb = 2\na = 3\n", 3, "key `a`: found twice, the first in line 1"),
    ("[x]\na = 1\n[y]\n[x]\nb = 1\n", 4, "[x]: found twice, the first in line 1"),
    ("[x]\na = 1\na = [\n1\n]\n[y]\n", 3, "key `x.a`: found twice, the first in line 2"),
    ("[[x]]\na = 1\n[[x]]\na = 1\na = 2\n", 5, "key `x.a`: found twice"),
    ("[[x]]\n[x]\n", 2, "[x]: found twice"),
    ("a = { b = 1 }\na.c = 2\n", 2, "Cannot mutate immutable namespace"),
    ("a.b = 1\n[a]\nc = 1", 2, "[a]: found twice, the first in line 1"),
])
def test_what_contradicts_an_earlier_statement_is_found(text, line, words):
    document = read_toml(text)
    ((at, problem),) = document.problems
    assert at == line
    assert words in problem


@pytest.mark.parametrize("text", ["a = [\n1,\n2\n", 'a = """\nx\ny\n', "a = {\n", "a = '''\n"])
def test_a_value_that_does_not_end_is_reported_where_it_begins(text):
    document = read_toml(f"b = 1\n{text}")
    assert [line for line, _ in document.problems] == [2]
    assert "does not end" in document.problems[0][1] or "not TOML" in document.problems[0][1]
    assert document.values == {"b": 1}


def test_an_error_in_a_long_value_is_one_error_and_the_next_key_is_read():
    document = read_toml('pins = [\n  "a"\n  "b",\n  "c",\n]\nmode = 1\n')
    assert [line for line, _ in document.problems] == [1]
    assert "2 lines below" in document.problems[0][1]
    assert document.values == {"mode": 1}


def test_an_error_in_a_line_does_not_hide_that_of_the_next_one():
    assert [line for line, _ in read_toml("a = steer\n= 4\n]\nb = 1\n").problems] == [1, 2, 3]


def test_a_value_over_very_many_lines_costs_little_and_is_an_error():
    document = read_toml("a = [\n" + "']',\n" * 40_000 + "]\nb = 1\n")
    assert document.problems[0] == (1, "a value over more than 500 lines")
    assert document.values == {"b": 1}


def test_nesting_without_end_is_an_error():
    document = read_toml(f"a = {'[' * 4000}\nb = 1\n")
    assert document.values == {"b": 1}
    assert len(document.problems) == 1


def test_a_number_that_python_does_not_read_is_an_error(monkeypatch):
    monkeypatch.setattr(toml_lines, "MOST_CHARACTERS", 10_000)
    document = read_toml(f"a = {'9' * 5000}\nb = 1\n")
    assert document.problems == ((1, "not TOML: a number of thousands of digits"),)


def test_a_key_of_very_many_parts_is_an_error():
    assert read_toml(f"a{'.a' * 65} = 1\n").problems == ((1, "found a line with 65 dots outside of texts, expected at most 64"),)
    for line in (f"a{'.a' * 64} = 1", f"a = '{'.' * 100}'", f'a = "{"." * 100}" # {"." * 100}', f"# {'.' * 100}"):
        assert not read_toml(f"{line}\n").problems


@pytest.mark.parametrize("line", ["a" + ".a" * 50_000 + " = 1", "[" + "a." * 50_000 + "a]", "#" * 5000])
def test_a_line_without_end_is_an_error_and_costs_little(line):
    document = read_toml(f"b = 1\n{line}\n")
    assert document.values == {}
    assert document.problems == ((2, f"found a line of {len(line)} characters, expected at most {MOST_CHARACTERS}"),)
    assert not read_toml(f"#{'x' * (MOST_CHARACTERS - 1)}\n").problems


def test_a_text_of_nothing_but_errors_ends():
    document = read_toml("a = 1\n" * 1000)
    assert 50 < len(document.problems) <= 100


@given(st.text(st.sampled_from("ab=[]{}\"'#\n\r\t ,.1\\-"), max_size=60))
@example("#\r")
@example("a=[\n'''\n]\n'''\n]")
@example('a="""\n"\nb=1\n"""')
@settings(max_examples=600)
def test_it_accepts_exactly_what_tomllib_accepts_and_reads_the_same(text):
    document = read_toml(text)
    try:
        values = tomllib.loads(text)
    except ValueError:
        assert document.problems
        return
    assert document.problems == ()
    assert document.values == values
    known = [name for name in values if (name,) in document.lines]
    assert known == list(values)
    for (name, *_), line in document.lines.items():
        assert str(name).strip() in text
        assert 1 <= line <= text.count("\n") + 1


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_nothing_raises(data):
    assert isinstance(read_toml(data.decode("utf-8", "surrogateescape")), Document)


@given(st.text(max_size=50))
def test_a_quoted_text_is_the_same_text_for_tomllib_and_one_line(text):
    written = quoted(text)
    assert tomllib.loads(f"a = {written}") == {"a": text}
    assert written.isprintable()


@pytest.mark.parametrize(("value", "text"), [
    (True, "true"), (1.5, "1.5"), ("a\x1b[2J", '"a\\u001B[2J"'), ({"a": 1}, "a table"), ([1, "x", [2]], '[1, "x", an array]'),
    (1 << 10_000, "a number of more than 77 digits"), ("x" * 500, '"' + "x" * 98 + "…"), (float("nan"), "nan"),
    (tomllib.loads("a = 2026-11-27T10:00:00Z")["a"], "2026-11-27 10:00:00+00:00"),
])
def test_values_are_shown_in_a_line_without_control_characters(value, text):
    assert shown(value) == text


def test_keys_are_shown_as_toml_writes_them():
    assert dotted(("a", 0, "b c", "d\n")) == 'a."b c"."d\\n"'
    assert len(dotted(("x" * 1000,))) == 100
