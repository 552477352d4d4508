"""One-shot start-up: whole processes of `tsq-client --count 1` over loopback, compared with the import of aioquic, and with
chronyd.

plain is `python -c "import aioquic.quic.connection"` with the same interpreter, from start to exit. TSQ: "start to answer" is from
before the start of the process to the kernel's receive timestamp of the answer (T4, printed by -v), "start to exit" to its end; CPU
is user and system time of the whole process. "plain aioquic client" is compare/newcomer.py, which queries the plain server once and
waits for the close. Processes alternate in each round. Python's byte code is always cached, as in an installed package. "one shot"
compares both, start to answer, with `chronyd -Q` from start to exit: with plain NTP (mostly a pause in chronyd), and with NTS.
"""

import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.conftest import Show
from benchmarks.measure import PLAIN, TSQ, Comparison, Round, Side, alternate
from benchmarks.peers import HOST, ROOT, Peers
from benchmarks.processes import NtsServer, chronyd_once, environment, have

ROUNDS = 21
SHOT_ROUNDS = 9
NTS_ROUNDS = 5
ZERO_RTT = "0-RTT"
PROGRAM = "plain aioquic client"
SIDES = (TSQ, ZERO_RTT, PROGRAM, PLAIN)
TSQ_CLIENT = str(Path(sys.executable).parent / "tsq-client")
TO_ANSWER, TO_EXIT, CPU = "start to answer", "start to exit", "CPU"


def run(command: Sequence[str], directory: Path) -> tuple[dict[str, float], int, str]:
    """(wall and CPU seconds of a process, Unix ns before its start, its output)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started_ns, start = time.time_ns(), time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, env=environment(directory), capture_output=True, text=True, timeout=30, check=True
    )
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {TO_EXIT: wall, CPU: cpu}, started_ns, done.stdout


def to_its_end(peers: Peers, *command: str) -> Side:
    """A program whose answer has no visible time: its end counts as the answer."""

    def measure() -> Round:
        seconds, _, _ = run(command, peers.directory)
        return {TO_ANSWER: seconds[TO_EXIT], **seconds}

    return measure


def tsq_client(peers: Peers, *arguments: str) -> Side:
    command = [TSQ_CLIENT, f"{HOST}:{peers.tsq.target.port}", "--ca", peers.ca, "--count", "1", "-v", *arguments]

    def measure() -> Round:
        seconds, started_ns, output = run(command, peers.directory)
        answered = re.search(r"T4 (\d+)", output)
        assert answered is not None, output
        assert ("0-RTT" in output) == ("--session-file" in arguments), output
        return {TO_ANSWER: (int(answered[1]) - started_ns) / 1e9, **seconds}

    return measure


def plain_client(peers: Peers) -> Side:
    command = [sys.executable, "-m", "benchmarks.compare.newcomer", "ask", HOST, str(peers.plain.port), peers.ca]

    def measure() -> Round:
        seconds, started_ns, output = run(command, peers.directory)
        return {TO_ANSWER: (int(output.split()[3]) - started_ns) / 1e9, **seconds}

    return measure


def compare(peers: Peers, rounds: int) -> Comparison:
    sides = {
        **tsq_clients(peers),
        PROGRAM: plain_client(peers),
        PLAIN: to_its_end(peers, sys.executable, "-c", "import aioquic.quic.connection"),
    }
    return alternate(sides, rounds, warmup=2)


def tsq_clients(peers: Peers) -> dict[str, Side]:
    session_file = str(peers.directory / "startup-sessions.json")
    # The first run brings the ticket.
    command = [TSQ_CLIENT, f"{HOST}:{peers.tsq.target.port}", "--ca", peers.ca, "--count", "1", "--session-file", session_file]
    run(command, peers.directory)
    return {TSQ: tsq_client(peers), ZERO_RTT: tsq_client(peers, "--session-file", session_file)}


def compare_chronyd(peers: Peers, rounds: int, nts: bool) -> Comparison:
    files = peers.certificates
    directory = peers.directory / "chronyd"
    with NtsServer(directory, files.certificate, files.key) as server:
        if nts:
            source = f"server localhost port {server.port} ntsport {server.establishment} nts iburst maxsamples 1"
            once = chronyd_once(directory, source, f"ntstrustedcerts {peers.ca}")
        else:
            once = chronyd_once(directory, f"server {HOST} port {server.port} iburst maxsamples 1")
        return alternate({**tsq_clients(peers), PLAIN: to_its_end(peers, *once)}, rounds)


@pytest.mark.parametrize("side", SIDES)
def test_start_up(side: str, peers: Peers, show: Show) -> None:
    show("start-up: tsq-client --count 1", side, ROUNDS, lambda rounds: compare(peers, rounds))


@pytest.mark.skipif(not have("chronyd", "setpriv"), reason="needs chronyd and setpriv: apt-get install chrony util-linux")
@pytest.mark.parametrize("side", [TSQ, ZERO_RTT, PLAIN])
@pytest.mark.parametrize("nts", [False, True], ids=["NTP", "NTS"])
def test_one_shot(nts: bool, side: str, peers: Peers, show: Show) -> None:
    group = f"one shot (plain: chronyd -Q, {'NTS; goal: ratio < 0.1' if nts else 'NTP; goal: ratio < 1'})"
    show(group, side, NTS_ROUNDS if nts else SHOT_ROUNDS, lambda rounds: compare_chronyd(peers, rounds, nts))
