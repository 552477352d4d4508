"""The blocking client: asks one host or several and gives their results. No event loop, so that it starts fast.

Comes in: targets and options. Goes out: HostResults. It waits, and nothing else: whom to reach and how is for `Association`, when
to ask for `Poller`, how for `Session`.
"""

import select
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from typing import TextIO

from tsq._fast import clock_ns
from tsq.client.association import Association, Driver
from tsq.client.attempt import Address, Attempt, network_error, open_attempt, resolve, with_precision
from tsq.client.exchange import Rules
from tsq.client.polling import Poller, interrupted
from tsq.client.result import HostResult, QueryResult
from tsq.errors import NoAnswer, TransportError, TSQError
from tsq.host import shortage
from tsq.options import ClientOptions, Target, parse_target
from tsq.quic import tls
from tsq.timing.sample import Sample

_STOP_WAIT = 0.2
_END_WAIT = 5.0

OnSample = Callable[[Target, Sample], None]
Snapshot = Callable[[], list[HostResult]]


def query(host: str | Target, options: ClientOptions | None = None, *, rules: Rules | None = None) -> QueryResult:
    """Ask one server for the time; its samples and what they say together (`result.estimate`).

    host: "name", "name:port", "[v6]:port" or a Target. Raises the TSQError that says why there is no estimate.
    """
    target = parse_target(host) if isinstance(host, str) else host
    return QueryResult.of(HostQuery(target, options or ClientOptions(), rules).run())


def query_all(
    targets: Sequence[Target],
    options: ClientOptions,
    *,
    rules: Rules | None = None,
    on_sample: OnSample | None = None,
    on_change: Callable[[Snapshot], None] | None = None,
    key_log: TextIO | None = None,
    persistent: bool = False,
) -> list[HostResult]:
    """Ask several servers at the same time; a result for each, in order. Errors are in the results, never raised.

    on_sample, on_change: called for each sample, from the thread that asks; on_change also at the start and when a host has failed
    or is done. It gets a function that gives all results so far. persistent: a host that answered once is asked until all samples
    are taken, however long it is away meanwhile. Interrupted (Ctrl-C), `query_all` gives what there is so far.
    """

    def changed() -> None:
        if on_change is not None:
            on_change(lambda: [query.result() for query in queries])

    def sampled(target: Target, sample: Sample) -> None:
        if on_sample is not None:
            on_sample(target, sample)
        changed()

    def run(query: HostQuery) -> None:
        if not query.ended:
            query.run()
        changed()

    queries = [HostQuery(target, options, rules, on_sample=sampled, key_log=key_log, persistent=persistent) for target in targets]
    most = shortage.hosts_at_a_time()
    for query in queries[most:]:
        query.refuse(_too_many(len(queries)))
    changed()
    if len(queries) == 1:
        run(queries[0])
    else:
        _in_parallel(queries, run)
    return [query.result() for query in queries]


def _in_parallel(queries: Sequence["HostQuery"], run: Callable[["HostQuery"], None]) -> None:
    """Run each in a thread of its own; Ctrl-C ends them early."""
    threads = [threading.Thread(target=run, args=(query,), name=str(query.target), daemon=True) for query in queries]
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


def _start(query: "HostQuery", thread: threading.Thread) -> None:
    """Start a thread; a host for which there is none is not asked."""
    if query.ended:
        return
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        query.refuse(TransportError(f"not asked: {shortage.explained(error) or error}"))


def _too_many(hosts: int) -> TransportError:
    limit, needed = shortage.open_files(), shortage.files_for(hosts)
    return TransportError(
        f"not asked: this process may have {limit} open files, and {hosts} hosts need {needed}",
        advice="raise the limit (ulimit -n), or ask fewer hosts at a time",
    )


