"""Where the commands begin, and what they write to: interrupts, encodings, full disks."""

import os
import subprocess

import pytest

from tests.support.processes import BIN, run_client

# In the place of a module that all three load: as if Ctrl-C came just then.
INTERRUPTS = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"


@pytest.mark.parametrize("command", ["tsq-client", "tsq-server", "tsq-adjtime"])
def test_an_interrupt_while_modules_are_loaded_ends_quietly(tmp_path, command):
    (tmp_path / "argparse.py").write_text(INTERRUPTS)
    run = subprocess.run(
        [BIN / command, "--help"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "interrupted before anything was done\n")


def test_a_terminal_without_the_signs_gets_others(server):
    run = run_client(server.target, "--ca", server.ca, PYTHONIOENCODING="ascii")
    assert (run.returncode, run.stderr) == (0, "")
    assert "System clock wrong by +0.0000" in run.stdout or "System clock wrong by -0.0000" in run.stdout
    assert "\\xb1" in run.stdout


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_full_disk_is_told_in_one_line(server, options):
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [BIN / "tsq-client", str(server.target), "--ca", server.ca, *options],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert run.stderr == f"tsq-client: standard output cannot be written: {os.strerror(28)}\n"
    assert run.returncode == 1
