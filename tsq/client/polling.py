"""Decide when to send the requests to a host and when the run is over: a number of samples, an interval apart.

Comes in: an association, options, the monotonic time. Goes out: samples and a HostResult. It must never wait, and holds no rules of
the protocol: `Channel` does.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from tsq.client.association import Association
from tsq.client.channel import Channel
from tsq.client.result import HostResult
from tsq.errors import NoAnswer, RejectedSamples, TSQError, Unreachable, rank
from tsq.options import ClientOptions, Precision, Target
from tsq.settings import Setting
from tsq.timing.sample import Reason, Sample

# The beginning of a notice.
NO_CONNECTION = "no connection at present"
_TICKET_WAIT = 0.5
# How long to wait for the answer that makes the last sample exact, or reports how good the server's clock is.
LAST_WAIT = 0.25
_MOST_UNDER_WAY = 16
# After an idle time of _PATH_IDLE a path is slower for its first packet. _WARM_WAIT: how long to wait for the answer to that
# packet. _WARM_FROM: with fewer samples than this, do not warm the path: it takes twice the requests.
_PATH_IDLE = 0.01
_WARM_WAIT = 0.05
_WARM_FROM = 5
# Between samples while there is no connection, so that the run is no busy loop.
_LEAST_PAUSE = 0.2
# How many of the last samples a later answer may make exact.
_REVISABLE = 128
_UNANSWERED = (Reason.NO_ANSWER, Reason.CONNECTION_LOST, Reason.NOT_SENT)


class Poller:
    """Takes `options.count` samples of a host. persistent: go on while there is no connection; each sample in that time is lost.

    Otherwise a run whose connection is lost tries to connect again for `options.timeout` seconds, and ends if it cannot.
    """

    def __init__(
        self,
        association: Association,
        target: Target,
        options: ClientOptions,
        *,
        persistent: bool = False,
        on_sample: Callable[[Sample], None] | None = None,
    ) -> None:
        self.association = association
        self.samples: list[Sample] = []
        self._target = target
        self._options = options
        self._persistent = persistent
        self._on_sample = on_sample
        self._places: OrderedDict[int, int] = OrderedDict()
        self._asked = 0
        self._next_ask = 0.0
        self._connections = 0
        self._tried = False
        self._gave_up = False
        self._give_up_at: float | None = None
        self._linger_until: float | None = None
        self._last_until: float | None = None
        self._last_asked = False
        self._warmed_at: float | None = None

    def advance(self, now: float) -> bool:
        """Do what is due; False when it is over."""
        self.association.advance(now)
        self._collect()
        channel = self.association.channel
        if self.association.connections != self._connections:
            self._connected(channel, now)
        if self._asked < self._options.count:
            if channel is None:
                self._do_without(now)
                self._collect()
            elif channel.waiting < _MOST_UNDER_WAY and self._take_sample(channel, now):
                self.association.pump(now)
                self._collect()
        return not self._is_over(now)

    def deadline(self, now: float) -> float | None:
        """When `advance` is due."""
        channel = self.association.channel
        times = [self.association.deadline(now), self._linger_until, self._last_until if self._waits_last(now) else None]
        if self._asked < self._options.count and self.association.connections:
            if channel is None and not self.association.connecting:
                times.append(max(self._next_ask, min(self.association.retry_at, self._give_up_at or self.association.retry_at)))
            elif channel is not None and channel.waiting < _MOST_UNDER_WAY:
                times.append(self._next_ask)
        return min((time for time in times if time is not None), default=None)

    def result(self, *, unheard: TSQError, stopped: bool, broken: TSQError | None = None) -> HostResult:
        """What there is so far.

        unheard: the error of a host from which nothing was received. stopped: the run was ended early; broken: by this error.
        """
        association = self.association
        attempt = association.latest
        given_nothing = association.channel is None and not any(sample.valid for sample in self.samples)
        ended = broken or (self._why_lost() if self._gave_up or given_nothing else None)
        error = ended or (None if association.connections else association.failure) or (None if self.samples else unheard)
        return host_result(
            self._target,
            self._options,
            association,
            self.samples,
            notices=[*association.notices, *self._without_connection(), *self._cut_short(ended, stopped=stopped)],
            error=error if attempt is None else no_sample_error(self.samples, error),
        )

    def _why_lost(self) -> TSQError | None:
        """Why there is no connection any more: how the last one ended, or why there is no other one, whichever says more."""
        errors = [error for error in (self.association.loss, self.association.failure) if error is not None]
        return min(errors, key=rank, default=None)

    def _without_connection(self) -> list[str]:
        """A notice while a run goes on without a connection: why, for example because the certificate is refused by now."""
        lost = self.association.lost
        if lost is None or not self._persistent or not any(sample.valid for sample in self.samples):
            return []
        return [f"{NO_CONNECTION}: {lost.found}"]

    def _cut_short(self, ended: TSQError | None, *, stopped: bool) -> list[str]:
        """A notice about a run that ended before all its samples were taken."""
        if self._asked >= self._options.count or (ended is None and not stopped):
            return []
        if not any(sample.valid for sample in self.samples):
            # The error says so.
            return []
        return [f"ended after {len(self.samples)} of {self._options.count} samples: {ended or 'stopped'}"]

    def _connected(self, channel: Channel | None, now: float) -> None:
        """There is a connection, the first one or another one."""
        self._connections = self.association.connections
        self._warmed_at = None
        self._tried = False
        if channel is not None and channel.early is not None:
            self._asked, self._next_ask = 1, now + self._options.interval

    def _collect(self) -> None:
        for outcome in self.association.take():
            place = self._places.get(outcome.number)
            if place is not None:
                self.samples[place] = outcome.sample
                continue
            self._places[outcome.number] = len(self.samples)
            if len(self._places) > _REVISABLE:
                self._places.popitem(last=False)
            self.samples.append(outcome.sample)
            if outcome.sample.valid:
                self._give_up_at = None
            if self._on_sample is not None:
                self._on_sample(outcome.sample)

    def _take_sample(self, channel: Channel, now: float) -> bool:
        """Send a request if it is time; whether one was sent. After an idle time, first send a request that makes no sample, to
        warm the path for the next one.
        """
        if self._warmed_at is None and now < self._next_ask:
            return False
        long_run = self._options.count >= _WARM_FROM and self._options.interval >= _PATH_IDLE
        cold = long_run and channel.gains_by_warming
        if cold and self._warmed_at is None:
            self.association.ask(now, counted=False)
            self._warmed_at, self._next_ask = now, now + _WARM_WAIT
            return True
        if self._warmed_at is not None and channel.warming and now < self._next_ask:
            return False
        self.association.ask(now)
        self._asked += 1
        started = now if self._warmed_at is None else self._warmed_at
        self._warmed_at, self._next_ask = None, started + self._options.interval
        return True

    def _do_without(self, now: float) -> None:
        """A sample is due and the connection was lost: connect again. Do not connect before a sample is due."""
        association = self.association
        if not association.connections or association.connecting or now < self._next_ask:
            return
        if self._give_up_at is None:
            self._give_up_at = now + self._options.timeout
        if not self._persistent and not any(sample.valid for sample in self.samples):
            # Do not ask a server again and again that closes the connection instead of answering.
            self._gave_up = True
            return
        may_try = now >= association.retry_at and not (self._persistent and self._tried)
        if may_try and (self._persistent or not self._tried or now < self._give_up_at):
            self._tried = True
            association.connect(now)
        elif self._persistent:
            self._tried = False
            association.ask(now)
            self._asked += 1
            self._next_ask = now + max(self._options.interval, _LEAST_PAUSE)
        elif now >= self._give_up_at:
            self._gave_up = True

    def _is_over(self, now: float) -> bool:
        association = self.association
        if not association.connections:
            return association.failure is not None and not association.connecting
        if self._gave_up:
            return True
        channel = association.channel
        if self._asked < self._options.count or (association.waiting and not self._last_asked):
            return False
        if channel is None:
            return True
        if channel.wants_one_more and not channel.waiting and (self._last_until is None or self._waits_last(now)):
            self._last_asked = True
            self._last_until = self._last_until or now + LAST_WAIT
            channel.ask_last(now)
            association.pump(now)
            self._collect()
        if self._last_until is not None and channel.waiting and now < self._last_until:
            return False
        return self._has_ticket(now)

    def _has_ticket(self, now: float) -> bool:
        """Whether the ticket for the next run has come, or is not worth waiting for: it comes one flight after the handshake."""
        chosen = self.association.chosen
        if self._options.session_file is None or chosen is None or chosen.connection.tickets:
            return True
        if self._linger_until is None:
            self._linger_until = now + _TICKET_WAIT
        return now >= self._linger_until

    def _waits_last(self, now: float) -> bool:
        return self._last_until is not None and now < self._last_until


def host_result(
    target: Target,
    options: ClientOptions,
    association: Association,
    samples: Sequence[Sample],
    *,
    notices: Sequence[str],
    error: TSQError | None = None,
) -> HostResult:
    """These samples of a host, with the circumstances of its connection."""
    attempt = association.latest
    channel = None if attempt is None else attempt.channel
    there = channel is not None and channel.established
    return HostResult(
        target,
        address=None if attempt is None else attempt.address,
        mode=channel.mode.value if channel is not None and there else None,
        alpn=channel.alpn if channel is not None and there else None,
        zero_rtt=association.zero_rtt,
        samples=tuple(samples),
        notices=tuple(dict.fromkeys([*notices, *_not_precise(options, samples)])),
        error=error,
        assumed_error=options.server_error,
        state_unknown=association.state_unknown and not options.accept_unknown,
        metadata={} if channel is None else channel.exchange.metadata,
    )


def _not_precise(options: ClientOptions, samples: Sequence[Sample]) -> list[str]:
    """A notice where Precision Mode was asked for, and answers were not in it."""
    valid = sum(sample.valid for sample in samples)
    precise = sum(sample.valid and sample.precise for sample in samples)
    if options.precision is Precision.OFF or precise == valid:
        return []
    return [f"Precision Mode: {precise} of {valid} samples; the server did not answer the other requests in it"]


def no_sample_error(samples: Sequence[Sample], error: TSQError | None) -> TSQError | None:
    """The error to report where no sample is valid; None where one is."""
    if any(sample.valid for sample in samples):
        return None
    rejected = [sample for sample in samples if sample.reason not in _UNANSWERED]
    if error is None and rejected:
        last = rejected[-1]
        detail = f" ({last.detail})" if last.detail else ""
        return RejectedSamples(f"all answers were rejected; the last one: {last.reason}{detail}", advice="-v shows each sample")
    if error is None and samples:
        requests = "the request" if len(samples) == 1 else f"none of {len(samples)} requests"
        if all(sample.reason is Reason.NOT_SENT for sample in samples):
            was = "could not be sent" if len(samples) == 1 else "could be sent"
            return Unreachable(f"connected, but {requests} {was} ({samples[-1].detail})", advice="check routes and firewalls")
        was = "was not" if len(samples) == 1 else "was"
        return NoAnswer(f"connected, but {requests} {was} answered", advice=f"try again, or with {Setting.STREAM}")
    return error or interrupted()


def interrupted() -> NoAnswer:
    """The error of a run that was stopped before an answer came."""
    return NoAnswer("stopped before an answer came")
