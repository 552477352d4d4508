"""The control socket: answers questions about the clock, and passes on what operators ask for (docs/reference/tsqctl.md).

Comes in: connections of local programs. Goes out: one reply to each, events, a reload. One connection has one request; each has a
limit of bytes and of time, and each user one of connections. It must never let a client wait for ever, slow the clock down, or
change something for a user who may only read.
"""

import asyncio
import grp
import logging
import os
import pwd
import socket
import stat
import struct
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from tsq.daemon import control_protocol as protocol
from tsq.daemon.config import ControlConfig
from tsq.daemon.control_client import MAX_PATH
from tsq.daemon.control_protocol import Problem, Refused
from tsq.discipline.events import Burst, Event, MakeStepNow, SetOnline, Unfreeze
from tsq.discipline.settings import Mode
from tsq.discipline.status import Status
from tsq.errors import AlreadyRunning, ConfigError, TSQError
from tsq.host import files
from tsq.quic.budget import Bucket, Throttle
from tsq.wording import counted

_LOG = logging.getLogger("tsq.control")
_ROOT = 0
_MODE = 0o666
_NEW = ".new"
_BACKLOG = 64
# Room for users who may change things is never taken by the others.
_MOST_READERS = 32
_MOST_OF_ONE_USER = 8
_MOST_CHANGERS = 32
# How long a client may take to send its request, and to take the reply.
_PATIENCE_S = 5.0
# Connections a second of a user who may only read: each costs the daemon half a millisecond. More are refused.
_USER_RATE = 20.0
_USER_BURST = 40.0
_MOST_USERS = 256
# Connections a second of all: one that is refused costs a tenth of that. More are accepted later.
_ACCEPT_RATE = 500.0
_ACCEPT_BURST = 100.0
_ACCEPT_PAUSE_S = 0.02
_PEER_CREDENTIALS = struct.Struct("=iII")
# SO_PEERGROUPS of Linux 4.13; the socket module has no name for it.
_SO_PEERGROUPS = 59
_GROUP = struct.Struct("=I")
# `getsockopt` gives at most 1024 bytes.
_MOST_GROUPS = 256


class Handler(Protocol):
    """What the daemon gives to its control socket."""

    version: str

    def status(self) -> Status:
        """What is known about the clock and its sources."""

    def submit(self, event: Event) -> None:
        """Deliver an event to the discipline."""

    async def reload(self) -> str:
        """Read the configuration again; what changed. Raises a TSQError."""

    def metrics(self) -> str:
        """The metrics, as Prometheus reads them."""

    def dump(self) -> str:
        """All that is known, for a report on a problem."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a connection, as the kernel reports it. groups: all of its groups."""

    pid: int
    uid: int
    groups: frozenset[int] = field(default_factory=frozenset)

    def __str__(self) -> str:
        return f"user {self.uid}, process {self.pid}"


