"""tsqctl as a real process against the real control server: output, exit statuses, --watch, what it loads."""

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.report.test_control import SOURCES_TEXT, STATS_TEXT, TRACKING_TEXT
from tests.support.control import SOURCES, STATUS, ControlThread, Handler
from tests.support.false_daemon import FalseDaemon
from tests.support.tries import in_one_of_some
from tsq.cli import control as command
from tsq.daemon import control_protocol as protocol
from tsq.daemon.control_protocol import Problem
from tsq.discipline.events import Burst, MakeStepNow, SetOnline, Unfreeze
from tsq.discipline.status import Status
from tsq.errors import ConfigError

TSQCTL = [sys.executable, "-m", "tsq", "control"]


@pytest.fixture
def served(tmp_path) -> Iterator[ControlThread]:
    with ControlThread(tmp_path / "control") as running:
        yield running


def run(served: ControlThread | FalseDaemon | str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = served if isinstance(served, str) else served.path
    return subprocess.run(
        [*TSQCTL, "--socket", path, *arguments],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def outcome(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return done.returncode, done.stdout, done.stderr


# ---------------------------------------------------------------------------------------------------------------- output


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tracking", TRACKING_TEXT), ("sources", SOURCES_TEXT), ("sourcestats", STATS_TEXT), ("metrics", "tsq_up 1"),
        ("dump", '{"samples": []}'),
    ],
)  # fmt: skip
def test_a_table_is_printed(served, name, text):
    assert outcome(run(served, name)) == (0, text + "\n", "")


def test_the_activity_is_printed(served):
    assert run(served, "activity").stdout.startswith("2 sources online\n1 sources offline\n")


@pytest.mark.parametrize("name", ["sources", "sourcestats"])
@pytest.mark.parametrize("option", ["-v", "--verbose"])
def test_the_columns_are_explained_on_request(served, name, option):
    assert ".- " in run(served, name, option).stdout
    assert ".- " not in run(served, name).stdout


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}])
@pytest.mark.parametrize("name", ["tracking", "sources"])
def test_an_encoding_without_a_sign_fails_nothing(served, environment, name):
    served.handler.change(reference="zeit-µ.example")
    served.handler.given = replace(served.handler.given, sources=(replace(SOURCES[0], name="zeit-µ.example"),))
    done = run(served, name, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "zeit-u.example" in done.stdout


def test_json_is_what_the_daemon_knows(served):
    tracking = json.loads(run(served, "tracking", "--json").stdout)
    assert tracking["bound"] == STATUS.tracking.bound
    for name in ("sources", "sourcestats"):
        both = json.loads(run(served, "--json", name).stdout)
        assert both["tracking"] == tracking
        assert [source["mark"] for source in both["sources"]] == ["*", "x", "?"]
    assert json.loads(run(served, "activity", "--json").stdout) == {
        "online": 2, "offline": 1, "unknown_address": 1, "answering": 2, "used": 1,
    }  # fmt: skip
    for name, text in (("metrics", "tsq_up 1"), ("dump", '{"samples": []}'), ("reload", "nothing changed")):
        assert json.loads(run(served, name, "--json").stdout) == {"text": text}
    assert json.loads(run(served, "waitsync", "--json").stdout) == {
        "synchronized": True, "text": "synchronized, bound 0.000123457 s", "tracking": tracking,
    }  # fmt: skip


def test_text_from_the_daemon_cannot_write_to_a_terminal(served):
    served.handler.text = "a\x1b[2Jb\nc\n"
    assert run(served, "metrics").stdout == "a\\x1b[2Jb\nc\n"


@pytest.mark.parametrize(
    ("arguments", "events"),
    [
        (["burst"], [Burst("", 4)]),
        (["burst", "--count", "8", SOURCES[0].name, SOURCES[1].name], [Burst(SOURCES[0].name, 8), Burst(SOURCES[1].name, 8)]),
        (["--count", "8", "burst", SOURCES[0].name], [Burst(SOURCES[0].name, 8)]),
        (["online"], [SetOnline(True)]),
        (["offline", SOURCES[1].name, "--json"], [SetOnline(False, SOURCES[1].name)]),
        (["makestep"], [MakeStepNow()]),
        (["unfreeze"], [Unfreeze()]),
    ],
)
def test_a_command_changes_what_it_says(served, arguments, events):
    done = run(served, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
    assert served.handler.events == events


# ---------------------------------------------------------------------------------------------------------------- errors


def test_without_a_daemon_the_socket_is_named_with_what_to_do(tmp_path):
    path = f"{tmp_path}/control"
    advice = "start tsqd, or name its socket with --socket ([control] socket)"
    assert outcome(run(path, "tracking")) == (3, "", f"tsqctl: no daemon: there is no socket {path}: {advice}\n")


def test_a_user_who_may_not_learns_who_may(tmp_path):
    text = "user 1000 may not give the command makestep (expected root, or a member of the group time)"
    with FalseDaemon(tmp_path / "control", [protocol.refusal("1", Problem.PERMISSION, text)]) as daemon:
        assert outcome(run(daemon, "makestep")) == (4, "", f"tsqctl: {text}\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a program as another user")
def test_another_user_may_read_and_may_not_change():
    """The whole command, which becomes another user when all of it is loaded: files may be closed to that one."""
    code = (
        "import os, sys\nfrom tsq.cli import control\ncontrol.main(['--socket', sys.argv[2], 'tracking', '--json'])\n"
        "os.setgroups([])\nos.setgid(65533)\nos.setuid(65533)\nsys.exit(control.main(sys.argv[1:]))"
    )
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        with ControlThread(Path(directory, "control")) as served:
            for arguments, status, output in ((["tracking"], 0, TRACKING_TEXT + "\n"), (["makestep"], 4, "")):
                line = [sys.executable, "-c", code, "--socket", served.path, *arguments]
                done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
                assert (done.returncode, done.stdout.partition("\n}\n")[2]) == (status, output), done.stderr
            assert done.stderr.startswith("tsqctl: user 65533 may not give the command makestep (expected root): to let a group")
            assert served.handler.events == []


def test_a_refusal_is_printed_and_is_a_failure(served):
    served.handler.reloads.append(ConfigError("tsqd.toml:3: minpol", expected="minpoll"))
    assert outcome(run(served, "reload")) == (1, "", "tsqctl: tsqd.toml:3: minpol (expected minpoll)\n")
    served.handler.reloads.append(ConfigError("tsqd.toml:3: minpol\ntsqd.toml:4: \x1b[2J"))
    assert outcome(run(served, "reload")) == (1, "", "tsqctl: tsqd.toml:3: minpol\ntsqctl: tsqd.toml:4: \\x1b[2J\n")


def test_the_first_source_that_does_not_exist_ends_it(served):
    done = run(served, "offline", "x", SOURCES[0].name)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("tsqctl: no source 'x' (expected time-a.example:443, ")
    assert served.handler.events == []


@pytest.mark.parametrize("reply", [b"", b"x\n", b'{"version": 9, "ok": true}\n'])
def test_another_program_at_the_socket_is_a_failure_in_one_line(tmp_path, reply):
    with FalseDaemon(tmp_path / "control", [reply]) as daemon:
        done = run(daemon, "sources")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"tsqctl: .+\n", done.stderr)


def test_a_daemon_that_is_stopped_is_not_waited_for_for_ever(tmp_path):
    with FalseDaemon(tmp_path / "control", [None]) as daemon:
        done = run(daemon, "tracking", "--timeout", "0.05")
    assert (done.returncode, done.stdout) == (3, "")
    assert "in time: the daemon is stopped or overloaded" in done.stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "no command (expected tracking, sources, "),
        ("trackin", "argument COMMAND: unknown command 'trackin': did you mean tracking?"),
        ("xyz", "argument COMMAND: unknown command 'xyz' (expected tracking, "),
        ("tracking --wach", "unknown option --wach: did you mean --watch?"),
        ("tracking time-a", "tracking 'time-a' (expected tracking without a name)"),
        ("burst --watch", "--watch together with burst (expected it with tracking or sources)"),
        ("sourcestats --watch", "--watch together with sourcestats "),
        ("tracking --count 3", "--count together with tracking (expected it with burst)"),
        ("tracking -v", "-v together with tracking (expected it with sources or sourcestats)"),
        ("tracking --max-error 1", "--max-error together with tracking (expected it with waitsync)"),
        ("burst --count 0", "--count 0 (expected 1 to 32)"),
        ("burst --count x", "argument --count: 'x' (expected a whole number, such as 3)"),
        ("waitsync --max-error -1", "argument --max-error: '-1' (expected seconds, 0 or more)"),
        ("waitsync --timeout nan", "argument --timeout: 'nan' (expected seconds, 0 or more)"),
        ("tracking --watch --interval 0.1", "--interval 0.1 (expected 0.2 seconds or more)"),
    ],
)
def test_a_wrong_command_line_is_one_line(capsys, line, words):
    with pytest.raises(SystemExit) as end:
        command.main(line.split())
    assert end.value.code == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith(f"tsqctl: error: {words}")
    assert found.err.count("\n") == 1


