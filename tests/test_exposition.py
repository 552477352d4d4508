"""Metrics over HTTP: a real scrape, and peers that are slow, many, or do not speak HTTP."""

import asyncio
import contextlib
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from http.client import HTTPMessage

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tsq.errors import ConfigError
from tsq.exposition import CONTENT_TYPE, MOST_CONNECTIONS, ExpositionServer, Family, Kind, Point, render
from tsq.options import Target

LISTEN = Target("127.0.0.1", 0)
TEXT = "# TYPE x gauge\nx 1.0\n"


def run(work: Callable[[ExpositionServer], Awaitable[None]], text: Callable[[], str] = lambda: TEXT, **settings) -> None:
    async def main() -> None:
        server = ExpositionServer(text, **settings)
        server.start(LISTEN)
        try:
            await work(server)
        finally:
            server.close()

    asyncio.run(main())


def get(address: Target, path: str = "/metrics", method: str = "GET") -> tuple[int, HTTPMessage, str]:
    request = urllib.request.Request(f"http://{address}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.headers, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


async def say(address: Target, data: bytes) -> bytes:
    """All that the server answers to this, until it ends the connection."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(data)
        return await rest(reader)
    finally:
        writer.close()


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What comes until the end of the connection, of whatever kind."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 20):
            found += data
    return found


def test_a_scrape_gets_the_text():
    async def work(server: ExpositionServer) -> None:
        status, headers, body = await asyncio.to_thread(get, server.address)
        assert (status, headers["Content-Type"], body) == (200, CONTENT_TYPE, TEXT)
        assert int(headers["Content-Length"]) == len(TEXT)

    run(work)


@pytest.mark.parametrize(
    ("path", "method", "status", "body"),
    [
        ("/metrics?x=1", "GET", 200, TEXT),
        ("/metrics", "HEAD", 200, ""),
        ("/", "GET", 200, "<html><body><a href='/metrics'>Metrics</a></body></html>\n"),
        ("/etc/passwd", "GET", 404, "only /metrics\n"),
        ("/metrics", "POST", 405, "only GET and HEAD\n"),
    ],
)
def test_other_requests(path, method, status, body):
    async def work(server: ExpositionServer) -> None:
        found, headers, text = await asyncio.to_thread(get, server.address, path, method)
        assert (found, text) == (status, body)
        assert (headers["Allow"] == "GET, HEAD") == (status == 405)

    run(work)


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n", b"GET\r\n\r\n", b"GET /metrics\r\n\r\n", b"GET /metrics SPDY/3\r\n\r\n", b"\xff\x00 \xff \xff\r\n\r\n",
        b"GET /" + b"a" * 100_000, b"a" * 8000 + b"\r\n\r\n", b"GET / HTTP/1.1 HTTP/1.1\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_http_is_refused(data):
    async def work(server: ExpositionServer) -> None:
        answer = await say(server.address, data)
        # With data unread, the kernel may reset the connection before the answer is read.
        assert answer.startswith(b"HTTP/1.1 400 ") or (not answer and len(data) > 8192)
        assert (await asyncio.to_thread(get, server.address))[0] == 200

    run(work)


def test_a_path_of_odd_bytes_is_only_not_found():
    async def work(server: ExpositionServer) -> None:
        assert (await say(server.address, b"GET /\xff\xfe HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 404 ")

    run(work)


def test_a_peer_that_says_nothing_is_disconnected():
    async def work(server: ExpositionServer) -> None:
        assert await say(server.address, b"") == b""
        assert await say(server.address, b"GET /metr") == b""

    run(work, patience=0.05)


def test_a_peer_that_reads_nothing_is_disconnected():
    async def work(server: ExpositionServer) -> None:
        reader, writer = await asyncio.open_connection(server.address.host, server.address.port, limit=1024)
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        # This side reads some kilobytes and no more, until the server has given up.
        while server._tasks or not reader._buffer:
            await asyncio.sleep(0)
        assert len(await rest(reader)) < 50_000_000
        writer.close()

    run(work, lambda: "x" * 50_000_000, patience=1.0)


def test_too_many_connections_are_refused_and_the_first_ones_stay():
    async def work(server: ExpositionServer) -> None:
        held = [await asyncio.open_connection(server.address.host, server.address.port) for _ in range(MOST_CONNECTIONS)]
        while len(server._tasks) < MOST_CONNECTIONS:
            await asyncio.sleep(0)
        assert await say(server.address, b"GET /metrics HTTP/1.1\r\n\r\n") == b""
        reader, writer = held[0]
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert (await reader.read()).endswith(TEXT.encode())
        while len(server._tasks) == MOST_CONNECTIONS:
            await asyncio.sleep(0)
        assert (await asyncio.to_thread(get, server.address))[0] == 200
        for _, other in held:
            other.close()

    run(work)


def test_peers_that_leave_early_cost_nothing():
    async def work(server: ExpositionServer) -> None:
        for data in (b"", b"GET", b"GET /metrics HTTP/1.1\r\n\r\n"):
            for _ in range(5):
                _, writer = await asyncio.open_connection(server.address.host, server.address.port)
                writer.write(data)
                writer.transport.abort()
        while server._tasks:
            await asyncio.sleep(0)
        assert (await asyncio.to_thread(get, server.address))[0] == 200

    run(work)


def test_metrics_that_cannot_be_made_are_logged_once(caplog):
    fails = [True]

    def text() -> str:
        if fails[0]:
            raise ZeroDivisionError("no such number")
        return TEXT

    async def work(server: ExpositionServer) -> None:
        for _ in range(3):
            assert (await asyncio.to_thread(get, server.address))[0] == 500
        fails[0] = False
        assert (await asyncio.to_thread(get, server.address))[0] == 200

    run(work, text)
    assert caplog.text.count("metrics cannot be made: ZeroDivisionError") == 1


def test_an_address_that_is_taken_or_not_here_is_our_error():
    async def work(server: ExpositionServer) -> None:
        with pytest.raises(ConfigError, match=rf"cannot serve metrics at {server.address}: .*in use"):
            ExpositionServer(lambda: TEXT).start(server.address)
        with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
            ExpositionServer(lambda: TEXT).start(Target("192.0.2.1", 9))

    run(work)


def test_it_can_be_closed_with_connections_and_twice():
    async def main() -> None:
        server = ExpositionServer(lambda: TEXT)
        server.close()
        server.start(LISTEN)
        reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
        while not server._tasks:
            await asyncio.sleep(0)
        server.close()
        server.close()
        assert server.address is None
        assert await rest(reader) == b""
        writer.close()

    asyncio.run(main())


def test_the_text_has_what_the_families_have():
    text = render([
        Family("a_seconds", Kind.GAUGE, "A", (Point(0.5, ('x"\n\\', "é")), Point(float("nan"), ("\ud800", ""))), ("name", "other")),
        Family("b", Kind.COUNTER, "B", (Point(7),)),
        Family("c_seconds", Kind.SUMMARY, "C", (Point(1.5, (), 3),)),
        Family("d", Kind.GAUGE, "Nothing is known"),
    ])  # fmt: skip
    families = {family.name: family for family in text_string_to_metric_families(text)}
    first, second = families["a_seconds"].samples
    assert (first.labels, first.value) == ({"name": 'x"\n\\', "other": "é"}, 0.5)
    assert second.labels["name"] == "\\ud800"
    assert (families["b"].type, families["b"].samples[0].name, families["b"].samples[0].value) == ("counter", "b_total", 7)
    assert [(one.name, one.value) for one in families["c_seconds"].samples] == [("c_seconds_sum", 1.5), ("c_seconds_count", 3)]
    assert (families["d"].type, families["d"].samples) == ("gauge", [])
    assert families["process_resident_memory_bytes"].samples[0].value > 1e6


def test_an_ipv6_address_is_served():
    async def main() -> None:
        server = ExpositionServer(lambda: TEXT)
        server.start(Target("::1", 0))
        assert str(server.address).startswith("[::1]:")
        assert (await asyncio.to_thread(get, server.address))[2] == TEXT
        server.close()

    asyncio.run(main())
