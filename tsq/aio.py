"""The asynchronous client: a connection that is kept, inside an asyncio program.

Comes in: a host and options. Goes out: samples and estimates, as often as they are asked for. Holds no rules of the protocol.
"""

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from tsq.client import LAST_WAIT, why_nothing
from tsq.config import ClientOptions, Target, parse_target
from tsq.errors import ConnectionLost, TSQError
from tsq.exchange import Rules
from tsq.link import Link, network_error, open_link, resolve, with_precision
from tsq.quic import later, tls
from tsq.result import HostResult
from tsq.session import Session
from tsq.timing.sample import Reason, Sample

# Before an event loop runs, which would stand still for it.
later.load_rest()


class Client:
    """A connection to one server, kept open for many samples; made by `tsq.connect`.

        async with tsq.connect("time.example.com") as client:
            sample = await client.sample()
            result = await client.measure(count=8, interval=0.1)

    Entering connects: every address of the host in turn, each for options.timeout seconds; it raises the TSQError of the last one.
    """

    def __init__(self, target: Target, options: ClientOptions, rules: Rules | None = None) -> None:
        self.target = target
        self._options = options
        self._rules = with_precision(rules)
        self._notices: list[str] = []
        self._link: Link | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._taken = 0

    @property
    def notices(self) -> list[str]:
        """What a user should know of this connection."""
        return self._notices + (self._link.session.notices if self._link else [])

    async def sample(self) -> Sample:
        """One exchange; its sample, valid or with its reason. Raises TransportError where the connection is lost."""
        async with self._one_at_a_time:
            link = self._open_link()
            session = link.session
            # With 0-RTT the first request is under way already.
            if session.waiting + len(session.samples) == self._taken:
                session.ask(self._now())
                self._tend(link)
            while len(session.samples) == self._taken:
                if session.error is not None:
                    raise session.error
                await self._wait()
            self._taken += 1
            sample = session.samples[self._taken - 1]
            if sample.reason is Reason.CONNECTION_LOST and session.error is not None:
                raise session.error
            return sample

    async def measure(self, count: int = 3, interval: float = 0.1) -> HostResult:
        """Several exchanges, `interval` seconds apart, and what they say together. Raises TSQError where none is valid."""
        places = []
        for number in range(count):
            if number:
                await asyncio.sleep(interval)
            await self.sample()
            places.append(self._taken - 1)
        link = self._open_link()
        session = link.session
        while session.wants_one_more:
            await self._one_more(session)
        samples = [session.samples[place] for place in places]
        error = why_nothing(samples, session.error)
        if error is not None:
            raise error
        return HostResult(
            self.target,
            address=link.address,
            mode=session.mode.value,
            alpn=session.alpn,
            zero_rtt=session.zero_rtt,
            samples=tuple(samples),
            notices=tuple(self.notices),
            assumed_error=self._options.server_error,
        )

    async def _one_more(self, session: Session) -> None:
        """A request that makes no sample, and the last one exact; it is good without, so this never fails."""
        async with self._one_at_a_time:
            link = self._open_link()
            session.ask_last(self._now())
            self._tend(link)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WAIT):
                    while session.waiting and session.error is None:
                        await self._wait()

    async def close(self) -> None:
        """Close the connection."""
        if self._link is not None:
            self._release(self._link)

    async def __aenter__(self) -> Self:
        tls.check_trust(self._options.trust, self._options.timeout)
        loop = asyncio.get_running_loop()
        addresses = await loop.run_in_executor(None, resolve, self.target, self._options.family)
        failure: TSQError = ConnectionLost("no address")
        for family, address in addresses:
            try:
                link = open_link(self.target, family, address, self._options, self._rules, self._notices)
            except OSError as error:
                failure = network_error(error)
                continue
            try:
                await self._establish(link)
                return self
            except TSQError as error:
                failure = error
        raise failure

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def _establish(self, link: Link) -> None:
        self._link = link
        self._taken = 0
        loop = asyncio.get_running_loop()
        loop.add_reader(link.udp.fileno(), self._readable, link)
        try:
            link.session.start(self._now())
            self._tend(link)
            while not link.session.established:
                if link.session.error is not None:
                    raise link.session.error
                await self._wait()
        except BaseException:
            self._release(link)
            raise

    def _open_link(self) -> Link:
        if self._link is None:
            raise ConnectionLost("the client is not connected", advice="use it inside `async with tsq.connect(...)`")
        return self._link

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _readable(self, link: Link) -> None:
        link.readable(self._now(), stamps=True)
        self._tend(link)

    def _expired(self, link: Link) -> None:
        self._timer = None
        link.session.handle_timer(self._now())
        self._tend(link)

    def _tend(self, link: Link) -> None:
        """Send what is to be sent, arm the timer, wake who waits."""
        link.pump(self._now())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = link.session.deadline
        if deadline is not None:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._expired, link)
        self._changed.set()

    def _release(self, link: Link) -> None:
        asyncio.get_running_loop().remove_reader(link.udp.fileno())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        link.finish(self._now())
        self._link = None
        # Whoever waits for a sample must hear of it.
        if link.session.error is None:
            link.session.fail(ConnectionLost("the client was closed"))
        self._changed.set()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def connect(host: str | Target, options: ClientOptions | None = None, *, rules: Rules | None = None) -> Client:
    """A client for one server, to be used with `async with`. host: "name", "name:port", "[v6]:port" or a Target."""
    return Client(parse_target(host) if isinstance(host, str) else host, options or ClientOptions(), rules)