def test_a_socket_that_cannot_be_one_is_a_failure_in_one_line(capsys):
    assert command.main(["--socket", "x" * 200, "tracking"]) == 1
    assert re.fullmatch(r"tsqctl: control socket 'x+' \(expected a path of 1 to 107 bytes\)\n", capsys.readouterr().err)


def test_a_full_disk_is_told_in_one_line(served):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*TSQCTL, "--socket", served.path, "tracking"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (1, f"tsqctl: standard output cannot be written: {os.strerror(28)}\n")


# -------------------------------------------------------------------------------------------------------------- waitsync


def test_waitsync_prints_each_try_and_ends_when_the_clock_is_right(served):
    done = run(served, "waitsync")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "try: 1, refid: C0000201, correction: 0.000000123, skew: 0.012, status: synchronized, bound: 0.000123457\n"
    )


def test_waitsync_that_is_not_right_in_time_is_a_failure(served, tmp_path):

    def shown() -> str:
        done = run(served, "waitsync", "--max-error", "0.0001", "--timeout", "0")
        assert (done.returncode, done.stderr) == (1, "")
        return done.stdout

    # It waits for a moment only.
    assert in_one_of_some(lambda: shown().startswith("try: 1, refid: C0000201, "))
    absent = run(f"{tmp_path}/absent", "waitsync", "--timeout", "0")
    assert (absent.returncode, absent.stderr) == (1, "")
    assert absent.stdout.startswith("try: 1, no daemon: there is no socket ")


