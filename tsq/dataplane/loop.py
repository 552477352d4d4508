"""An event loop that serves established connections inside its wait call, without Python.

Comes in: sockets with their data planes. Goes out: all other events, for asyncio. It is asyncio's own loop, except for the wait
call. It must never delay a timer or another socket: their events end the wait.
"""

import asyncio
import select
import selectors

from tsq.dataplane.batches import DataPlane
from tsq.dataplane.waiting import wait

_NO_TIMEOUT = -1.0


class ServingSelector(selectors.EpollSelector):
    """An epoll selector that serves some of its sockets while it waits."""

    def __init__(self) -> None:
        super().__init__()
        self._serving: dict[int, DataPlane] = {}

    def serve(self, fd: int, data_plane: DataPlane) -> None:
        """Serve this socket, which is registered for reading; its reader is called for datagrams that are not taken."""
        self._serving[fd] = data_plane

    def leave(self, fd: int) -> None:
        """Stop serving this socket."""
        self._serving.pop(fd, None)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As EpollSelector's."""
        ready = []
        keys = self.get_map()
        for fd, events in wait(self.fileno(), self._serving, _NO_TIMEOUT if timeout is None else max(timeout, 0.0)):
            key = keys.get(fd)
            if key is not None:
                # An error is reported to the reader and to the writer.
                found = (events & ~select.EPOLLIN and selectors.EVENT_WRITE) | (events & ~select.EPOLLOUT and selectors.EVENT_READ)
                ready.append((key, found & key.events))
        return ready


class ServingLoop(asyncio.SelectorEventLoop):
    """asyncio's loop on a ServingSelector, to be given to asyncio.Runner as its loop_factory."""

    def __init__(self) -> None:
        self.serving = ServingSelector()
        super().__init__(self.serving)
