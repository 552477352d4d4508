"""Makes the workers of one generation: a process that has loaded the program, and copies itself for each of them.

Comes in: orders of the supervisor, each with a worker's sockets. Goes out: workers, and how they ended. All modules are loaded
before: workers share their memory, and start in milliseconds. It must never have a thread or an event loop, which a copy of the
process would not have, and never outlive the supervisor.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from tsq.server.worker_link import PROTOCOL, Link

_VARIABLE = "TSQ_WORKERS_LINK"
# What the service manager gave to the supervisor alone.
_OF_THE_MANAGER = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
# How long workers may take to close their connections when the supervisor is gone.
_PATIENCE = 10.0
_HELD_BACK = {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
_ENDING = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Order:
    """What one worker is to do. masters: secrets that all workers share; empty where they are from a file."""

    slot: int
    slots: int
    answered: frozenset[int]
    masters: tuple[bytes, ...]

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> "Order":
        """The order in a message of the supervisor's."""
        masters = tuple(bytes.fromhex(one) for one in message["masters"])
        return cls(int(message["slot"]), int(message["slots"]), frozenset(message["answered"]), masters)

    def message(self) -> dict[str, Any]:
        """The order as a message."""
        masters = [one.hex() for one in self.masters]
        return {"slot": self.slot, "slots": self.slots, "answered": sorted(self.answered), "masters": masters}


Work = Callable[[Order, Link, list[socket.socket]], int]


def environment(fd: int, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a process that makes workers. fd: its end of the link to the supervisor, which it inherits."""
    return {name: value for name, value in base.items() if name not in _OF_THE_MANAGER} | {_VARIABLE: str(fd)}


def inherited(variables: MutableMapping[str, str] = os.environ) -> Link | None:
    """The link to the supervisor, if this process is to make workers; call it once."""
    text = variables.pop(_VARIABLE, "")
    if not (text.isascii() and text.isdecimal()):
        return None
    try:
        end = socket.socket(fileno=int(text))
    except OSError:
        return None
    os.set_inheritable(end.fileno(), False)
    return Link(end)


class Forks:
    """The loop of such a process. work: what a worker does; its result is the worker's exit status."""

    def __init__(self, link: Link, version: str, work: Work) -> None:
        self._link = link
        self._version = version
        self._work = work
        self._workers: dict[int, int] = {}
        self._woken, self._wakes = socket.socketpair()

    def run(self) -> int:
        """Make workers until the supervisor is gone or wants no more; the exit status. In a worker, its own."""
        for one in (self._woken, self._wakes):
            one.setblocking(False)
        for number in _ENDING:
            # The supervisor decides, also where a terminal or a service manager signals all processes.
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        gc.collect()
        gc.freeze()
        self._link.send({"loaded": PROTOCOL, "version": self._version})
        poller = select.poll()
        poller.register(self._link.fileno(), select.POLLIN)
        poller.register(self._woken.fileno(), select.POLLIN)
        while True:
            poller.poll()
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(4096)
            self._reap()
            received = self._link.receive()
            if received is None:
                break
            message, fds = received
            if "start" in message:
                order = Order.of(message["start"])
                if self._fork(order, fds):
                    return self._become(order, fds)
        return self._end()

    def _fork(self, order: Order, fds: Sequence[int]) -> bool:
        """Copy this process; whether this is the copy. fds: the worker's link, and its sockets."""
        try:
            pid = os.fork()
        except OSError as error:
            self._link.send({"unmade": order.slot, "why": error.strerror})
        else:
            if pid == 0:
                return True
            self._workers[pid] = order.slot
            self._link.send({"made": order.slot, "pid": pid})
        for fd in fds:
            os.close(fd)
        return False

    def _become(self, order: Order, fds: Sequence[int]) -> int:
        """Be the worker; its exit status."""
        signal.set_wakeup_fd(-1)
        self._close()
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        for number in _HELD_BACK:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
        _rename(f"tsq-worker-{order.slot}")
        link, *sockets = [socket.socket(fileno=fd) for fd in fds]
        return self._work(order, Link(link), sockets)

    def _reap(self) -> None:
        """Report the workers that have ended."""
        while self._workers:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            slot = self._workers.pop(pid, None)
            if slot is not None:
                self._link.send({"ended": slot, "pid": pid, "why": how_it_ended(status)})

    def _end(self) -> int:
        """Wait for the workers, which have seen that the supervisor is gone, or serve on until the supervisor ends them."""
        deadline = time.monotonic() + _PATIENCE
        poller = select.poll()
        poller.register(self._woken.fileno(), select.POLLIN)
        while self._workers and time.monotonic() < deadline:
            poller.poll(1000 * _PATIENCE)
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(4096)
            self._reap()
        for pid in self._workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        self._close()
        return 0

    def _close(self) -> None:
        for one in (self._link, self._woken, self._wakes):
            one.close()


def how_it_ended(status: int) -> str:
    """What waitpid(2) reported, as words after a process's name."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended with exit status {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _rename(name: str) -> None:
    """The name that ps(1) and top(1) show; a convenience."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(name[:15])
