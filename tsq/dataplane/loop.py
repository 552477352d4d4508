"""An event loop that answers established connections where it waits, without a way through Python and back.

Comes in: sockets with their data planes. Goes out: the events that are left for asyncio. It is asyncio's own loop but for the call
that waits. It must never keep a timer or another socket waiting: whatever they have ends the wait.
"""

import asyncio
import select
import selectors

from tsq.dataplane.batches import DataPlane, wait

_NO_TIMEOUT = -1.0


class ServingSelector(selectors.EpollSelector):
    """An epoll selector that serves some of its sockets by itself."""

    def __init__(self) -> None:
        super().__init__()
        self._serving: dict[int, DataPlane] = {}

    def serve(self, fd: int, data_plane: DataPlane) -> None:
        """Serve this socket, which is registered for reading; its reader is called for what is not taken."""
        self._serving[fd] = data_plane

    def leave(self, fd: int) -> None:
        """Serve this socket no more."""
        self._serving.pop(fd, None)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As EpollSelector's."""
        ready = []
        keys = self.get_map()
        for fd, events in wait(self.fileno(), self._serving, _NO_TIMEOUT if timeout is None else max(timeout, 0.0)):
            key = keys.get(fd)
            if key is not None:
                # An error is for whoever is there, reader or writer.
                found = (events & ~select.EPOLLIN and selectors.EVENT_WRITE) | (events & ~select.EPOLLOUT and selectors.EVENT_READ)
                ready.append((key, found & key.events))
        return ready


class ServingLoop(asyncio.SelectorEventLoop):
    """asyncio's loop on a ServingSelector, to be given to asyncio.Runner as its loop_factory."""

    def __init__(self) -> None:
        self.serving = ServingSelector()
        super().__init__(self.serving)
