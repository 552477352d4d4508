"""The client of a program that polls a server for ever: one sample of two or three exchanges, and a connection that it looks after.

Comes in: a host, options, how to look it up. Goes out: samples, and what is known about the connection. It must never decide when
to poll, or how long to keep a connection.
"""

import contextlib
from collections.abc import Awaitable, Callable
from math import inf

from tsq.client.asynchronous import Client
from tsq.client.exchange import Rules
from tsq.client.polling import LAST_WAIT
from tsq.client.resolving import Address
from tsq.errors import ConnectionLost, TSQError
from tsq.options import ClientOptions, Target
from tsq.quic.tickets import TicketMemory
from tsq.timing.sample import Reason, Sample

# An answer may take this part of the time for a pair, but no longer than _LEAST_PATIENCE or some delays. Then there is another
# request, on a new connection if need be.
_PART = 1 / 3
_LEAST_PATIENCE = 0.5
_DELAYS = 5
_MOST_TRIES = 5
_LOST = (Reason.NO_ANSWER, Reason.NOT_SENT, Reason.CONNECTION_LOST)

LookUp = Callable[[], Awaitable[list[Address]]]


class KeptClient(Client):
    """A client that keeps session tickets in memory, unless options has a session file.

    look_up: finds the addresses to try, the best one first; raises TSQError.
    """

    _memory: TicketMemory

    def __init__(self, target: Target, options: ClientOptions, look_up: LookUp, rules: Rules | None = None) -> None:
        super().__init__(target, options, rules)
        self._memory = TicketMemory()
        self._resolver = look_up

    @property
    def connected(self) -> bool:
        """Whether there is a connection that seems to work."""
        association = self._association
        return association is not None and association.channel is not None and not association.doubtful

    @property
    def address(self) -> str:
        """The address of the server that was reached last; empty before."""
        latest = None if self._association is None else self._association.latest
        return "" if latest is None or not latest.channel.established else latest.address

    @property
    def peer(self) -> Address | None:
        """The whole socket address of the server that was reached last."""
        latest = None if self._association is None else self._association.latest
        return None if latest is None or not latest.channel.established else latest.origin

    @property
    def local_address(self) -> str:
        """The address from which this connection's packets leave; empty without a connection."""
        chosen = None if self._association is None else self._association.chosen
        return "" if chosen is None else chosen.udp.address[0]

    @property
    def idle_timeout(self) -> float:
        """After how many seconds without a packet the connection ends; 0 without a connection."""
        chosen = None if self._association is None else self._association.chosen
        return 0.0 if chosen is None else chosen.connection.idle_timeout

    @property
    def tickets(self) -> int:
        """How many session tickets this connection has given."""
        chosen = None if self._association is None else self._association.chosen
        return 0 if chosen is None else chosen.connection.tickets

    @property
    def state_unknown(self) -> bool:
        """Whether the server was asked about its own clock, and has not answered that."""
        return self._association is not None and self._association.state_unknown

    async def open(self) -> None:
        """Connect, as `async with` does."""
        await self.__aenter__()

    def shut(self) -> None:
        """Close the connection now; a call that waits gets an error."""
        self._shut()

    async def pair(self, until: float | None = None) -> list[Sample]:
        """Two exchanges, the second as soon as the first is over; their samples, exact where the server reports that.

        The first one warms the path for the second one, whose answer makes the first one exact. If the delay is so short that this
        matters, another request makes the second one exact. until: when it has to be over, in the loop's time; by default in
        options.timeout seconds. If the connection has failed, or the first request is not answered soon, try again, on a new
        connection. Raises TSQError if there is no connection.
        """
        until = self._now() + self._options.timeout if until is None else until
        numbers: list[int] = []
        try:
            for tries in range(1, _MOST_TRIES + 1):
                last = tries == _MOST_TRIES or until - self._now() <= self._patience
                try:
                    patience = inf if last else self._patience
                    outcome = await self._exchange(keep=True, until=until, patience=patience, again=False)
                except ConnectionLost:
                    if last or self._association is None:
                        raise
                    continue
                numbers.append(outcome.number)
                if outcome.sample.reason not in _LOST:
                    # What there is already is good without the second one.
                    with contextlib.suppress(TSQError):
                        second = await self._exchange(keep=True, until=until, patience=self._patience, again=False)
                        numbers.append(second.number)
                    await self._make_exact(until)
                    self._acknowledge()
                    break
                if last:
                    break
            kept = [self._awaited[number] for number in numbers]
        finally:
            for number in numbers:
                self._awaited.pop(number, None)
        return [outcome.sample for outcome in kept if outcome is not None]

    @property
    def _patience(self) -> float:
        """How long to wait for an answer before the request counts as lost."""
        channel = None if self._association is None else self._association.channel
        delay = None if channel is None else channel.least_delay
        longest = self._options.timeout * _PART
        return longest if delay is None else min(longest, max(_LEAST_PATIENCE, _DELAYS * delay))

    async def _make_exact(self, until: float) -> None:
        """Send what later answers report about the last ones, if it is of use."""
        association = self._open_association()
        while (channel := association.channel) is not None and channel.wants_one_more and until - self._now() > LAST_WAIT:
            if not (channel.gains_by_warming or channel.state_unknown):
                break
            await self._one_more(association)

    def _acknowledge(self) -> None:
        """Acknowledge the last answer at once: the next request is far off."""
        association = self._association
        chosen = None if association is None else association.chosen
        if association is not None and chosen is not None and chosen.connection.acknowledge_soon():
            self._tend(association)

    def keep_alive(self) -> None:
        """Send a request that makes no sample, so that neither the connection nor what forwards it on its way forgets it."""
        association = self._association
        if association is not None and association.channel is not None:
            association.ask(self._now(), counted=False)
            self._tend(association)

    def move(self) -> None:
        """Go on with the same connection from the address that the system now chooses (RFC 9000 §9), or give it up."""
        association = self._association
        if association is not None and association.chosen is not None:
            association.move()
            self.keep_alive()

    def lose(self, why: str) -> None:
        """Give the connection up: the network that it used is gone. The next call, or one that waits, makes another one."""
        association = self._association
        if association is not None:
            association.lose(ConnectionLost(why))
            self._tend(association)

    async def _addresses(self) -> list[Address]:
        return await self._resolver()
