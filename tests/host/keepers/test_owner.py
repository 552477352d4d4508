"""Who keeps the clock: names and options in a process table, and a real chronyd that leaves it alone."""

import os
from pathlib import Path

import pytest

from tests.support.chronyd import Chronyd, needs_chronyd
from tests.support.kernel import VirtualKernel
from tests.support.ports import free_port
from tsq.errors import AlreadyRunning, ClockError
from tsq.host.clock import SystemClock
from tsq.host.keepers.owner import clock_owner, kept_alone, setter_running


@pytest.fixture
def nobody() -> tuple[str, int]:
    """Where no chronyd answers."""
    return "127.0.0.1", free_port()


ALL = (1 << 41) - 1
SYS_TIME = 1 << 25


def process(table: Path, pid: int, *arguments: str, capabilities: int | None = None) -> None:
    (table / str(pid)).mkdir(parents=True)
    (table / str(pid) / "cmdline").write_bytes(b"".join(argument.encode() + b"\0" for argument in arguments))
    if capabilities is not None:
        (table / str(pid) / "status").write_text(f"Name:\tx\nCapPrm:\t{ALL:016x}\nCapEff:\t{capabilities:016x}\nCapBnd:\t0\n")


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["/usr/sbin/chronyd", "-F", "1"], "chronyd, process 77"),
        (["chronyd"], "chronyd, process 77"),
        (["/usr/sbin/ntpd", "-g", "-u", "ntp:ntp"], "ntpd, process 77"),
        (["/usr/bin/ntp-daemon"], "ntpd-rs (ntp-daemon), process 77"),
        (["/usr/lib/systemd/systemd-timesyncd"], "systemd-timesyncd, process 77"),
        (["phc2sys", "-a", "-r"], "phc2sys, process 77"),
        (["/bin/busybox", "ntpd", "-n"], "ntpd, process 77"),
        (["ntpd: ntp engine"], "ntpd, process 77"),
        (["/opt/tsq/bin/tsqd"], "tsqd, process 77"),
        (["/opt/tsq/bin/python3.11", "/opt/tsq/bin/tsqd", "--config", "/etc/tsq/tsqd.toml"], "tsqd, process 77"),
        (["python3", "-I", "-X", "utf8", "/usr/bin/tsqd"], "tsqd, process 77"),
        (["python3", "-u", "-m", "tsq.cli.daemon"], "tsqd, process 77"),
        (["python", "-m", "tsq", "daemon", "--config", "x"], "tsqd, process 77"),
        (["python3", "-c", "tsqd"], None),
        (["python3", "-X", "tsqd"], None),
        (["python3", "-m"], None),
        (["python3", "edit", "tsqd"], None),
        (["python3", "/usr/bin/tsq-client", "tsqd"], None),
        (["/bin/busybox"], None),
        (["/usr/bin/python3", "chronyd.py"], None),
        (["tsq-server"], None),
        ([""], None),
        ([], None),
    ],
)
def test_programs_that_keep_a_clock(tmp_path, nobody, arguments, found):
    process(tmp_path, 1, "/sbin/init")
    process(tmp_path, 77, *arguments)
    (tmp_path / "self").mkdir()
    (tmp_path / "99").mkdir()
    assert clock_owner(tmp_path, nobody) == found


@pytest.mark.parametrize(
    ("options", "owns"),
    [
        (["-x"], False), (["-dx"], False), (["-d", "-x", "-f", "file"], False), (["-xf", "file"], False), (["-Q"], False),
        (["-f", "x"], True), (["-fx"], True), (["-u", "-x"], True), (["-q"], True), (["-d"], True), (["--no-such"], True),
    ],
)
def test_a_chronyd_that_leaves_the_clock_alone_owns_none(tmp_path, nobody, options, owns):
    process(tmp_path, 5, "/usr/sbin/chronyd", *options)
    assert (clock_owner(tmp_path, nobody) is not None) is owns


@pytest.mark.parametrize(
    ("options", "capabilities", "owns"),
    [
        ([], SYS_TIME, True), ([], ALL, True), ([], None, True), ([], 0, False), ([], ALL & ~SYS_TIME, False),
        (["--config=x", "--check-config"], ALL, False), (["--replay", "file"], ALL, False), (["--replay=file"], ALL, False),
        (["--config", "x"], ALL, True),
    ],
)
def test_a_tsqd_that_may_not_set_the_clock_or_only_reads_files_owns_none(tmp_path, nobody, options, capabilities, owns):
    process(tmp_path, 5, "/usr/bin/python3", "/usr/bin/tsqd", *options, capabilities=capabilities)
    assert (clock_owner(tmp_path, nobody) == "tsqd, process 5") is owns


