"""Figures of the comparison: statistics, and JSON."""

import json
import random
import statistics

import pytest

from benchmarks.compare import document, record
from benchmarks.compare.record import Figure, Run, quantile, shortened
from benchmarks.compare.rows import DATAGRAM, NTS
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


def later_run(**machine: str) -> Run:
    about = {"processor": "a processor", "cores": "2", "load before": "0.5", "load after": "2.5"} | machine
    run = Run("2030-01-02T00:00:00+00:00", "full", about, notes=["a note on the later run"])
    run.add("serving", DATAGRAM, "100 clients", "server CPU", "s", [[5e-6]])
    run.add("flood", DATAGRAM, "5,000 a second", "answers kept", "share", [[1.0]])
    return run


def test_a_later_part_takes_the_place_of_all_rows_under_its_loads():
    earlier = small_run()
    run = record.merged(earlier, later_run(), ["serving", "flood"])
    assert run.median("serving", DATAGRAM, "100 clients", "server CPU") == 5e-6
    # A row that was not measured again would be compared with figures of another run.
    assert {one.row for one in run.figures if (one.column, one.load) == ("serving", "100 clients")} == {DATAGRAM}
    assert run.find("serving", NTS, "1 client", "server CPU") == earlier.find("serving", NTS, "1 client", "server CPU")
    assert run.median("flood", DATAGRAM, "5,000 a second", "answers kept") == 1.0
    assert (run.started, run.seconds) == (earlier.started, earlier.seconds)
    assert len(earlier.figures) == len(small_run().figures)


def test_a_later_part_is_noted_once_however_often_it_is_measured():
    run = small_run()
    for _ in range(3):
        run = record.merged(run, later_run(), ["flood"])
    note = "measured later than the rest: flood: 2030-01-02T00:00:00+00:00, load average before 0.5, after 2.5"
    assert run.notes == ["a note on the run", "a note on the later run", note]
    assert note in " ".join(document.page(run, []).split())


def test_figures_of_two_machines_are_not_merged():
    with pytest.raises(ValueError, match="a machine with 2 of a processor found, 2 of another one expected"):
        record.merged(small_run(), later_run(processor="another one"), ["flood"])
    with pytest.raises(ValueError, match="2 of a processor found, 16 of a processor expected"):
        record.merged(small_run(), later_run(cores="16"), ["flood"])


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
