"""tsq-adjtime sets the clock of a real kernel: in guests with a clock of their own, against a server on this machine, whose clock
is the truth. Slews take their time, so several guests run at once, each its scenarios; the tests look at what came of them.

In CI the guests are there. Elsewhere the tests are skipped with the reason.
"""

import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.support import shown
from tests.support.processes import BIN
from tests.support.uml import HOST, Done, Guest, Offset, Running, guest, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there are guests")

OK, NOT_MOVED, RUNNING, INTERRUPTED = 0, 14, 15, 130
PORT = 4433
# The guest's clock runs on this machine's, but for some ppm.
STEADY_PPM = 5.0

SET_TIME = "import time; time.clock_settime(0, time.time() + {})"
SET_FREQUENCY = """
import ctypes
class Timex(ctypes.Structure):
    _fields_ = [("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("rest", ctypes.c_char * 184)]
timex = Timex(modes=2, freq=round({} * 65536))
assert ctypes.CDLL(None).adjtimex(ctypes.byref(timex)) >= 0
"""
STOP = "from tsq.host.clock import SystemClock; SystemClock().stop_slewing()"
STATE = """
from tsq.host.clock import SystemClock
state = SystemClock().state()
print(state.synchronized, state.max_error, state.pending)
"""


@dataclass(frozen=True)
class State:
    """What the guest's kernel says of its clock."""

    synchronized: bool
    max_error: float
    pending: float


@dataclass
class Outcome:
    """What came of a scenario."""

    done: Done
    offset: Offset
    state: State
    more: dict = field(default_factory=dict)


def state(machine: Guest) -> State:
    synchronized, max_error, rest = machine.python(STATE).split()
    return State(synchronized == "True", float(max_error), float(rest))


def spoil(machine: Guest, seconds: float) -> None:
    """Put the guest's clock so many seconds before this machine's."""
    machine.python(SET_TIME.format(-seconds - machine.offset().offset))


def adjtime(machine: Guest, *options: object) -> Running:
    command = [BIN / "tsq-adjtime", *options, "--ca", machine.directory / "lab" / "ca.pem", f"{HOST}:{PORT}"]
    return machine.start(*command)


def slewing(machine: Guest) -> None:
    """Wait until the kernel slews."""
    end = time.monotonic() + 60
    while abs(state(machine).pending) < 1e-3:
        assert time.monotonic() < end, "nothing is slewed"
        time.sleep(0.2)


def outcome(machine: Guest, done: Done, **more) -> Outcome:
    return Outcome(done, machine.offset(), state(machine), more)


# ----------------------------------------------------------------------------------------------------------- scenarios


def steps(machine: Guest) -> list[Outcome]:
    found = []
    for seconds in (7.3, -2.5):
        spoil(machine, seconds)
        found.append(outcome(machine, adjtime(machine).wait()))
    return found


def wait_for_a_slew(seconds: float) -> Callable[[Guest], Outcome]:
    def scenario(machine: Guest) -> Outcome:
        spoil(machine, seconds)
        return outcome(machine, adjtime(machine, "--wait").wait())

    return scenario


def a_step_by_another(machine: Guest) -> Outcome:
    spoil(machine, 0.2)
    running = adjtime(machine, "--wait")
    slewing(machine)
    machine.python(SET_TIME.format(3))
    return outcome(machine, running.wait())


def a_stop_by_another(machine: Guest) -> Outcome:
    spoil(machine, 0.2)
    running = adjtime(machine, "--wait")
    slewing(machine)
    machine.python(STOP)
    return outcome(machine, running.wait())


def two_at_once(machine: Guest) -> Outcome:
    spoil(machine, 0.2)
    first = adjtime(machine, "--wait")
    slewing(machine)
    second = adjtime(machine, "--wait").wait()
    machine.kill(first.pid, signal.SIGINT)
    done = first.wait()
    # What the kernel has begun, it does to the end of its second.
    time.sleep(2)
    here = machine.offset()
    time.sleep(2)
    return outcome(machine, done, second=second, first=first.pid, before=here)


def a_frequency_that_is_wrong(machine: Guest) -> Outcome:
    machine.python(SET_FREQUENCY.format(80))
    spoil(machine, 0.02)
    return outcome(machine, adjtime(machine, "--wait").wait())


def an_old_slew_and_a_slew_that_nobody_waits_for(machine: Guest) -> list[Outcome]:
    spoil(machine, 0.3)
    first = outcome(machine, adjtime(machine).wait())
    return [first, outcome(machine, adjtime(machine, "--step", "0.05").wait())]


SCENARIOS: dict[str, tuple[Callable[[Guest], object], ...]] = {
    "one": (steps, an_old_slew_and_a_slew_that_nobody_waits_for, a_frequency_that_is_wrong),
    "two": (wait_for_a_slew(0.2),),
    "three": (wait_for_a_slew(0.051), wait_for_a_slew(-0.003)),
    "four": (a_step_by_another, a_stop_by_another, two_at_once),
}


