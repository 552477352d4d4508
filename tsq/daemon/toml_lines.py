"""TOML with the line of each key, and all of a file's syntax errors at once.

Comes in: a file's text. Goes out: its values as `tomllib` reads them, the line of each table and key, and what is not TOML. It must
never accept what `tomllib` rejects.
"""

import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# (table, key, ...); a number is the place in an array of tables.
Path = tuple[str | int, ...]
# A value over more lines is taken, but what follows it has no line.
_MOST_LINES = 500
_MOST_PROBLEMS = 100
# tomllib takes minutes for keys of some thousand parts.
MOST_CHARACTERS, MOST_DOTS = 4096, 64
# Deeper than any key of ours.
_DEEPEST = 6
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|(end of document))\)$")
_BEGINS = re.compile(r"[ \t]*(?:\[|[\w.\-\"'][\w.\-\"' \t]*=)")
_BARE_WORD = re.compile(r"=[ \t]*([A-Za-z_][\w./:+-]*)[ \t]*(?:#.*)?$")
_WORDS = {"True": "true", "False": "false", "yes": "true", "no": "false", "on": "true", "off": "false"}


@dataclass(frozen=True, slots=True)
class Document:
    """What a file holds. lines: of tables and keys; problems: (line, what is wrong), after which the rest was read all the same."""

    values: dict[str, Any]
    lines: dict[Path, int] = field(default_factory=dict)
    problems: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Statement:
    """A table's header, or a key with its value: lines first to last. found: what it is by itself; None if it is not TOML."""

    first: int
    last: int
    header: bool
    found: dict[str, Any] | None
    problem: str = ""


def read_toml(text: str) -> Document:
    """Values, lines and problems of a text. Every statement by itself is given to `tomllib`, so that its line is known."""
    # A carriage return elsewhere is not TOML, but would be a line's end again when one is joined to it: DEL is not TOML either.
    lines = text.replace("\r\n", "\n").replace("\r", "\x7f").split("\n")
    if excesses := [(number, text) for number, line in enumerate(lines, 1) if (text := _excess(line))]:
        return Document({}, {}, tuple(excesses[:_MOST_PROBLEMS]))
    statements = list(_statements(lines))
    problems = [(one.first, one.problem) for one in statements if one.problem]
    good = _without_orphans(statements)
    while True:
        kept = {number for one in good for number in range(one.first, one.last + 1)}
        try:
            values = _loads("\n".join(line if number in kept else "" for number, line in enumerate(lines, 1)))
            break
        except ValueError as error:
            # Each statement is right by itself: this one contradicts an earlier one.
            place = _PLACE.search(str(error))
            at = int(place[1]) if place and place[1] else len(lines)
            wrong = max((one for one in good if one.first <= at), key=lambda one: one.first)
            problems.append((wrong.first, _contradiction(wrong, good, str(error))))
            good = _without_orphans(
                [one if one is not wrong else _Statement(one.first, one.last, one.header, None) for one in good]
            )
            if len(problems) >= _MOST_PROBLEMS:
                return Document({}, {}, tuple(sorted(problems)))
    return Document(values, _lines_of(good), tuple(sorted(problems)))


def _excess(line: str) -> str:
    """What is too much in a line to be read at all; empty: nothing."""
    if len(line) > MOST_CHARACTERS:
        return f"found a line of {len(line)} characters, expected at most {MOST_CHARACTERS}"
    dots = re.sub(r"\"[^\"]*\"|'[^']*'", "", line).partition("#")[0].count(".") if line.count(".") > MOST_DOTS else 0
    return f"found a line with {dots} dots outside of texts, expected at most {MOST_DOTS}" if dots > MOST_DOTS else ""


