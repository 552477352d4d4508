"""Messages between the supervisor, the processes that make workers, and the workers: JSON and descriptors on a pair of sockets.

Comes in: a message, descriptors for the other end. Goes out: the same. It must never block, and never fail because the other end is
gone, slow, or of another version of the program: such a message is not sent, or is empty.
"""

import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

# What old supervisors and new workers must have in common: raised with each change that one of them would misunderstand.
PROTOCOL = 2
_MOST_BYTES = 1 << 17
_MOST_FDS = 250

Message = dict[str, Any]


class Link:
    """One end. fds: the descriptors that came with a message belong to its receiver."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end

    @classmethod
    def pair(cls) -> tuple["Link", socket.socket]:
        """(this process's end, the end to give away)."""
        mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(mine), other

    def fileno(self) -> int:
        """The descriptor, for polling."""
        return self._end.fileno()

    def send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> bool:
        """Send; False where the other end is gone, or takes nothing at present."""
        try:
            socket.send_fds(self._end, [json.dumps(message).encode()], list(fds))
        except OSError:
            return False
        return True

    def receive(self) -> tuple[Message, list[int]] | None:
        """The next message, empty where none is there or it is none of ours; None: the other end is gone."""
        try:
            data, fds, flags, _ = socket.recv_fds(self._end, _MOST_BYTES, _MOST_FDS)
        except (BlockingIOError, InterruptedError):
            return {}, []
        except OSError:
            return None
        for fd in fds:
            os.set_inheritable(fd, False)
        if not data:
            return None
        try:
            message = json.loads(data)
        except ValueError:
            message = None
        if flags & socket.MSG_TRUNC or not isinstance(message, dict):
            for fd in fds:
                os.close(fd)
            return {}, []
        return message, fds

    def close(self) -> None:
        """Close this end."""
        self._end.close()
