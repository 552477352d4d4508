"""Where the commands begin: an interrupt while modules are loaded."""

import subprocess

import pytest

from tests.support.processes import BIN

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
