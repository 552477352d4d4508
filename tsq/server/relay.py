"""Newcomers' datagrams from a worker of the old generation to one of the new, by a pair of sockets.

Comes in: datagrams, with the number of their address. Goes out: the same, in their order, with their receive times. It must never
block, keep a datagram for longer than its client waits before it sends it again, or fail because the other worker is gone.
"""

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable

from tsq.counters import Counters
from tsq.quic.udp import Datagram, NetworkPath

# The number of the address, whether the kernel stamped the datagram, its time, sizes of its addresses; then these, and the data.
_HEAD = struct.Struct("!B?qBB")
_LARGEST = 4096
_BUFFER = 1 << 20
_AT_ONCE = 64
# What does not fit the socket at once. Without CAP_NET_ADMIN the kernel gives it room for some 180 datagrams: a flood brings as
# many in a few hundredths of a second.
_MOST_WAITING = 2048
_LONGEST_WAIT = 0.5


class Giver:
    """The old worker's end."""

    def __init__(self, end: socket.socket, counters: Counters) -> None:
        end.setblocking(False)
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self._end = end
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        # (when it came, what to send); the oldest first.
        self._waiting: deque[tuple[float, bytes]] = deque()

    def give(self, number: int, datagram: Datagram) -> None:
        """Pass a datagram on, now or soon. number: of the address that it was sent to."""
        remote, local = datagram.path.remote, datagram.path.local
        head = _HEAD.pack(number, datagram.kernel, datagram.received_ns, len(remote), len(local))
        if len(self._waiting) == _MOST_WAITING:
            self._drop()
        self._waiting.append((self._loop.time(), head + remote + local + datagram.data))
        if len(self._waiting) == 1 and self._send():
            self._loop.add_writer(self._end, self._writable)

    def close(self) -> None:
        """Give nothing any more."""
        self._loop.remove_writer(self._end)
        self._end.close()

    def _writable(self) -> None:
        if not self._send():
            self._loop.remove_writer(self._end)

    def _send(self) -> bool:
        """Send what fits the socket; whether more waits."""
        while self._waiting:
            since, data = self._waiting[0]
            if since < self._loop.time() - _LONGEST_WAIT:
                self._drop()
                continue
            try:
                self._end.send(data)
            except (BlockingIOError, InterruptedError):
                return True
            except OSError:
                # The other worker is gone.
                self._drop()
                continue
            self._waiting.popleft()
            self._counters.add("passed to the new generation")
        return False

    def _drop(self) -> None:
        """Drop the oldest one that waits. Its client sends it again."""
        self._waiting.popleft()
        self._counters.add("dropped", "newcomer that could not be passed to the new generation")


class Taker:
    """The new worker's end. take: called with the number of the address, and the datagram."""

    def __init__(self, end: socket.socket, take: Callable[[int, Datagram], None]) -> None:
        end.setblocking(False)
        self._end = end
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(end, self._readable)

    def close(self) -> None:
        """Take nothing any more."""
        self._loop.remove_reader(self._end)
        self._end.close()

    def _readable(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                data = self._end.recv(_LARGEST)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            if len(data) < _HEAD.size:
                # The old worker has ended.
                self._loop.remove_reader(self._end)
                return
            number, kernel, received_ns, remote, local = _HEAD.unpack_from(data)
            first, second = _HEAD.size + remote, _HEAD.size + remote + local
            path = NetworkPath(data[_HEAD.size : first], data[first:second])
            self._take(number, Datagram(data[second:], path, received_ns, kernel))
