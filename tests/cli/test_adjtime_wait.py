"""tsq-adjtime with a clock that other programs change, or that does not move as expected: on a virtual clock, with correct servers.
tests/kernel/ tests some of this on a real kernel's clock.
"""

import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import pytest

from tests.cli.test_client import Run
from tests.support import shown
from tests.support.kernel import PLL, UNSYNC, VirtualKernel
from tests.support.virtual_servers import MS, truthful
from tsq.cli import adjtime
from tsq.host.clock import SystemClock
from tsq.oneshot import adjtime as oneshot

OK, OWNED, NOT_PERMITTED, STEPPED, NOT_MOVED, RUNNING, INTERRUPTED = 0, 10, 11, 12, 14, 15, 130
HOSTS = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]


@dataclass
class Machine:
    """The command on a virtual clock. pauses: called with the number of each pause, before a second goes by."""

    twin: VirtualKernel
    run: Callable[..., Run]
    pauses: list[Callable[[int], None]]
    paused: int = 0
    last_pause: float = 0.0


@pytest.fixture
def machine(monkeypatch, capsys) -> Iterator[Callable[..., Machine]]:
    """machine(behind, servers' options, ...): a clock that is this many seconds behind, and its servers."""

    def make(behind: float, servers: dict | None = None, **twin) -> Machine:
        virtual = VirtualKernel(error_ns=-behind * 1e9, **twin)

        def pause(seconds: float) -> None:
            it.paused, it.last_pause = it.paused + 1, seconds
            for call in it.pauses:
                call(it.paused)
            virtual.run(max(1, round(seconds)))

        def run(*options: object, owner=lambda: None) -> Run:
            capsys.readouterr()
            status = adjtime.main([*map(str, options), *HOSTS], SystemClock(virtual), owner)
            said = capsys.readouterr()
            return Run(status, said.out, said.err)

        it = Machine(virtual, run, [])
        monkeypatch.setattr(adjtime, "query_all", truthful(virtual, **(servers or {})))
        monkeypatch.setattr(adjtime, "measure", partial(oneshot.measure, pause=pause))
        monkeypatch.setattr(adjtime, "perform", partial(oneshot.perform, pause=pause))
        return it

    return make


def printed_bound(out: str) -> float:
    """|offset| + bound of the second measurement."""
    offset, bound = shown.within(out, "^measured again: System clock wrong by ")[0]
    return abs(offset) + bound


def not_confirmed(it: Machine, run: Run, *words: str) -> None:
    """The run failed with one line that gives the reason, and reported nothing false to the kernel."""
    assert run.status == NOT_MOVED, run
    (line,) = [line for line in run.err.splitlines() if "the clock" in line]
    assert all(word in line for word in words), line
    for word in ("slewed by +", "stepped by", "measured again", "after:"):
        assert word not in run.out
    assert it.twin.status & UNSYNC
    assert it.twin.maxerror_us >= min(abs(it.twin.error) * 1e6, 16e6)


# ------------------------------------------------------------------------------------------------ a slew that is waited for


