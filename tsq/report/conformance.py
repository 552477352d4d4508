"""What was found out about a server's conformance, as lines and as a JSON document (docs/reference/conformance.md).

Comes in: a Report. Goes out: strings, a document. It must never call a server conforming for what was not tested.
"""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from tsq.conformance.findings import Finding, Verdict
from tsq.conformance.statements import STATEMENTS, Statement
from tsq.conformance.suite import Report
from tsq.report.spans import escaped

_INDENT = " " * 25
_UNTESTED = "untested"
_PLACE = {number: place for place, number in enumerate(STATEMENTS)}


def lines(report: Report, *, everything: bool, width: int) -> list[str]:
    """The table and a summary. everything: also statements that cannot be tested from outside. width: of a line, in columns."""
    modes = " and ".join(name for name, there in (("datagrams", report.datagrams), ("streams", report.streams)) if there)
    head = [f"ALPN {escaped(report.alpn)}; {modes or 'no mode'}", ""]
    found = {finding.statement.number: finding for finding in report.findings}
    shown = [finding.statement for finding in report.findings]
    if everything:
        shown = sorted([*shown, *report.untested], key=lambda statement: _PLACE[statement.number])
    table = [line for statement in shown for line in _rows(statement, found.get(statement.number), width)]
    return [*head, *table, "", *(f"ended early: {escaped(why)}" for why in report.unfinished), summary(report)]


def summary(report: Report) -> str:
    """One sentence."""
    passed, failed, skipped = (report.count(verdict) for verdict in Verdict)
    return f"{passed} pass, {failed} fail, {skipped} skipped, {len(report.untested)} untested"


def document(report: Report, server: str) -> dict[str, Any]:
    """The same for programs: with every statement of the list."""
    found = {finding.statement.number: finding for finding in report.findings}
    return {
        "server": server,
        "alpn": report.alpn,
        "datagrams": report.datagrams,
        "streams": report.streams,
        "pass": report.count(Verdict.PASS),
        "fail": report.count(Verdict.FAIL),
        "skipped": report.count(Verdict.SKIPPED),
        "unfinished": list(report.unfinished),
        "statements": [_entry(statement, found.get(number)) for number, statement in STATEMENTS.items()],
    }


def _entry(statement: Statement, finding: Finding | None) -> dict[str, Any]:
    return {
        "number": statement.number,
        "section": statement.section,
        "level": statement.level,
        "sentence": statement.sentence,
        "verdict": None if finding is None else str(finding.verdict),
        "found": None if finding is None else finding.found,
        "expected": None if finding is None or finding.verdict is not Verdict.FAIL else finding.expected,
    }


def _rows(statement: Statement, finding: Finding | None, width: int) -> Iterator[str]:
    verdict = _UNTESTED if finding is None else "FAIL" if finding.verdict is Verdict.FAIL else str(finding.verdict)
    head = f"{verdict:<8}  {_shown(statement):<13} {statement.level:<10}"
    yield from _wrapped(f"{head} {statement.sentence}", width)
    if finding is not None and finding.verdict is not Verdict.PASS:
        yield from _wrapped(f"{'':<8}  found: {escaped(finding.found)}", width)
        if finding.expected:
            yield from _wrapped(f"{'':<8}  expected: {escaped(finding.expected)}", width)


def _shown(statement: Statement) -> str:
    return statement.number if statement.number[0].isalpha() else f"§{statement.number}"


def _wrapped(text: str, width: int) -> Sequence[str]:
    return textwrap.wrap(text, max(width, 60), subsequent_indent=_INDENT, break_on_hyphens=False, drop_whitespace=True)
