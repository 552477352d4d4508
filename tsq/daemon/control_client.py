"""Asks the daemon one thing over its control socket, blocking.

Comes in: a command, the socket's path, a time limit. Goes out: the result, or a ControlError that says what to do. It must never
wait longer than the limit, nor keep more of a reply than `control_protocol.MAX_REPLY`.
"""

import errno
import os
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

from tsq.daemon import control_protocol as protocol
from tsq.errors import ConfigError, ControlError, NoDaemon, NotAllowed

# A daemon answers within milliseconds; a reload reads files and looks up names.
PATIENCE_S = 10.0
# What system calls take.
_MOST_PATIENCE_S = 86400.0
_PART = 65536
# sockaddr_un, without the byte that ends the path.
MAX_PATH = 107
_TIMEVAL = struct.Struct("@ll")


def ask(path: str, command: str, arguments: Mapping[str, Any] | None = None, patience: float = PATIENCE_S) -> dict[str, Any]:
    """The result of one command. Raises NoDaemon, NotAllowed, or another ControlError."""
    patience = min(patience, _MOST_PATIENCE_S)
    end = time.monotonic() + patience
    with connected(path, patience) as stream:
        data = _exchanged(stream, protocol.request(command, arguments), path, end)
    if not data.endswith(b"\n"):
        what = "ended in the middle of a reply" if data else "closed the connection without a reply"
        raise ControlError(f"the daemon at {path} {what}", advice="try again; see its log if that happens again")
    try:
        return protocol.read_reply(data)
    except protocol.Refused as error:
        if error.problem is protocol.Problem.PERMISSION:
            raise NotAllowed(str(error)) from None
        raise


def connected(path: str, patience: float) -> socket.socket:
    """A stream to the daemon's socket."""
    if not path or "\0" in path or len(os.fsencode(path)) > MAX_PATH:
        raise ConfigError(f"control socket {path!r}", expected=f"a path of 1 to {MAX_PATH} bytes")
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # With a time-out of Python's, a full queue would be an error at once; the kernel waits for so long.
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(int(patience), int(patience % 1 * 1e6) or 1))
        stream.connect(path)
        stream.settimeout(patience)
    except OSError as error:
        stream.close()
        raise _unreachable(path, error) from None
    return stream


def _exchanged(stream: socket.socket, request: bytes, path: str, end: float) -> bytes:
    """What the daemon says until the end of a line, or of the connection."""
    data = bytearray()
    try:
        # No SIGPIPE: a daemon that has no room replies and closes before it has read anything.
        _send(stream, request)
        while not data.endswith(b"\n"):
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            stream.settimeout(left)
            part = stream.recv(_PART)
            if not part:
                break
            data += part
            if len(data) > protocol.MAX_REPLY:
                raise ControlError(f"a reply of more than {protocol.MAX_REPLY} bytes from {path}", expected="a reply of tsqd")
    except TimeoutError:
        raise NoDaemon(f"no reply from {path} in time", advice="the daemon is stopped or overloaded: see its log") from None
    except OSError as error:
        raise _unreachable(path, error) from None
    return bytes(data)


def _send(stream: socket.socket, request: bytes) -> None:
    try:
        stream.sendall(request, socket.MSG_NOSIGNAL)
    except (BrokenPipeError, ConnectionResetError):
        # The reply says why.
        return


def _unreachable(path: str, error: OSError) -> ControlError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NoDaemon(
            f"no daemon: there is no socket {path}", advice="start tsqd, or name its socket with --socket ([control] socket)"
        )
    if error.errno == errno.ECONNREFUSED:
        return NoDaemon(f"no daemon: nothing listens at {path}", advice="tsqd has ended: start it, and see its log")
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotAllowed(
            f"the socket {path} may not be opened", advice="its directory must be open to this user, and the socket have mode 0666"
        )
    if isinstance(error, TimeoutError) or error.errno == errno.EAGAIN:
        return NoDaemon(f"no reply from {path} in time", advice="the daemon is stopped or overloaded: see its log")
    return NoDaemon(f"no daemon at {path}: {error.strerror or error}", advice="name the socket of a running tsqd with --socket")
