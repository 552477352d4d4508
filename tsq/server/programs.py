"""The processes that make a server's workers (`worker_forks`), one for each generation.

Comes in: the command that starts one, messages to them. Goes out: their messages, and how they ended. It must never end one that
has workers: it sees that its link is closed, and ends by itself when its workers have.
"""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tsq.server.worker_forks import environment, how_it_ended
from tsq.server.worker_link import Link, Message

# Seconds, at the end of all, when there are no workers any more.
_END_LIMIT = 2


@dataclass(slots=True, eq=False)
class _Program:
    process: "subprocess.Popen[bytes]"
    link: Link


class Programs:
    """The processes, by their generations. received: called with the generation and the message, inside the event loop."""

    def __init__(self, command: Sequence[str], received: Callable[[int, Message], None]) -> None:
        self._command = list(command)
        self._received = received
        self._programs: dict[int, _Program] = {}
        # Without work, until they have ended.
        self._leaving: list[subprocess.Popen[bytes]] = []

    def load(self, generation: int) -> str:
        """Start the process of this generation; why that failed, empty where it did not."""
        link, other = Link.pair()
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment(other.fileno()),
                pass_fds=[other.fileno()],
            )
        except OSError as error:
            link.close()
            return f"{self._command[0]}: {error.strerror}"
        finally:
            other.close()
        program = _Program(process, link)
        self._programs[generation] = program
        asyncio.get_running_loop().add_reader(link.fileno(), self._read, generation, program)
        return ""

    def unload(self, generation: int) -> None:
        """Let it end when its workers have."""
        program = self._programs.pop(generation, None)
        if program is not None:
            asyncio.get_running_loop().remove_reader(program.link.fileno())
            program.link.close()
            self._leaving.append(program.process)

    def send(self, generation: int, message: Mapping[str, Any], fds: Sequence[int] = ()) -> bool:
        """Send to this generation's process; False where that is gone, or takes nothing at present."""
        program = self._programs.get(generation)
        return program is not None and program.link.send(message, fds)

    def reap(self) -> Iterator[tuple[int, str]]:
        """(generation, how it ended) of each process that ended by itself. To be called when a child process has ended."""
        self._leaving = [process for process in self._leaving if process.poll() is None]
        for generation, program in list(self._programs.items()):
            status = program.process.poll()
            if status is not None:
                del self._programs[generation]
                asyncio.get_running_loop().remove_reader(program.link.fileno())
                program.link.close()
                yield generation, f"ended with exit status {status}" if status >= 0 else how_it_ended(-status)

    def end(self) -> None:
        """End all of them; to be called when there are no workers any more."""
        for generation in list(self._programs):
            self.unload(generation)
        for process in self._leaving:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_LIMIT)
            if process.returncode is None:
                process.kill()
                process.wait()

    def _read(self, generation: int, program: _Program) -> None:
        received = program.link.receive()
        if received is None:
            # `reap` knows how it ended.
            asyncio.get_running_loop().remove_reader(program.link.fileno())
            return
        message, fds = received
        for fd in fds:
            os.close(fd)
        self._received(generation, message)
