"""The blocking client: asks one host or several and gives their results. No event loop, so that it starts fast.

Comes in: targets and options. Goes out: HostResults. Holds no rules of the protocol: `Session` does; this module asks in time, and
waits. Every address of a host is tried, the next one as soon as one fails or stays silent for a while (RFC 8305 in spirit).
"""

import select
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from tsq.config import ClientOptions, Target, parse_target
from tsq.errors import NoAnswer, RejectedSamples, TransportError, TSQError
from tsq.exchange import Rules
from tsq.host import shortage
from tsq.link import Address, Link, network_error, open_link, resolve, with_precision
from tsq.quic import later, tls
from tsq.result import HostResult
from tsq.session import Session
from tsq.timing.sample import Reason, Sample

_STAGGER = 0.25
_TICKET_WAIT = 0.5
_STOP_WAIT = 0.2
_END_WAIT = 5.0
# How long the answer is waited for that makes the last sample exact; it was good without.
LAST_WAIT = 0.25
_MOST_UNDER_WAY = 16
# A path that has had so long a rest is slower for its first packet; how long the answer to that packet is waited for; from how
# many samples on that is worth twice the requests (a few are a quick look).
_REST = 0.01
_WARM_WAIT = 0.05
_WARM_FROM = 5

OnSample = Callable[[Target, Sample], None]
Snapshot = Callable[[], list[HostResult]]


def query(host: str | Target, options: ClientOptions | None = None, *, rules: Rules | None = None) -> HostResult:
    """Ask one server for the time; its samples and what they say together (`result.estimate`).

    host: "name", "name:port", "[v6]:port" or a Target. Raises the TSQError that says why there is no estimate.
    """
    target = parse_target(host) if isinstance(host, str) else host
    result = HostQuery(target, options or ClientOptions(), rules).run()
    if result.error is not None:
        raise result.error
    return result