def _loads(text: str) -> dict[str, Any]:
    """Raises ValueError only."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("arrays or tables within each other beyond any use (at line 1, column 1)") from None


def _statements(lines: list[str]) -> Iterator[_Statement]:
    """The statements of a text, blank lines and comments left out."""
    at = 0
    while at < len(lines):
        if not lines[at].strip(" \t") or lines[at].lstrip(" \t").startswith("#"):
            # A comment may hold a character that TOML does not allow.
            if (problem := _problem([lines[at]])) and problem[0]:
                yield _Statement(at + 1, at + 1, False, None, problem[1])
            at += 1
            continue
        length, statement = _statement(lines, at)
        yield statement
        at += length


def _statement(lines: list[str], at: int) -> tuple[int, _Statement]:
    """(number of lines to go on after, the statement that begins at this line)."""
    header = lines[at].lstrip(" \t").startswith("[")
    problem = (False, "")
    most = min(len(lines) - at, _MOST_LINES)
    for length in range(1, most + 1):
        if 1 < length < most and not re.search(r"[\]}'\"]", lines[at + length - 1]):
            # Nothing ends in this line.
            continue
        part = lines[at : at + length]
        try:
            return length, _Statement(at + 1, at + length, header, _loads("\n".join(part) + "\n"))
        except ValueError as error:
            problem = _explained(str(error), part)
            if problem[0] or header:
                break
    if problem[0] or header:
        text = problem[1]
    elif length == _MOST_LINES:
        text = f"a value over more than {_MOST_LINES} lines"
    else:
        text = f"{problem[1]}: this value does not end"
    # What follows is read as if this statement were over at the next line that can begin another one.
    skipped = 1
    while length > 1 and at + skipped < len(lines) and not _BEGINS.match(lines[at + skipped]):
        skipped += 1
    return skipped, _Statement(at + 1, at + skipped, header, None, text)


def _problem(part: list[str]) -> tuple[bool, str] | None:
    try:
        _loads("\n".join(part) + "\n")
    except ValueError as error:
        return _explained(str(error), part)
    return None


def _explained(error: str, part: list[str]) -> tuple[bool, str]:
    """(whether more lines cannot mend it, what is wrong)."""
    place = _PLACE.search(error)
    if not place:
        # Python's own limit on the digits of a number.
        return True, "not TOML: a number of thousands of digits"
    message = _PLACE.sub("", error)
    message = message[:1].lower() + message[1:]
    if place[3]:
        return False, f"not TOML: {message}"
    message = "this text does not end in its line" if message == "illegal character '\\n'" else message
    line, column = int(place[1]), int(place[2])
    where = f"column {column}" if line == 1 else f"{line - 1} lines below, column {column}"
    advice = ""
    if line == 1 and (word := _BARE_WORD.search(part[0])):
        advice = f", expected {_WORDS[word[1]]}" if word[1] in _WORDS else f', expected text in quotes: "{word[1]}"'
    return True, f"not TOML: {message} ({where}){advice}"


def _without_orphans(statements: list[_Statement]) -> list[_Statement]:
    """The good statements, without those whose table is unknown because its header is wrong."""
    kept = []
    known = True
    for one in statements:
        known = one.found is not None if one.header else known
        if known and one.found is not None:
            kept.append(one)
    return kept


def _contradiction(wrong: _Statement, good: list[_Statement], error: str) -> str:
    """What to say of a statement that cannot stand beside an earlier one."""
    before = _lines_of([one for one in good if one.first < wrong.first])
    tables = [one for one in good if one.header and one.first <= wrong.first]
    inside = [] if wrong.header or not tables else [tables[-1]]
    path: Path = ()
    for one in [*inside, wrong]:
        path += _chain(one.found or {})
    # The index of an array of tables is not in the chain.
    plain: dict[Path, int] = {tuple(part for part in known if isinstance(part, str)): line for known, line in before.items()}
    if path in plain:
        what = f"[{dotted(path)}]" if wrong.header else f"key `{dotted(path)}`"
        together = "put all its keys under one header" if wrong.header else "leave one of them"
        return f"{what}: found twice, the first in line {plain[path]}, expected once in a file: {together}"
    return f"not TOML: {_PLACE.sub('', error)}: it contradicts what stands before it"


def _chain(found: dict[str, Any]) -> tuple[str, ...]:
    """The keys of a statement, from the outermost one."""
    path: list[str] = []
    inner: Any = found
    while isinstance(inner, dict) and len(inner) == 1 and len(path) < _DEEPEST:
        ((name, inner),) = inner.items()
        path.append(name)
        if isinstance(inner, list) and inner and isinstance(inner[0], dict) and not inner[0]:
            break
    return tuple(path)


def _lines_of(statements: list[_Statement]) -> dict[Path, int]:
    """The first line of each table and key."""
    lines: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    prefix: Path = ()
    for one in statements:
        if not one.header:
            _record(one.found, prefix, one.first, lines)
            continue
        prefix = ()
        inner: Any = one.found
        while isinstance(inner, dict) and inner and len(prefix) < _DEEPEST:
            ((name, inner),) = inner.items()
            prefix += (name,)
            lines.setdefault(prefix, one.first)
            if isinstance(inner, list):
                # [[table]]: the next one.
                counts[prefix] = counts.get(prefix, 0) + 1
            if prefix in counts:
                # [table.key] after [[table]]: of the last one.
                prefix += (counts[prefix] - 1,)
                lines.setdefault(prefix, one.first)
            if isinstance(inner, list):
                break
    return lines


def _record(found: Any, prefix: Path, line: int, lines: dict[Path, int]) -> None:
    inner = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    for name, value in inner:
        path = (*prefix, name)
        lines.setdefault(path, line)
        if len(path) < _DEEPEST and isinstance(value, dict | list):
            _record(value, path, line, lines)


def dotted(path: Path) -> str:
    """Keys as TOML writes them, for an error: no longer than a line, and without control characters."""
    parts = [str(part) for part in path if isinstance(part, str)]
    text = ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else shown(part) for part in parts)
    return text if len(text) <= 100 else f"{text[:99]}…"


def shown(value: Any) -> str:
    """A value as TOML writes it, for an error: no longer than a line, and without control characters."""
    text = _shown(value)
    return text if len(text) <= 100 else f"{text[:99]}…"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number of more than 77 digits"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        # Not deeper: an array of arrays is wrong everywhere.
        return f"[{', '.join('an array' if isinstance(one, list) else _shown(one) for one in value[:20])}]"
    return str(value)


def quoted(text: str) -> str:
    """A text as a basic string of TOML."""
    short = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return '"' + "".join(short.get(c) or (c if c.isprintable() else _escape(c)) for c in text) + '"'


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"


def file_name(path: str) -> str:
    """A file's name for a person: no control characters, and what is not UTF-8 escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return text if text.isprintable() else quoted(text)[1:-1]
