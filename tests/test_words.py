"""Tracked text uses the terms of NTP and QUIC, not private words of this project. docs/reference/architecture.md has the terms."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("tsq", "tests", "benchmarks", "docs", "scripts", ".ci")
SUFFIXES = {".py", ".pyx", ".pxd", ".pyi", ".h", ".md", ".toml", ".sh", ".txt", ".js", ".json", ""}
# What to write in place of each word.
WORDS = {
    r"wish(?:es|ed)?": "TX timestamp request; want",
    r"in_?\s?vain": "warming the transmit path; without effect",
    r"ways? out": "transmit path; remedy",
    r"goodbyes?": "CONNECTION_CLOSE",
    r"nobody_?\s?knows": "unknown",
    r"why_nothing": "reason",
    r"such a word": "such a report",
    r"rooms": "packages",
    r"floors": "layers; lower limits",
    r"doors?": "the only interface to the clock; interfaces",
    r"houses?": "the project; the package",
    r"lean(?:connection)?": "trim; TrimmedConnection",
    r"(?:from|for) whom": "the source; the client",
    r"departures?|departed": "transmit timestamp; sent",
    r"for who has": "for clients that have",
    r"what lies": "what is",
    r"full handshake it is": "falling back to a full handshake",
    r"sets? no clock": "must not set the clock",
    r"people of good will|of good will": "correct client",
    r"is nobody's|nobody's": "unknown",
    r"as it came": "unchanged",
    r"who goes on": "the next owner",
    r"is told|was told": "is reported; learns",
    r"(?:by the|to its) word": "as reported; trusted",
}
FORBIDDEN = re.compile(rf"(?<![a-zA-Z])(?:{'|'.join(WORDS)})(?![a-zA-Z])", re.IGNORECASE)
# Where a word has its ordinary or a technical meaning: (file, text around it).
ALLOWED: list[tuple[str, str]] = []
# Files (or directories) that still contain such words. Empty this list.
NOT_CLEAN_YET: list[str] = []


def texts() -> list[Path]:
    """All text files of the repository but this one."""
    found = [path for path in ROOT.iterdir() if path.is_file()]
    for place in PLACES:
        found += [path for path in (ROOT / place).rglob("*") if path.is_file() and "node_modules" not in path.parts]
    return sorted(path for path in found if path.suffix in SUFFIXES and path != Path(__file__).resolve() and path.name != ".git")


def private_words(file: str, text: str) -> list[str]:
    """The lines of a text that hold a forbidden word, as `line: text`."""
    for where, allowed in ALLOWED:
        if where == file:
            text = text.replace(allowed, "")
    return [f"{number}: {line.strip()}" for number, line in enumerate(text.splitlines(), 1) if FORBIDDEN.search(line)]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", texts(), ids=name)
def test_text_has_no_private_words(path: Path) -> None:
    if any(name(path) == place or name(path).startswith(f"{place}/") for place in NOT_CLEAN_YET):
        pytest.skip("not clean yet")
    assert not private_words(name(path), path.read_text(encoding="utf-8"))


def test_the_whole_repository_is_read() -> None:
    some = {"README.md", "Makefile", "tsq/_fast.pyx", "tests/mutants/list.toml", ".ci/run", "docs/index.md"}
    assert some <= set(map(name, texts()))


@pytest.mark.parametrize("text", ["a wish of the client", "_go_in_vain()", "THE DOORS", "nobody_knows", "the last\tdeparture"])
def test_a_private_word_is_found_in_prose_and_names(text: str) -> None:
    assert private_words("x", text)


@pytest.mark.parametrize("text", ["no room in the window", "has_room", "outdoors", "floor(x)", "without"])
def test_ordinary_words_are_not(text: str) -> None:
    assert not private_words("x", text)


def test_every_exception_is_needed() -> None:
    for file, allowed in ALLOWED:
        assert allowed in (ROOT / file).read_text(encoding="utf-8"), (file, allowed)
        assert FORBIDDEN.search(allowed), allowed
