"""One-shot start-up: `tsq-client --count 1` over loopback, whole processes, beside the import that none can do without.

plain is `python -c "import aioquic.quic.connection"` with the same interpreter, from start to exit, whatever it is set against.
Ours: "start to answer" is from before the process is started until the kernel received the answer (T4, printed by -v), "start to
exit" until it has ended; CPU is that of the whole process, user and system. "plain aioquic client" is compare/newcomer.py, which
asks the plain server once and waits until its connection is closed. Processes alternate round by round.
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

ROUNDS = 21
ZERO_RTT = "0-RTT"
PROGRAM = "plain aioquic client"
SIDES = (TSQ, ZERO_RTT, PROGRAM, PLAIN)
TSQ_CLIENT = str(Path(sys.executable).parent / "tsq-client")
TO_ANSWER, TO_EXIT, CPU = "start to answer", "start to exit", "CPU"


def run(command: Sequence[str]) -> tuple[dict[str, float], int, str]:
    """(wall and CPU seconds of a process, Unix ns before it was started, its output)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started_ns, start = time.time_ns(), time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {TO_EXIT: wall, CPU: cpu}, started_ns, done.stdout


def imports() -> Round:
    seconds, _, _ = run([sys.executable, "-c", "import aioquic.quic.connection"])
    # There is no answer to wait for: its end is what the others' answer is measured by.
    return {TO_ANSWER: seconds[TO_EXIT], **seconds}


def tsq_client(peers: Peers, *arguments: str) -> Side:
    command = [TSQ_CLIENT, f"{HOST}:{peers.tsq.target.port}", "--ca", peers.ca, "--count", "1", "-v", *arguments]

    def measure() -> Round:
        seconds, started_ns, output = run(command)
        answered = re.search(r"T4 (\d+)", output)
        assert answered is not None, output
        assert ("0-RTT" in output) == ("--session-file" in arguments), output
        return {TO_ANSWER: (int(answered[1]) - started_ns) / 1e9, **seconds}

    return measure


def plain_client(peers: Peers) -> Side:
    command = [sys.executable, "-m", "benchmarks.compare.newcomer", "ask", HOST, str(peers.plain.port), peers.ca]

    def measure() -> Round:
        seconds, started_ns, output = run(command)
        return {TO_ANSWER: (int(output.split()[3]) - started_ns) / 1e9, **seconds}

    return measure


def compare(peers: Peers, rounds: int) -> Comparison:
    session_file = str(peers.directory / "startup-sessions.json")
    # The first run earns the ticket.
    run([TSQ_CLIENT, f"{HOST}:{peers.tsq.target.port}", "--ca", peers.ca, "--count", "1", "--session-file", session_file])
    sides = {
        TSQ: tsq_client(peers),
        ZERO_RTT: tsq_client(peers, "--session-file", session_file),
        PROGRAM: plain_client(peers),
        PLAIN: imports,
    }
    return alternate(sides, rounds, warmup=2)


@pytest.mark.parametrize("side", SIDES)
def test_start_up(side: str, peers: Peers, show: Show) -> None:
    show("start-up: tsq-client --count 1", side, ROUNDS, lambda rounds: compare(peers, rounds))
