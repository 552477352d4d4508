"""The capacity model uses what the documentation has measured, and its page shows what it computes."""

from pathlib import Path

import pytest

from benchmarks import capacity

EXPLANATION = Path(__file__).resolve().parent.parent / "docs" / "explanation"


def row(page: str, start: str, heading: str = "") -> list[str]:
    """The cells of the row of a page, or of one of its sections, that begins so."""
    text = (EXPLANATION / page).read_text()
    if heading:
        text = text.partition(f"{heading}\n")[2].partition("\n#")[0]
    (found,) = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_the_constants_are_those_of_the_pages():
    _, size, request, _ = row("hibernation.md", "1,000,000")
    assert int(size) == capacity.CLIENT
    assert float(request) / 1e6 == capacity.REQUEST
    text = " ".join((EXPLANATION / "hibernation.md").read_text().split())
    assert f"To let a connection rest takes {capacity.REST * 1e3:.2f} ms" in text
    assert f"Looking at a million connections once a second takes {capacity.LOOK * 1e9:.0f} ms" in text
    glance = (EXPLANATION / "performance.md").read_text().partition("## At a glance")[2].partition("\n- ")[0]
    (own,) = [line for line in glance.splitlines() if line.startswith("| TSQ Datagram Mode |")]
    assert f"| {capacity.HANDSHAKE * 1e3:.2f} ms | {capacity.AWAKE / 1024:.1f} KiB |" in own
    full, _, early = row("handshakes.md", "server, without sockets: full, resumed, 0-RTT")[2].removesuffix(" ms").split(", ")
    assert pytest.approx(capacity.HANDSHAKE * float(early) / float(full)) == capacity.RESUMED
    assert row("connections.md", "poll over an open connection")[3] == str(capacity.POLL_BYTES)
    low, high = map(int, row("connections.md", "request that keeps it open")[3].split(" to "))
    assert low <= capacity.KEEP_BYTES <= high
    assert row("connections.md", "poll with a resumed connection")[3].replace(",", "") == str(capacity.RESUMED_BYTES)


def test_what_the_model_is_checked_against_is_what_the_pages_have():
    many = row("performance.md", "TSQ Datagram Mode", "## 1,000,000 clients")
    assert row("scaling.md", "server's CPU of a request, a million clients, µs")[1] == many[2].partition(" ")[0]
    assert row("scaling.md", "a client at rest among a million, bytes")[1] == many[4].removesuffix(" B")
    for start, rate in (("server's CPU of an Initial in a flood of 5,000/s, µs", "5,000"), ("the same, 50,000/s", "50,000")):
        flood = row("performance.md", "TSQ Datagram Mode", f"### {rate} a second")
        assert row("scaling.md", start)[1] == flood[5].partition(" ")[0]
    clients = row("hibernation.md", "100,000", "## By real handshakes")
    assert row("scaling.md", "each further client by real handshakes up to 100,000, bytes")[1] == clients[3]
    assert row("scaling.md", "throughput of two workers to one")[1] == row("scaling.md", "2 workers, 2 cores")[4]


def test_the_page_shows_what_is_computed():
    page = (EXPLANATION / "scaling.md").read_text()
    assert capacity.markdown(capacity.one_machine()) in page
    assert capacity.markdown(capacity.rows(capacity.Machine())) in page


def test_it_prints_what_some_clients_need(capsys):
    assert capacity.main(["--clients", "1e9", "--poll", "64"]) == 0
    assert "machines      59 of" in capsys.readouterr().out


@pytest.mark.parametrize("poll", capacity.POLLS)
def test_what_is_needed_grows_with_the_clients_and_fits_the_machines(poll):
    machine = capacity.Machine()
    small, large = capacity.need(1e6, poll), capacity.need(1e8, poll)
    assert large.requests == pytest.approx(100 * small.requests)
    assert large.cores == pytest.approx(100 * small.cores)
    loaded = large.machines(machine) - 1
    assert large.cores <= loaded * machine.cores * capacity.LOADED
    assert large.memory <= loaded * machine.memory * capacity.LOADED
    assert large.bandwidth <= loaded * machine.line * capacity.LOADED
    most = capacity.most_clients(poll, machine)
    assert capacity.need(most, poll).machines(machine) == 2
    assert capacity.need(1.01 * most, poll).machines(machine) == 3


def test_a_flood_fills_the_line_before_the_cores():
    machine = capacity.Machine()
    cores, bits = capacity.flood(1e6)
    assert round(cores) == 9
    assert round(bits / 1e9) == 10
    assert cores / machine.cores < bits / machine.line


def test_a_client_that_polls_seldom_resumes_for_each_poll():
    often, seldom = capacity.need(1e6, capacity.KEPT_AT_MOST), capacity.need(1e6, capacity.KEPT_AT_MOST + 1)
    assert often.handshakes == pytest.approx(1e6 / 86400 * capacity.HANDSHAKES_A_DAY)
    assert seldom.handshakes == pytest.approx(1e6 / (capacity.KEPT_AT_MOST + 1))
    assert seldom.cores > often.cores > capacity.need(1e6, capacity.KEPT_AT_MOST / 2).cores / 4
    assert capacity.need(1e6, 1024).memory < often.memory / 2


def test_the_picture_is_drawn(tmp_path):
    assert capacity.main(["--picture", str(tmp_path / "scaling.svg")]) == 0
    assert (tmp_path / "scaling.svg").read_text().count("<text") > 20
    assert (EXPLANATION / "scaling.svg").exists()
