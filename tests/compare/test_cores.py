"""`python -m benchmarks.cores`: ratios are of the same rounds, and each half's answers come from its own worker."""

import mmap
import os
import subprocess

import pytest

from benchmarks import cores
from benchmarks.cores import ONE, SERVERS, WORKERS, Phase

pytestmark = pytest.mark.foreign


def side(*phases: tuple[float, float]) -> list[Phase]:
    return [Phase(*one) for one in phases]


def test_what_two_workers_answer_is_compared_with_one_in_medians():
    calm = {ONE: side((1e4, 4.0)), SERVERS: side((2e4, 4.0)), WORKERS: side((2e4, 4.4))}
    # A round in which something else took the machine changes no median.
    busy = {ONE: side((100e3, 3.0), (100e3, 3.0), (1e3, 9.0)), SERVERS: side((195e3, 3.1)), WORKERS: side((190e3, 3.2))}
    text = "\n".join(cores.table(calm, busy, 1e4))
    assert "throughput of 2 workers / 1: 1.90   goal >= 1.8: met" in text
    assert "which share nothing: 0.97" in text
    # 2 * 4.0 / 4.4, 2 * 3.0 / 3.2
    assert "cores of its own: 1.82 to 1.88" in text
    slow = busy | {WORKERS: side((179e3, 3.2))}
    assert "1.79   goal >= 1.8: MISSED" in "\n".join(cores.table(calm, slow, 1e4))


def test_memory_that_two_processes_can_write_to_is_found():
    with mmap.mmap(-1, mmap.PAGESIZE), subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other:
        # A process shares all of its memory with itself.
        assert cores.shared_memory([os.getpid(), os.getpid()])
        assert cores.shared_memory([os.getpid(), other.pid]) == []


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two cores are expected")
def test_the_smallest_run_measures_every_side(capsys):
    assert cores.main(["--rounds", "1", "--seconds", "0.1", "--rate", "2000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in (ONE, SERVERS, WORKERS):
        (found,) = [line.split()[-5:] for line in lines if line.startswith(name)]
        assert all(float(word.replace(",", "")) > 0 for word in found)
    assert "memory that both workers can write to: none" in lines
