"""Sockets in virtual time, for the drivers of a client: an association and a poller in a World, where each socket call may fail.

Nothing sleeps or opens a real socket. A seeded generator decides which call fails, and with which of the kernel's errors.
"""

import errno
from collections.abc import Iterator
from random import Random
from typing import Any

from tests.support.world import World
from tsq._fast import pack_address
from tsq.client.association import Association, Driver
from tsq.client.attempt import Attempt
from tsq.client.channel import Channel
from tsq.client.exchange import Rules
from tsq.client.polling import Poller
from tsq.client.resolving import Address
from tsq.errors import NoAnswer
from tsq.options import ClientOptions, Target
from tsq.quic import tls
from tsq.quic.client_connection import ClientConnection
from tsq.quic.tickets import TicketMemory
from tsq.quic.udp import Datagram, NetworkPath, Transmission

SEND_ERRORS = (errno.ENETDOWN, errno.ENETUNREACH, errno.EPERM, errno.EINVAL, errno.ECONNREFUSED, errno.EHOSTUNREACH)
ADDRESS: Address = (2, ("192.0.2.1", 443))


class Faults:
    """Which calls fail. send, receive, connect: the chance of each call; partly: the chance that only a part of a batch is sent."""

    def __init__(self, seed: int, *, send: float = 0, receive: float = 0, connect: float = 0, partly: float = 0) -> None:
        self.random = Random(seed)
        self.send, self.receive, self.connect, self.partly = send, receive, connect, partly
        self.happened: list[str] = []

    def may(self, what: str, chance: float) -> None:
        """Raise an OSError with this chance."""
        if self.random.random() < chance:
            number = self.random.choice(SEND_ERRORS)
            self.happened.append(f"{what}: {errno.errorcode[number]}")
            raise OSError(number, what)


class VirtualSocket:
    """A replacement of a UdpSocket that is connected to the world's server."""

    def __init__(self, network: "Network", path: NetworkPath, number: int) -> None:
        self.inbox: list[Datagram] = []
        self.closed = False
        self._network = network
        self._path = path
        self._number = number

    def fileno(self) -> int:
        return self._number

    def close(self) -> None:
        assert not self.closed
        self.closed = True

    def send(self, datagrams: list[tuple[bytes, NetworkPath]]) -> int:
        self._network.faults.may("send", self._network.faults.send)
        for data, _ in datagrams:
            self._network.transmit(data, self._path)
        return len(datagrams)

    def send_stamped(self, datagrams: list[bytes]) -> Transmission:
        faults = self._network.faults
        faults.may("send", faults.send)
        count = len(datagrams)
        if faults.random.random() < faults.partly:
            count = faults.random.randrange(count)
            faults.happened.append("send: a part")
        for data in datagrams[:count]:
            self._network.transmit(data, self._path)
        return Transmission(count, self._network.world.now_ns, kernel=True)

    def receive(self) -> list[Datagram]:
        self._network.faults.may("receive", self._network.faults.receive)
        taken, self.inbox = self.inbox[:64], self.inbox[64:]
        return taken

    def discard_transmit_times(self) -> None:
        pass


class Sockets(World):
    """A World that delivers answers to virtual sockets."""

    sockets: dict[NetworkPath, VirtualSocket]

    def _deliver_to_client(self, data: bytes, path: NetworkPath) -> None:
        there = self.sockets.get(NetworkPath(path.remote, path.local))
        if there is not None and not there.closed:
            there.inbox.append(Datagram(data, path, self.now_ns, True))


class Network:
    """A client's association with a virtual server, and its driver. Replace `world` to start another server at the same address."""

    def __init__(self, world: Sockets, faults: Faults, *, timeout: float = 1.0, **options: Any) -> None:
        world.sockets = {}
        self.world = world
        self.faults = faults
        self.options = ClientOptions(timeout=timeout, **options)
        self.opened = 0
        self.open_now: set[Attempt] = set()
        driver = Driver(self._open, self.open_now.add, self.open_now.remove, lambda: self.world.now, lambda: self.world.now_ns)
        self.association = Association(driver)

    def poller(self, **options: Any) -> Poller:
        self.association.connect(self.world.now)
        return Poller(self.association, Target("time.example"), self.options, **options)

    def transmit(self, data: bytes, path: NetworkPath) -> None:
        world = self.world
        world._transmit("client", data, world.to_server, lambda: world.deliver_to_server(data, path))

    def _open(self, address: Address, numbers: Iterator[int], memory: TicketMemory | None = None) -> Attempt:
        self.faults.may("connect", self.faults.connect)
        self.opened += 1
        path = NetworkPath(pack_address("192.0.2.2", 40000 + self.opened), b"\xc0\x00\x02\x01")
        udp: Any = VirtualSocket(self, path, self.opened)
        self.world.sockets[path] = udp
        trust = tls.Trust(ca_file=str(self.world.certificates.authority))
        ticket = None if memory is None else memory.take(tls.acceptance("localhost", trust))
        connection = ClientConnection(
            tls.client_configuration("localhost", trust, ticket=ticket), on_ticket=None if memory is None else memory.keep
        )
        session = Channel(
            connection, rules=Rules(precision_ns=1), stream=self.options.stream, timeout=self.options.timeout, numbers=numbers
        )
        return Attempt(udp, session, connection, "192.0.2.1", address)

    def turn(self, deadline: float | None) -> None:
        """Let time pass, at most until the deadline, and read received datagrams."""
        world = self.world
        due = world.now + 0.2 if deadline is None else min(deadline, world.now + 0.2)
        while world.now < due and not any(attempt.udp.inbox for attempt in self.open_now):
            event = world._events[0].at_ns if world._events else world.now_ns + 10**9
            world.run(min(max(0.0, (event - world.now_ns) / 1e9), max(0.0, due - world.now)) + 1e-6)
        for attempt in list(self.open_now):
            if attempt.udp.inbox:
                attempt.readable(world.now, clock=lambda: world.now)

    def look_up(self) -> None:
        if self.association.wants_addresses:
            self.association.resolved([ADDRESS], self.world.now)

    def run(self, poller: Poller, *, until: float = float("inf")) -> bool:
        """Run a poller to its end, or to this time; whether it is still running."""
        turns = 0
        while self.world.now < until:
            turns += 1
            assert turns < 200_000, "a busy loop"
            self.look_up()
            if not poller.advance(self.world.now):
                return False
            self.turn(poller.deadline(self.world.now))
        return True

    def result(self, poller: Poller) -> Any:
        return poller.result(unheard=NoAnswer("no answer yet"), stopped=False)
