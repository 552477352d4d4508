"""A run of the benchmarks, compared with a stored one."""

import json

import pytest

from benchmarks import regressions
from benchmarks.regressions import STORED, changes, of_pytest, of_stored, store, table

THEN = {"codec": {"tsq": 1.0, "plain": 4.0}, "start-up": {"tsq": 1.0, "0-RTT": 0.9, "plain": 1.0}}


def verdicts(now) -> dict[tuple[str, str], str]:
    return {(one.group, one.side): one.verdict for one in changes(THEN, now)}


def test_a_machine_that_is_slower_in_everything_is_no_regression():
    now = {group: {side: 3 * value for side, value in sides.items()} for group, sides in THEN.items()}
    found = changes(THEN, now)
    assert [one.factor for one in found] == pytest.approx([1.0, 1.0, 1.0])
    assert set(verdicts(now).values()) == {""}


def test_a_figure_that_changed_relative_to_plain_is_reported():
    now = {"codec": {"tsq": 1.3, "plain": 4.0}, "start-up": {"tsq": 0.7, "0-RTT": 0.9, "plain": 1.0}}
    assert verdicts(now) == {("codec", "tsq"): "slower", ("start-up", "tsq"): "quicker", ("start-up", "0-RTT"): ""}
    assert table(changes(THEN, now))[-1].startswith("1 of 3 slower by a quarter or more")


def test_new_and_missing_figures_are_reported():
    now = {"codec": THEN["codec"], "new": {"tsq": 1.0, "plain": 1.0}}
    assert verdicts(now) == {
        ("codec", "tsq"): "", ("new", "tsq"): "new", ("start-up", "tsq"): "gone", ("start-up", "0-RTT"): "gone",
    }  # fmt: skip


def test_medians_are_read_from_pytest_s_json_and_stored_without_the_machine(tmp_path):
    benchmarks = [
        {"group": "codec", "params": {"side": side}, "stats": {"median": value}}
        for side, value in (("tsq", 1.234567), ("plain", 5.0))
    ]
    file = tmp_path / "bench.json"
    file.write_text(json.dumps({"machine_info": {"node": "a-host"}, "benchmarks": benchmarks}))
    medians = of_pytest(file)
    assert medians == {"codec": {"tsq": 1.234567, "plain": 5.0}}
    store(medians, tmp_path / "stored.json")
    assert "a-host" not in (tmp_path / "stored.json").read_text()
    assert of_stored(tmp_path / "stored.json") == {"codec": {"tsq": 1.2346, "plain": 5.0}}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"benchmarks": [{"group": "x"}]}'])
def test_a_file_of_another_shape_is_refused(tmp_path, text, capsys):
    (tmp_path / "bench.json").write_text(text)
    with pytest.raises(SystemExit) as ended:
        regressions.main([str(tmp_path / "bench.json")])
    assert ended.value.code == 2
    assert "bench.json" in capsys.readouterr().err


def test_the_stored_run_can_be_compared():
    stored = of_stored(STORED)
    assert all("plain" in sides for sides in stored.values())
    assert len(changes(stored, stored)) > 20
