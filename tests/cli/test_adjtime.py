"""tsq-adjtime with real servers whose time the test chooses, on a virtual clock: what it does and prints, and its exit status."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.cli.peers import NOW, Authority, Peer, closed_port, deaf_port, silent
from tests.cli.test_client import Run
from tests.support import denied, kernel, shown
from tests.support.kernel import UNSYNC, VirtualKernel
from tests.support.processes import BIN
from tests.support.tries import in_one_of_some
from tsq._fast import clock_ns, pack_response
from tsq.cli.adjtime import _NUMBERS, _options, _parser, main
from tsq.cli.numbers import negatives_joined
from tsq.errors import ClockError
from tsq.host.clock import SystemClock
from tsq.host.keepers.owner import clock_owner
from tsq.oneshot.adjtime import Change, Interruptions, Measurement, perform
from tsq.timing.adjustment import LeaveAlone, Refusal, Slew, Step

OK, FAILED, USAGE, NO_ANSWER, NO_TIME, TOO_FAR, OWNED, NOT_PERMITTED, STEPPED, INTERRUPTED = 0, 1, 2, 3, 8, 9, 10, 11, 12, 130
ODD = ("-1", "-inf", "nan", "inf")
INTERRUPTS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]
CLOCK_CALLS = "adjtimex,clock_adjtime,clock_settime,settimeofday"


def telling(offset: float):
    """A server whose clock is ahead of this machine's by this many seconds."""

    def answer(nonce: bytes, request: bytes, number: int) -> list[bytes]:
        now = clock_ns() + round(offset * 1e9)
        return [pack_response(nonce, now, now)]

    return answer


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The real command on this machine's clock, which no test can set."""
    run = [str(BIN / "tsq-adjtime"), *map(str, arguments)]
    return subprocess.run(run, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Authority().issue(tmp_path_factory.mktemp("files"))


@dataclass
class Bench:
    """Servers, a virtual clock that runs like this machine's, and the command."""

    run: Callable[..., Run]
    twin: VirtualKernel
    targets: list[str]

    def unchanged(self) -> bool:
        return self.twin.calls == []


@pytest.fixture
def bench(files, capsys) -> Iterator[Callable[..., Bench]]:
    """bench(offsets...) starts a server for each offset. The virtual clock's truth is that of the first."""
    with ExitStack() as stack:

        def make(*offsets: float, **twin) -> Bench:
            targets = [str(stack.enter_context(Peer(files, telling(offset))).target) for offset in offsets]
            error = round(offsets[0] * 1e9)
            virtual = VirtualKernel(**({"truth_ns": clock_ns() + error, "error_ns": -error} | twin))

            def run(*arguments: object, owner=lambda: None, hosts: list[str] | None = None) -> Run:
                capsys.readouterr()
                given = ["--ca", str(files.authority), *map(str, arguments), *(targets if hosts is None else hosts)]
                try:
                    status = main(given, SystemClock(virtual), owner)
                except SystemExit as end:
                    status = end.code
                captured = capsys.readouterr()
                return Run(status, captured.out, captured.err)

            return Bench(run, virtual, targets)

        yield make


# --------------------------------------------------------------------------------------------------- what it does


@pytest.mark.parametrize("offset", [2.5, -2.5, 0.6, -999.0])
def test_an_offset_over_half_a_second_is_stepped(bench, offset):
    it = bench(offset)
    run = it.run()
    assert run.status == OK, run.err
    assert abs(it.twin.error) < 0.02
    assert it.twin.synchronized
    (stepped,) = shown.spans(run.out, "^stepped by ")
    assert stepped == pytest.approx(offset, abs=0.02)
    assert run.err == ""


@pytest.mark.parametrize("offset", [0.2, -0.2, 0.01, -0.001])
def test_a_smaller_one_is_slewed_by_the_kernel(bench, offset):
    it = bench(offset)
    run = it.run()
    assert run.status == OK, run.err
    assert it.twin.error == pytest.approx(-offset), "a slew moves nothing at once"
    assert it.twin.maxerror_us >= abs(offset) * 1e6, "the bound covers what is not corrected yet"
    words = r"^slewing by .*: the kernel does it, 99 % within (\d+) s, and the result is not checked$"
    (seconds,) = re.findall(words, run.out, re.MULTILINE)
    it.twin.run(int(seconds))
    # The assumed error of the server is 10 ms, so the clock must be within that; it is much nearer.
    assert abs(it.twin.error) < abs(offset) * 0.02 + 0.001
    assert it.twin.frequency == 0


def test_before_and_after_are_printed_with_offset_bound_and_the_kernels_state(bench):
    told = r"synchronized, maxerror 1\d\.\d{3} ms, esterror \d+\.\d{3} [mµ]s, frequency \+0\.000 ppm, slewing \+0\.0{3} µs"

    def is_told() -> bool:
        run = bench(2.0).run()
        before, after = re.findall(r"^(?:before|after): +kernel: (.*)$", run.out, re.MULTILINE)
        assert before.startswith("unsynchronized, maxerror 16.000 s")
        wrong = re.search(r"^System clock wrong by \+[12]\.\d{6} ± 0\.01\d{4} s$", run.out, re.MULTILINE)
        return bool(wrong and re.fullmatch(told, after))

    # The server, in a thread, may be kept waiting.
    assert in_one_of_some(is_told)


def test_maxerror_is_the_root_distance_and_esterror_the_jitter_in_microseconds(bench):
    def esterror_us() -> int:
        it = bench(2.0)
        run = it.run("--server-error", "0.005")
        _, bound = shown.wrong_by(run.out)
        assert it.twin.maxerror_us == pytest.approx(bound * 1e6, abs=1)
        return it.twin.esterror_us

    # The server, in a thread, may be kept waiting.
    assert in_one_of_some(lambda: 1 <= esterror_us() < 5000)


def test_the_user_sets_the_limits(bench):
    it = bench(0.3)
    assert it.run("--step", "0.1").status == OK
    assert abs(it.twin.error) < 0.02
    it = bench(30.0)
    run = it.run("--panic", "20")
    assert run.status == TOO_FAR
    assert it.unchanged()


def test_several_servers_are_combined_and_a_minority_liar_does_not_count(bench):
    it = bench(3.0, 3.0, 3.0, 99.0)
    run = it.run()
    assert run.status == OK, run.err
    assert abs(it.twin.error) < 0.02
    assert "3 of 4 sources agree" in run.out
    assert f"x {it.targets[3]}" in run.err


def test_a_single_server_gives_a_warning_of_no_redundancy(bench):
    assert "no redundancy" in bench(1.0).run().out


# ---------------------------------------------------------------------------------------------------- what it refuses


def refused(it: Bench, run: Run, status: int, *words: str) -> None:
    assert run.status == status, run.err
    assert it.unchanged()
    (line,) = [line for line in run.err.splitlines() if "clock not set" in line]
    assert all(word in line for word in words), line
    # The kernel's state is printed if the servers agree on a time, although the clock is not set.
    assert run.out.count("before: kernel: ") == (status in (TOO_FAR, OWNED, NOT_PERMITTED, STEPPED))
    assert "after:" not in run.out
    assert "stepped" not in run.out
    assert "slewing by" not in run.out


def test_fault_47_one_liar_of_four_is_named_two_of_four_leave_the_clock_alone(bench):
    it = bench(1.0, 1.0, 50.0, 50.0)
    refused(it, it.run("--force"), NO_TIME, "no majority")
    it = bench(1.0, 1.0, 1.0, 50.0)
    assert it.run().status == OK


def test_two_servers_that_contradict_each_other(bench):
    it = bench(1.0, 2.0)
    refused(it, it.run(), NO_TIME, "contradict each other")


def test_too_few_servers(bench):
    it = bench(1.0, 1.0)
    refused(it, it.run("--min-sources", "3"), NO_TIME, "fewer usable sources")


def test_fault_49_all_servers_down(bench):
    it = bench(1.0)
    with closed_port() as closed:
        run = it.run(hosts=[str(closed)])
    refused(it, run, NO_ANSWER, "no server gave the time: see above why")
    assert "nothing listens" in run.err


def test_a_wrong_pin_is_named_and_no_authority_is_blamed(files, capsys):
    with Peer(files, telling(2.0)) as peer:
        twin = VirtualKernel()
        status = main(["--pin", f"sha256//{'A' * 43}=", str(peer.target)], SystemClock(twin), lambda: None)
    said = capsys.readouterr()
    refused(Bench(main, twin, []), Run(status, said.out, said.err), NO_ANSWER, "no server gave the time")
    assert "the server's key is sha256//" in said.err


@pytest.mark.draft("6.6-11")
@pytest.mark.parametrize("offset", [1001.0, -1001.0, 86400.0 * 400])
def test_fault_56_an_offset_over_the_limit_is_refused_and_printed(bench, offset):
    it = bench(offset)
    run = it.run()
    refused(it, run, TOO_FAR, "over the limit", "--force")
    assert "System clock wrong by" in run.out


def test_force_sets_the_clock_over_the_limit(bench):
    it = bench(86400.0 * 400)
    assert it.run("--force").status == OK
    assert abs(it.twin.error) < 0.02


def test_fault_57_without_cap_sys_time_it_measures_reports_and_refuses(bench):
    it = bench(2.0, permitted=False)
    run = it.run()
    refused(it, run, NOT_PERMITTED, "not permitted to set the clock", "CAP_SYS_TIME")
    assert "System clock wrong by +" in run.out


def test_fault_57_the_real_command_without_the_capability(files):
    with Peer(files, telling(2.0)) as peer:
        real = command("--ca", files.authority, peer.target)
        dry = command("--dry-run", "--ca", files.authority, peer.target)
    # If a daemon keeps this machine's clock, that is the first reason.
    assert real.returncode == (NOT_PERMITTED if clock_owner() is None else OWNED), real.stderr
    for run in (real, dry):
        assert "System clock wrong by +" in run.stdout
        assert "before: kernel: " in run.stdout
    assert dry.returncode == OK, dry.stderr
    assert "without --dry-run it would be refused, exit status 11: not permitted to set the clock" in dry.stderr


def test_fault_57_a_capability_that_is_shown_but_cannot_be_used(bench):
    # As in a container whose user namespace has all capabilities.
    it = bench(2.0, permitted=False, promised=True)
    run = it.run()
    assert run.status == NOT_PERMITTED
    assert it.unchanged()
    assert "CAP_SYS_TIME" in run.err or "not permitted to set the clock" in run.err


def test_fault_58_another_daemon_owns_the_clock(bench):
    it = bench(2.0)
    run = it.run("--force", owner=lambda: "chronyd, process 4711")
    refused(it, run, OWNED, "another program keeps the clock", "chronyd, process 4711")
    assert "System clock wrong by +" in run.out


def test_fault_58_the_real_command_finds_a_daemon_in_the_process_table(files):
    """The daemon is cat under another name. If this machine runs a real daemon, the command may name that one."""
    there = subprocess.Popen(["ntpd"], executable=shutil.which("cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with Peer(files, telling(2.0)) as peer, there as daemon:
        # When it answers, its name is in the process table.
        daemon.stdin.write("there?\n")
        daemon.stdin.flush()
        assert daemon.stdout.readline() == "there?\n"
        owner = clock_owner()
        run = command("--force", "--ca", files.authority, peer.target)
        # It ends at the end of its input.
        daemon.stdin.close()
    assert owner is not None
    assert run.returncode == OWNED, run.stderr
    assert f"clock not set: another program keeps the clock ({owner})" in run.stderr
    assert "before: kernel: " in run.stdout


def test_fault_60_a_clock_that_is_stepped_while_servers_are_asked(files, capsys):
    twin = VirtualKernel(truth_ns=clock_ns() + 2_000_000_000, error_ns=-2e9)

    def meanwhile(nonce: bytes, request: bytes, number: int) -> list[bytes]:
        if number == 1:
            twin.step_by_another(-3600.0)
        return telling(2.0)(nonce, request, number)

    with Peer(files, meanwhile) as peer:
        status = main(["--force", "--ca", str(files.authority), str(peer.target)], SystemClock(twin), lambda: None)
    said = capsys.readouterr()
    refused(Bench(main, twin, []), Run(status, said.out, said.err), STEPPED, "another program set the clock", "by -3600.000")


def test_fault_60_a_clock_that_another_program_steps_meanwhile(bench):
    it = bench(2.0)
    # The command searches for a clock daemon after it has queried the servers.
    run = it.run(owner=lambda: it.twin.step_by_another(0.25))
    refused(it, run, STEPPED, "another program set the clock", "+0.250")


def test_fault_53_insecure_needs_a_second_option_before_any_server_is_queried():
    with deaf_port() as (target, udp):
        run = command("--insecure", target)
        udp.setblocking(False)
        with pytest.raises(BlockingIOError):
            udp.recv(2048)
    assert run.returncode == USAGE
    assert "--i-know-this-is-insecure" in run.stderr
    assert run.stdout == ""


def test_fault_53_with_the_second_option_the_clock_is_set_with_a_warning(files, capsys):
    with Peer(files, telling(2.0)) as peer:
        twin = VirtualKernel(truth_ns=clock_ns() + 2_000_000_000, error_ns=-2e9)
        status = main(["--insecure", "--i-know-this-is-insecure", str(peer.target)], SystemClock(twin), lambda: None)
    assert status == OK
    assert abs(twin.error) < 0.02
    assert "anyone on the network path can set this clock" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--i-know-this-is-insecure"], "--i-know-this-is-insecure without --insecure (expected both or none)"),
        (["--pin", "sha256//x"], "argument --pin: pinned key 'sha256//x' (expected sha256// and the Base64 of 32 bytes)"),
        (["--bootstrap", "--pin", f"sha256//{'A' * 43}="], "--bootstrap together with --pin: omit --bootstrap"),
        (["--bootstrap", "--insecure"], "--bootstrap together with --insecure: use one of them"),
        (["--bootstrap", "--insecure", "--i-know-this-is-insecure"], "--bootstrap together with --insecure: use one of them"),
        *[(["--step", bad], f"step limit {bad} s (expected 0 to 0.5 s, the kernel's limit for slews)") for bad in ODD],
        (["--step", "0.6"], "step limit 0.6 s (expected 0 to 0.5 s, the kernel's limit for slews)"),
        *[(["--panic", bad], f"panic limit {bad} s (expected a number of seconds above 0): to set") for bad in ("0", *ODD)],
        *[(["--interval", bad], f"interval {float(bad)} (expected 0 to 86400 seconds)") for bad in ODD],
        *[(["--timeout", bad], f"timeout {float(bad)} (expected above 0, at most 3600 seconds)") for bad in ("0", *ODD)],
        *[(["--server-error", bad], f"server error {float(bad)} (expected 0 to 1 second)") for bad in ODD],
        *[(["--count", bad], f"count {bad} (expected 1 to 1000000)") for bad in ("0", "-1")],
        *[(["--min-sources", bad], f"a minimum of {bad} sources (expected 1 or more)") for bad in ("0", "-1")],
        *[(["--port", bad], f"argument --port: port '{bad}' (expected a number from 1 to 65535)") for bad in ("0", "-1", "x")],
        *[
            ([option, "x"], f"argument {option}: 'x' (expected a number, such as 0.5)")
            for option in ("--step", "--panic", "--interval", "--timeout", "--server-error")
        ],
        *[
            ([option, bad], f"argument {option}: '{bad}' (expected a whole number, such as 3)")
            for option in ("--count", "--min-sources") for bad in ("x", "1.5", "nan", "-inf")
        ],
    ],
)
def test_options_that_make_no_sense(arguments, words, capsys):
    twin = VirtualKernel()
    with pytest.raises(SystemExit) as end:
        main([*arguments, "127.0.0.1:9"], SystemClock(twin), lambda: None)
    assert end.value.code == USAGE
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith(f"tsq-adjtime: error: {words}")
    assert said.out == ""
    assert twin.calls == []


def test_each_option_with_a_number_accepts_negative_text_as_its_value():
    takes = {action.option_strings[0] for action in _parser()._actions if action.type is not None and action.option_strings}
    assert takes - {"--pin"} == set(_NUMBERS)
    given = ["--step", "-1", "-4", "--count", "-.5", "--dry-run", "-6", "--panic", "-INF", "--step", "host"]
    joined = ["--step=-1", "-4", "--count=-.5", "--dry-run", "-6", "--panic=-INF", "--step", "host"]
    assert negatives_joined(given, _NUMBERS) == joined


def test_unusable_files_are_reported_before_any_server_is_queried_and_without_the_usage(capsys, tmp_path):
    empty = tmp_path / "empty.pem"
    empty.touch()
    for ca, words in [(tmp_path / "none", "No such file or directory"), (empty, "holds no certificate"), (__file__, "")]:
        with pytest.raises(SystemExit) as end:
            main(["--bootstrap", "--ca", str(ca), "127.0.0.1:9"], SystemClock(VirtualKernel()), lambda: None)
        said = capsys.readouterr()
        assert end.value.code == USAGE
        assert said.err.startswith(f"tsq-adjtime: error: CA file {ca}")
        assert re.search(rf"{words}.* \(expected certificates in PEM form", said.err)
        assert "usage" not in said.err


@pytest.mark.parametrize("streams", [("stdout",), ("stderr",), ("stdout", "stderr")], ids="+".join)
def test_the_clock_is_set_although_the_output_is_closed(files, streams):
    read, write = os.pipe()
    os.close(read)
    kept = {name: write if name in streams else subprocess.PIPE for name in ("stdout", "stderr")}
    with Peer(files, telling(2.0)) as peer, deaf_port() as (deaf, _):
        arguments = ["--dry-run", "--timeout", "0.5", "--ca", str(files.authority), str(peer.target), str(deaf)]
        try:
            run = subprocess.run([BIN / "tsq-adjtime", *arguments], **kept, text=True, timeout=60, check=False)
        finally:
            os.close(write)
    assert run.returncode == OK, run.stderr
    assert "Error" not in (run.stderr or "")
    assert run.stdout is None or "would step by +" in run.stdout


def test_a_terminal_without_the_signs_leaves_no_clock_half_set(bench, monkeypatch):
    it = bench(2.0)
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert it.run().status == OK
    out.seek(0)
    text = out.read()
    assert "System clock wrong by +2.0" in text
    assert " +/- 0.0" in text
    assert "after:  kernel: " in text


def test_a_log_of_both_streams_has_the_kernels_state_above_the_refusal(files):
    with Peer(files, telling(2.0)) as peer:
        arguments = ["--ca", str(files.authority), "--panic", "1", str(peer.target)]
        # By default, Python writes standard output to a pipe only at the end.
        usual = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        run = subprocess.run(
            [BIN / "tsq-adjtime", *arguments], env=usual, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
            check=False,
        )
    assert run.returncode == TOO_FAR
    wrong, before, refusal = run.stdout.splitlines()[-3:]
    assert wrong.startswith("System clock wrong by +")
    assert before.startswith("before: kernel: ")
    assert refusal.startswith("tsq-adjtime: clock not set: the offset is over the limit (+")


# -------------------------------------------------------------------------------------------------------- dry runs


@pytest.mark.parametrize(("offset", "words"), [(2.0, "would step by +"), (-0.1, "would slew by -"), (0.4, "would slew by +")])
def test_a_dry_run_prints_what_a_real_run_would_do_and_changes_nothing(bench, offset, words):
    it = bench(offset)
    run = it.run("--dry-run")
    assert run.status == OK, run.err
    assert words in run.out
    assert "nothing was changed" in run.out
    assert it.unchanged()


@pytest.mark.parametrize("permitted", [True, False])
@pytest.mark.parametrize("owner", [None, "ntpd, process 5"])
def test_any_user_can_do_a_dry_run_which_prints_what_would_be_refused(bench, permitted, owner):
    it = bench(2.0, permitted=permitted)
    run = it.run("--dry-run", owner=lambda: owner)
    assert run.status == OK, run.err
    assert it.unchanged()
    assert "would step by +" in run.out
    reasons = [
        *(["10: another program keeps the clock (ntpd, process 5)"] if owner else []),
        *([] if permitted else ["11: not permitted to set the clock"]),
    ]
    lines = run.err.splitlines()
    assert len(lines) == len(reasons)
    for line, reason in zip(lines, reasons, strict=True):
        assert line.startswith(f"tsq-adjtime: without --dry-run it would be refused, exit status {reason}")
    real = it.run(owner=lambda: owner)
    # A real run gives the first of these reasons.
    assert real.status == (int(reasons[0][:2]) if reasons else OK)


def test_the_clock_is_never_set_by_a_server_that_reports_nothing_about_its_own():
    """With any --server-error."""
    given = _parser().parse_args(["--server-error", "0.01", "192.0.2.1"])
    assert not _options(given).client.accept_unknown


def test_a_dry_run_refuses_if_the_measurement_is_not_usable(bench):
    it = bench(2.0, permitted=False)
    refused(it, it.run("--dry-run", "--panic", "1"), TOO_FAR)
    refused(it, it.run("--dry-run", "--min-sources", "2"), NO_TIME)
    refused(it, it.run("--dry-run", owner=lambda: it.twin.step_by_another(0.25)), STEPPED)


@pytest.mark.parametrize("offset", [2.0, 0.1])
def test_servers_are_measured_although_the_kernel_cannot_be_read(bench, offset):
    it = bench(offset, unreadable=True)
    run = it.run("--dry-run")
    assert run.status == OK, run.err
    assert shown.wrong_by(run.out)[0] == pytest.approx(offset, abs=0.05)
    assert "before: kernel: cannot be read" in run.out
    assert f"would {'step' if offset > 1 else 'slew'} by +" in run.out
    (line,) = run.err.splitlines()
    assert "exit status 11" in line
    assert "filter of system calls" in line
    real = it.run()
    assert real.status == NOT_PERMITTED
    assert "System clock wrong by +" in real.out
    assert it.unchanged()
    with_lock = it.run("--wait")
    assert with_lock.status == NOT_PERMITTED


@pytest.mark.skipif(not denied.possible(), reason="the numbers of this machine's system calls are not known")
@pytest.mark.parametrize(("options", "statuses"), [(["--dry-run"], [OK]), ([], [NOT_PERMITTED, OWNED])], ids=["dry run", "real"])
def test_under_a_filter_of_system_calls_the_command_measures(files, options, statuses):
    with Peer(files, telling(2.0)) as peer:
        under = [*denied.command("adjtimex", "clock_adjtime"), BIN / "tsq-adjtime"]
        filtered = [*under, *options, "--ca", files.authority, peer.target]
        run = subprocess.run([*map(str, filtered)], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode in statuses, run.stderr
    assert "System clock wrong by +" in run.stdout
    assert "before: kernel: cannot be read" in run.stdout


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed (Debian: apt-get install strace)")


@needs_strace
@pytest.mark.parametrize("options", [["--dry-run"], []], ids=["dry run", "without the capability"])
def test_the_real_command_makes_no_call_that_sets_a_clock(files, tmp_path, options):
    """strace shows each system call that can set a clock: those that are made only read."""
    log = tmp_path / "calls"
    with Peer(files, telling(2.0)) as one, Peer(files, telling(2.0)) as two, Peer(files, telling(2.0)) as three:
        targets = [str(peer.target) for peer in (one, two, three)]
        traced = ["strace", "-ff", "-o", log, "-e", f"trace={CLOCK_CALLS}", BIN / "tsq-adjtime", *options, "--ca", files.authority]
        run = subprocess.run([*map(str, traced), *targets], capture_output=True, text=True, timeout=120, check=False)
    # With a clock daemon on this machine, the command refuses for that reason.
    assert run.returncode in ((OK,) if options else (NOT_PERMITTED, OWNED)), run.stderr
    assert "System clock wrong by +" in run.stdout
    # One file per thread: in a common file, calls of other threads can split a line.
    lines = [line for part in tmp_path.glob("calls.*") for line in part.read_text().splitlines()]
    calls = [line for line in lines if re.search(rf"\b({CLOCK_CALLS.replace(',', '|')})\(", line)]
    assert calls, "it read the kernel's state at least"
    reads = ("clock_adjtime(CLOCK_REALTIME, {modes=0,", "clock_adjtime(CLOCK_REALTIME, {modes=ADJ_OFFSET_SS_READ,")
    assert all(any(read in call for read in reads) for call in calls), calls


@needs_strace
def test_strace_sees_calls_that_set_a_clock(tmp_path):
    """Shows that the test above can fail: strace shows a change that is tried and that the kernel refuses."""
    log = tmp_path / "calls"
    code = "from tsq.host.clock import SystemClock; SystemClock().step(0.0, max_error=1, estimated_error=1)"
    traced = ["strace", "-f", "-o", str(log), "-e", f"trace={CLOCK_CALLS}", str(BIN / "python"), "-c", code]
    run = subprocess.run(traced, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode != 0
    assert "NotPermitted" in run.stderr
    # strace does not show a structure that the kernel has not read.
    assert re.search(r"clock_adjtime\(CLOCK_REALTIME, 0x\w+\) += -1 EPERM", log.read_text())


# --------------------------------------------------------------------------------------------------- interruptions


@pytest.mark.parametrize("number", INTERRUPTS)
def test_fault_69_an_interrupt_while_servers_are_asked_changes_nothing(number):
    with deaf_port() as (target, udp):
        process = subprocess.Popen(
            [BIN / "tsq-adjtime", str(target), "--timeout", "60"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: [signal.signal(each, signal.SIG_DFL) for each in INTERRUPTS],  # noqa: PLW1509
        )
        udp.recv(2048)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == INTERRUPTED, err
    assert "stepped" not in out


def test_fault_69_an_interrupted_measurement_does_not_set_the_clock_although_some_servers_have_answered(files, capsys):
    """One server has answered, the other is silent. After Ctrl-C the clock must not be set by the first."""
    twin = VirtualKernel(truth_ns=clock_ns() + 2_000_000_000, error_ns=-2e9)

    def interrupt(nonce: bytes, request: bytes, number: int) -> list[bytes]:
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return telling(2.0)(nonce, request, number)

    before = signal.getsignal(signal.SIGINT)
    with Peer(files, interrupt) as one, Peer(files, silent) as two:
        options = ["--ca", str(files.authority), "--timeout", "20", "--count", "4"]
        status = main([*options, str(one.target), str(two.target)], SystemClock(twin), lambda: None)
    assert status == INTERRUPTED
    assert twin.calls == []
    assert signal.getsignal(signal.SIGINT) is before


SLEW = Slew(0.4, 5, 0.01, 0.001)


def never() -> Measurement:
    pytest.fail("measured again")


@pytest.fixture
def survived():
    """Signals without a handler neither end the tests nor are ignored."""
    before = {number: signal.signal(number, lambda *_: None) for number in INTERRUPTS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("survived")
@pytest.mark.parametrize("after", [0, 1, 50])
@pytest.mark.parametrize("number", INTERRUPTS)
def test_fault_69_an_interrupt_in_a_slew_gives_up_the_rest(after, number):
    twin = VirtualKernel(error_ns=-4e8)
    interruptions = Interruptions()

    def pause(seconds: float) -> None:
        del seconds
        if (twin.truth_ns - 1_800_000_000_000_000_000) // 1_000_000_000 >= after:
            os.kill(os.getpid(), number)
        twin.run(1)

    with interruptions.caught():
        change = perform(SLEW, SystemClock(twin), again=never, interruptions=interruptions, pause=pause)
    assert change.interrupted
    assert change.left == pytest.approx(-twin.error, abs=1e-8)
    assert change.moved == pytest.approx(0.4 + twin.error, abs=1e-8)
    here = twin.error_ns
    twin.run(1000)
    assert twin.error_ns == here, "nothing is pending"
    assert twin.frequency == 0


def test_a_slew_is_not_given_up_for_a_signal_that_is_ignored():
    """As under nohup."""
    twin = VirtualKernel(error_ns=-4e8)
    interruptions = Interruptions()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptions.caught():
            os.kill(os.getpid(), signal.SIGHUP)
            change = perform(SLEW, SystemClock(twin), interruptions=interruptions)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not change.interrupted
    assert twin.pending_ns == 400_000_000


def test_fault_69_an_interrupt_at_the_very_call_that_begins_the_slew_takes_it_back():
    twin = VirtualKernel(error_ns=-4e8)
    interruptions = Interruptions()
    adjust = twin.adjust

    def interrupted(modes: int, **values: int):
        if modes & kernel.OFFSET and values["offset"]:
            os.kill(os.getpid(), signal.SIGINT)
        return adjust(modes, **values)

    twin.adjust = interrupted
    with interruptions.caught():
        change = perform(SLEW, SystemClock(twin), interruptions=interruptions)
    assert change.interrupted
    assert twin.pending_ns == 0


def test_fault_69_a_step_is_never_half_done():
    twin = VirtualKernel(error_ns=-2e9)
    interruptions = Interruptions()
    adjust = twin.adjust

    def interrupted(modes: int, **values: int):
        os.kill(os.getpid(), signal.SIGTERM)
        return adjust(modes, **values)

    twin.adjust = interrupted
    with interruptions.caught():
        change = perform(Step(2.0, 0.01, 0.001), SystemClock(twin), interruptions=interruptions)
    assert twin.error == 0.0
    assert not change.interrupted


def test_fault_64_killed_in_mid_slew_the_kernel_goes_on_and_no_frequency_is_left_wrong():
    class Killed(BaseException):
        pass

    twin = VirtualKernel(error_ns=-4e8, frequency=7 << 16)

    def pause(seconds: float) -> None:
        if twin.truth_ns > 1_800_000_020_000_000_000:
            raise Killed
        twin.run(1)

    with pytest.raises(Killed):
        perform(SLEW, SystemClock(twin), again=never, pause=pause)
    assert twin.frequency == 7 << 16
    twin.frequency = 0
    left = twin.pending_ns
    twin.run(1000)
    assert left > 0
    assert abs(twin.pending_ns) < left / 1000


def test_a_refusal_of_the_kernel_is_reported(bench):
    it = bench(2.0)

    def refuse(modes: int, **values: int):
        raise ClockError("the kernel refuses to change the clock: Invalid argument")

    it.twin.adjust = refuse
    run = it.run()
    assert run.status == FAILED
    assert "Invalid argument" in run.err


def test_a_refusal_is_never_performed():
    twin = VirtualKernel(status=UNSYNC)
    assert perform(LeaveAlone(Refusal.OWNED), SystemClock(twin)) == Change(SystemClock(twin).state(), 0.0)
    assert twin.calls == []


# ------------------------------------------------------------------------------------------------------------- files


def test_the_time_is_saved_after_success_and_only_then(bench, tmp_path):
    state = tmp_path / "time"
    it = bench(2.0)
    assert it.run("--state-file", state, "--dry-run").status == OK
    assert it.run("--state-file", state, "--panic", "1").status == TOO_FAR
    assert not state.exists()
    assert it.run("--state-file", state).status == OK
    assert int(state.read_text()) == pytest.approx(NOW.timestamp(), abs=3600)


def test_fault_65_a_state_file_that_cannot_be_written_is_a_warning(bench, tmp_path):
    it = bench(2.0)
    run = it.run("--state-file", tmp_path / "no" / "time")
    assert run.status == OK
    assert "was not saved" in run.err
