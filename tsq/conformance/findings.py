"""What was found out about each statement.

Comes in: a verdict with what was found and expected, once or many times for one statement. Goes out: one finding for each. It must
never let a later pass hide an earlier failure.
"""

from dataclasses import dataclass
from enum import StrEnum

from tsq.conformance.statements import RULE, STATEMENTS, Statement


class Verdict(StrEnum):
    """Whether a statement holds. SKIPPED: it was not tested, or it is an option that the server does not offer."""

    PASS = "pass"
    FAIL = "fail"
    SKIPPED = "skipped"


# Which of two findings stays.
_WEIGHT = {Verdict.FAIL: 2, Verdict.PASS: 1, Verdict.SKIPPED: 0}
_BINDING = ("MUST", "MUST NOT", RULE)


@dataclass(frozen=True, slots=True)
class Finding:
    """One statement's verdict. expected: only where it failed."""

    statement: Statement
    verdict: Verdict
    found: str
    expected: str = ""

    @property
    def binding(self) -> bool:
        """Whether a server that fails it does not conform: it is no SHOULD and no MAY."""
        return self.statement.level in _BINDING


class Findings:
    """The findings of a run, by the statements' numbers."""

    def __init__(self) -> None:
        self._found: dict[str, Finding] = {}

    def check(self, numbers: str, holds: bool, found: str, expected: str) -> None:
        """Whether these statements (numbers with commas between them) hold."""
        for number in numbers.split(","):
            verdict = Verdict.PASS if holds else Verdict.FAIL
            self._note(Finding(STATEMENTS[number], verdict, found, "" if holds else expected))

    def skip(self, numbers: str, why: str) -> None:
        """These statements are not tested, unless another test says more."""
        for number in numbers.split(","):
            self._note(Finding(STATEMENTS[number], Verdict.SKIPPED, why))

    def offered(self, numbers: str, there: bool, found: str) -> None:
        """Options: they pass where they are there; a server without them conforms, too."""
        if there:
            self.check(numbers, True, found, "")
        else:
            self.skip(numbers, "the server does not offer it")

    def failed(self, number: str) -> str:
        """The sentence of a statement that failed; "" where it did not."""
        finding = self._found.get(number)
        return "" if finding is None or finding.verdict is not Verdict.FAIL else f"failed: {finding.statement.sentence}"

    def in_order(self) -> list[Finding]:
        """All findings, in the draft's order."""
        return [self._found[number] for number in STATEMENTS if number in self._found]

    def _note(self, finding: Finding) -> None:
        number = finding.statement.number
        before = self._found.get(number)
        if before is None or _WEIGHT[finding.verdict] > _WEIGHT[before.verdict]:
            self._found[number] = finding