class ControlServer:
    """The control socket. listening: one that is bound already (socket activation), in place of the configured path."""

    def __init__(self, config: ControlConfig, handler: Handler, listening: socket.socket | None = None) -> None:
        self._config = config
        self._handler = handler
        self._given = listening
        self._listening: socket.socket | None = None
        # Device and inode of the socket's file, to remove that one only.
        self._file: tuple[int, int] | None = None
        self._group: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._users: Counter[tuple[bool, int]] = Counter()
        self._rates: dict[int, Bucket] = {}
        self._accepting = Bucket(_ACCEPT_RATE, _ACCEPT_BURST)
        self._pause: asyncio.TimerHandle | None = None
        self._refusals = Throttle(10.0)
        self._reloading = asyncio.Lock()

    async def start(self) -> None:
        """Begin to listen. Raises ConfigError for a path or a group that cannot be used, AlreadyRunning where a daemon listens."""
        self._group = _group_id(self._config.group)
        if self._given is not None:
            # A copy: the socket may be used again after a reload.
            self._listening = _listening_copy(self._given)
        elif self._config.socket:
            self._listening, self._file = _bound(self._config.socket)
        else:
            return
        asyncio.get_running_loop().add_reader(self._listening, self._accept)

    async def close(self) -> None:
        """Stop listening, end the connections, and remove the socket's file."""
        if self._listening is None:
            return
        asyncio.get_running_loop().remove_reader(self._listening)
        if self._pause is not None:
            self._pause.cancel()
        self._listening.close()
        self._listening = None
        _remove(self._config.socket, self._file)
        # A reload may close the socket that it was asked for on: its own connection still gets the reply.
        others = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        assert self._listening is not None
        if self._accepting.refill(loop.time()) < 1:
            self._rest(loop)
            return
        try:
            stream, _ = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            # No descriptor is free: the clock needs them more.
            if self._refusals.due(loop.time()):
                _LOG.warning("control: no connection can be accepted: %s", error.strerror)
            self._rest(loop)
            return
        self._accepting.take()
        stream.setblocking(False)
        self._begin(stream)

    def _rest(self, loop: asyncio.AbstractEventLoop) -> None:
        """Accept nothing for a moment."""
        assert self._listening is not None
        loop.remove_reader(self._listening)
        self._pause = loop.call_later(_ACCEPT_PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        if self._listening is not None:
            asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def _begin(self, stream: socket.socket) -> None:
        try:
            peer = peer_of(stream)
        except OSError:
            stream.close()
            return
        may_change = self._may_change(peer)
        if not self._has_room(peer, may_change):
            # What fits into an empty buffer is sent at once.
            with suppress(OSError):
                stream.send(self._refused(Problem.BUSY, "too many connections at the moment: try again"), socket.MSG_NOSIGNAL)
            stream.close()
            return
        self._users[may_change, peer.uid] += 1
        task = asyncio.get_running_loop().create_task(self._serve(stream, peer, may_change))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _has_room(self, peer: Peer, may_change: bool) -> bool:
        here = sum(count for (changes, _), count in self._users.items() if changes == may_change)
        if may_change:
            return here < _MOST_CHANGERS
        return here < _MOST_READERS and self._users[False, peer.uid] < _MOST_OF_ONE_USER and self._in_time(peer.uid)

    def _in_time(self, uid: int) -> bool:
        """Whether a user who may only read asks slowly enough."""
        # Last in the order: the one that was not seen for longest is forgotten first.
        bucket = self._rates.pop(uid, None) or Bucket(_USER_RATE, _USER_BURST)
        self._rates[uid] = bucket
        if len(self._rates) > _MOST_USERS:
            del self._rates[next(iter(self._rates))]
        if bucket.refill(asyncio.get_running_loop().time()) < 1:
            return False
        bucket.take()
        return True

    async def _serve(self, stream: socket.socket, peer: Peer, may_change: bool) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                data = await _read_line(loop, stream)
            if data is None:
                return
            reply = await self._answer(data, peer, may_change)
            async with asyncio.timeout(_PATIENCE_S):
                await loop.sock_sendall(stream, reply)
        except (OSError, TimeoutError):
            # It has gone, or it is too slow.
            pass
        finally:
            stream.close()
            self._users[may_change, peer.uid] -= 1
            if not self._users[may_change, peer.uid]:
                del self._users[may_change, peer.uid]

    async def _answer(self, data: bytes, peer: Peer, may_change: bool) -> bytes:
        """The reply to one line, whatever is in it."""
        try:
            if not data.endswith(b"\n"):
                raise Refused(
                    Problem.MALFORMED, "a request without an end", expected=f"one line of at most {protocol.MAX_REQUEST} bytes"
                )
            command, arguments = protocol.read_request(data)
            if command in protocol.CHANGING and not may_change:
                raise self._not_permitted(command, peer)
            reply = protocol.result(self._handler.version, await self._done(command, arguments, peer))
            if len(reply) > protocol.MAX_REPLY:
                raise Refused(Problem.FAILED, f"a reply of {len(reply)} bytes", expected=f"at most {protocol.MAX_REPLY}")
        except Refused as error:
            return self._refused(error.problem, str(error))
        except TSQError as error:
            return self._refused(Problem.FAILED, str(error))
        except Exception:
            # One command must not end the daemon that keeps the clock.
            _LOG.exception("control: a command failed")
            return self._refused(Problem.FAILED, "the daemon failed at this command: its log has the details")
        return reply

    async def _done(self, command: str, arguments: dict[str, Any], peer: Peer) -> dict[str, Any]:
        """The result of a command that this user may give."""
        handler = self._handler
        if command == "status":
            return asdict(handler.status())
        if command == "metrics":
            return {"text": handler.metrics()}
        if command == "dump":
            return {"text": handler.dump()}
        # Quoted: a name may have the end of a line in it.
        _LOG.info("control: %s %s(%s)", command, f"{arguments['name'][:80]!r} " if arguments.get("name") else "", peer)
        if command == "reload":
            # One at a time; it goes on where the client does not wait for it.
            async with self._reloading:
                return {"text": await handler.reload()}
        event, text = self._event(command, arguments)
        handler.submit(event)
        return {"text": text}

    def _event(self, command: str, arguments: dict[str, Any]) -> tuple[Event, str]:
        """(what to submit, what to say) for a command that changes something."""
        tracking = self._handler.status().tracking
        if command == "makestep":
            if tracking.mode is not Mode.STEER:
                raise Refused(
                    Problem.FAILED, f"the daemon does not steer this clock (mode {tracking.mode})", expected=f"mode {Mode.STEER}"
                )
            if tracking.offset is None:
                raise Refused(Problem.FAILED, "no offset to step by: nothing has been measured yet")
            return MakeStepNow(), f"step by {tracking.offset:+z.9f} s requested"
        if command == "unfreeze":
            return Unfreeze(), f"unfrozen; it was frozen: {tracking.frozen}" if tracking.frozen else "the clock was not frozen"
        name = self._source(arguments.get("name", ""))
        which = name or "all sources"
        if command == "burst":
            count = arguments.get("count", protocol.DEFAULT_BURST)
            return Burst(name, count), f"burst of {counted(count, 'poll')} requested: {which}"
        return SetOnline(command == "online", name), f"{command}: {which}"

    def _source(self, name: str) -> str:
        """The name of a source, or of a pool, that is given so, or by its address where only one has that."""
        if not name:
            return ""
        sources = self._handler.status().sources
        if any(name in (source.name, source.name.rpartition("/")[0]) for source in sources):
            return name
        same = [source.name for source in sources if source.address and source.address == name]
        if len(same) == 1:
            return same[0]
        names = ", ".join(source.name for source in sources[:8]) + (", ..." if len(sources) > 8 else "")
        raise Refused(Problem.ARGUMENT, f"no source {name[:80]!r}", expected=names or "a source, and there is none")

    def _may_change(self, peer: Peer) -> bool:
        return peer.uid in (_ROOT, os.geteuid()) or (self._group is not None and self._group in peer.groups)

    def _not_permitted(self, command: str, peer: Peer) -> Refused:
        now = asyncio.get_running_loop().time()
        if held := self._refusals.due(now):
            more = f"; {held - 1} more such refusals" if held > 1 else ""
            _LOG.warning("control: %s refused (%s)%s", command, peer, more)
        group = self._config.group
        return Refused(
            Problem.PERMISSION,
            f"user {peer.uid} may not give the command {command}",
            expected=f"root, or a member of the group {group}" if group else "root",
            advice="" if group else "to let a group do it, set [control] group in the daemon's configuration",
        )

    def _refused(self, problem: Problem, text: str) -> bytes:
        return protocol.refusal(self._handler.version, problem, text)


def peer_of(stream: socket.socket) -> Peer:
    """Who is at the other end, as the kernel knew it when the connection was made."""
    pid, uid, gid = _PEER_CREDENTIALS.unpack(stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size))
    return Peer(pid, uid, frozenset({gid, *_supplementary(stream, uid, gid)}))


