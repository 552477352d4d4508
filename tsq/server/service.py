"""A server as a service: reports to the service manager when it is ready, what it does, and that it lives.

Comes in: a server, the manager's notifier. Goes out: notifications (sd_notify(3)). It must never change what the server does.
"""

import asyncio

from tsq.host.systemd import Notifier
from tsq.server.driver import Server

# How often the status is compared with the last one, seconds.
_STATUS_INTERVAL = 5.0


class Service:
    """Reports from `begin` to `end`. Does nothing where no manager listens."""

    def __init__(self, server: Server, notifier: Notifier) -> None:
        self._server = server
        self._notifier = notifier
        self._interval = min(_STATUS_INTERVAL, notifier.watchdog_interval or _STATUS_INTERVAL)
        self._timer: asyncio.TimerHandle | None = None
        self._old_certificate = False

    def begin(self) -> None:
        """The server answers now."""
        if self._notifier.listens:
            self._notifier.ready(self._status())
            self._report()

    def reload(self) -> None:
        """Reload the server's certificate, and report that."""
        self._notifier.reloading()
        self._old_certificate = not self._server.reload()
        self._notifier.ready(self._status())

    def end(self) -> None:
        """The server begins to close."""
        if self._timer is not None:
            self._timer.cancel()
        self._notifier.stopping(f"closing {self._connections()}")
        self._notifier.close()

    def _report(self) -> None:
        """Called by the event loop that serves: where it stands still, the manager's watchdog ends the process."""
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._report)
        self._notifier.watchdog()
        self._notifier.status(self._status())

    def _status(self) -> str:
        clock = self._server.clock
        parts = [self._connections(), f"listening on {', '.join(map(str, self._server.addresses))}"]
        if clock is not None and not clock.synchronized:
            parts.append("the clock is not synchronized")
        if self._old_certificate:
            parts.append("the certificate was not reloaded, the old one stays")
        return "; ".join(parts)

    def _connections(self) -> str:
        count = self._server.connections
        return "1 connection" if count == 1 else f"{count} connections"
