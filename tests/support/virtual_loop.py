"""An asyncio event loop in virtual time, on the sockets of `virtual_sockets`: where it would wait, the world goes on.

Nothing here sleeps. A wait without an end, in which nothing can happen any more, fails.
"""

import asyncio
import selectors
from collections.abc import Iterator
from typing import Any

from tests.support.virtual_sockets import Network
from tsq.client.attempt import Attempt
from tsq.quic.tickets import TicketMemory

# Virtual descriptors are numbers that no real one has.
_FIRST = 1_000_000
_LONGEST_WAIT = 3600.0


class VirtualSelector(selectors.SelectSelector):
    """Real descriptors (the loop's own) never become ready; virtual ones do when a datagram is in their inbox."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = network

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        world = self._network.world
        end = world.now + (_LONGEST_WAIT if timeout is None else max(0.0, timeout))
        while not self._ready() and world.now < end:
            event = world._events[0].at_ns if world._events else world.now_ns + 10**9
            world.run(min(max(0.0, (event - world.now_ns) / 1e9), end - world.now) + 1e-6)
        assert timeout is not None or self._ready(), "the loop would wait for ever"
        return self._ready()

    @property
    def virtual(self) -> list[int]:
        """The virtual descriptors that are waited for."""
        return [number for number in self.get_map() if number >= _FIRST]

    def _ready(self) -> list[tuple[selectors.SelectorKey, int]]:
        waiting = {attempt.udp.fileno() for attempt in self._network.attempts if attempt.udp.inbox and not attempt.udp.closed}
        return [(self.get_key(number), selectors.EVENT_READ) for number in self.virtual if number in waiting]


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; `selector` is its selector."""

    def __init__(self, network: Network) -> None:
        self.selector = VirtualSelector(network)
        self._network = network
        super().__init__(self.selector)

    def time(self) -> float:
        return self._network.world.now

    async def shutdown_default_executor(self, *arguments: Any) -> None:
        """There is none."""


class AsyncNetwork(Network):
    """A network whose attempts can be waited for on a VirtualLoop."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.attempts: list[Attempt] = []

    def open_attempt(self, *arguments: Any, memory: TicketMemory | None = None) -> Attempt:
        """In place of `tsq.client.attempt.open_attempt`."""
        *_, address, numbers = arguments
        attempt = self._open(address, numbers, memory)
        socket: Any = attempt.udp
        socket._number += _FIRST
        self.attempts.append(attempt)
        return attempt

    def left_open(self) -> Iterator[Attempt]:
        """Attempts whose socket is not closed."""
        return (attempt for attempt in self.attempts if not attempt.udp.closed)