def _supplementary(stream: socket.socket, uid: int, gid: int) -> list[int]:
    """The supplementary groups: the process's own; those of its user in the group database where the kernel does not say."""
    try:
        data = stream.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_GROUPS * _GROUP.size)
        return [group for (group,) in _GROUP.iter_unpack(data)]
    except OSError:
        # An old kernel, or more groups than fit.
        pass
    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except (KeyError, OSError):
        return []


def _group_id(name: str) -> int | None:
    if not name:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(
            f"[control] group {name!r} does not exist", advice=f"create it (groupadd -r {name}), or name another one"
        ) from None


async def _read_line(loop: asyncio.AbstractEventLoop, stream: socket.socket) -> bytes | None:
    """A line, or the longest allowed part of one; None where nothing came."""
    data = b""
    while b"\n" not in data and len(data) < protocol.MAX_REQUEST:
        part = await loop.sock_recv(stream, protocol.MAX_REQUEST - len(data))
        if not part:
            return data or None
        data += part
    end = data.find(b"\n") + 1
    return data[:end] if end else data


def _listening_copy(given: socket.socket) -> socket.socket:
    """A socket that was opened by systemd."""
    is_unix = given.family == socket.AF_UNIX and given.type == socket.SOCK_STREAM
    if not is_unix or not given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ConfigError("the control socket that was passed is of another kind", expected="ListenStream= with a path")
    copy = given.dup()
    copy.setblocking(False)
    return copy


