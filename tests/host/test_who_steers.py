"""Who may have moved the clock: a process table with daemons, programs that set clocks, and capabilities."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.host.keepers.test_owner import ALL, SYS_TIME, process
from tsq.host.processes import processes
from tsq.host.who_steers import who_steers


@pytest.fixture
def table(tmp_path) -> Path:
    process(tmp_path, 1, "/sbin/init", capabilities=ALL)
    process(tmp_path, 20, "/usr/bin/bash", capabilities=ALL)
    process(tmp_path, 21, "/usr/sbin/nginx", capabilities=0)
    return tmp_path


def test_nobody_is_likely_among_shells_and_unprivileged_processes(table):
    assert who_steers(table) == ""


def test_a_process_that_was_given_the_capability_on_purpose(table):
    process(table, 40, "/opt/clockd", "-v", capabilities=SYS_TIME | 1 << 10)
    assert who_steers(table) == "PID 40 (clockd)"


def test_a_program_that_sets_clocks_comes_before_it_and_a_daemon_before_both(table):
    process(table, 40, "/opt/clockd", capabilities=SYS_TIME)
    process(table, 41, "/usr/bin/vmtoolsd", capabilities=ALL)
    assert who_steers(table) == "PID 41 (vmtoolsd)"
    process(table, 42, "/usr/sbin/ntpd", capabilities=SYS_TIME)
    assert who_steers(table) == "PID 42 (ntpd)"


def test_of_several_the_youngest(table):
    for pid in (300, 50):
        process(table, pid, "/usr/bin/date", "-s", "now", capabilities=ALL)
    assert who_steers(table) == "PID 300 (date)"


def test_a_daemon_without_the_capability_does_not_steer(table):
    process(table, 42, "chronyd", "-x", capabilities=1 << 10)
    process(table, 43, "/usr/bin/python3", "/usr/bin/tsqd", capabilities=0)
    assert who_steers(table) == ""


def test_capabilities_that_cannot_be_read_leave_the_name(table):
    process(table, 42, "chronyd")
    process(table, 43, "something")
    (table / "43" / "status").write_text("CapEff:\n")
    process(table, 44, "other")
    (table / "44" / "status").write_text("CapEff:\tno number\n")
    assert who_steers(table) == "PID 42 (chronyd)"


def test_a_name_is_short_and_printable_whatever_a_process_calls_itself(table):
    process(table, 40, "/opt/\x1b[31mred\n" + "x" * 200, capabilities=SYS_TIME)
    found = who_steers(table)
    assert found.startswith("PID 40 (?[31mred?xxx")
    assert found.isprintable()
    assert len(found) < 80


def test_this_process_is_not_meant(table):
    process(table, os.getpid(), "chronyd", capabilities=SYS_TIME)
    assert who_steers(table) == ""


def test_without_a_process_table_there_is_no_answer(tmp_path):
    assert who_steers(tmp_path / "no") == ""


def test_a_real_process_is_read_with_its_script_and_capabilities():
    code = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        (found,) = [one for one in processes() if one.pid == child.pid]
        assert found.arguments[0] == sys.executable
        assert found.program == ""
        assert not found.capabilities >> 25 & 1, "no test may set the clock"
        child.stdin.close()
    # Whatever runs on this machine, this answers.
    assert who_steers() == "" or who_steers().startswith("PID ")
