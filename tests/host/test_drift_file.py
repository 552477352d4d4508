"""The drift file: kept over restarts, and never a reason to fail."""

import json
import os

import pytest

from tsq.discipline.events import SavedDrift
from tsq.host.drift_file import DriftFile

SAVED = SavedDrift(12.5e-6 / 3, 3.2e-8, (0.1, 0.7, 0.2), 1_800_000_000_123_456_789)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def file(tmp_path, said) -> DriftFile:
    return DriftFile(str(tmp_path / "state" / "drift.json"), said.append)


def test_what_was_saved_is_loaded_exactly(file, said):
    assert file.load() is None, "there is none yet"
    assert file.save(SAVED)
    assert DriftFile(file.path, said.append).load() == SAVED
    assert file.save(SavedDrift(-1e-6, 1e-9))
    assert file.load() == SavedDrift(-1e-6, 1e-9)
    assert os.listdir(os.path.dirname(file.path)) == ["drift.json"], "nothing is left behind"
    assert os.stat(file.path).st_mode & 0o777 == 0o644
    assert said == []


GOOD = {"version": 1, "frequency": 1e-6, "uncertainty": 1e-8, "weights": [0.5, 0.5], "saved_ns": 5}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"{", "damaged"),
        (b"[" * 30_000, "damaged"),
        (b"[]", "no JSON object"),
        (b"12.5 0.1\n", "damaged"),
        ({"version": 2}, "version '2', expected 1"),
        ({"version": None}, "version 'None', expected 1"),
        ({"frequency": None}, "frequency is 'None', expected a number from -0.1 to 0.1"),
        ({"frequency": "1e-6"}, "frequency is '1e-6'"),
        ({"frequency": True}, "frequency is 'True'"),
        ({"frequency": 0.11}, "frequency is '0.11'"),
        ({"frequency": float("nan")}, "frequency is 'nan'"),
        ({"frequency": 10**400}, "frequency is '1000"),
        ({"saved_ns": "5"}, "saved_ns is no time"),
        ({"uncertainty": -1e-9}, "uncertainty is '-1e-09'"),
        ({"uncertainty": float("inf")}, "uncertainty is 'inf'"),
        ({"weights": 3}, "weights is no list"),
        ({"weights": [0.1] * 65}, "weights is no list"),
        ({"weights": [0.1, "x"]}, "weight is 'x'"),
        ({"weights": [1.5]}, "weight is '1.5'"),
        ({"saved_ns": -1}, "saved_ns is no time"),
        ({"saved_ns": 1.5}, "saved_ns is no time"),
        ({"saved_ns": 2**63}, "saved_ns is no time"),
    ],
)
def test_a_damaged_file_is_ignored_with_a_warning_and_replaced_later(file, said, content, text):
    os.makedirs(os.path.dirname(file.path))
    data = content if isinstance(content, bytes) else json.dumps(GOOD | content).encode()
    with open(file.path, "wb") as target:
        target.write(data)
    assert file.load() is None
    (warning,) = said
    assert warning.startswith(f"drift file {file.path} is damaged and is ignored")
    assert text in warning
    assert file.save(SAVED)
    assert file.load() == SAVED


def test_fields_that_are_missing_have_defaults_and_unknown_ones_do_not_matter(file, said):
    os.makedirs(os.path.dirname(file.path))
    with open(file.path, "w") as target:
        json.dump({"version": 1, "frequency": 2, "uncertainty": 0, "more": [1]} | {"frequency": 0}, target)
    assert file.load() == SavedDrift(0.0, 0.0)
    assert said == []


def test_a_file_that_others_may_write_is_not_believed(file, said):
    file.save(SAVED)
    os.chmod(file.path, 0o666)
    assert file.load() is None
    assert "cannot be read and is ignored: it can be written by others" in said[0]


@pytest.mark.parametrize("kind", ["symbolic link", "FIFO", "directory"])
def test_what_is_no_file_is_left_alone(file, said, tmp_path, kind):
    other = tmp_path / "other"
    other.write_text("precious")
    os.makedirs(os.path.dirname(file.path))
    make = {
        "symbolic link": lambda: os.symlink(other, file.path),
        "FIFO": lambda: os.mkfifo(file.path),
        "directory": lambda: os.mkdir(file.path),
    }
    make[kind]()
    assert file.load() is None
    assert not file.save(SAVED)
    assert len(said) == 2
    assert other.read_text() == "precious"


def test_a_place_that_cannot_be_written_is_said_once_until_it_works_again(tmp_path, said):
    blocker = tmp_path / "file"
    blocker.write_text("")
    file = DriftFile(str(blocker / "drift.json"), said.append)
    assert not file.save(SAVED)
    assert not file.save(SAVED)
    assert len(said) == 1
    assert said[0].startswith(f"the drift was not saved to {file.path}: ")
    blocker.unlink()
    assert file.save(SAVED)
    os.unlink(file.path)
    os.rmdir(blocker)
    blocker.write_text("")
    assert not file.save(SAVED)
    assert len(said) == 2


def test_a_value_that_is_no_number_is_not_written(file, said):
    file.save(SAVED)
    assert not file.save(SavedDrift(float("nan"), 1e-9))
    assert file.load() == SAVED
    assert len(said) == 1
