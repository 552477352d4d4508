"""Two network namespaces joined by a veth pair, for benchmarks. They have no names, and end with the processes in them.

Comes in: nothing. Goes out: for each end an address and the command prefix that runs a program there. It must never touch the
network outside the two.
"""

import os
import subprocess
import time
from types import TracebackType
from typing import Self

from benchmarks.processes import Process

_SECONDS = 3600
_ADDRESSES = ("10.213.0.1", "10.213.0.2")


class Namespaces:
    """The two namespaces, until the end of the `with`."""

    addresses = _ADDRESSES

    def __init__(self) -> None:
        self._holders = [Process(["unshare", "--net", "sleep", str(_SECONDS)]) for _ in _ADDRESSES]

    def prefix(self, end: int) -> tuple[str, ...]:
        """The prefix of a command that runs at this end."""
        return ("nsenter", "--net", "--target", str(self._holders[end].pid), "--")

    def __enter__(self) -> Self:
        try:
            for holder in self._holders:
                holder.__enter__()
                self._wait(holder.pid)
            one, other = (str(holder.pid) for holder in self._holders)
            _run("ip", "link", "add", "tsq0", "netns", one, "type", "veth", "peer", "name", "tsq1", "netns", other)
            for end, address in enumerate(_ADDRESSES):
                here = self.prefix(end)
                _run(*here, "ip", "address", "add", f"{address}/24", "dev", f"tsq{end}")
                _run(*here, "ip", "link", "set", f"tsq{end}", "up")
                _run(*here, "ip", "link", "set", "lo", "up")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        for holder in self._holders:
            holder.stop()

    def _wait(self, pid: int) -> None:
        """Wait until the process is in its own namespace."""
        end = time.monotonic() + 5
        while os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino:
            if time.monotonic() > end:
                raise RuntimeError("no network namespace: this needs root")
            time.sleep(0.01)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=10)