@pytest.mark.parametrize("slew_error", [0.0, 0.015, -0.015])
@pytest.mark.parametrize("behind", [0.2, 0.051, -0.3, 0.5, 0.001, -0.00002])
def test_the_clock_is_within_the_printed_bound_although_the_kernel_slews_inexactly(machine, behind, slew_error):
    it = machine(behind, {"delay_ns": MS // 10}, slew_error=slew_error)
    run = it.run("--wait")
    assert run.status == OK, run.err
    assert run.err == ""
    assert abs(it.twin.error) <= printed_bound(run.out)
    assert printed_bound(run.out) < 0.0001
    assert it.twin.pending_ns == 0
    assert it.twin.synchronized
    # The kernel has the bound of the last measurement, which is small and true.
    assert abs(it.twin.error) * 1e6 <= it.twin.maxerror_us <= 100
    (slewed,) = shown.spans(run.out, "^slewed by ")
    assert slewed == pytest.approx(behind, abs=1e-4)


@pytest.mark.parametrize("seconds", [1.7, 2.5, 4.0])
@pytest.mark.parametrize("number", [1, 2, 5, 30])
@pytest.mark.parametrize("behind", [0.2, -0.05])
def test_a_machine_that_is_kept_waiting_by_its_host_in_a_slew_has_the_right_time_in_the_end(machine, behind, number, seconds):
    """The kernel counts as slewed what it did not slew meanwhile: that is no other program, and is slewed in the next round."""
    it = machine(behind, {"delay_ns": MS // 10})

    def stall(pause: int) -> None:
        if pause == number:
            it.twin.stall(seconds)

    it.pauses.append(stall)
    run = it.run("--wait")
    assert run.status == OK, run.err
    assert run.err == ""
    assert abs(it.twin.error) <= printed_bound(run.out)
    assert it.twin.pending_ns == 0


@pytest.mark.parametrize("slew_error", [0.015, -0.015])
def test_it_is_as_exact_where_the_servers_own_errors_are_large(machine, slew_error):
    it = machine(0.051, {"delay_ns": MS // 10, "error": 0.05}, slew_error=slew_error)
    run = it.run("--wait")
    assert run.status == OK, run.err
    assert abs(it.twin.error) < 0.00002
    assert it.twin.maxerror_us >= 50_000


def test_a_clock_is_never_slewed_faster_than_5000_ppm_and_as_fast_as_that_allows(machine):
    it = machine(0.5)
    errors = []
    it.pauses.append(lambda number: errors.append(it.twin.error))
    assert it.run("--wait").status == OK
    moves = [later - earlier for earlier, later in pairwise(errors)]
    assert max(map(abs, moves)) <= 0.0051
    # Without --wait, the kernel takes ten minutes.
    assert len(errors) < 250


def test_until_it_is_verified_the_kernel_has_a_bound_that_covers_the_whole_offset(machine):
    it = machine(0.2, status=0, maxerror_us=100)
    bounds = []
    it.pauses.append(lambda number: bounds.append(it.twin.maxerror_us))
    assert it.run("--wait").status == OK
    assert min(bounds) >= 200_000
    it = machine(0.2)
    marks = []
    it.pauses.append(lambda number: marks.append(it.twin.synchronized))
    assert it.run("--wait").status == OK
    assert not any(marks), "unsynchronized, until it is measured again"


@pytest.mark.parametrize("when", [1, 10, 50])
@pytest.mark.parametrize("by", [3.0, -3.0, 0.04, -0.04, 0.0001])
def test_a_step_by_another_program_is_noticed(machine, by, when):
    it = machine(-0.2)
    it.pauses.append(lambda number: it.twin.step_by_another(by) if number == when else None)
    run = it.run("--wait")
    not_confirmed(it, run, f"another program stepped the clock by {by:+.6f} s while it was slewed", "Find out, then try again")
    assert it.twin.pending_ns == 0


@pytest.mark.parametrize("when", [1, 10, 40])
def test_a_slew_that_another_program_stops_is_noticed(machine, when):
    it = machine(0.2)

    def stop(number: int) -> None:
        if number == when:
            it.twin.pending_ns = 0

    it.pauses.append(stop)
    not_confirmed(it, it.run("--wait"), "the clock moved by +0.", "+0.200000 s were expected")


@pytest.mark.parametrize("pending_ns", [300_000_000, -100_000_000])
def test_a_slew_by_another_program_is_noticed_and_left_to_it(machine, pending_ns):
    it = machine(0.1)

    def slew(number: int) -> None:
        if number == 10:
            it.twin.pending_ns = pending_ns

    it.pauses.append(slew)
    not_confirmed(it, it.run("--wait"))
    assert it.twin.pending_ns != 0


def test_a_loop_whose_rest_does_not_change_is_noticed(machine):
    it = machine(0.1)

    def slew(number: int) -> None:
        it.twin.pending_ns = 50_000_000

    it.pauses.append(slew)
    not_confirmed(it, it.run("--wait"))


@pytest.mark.parametrize("what", ["frequency", "tick"])
def test_a_frequency_that_another_program_changes_is_noticed(machine, what):
    it = machine(0.1)

    def change(number: int) -> None:
        if number == 5:
            setattr(it.twin, what, {"frequency": 3 << 16, "tick": 10_001}[what])

    it.pauses.append(change)
    not_confirmed(it, it.run("--wait"), "another program changed the clock's frequency by +")
    assert it.twin.pending_ns == 0, "its own slew is stopped"


def test_a_kernel_that_only_seems_to_slew_is_noticed(machine):
    it = machine(0.1, slew_error=-1.0)
    not_confirmed(it, it.run("--wait"), "moved by +0.000000 s")


def test_a_slew_that_does_not_move_the_clock_ends_with_an_error(machine, monkeypatch):
    it = machine(0.1)
    monkeypatch.setattr(it.twin, "_chunk", lambda: 0)
    not_confirmed(it, it.run("--wait"), "the slew does not end")
    assert it.twin.pending_ns == 0


def test_without_an_answer_afterwards_nothing_is_confirmed(machine):
    it = machine(0.1, {"silent_from": 2})
    run = it.run("--wait")
    not_confirmed(it, run, "was slewed, and could not be confirmed afterwards", "no server gave the time")


@pytest.mark.parametrize(("wrong", "offset"), [(-2.0, "-1.99"), (0.3, "+0.30")])
def test_servers_that_report_another_time_afterwards_confirm_nothing(machine, wrong, offset):
    it = machine(0.1, {"wrong": lambda number: 0.0 if number == 1 else wrong})
    not_confirmed(it, it.run("--wait"), f"the servers report that it is wrong by {offset}")


def test_after_a_slew_nothing_is_stepped_however_low_the_limit_is(machine):
    it = machine(0.0009, {"delay_ns": MS // 100}, drift_ppm=200.0)
    run = it.run("--wait", "--step", "0.001")
    assert run.status == OK, run.err
    it = machine(0.00001, {"delay_ns": MS // 100}, drift_ppm=200.0)
    run = it.run("--wait", "--step", "0.00002")
    assert run.status == OK, run.err
    assert -0.01 < shown.within(run.out, "measured again: System clock wrong by ")[0][0] < 0


def test_the_kernel_gets_the_time_to_end_its_second_before_it_is_measured_again(machine):
    pauses = []
    it = machine(0.2, {"before": lambda number: pauses.append(it.last_pause)})
    assert it.run("--wait").status == OK
    assert len(pauses) >= 3
    assert all(seconds > 1 for seconds in pauses[1:])


@pytest.mark.parametrize("by", [3.0, 0.002, 0.0005])
def test_a_step_between_the_last_measurement_and_the_end_is_noticed(machine, by):
    it = machine(0.1)
    rounds = []

    def owner() -> None:
        # The command searches for a clock daemon after it has queried the servers.
        rounds.append(1)
        if len(rounds) >= 2:
            it.twin.step_by_another(by)

    run = it.run("--wait", owner=owner)
    assert run.status == NOT_MOVED, run
    assert it.twin.status & UNSYNC


def test_a_change_between_measuring_and_setting_is_noticed(machine):
    for behind in (0.1, 2.0):
        it = machine(behind)
        perform = adjtime.perform

        def late(*arguments, it=it, perform=perform, **options):
            it.twin.step_by_another(0.5)
            return perform(*arguments, **options)

        adjtime.perform = late
        run = it.run()
        adjtime.perform = perform
        assert run.status == NOT_MOVED, run
        assert "the clock moved by +0.500000 s after it was measured, and was left as it is" in run.err
        assert it.twin.calls == []


def test_a_clock_that_drifts_fast_is_slewed_within_three_rounds_and_its_bound_is_true(machine):
    it = machine(0.05, {"delay_ns": MS // 50}, drift_ppm=400.0)
    run = it.run("--wait")
    assert run.status == OK, run.err
    assert abs(it.twin.error) <= printed_bound(run.out)
    assert abs(it.twin.error) * 1e6 <= it.twin.maxerror_us


@pytest.mark.parametrize("partly", [True, False])
def test_ctrl_c_while_servers_are_asked_again_confirms_nothing_and_leaves_nothing_pending(machine, partly):
    def press(number: int) -> None:
        if number == 2 and partly:
            # The client handles it, and returns the samples that it has.
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        elif number == 2:
            os.kill(os.getpid(), signal.SIGINT)

    it = machine(0.1, {"before": press})
    run = it.run("--wait")
    assert run.status == INTERRUPTED, run
    assert 0 < shown.spans(run.out, "slewed by ")[0] < 0.1
    assert "measured again" not in run.out
    assert "the clock was not measured again" in run.err
    assert it.twin.pending_ns == 0
    assert it.twin.status & UNSYNC
    assert abs(it.twin.error) < 0.002


# ------------------------------------------------------------------------------------------------------------------ steps


@pytest.mark.parametrize("behind", [2.0, -2.0, 0.6])
def test_a_step_that_moves_nothing_is_no_success(machine, behind):
    it = machine(behind, deaf=True)
    run = it.run()
    not_confirmed(it, run, f"the clock was to be stepped by {behind:+.6f} s and moved by +0.000000 s")
    assert it.twin.maxerror_us == 16_000_000


def test_a_step_by_another_at_the_same_time_is_noticed(machine):
    it = machine(2.0)
    adjust = it.twin.adjust

    def both(modes: int, **values: int):
        done = adjust(modes, **values)
        if len(it.twin.calls) == 1:
            it.twin.step_by_another(-1.0)
        return done

    it.twin.adjust = both
    not_confirmed(it, it.run(), "to be stepped by +2.000000 s and moved by +1.000000 s")


# -------------------------------------------------------------------------------------------------------------- the lock


def test_beside_another_tsq_adjtime_no_server_is_queried(machine):
    it = machine(2.0, {"before": lambda number: pytest.fail("asked")}, running=4711)
    run = it.run()
    assert run.status == RUNNING
    assert run.err.splitlines() == [
        "tsq-adjtime: another tsq-adjtime sets this clock (process 4711, lock none)",
    ]
    assert run.out == ""
    assert it.twin.calls == []


@pytest.mark.parametrize("case", ["dry run", "not permitted"])
def test_a_run_that_cannot_set_the_clock_needs_no_lock(machine, case):
    it = machine(2.0, running=4711, permitted=case == "dry run")
    run = it.run(*(["--dry-run"] if case == "dry run" else []))
    assert run.status == (OK if case == "dry run" else NOT_PERMITTED), run.err


def test_the_lock_is_held_while_the_servers_are_asked_and_released_at_the_end(machine):
    seen = []
    it = machine(2.0, {"before": lambda number: seen.append(it.twin.running)})
    assert it.run().status == OK
    assert seen == [1]
    assert it.twin.running is None


# ------------------------------------------------------------------------------- a clock that is slewed while it is measured


LEFT = [{"pending_ns": 300_000_000, "status": UNSYNC | PLL, "constant": 4}, {"old_slew_us": -200_000}]


@pytest.mark.parametrize("left", LEFT, ids=["the kernel's loop", "adjtime(3)"])
def test_a_slew_that_is_under_way_is_stopped_before_the_clock_is_measured(machine, left):
    seen = []
    it = machine(2.0, {"seconds": 1, "before": lambda number: seen.append((it.twin.pending_ns, it.twin.old_slew_us))}, **left)
    # The offset in the kernel's loop is in microseconds, unless a program has set STA_NANO.
    run = it.run()
    assert run.status == OK, run.err
    assert seen == [(0, 0)]
    sign = "-" if "old_slew_us" in left else "+"
    (line,) = run.err.splitlines()
    assert line.startswith(f"tsq-adjtime: an earlier slew was still pending and was cancelled with {sign}0.")
    assert it.paused == 1, "the kernel goes on to the end of its second"
    assert abs(it.twin.error) < 0.002
    before = run.out.partition("after:")[0]
    assert re.search(rf"slewing \{sign}\d+\.\d+ ms$", before, re.MULTILINE), "before: is what the kernel said before that"


@pytest.mark.parametrize("left", LEFT, ids=["the kernel's loop", "adjtime(3)"])
@pytest.mark.parametrize("case", ["dry run", "owned", "not permitted"])
def test_a_run_that_will_not_set_the_clock_stops_no_slew_and_widens_the_bound(machine, left, case):
    it = machine(0.3, {"seconds": 1}, permitted=case != "not permitted", **left)
    options = ["--dry-run"] if case == "dry run" else []
    run = it.run(*options, owner=lambda: "chronyd, process 5" if case == "owned" else None)
    assert run.status == {"dry run": OK, "owned": OWNED, "not permitted": NOT_PERMITTED}[case], run.err
    assert it.twin.calls == []
    assert re.search(r"the clock moved by \S+ s while it was measured, the kernel is slewing it: the bound is wider", run.err)
    offset, bound = shown.wrong_by(run.out)
    assert abs(-it.twin.error - offset) <= bound


def test_a_capability_that_cannot_be_used_stops_no_slew(machine):
    it = machine(2.0, permitted=False, promised=True, **LEFT[0])
    assert it.run().status == NOT_PERMITTED
    assert it.twin.calls == []


def slewed(it: Machine, seconds_per_second: float) -> None:
    """Another program slews in a way that the kernel does not report."""
    run = it.twin.run

    def faster(seconds: int) -> None:
        run(seconds)
        it.twin.error_ns += seconds_per_second * seconds * 1e9
        it.twin._monotonic_error_ns += seconds_per_second * seconds * 1e9

    it.twin.run = faster


def test_a_clock_that_others_slew_while_it_is_measured_is_not_set(machine):
    it = machine(2.0, {"seconds": 1})
    slewed(it, 5e-3)
    run = it.run()
    assert run.status == STEPPED, run
    assert "another program slewed the clock during the measurement (by +0.010000 s in 2.0 s)" in run.err
    assert it.twin.calls == []


def test_a_slow_slew_by_others_widens_the_bound(machine):
    it = machine(2.0, {"seconds": 1})
    slewed(it, 50e-6)
    run = it.run()
    assert run.status == OK, run.err
    assert "the clock moved by +0.000100 s while it was measured, another program sets or slews it: the bound is wider" in run.err
    _, bound = shown.wrong_by(run.out)
    # Where the samples meet is narrower by half of the slew than each of them, 1 ms, and then it is wider by the whole slew.
    assert 0.00105 <= bound < 0.0012
    assert abs(it.twin.error) <= bound
    assert it.twin.maxerror_us == pytest.approx(bound * 1e6, abs=1)


def test_a_tick_of_unusual_length_widens_the_bound_and_forbids_nothing(machine):
    it = machine(2.0, {"seconds": 1}, tick=10_002)
    run = it.run()
    assert run.status == OK, run.err
    assert "by +0.000400 s while it was measured, its tick makes it run +200 ppm: the bound is wider by that" in run.err
    assert "frequency +0.000 ppm, tick +200 ppm, slewing" in run.out


def test_a_small_step_while_it_is_measured_widens_the_bound(machine):
    it = machine(2.0, {"after": lambda number: it.twin.step_by_another(0.0009)})
    run = it.run("--dry-run")
    assert run.status == OK, run.err
    assert "the clock moved by +0.000900 s while it was measured, another program sets or slews it" in run.err
    _, bound = shown.wrong_by(run.out)
    assert float(bound) >= 0.0019


@pytest.mark.parametrize("ppm", [0, 80, -500])
def test_a_steady_frequency_is_no_slew(machine, ppm):
    it = machine(2.0, {"seconds": 1}, frequency=ppm << 16)
    run = it.run()
    assert (run.status, run.err) == (OK, "")


# -------------------------------------------------------------------------------------------------------------- the drift


@pytest.mark.parametrize("ppm", [0, 80, -20])
def test_a_step_prints_the_expected_drift_if_none_was_measured(machine, ppm):
    run = machine(2.0, frequency=ppm << 16).run()
    last = run.out.splitlines()[-1]
    assert last == (
        f"drift:  not measured; no program keeps this clock: expect it to drift by up to {100 + abs(ppm)} µs a second "
        f"(kernel frequency {ppm:+.3f} ppm; typical oscillators are off by up to 100 ppm)"
    )


@pytest.mark.parametrize(("drift_ppm", "frequency"), [(80.0, 0), (0.0, 80), (-60.0, 40), (30.0, -70)])
@pytest.mark.parametrize("behind", [0.02, -0.1])
def test_a_slew_that_is_waited_for_shows_the_drift(machine, behind, drift_ppm, frequency):
    it = machine(behind, {"delay_ns": MS // 10}, drift_ppm=drift_ppm, frequency=frequency << 16)
    run = it.run("--wait")
    assert run.status == OK, run.err
    (found,) = re.findall(r"^drift:  measured as (\S+) ± (\S+) ppm within \d+\.\d s; no program", run.out, re.MULTILINE)
    drift, error = map(float, found)
    true = drift_ppm + frequency
    assert abs(drift - true) <= error + 0.1
    assert error < 20
    (most,) = re.findall(r"expect it to drift by up to (\d+) µs a second$", run.out, re.MULTILINE)
    assert abs(true) - 1 <= int(most) <= abs(true) + 2 * error + 1
    # And so it does.
    before = it.twin.error
    it.twin.run(100)
    assert abs(it.twin.error - before) <= 100 * int(most) * 1e-6 + 1e-6


def test_samples_over_a_longer_time_show_the_drift_without_waiting(machine):
    it = machine(2.0, {"delay_ns": MS // 10, "count": 12, "seconds": 2}, drift_ppm=50.0, frequency=30 << 16)
    run = it.run()
    (found,) = re.findall(r"^drift:  measured as (\S+) ± (\S+) ppm", run.out, re.MULTILINE)
    drift, error = map(float, found)
    assert abs(drift - 80) <= error + 0.1


def test_samples_of_a_clock_that_others_move_show_no_drift(machine):
    it = machine(2.0, {"delay_ns": MS // 10, "count": 12, "seconds": 2})
    slewed(it, 50e-6)
    assert "drift:  not measured" in it.run().out


def test_a_dry_run_and_a_refusal_print_no_drift(machine):
    it = machine(2.0)
    assert "drift:" not in it.run("--dry-run").out
    assert "drift:" not in it.run("--panic", "1").out
