"""`tsq-conformance` in virtual time: a Site whose paths are those of a World."""

from tests.support.foreign import path
from tests.support.world import START_NS, World
from tsq.conformance.link import Site
from tsq.options import Trust
from tsq.quic import tls
from tsq.quic.udp import Datagram


class WorldWire:
    """A path to the World's server."""

    # What the World reads and calls of a session.
    has_leaving = False
    deadline = None

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._path = path(number)
        self._inbox: list[bytes] = []
        world._sessions[self._path] = self

    def datagrams(self, now: float) -> list[bytes]:
        return []

    def receive(self, datagram: Datagram, now: float) -> None:
        self._inbox.append(datagram.data)

    # What a Link calls.

    def now(self) -> float:
        return self._world.now

    def exchange(self, out: list[bytes], until: float) -> list[bytes]:
        world = self._world
        for data in out:
            world._transmit("client", data, world.to_server, lambda data=data: world.deliver_to_server(data, self._path))
        # Beyond the deadline, so that a rounded float cannot stop before it.
        until_ns = START_NS + round((until - 1000.0) * 1e9) + 1000
        if until > world.now:
            while not self._inbox and world.now_ns < until_ns:
                next_ns = min(world._events[0].at_ns, until_ns)
                world.run(max(next_ns - world.now_ns, 0) / 1e9)
        came, self._inbox = self._inbox, []
        return came

    def close(self) -> None:
        self._world.run(0.05)


def site(world: World) -> Site:
    """The World's server, as the server under test."""
    numbers = iter(range(1, 1000))
    trust = Trust(ca_file=str(world.certificates.authority))
    return Site(
        lambda: WorldWire(world, next(numbers)), lambda ticket: tls.client_configuration("localhost", trust, ticket=ticket)
    )
