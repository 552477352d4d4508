"""What asking hosts needs besides waiting: a poller for each host, its result so far, and several hosts at the same time.

Comes in: targets, options, what to call for each sample. Goes out: HostQueries for a driver to run, HostResults. It must never
wait.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Generic, TextIO, TypeVar

from tsq._fast import clock_ns
from tsq.client.association import Association, Driver
from tsq.client.attempt import Attempt, open_attempt, with_precision
from tsq.client.exchange import Exchanged, Rules
from tsq.client.polling import Poller, interrupted
from tsq.client.result import HostResult
from tsq.errors import NoAnswer, TransportError, TSQError
from tsq.host import shortage
from tsq.options import ClientOptions, Target
from tsq.timing.sample import Sample

OnSample = Callable[[Target, Sample], None]
OnExchange = Callable[[Target, Exchanged], None]
Snapshot = Callable[[], list[HostResult]]
OnChange = Callable[[Snapshot], None]


class HostQuery(ABC):
    """One host that is asked `options.count` times. A driver is a subclass: it waits, and ends the attempts.

    error: why the query ended early. stopped: whether `stop` was called. ended: whether there is nothing more to come.
    """

    def __init__(
        self,
        target: Target,
        options: ClientOptions,
        rules: Rules | None,
        *,
        clock: Callable[[], float],
        on_sample: OnSample | None = None,
        key_log: TextIO | None = None,
        persistent: bool = False,
        on_exchange: OnExchange | None = None,
    ) -> None:
        if on_exchange is not None:
            rules = replace(rules or Rules(), keep=partial(on_exchange, target))
        self.target = target
        self.options = options
        self.error: TSQError | None = None
        self.stopped = False
        self.ended = False
        self._notices: list[str] = []
        opener = partial(open_attempt, target, options, with_precision(rules), self._notices, key_log)
        self.association = Association(Driver(opener, self._opened, self._closing, clock, clock_ns))
        sampled = None if on_sample is None else partial(on_sample, target)
        self.poller = Poller(self.association, target, options, persistent=persistent, on_sample=sampled)

    def refuse(self, error: TSQError) -> None:
        """Do not ask this host: what is needed for it is not there."""
        self.error = error
        self.ended = True

    def stop(self) -> None:
        """End soon with what there is; may be called from another thread."""
        self.stopped = True

    def result(self) -> HostResult:
        """What there is so far."""
        unheard = self.error or (interrupted() if self.stopped or self.ended else NoAnswer("no answer yet"))
        result = self.poller.result(unheard=unheard, stopped=self.stopped, broken=self.error)
        if not self._notices:
            return result
        return replace(result, notices=tuple(dict.fromkeys([*self._notices, *result.notices])))

    @abstractmethod
    def _opened(self, attempt: Attempt) -> None:
        """Begin to wait for an attempt's socket."""

    @abstractmethod
    def _closing(self, attempt: Attempt) -> None:
        """Cease to wait for an attempt's socket."""


AnyQuery = TypeVar("AnyQuery", bound=HostQuery)


class Together(Generic[AnyQuery]):
    """The queries of several hosts. Those for which there are too few open files are refused.

    make: a query for a target, which calls what it is given for each sample. on_sample, on_change: as in `tsq.query_all`.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        make: Callable[[Target, OnSample], AnyQuery],
        on_sample: OnSample | None,
        on_change: OnChange | None,
    ) -> None:
        self._on_sample = on_sample
        self._on_change = on_change
        self.queries = [make(target, self._sampled) for target in targets]
        for query in self.queries[shortage.hosts_at_a_time() :]:
            query.refuse(_too_many(len(self.queries)))
        self.changed()

    def results(self) -> list[HostResult]:
        """All results so far."""
        return [query.result() for query in self.queries]

    def changed(self) -> None:
        """Report that a result has changed."""
        if self._on_change is not None:
            self._on_change(self.results)

    def _sampled(self, target: Target, sample: Sample) -> None:
        if self._on_sample is not None:
            self._on_sample(target, sample)
        self.changed()


def _too_many(hosts: int) -> TransportError:
    limit, needed = shortage.open_files(), shortage.files_for(hosts)
    return TransportError(
        f"not asked: this process may have {limit} open files, and {hosts} hosts need {needed}",
        advice="raise the limit (ulimit -n), or ask fewer hosts at a time",
    )