# ----------------------------------------------------------------------------------------------------------------- watch


@contextlib.contextmanager
def watching(served: ControlThread, *arguments: str, terminal: bool, size: tuple[int, int] = (24, 80)):
    """(process, descriptor of its output) of a --watch."""
    if terminal:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    else:
        ours, theirs = os.pipe()
    process = subprocess.Popen(
        [*TSQCTL, "--socket", served.path, "--watch", "--interval", "0.2", *arguments],
        stdout=theirs, stderr=subprocess.PIPE, text=True, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.communicate(timeout=20)
        os.close(ours)


def until(descriptor: int, text: str, seen: str = "") -> str:
    """What is written, until there is this text after what was seen."""
    found = seen
    while text not in found[len(seen) :]:
        part = os.read(descriptor, 65536)
        assert part, found
        found += part.decode().replace("\r\n", "\n")
    return found


@pytest.mark.parametrize("name", ["tracking", "sources"])
def test_a_live_view_is_redrawn_and_ctrl_c_ends_it_cleanly(served, name):
    with watching(served, name, terminal=True) as (process, output):
        seen = until(output, "Ctrl-C ends\n")
        first = seen.removesuffix("\nCtrl-C ends\n")
        assert first == {"tracking": TRACKING_TEXT, "sources": SOURCES_TEXT}[name]
        served.handler.given = Status(replace(STATUS.tracking, reference="time-z"), (replace(SOURCES[0], name="time-z"),))
        seen = until(output, "time-z", seen)
        lines = first.count("\n") + 2
        assert f"\033[{lines}A\033[J" in seen
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


def test_a_small_terminal_gets_what_fits(served):
    with watching(served, "tracking", terminal=True, size=(8, 40)) as (_, output):
        lines = until(output, "\033[").partition("\033[")[0].splitlines()
        assert lines == [line[:39] for line in TRACKING_TEXT.splitlines()[:7]]


def test_without_a_terminal_each_view_is_written_below_the_other(served):
    with watching(served, "tracking", terminal=False) as (process, output):
        assert until(output, "Foreign moves   : 0\n\nReference ID").startswith(f"{TRACKING_TEXT}\n\nReference ID")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_json_is_one_line_for_each_view(served):
    with watching(served, "tracking", "--json", terminal=False) as (_, output):
        lines = until(output, "\n{").splitlines()
        assert json.loads(lines[0])["reference"] == "time-a.example:443"


def test_a_watch_ends_with_its_reader(served):
    with watching(served, "tracking", terminal=False) as (process, output):
        until(output, "Reference ID")
        reader = os.dup(output)
        os.close(reader)
        # The only other end of the pipe.
        os.dup2(os.open(os.devnull, os.O_RDONLY), output)
        assert process.wait(20) == -signal.SIGPIPE
        assert process.stderr.read() == ""


def test_a_watch_goes_on_over_a_restart_of_the_daemon(served, tmp_path):
    with watching(served, "sources", "--json", terminal=False) as (_, output):
        seen = until(output, "time-a.example:443")
        served.close()
        seen = until(output, '{"error": "no daemon: ', seen)
        with ControlThread(tmp_path / "control", Handler(Status(STATUS.tracking, (replace(SOURCES[0], name="time-z"),)))):
            until(output, "time-z", seen)


def test_a_watch_without_a_daemon_ends_at_once(tmp_path):
    done = run(f"{tmp_path}/control", "--watch", "tracking")
    assert (done.returncode, done.stdout) == (3, "")


# ----------------------------------------------------------------------------------------------------------------- start


def test_it_starts_without_what_it_does_not_need():
    code = "import sys; from tsq.cli import start, control; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout.split()
    assert "tsq.daemon.control_client" in loaded
    heavy = {"asyncio", "aioquic", "ssl", "dataclasses", "importlib.metadata", "tsq.timing", "tsq.wire", "tsq.options", "logging"}
    assert not heavy & set(loaded)


@pytest.mark.parametrize("module", ["control", "wait_sync"])
def test_a_whole_run_loads_neither_event_loop_nor_quic(served, module):
    code = (
        "import sys\nfrom tsq.cli import start\nsys.argv = ['x', *sys.argv[1:]]\n"
        f"status = start.{module}()\nprint(*sorted(sys.modules))\nsys.exit(status)"
    )
    arguments = ["--socket", served.path, *(["sources"] if module == "control" else [])]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=True)
    loaded = done.stdout.splitlines()[-1].split()
    assert not {"asyncio", "aioquic", "aioquic.tls", "ssl"} & set(loaded)


@pytest.mark.parametrize("module", ["control", "wait-sync"])
def test_an_interrupt_ends_quietly(tmp_path, module):
    (tmp_path / "sitecustomize.py").write_text(
        "import argparse, os, signal\n"
        "def parse_known_args(*_):\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "argparse.ArgumentParser.parse_known_args = parse_known_args\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "tsq", module, "tracking"], env={"PYTHONPATH": f"{tmp_path}:{os.getcwd()}"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    name = {"control": "tsqctl", "wait-sync": "tsq-wait-sync"}[module]
    assert outcome(done) == (130, "", f"{name}: interrupted\n")
