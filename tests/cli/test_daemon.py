"""tsqd as a real process: its command line, its configuration, and what tsqctl and tsq-wait-sync say of it while it observes."""

import json
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import ServerProcess
from tsq.cli import daemon as program
from tsq.quic.selfsigned import CertificateFiles


def start(command: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "tsq", command, *map(str, arguments)]


def run(command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(start(command, *arguments), capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def configuration(tmp_path: Path, server_process: ServerProcess, certificates: CertificateFiles) -> Path:
    """A daemon that observes, with one source and its files in a directory of its own."""
    path = tmp_path / "tsqd.toml"
    path.write_text(
        f'[clock]\nmode = "observe"\ndrift_file = "{tmp_path}/drift.json"\n'
        f'[control]\nsocket = "{tmp_path}/control"\n[feed]\nsegment = ""\n'
        f'[[source]]\nhost = "{server_process.target}"\nca = "{certificates.authority}"\nminpoll = 0\nmaxpoll = 1\n'
    )
    return path


@contextmanager
def daemon(configuration: Path) -> Iterator[subprocess.Popen[str]]:
    """tsqd until the end of the `with`; it ends well."""
    process = subprocess.Popen(start("daemon", "--config", configuration), stderr=subprocess.PIPE, text=True)
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors, errors
    finally:
        process.kill()
        process.communicate()


# ---------------------------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mode", "stear"], "argument --mode: invalid choice: 'stear' (choose from "),
        (["--check-config", "--replay", "x"], "argument --replay: not allowed with argument --check-config"),
        (["--confg", "x"], "unknown option --confg: did you mean --config?"),
        (["tsqd.toml"], "unrecognized arguments: tsqd.toml"),
        (["--config", "/absent/tsqd.toml"], ""),
        (["--config", "/absent/tsqd.toml", "--check-config"], ""),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, words):
    done = run("daemon", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"tsqd: error: {words}")
    assert done.stderr.count("\n") == 1


def test_a_right_configuration_is_printed_whole(configuration):
    done = run("daemon", "--config", configuration, "--check-config")
    assert (done.returncode, done.stderr) == (0, "")
    assert 'mode = "observe"' in done.stdout
    assert "minpoll = 0" in done.stdout
    again = configuration.with_name("again.toml")
    again.write_text(done.stdout)
    # The comments say where each value is from: these differ.
    assert tomllib.loads(run("daemon", "--config", again, "--check-config").stdout) == tomllib.loads(done.stdout)


def test_the_command_line_says_the_mode_in_place_of_the_configuration(configuration):
    done = run("daemon", "--config", configuration, "--check-config", "--mode", "steer")
    assert 'mode = "steer"' in done.stdout


@pytest.mark.parametrize("options", [[], ["--check-config"]])
def test_each_mistake_of_a_configuration_is_one_line(configuration, options):
    with configuration.open("a") as file:
        file.write("maxpol = 3\n[control]\n")
    done = run("daemon", "--config", configuration, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert all(line.startswith("tsqd: error: ") for line in done.stderr.splitlines())
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------------------ while it observes


def test_what_the_daemon_knows_is_what_tsqctl_shows(configuration):
    path = configuration.with_name("control")

    def tsqctl(*arguments: object) -> subprocess.CompletedProcess[str]:
        return run("control", "--socket", path, *arguments)

    assert run("wait-sync", "--socket", path, "--timeout", "0").returncode == 1, "it does not run yet"
    with daemon(configuration) as process:
        ready = run("wait-sync", "--socket", path, "--timeout", "30", "--max-error", "0.05")
        assert ready.returncode == 0, ready.stderr
        tracking = json.loads(tsqctl("tracking", "--json").stdout)
        assert (tracking["mode"], tracking["status"]) == ("observe", "synchronized")
        assert abs(tracking["offset"]) <= tracking["bound"] < 0.05
        lines = dict(line.split(":", 1) for line in tsqctl("tracking").stdout.splitlines())
        assert lines["Reference ID    "].startswith(" 7F000001 (127.0.0.1:")
        assert lines["Status          "] == " synchronized"
        (row,) = [line for line in tsqctl("sources").stdout.splitlines() if line.startswith("^")]
        assert row.startswith("^* 127.0.0.1:")

        assert tsqctl("offline").returncode == 0
        assert tsqctl("activity").stdout.startswith("0 sources online\n1 sources offline\n")
        assert tsqctl("online", row.split()[1]).returncode == 0
        assert json.loads(tsqctl("activity", "--json").stdout)["online"] == 1
        before = json.loads(tsqctl("sources", "--json").stdout)["sources"][0]["polls"]
        assert tsqctl("burst", "--count", 4).returncode == 0
        assert json.loads(tsqctl("sources", "--json").stdout)["sources"][0]["polls"] >= before

        step = tsqctl("makestep")
        assert (step.returncode, step.stdout) == (1, "")
        assert "does not steer this clock (mode observe)" in step.stderr
        assert tsqctl("unfreeze").stdout == "the clock was not frozen\n"
        assert '"tracking"' in tsqctl("dump").stdout
        assert "tsq_" in tsqctl("metrics").stdout

        text = configuration.read_text()
        configuration.write_text(text + "maxpol = 3\n")
        wrong = tsqctl("reload")
        assert (wrong.returncode, wrong.stdout) == (1, "")
        assert "maxpol" in wrong.stderr
        configuration.write_text(text.replace("maxpoll = 1", "maxpoll = 2"))
        assert tsqctl("reload").returncode == 0

        second = run("daemon", "--config", configuration)
        assert second.returncode == 1, second.stderr
        assert "another daemon listens at" in second.stderr
        assert process.poll() is None
    assert not path.exists()
    assert tsqctl("tracking").returncode == 3


def test_a_socket_that_systemd_opened_is_the_control_socket(configuration):
    """As with a unit that has ListenStream=; the file stays when the daemon ends."""
    path = configuration.with_name("activated")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened:
        opened.bind(str(path))
        opened.listen()
        line = f"exec 3<&{opened.fileno()}; export LISTEN_PID=$$ LISTEN_FDS=1; " + 'exec "$@"'
        command = ["bash", "-c", line, "bash", *start("daemon", "--config", configuration)]
        process = subprocess.Popen(command, pass_fds=[opened.fileno()], stderr=subprocess.PIPE, text=True)
        try:
            assert run("wait-sync", "--socket", path, "--timeout", "30").returncode == 0
            assert run("control", "--socket", path, "reload").returncode == 0
            assert run("control", "--socket", path, "tracking").returncode == 0
            assert not configuration.with_name("control").exists()
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=30)
            assert process.returncode == 0, errors
            assert path.exists()
        finally:
            process.kill()
            process.communicate()


def test_the_socket_moves_with_a_reload(configuration):
    first, second = configuration.with_name("control"), configuration.with_name("moved")
    with daemon(configuration):
        assert run("wait-sync", "--socket", first, "--timeout", "30").returncode == 0
        configuration.write_text(configuration.read_text().replace(str(first), str(second)))
        moved = run("control", "--socket", first, "reload")
        assert moved.returncode == 0, moved.stderr
        assert run("control", "--socket", second, "tracking").returncode == 0
        assert run("control", "--socket", first, "tracking").returncode == 3
        assert not first.exists()


def test_a_user_who_cannot_load_python_is_told_what_to_do(configuration, monkeypatch, capsys):
    """Where a module can be read depends on the machine, so its loading fails here."""
    def fails(config, values):
        raise ModuleNotFoundError("No module named 'late'")

    monkeypatch.setattr(program, "_run", fails)
    assert program.main(["--config", str(configuration), "--user", "nobody"]) == 1
    assert "the user nobody cannot load all of TSQ or Python (No module named 'late'): install both" in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError):
        program.main(["--config", str(configuration)])


def test_fault_57_without_the_right_to_set_the_clock_it_steers_nothing_and_says_so(configuration):
    """No test has that right (tests/support/harmless.py). In the mode observe, as above, it needs none."""
    done = run("daemon", "--config", configuration, "--mode", "steer")
    assert done.returncode == 1
    assert "not permitted to set the clock (expected CAP_SYS_TIME" in done.stderr, done.stderr
    assert 'mode = "observe"' in done.stderr
    assert done.stderr.count("\n") == 1
