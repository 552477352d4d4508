"""tsq-wait-sync: in virtual time against given answers, and as a real process against the real control server."""

import subprocess
import sys
from math import inf

import pytest

from tests.support.control import ControlThread, Handler
from tests.support.false_daemon import FalseDaemon
from tests.support.tries import in_one_of_some
from tsq.cli import wait_sync
from tsq.daemon import control_protocol as protocol
from tsq.daemon.control_protocol import Problem
from tsq.discipline.status import ClockStatus
from tsq.errors import NotAllowed


class VirtualTime:
    """The time of a wait: it passes while the wait rests. events: what happens when that time has come."""

    def __init__(self) -> None:
        self.at = 100.0
        self.rests: list[float] = []
        self.events: list[tuple[float, object]] = []

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.rests.append(seconds)
        self.at += seconds
        while self.events and self.events[0][0] <= self.at:
            self.events.pop(0)[1]()


@pytest.fixture
def time():
    return VirtualTime()


def waited(served, time, max_error=0.1, timeout=inf):
    path = served if isinstance(served, str) else served.path
    return wait_sync.wait(path, max_error, timeout, now=time.now, sleep=time.sleep)


def test_a_clock_that_is_right_is_not_waited_for(tmp_path, time):
    with ControlThread(tmp_path / "control") as served:
        last = waited(served, time)
    assert (last.synchronized, last.text, time.rests) == (True, "synchronized, bound 0.000123457 s", [])


def test_it_ends_when_the_bound_is_small_enough(tmp_path, time):
    with ControlThread(tmp_path / "control") as served:
        served.handler.change(status=ClockStatus.UNSYNCHRONIZED, bound=None)
        time.events = [
            (101.0, lambda: served.handler.change(status=ClockStatus.SYNCHRONIZED, bound=0.2)),
            (103.0, lambda: served.handler.change(bound=0.05)),
            (104.0, lambda: served.handler.change(bound=0.01)),
        ]
        assert waited(served, time, 0.02).synchronized
    assert time.at == 104.0
    assert set(time.rests) == {0.5}, "it asks twice a second"


def test_a_daemon_that_does_not_run_yet_is_waited_for(tmp_path, time):
    served = ControlThread(tmp_path / "run" / "control")
    time.events = [(105.0, (tmp_path / "run").mkdir), (110.0, served.__enter__)]
    try:
        assert waited(served, time).synchronized
        assert time.at == 110.0
    finally:
        served.close()


def test_the_limit_is_kept_to_its_end_and_the_last_state_is_told(tmp_path, time):
    with ControlThread(tmp_path / "control") as served:
        served.handler.change(status=ClockStatus.FROZEN, frozen="an offset of 2000 s", bound=2000.1)
        last = waited(served, time, timeout=3.2)
    assert not last.synchronized
    assert last.text == "frozen (an offset of 2000 s), bound 2000.100000000 s"
    assert time.at == pytest.approx(103.2)
    assert time.rests[-1] == pytest.approx(0.2)


@pytest.mark.parametrize(
    "reply", [b"", b"x\n", protocol.refusal("1", Problem.BUSY, "too many connections")], ids=["nothing", "garbage", "busy"]
)
def test_a_daemon_that_is_just_restarted_or_busy_is_asked_again(tmp_path, time, reply):
    good = protocol.result("1", {"tracking": {"status": "synchronized", "bound": 0.01}})
    with FalseDaemon(tmp_path / "control", [reply, reply, good]) as daemon:
        assert waited(daemon, time).synchronized
    assert time.rests == [0.5, 0.5]


@pytest.mark.parametrize("problem", [Problem.VERSION, Problem.COMMAND, Problem.PERMISSION])
def test_what_asking_again_does_not_change_is_an_error_at_once(tmp_path, time, problem):
    kind, reply = (NotAllowed if problem is Problem.PERMISSION else protocol.Refused), protocol.refusal("1", problem, "because")
    with FalseDaemon(tmp_path / "control", [reply]) as daemon, pytest.raises(kind, match="because"):
        waited(daemon, time)
    assert time.rests == []


# ------------------------------------------------------------------------------------------------------------ as a process


def run(path: str, *arguments: str) -> tuple[int, str, str]:
    line = [sys.executable, "-m", "tsq", "wait-sync", "--socket", path, *arguments]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def test_it_returns_0_when_the_clock_is_right(tmp_path):
    with ControlThread(tmp_path / "control") as served:
        assert run(served.path) == (0, "synchronized, bound 0.000123457 s\n", "")


def test_it_returns_1_and_says_what_it_was(tmp_path):
    with ControlThread(tmp_path / "control") as served:
        wanted = "expected synchronized, bound at most 0.0001 s"
        text = f"tsq-wait-sync: not within 0 s: synchronized, bound 0.000123457 s ({wanted})\n"
        # It waits for a moment only.
        assert in_one_of_some(lambda: run(served.path, "--max-error", "0.0001", "--timeout", "0") == (1, "", text))
    status, output, errors = run(f"{tmp_path}/control", "--timeout", "0")
    assert (status, output) == (1, "")
    assert errors.startswith(f"tsq-wait-sync: not within 0 s: no daemon: there is no socket {tmp_path}/control: start tsqd")


def test_it_waits_for_a_daemon_that_starts_later(tmp_path):
    path = tmp_path / "control"
    line = [sys.executable, "-m", "tsq", "wait-sync", "--socket", str(path)]
    handler = Handler()
    handler.change(status=ClockStatus.UNSYNCHRONIZED, bound=None)
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        asked = handler.status

        def status():
            # Right from the second question on.
            found = asked()
            handler.change(status=ClockStatus.SYNCHRONIZED, bound=0.01)
            return found

        handler.status = status
        with ControlThread(path, handler):
            output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "synchronized, bound 0.010000000 s\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-error", "x"], "argument --max-error: 'x' (expected a number, such as 0.5)"),
        (["--timeout", "-1"], "argument --timeout: '-1' (expected seconds, 0 or more)"),
        (["now"], "unrecognized arguments: now"),
        (["--max-eror", "1"], "unknown option --max-eror: did you mean --max-error?"),
    ],
)
def test_a_wrong_command_line_is_one_line(capsys, arguments, words):
    with pytest.raises(SystemExit) as end:
        wait_sync.main(arguments)
    assert (end.value.code, capsys.readouterr().err) == (2, f"tsq-wait-sync: error: {words}\n")