def came_of(scenario: Callable, machine: Guest) -> object:
    try:
        return scenario(machine)
    except Exception as error:
        # The guest's other scenarios go on; the test of this one raises it.
        return error


def run(name: str, directory: Path) -> list:
    """The scenarios of one guest."""
    with guest(directory) as machine:
        server = machine.process(
            [
                BIN / "tsq-server", "--listen", f"{HOST}:{PORT}", "--self-signed", directory / "lab", "--local-stratum", "1",
                "--retry", "never",
            ],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        assert "listening" in server.stdout.readline()
        return [came_of(scenario, machine) for scenario in SCENARIOS[name]]


RUNS = {name: partial(run, name) for name in SCENARIOS}


@pytest.fixture
def found(guests) -> Callable[[str, int], object]:
    """found(name, number): what came of this scenario of this guest."""

    def get(name: str, number: int) -> object:
        result = guests(__name__, name)[number]
        if isinstance(result, Exception):
            raise result
        return result

    return get


# --------------------------------------------------------------------------------------------------------------- tests


def bound(line: str, text: str) -> float:
    """|offset| + bound of the last line that begins so."""
    offset, distance = shown.within(text, rf"^{line}System clock wrong by ")[-1]
    return abs(offset) + distance


def within(it: Outcome, limit: float, seconds: float = 5.0) -> bool:
    """Whether the guest's clock is as right as that, as far as can be seen some seconds later."""
    return abs(it.offset.offset) <= limit + it.offset.error + STEADY_PPM * 1e-6 * seconds


def test_a_step_of_a_real_clock_is_exact(found):
    for it in found("one", 0):
        assert it.done.status == OK, it.done.err
        assert "stepped by" in it.done.out
        assert it.done.err == "", "nobody else moves this clock"
        ((_, limit),) = shown.within(it.done.out, "System clock wrong by ")
        assert within(it, limit), it
        assert it.state.synchronized
        assert "drift:  not measured; no program keeps this clock" in it.done.out


@pytest.mark.parametrize(("name", "number"), [("two", 0), ("three", 0), ("three", 1)], ids=["200 ms", "51 ms", "-3 ms"])
def test_a_slew_that_is_waited_for_ends_within_the_bound_that_it_prints(found, name, number):
    it = found(name, number)
    assert it.done.status == OK, it.done.err
    assert it.done.err == "", "nobody else moves this clock"
    limit = bound("measured again: ", it.done.out)
    assert limit < 0.002, it.done.out
    assert within(it, limit), it
    assert it.state.synchronized
    assert it.state.pending == 0
    # The bound that was reported to the kernel holds.
    assert abs(it.offset.offset) - it.offset.error <= it.state.max_error < 0.02


def test_a_step_by_another_program_in_a_slew_is_noticed_and_no_bound_is_reported_to_the_kernel(found):
    it = found("four", 0)
    assert it.done.status == NOT_MOVED, it.done
    assert re.search(r"^tsq-adjtime: another program stepped the clock by \+[23]\.\d+ s while it was slewed", it.done.err, re.M)
    assert not it.state.synchronized
    assert it.state.max_error >= 3
    assert it.state.pending == 0
    assert "slewed by" not in it.done.out


def test_a_slew_that_another_program_stops_is_noticed(found):
    it = found("four", 1)
    assert it.done.status == NOT_MOVED, it.done
    assert "does another program set the clock?" in it.done.err
    assert it.state.max_error >= abs(it.offset.offset)
    assert not it.state.synchronized
    assert "slewed by" not in it.done.out


def test_two_at_once_the_second_is_refused_and_ctrl_c_in_the_first_leaves_nothing_pending(found):
    it = found("four", 2)
    second = it.more["second"]
    assert second.status == RUNNING, second
    assert f"another tsq-adjtime sets this clock (process {it.more['first']}," in second.err
    assert second.out == ""
    assert it.done.status == INTERRUPTED, it.done
    assert it.state.pending == 0
    assert it.offset.offset == pytest.approx(it.more["before"].offset, abs=1e-3), "it stays where it is"
    assert not it.state.synchronized or it.state.max_error >= abs(it.offset.offset)


def test_a_clock_that_runs_80_ppm_fast_is_said_to(found):
    it = found("one", 2)
    assert it.done.status == OK, it.done.err
    drift, error = map(float, re.findall(r"^drift:  measured as ([+-]\d+\.\d) ± (\d+\.\d) ppm", it.done.out, re.MULTILINE)[0])
    assert abs(drift - 80) <= error + STEADY_PPM
    (most,) = re.findall(r"expect it to drift by up to (\d+) µs a second", it.done.out)
    assert 75 <= int(most) <= 150


def test_a_slew_that_is_not_waited_for_is_covered_by_maxerror_and_stopped_by_the_next_run(found):
    first, second = found("one", 1)
    assert first.done.status == OK, first.done.err
    assert "slewing by +" in first.done.out
    assert first.state.max_error >= abs(first.offset.offset)
    assert second.done.status == OK, second.done.err
    assert "an earlier slew was still pending and was cancelled" in second.done.err
    assert within(second, bound("", second.done.out))
