"""The blocking client: asks one host or several and gives their results. No event loop, so that it starts fast.

Comes in: hosts and options. Goes out: HostResults. It waits, and does nothing else: `HostQuery` and the modules below it decide.
"""

import select
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any, TextIO

from tsq.client.attempt import Attempt
from tsq.client.exchange import Rules
from tsq.client.host_query import HostQuery, OnChange, OnExchange, OnSample, Snapshot, Together
from tsq.client.network_errors import FAILURES, network_error
from tsq.client.resolving import LookUp, is_numeric
from tsq.client.result import HostResult, QueryResult
from tsq.errors import TransportError, TSQError
from tsq.host import shortage
from tsq.options import ClientOptions, Target, as_options, as_target, as_targets
from tsq.quic import tls

__all__ = ["OnChange", "OnSample", "Snapshot", "query", "query_all"]

_STOP_WAIT = 0.2
_END_WAIT = 5.0


def query(host: str | Target, options: ClientOptions | None = None, *, rules: Rules | None = None) -> QueryResult:
    """Ask one server for the time; its samples and what they say together (`result.estimate`).

    host: "name", "name:port", "[v6]:port" or a Target. Raises the TSQError that says why there is no estimate.
    """
    return QueryResult.of(BlockingQuery(as_target(host), as_options(options), rules).run())


def query_all(
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
    """Ask several servers at the same time; a result for each, in order. Errors are in the results, never raised.

    targets: each as in `query`. on_sample, on_change: called for each sample, from the thread that asks; on_change also at the
    start and when a host has failed or is done. It gets a function that gives all results so far. persistent: a host that answered
    once is asked until all samples are taken, however long it is away meanwhile. on_exchange: called for each exchange whose answer
    passed all checks, with its bytes. Interrupted (Ctrl-C), `query_all` gives the
    results so far.
    """

    def begun(target: Target, sampled: OnSample) -> BlockingQuery:
        return BlockingQuery(
            target, chosen, rules, on_sample=sampled, key_log=key_log, persistent=persistent, on_exchange=on_exchange
        )

    def run(query: BlockingQuery) -> None:
        if not query.ended:
            query.run()
        together.changed()

    chosen = as_options(options)
    together = Together(as_targets(targets), begun, on_sample, on_change)
    if len(together.queries) == 1:
        run(together.queries[0])
    else:
        _in_parallel(together.queries, run)
    return together.results()


def _in_parallel(queries: Sequence["BlockingQuery"], run: Callable[["BlockingQuery"], None]) -> None:
    """Run each in a thread of its own; Ctrl-C ends them early."""
    threads = [
        # Each in a copy of this context, in which errors name settings as the caller writes them.
        threading.Thread(target=copy_context().run, args=(run, query), name=str(query.target), daemon=True)
        for query in queries
    ]
    try:
        # An interrupt inside `start` could leave threading's own lock taken, and everything waiting for it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for query, thread in zip(queries, threads, strict=True):
                _start(query, thread)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for thread in threads:
            if thread.ident is not None:
                thread.join()
    except KeyboardInterrupt:
        for query in queries:
            query.stop()
        for thread in threads:
            if thread.ident is not None:
                thread.join(_END_WAIT)


def _start(query: "BlockingQuery", thread: threading.Thread) -> None:
    """Start a thread; a host for which there is none is not asked."""
    if query.ended:
        return
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        query.refuse(TransportError(f"not asked: {shortage.explained(error) or error}"))


class BlockingQuery(HostQuery):
    """Asks one host and waits on its sockets."""

    def __init__(self, target: Target, options: ClientOptions, rules: Rules | None = None, **more: Any) -> None:
        super().__init__(target, options, rules, clock=time.monotonic, **more)
        self._poll = select.poll()
        self._look_up: LookUp | None = None
        # Whether what checks a certificate is loaded, or not needed.
        self._can_check = options.trust.insecure

    def run(self) -> HostResult:
        """Ask; the result. Never raises a TSQError, and turns Ctrl-C into an early end."""
        try:
            self._ask()
        except FAILURES as error:
            self.error = network_error(error)
        self.ended = True
        return self.result()

    def _ask(self) -> None:
        try:
            tls.check_trust(self.options.trust, self.options.timeout)
            self.association.connect(time.monotonic())
            while self._step(time.monotonic()):
                pass
        except TSQError as error:
            self.error = error
        except FAILURES as error:
            self.error = network_error(error)
        except KeyboardInterrupt:
            self.stop()
        for attempt in list(self.association.attempts):
            attempt.finish(time.monotonic())

    def _step(self, now: float) -> bool:
        """Do what is due, then wait for what comes; False when it is over."""
        if self.association.wants_addresses:
            self._see_to_addresses(now)
        goes_on = self.poller.advance(now)
        if self.stopped or not goes_on:
            return False
        attempts = self.association.attempts
        if not self._can_check and attempts and not any(attempt.channel.early is not None for attempt in attempts):
            # While the server works on its answer.
            self._can_check = True
            tls.load_checks()
        due = self.poller.deadline(now)
        # Notice a stop from another thread, and the end of a look-up, within this time.
        until = now + _STOP_WAIT if due is None else min(due, now + _STOP_WAIT)
        ready = dict(self._poll.poll(max(0.0, until - now) * 1000))
        now = time.monotonic()
        for attempt in list(attempts):
            if attempt.udp.fileno() in ready:
                attempt.readable(now, bool(ready[attempt.udp.fileno()] & select.POLLERR), time.monotonic)
        return True

    def _see_to_addresses(self, now: float) -> None:
        """Look up the host: at once for the first time and for a numeric address; later on the run does not wait for it."""
        if self._look_up is None:
            self._look_up = LookUp(self.target, self.options.family)
            if self.association.connections and not is_numeric(self.target.host):
                self._look_up.run_in_thread()
            else:
                self._look_up.run()
        if self._look_up.done.is_set():
            found, self._look_up = self._look_up, None
            if found.error is None:
                self.association.resolved(found.addresses, now)
            else:
                self.association.not_resolved(found.error, now)

    def _opened(self, attempt: Attempt) -> None:
        self._poll.register(attempt.udp.fileno(), select.POLLIN)

    def _closing(self, attempt: Attempt) -> None:
        self._poll.unregister(attempt.udp.fileno())
