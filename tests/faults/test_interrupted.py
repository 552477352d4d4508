"""Case 69: Ctrl-C at every line that tsq-adjtime runs through, a run for each, on a virtual clock: no change of the clock pending.

What is outside of tsq-adjtime's own files is not traced: servers are asked elsewhere (tests/cli/test_adjtime.py), here they answer.
"""

import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from types import FrameType

import pytest

from tests.support.kernel import IN_NS, PLL, UNSYNC, VirtualKernel
from tsq.cli import adjtime
from tsq.client.result import HostResult
from tsq.host import clock
from tsq.host.clock import SystemClock
from tsq.oneshot import adjtime as oneshot
from tsq.oneshot import bootstrap
from tsq.options import Target
from tsq.timing.sample import make_sample
from tsq.timing.server_state import ServerState

TRACED = {module.__file__ for module in (adjtime, oneshot, bootstrap, clock)}
OK, INTERRUPTED = 0, 130
MS = 1_000_000
YEARS = 20 * 365 * 86_400


class Lines:
    """Counts the lines of the traced files as they are run, and presses Ctrl-C before one of them."""

    def __init__(self, number: int) -> None:
        self.seen = 0
        self.where = ""
        self._number = number

    def __enter__(self) -> "Lines":
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _enter(self, frame: FrameType, event: str, argument: object):
        return self._line if frame.f_code.co_filename in TRACED else None

    def _line(self, frame: FrameType, event: str, argument: object):
        if event == "line":
            self.seen += 1
            if self.seen == self._number:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                signal.raise_signal(signal.SIGINT)
        return self._line


@dataclass
class End:
    """How a run ended. status None: Ctrl-C came before or after all that the command does about it."""

    status: int | None
    twin: VirtualKernel
    lines: Lines
    out: str
    err: str


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Also where these tests run in the background of a shell, which ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[..., End]:
    """run(behind, number, *options): the command on a clock that is behind by so many seconds, with Ctrl-C at this line."""

    def once(behind: float, number: int, *options: str, **state: int) -> End:
        twin = VirtualKernel(error_ns=-behind * 1e9, **state)

        def ask(targets: list[Target], *_: object, **__: object) -> list[HostResult]:
            now, ahead = twin.now_ns(), -round(twin.error_ns)
            told = ServerState(now, stratum=1, error=1e-6)
            sample = make_sample(now, now + MS + ahead, now + MS + ahead, now + 2 * MS, offset_limit=inf, server=told)
            return [HostResult(target, address=target.host, samples=(sample,) * 3) for target in targets]

        monkeypatch.setattr(adjtime, "query_all", ask)
        # A slew makes way while it is waited for.
        monkeypatch.setattr(adjtime, "perform", partial(oneshot.perform, pause=lambda seconds: twin.run(20)))
        monkeypatch.setattr(adjtime, "measure", partial(oneshot.measure, pause=lambda seconds: None))
        capsys.readouterr()
        lines = Lines(number)
        try:
            with lines:
                status = adjtime.main([*options, "192.0.2.1", "192.0.2.2", "192.0.2.3"], SystemClock(twin), lambda: None)
        except KeyboardInterrupt:
            status = None
        captured = capsys.readouterr()
        return End(status, twin, lines, captured.out, captured.err)

    return once


def everywhere(run: Callable[..., End], behind: float, *options: str, **state: int) -> Iterator[End]:
    """A run for each line, with Ctrl-C there; the first is one without."""
    whole = run(behind, 0, *options, **state)
    assert whole.status == OK, whole.err
    assert whole.lines.seen > 100
    yield whole
    for number in range(1, whole.lines.seen + 1):
        end = run(behind, number, *options, **state)
        assert end.lines.where, "it was pressed"
        yield end


def test_69_ctrl_c_at_any_line_of_a_step_leaves_it_undone_or_done(run):
    statuses = set()
    for end in everywhere(run, 2.0):
        statuses.add(end.status)
        assert end.twin.pending_ns == 0, end.lines.where
        if end.twin.calls:
            assert end.twin.error_ns == 0, end.lines.where
            assert end.status in (OK, None), end.lines.where
        else:
            assert end.twin.error == -2.0, end.lines.where
            assert end.status in (INTERRUPTED, None), end.lines.where
    assert statuses == {OK, INTERRUPTED, None}


def test_69_ctrl_c_at_any_line_of_a_slew_leaves_nothing_pending_unless_it_ends_well(run):
    statuses = set()
    for end in everywhere(run, 0.3):
        statuses.add(end.status)
        if end.status == INTERRUPTED:
            assert end.twin.pending_ns == 0, end.lines.where
            assert end.twin.frequency == 0
        elif end.status is None:
            # Before anything is done, or after all was said.
            assert end.twin.pending_ns == 0 or "after:" in end.out, end.lines.where
        assert end.twin.error == -0.3, "nothing moves at once"
    assert statuses == {OK, INTERRUPTED, None}


def test_69_ctrl_c_at_any_line_of_a_slew_that_is_waited_for_gives_up_the_rest(run):
    partly = 0
    for end in everywhere(run, 0.3, "--wait"):
        if end.status == OK:
            assert abs(end.twin.error) <= 0.3 * 0.011, end.lines.where
            continue
        assert end.twin.pending_ns == 0 or "after:" in end.out, end.lines.where
        partly += -0.3 < end.twin.error < -0.003
        here = end.twin.error_ns
        if end.status == INTERRUPTED:
            end.twin.run(1000)
            assert end.twin.error_ns == here, "nothing is pending"
    assert partly > 10


def test_69_ctrl_c_at_any_line_while_an_old_slew_is_stopped_leaves_all_of_it_or_nothing(run):
    old = {"pending_ns": 400_000_000, "status": UNSYNC | PLL | IN_NS, "constant": 6}
    stopped = 0
    for end in everywhere(run, 2.0, **old):
        assert end.twin.pending_ns in (0, 400_000_000), end.lines.where
        assert end.twin.error_ns in (0, -2e9), end.lines.where
        stopped += end.twin.error_ns != 0 and end.twin.pending_ns == 0
    assert stopped > 10


def test_69_ctrl_c_at_any_line_of_a_bootstrap_puts_the_clock_back_or_finds_it_right(run):
    """A step, a check, and a slew of the fraction of a microsecond that is left."""
    put_back = 0
    for end in everywhere(run, YEARS, "--bootstrap"):
        as_it_was = end.twin.error == pytest.approx(-YEARS, abs=1e-5)
        assert as_it_was or end.twin.error == pytest.approx(0, abs=1e-5), end.lines.where
        if end.status == OK:
            assert not as_it_was, end.lines.where
            assert end.twin.synchronized, end.lines.where
            continue
        assert end.twin.pending_ns == 0 or "after:" in end.out, end.lines.where
        if end.status == INTERRUPTED and "stepped by" not in end.out:
            assert as_it_was, end.lines.where
            assert end.twin.status & UNSYNC, end.lines.where
            assert "the clock is as it was" in end.err
            put_back += bool(end.twin.calls)
    assert put_back > 10


def test_69_a_dry_run_has_nothing_pending_at_any_line(run):
    for behind in (2.0, 0.3):
        assert all(end.twin.calls == [] for end in everywhere(run, behind, "--dry-run"))
