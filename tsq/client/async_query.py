"""Ask one host or several inside an asyncio program, and give their results.

Comes in: hosts and options. Goes out: HostResults. It waits, and does nothing else: `HostQuery` and the modules below it decide.
A call that is cancelled must never leave a socket, a reader or a task behind.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TextIO

from tsq.client.attempt import Attempt
from tsq.client.exchange import Rules
from tsq.client.host_query import HostQuery, OnChange, OnExchange, OnSample, Together
from tsq.client.network_errors import FAILURES, network_error
from tsq.client.resolving import is_numeric, resolve
from tsq.client.result import HostResult, QueryResult
from tsq.errors import TSQError
from tsq.options import ClientOptions, Target, as_options, as_target, as_targets
from tsq.quic import tls

# Here, because it would block a running event loop.
tls.load_checks()


async def aquery(host: str | Target, options: ClientOptions | None = None, *, rules: Rules | None = None) -> QueryResult:
    """`tsq.query` inside an asyncio program: the same arguments, result and errors. It may be cancelled."""
    return QueryResult.of(await AsyncQuery(as_target(host), as_options(options), rules).run())


async def aquery_all(
    targets: Sequence[str | Target],
    options: ClientOptions | None = None,
    *,
    rules: Rules | None = None,
    on_sample: OnSample | None = None,
    on_change: OnChange | None = None,
    key_log: TextIO | None = None,
    persistent: bool = False,
    on_exchange: OnExchange | None = None,
) -> list[HostResult]:
    """`tsq.query_all` inside an asyncio program: the same arguments and results. It may be cancelled.

    on_sample, on_change, on_exchange: called from the event loop.
    """

    def begun(target: Target, sampled: OnSample) -> AsyncQuery:
        return AsyncQuery(target, chosen, rules, on_sample=sampled, key_log=key_log, persistent=persistent, on_exchange=on_exchange)

    async def run(query: AsyncQuery) -> None:
        if not query.ended:
            await query.run()
        together.changed()

    chosen = as_options(options)
    together = Together(as_targets(targets), begun, on_sample, on_change)
    tasks = [asyncio.create_task(run(query), name=str(query.target)) for query in together.queries]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return together.results()


class AsyncQuery(HostQuery):
    """Asks one host and waits on its sockets, on the event loop that runs."""

    def __init__(self, target: Target, options: ClientOptions, rules: Rules | None = None, **more: Any) -> None:
        self._loop = asyncio.get_running_loop()
        super().__init__(target, options, rules, clock=self._loop.time, **more)
        self._changed = asyncio.Event()
        self._look_up: asyncio.Task[None] | None = None
        # What failed outside the task that runs the query: raised there.
        self._fault: Exception | None = None

    async def run(self) -> HostResult:
        """Ask; the result. Never raises a TSQError."""
        try:
            # A trust file may be a pipe that is slow: the loop goes on.
            await asyncio.to_thread(tls.check_trust, self.options.trust, self.options.timeout)
            self.association.connect(self._loop.time())
            while await self._step(self._loop.time()):
                pass
        except TSQError as error:
            self.error = error
        except FAILURES as error:
            self.error = network_error(error)
        finally:
            self._finish()
        self.ended = True
        return self.result()

    async def _step(self, now: float) -> bool:
        """Do what is due, then wait for what comes; False when it is over."""
        if self._fault is not None:
            raise self._fault
        if self.association.wants_addresses and self._look_up is None:
            self._look_up = asyncio.create_task(self._resolve())
        self._changed.clear()
        if not self.poller.advance(now):
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self.poller.deadline(now)):
                await self._changed.wait()
        return True

    async def _resolve(self) -> None:
        try:
            if is_numeric(self.target.host):
                addresses = resolve(self.target, self.options.family)
            else:
                addresses = await self._loop.run_in_executor(None, resolve, self.target, self.options.family)
        except TSQError as error:
            self.association.not_resolved(error, self._loop.time())
        except Exception as error:
            self._fault = error
        else:
            self.association.resolved(addresses, self._loop.time())
        self._look_up = None
        self._changed.set()

    def _finish(self) -> None:
        if self._look_up is not None:
            self._look_up.cancel()
        for attempt in list(self.association.attempts):
            self._closing(attempt)
            attempt.finish(self._loop.time())

    def _opened(self, attempt: Attempt) -> None:
        self._loop.add_reader(attempt.udp.fileno(), self._guarded, partial(self._readable, attempt))

    def _closing(self, attempt: Attempt) -> None:
        self._loop.remove_reader(attempt.udp.fileno())

    def _readable(self, attempt: Attempt) -> None:
        attempt.readable(self._loop.time(), True, self._loop.time)

    def _guarded(self, call: Callable[[], None]) -> None:
        """Call it from the event loop. Raise what fails to the caller of `run`, which would wait for ever."""
        try:
            call()
        except Exception as error:
            self._fault = error
        self._changed.set()
