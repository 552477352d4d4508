"""`python -m benchmarks.compare` as a process: its smallest run, its messages, an interruption."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.compare import floods, machine, many, record
from benchmarks.compare.accuracy import BASIC, EXACT, load_name
from benchmarks.compare.oneshot import BYTES, COLD, PACKETS, TICKET, TO_ANSWER
from benchmarks.compare.record import Run
from benchmarks.compare.rows import DATAGRAM, ECHO, NTP, NTS, QUICHE, processes_of
from tests.compare.worlds import small_run

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "benchmarks.compare", "--smallest"]
PATIENCE = 120

pytestmark = pytest.mark.foreign
needs_chronyd = pytest.mark.skipif(shutil.which("chronyd") is None, reason="chronyd is not installed (make peers)")
needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and iproute2"
)


def smallest(out: Path, parts: list[str], rows: list[str], *more: str | Path) -> Run:
    done = subprocess.run(
        [*COMMAND, "--only", *parts, "--rows", *rows, "--out", out, *more],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False, env={**os.environ, "TMPDIR": str(out)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (out / "performance.md").read_text().startswith("# Performance: side by side\n")
    return record.read(out / "performance" / "run.json.gz")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return smallest(tmp_path_factory.mktemp("compare"), ["oneshot", "handshake", "delay", "serving"], [ECHO, NTP, NTS, DATAGRAM])


@needs_chronyd
@needs_namespaces
def test_the_smallest_run_has_every_requested_cell(run):
    assert run.mode == "smallest"
    assert not run.notes
    assert QUICHE in run.skipped
    for row in (ECHO, NTP, DATAGRAM):
        assert run.median("serving", row, "1 client", "server CPU") > 0
        assert 0 < run.median("serving", row, "1 client", "busy") < 1.5
        for load in run.loads("delay"):
            assert run.median("delay", row, load, "wall, compiled client") > 0
            assert run.median("delay", row, load, "wall, Python client") > 0
    assert run.median("handshake", NTS, "ECDSA P-256, full", "server CPU") > 0
    for kind in ("full", "resumed", "0-RTT"):
        assert run.median("handshake", DATAGRAM, f"ECDSA P-256, {kind}", "server CPU") > 0
        assert run.median("handshake", DATAGRAM, f"RSA-2048, {kind}", "client CPU") > 0
    assert run.median("memory", DATAGRAM, "1 client", "memory") > 2**20


@needs_chronyd
@needs_namespaces
def test_packets_and_bytes_of_one_exchange_match_the_protocols(run):
    # One NTP packet each way, with its IP and UDP headers.
    assert run.find("oneshot", NTP, COLD, PACKETS).values() == [2]
    assert run.find("oneshot", NTP, COLD, BYTES).values() == [2 * 76]
    cold, resumed = (run.find("oneshot", DATAGRAM, load, BYTES).values()[0] for load in (COLD, TICKET))
    # A QUIC client's first datagram has 1200 bytes (RFC 9000 §14.1).
    assert resumed > 1200
    assert cold > resumed
    assert run.median("oneshot", DATAGRAM, COLD, TO_ANSWER) > 0


@needs_chronyd
@needs_namespaces
def test_accuracy_is_read_from_chronyd_s_log(tmp_path):
    run = smallest(tmp_path, ["accuracy"], [NTP])
    for kind, stamps in ((BASIC, "KKUK"), (EXACT, "KKKK")):
        offsets = run.find("accuracy", NTP, load_name(64, "idle"), f"|offset|, {kind}").values()
        assert len(offsets) > 3
        # Both sides use the same clock, so the offset is small even on a loaded machine.
        assert max(offsets) < 0.1
        assert run.shapes[f"stamps of {NTP}, {kind}"] == stamps


def test_an_interrupted_run_leaves_nothing_behind(tmp_path):
    command = [*COMMAND, "--only", "delay", "--rows", ECHO, DATAGRAM, "--out", tmp_path / "out"]
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    for line in process.stderr:
        if f"starting {DATAGRAM}" in line:
            break
    started = processes_of(process.pid)[1:]
    assert started, "the echo runs"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert errors.rstrip().endswith("everything that was started is ended")
    assert not [pid for pid in started if runs(pid)]
    assert list(tmp_path.iterdir()) == []


@needs_chronyd
def test_floods_and_many_clients_are_put_into_an_earlier_run(tmp_path):
    earlier = replace(small_run(), machine=machine.describe())
    record.write(earlier, tmp_path / "earlier.json")
    run = smallest(tmp_path, ["flood", "many"], [NTS, DATAGRAM], "--into", tmp_path / "earlier.json")
    for row in (NTS, DATAGRAM):
        for rate in floods.RATES:
            assert 0 <= run.median("flood", row, floods.load_name(rate), floods.KEPT) <= 1
            assert run.median("flood", row, floods.load_name(rate), floods.P99_WITHOUT) > 0
        assert run.median("many", row, many.load_name(20), many.CPU) > 0
    assert run.median("memory", DATAGRAM, floods.at_rest(20), "memory") > 2**20
    assert run.figures[: len(earlier.figures)] == earlier.figures
    page = " ".join((tmp_path / "performance.md").read_text().split())
    assert "measured later than the rest: flood, many: " in page
    assert "## In a flood of strangers" in page
    assert "## 20 clients" in page


def test_an_earlier_run_of_another_machine_is_refused_before_anything_is_measured(tmp_path):
    record.write(small_run(), tmp_path / "earlier.json")
    command = [*COMMAND, "--into", tmp_path / "earlier.json", "--out", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert "figures of a machine with 2 of a processor found" in done.stderr
    assert not (tmp_path / "performance.md").exists()


def runs(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_figures_that_cannot_be_read_are_refused_with_the_reason(tmp_path):
    (tmp_path / "run.json").write_text('{"schema": 99}')
    command = [*COMMAND, "--again", tmp_path / "run.json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert "schema 99 found, 1 expected" in done.stderr


def test_the_help_lists_the_requirements():
    done = subprocess.run([*COMMAND, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert "root (for network namespaces)" in done.stdout
    assert "--quick" in done.stdout
