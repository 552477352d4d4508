"""What a type checker says of programs that use the library: the examples of the documentation pass `mypy --strict`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import tsq

ROOT = Path(tsq.__file__).parent.parent
PAGES = ("README.md", "docs/howto/query-from-python.md", "docs/howto/embed-the-server.md")
ANNOTATED = """
from typing import assert_type
import tsq

async def use() -> None:
    assert_type(tsq.query("h"), tsq.QueryResult)
    assert_type(await tsq.aquery(tsq.Target("h")), tsq.QueryResult)
    assert_type(tsq.query("h").estimate, tsq.Estimate)
    assert_type(tsq.query("h").estimate.offset, float)
    results = tsq.query_all(["h", tsq.Target("h")])
    assert_type(results, list[tsq.HostResult])
    assert_type(await tsq.aquery_all(["h"]), list[tsq.HostResult])
    assert_type(results[0].estimate, tsq.Estimate | None)
    assert_type(tsq.selection([tsq.query("h"), *results]).agreed, tsq.Agreed | None)
    async with tsq.connect("h") as client:
        assert_type(await client.sample(), tsq.Sample)
        assert_type((await client.measure()).estimate, tsq.Estimate)
"""


@pytest.fixture(scope="module")
def checked(tmp_path_factory) -> dict[str, list[str]]:
    """What mypy says of each example, in a directory in which it finds only what is installed."""
    pytest.importorskip("mypy")
    programs = {"annotated": ANNOTATED}
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for number, block in enumerate(re.findall(r"^```python\b[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL), 1):
            programs[f"{Path(page).stem.replace('-', '_').lower()}_{number}"] = block
    directory = tmp_path_factory.mktemp("examples")
    for name, program in programs.items():
        (directory / f"{name}.py").write_text(program, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-color-output", "--no-error-summary", "."]
    process = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300, check=False)
    assert not process.stderr
    lines = process.stdout.splitlines()
    return {name: [line for line in lines if line.startswith(f"{name}.py:")] for name in programs} | {"": lines}


def test_every_example_passes_a_strict_type_checker(checked):
    assert len(checked) > 12
    assert checked[""] == []


def test_results_have_the_types_that_are_documented(checked):
    assert checked["annotated"] == []
