"""The vectors are those that the generator makes, and the standalone checker needs nothing of TSQ and accepts nothing else."""

import ast
import copy
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cryptography
import pytest

from tests.vectors.generate import files
from tests.vectors.parts import HERE

CHECK = HERE / "check.py"
NAMES = sorted(path.name for path in HERE.glob("*.json"))
# What a reader computes, in the rest of a vector given: every change must show.
OUTCOMES = {
    "requests.json": {"as_sent", "fields"}, "responses.json": {"as_sent", "fields"}, "errors.json": {"as_sent", "fields"},
    "malformed.json": {"rule", "verdict"}, "exchanges.json": {"response"}, "streams.json": {"verdict"},
    "samples.json": {"t2_ns", "t3_ns", "twice_offset_ns", "delay_ns", "verdict"}, "timestamps.json": {"unix_ns", "direction"},
    "signatures.json": {"verdict"}, "chains.json": {"follows", "t2_ns", "t3_ns", "errors_ns", "limits", "contradiction", "accused"},
}  # fmt: skip
# For the reader's eyes.
WORDS = {"name", "about"}
# Runs the checker where only `cryptography` and what it needs is installed.
ALONE = """\
import runpy, sys
sys.path.append(sys.argv[1])
try:
    import tsq
except ModuleNotFoundError:
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    sys.exit("tsq can be imported")
"""


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_vectors", CHECK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A directory with `cryptography` alone."""
    site = Path(cryptography.__file__).parents[1]
    alone = tmp_path / "packages"
    alone.mkdir()
    for path in site.iterdir():
        if path.name.split(".")[0] in ("cryptography", "cffi", "_cffi_backend", "pycparser"):
            (alone / path.name).symlink_to(path)
    return alone


def run(packages: Path, *arguments: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", "-c", ALONE, packages, CHECK, *arguments]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60, check=False)


def test_the_files_are_those_that_the_generator_makes() -> None:
    made = files()
    assert sorted(made) == NAMES
    for name, text in made.items():
        assert (HERE / name).read_text() == text, f"{name}: python -m tests.vectors.generate"


def test_the_checker_needs_the_standard_library_and_cryptography_alone(packages: Path) -> None:
    tree = ast.parse(CHECK.read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} - set(sys.stdlib_module_names) == {"cryptography"}
    done = run(packages)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == list(files())
    # A directory may be given, also from a copy of the file.
    assert run(packages, HERE).stdout == done.stdout


def test_the_checker_names_a_vector_that_is_wrong(packages: Path, tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name).write_text((HERE / name).read_text())
    file = tmp_path / "timestamps.json"
    file.write_text(file.read_text().replace("eeae1ca01f9add38", "eeae1ca01f9add39"))
    (tmp_path / "errors.json").unlink()
    (tmp_path / "streams.json").write_text("[]")
    done = run(packages, tmp_path)
    assert done.returncode == 1
    assert "timestamps.json: wrong: 32 vectors\n  the example: AssertionError: " in done.stdout
    assert "errors.json: wrong: 0 vectors\n" in done.stdout
    assert "streams.json: wrong: 0 vectors\n" in done.stdout
    assert done.stdout.count("wrong") == 3


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where each value in a document stands."""
    if isinstance(value, dict | list) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path


def changed(value: Any, path: tuple[str | int, ...]) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, list | dict):
        return [["more", ""]]
    if path[-1] == "pivot_ns":
        # Another era; a shorter way means the same.
        return str(int(value) + (1 << 32) * 10**9)
    if value.lstrip("-").isdecimal() and "_ns" in "".join(map(str, path)):
        return str(int(value) + 1)
    return value[:-1] + ("1" if value[-1:] != "1" else "2")


@pytest.mark.parametrize("name", NAMES)
def test_the_checker_accepts_no_other_outcome(name: str, checker: ModuleType) -> None:
    file = json.loads((HERE / name).read_text())
    assert checker.problems(name, file) == []
    inputs: dict[str, bool] = {}
    for path in leaves(file["vectors"]):
        number, *inside = path
        if inside[0] in WORDS:
            continue
        vector = copy.deepcopy(file["vectors"][number])
        place = vector
        for key in inside[:-1]:
            place = place[key]
        place[inside[-1]] = changed(place[inside[-1]], path)
        noticed = bool(checker.problems(name, file | {"vectors": [vector]}))
        field = next((str(key) for key in inside if key in OUTCOMES[name]), None)
        if field is None:
            kind = ".".join(str(key) for key in inside if isinstance(key, str))
            inputs[kind] = inputs.get(kind, False) or noticed
        else:
            assert noticed, f"{name}: {vector['name']}: {inside}"
    # A changed input may have the same outcome, but not always.
    assert [kind for kind, noticed in inputs.items() if not noticed] == []


@pytest.mark.parametrize("name", [name for name in NAMES if "keys" in json.loads((HERE / name).read_text())])
def test_the_checker_notices_a_changed_key(name: str, checker: ModuleType) -> None:
    for path in leaves(json.loads((HERE / name).read_text())["keys"]):
        file = json.loads((HERE / name).read_text())
        key, field = path
        file["keys"][key][field] = changed(file["keys"][key][field], path)
        assert checker.problems(name, file), path


def test_the_readme_describes_every_file_and_field() -> None:
    text = (HERE / "README.md").read_text()
    for name in NAMES:
        assert f"`{name}`" in text
        section = text.partition(f"## {name}")[2].partition("\n## ")[0]
        file = json.loads((HERE / name).read_text())
        fields = {str(key) for vector in file["vectors"] for key in vector} - WORDS
        fields |= {str(key) for key in file} - {"format", "about", "vectors", "keys"}
        assert [field for field in sorted(fields) if f"`{field}`" not in section] == [], name
