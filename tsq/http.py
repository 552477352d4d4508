"""HTTP requests and responses, which pages answer which paths, and a small bounded HTTP/1.1 server for monitors and probes.

Comes in: requests, over HTTP/1.1 here or over HTTP/3. Goes out: responses. Pages know neither version. A connection has a bounded
time and size, and their number is bounded. It must never let a peer cost more than that, and never end.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from tsq.errors import ConfigError
from tsq.options import Target

logger = logging.getLogger(__name__)

PLAIN = "text/plain; charset=utf-8"
# A monitor has one connection, or two while it is restarted.
MOST_CONNECTIONS = 16
METHODS = ("GET", "HEAD")
# Of a connection, from its beginning to its end, seconds.
_PATIENCE = 10.0
_MOST_HEAD = 8192
# Of every response. A page that needs more says so itself.
_ALWAYS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


@dataclass(frozen=True, slots=True)
class Request:
    """A request. path: without the query. headers: names in small letters.

    peer: the client's numeric address, "" where it is not known. received_ns: when it came, Unix ns: over HTTP/3 the kernel's time
    of its last datagram. early: it came in 0-RTT packets, and may be a replay of an earlier one (RFC 8470).
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    peer: str = ""
    received_ns: int = 0
    early: bool = False


@dataclass(frozen=True, slots=True)
class Response:
    """A response. complete: makes the body from the time at which it is sent, Unix ns; for answers that contain this time."""

    status: int
    body: bytes = b""
    kind: str = PLAIN
    headers: tuple[tuple[str, str], ...] = ()
    policy: str = _POLICY
    complete: Callable[[int], bytes] | None = None

    @property
    def fields(self) -> list[tuple[str, str]]:
        """All header fields but those that depend on the version of HTTP."""
        policy = ("Content-Security-Policy", self.policy)
        return [("Content-Type", self.kind), policy, *_ALWAYS, *self.headers]


def text(status: int, line: str, *headers: tuple[str, str]) -> Response:
    """A response of one line."""
    return Response(status, f"{line}\n".encode("utf-8", "backslashreplace"), headers=(("Cache-Control", "no-store"), *headers))


Page = Callable[[Request], Response]


class Pages:
    """Pages by path. missing: what a request for another path gets."""

    def __init__(self, pages: Mapping[str, Page], missing: str = "no such page") -> None:
        self._pages = dict(pages)
        self._missing = missing
        self._failing: set[str] = set()

    def respond(self, request: Request) -> Response:
        """The response to a request. A page that fails is a status 500, logged once until it works again."""
        if request.method not in METHODS:
            return text(405, "only GET and HEAD", ("Allow", ", ".join(METHODS)))
        page = self._pages.get(request.path)
        if page is None:
            return text(404, self._missing)
        try:
            response = page(request)
        except Exception as error:
            if request.path not in self._failing:
                logger.error("%s cannot be made: %r", request.path, error, exc_info=logger.isEnabledFor(logging.DEBUG))
            self._failing.add(request.path)
            return text(500, "the page cannot be made; the log says why")
        self._failing.discard(request.path)
        return response


class Http1Server:
    """Answers on one address, on the running event loop.

    respond: what to answer. what: what it serves, for errors. patience: seconds for a whole connection. clock: gives the time at
    which a request has come, Unix ns.
    """

    def __init__(
        self, respond: Page, what: str = "pages", patience: float = _PATIENCE, clock: Callable[[], int] = lambda: 0
    ) -> None:
        self._respond = respond
        self._what = what
        self._patience = patience
        self._clock = clock
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._starting: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> Target | None:
        """Where it listens; None before `start` and after `close`."""
        if self._socket is None:
            return None
        host, port = self._socket.getsockname()[:2]
        return Target(host, port)

    def start(self, listen: Target) -> None:
        """Begin to answer. Raises ConfigError if the address cannot be used."""
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        try:
            self._socket = socket.create_server((listen.host, listen.port), family=family, backlog=MOST_CONNECTIONS)
        except (OSError, UnicodeError) as error:
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            raise ConfigError(
                f"cannot serve {self._what} at {listen}: {reason}", expected="a free port at an address of this machine"
            ) from error
        self._starting = asyncio.get_running_loop().create_task(self._accept(self._socket))

    def close(self) -> None:
        """Stop, at once."""
        if self._starting is not None:
            self._starting.cancel()
        if self._server is not None:
            self._server.close()
        if self._socket is not None:
            self._socket.close()
        self._starting = self._server = self._socket = None
        for task in list(self._tasks):
            task.cancel()

    async def _accept(self, listener: socket.socket) -> None:
        self._server = await asyncio.start_server(self._connected, sock=listener, limit=_MOST_HEAD)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._tasks) >= MOST_CONNECTIONS:
            _abort(writer)
            return
        self._tasks.add(task)
        try:
            async with asyncio.timeout(self._patience):
                await self._answer(reader, writer)
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            # The peer is gone, or too slow.
            pass
        finally:
            self._tasks.discard(task)
            _abort(writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request: Request | None = None
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            response = text(400, "the request is too long")
        else:
            request = _parsed(head, writer.get_extra_info("peername"), self._clock())
            response = text(400, "not a request of HTTP/1") if request is None else self._respond(request)
        fields = [*response.fields, ("Content-Length", str(len(response.body))), ("Connection", "close")]
        lines = [
            f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}",
            *(f"{name}: {value}" for name, value in fields),
        ]
        writer.write("".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1", "replace"))
        if request is None or request.method != "HEAD":
            writer.write(response.body)
        await writer.drain()


def _parsed(head: bytes, peer: object, received_ns: int) -> Request | None:
    """The request; None where this is none of HTTP/1."""
    line, *rest = head.decode("latin-1").split("\r\n")
    parts = line.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        return None
    headers = {name.strip().lower(): value.strip() for name, colon, value in (one.partition(":") for one in rest) if colon}
    address = str(peer[0]) if isinstance(peer, tuple) else ""
    return Request(parts[0], parts[1].partition("?")[0], headers, address, received_ns)


def _abort(writer: asyncio.StreamWriter) -> None:
    """End a connection without waiting for the peer."""
    writer.transport.abort()