def _bound(path: str) -> tuple[socket.socket, tuple[int, int]]:
    """A socket that listens at this path, and its file's device and inode. The file of a daemon that has ended is replaced."""
    if not os.path.isabs(path) or len(os.fsencode(path)) > MAX_PATH - len(_NEW):
        raise ConfigError(f"[control] socket {path!r}", expected=f"an absolute path of at most {MAX_PATH - len(_NEW)} bytes")
    _check_free(path)
    # Renamed when it listens: at no time is there a socket that refuses.
    new = path + _NEW
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with suppress(FileNotFoundError):
            os.unlink(new)
        stream.bind(new)
        os.chmod(new, _MODE)
        stream.listen(_BACKLOG)
        status = os.lstat(new)
        os.rename(new, path)
    except OSError as error:
        stream.close()
        raise _unusable(path, error) from None
    return stream, (status.st_dev, status.st_ino)


def _check_free(path: str) -> None:
    """Refuse a path where a daemon listens, or where something else is."""
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise ConfigError(
            f"[control] socket {path}: there is no directory {directory}",
            advice="create it, or let systemd do so (RuntimeDirectory=tsq)",
        )
    mode = stat.S_IMODE(os.stat(directory).st_mode)
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise ConfigError(
            f"[control] socket {path}: every user could replace it (directory with mode {mode:04o})", expected="mode 0755 or 0750"
        )
    try:
        found = os.lstat(path)
        if not stat.S_ISSOCK(found.st_mode):
            raise ConfigError(
                f"[control] socket {path} is {files.kind_of(found)}",
                expected="a socket, or nothing",
                advice="remove it, or name another path",
            )
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unusable(path, error) from None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except BlockingIOError:
            # Its queue is full: somebody listens.
            pass
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError as error:
            raise _unusable(path, error) from None
    raise AlreadyRunning(f"another daemon listens at {path}", advice="end it first, or name another path in [control] socket")


def _unusable(path: str, error: OSError) -> ConfigError:
    return ConfigError(f"[control] socket {path}: {error.strerror or error}", advice="name a path that this daemon may create")


def _remove(path: str, file: tuple[int, int] | None) -> None:
    """Remove the socket's file, unless another daemon has put its own there, or this one may no longer do so."""
    with suppress(OSError):
        status = os.lstat(path)
        if (status.st_dev, status.st_ino) == file:
            os.unlink(path)
