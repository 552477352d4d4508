"""Figures of the comparison: statistics, and JSON."""

import json
import random
import statistics

import pytest

from benchmarks.compare import record
from benchmarks.compare.record import Figure, quantile, shortened
from tests.compare.worlds import small_run


def figure(*rounds: list[float]) -> Figure:
    return Figure("serving", "a row", "a load", "server CPU", "s", tuple(map(tuple, rounds)))


def test_quantiles_are_those_of_the_standard_library():
    values = random.Random(7).sample(range(1000), 101)
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    shares = (1, 25, 50, 95, 99)
    assert [quantile(values, share / 100) for share in shares] == pytest.approx([cuts[share - 1] for share in shares])


def test_quantile_of_one_value_is_that_value_and_of_none_is_no_number():
    assert quantile([3.0], 0.99) == 3.0
    assert str(quantile([], 0.5)) == "nan"


def test_median_and_p99_are_of_all_samples_and_the_spread_is_of_the_rounds():
    one = figure([1.0, 1.0, 1.0, 1.0, 1.0], [2.0], [9.0])
    assert one.median == 1.0
    assert one.p99 == pytest.approx(2.0 + 0.94 * 7.0)
    assert one.spread == (1.5, 5.5)


@pytest.mark.parametrize(("value", "short"), [(3.3333333e-6, 3.3333e-6), (123456.0, 123460.0), (0.0, 0.0), (-1.23456789, -1.2346)])
def test_values_keep_five_digits(value, short):
    assert shortened(value) == short


def test_a_cell_without_values_is_not_kept():
    run = small_run()
    before = len(run.figures)
    run.add("delay", "a row", "a load", "wall", "s", [[], []])
    assert len(run.figures) == before
    run.add("delay", "a row", "a load", "wall", "s", [[], [1.0]])
    assert run.figures[-1].rounds == ((1.0,),)


def test_a_run_survives_writing_and_reading_its_json(tmp_path):
    run = small_run()
    for name in ("run.json", "run.json.gz"):
        record.write(run, tmp_path / name)
        assert record.read(tmp_path / name) == run


def written(tmp_path, **changes) -> dict:
    record.write(small_run(), tmp_path / "run.json")
    return json.loads((tmp_path / "run.json").read_text()) | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema 2 found, 1 expected"),
        ({"weather": "fair"}, "weather"),
        ({"figures": [{"column": "serving"}]}, r"\['column'\] found"),
        ({"figures": ["nothing"]}, "'nothing' found"),
        (
            {"figures": [{"column": "taste", "row": "", "load": "", "quantity": "", "unit": "s", "rounds": [[1]]}]},
            "figure of 'taste' in 's'",
        ),
        (
            {"figures": [{"column": "serving", "row": "r", "load": "", "quantity": "q", "unit": "s", "rounds": [[]]}]}, "no values",
        ),
    ],
)  # fmt: skip
def test_json_of_another_shape_is_refused_with_what_was_found(tmp_path, changes, message):
    file = tmp_path / "run.json"
    file.write_text(json.dumps(written(tmp_path, **changes)))
    with pytest.raises(ValueError, match=message):
        record.read(file)


def test_a_file_without_json_is_refused(tmp_path):
    (tmp_path / "run.json").write_text("nothing")
    (tmp_path / "run.json.gz").write_bytes(b"\x1f\x8bnothing")
    for name in ("run.json", "run.json.gz"):
        with pytest.raises(ValueError, match="no JSON"):
            record.read(tmp_path / name)
