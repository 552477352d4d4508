"""The tables and the page of the comparison agree with the figures."""

from pathlib import Path

import pytest

from benchmarks.compare import document, pictures, record, table
from benchmarks.compare.record import Run
from benchmarks.compare.rows import DATAGRAM, ECHO, NTS, QUICHE, ROWS
from tests.compare.worlds import MICRO, small_run

EXPLANATION = Path(__file__).parents[2] / "docs" / "explanation"
PAGE = EXPLANATION / "performance.md"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (3.3e-6, "s", "3.30 µs"), (0.2091, "s", "209 ms"), (2.24, "s", "2.24 s"), (-4.2e-8, "s", "-42.0 ns"), (0.0, "s", "0.00 ns"),
        (78 * 1024.0, "bytes", "78.0 KiB"), (25.5 * 2**20, "bytes", "25.5 MiB"), (200.0, "bytes", "200 B"),
        (219000.0, "per second", "219 k/s"), (0.965, "share", "96%"), (21.0, "count", "21.0"), (12345.0, "count", "12,345"),
    ],
)  # fmt: skip
def test_amounts_have_three_digits_and_a_unit(value, unit, text):
    assert table.amount(value, unit) == text


def cells(lines: list[str], row: str) -> list[str]:
    (line,) = [line for line in lines if line.startswith(f"| {row} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_the_overview_has_medians_and_ratios_to_the_echo_and_to_nts():
    lines = table.glance(small_run(3.0, 6.0))
    assert cells(lines, DATAGRAM)[:3] == ["3.00 µs", "×1.50", "×0.50"]
    assert cells(lines, ECHO)[:3] == ["2.00 µs", "×1.00", "×0.33"]
    assert cells(lines, DATAGRAM)[-1] == "40.0 KiB"


def test_a_row_that_cannot_run_shows_the_reason():
    assert cells(table.glance(small_run()), QUICHE)[0] == "skipped: node is not installed"


def test_a_table_row_without_a_figure_is_left_out_and_bars_are_no_columns():
    lines = table.markdown(["", "|offset|"], [["one", "1 µs"], ["two", table.NOTHING]])
    assert lines == ["|  | \\|offset\\| |", "| --- | --- |", "| one | 1 µs |"]
    assert table.markdown(["", "a"], [["two", table.NOTHING]]) == ["Not measured in this run."]


@pytest.mark.parametrize(
    ("ratio", "word"), [(0.5, "won"), (0.86, "even"), (1.0, "even"), (1.14, "even"), (1.16, "lost"), (9.0, "lost")]
)
def test_differences_within_the_noise_are_even(ratio, word):
    assert document.verdict(ratio) == word


def section(page: str, heading: str) -> str:
    return page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(
    ("ours", "theirs", "where"), [(3.0, 6.0, "What is won"), (6.0, 6.1, "What is even"), (9.0, 6.0, "What is lost")]
)
def test_a_claim_is_in_the_section_that_its_figures_require(ours, theirs, where):
    page = document.page(small_run(ours, theirs), [])
    said = f"**Server CPU for a request, against NTS: ×{ours / theirs:.2f}** ({ours:.2f} µs to {theirs:.2f} µs)."
    assert " ".join(said.split()) in " ".join(section(page, where).split())
    assert page.count("Server CPU for a request, against NTS:") == 1


def test_aims_are_met_or_missed_according_to_the_figures():
    assert "at most 0.6 times NTS's | ×0.50 | met |" in section(document.page(small_run(3.0, 6.0), []), "Aims")
    assert "at most 0.6 times NTS's | ×0.83 | missed |" in section(document.page(small_run(5.0, 6.0), []), "Aims")
    assert "1,000 connected clients | 40.0 KiB | met |" in section(document.page(small_run(), []), "Aims")


def test_the_page_lists_skipped_rows_notes_and_only_existing_pictures():
    page = document.page(small_run(), [pictures.CPU])
    assert f"- {QUICHE}: skipped, node is not installed." in page
    assert "- a note on the run." in page
    assert "](performance/cpu.png)" in page
    assert pictures.GROWTH not in page


def test_the_page_has_no_section_without_figures():
    page = document.page(small_run(), [])
    assert "## Serving" in page
    assert "## Accuracy" in page
    assert not [name for name in ("## One shot", "## Handshakes", "## Delay") if name in page]
    empty = document.page(Run("now", "full", {}), [])
    assert "## What is" not in empty
    assert "## Serving" not in empty


def test_ratios_are_within_one_load():
    run = small_run()
    run.add("serving", NTS, "10 clients", "server CPU", "s", [[MICRO]])
    assert table.ratio(run, "serving", DATAGRAM, "10 clients", "server CPU", NTS) is None


def test_lines_of_the_page_break_nowhere_in_code():
    for line in document.page(small_run(), []).splitlines():
        assert line.count("`") % 2 == 0, line


def test_the_page_in_the_documentation_matches_its_figures():
    run = record.read(EXPLANATION / "performance" / "run.json.gz")
    names = (pictures.OFFSETS, pictures.CPU, pictures.GROWTH, pictures.EXCHANGE)
    drawn = [name for name in names if f"performance/{name}" in PAGE.read_text()]
    assert PAGE.read_text() == document.page(run, drawn)
    assert run.mode == "full"
    assert len(drawn) == 4


def test_every_row_is_measured_or_skipped_in_the_documentation_s_run():
    run = record.read(EXPLANATION / "performance" / "run.json.gz")
    assert {one.row for one in run.figures} | run.skipped.keys() == set(ROWS)


@pytest.mark.parametrize("name", [pictures.OFFSETS, pictures.CPU, pictures.GROWTH, pictures.EXCHANGE])
def test_pictures_of_the_documentation_exist(name):
    data = (EXPLANATION / "performance" / name).read_bytes()
    assert data.startswith(b"\x89PNG\r\n")
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    assert 600 <= width <= 2000
    assert 400 <= height <= 2000
