"""The asynchronous client: a connection that stays open, and is made again when it is lost, inside an asyncio program.

Comes in: a host and options. Goes out: samples and estimates, one for each call. It waits, and does nothing else: `Association` and
`Channel` decide. A call that is cancelled must never give its sample to another call.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import inf
from types import TracebackType
from typing import Self

from tsq._fast import clock_ns
from tsq.client.association import Association, Driver
from tsq.client.attempt import Attempt, open_attempt, with_precision
from tsq.client.exchange import Rules
from tsq.client.in_thread import in_thread
from tsq.client.outcomes import Outcome
from tsq.client.polling import LAST_WAIT, host_result, no_sample_error
from tsq.client.resolving import Address, is_numeric, resolve
from tsq.client.result import QueryResult
from tsq.errors import ConnectionLost, TSQError
from tsq.options import ClientOptions, Target, as_options, as_target
from tsq.quic import tls
from tsq.quic.tickets import TicketMemory
from tsq.timing.sample import Reason, Sample

# Here, because it would block a running event loop.
tls.load_checks()

# Seconds. The sample of a 0-RTT request that was sent longer ago is too old for a call that begins now.
_EARLY_IS_FRESH = 0.5


class Client:
    """A connection to one server, kept open for many samples; made by `tsq.connect`.

        async with tsq.connect("time.example.com") as client:
            sample = await client.sample()
            result = await client.measure(count=8, interval=0.1)

    Entering connects. It tries every address of the host, the next one when one fails or is silent for 0.25 s, each for
    options.timeout seconds. If none can be reached, it raises the TSQError that says most. If the connection is lost later, the
    next `sample` connects again.
    """

    # Where session tickets are kept if options has no session file.
    _memory: TicketMemory | None = None

    def __init__(self, target: Target, options: ClientOptions, rules: Rules | None = None) -> None:
        self.target = target
        self._options = options
        self._rules = with_precision(rules)
        self._notices: list[str] = []
        self._association: Association | None = None
        self._entered = 0.0
        self._first = True
        self._early: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._look_up: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        # Outcomes of the requests that a call waits for; None: there is none yet.
        self._awaited: dict[int, Outcome | None] = {}
        self._broken: Exception | None = None

    def __repr__(self) -> str:
        return f"<Client {self.target}>"

    @property
    def notices(self) -> list[str]:
        """What a user should know about this connection."""
        more = [] if self._association is None else self._association.notices
        return list(dict.fromkeys([*self._notices, *more]))

    async def sample(self) -> Sample:
        """One exchange; its sample, valid or with its reason, within options.timeout seconds.

        If the connection was lost, connect again first, in the same time. If it is lost before the answer comes, ask once more on a
        new one. Raises TransportError if that fails.
        """
        return (await self._exchange(keep=False)).sample

    async def measure(self, count: int = 3, interval: float = 0.1) -> QueryResult:
        """Several exchanges, `interval` seconds apart, and what they say together. Raises TSQError if none is valid."""
        # Check the limits of both.
        replace(self._options, count=count, interval=interval)
        numbers = []
        try:
            for index in range(count):
                if index:
                    await asyncio.sleep(interval)
                numbers.append((await self._exchange(keep=True)).number)
            association = self._open_association()
            while association.channel is not None and association.channel.wants_one_more:
                await self._one_more(association)
            kept = [self._awaited[number] for number in numbers]
        finally:
            for number in numbers:
                self._awaited.pop(number, None)
        samples = [outcome.sample for outcome in kept if outcome is not None]
        error = no_sample_error(samples, association.loss if association.channel is None else None)
        if error is not None:
            raise error
        return QueryResult.of(host_result(self.target, self._options, association, samples, notices=self.notices))

    async def close(self) -> None:
        """Close the connection. A call that waits for a sample gets an error."""
        self._shut()

    def _shut(self) -> None:
        association, self._association = self._association, None
        if self._look_up is not None:
            self._look_up.cancel()
            self._look_up = None
        self._disarm()
        if association is not None:
            association.finish(self._now())
        self._changed.set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if tls.trust_is_read(self._options.trust):
            tls.check_trust(self._options.trust, self._options.timeout)
        else:
            # A trust file may be a pipe that is slow: the loop goes on.
            await in_thread(tls.check_trust, self._options.trust, self._options.timeout)
        self._notices.clear()
        opener = partial(open_attempt, self.target, self._options, self._rules, self._notices, None, memory=self._memory)
        association = self._association = Association(Driver(opener, self._opened, self._closing, loop.time, clock_ns))
        self._broken = self._early = None
        self._first = True
        self._awaited.clear()
        try:
            await self._connect(association)
        except BaseException:
            self._shut()
            raise
        self._entered = self._now()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def _connect(self, association: Association) -> None:
        """Make a connection, by one round of attempts, or raise why there is none. Keep a doubtful one if there is no other."""
        if not association.connecting:
            await asyncio.sleep(association.retry_on_demand_at - self._now())
            if association.channel is None or association.doubtful:
                association.connect(self._now(), on_demand=True)
                self._tend(association)
        while association.channel is None or association.doubtful:
            if self._broken is not None or self._association is not association:
                raise self._broken or ConnectionLost("the client was closed")
            if not association.connecting:
                if association.channel is not None:
                    return
                raise association.failure or ConnectionLost("no connection")
            await self._wait()

    async def _exchange(self, *, keep: bool, until: float | None = None, patience: float = inf, again: bool = True) -> Outcome:
        """One request and its outcome. keep: leave the outcome in `_awaited`, where a later answer may make it exact.

        until: when it has to be over, by default in options.timeout seconds. patience: how long the answer may take. again: if the
        connection ends before the answer comes, ask once more, on a new one.
        """
        async with self._one_at_a_time:
            association = self._open_association()
            until = self._now() + self._options.timeout if until is None else until
            outcome = await self._ask(association, keep=keep, until=until, patience=patience)
            if again and outcome.sample.reason is Reason.CONNECTION_LOST and self._now() < until:
                # A server that was restarted, or moves its clients, says so with the first packet that reaches it.
                self._awaited.pop(outcome.number, None)
                outcome = await self._ask(association, keep=keep, until=until, patience=patience)
            if outcome.sample.reason is Reason.CONNECTION_LOST:
                self._awaited.pop(outcome.number, None)
                raise association.loss or ConnectionLost(outcome.sample.detail)
            return outcome

    async def _ask(self, association: Association, *, keep: bool, until: float, patience: float) -> Outcome:
        """As `_exchange`, on the connection that there is, or on a new one where there is none that works."""
        if association.channel is None or association.doubtful:
            try:
                async with asyncio.timeout_at(until):
                    await self._connect(association)
            except TimeoutError:
                lost = "" if association.loss is None else f": {association.loss.found}"
                raise ConnectionLost(f"no new connection in {self._options.timeout:g} s{lost}", advice="try again") from None
        number = self._early_request()
        if number is None:
            number = association.ask(self._now(), patience=min(until - self._now(), patience))
            self._awaited[number] = None
        kept = False
        try:
            self._tend(association)
            outcome = await self._outcome_of(number, association)
            kept = keep
        finally:
            if not kept:
                self._awaited.pop(number, None)
        return outcome

    def _early_request(self) -> int | None:
        """The number of the 0-RTT request, once, for the first call after entering, unless it was sent too long ago."""
        number, self._early = self._early, None
        if number is not None and self._now() - self._entered > _EARLY_IS_FRESH:
            self._awaited.pop(number, None)
            return None
        return number

    async def _outcome_of(self, number: int, association: Association) -> Outcome:
        while True:
            outcome = self._awaited[number]
            if outcome is not None:
                return outcome
            if self._broken is not None or self._association is not association:
                raise self._broken or ConnectionLost("the client was closed")
            await self._wait()

    async def _one_more(self, association: Association) -> None:
        """Send a request that makes no sample, but makes the last one exact. Never fails: the samples are good without it."""
        async with self._one_at_a_time:
            channel = association.channel
            if channel is None:
                return
            channel.ask_last(self._now())
            self._tend(association)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WAIT):
                    while channel.waiting and channel.error is None:
                        await self._wait()

    def _open_association(self) -> Association:
        if self._association is None:
            raise ConnectionLost("the client is not connected", advice="use it inside `async with tsq.connect(...)`")
        return self._association

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _opened(self, attempt: Attempt) -> None:
        asyncio.get_running_loop().add_reader(attempt.udp.fileno(), self._guarded, partial(self._readable, attempt))

    def _closing(self, attempt: Attempt) -> None:
        asyncio.get_running_loop().remove_reader(attempt.udp.fileno())

    def _readable(self, attempt: Attempt) -> None:
        attempt.readable(self._now(), True, asyncio.get_running_loop().time)
        if self._association is not None:
            self._tend(self._association)

    def _expired(self) -> None:
        self._timer = None
        if self._association is not None:
            self._tend(self._association)

    def _guarded(self, call: Callable[[], None]) -> None:
        """Call it from the event loop. Raise what fails to the calls that wait for a sample, which would wait for ever."""
        try:
            call()
        except Exception as error:
            self._broken = error
            self._disarm()
            self._changed.set()

    def _tend(self, association: Association) -> None:
        """Do what is due, arm the timer, wake the calls that wait."""
        now = self._now()
        association.advance(now)
        if association.wants_addresses and self._look_up is None:
            self._look_up = asyncio.create_task(self._resolve(association))
        self._collect(association)
        self._disarm()
        deadline = association.deadline(now)
        if deadline is not None:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._guarded, self._expired)
        self._changed.set()

    def _collect(self, association: Association) -> None:
        if self._first and association.connections:
            # Before taking the outcomes: the answer to a 0-RTT request may be among them.
            self._first = False
            self._early = None if association.latest is None else association.latest.channel.early
            if self._early is not None:
                self._awaited[self._early] = None
        for outcome in association.take():
            if outcome.number in self._awaited:
                self._awaited[outcome.number] = outcome

    async def _resolve(self, association: Association) -> None:
        try:
            addresses = await self._addresses()
        except TSQError as error:
            association.not_resolved(error, self._now())
        except Exception as error:
            self._broken = error
        else:
            association.resolved(addresses, self._now())
        self._look_up = None
        self._guarded(partial(self._tend, association))

    async def _addresses(self) -> list[Address]:
        """The host's addresses. Raises TSQError."""
        if is_numeric(self.target.host):
            return resolve(self.target, self._options.family)
        return await in_thread(resolve, self.target, self._options.family)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def connect(host: str | Target, options: ClientOptions | None = None, *, rules: Rules | None = None) -> Client:
    """A client for one server, to be used with `async with`. host: "name", "name:port", "[v6]:port" or a Target."""
    return Client(as_target(host), as_options(options), rules)
