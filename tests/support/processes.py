"""TSQ's commands as real processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from tsq.options import Target, parse_target

BIN = Path(sys.executable).parent


class ServerProcess:
    """A tsq-server until the end of the `with`; its output is kept. claims: to be a reference (--local-stratum 1)."""

    def __init__(self, arguments: list[str | Path], *, claims: bool = True, **environment: str) -> None:
        workers = [] if "--workers" in arguments else ["--workers", "1"]
        self._command = [BIN / "tsq-server", *(["--local-stratum", "1"] if claims else []), *workers, *arguments]
        self._environment = {**os.environ, **environment}
        self.output = ""
        self.errors = ""
        self.targets: list[Target] = []

    @property
    def target(self) -> Target:
        return self.targets[0]

    @property
    def pid(self) -> int:
        return self.process.pid

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the process; its exit status. `output` and `errors` are complete then."""
        if self.process.returncode is None:
            self.process.send_signal(number)
            output, self.errors = self.process.communicate(timeout=60)
            self.output += output
        return self.process.returncode

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self._environment
        )
        wanted = max(1, self._command.count("--listen"))
        while len(self.targets) < wanted:
            line = self.process.stdout.readline()
            if not line:
                raise AssertionError(f"the server ended: {self.process.communicate(timeout=60)[1]}")
            self.output += line
            self.targets.append(parse_target(line.split()[3]))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def run_client(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run tsq-client with these arguments to its end."""
    return subprocess.run(
        [BIN / "tsq-client", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment},
    )