def query_all(
    targets: Sequence[Target],
    options: ClientOptions,
    *,
    rules: Rules | None = None,
    on_sample: OnSample | None = None,
    on_change: Callable[[Snapshot], None] | None = None,
    key_log: TextIO | None = None,
) -> list[HostResult]:
    """Ask several servers at the same time; a result for each, in order. Errors are in the results, never raised.

    on_sample, on_change: called for each sample, from the thread that asks; on_change also at the start and when a host has failed
    or is done. It gets a function that gives all results so far. Interrupted (Ctrl-C), `query_all` gives what there is so far.
    """

    def changed() -> None:
        if on_change is not None:
            on_change(lambda: [query.result() for query in queries])

    def told(target: Target, sample: Sample) -> None:
        if on_sample is not None:
            on_sample(target, sample)
        changed()

    def run(query: HostQuery) -> None:
        if not query.ended:
            query.run()
        changed()

    queries = [HostQuery(target, options, rules, on_sample=told, key_log=key_log) for target in targets]
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
    """Asking one host: its addresses, its samples, its end."""

    def __init__(
        self,
        target: Target,
        options: ClientOptions,
        rules: Rules | None = None,
        *,
        on_sample: OnSample | None = None,
        key_log: TextIO | None = None,
    ) -> None:
        self.target = target
        self._options = options
        self._rules = with_precision(rules)
        self._on_sample = on_sample
        self._key_log = key_log
        self._links: list[Link] = []
        self._chosen: Link | None = None
        self._addresses: list[Address] = []
        self._next_attempt = 0.0
        self._asked = 0
        self._next_ask = 0.0
        self._linger_until: float | None = None
        self._last_until: float | None = None
        self._last_asked = False
        self._warmed_at: float | None = None
        self._reported = 0
        self._notices: list[str] = []
        self._error: TSQError | None = None
        self._stopped = False
        self._ended = False
        # Whether what checks a certificate is loaded, or not needed.
        self._can_check = options.trust.insecure
        self._last: Link | None = None
        self._poll: select.epoll

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
        except (OSError, MemoryError) as error:
            self._error = network_error(error)
        self._ended = True
        return self.result()

    def _ask(self) -> None:
        try:
            tls.check_trust(self._options.trust)
            self._addresses = resolve(self.target, self._options.family)
            while self._step(time.monotonic()):
                pass
        except TSQError as error:
            self._error = error
        except (OSError, MemoryError) as error:
            self._error = network_error(error)
        except KeyboardInterrupt:
            self._stopped = True
        for link in self._links:
            link.finish(time.monotonic())

    def result(self) -> HostResult:
        """What there is so far."""
        link = self._chosen or self._last
        if link is None:
            return HostResult(
                self.target,
                error=self._error or self._unheard(),
                notices=tuple(self._notices),
                assumed_error=self._options.server_error,
            )
        session = link.session
        samples = tuple(session.samples)
        error = session.error or self._error or (None if samples else self._unheard())
        return HostResult(
            self.target,
            address=link.address,
            mode=session.mode.value if session.established else None,
            alpn=session.alpn if session.established else None,
            zero_rtt=session.zero_rtt,
            samples=samples,
            notices=tuple(self._notices + session.notices + self._cut_short(session)),
            error=why_nothing(samples, error),
            assumed_error=self._options.server_error,
        )

    def _unheard(self) -> NoAnswer:
        """The error of a host of which nothing is known yet, or never will be."""
        return _interrupted() if self._stopped or self._ended else NoAnswer("no answer yet")

    def _cut_short(self, session: Session) -> list[str]:
        """What to say of a run that ended before all its samples were taken."""
        taken, wanted = len(session.samples), self._options.count
        if self._asked >= wanted or (session.error is None and not self._stopped):
            return []
        if not any(sample.valid for sample in session.samples):
            # The error says it.
            return []
        return [f"ended after {taken} of {wanted} samples: {session.error or 'stopped'}"]

    def _step(self, now: float) -> bool:
        """Do what is due, then wait for what comes; False when it is over."""
        self._start_attempts(now)
        for link in list(self._links):
            if link in self._links:
                self._tend(link, now)
        if self._stopped or self._done(now):
            return False
        if not self._can_check and not any(link.session.early for link in self._links):
            # While the server works on its answer.
            self._can_check = True
            later.load_rest()
        ready = dict(self._poll.poll(max(0.0, self._deadline(now) - now)))
        now = time.monotonic()
        for link in self._links:
            if link.udp.fileno() in ready:
                link.readable(now, stamps=bool(ready[link.udp.fileno()] & select.EPOLLERR))
        return True

    def _tend(self, link: Link, now: float) -> None:
        session = link.session
        if session.deadline is not None and session.deadline <= now:
            session.handle_timer(now)
        if session.error is not None and self._chosen is None:
            self._error = session.error
            self._drop(link, now)
            self._next_attempt = now
            return
        if session.established and self._chosen is None:
            self._choose(link, now)
        if link is self._chosen and self._may_ask(session):
            self._take_sample(session, now)
        link.pump(now)
        if self._on_sample is not None and link is self._chosen:
            for sample in session.samples[self._reported :]:
                self._on_sample(self.target, sample)
            self._reported = len(session.samples)

    def _take_sample(self, session: Session, now: float) -> None:
        """Ask when it is time; after a rest, first a request that makes no sample, to warm the path for the one that does."""
        if self._warmed_at is None and now < self._next_ask:
            return
        long_run = self._options.count >= _WARM_FROM and self._options.interval >= _REST
        rested = long_run and session.gains_by_warmth
        if rested and self._warmed_at is None:
            session.ask(now, counted=False)
            self._warmed_at, self._next_ask = now, now + _WARM_WAIT
        elif self._warmed_at is None or not session.warming or now >= self._next_ask:
            session.ask(now)
            self._asked += 1
            started = now if self._warmed_at is None else self._warmed_at
            self._warmed_at, self._next_ask = None, started + self._options.interval

    def _may_ask(self, session: Session) -> bool:
        """Whether there is a sample to take, and not so many are under way that the server may have to leave some unanswered."""
        return session.error is None and self._asked < self._options.count and session.waiting < _MOST_UNDER_WAY

    def _choose(self, link: Link, now: float) -> None:
        """The first address whose handshake completes serves all samples."""
        self._chosen = link
        self._error = None
        for other in [other for other in self._links if other is not link]:
            self._drop(other, now)
        if link.session.early:
            self._asked, self._next_ask = 1, now + self._options.interval

    def _drop(self, link: Link, now: float) -> None:
        self._poll.unregister(link.udp.fileno())
        link.finish(now)
        self._links.remove(link)
        self._last = link

    def _done(self, now: float) -> bool:
        if self._chosen is None:
            return not self._links and not self._addresses
        session = self._chosen.session
        if session.error is not None:
            return True
        if self._asked < self._options.count or (session.waiting and not self._last_asked):
            return False
        if session.wants_one_more and not session.waiting and (self._last_until is None or self._waits_last(now)):
            self._last_asked = True
            self._last_until = self._last_until or now + LAST_WAIT
            session.ask_last(now)
            self._chosen.pump(now)
        if self._last_until is not None and session.waiting and now < self._last_until:
            return False
        if self._options.session_file is None or self._chosen.connection.tickets:
            return True
        # The ticket for next time comes one flight after the handshake.
        if self._linger_until is None:
            self._linger_until = now + _TICKET_WAIT
        return now >= self._linger_until

    def _deadline(self, now: float) -> float:
        # A stop that another thread asks for is seen within this time.
        times: list[float | None] = [now + _STOP_WAIT, self._linger_until, self._last_until if self._waits_last(now) else None]
        times += [link.session.deadline for link in self._links]
        if self._chosen is None and self._addresses:
            times.append(self._next_attempt)
        if self._chosen is not None and self._may_ask(self._chosen.session):
            times.append(self._next_ask)
        return min(time for time in times if time is not None)

    def _waits_last(self, now: float) -> bool:
        return self._last_until is not None and now < self._last_until

    def _start_attempts(self, now: float) -> None:
        while self._addresses and self._chosen is None and (now >= self._next_attempt or not self._links):
            family, address = self._addresses.pop(0)
            try:
                link = open_link(self.target, family, address, self._options, self._rules, self._notices, self._key_log)
            except OSError as error:
                self._error = network_error(error)
                continue
            self._links.append(link)
            self._poll.register(link.udp.fileno(), select.EPOLLIN)
            link.session.start(now)
            self._next_attempt = now + _STAGGER


def why_nothing(samples: Sequence[Sample], error: TSQError | None) -> TSQError | None:
    """The error to report where no sample is valid; None where one is."""
    if any(sample.valid for sample in samples):
        return None
    rejected = [sample for sample in samples if sample.reason not in (Reason.NO_ANSWER, Reason.CONNECTION_LOST)]
    if error is None and rejected:
        last = rejected[-1]
        detail = f" ({last.detail})" if last.detail else ""
        return RejectedSamples(f"all answers were rejected; the last one: {last.reason}{detail}", advice="-v shows each sample")
    if error is None and samples:
        requests = "the request was not" if len(samples) == 1 else f"none of {len(samples)} requests was"
        return NoAnswer(f"connected, but {requests} answered", advice="try again, or with --stream")
    return error or _interrupted()


def _interrupted() -> NoAnswer:
    return NoAnswer("stopped before an answer came")
