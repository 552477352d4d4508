"""A chronyd for tests: it never sets the clock (-x), and has its own configuration, ports and files."""

import getpass
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.support.harmless import holds
from tests.support.ports import free_port

PROGRAM = shutil.which("chronyd", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
needs_chronyd = pytest.mark.skipif(PROGRAM is None, reason="chronyd is not installed (Debian: apt-get install chrony)")


class Chronyd:
    """A chronyd until the end of the `with`, with these configuration lines. command: the address where it answers `tracking`."""

    def __init__(self, directory: Path, *lines: str, command_port: bool = True, unix_socket: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        # chronyd requires a directory of its own for its socket.
        directory.chmod(0o750)
        self.socket = directory / "chronyd.sock"
        self.command = ("127.0.0.1", free_port())
        self._directory = directory
        own = [
            f"user {getpass.getuser()}", f"pidfile {directory}/chronyd.pid", f"driftfile {directory}/drift",
            f"logdir {directory}", "port 0",
            f"bindcmdaddress {self.socket if unix_socket else '/'}",
            *(["bindcmdaddress 127.0.0.1", f"cmdport {self.command[1]}"] if command_port else ["cmdport 0"]),
        ]
        self._file = directory / "chrony.conf"
        self._file.write_text("\n".join([*own, *lines]) + "\n")

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> Self:
        assert not holds(), "this process could set the clock"
        messages = self._directory / "messages"
        with messages.open("wb") as output:
            self.process = subprocess.Popen([PROGRAM, "-x", "-U", "-d", "-f", self._file], stdout=output, stderr=output)
        end = time.monotonic() + 60
        while "Disabled control of system clock" not in messages.read_text():
            assert self.process.poll() is None, messages.read_text()
            assert time.monotonic() < end, messages.read_text()
            time.sleep(0.01)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(20)


def until(condition, seconds: float = 60.0):
    """The first true value of `condition`; for programs that TSQ does not control."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "the condition was not met in time"
        time.sleep(0.05)
    return value
