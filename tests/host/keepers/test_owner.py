"""Who keeps the clock: names and options in a process table, and a real chronyd that leaves it alone."""

from pathlib import Path

import pytest

from tests.support.chronyd import Chronyd, free_port, needs_chronyd
from tsq.errors import ClockError
from tsq.host.keepers.owner import clock_owner


@pytest.fixture
def nobody() -> tuple[str, int]:
    """Where no chronyd answers."""
    return "127.0.0.1", free_port()


def process(table: Path, pid: int, *arguments: str) -> None:
    (table / str(pid)).mkdir(parents=True)
    (table / str(pid) / "cmdline").write_bytes(b"".join(argument.encode() + b"\0" for argument in arguments))


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
