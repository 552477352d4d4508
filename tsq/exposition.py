"""Metrics as text, and over HTTP, for Prometheus (docs/reference/metrics.md).

Comes in: families of metrics; requests of anybody who reaches the port. Goes out: their text, as the answer to GET /metrics. A
connection has a bounded time and size, and their number is bounded. It must never let a peer cost more than that, and never end.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from tsq.errors import ConfigError
from tsq.options import Target

logger = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PATH = "/metrics"
# A monitor has one connection, or two while it is restarted.
MOST_CONNECTIONS = 16
# Of a connection, from its beginning to its end, seconds.
_PATIENCE = 10.0
_MOST_HEAD = 8192
_PAGE = f"<html><body><a href='{PATH}'>Metrics</a></body></html>\n"
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 500: "Internal Server Error"}


class Kind(StrEnum):
    """What a metric is."""

    GAUGE = "gauge"
    # Never goes down. Its name in the text ends with `_total`.
    COUNTER = "counter"
    # A sum and a number of observations: `_sum` and `_count`.
    SUMMARY = "summary"


@dataclass(frozen=True, slots=True)
class Point:
    """A value, with the values of the family's labels. count: of a summary, whose sum is `value`."""

    value: float
    labels: tuple[str, ...] = ()
    count: int = 0


@dataclass(frozen=True, slots=True)
class Family:
    """A metric. name: without the `_total` of a counter. points: none where nothing is known."""

    name: str
    kind: Kind
    meaning: str
    points: tuple[Point, ...] = ()
    labels: tuple[str, ...] = ()


def render(families: Iterable[Family]) -> str:
    """The families in Prometheus's text format, and the standard metrics of this process (`process_cpu_seconds_total`, ...)."""
    # Loaded late: a program whose metrics nobody reads does without the memory of these modules.
    from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest  # noqa: PLC0415

    class Once:
        def collect(self) -> Iterable[Metric]:
            for family in families:
                metric = Metric(family.name, family.meaning, family.kind)
                for point in family.points:
                    labels = dict(zip(family.labels, map(_encodable, point.labels), strict=True))
                    if family.kind is Kind.SUMMARY:
                        metric.add_sample(f"{family.name}_sum", labels, point.value)
                        metric.add_sample(f"{family.name}_count", labels, point.count)
                    else:
                        suffix = "_total" if family.kind is Kind.COUNTER else ""
                        metric.add_sample(f"{family.name}{suffix}", labels, point.value)
                yield metric

    registry = CollectorRegistry()
    registry.register(Once())
    ProcessCollector(registry=registry)
    return generate_latest(registry).decode()


class ExpositionServer:
    """Answers on one address, on the running event loop. text: the metrics, made for each request. patience: seconds for a whole
    connection.
    """

    def __init__(self, text: Callable[[], str], patience: float = _PATIENCE) -> None:
        self._text = text
        self._patience = patience
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._starting: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failing = False

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
                f"cannot serve metrics at {listen}: {reason}", expected="a free port at an address of this machine"
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
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            status, kind, body = 400, "text/plain", "the request is too long\n"
            method = "GET"
        else:
            method, status, kind, body = self._respond(head)
        data = body.encode("utf-8", "backslashreplace")
        allow = "Allow: GET, HEAD\r\n" if status == 405 else ""
        writer.write(
            f"HTTP/1.1 {status} {_REASONS[status]}\r\n{allow}Content-Type: {kind}\r\nContent-Length: {len(data)}\r\n"
            "Connection: close\r\nX-Content-Type-Options: nosniff\r\n\r\n".encode()
        )
        if method != "HEAD":
            writer.write(data)
        await writer.drain()

    def _respond(self, head: bytes) -> tuple[str, int, str, str]:
        """(method, status, content type, body)."""
        parts = head.partition(b"\r\n")[0].split(b" ")
        if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
            return "GET", 400, "text/plain", "not a request of HTTP/1\n"
        method, path = parts[0].decode("latin-1"), parts[1].partition(b"?")[0].decode("latin-1")
        if method not in ("GET", "HEAD"):
            return method, 405, "text/plain", "only GET and HEAD\n"
        if path == "/":
            return method, 200, "text/html", _PAGE
        if path != PATH:
            return method, 404, "text/plain", f"only {PATH}\n"
        try:
            text = self._text()
        except Exception as error:
            if not self._failing:
                logger.error("metrics cannot be made: %r", error, exc_info=logger.isEnabledFor(logging.DEBUG))
            self._failing = True
            return method, 500, "text/plain", "the metrics cannot be made; the log says why\n"
        self._failing = False
        return method, 200, CONTENT_TYPE, text


def _encodable(text: str) -> str:
    """A text without surrogates, which UTF-8 does not have."""
    return text.encode("utf-8", "backslashreplace").decode()


def _abort(writer: asyncio.StreamWriter) -> None:
    """End a connection without waiting for the peer."""
    writer.transport.abort()
