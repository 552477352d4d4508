"""The parts of workers without their processes: messages, sums, secrets."""

import asyncio
import json
import os
import socket

import pytest

from tests.support.open_files import left_open, open_files
from tsq._fast import pack_address
from tsq.counters import Counters
from tsq.host.keepers.sync_state import SyncState
from tsq.options import Target
from tsq.quic.secrets import Purpose
from tsq.quic.udp import Datagram, NetworkPath
from tsq.server import relay
from tsq.server.relay import Giver, Taker
from tsq.server.supervisor_totals import Totals, report
from tsq.server.worker import GivenSecrets
from tsq.server.worker_forks import Order, environment, how_it_ended, inherited
from tsq.server.worker_link import Link
from tsq.wire.tlv import ClockClass, SourceType


@pytest.fixture
def ends():
    mine, other = Link.pair()
    yield mine, Link(other)
    mine.close()


# -------------------------------------------------------------------------------------------------------------------- link


def test_messages_come_in_order_with_their_descriptors(ends):
    mine, other = ends
    read, write = os.pipe()
    assert mine.send({"a": 1}, [write])
    assert mine.send({"b": 2})
    message, (fd,) = other.receive()
    assert message == {"a": 1}
    assert not os.get_inheritable(fd)
    os.write(fd, b"x")
    assert os.read(read, 1) == b"x"
    assert other.receive() == ({"b": 2}, [])
    assert other.receive() == ({}, [])
    for one in (read, write, fd):
        os.close(one)
    other.close()


@pytest.mark.parametrize("data", [b"{", b"[1]", b"\xff", b"7", b'{"a": 1}' + bytes(1 << 17)])
def test_what_is_no_message_is_empty_and_its_descriptors_are_closed(data):
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link = Link(two)
    before = open_files()
    socket.send_fds(one, [data], [one.fileno()])
    assert link.receive() == ({}, [])
    assert left_open(before) == 0
    one.close()
    link.close()


def test_an_end_that_is_gone_is_reported_and_never_waited_for(ends):
    mine, other = ends
    sent = 0
    while mine.send({"text": "x" * 1000}):
        sent += 1
    assert sent > 10
    other.close()
    assert not mine.send({"a": 1})
    assert mine.receive() is None


# -------------------------------------------------------------------------------------------------------------------- sums


