"""Feeds chronyd (`refclock SOCK`) or ntpd-rs (`mode = "sock"`) through the datagram socket that it creates.

Comes in: each status. Goes out: one sample of 40 bytes for each update of the clock (docs/howto/feed-chrony.md has the layout).
It must never block, or send an offset of a clock that is not synchronized.
"""

import errno
import socket
import struct

from tsq.daemon.feeds.trouble import Trouble
from tsq.daemon.feeds.usable import is_usable
from tsq.discipline.status import Status

# Native order and alignment, as the struct of the programs that read it; ntpd-rs takes it in little-endian order.
_SAMPLE = struct.Struct("@qqdiiii")
_MAGIC = 0x534F434B
_NS_PER_S = 1_000_000_000
_ADVICE = {
    errno.ENOENT: "is chronyd running, with `refclock SOCK` and this path?",
    errno.ECONNREFUSED: "is chronyd running?",
    errno.EACCES: "only root may write to a socket that chronyd creates",
}


def encode(real_ns: int, offset: float, leap: int) -> bytes:
    """A sample: at this time of the local clock, Unix ns, this offset (seconds) was to be added to it."""
    seconds, rest = divmod(real_ns, _NS_PER_S)
    # Microseconds: the offset is as true some ns earlier.
    return _SAMPLE.pack(seconds, rest // 1000, offset, 0, leap, 0, _MAGIC)


class SockFeed:
    """One socket. The path is looked up for each sample, so a restart of the reader needs nothing here."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._sent = 0
        self._trouble = Trouble(f"SOCK {path}")

    async def start(self) -> None:
        """Nothing to begin: the reader may start later."""

    def publish(self, status: Status) -> None:
        """Send a sample if the clock was updated since the last one that the reader got."""
        tracking = status.tracking
        if tracking.updates == self._sent or tracking.offset is None or not is_usable(tracking):
            return
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._socket.sendto(encode(tracking.real_ns, tracking.offset, tracking.leap), self._path)
        except OSError as error:
            # The next status has the present offset: it is sent then.
            self._trouble.failed(error, _ADVICE.get(error.errno or 0, ""))
            return
        self._trouble.over()
        self._sent = tracking.updates

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
