"""What a service and systemd tell each other: sd_notify(3) and sd_listen_fds(3).

Comes in: the environment of a service, its state. Goes out: datagrams to the service manager; the sockets that it opened. It must
never fail or delay a program because of a notification: where nobody listens, nothing is sent.
"""

import contextlib
import os
import socket
import time
from collections.abc import Mapping

from tsq.errors import ConfigError

_FIRST_FD = 3
_MOST_FDS = 1024
_MOST_STATUS = 500


class Notifier:
    """Tells the service manager what this process does, if it asked to be told (Type=notify).

    watchdog_interval: seconds between two calls of `watchdog`, half of what the manager allows; None: it does not watch.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self._socket: socket.socket | None = None
        self._status = ""
        self.watchdog_interval = _watchdog(environment) if self._address is not None else None

    @property
    def listens(self) -> bool:
        """Whether somebody asked to be told."""
        return self._address is not None

    def ready(self, status: str = "") -> bool:
        """The service works, also after a reload. Returns whether that was sent, as all of these do."""
        return self._send("READY=1", *self._changed(status))

    def status(self, text: str) -> bool:
        """One line for `systemctl status`. The same again is not sent."""
        changed = self._changed(text)
        return self._send(*changed) if changed else False

    def watchdog(self) -> bool:
        """The service lives."""
        return self._send("WATCHDOG=1") if self.watchdog_interval is not None else False

    def reloading(self) -> bool:
        """The service reads its configuration; `ready` ends that."""
        return self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str = "") -> bool:
        """The service ends."""
        return self._send("STOPPING=1", *self._changed(status))

    def close(self) -> None:
        """Close the socket. Another notification opens it again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _changed(self, status: str) -> list[str]:
        # A line feed would begin another assignment.
        line = " ".join(status.split())[:_MOST_STATUS]
        if not line or line == self._status:
            return []
        self._status = line
        return [f"STATUS={line}"]

    def _send(self, *assignments: str) -> bool:
        if self._address is None:
            return False
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
            self._socket.sendto("\n".join(assignments).encode("utf-8", "replace"), self._address)
        except OSError:
            # The manager is gone, or its queue is full: a service goes on without it.
            return False
        return True


def _address(place: str) -> str | None:
    """The address of the manager's socket: a path, or an abstract name after "@"; None: no such address."""
    if place.startswith("@") and len(place) > 1:
        return "\0" + place[1:]
    return place if place.startswith("/") else None


def _watchdog(environment: Mapping[str, str]) -> float | None:
    """Half of WATCHDOG_USEC in seconds, if that is meant for this process."""
    allowed, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return None
    usec = int(allowed) if allowed.isascii() and allowed.isdecimal() and len(allowed) < 20 else 0
    return usec / 2e6 if usec else None


def listen_sockets(environment: Mapping[str, str] = os.environ) -> dict[str, list[socket.socket]]:
    """The sockets that the service manager opened for this process, by their names (FileDescriptorName=); call it once.

    A socket without a name is under "unknown", as systemd calls it. Raises ConfigError if one of them is not a socket.
    """
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return {}
    text = environment.get("LISTEN_FDS", "")
    count = int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else 0
    if not 0 < count <= _MOST_FDS:
        return {}
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, list[socket.socket]] = {}
    for number in range(count):
        fd = _FIRST_FD + number
        name = names[number] if number < len(names) and names[number] else "unknown"
        found.setdefault(name, []).append(_taken(fd, name, found))
    return found


def _taken(fd: int, name: str, others: Mapping[str, list[socket.socket]]) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
        taken = socket.socket(fileno=fd)
    except OSError as error:
        for sockets in others.values():
            for one in sockets:
                with contextlib.suppress(OSError):
                    one.close()
        raise ConfigError(
            f"descriptor {fd} ({name!r}), which the service manager passed, cannot be used: {error.strerror}", expected="a socket"
        ) from error
    taken.setblocking(False)
    return taken