class HostQuery:
    """Asking one host: the waiting, and its end."""

    def __init__(
        self,
        target: Target,
        options: ClientOptions,
        rules: Rules | None = None,
        *,
        on_sample: OnSample | None = None,
        key_log: TextIO | None = None,
        persistent: bool = False,
    ) -> None:
        self.target = target
        self._options = options
        self._notices: list[str] = []
        self._error: TSQError | None = None
        self._stopped = False
        self._ended = False
        # Whether what checks a certificate is loaded, or not needed.
        self._can_check = options.trust.insecure
        self._poll: select.epoll
        self._looked_up: _LookUp | None = None
        opener = partial(open_attempt, target, options, with_precision(rules), self._notices, key_log)
        driver = Driver(opener, self._opened, self._closing, time.monotonic, clock_ns)
        self._association = Association(driver)
        sampled = None if on_sample is None else partial(on_sample, target)
        self._poller = Poller(self._association, target, options, persistent=persistent, on_sample=sampled)

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to come."""
        return self._ended

    def refuse(self, error: TSQError) -> None:
        """Do not ask this host: what is needed for it is not there."""
        self._error = error
        self._ended = True

    def stop(self) -> None:
        """End soon with what there is; may be called from another thread."""
        self._stopped = True

    def run(self) -> HostResult:
        """Ask; the result. Never raises a TSQError, and turns Ctrl-C into an early end."""
        try:
            with select.epoll() as self._poll:
                self._ask()
        except (OSError, LookupError, ImportError, MemoryError) as error:
            self._error = network_error(error)
        self._ended = True
        return self.result()

    def _ask(self) -> None:
        try:
            tls.check_trust(self._options.trust, self._options.timeout)
            self._association.connect(time.monotonic())
            while self._step(time.monotonic()):
                pass
        except TSQError as error:
            self._error = error
        except (OSError, LookupError, ImportError, MemoryError) as error:
            self._error = network_error(error)
        except KeyboardInterrupt:
            self._stopped = True
        for attempt in list(self._association.attempts):
            attempt.finish(time.monotonic())

    def result(self) -> HostResult:
        """What there is so far."""
        unheard = self._error or (interrupted() if self._stopped or self._ended else NoAnswer("no answer yet"))
        result = self._poller.result(unheard=unheard, stopped=self._stopped, broken=self._error)
        if not self._notices:
            return result
        return replace(result, notices=tuple(dict.fromkeys([*self._notices, *result.notices])))

    def _step(self, now: float) -> bool:
        """Do what is due, then wait for what comes; False when it is over."""
        if self._association.wants_addresses:
            self._look_up(now)
        goes_on = self._poller.advance(now)
        if self._stopped or not goes_on:
            return False
        attempts = self._association.attempts
        if not self._can_check and attempts and not any(attempt.session.early is not None for attempt in attempts):
            # While the server works on its answer.
            self._can_check = True
            tls.load_checks()
        due = self._poller.deadline(now)
        # A stop that another thread asks for, and the end of a look-up, are seen within this time.
        until = now + _STOP_WAIT if due is None else min(due, now + _STOP_WAIT)
        ready = dict(self._poll.poll(max(0.0, until - now)))
        now = time.monotonic()
        for attempt in list(attempts):
            if attempt.udp.fileno() in ready:
                attempt.readable(now, bool(ready[attempt.udp.fileno()] & select.EPOLLERR), time.monotonic)
        return True

    def _look_up(self, now: float) -> None:
        """The host's addresses: at once for the first time and for a numeric one; later on, the run does not wait for them."""
        if self._looked_up is None:
            self._looked_up = _LookUp(self.target, self._options.family)
            later_on = self._association.connections and not _is_numeric(self.target.host)
            if not (later_on and _started(self._looked_up.run, f"addresses of {self.target}")):
                self._looked_up.run()
        if self._looked_up.done.is_set():
            found, self._looked_up = self._looked_up, None
            if found.error is None:
                self._association.resolved(found.addresses, now)
            else:
                self._association.not_resolved(found.error, now)

    def _opened(self, attempt: Attempt) -> None:
        self._poll.register(attempt.udp.fileno(), select.EPOLLIN)

    def _closing(self, attempt: Attempt) -> None:
        self._poll.unregister(attempt.udp.fileno())


class _LookUp:
    """The addresses of a host, or why there are none; `run` may be called in another thread."""

    def __init__(self, target: Target, family: int) -> None:
        self.addresses: list[Address] = []
        self.error: TSQError | None = None
        self.done = threading.Event()
        self._target = target
        self._family = family

    def run(self) -> None:
        """Look it up."""
        try:
            self.addresses = resolve(self._target, self._family)
        except TSQError as error:
            self.error = error
        self.done.set()


def _started(work: Callable[[], None], name: str) -> bool:
    """Run it in another thread; False where there can be none."""
    try:
        threading.Thread(target=work, name=name, daemon=True).start()
    except (RuntimeError, MemoryError):
        return False
    return True


def _is_numeric(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
