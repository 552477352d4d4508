"""The loop that serves while it waits: answers are sent, and timers and other sockets are not delayed."""

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.dataplane.peer import datagram, request
from tests.dataplane.test_sockets import Wire
from tsq.dataplane.loop import ServingLoop, ServingSelector

PATIENCE = 20.0


@pytest.fixture
def wire() -> Iterator[Wire]:
    with contextlib.closing(Wire("127.0.0.1")) as wire:
        yield wire


@pytest.fixture
def selector(wire) -> Iterator[ServingSelector]:
    with contextlib.closing(ServingSelector()) as selector:
        selector.register(wire.server, selectors.EVENT_READ, "server")
        selector.serve(wire.server.fileno(), wire.peer.data_plane)
        yield selector


def names(ready) -> list[tuple[str, int]]:
    return [(key.data, events) for key, events in ready]


def test_requests_are_answered_by_waiting(wire, selector):
    for n in range(40):
        wire.send(datagram(request(n)))
    assert selector.select(0) == []
    answered = [nonce for _ in range(2) for packet, _ in wire.read() for nonce in packet.nonces]
    # As many as may be in flight.
    assert answered == list(range(32))
    assert wire.peer.data_plane.taken == 40


def test_what_is_not_taken_is_left_for_the_reader_as_it_came(wire, selector):
    wire.send(datagram(request(1)))
    other = wire.peer.seal(datagram(request(9) + b"\x09\x00"))
    wire.client.send(other)
    assert names(selector.select(PATIENCE)) == [("server", selectors.EVENT_READ)]
    wire.send(datagram(request(2)))
    count, [item] = wire.serve()
    assert (count, item[0]) == (1, other)
    # What came after that is for the next wait, or the next call.
    assert wire.serve() == (1, [])
    assert [packet.nonces for packet, _ in wire.read()] == [[1], [2]]


def test_other_sockets_end_the_wait(wire, selector):
    here, there = socket.socketpair()
    with here, there:
        selector.register(here, selectors.EVENT_READ, "other")
        wire.send(datagram(request(1)))
        there.send(b"x")
        assert names(selector.select(None)) == [("other", selectors.EVENT_READ)]
        selector.modify(here, selectors.EVENT_WRITE, "writer")
        assert names(selector.select(None)) == [("writer", selectors.EVENT_WRITE)]
        assert len(wire.read()) == 1
        there.close()
        selector.modify(here, selectors.EVENT_READ, "gone")
        assert names(selector.select(None)) == [("gone", selectors.EVENT_READ)]


def test_a_socket_that_is_left_is_its_readers(wire, selector):
    selector.leave(wire.server.fileno())
    wire.send(datagram(request(1)))
    assert names(selector.select(PATIENCE)) == [("server", selectors.EVENT_READ)]
    assert wire.peer.data_plane.received == 0
    selector.unregister(wire.server)
    assert selector.select(0) == []


def test_a_load_without_end_holds_up_neither_timers_nor_threads(wire):
    """The load goes on until the loop's own timer and a call from a thread have come through it."""
    loop = ServingLoop()
    fd = wire.server.fileno()
    over = threading.Event()
    came: list[str] = []

    def flood() -> None:
        while not over.is_set():
            with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                wire.client.send(bytes(8))
            with contextlib.suppress(BlockingIOError):
                wire.send(b"\x00")

    def arrived(what: str) -> None:
        came.append(what)
        if len(set(came)) == 2:
            loop.stop()

    with contextlib.closing(loop):
        loop.add_reader(fd, lambda: wire.peer.data_plane.receive(fd))
        loop.serving.serve(fd, wire.peer.data_plane)
        thread = threading.Thread(target=flood, daemon=True)
        thread.start()
        loop.call_later(0.02, arrived, "timer")
        threading.Timer(0.02, lambda: loop.call_soon_threadsafe(arrived, "thread")).start()
        watchdog = threading.Timer(PATIENCE, lambda: (came.append("late"), over.set()))
        watchdog.start()
        loop.run_forever()
        over.set()
        watchdog.cancel()
        thread.join(PATIENCE)
    assert sorted(came) == ["thread", "timer"]
    assert wire.peer.data_plane.received > 0
