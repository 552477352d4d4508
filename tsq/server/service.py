"""A server as a service: reports to the service manager when it is ready, what it does, and that it lives.

Comes in: a server, the manager's notifier. Goes out: notifications (sd_notify(3)). It must never change what the server does.
"""

import asyncio
from collections.abc import Callable

from tsq.host.systemd import Notifier
from tsq.server.observed import Observed
from tsq.wording import counted

# How often the status is compared with the last one, seconds.
_STATUS_INTERVAL = 5.0
OLD_CERTIFICATE = "the certificate was not reloaded, the old one stays"


class Service:
    """Reports from `begin` to `end`. Does nothing where no manager listens. alive: whether all parts of the server do."""

    def __init__(self, server: Observed, notifier: Notifier, alive: Callable[[], bool] = lambda: True) -> None:
        self._server = server
        self._notifier = notifier
        self._alive = alive
        self._interval = min(_STATUS_INTERVAL, notifier.watchdog_interval or _STATUS_INTERVAL)
        self._timer: asyncio.TimerHandle | None = None
        self._trouble = ""

    def begin(self) -> None:
        """The server answers now."""
        if self._notifier.listens:
            self._notifier.ready(self._status())
            self._report()

    def reloading(self) -> None:
        """The server begins to take up something new; `reloaded` ends that."""
        self._notifier.reloading()

    def reloaded(self, trouble: str = "") -> None:
        """The server serves, with what is new unless there is trouble."""
        self._trouble = trouble
        self._notifier.ready(self._status())

    def reload(self, load: Callable[[], bool]) -> None:
        """Reload the server's certificate by this function, and report that."""
        self.reloading()
        self.reloaded("" if load() else OLD_CERTIFICATE)

    def end(self) -> None:
        """The server begins to close."""
        if self._timer is not None:
            self._timer.cancel()
        self._notifier.stopping(f"closing {self._connections()}")
        self._notifier.close()

    def _report(self) -> None:
        """Called by the event loop that serves: where it stands still, the manager's watchdog ends the process."""
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._report)
        if self._alive():
            self._notifier.watchdog()
        self._notifier.status(self._status())

    def _status(self) -> str:
        clock = self._server.clock
        parts = [self._connections(), f"listening on {', '.join(map(str, self._server.addresses))}"]
        if clock is not None and not clock.synchronized:
            parts.append("the clock is not synchronized")
        if self._server.draining:
            parts.append("draining")
        if self._server.secrets_stale:
            parts.append("the secrets were not reloaded, the old ones stay")
        if self._trouble:
            parts.append(self._trouble)
        return "; ".join(parts)

    def _connections(self) -> str:
        count = self._server.connections
        return counted(count, "connection")