def test_a_process_is_not_its_own_rival(tmp_path, nobody):
    process(tmp_path, os.getpid(), "tsqd", capabilities=ALL)
    assert clock_owner(tmp_path, nobody) is None


@pytest.mark.parametrize("name", ["chronyd", "ntpd", "ntp-daemon", "/lib/systemd/systemd-timesyncd", "phc2sys", "tsqd"])
def test_a_daemon_that_steers_is_refused_beside_any_other(tmp_path, nobody, name):
    process(tmp_path, 7, name)
    twin = VirtualKernel()
    clock = SystemClock(twin)
    with (
        pytest.raises(AlreadyRunning, match=r"another program keeps this clock \(.*, process 7\): stop it, or set mode"),
        kept_alone(clock, lambda: clock_owner(tmp_path, nobody)),
    ):
        pytest.fail("two keep the clock")
    assert twin.running is None, "the lock is free again"


def test_a_daemon_alone_holds_the_lock_while_it_runs_and_looks_for_others_after_it_took_the_lock(tmp_path, nobody):
    twin = VirtualKernel()
    held_then = []
    process(tmp_path, 7, "tsqd", capabilities=0)

    def owner() -> str | None:
        held_then.append(twin.running)
        return clock_owner(tmp_path, nobody)

    with kept_alone(SystemClock(twin), owner) as warning:
        assert (warning, twin.running, twin.daemon) == ("", 1, True)
        with pytest.raises(AlreadyRunning, match="tsqd keeps this clock"), SystemClock(twin).alone():
            pytest.fail("two set the clock")
    assert held_then == [1]
    assert twin.running is None


@pytest.mark.parametrize(
    ("arguments", "capabilities", "sets"),
    [
        (["python3", "/usr/bin/tsq-adjtime", "time.example.com"], ALL, True), (["/usr/bin/tsq-adjtime", "a"], SYS_TIME, True),
        (["python3", "-m", "tsq", "adjtime", "a"], ALL, True), (["python3", "-m", "tsq.cli.adjtime", "a"], None, True),
        (["/usr/bin/tsq-adjtime", "--dry-run", "a"], ALL, False), (["/usr/bin/tsq-adjtime", "a"], 0, False),
        (["tsq-client", "tsq-adjtime"], ALL, False),
    ],
)
def test_a_daemon_is_refused_beside_another_users_tsq_adjtime(tmp_path, nobody, arguments, capabilities, sets):
    process(tmp_path, 8, *arguments, capabilities=capabilities)
    twin = VirtualKernel()
    alone = kept_alone(SystemClock(twin), lambda: clock_owner(tmp_path, nobody), lambda: setter_running(tmp_path))
    if sets:
        with pytest.raises(AlreadyRunning, match=r"a tsq-adjtime sets this clock \(process 8\): wait until it has ended"), alone:
            pytest.fail("two set the clock")
    else:
        with alone as warning:
            assert warning == ""
    assert twin.running is None


def test_a_daemon_that_cannot_see_the_processes_does_not_begin(tmp_path, nobody):
    with pytest.raises(ClockError, match="cannot be read"), kept_alone(
        SystemClock(VirtualKernel()), lambda: clock_owner(tmp_path / "no", nobody)
    ):
        pytest.fail("it begins")


def test_the_first_owner_is_named_also_after_a_chronyd_that_leaves_the_clock_alone(tmp_path, nobody):
    process(tmp_path, 5, "chronyd", "-x")
    process(tmp_path, 6, "ntpd")
    assert clock_owner(tmp_path, nobody) == "ntpd, process 6"


@needs_chronyd
def test_a_real_chronyd_with_x_owns_nothing_and_one_whose_process_is_hidden_does(tmp_path):
    with Chronyd(tmp_path / "chrony", "local stratum 8") as running:
        table = tmp_path / "table"
        process(table, running.pid, *Path(f"/proc/{running.pid}/cmdline").read_bytes().decode().split("\0")[:-1])
        assert clock_owner(table, running.command) is None
        empty = tmp_path / "empty"
        empty.mkdir()
        found = clock_owner(empty, running.command)
    assert found.startswith("chronyd, which answers at 127.0.0.1 port")


def test_without_a_readable_process_table_there_is_no_owner(tmp_path, nobody):
    with pytest.raises(ClockError, match="whether a clock daemon runs is unknown"):
        clock_owner(tmp_path / "no", nobody)


def test_the_real_process_table_can_be_read(nobody):
    # With any programs on this machine, this must not fail, and must not name a program that does not run.
    found = clock_owner(Path("/proc"), nobody)
    assert found is None or ", process " in found
