"""A number that is printed with its sign is never minus zero: "-0.000000 s" is neither behind nor ahead."""

import ast
import re
from pathlib import Path

import pytest

from tsq.report.spans import duration

ROOT = Path(__file__).resolve().parent.parent
SIGNED = re.compile(r"\+[^z]*\.\d+[efg]$")


def signed_without_z(path: Path) -> list[int]:
    """The lines that print a float with its sign, and the one of a zero too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FormattedValue) and node.format_spec is not None:
            spec = "".join(str(part.value) for part in node.format_spec.values if isinstance(part, ast.Constant))
            found += [node.lineno] if SIGNED.search(spec) else []
    return found


@pytest.mark.parametrize("path", sorted(ROOT.glob("tsq/**/*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_prints_the_sign_of_a_zero(path):
    assert signed_without_z(path) == []


def test_what_the_test_above_finds(tmp_path):
    file = tmp_path / "it.py"
    file.write_text('a = f"{x:+.3f}"\nb = f"{x:+z.3f}"\nc = f"{x:.3f}"\nd = f"{x:>+9.1e}"\n')
    assert signed_without_z(file) == [1, 4]


@pytest.mark.parametrize("seconds", [-1e-14, -0.0, 0.0])
def test_a_duration_that_is_shown_as_zero_is_not_negative(seconds):
    assert "-" not in duration(seconds, signed=True)
