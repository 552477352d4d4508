"""Check that the source is ready to be released as a version: release.py VERSION.

Comes in: the version, the source tree. Goes out: nothing, or one line for each place that says something else, and a status of 1.
It must never change a file.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def faults(version: str, root: Path = ROOT) -> list[str]:
    """What is wrong, as `file: found (expected: ...)`."""
    found = []
    (own,) = re.findall(r'^__version__ = "(.*)"$', (root / "tsq/__init__.py").read_text(), re.MULTILINE)
    if own != version:
        found.append(f"tsq/__init__.py: __version__ is {own} (expected: {version})")
    line = (root / "debian/changelog").read_text().splitlines()[0]
    if not line.startswith(f"tsq-time ({version}) "):
        found.append(f"debian/changelog: {line} (expected: tsq-time ({version}))")
    headings = re.findall(r"^## (.*)$", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    # An empty [Unreleased] may stand before it.
    newest = next((heading for heading in headings if heading != "[Unreleased]"), "nothing")
    if not re.fullmatch(rf"\[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d", newest):
        found.append(f"CHANGELOG.md: the newest version is {newest} (expected: [{version}] - YYYY-MM-DD)")
    return found


def main() -> int:
    """Run the command."""
    if len(sys.argv) != 2:
        print(__doc__.splitlines()[0], file=sys.stderr)
        return 2
    for fault in (found := faults(sys.argv[1])):
        print(f"release: {fault}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