class Seen:
    """A server as its reports show it."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.addresses = []
        self.connections = 0
        self.send_delay = (0.0, 0)
        self.certificate_expiry = 5e9
        self.draining = self.secrets_stale = False
        self.clock = None


STATE = SyncState("operator", 1, 0, SourceType.GPS, ClockClass.GNSS, "", 0.0, 1e-6)


def told(server: Seen) -> dict:
    """The report as it comes out of a link."""
    return json.loads(json.dumps(report(server)))


def test_sums_are_those_of_all_workers_and_never_go_down():
    totals, one, two = Totals([Target("127.0.0.1", 1)]), Seen(), Seen()
    one.counters.add("answered", amount=5)
    one.counters.add("dropped", "unknown version", 2)
    one.connections, one.send_delay, one.clock = 3, (0.5, 10), STATE
    two.counters.add("answered", amount=7)
    two.connections, two.certificate_expiry, two.secrets_stale = 4, 4e9, True
    totals.add("one", told(one))
    totals.add("two", told(two))
    totals.add("two", told(two))
    assert totals.counters.snapshot() == {"answered": 12, "dropped: unknown version": 2}
    assert (totals.connections, totals.send_delay, totals.certificate_expiry, totals.secrets_stale) == (7, (0.5, 10), 4e9, True)
    assert totals.clock == STATE
    one.counters.add("answered", amount=1)
    totals.add("one", told(one))
    assert totals.counters.get("answered") == 13

    # A worker that dies: what it did stays, what it had is gone. Another one in its place begins at 0.
    totals.forget("one")
    assert totals.counters.get("answered") == 13
    assert (totals.connections, totals.send_delay, totals.clock) == (4, (0.5, 10), None)
    again = Seen()
    again.counters.add("answered", amount=2)
    totals.add("another one", told(again))
    assert totals.counters.snapshot() == {"answered": 15, "dropped: unknown version": 2}


# ----------------------------------------------------------------------------------------------------------------- secrets


def test_an_order_keeps_secrets_out_of_arguments_and_environment():
    order = Order(3, 8, frozenset({3, 7}), (bytes(range(32)),))
    assert Order.of(json.loads(json.dumps(order.message()))) == order
    given = environment(5, {"NOTIFY_SOCKET": "/n", "LISTEN_FDS": "1", "LISTEN_PID": "2", "WATCHDOG_USEC": "3", "HOME": "/h"})
    assert set(given) == {"HOME", "TSQ_WORKERS_LINK"}


def test_given_secrets_are_the_supervisors_and_are_replaced_by_it_alone():
    one, two = GivenSecrets([bytes(32)]), GivenSecrets([bytes(32)])
    assert one.keys(Purpose.TICKETS) == two.keys(Purpose.TICKETS)
    for now in (0.0, 1e6, 2e6):
        one.refresh(now)
    assert one.keys(Purpose.TICKETS) == two.keys(Purpose.TICKETS)
    one.replace([bytes([1]) * 32, bytes(32)])
    assert one.keys(Purpose.TICKETS)[1:] == two.keys(Purpose.TICKETS)


@pytest.mark.parametrize("text", ["", "x", "-1", "99999", "٣"])
def test_a_variable_that_names_no_descriptor_makes_no_worker(text):
    variables = {"TSQ_WORKERS_LINK": text}
    assert inherited(variables) is None
    assert variables == {}


ENDS = {
    0: "ended with exit status 0", 3 << 8: "ended with exit status 3", 9: "was ended by SIGKILL", 11: "was ended by SIGSEGV",
    50: "was ended by signal 50",
}  # fmt: skip


@pytest.mark.parametrize(("status", "words"), ENDS.items())
def test_how_a_process_ended(status, words):
    assert how_it_ended(status) == words


# ------------------------------------------------------------------------------------------------------------------- relay


PASSED = "passed to the new generation"
LOST = "dropped: newcomer that could not be passed to the new generation"
PATH = NetworkPath(pack_address("192.0.2.2", 40000), pack_address("192.0.2.1", 443))


def newcomers(count: int) -> list[tuple[int, Datagram]]:
    datagrams = [Datagram(number.to_bytes(2, "big") * 600, PATH, 10**18 + number, bool(number % 2)) for number in range(count)]
    return [(number % 3, datagram) for number, datagram in enumerate(datagrams)]


def relayed(count: int, act) -> tuple[list, dict]:
    """(what the taker got, what the giver counted) of so many newcomers at once. act: called before the taker reads."""

    async def run() -> list:
        got: list[tuple[int, Datagram]] = []
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        giver = Giver(one, counters)
        for number, datagram in newcomers(count):
            giver.give(number, datagram)
        await act(one, other)
        if other.fileno() >= 0:
            taker = Taker(other, lambda number, datagram: got.append((number, datagram)))
        async with asyncio.timeout(30):
            while counters.get(PASSED) + counters.get("dropped") < count:
                await asyncio.sleep(0)
            while other.fileno() >= 0 and len(got) < counters.get(PASSED):
                await asyncio.sleep(0)
        giver.close()
        if other.fileno() >= 0:
            taker.close()
        return got

    counters = Counters()
    return asyncio.run(run()), counters.snapshot()


async def nothing(one, other) -> None:
    """The taker begins to read at once."""


def test_more_newcomers_than_the_socket_takes_wait_and_come_in_their_order(monkeypatch):
    monkeypatch.setattr(relay, "_LONGEST_WAIT", 60.0)
    got, counted = relayed(1500, nothing)
    assert got == newcomers(1500)
    assert counted == {PASSED: 1500}


def test_of_too_many_newcomers_the_oldest_that_wait_are_dropped_and_counted(monkeypatch):
    monkeypatch.setattr(relay, "_LONGEST_WAIT", 60.0)
    got, counted = relayed(4000, nothing)
    assert counted[PASSED] + counted[LOST] == 4000
    assert counted[PASSED] == len(got) >= 2048
    assert got[-2048:] == newcomers(4000)[-2048:]


def test_newcomers_whose_clients_have_sent_again_are_not_passed_on(monkeypatch):
    monkeypatch.setattr(relay, "_LONGEST_WAIT", -1.0)
    got, counted = relayed(3, nothing)
    assert (got, counted) == ([], {LOST: 3})


def test_newcomers_for_a_worker_that_is_gone_are_counted():
    async def leave(one, other) -> None:
        other.close()

    got, counted = relayed(1000, leave)
    assert not got
    assert counted[LOST] >= 1


def test_what_is_no_newcomer_ends_the_relay():
    async def run() -> list:
        got: list = []
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        taker = Taker(other, lambda *values: got.append(values))
        one.send(b"short")
        one.close()
        for _ in range(10):
            await asyncio.sleep(0)
        taker.close()
        return got

    assert asyncio.run(run()) == []
