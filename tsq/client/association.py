"""The association with one host, without waiting: its addresses, the attempts to reach it, the connection in use.

Comes in: addresses, the monotonic time, which sockets can be read. Goes out: what its driver must do (`wants_addresses`,
`deadline`, sockets that are opened and closed), and one outcome for every request. All clients drive this. It must never wait, and
never leave a request without an outcome.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from tsq.client.attempt import Attempt
from tsq.client.channel import Channel
from tsq.client.network_errors import network_error
from tsq.client.outcomes import Outcome
from tsq.client.resolving import Address
from tsq.errors import ConnectionLost, NothingListens, TSQError, rank
from tsq.quic.outcome import has_left, is_idle
from tsq.timing.sample import Reason, Sample

# Try the next address when one fails or is silent for this time (as in RFC 8305).
_STAGGER = 0.25
# Seconds between the starts of two rounds of attempts; doubled with each round, until a sample is valid again.
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 8.0
# The same while a caller waits for a connection.
_LONGEST_PAUSE_ON_DEMAND = 1.0
# With this many requests in a row without an answer the connection is bad, even if packets arrive on it.
_MOST_UNANSWERED = 4


@dataclass(frozen=True, slots=True)
class Driver:
    """What an association needs from its driver.

    open: a socket and a channel for an address; raises OSError if it cannot be reached. opened, closing: called when an
    attempt's socket begins and ceases to be read. clock: the monotonic time; unix_ns: the system clock.
    """

    open: Callable[[Address, Iterator[int]], Attempt]
    opened: Callable[[Attempt], None]
    closing: Callable[[Attempt], None]
    clock: Callable[[], float]
    unix_ns: Callable[[], int]


class Association:
    """Connects on `connect`; connects again, beside the old connection, if that seems dead.

    wants_addresses: `resolved` or `not_resolved` is to be called. connecting: a round of attempts is under way. failure: why the
    last round failed. loss: why the last connection ended. lost: why there is none now, after there was one that was not merely
    idle; None where there is one. retry_at: when a new round may begin. connections: how many there were.
    """

    def __init__(self, driver: Driver) -> None:
        self.chosen: Attempt | None = None
        self.attempts: list[Attempt] = []
        self.wants_addresses = False
        self.connecting = False
        self.failure: TSQError | None = None
        self.loss: TSQError | None = None
        self.lost: TSQError | None = None
        self.retry_at = 0.0
        self.connections = 0
        # The connection that was used before, while its last requests may still be answered.
        self._replaced: Attempt | None = None
        self._driver = driver
        self._numbers = count()
        self._latest: Attempt | None = None
        self._addresses: list[Address] = []
        self._known: list[Address] = []
        self._next_attempt = 0.0
        self._began_at = 0.0
        self._worst: TSQError | None = None
        self._pause = _FIRST_PAUSE
        self._idle = False
        self._fresh = False
        self._zero_rtt = False
        # Whether an earlier connection gave samples, and the server has not reported the state of its clock since.
        self._state_unknown = False
        self._again = 0
        self._again_because = ""
        self._outcomes: list[Outcome] = []
        # Addresses at which a handshake with a ticket failed in this round; at which one stalled, and another one has begun; which
        # are asked from another port, because nothing listened.
        self._without_ticket: list[Address] = []
        self._begun_again: list[Address] = []
        self._from_another_port: list[Address] = []
        self._ticket_notice = ""
        # The address whose server has parted from its clients: others come first.
        self._left: Address | None = None

    @property
    def channel(self) -> Channel | None:
        """The channel in use; None while there is no connection."""
        return None if self.chosen is None else self.chosen.channel

    @property
    def waiting(self) -> int:
        """How many requests have no outcome yet."""
        return sum(attempt.channel.waiting for attempt in (self.chosen, self._replaced) if attempt is not None)

    @property
    def latest(self) -> Attempt | None:
        """The connection in use, or the attempt that ended last."""
        return self.chosen or self._latest

    @property
    def zero_rtt(self) -> bool:
        """Whether a request of the first flight was answered, on the first connection."""
        channel = None if self.latest is None else self.latest.channel
        return self._zero_rtt or (channel is not None and channel.zero_rtt)

    @property
    def state_unknown(self) -> bool:
        """Whether there are samples, and the server was asked about its own clock and has not answered that since."""
        return self._unknown_with(None if self.chosen is None else self.chosen.channel)

    def _unknown_with(self, channel: Channel | None) -> bool:
        if channel is None:
            return self._state_unknown
        return channel.state_unknown or (self._state_unknown and not channel.exchange.state_answered)

    @property
    def notices(self) -> list[str]:
        """What a user should know of the connections."""
        notices = [] if self.latest is None else list(self.latest.channel.notices)
        if self._ticket_notice:
            notices.append(self._ticket_notice)
        if self._again:
            times = "once" if self._again == 1 else f"{self._again} times"
            notices.append(f"connected again {times}; the last time because {self._again_because}")
        return notices

    def deadline(self, now: float) -> float | None:
        """When `advance` is due."""
        times = [attempt.channel.deadline for attempt in self.attempts]
        times += [now for attempt in self.attempts if attempt.backlog]
        times += [self._stalled_at(attempt) for attempt in self.attempts]
        if self._fresh:
            times.append(now)
        if self._addresses:
            times.append(self._next_attempt)
        return min((time for time in times if time is not None), default=None)

    @property
    def doubtful(self) -> bool:
        """Whether there is a connection, but a send failed or nothing arrived in the time of the last request."""
        return self.chosen is not None and (self.chosen.channel.send_failed or self.chosen.channel.silent)

    @property
    def retry_on_demand_at(self) -> float:
        """When a new round may begin if a caller waits for it."""
        return min(self.retry_at, self._began_at + _LONGEST_PAUSE_ON_DEMAND)

    def connect(self, now: float, *, on_demand: bool = False) -> None:
        """Begin a round of attempts, unless one is under way or it is too early for one."""
        if self.connecting or now < (self.retry_on_demand_at if on_demand else self.retry_at):
            return
        self._began_at = now
        self.connecting = self.wants_addresses = True
        self.failure = self._worst = None
        self._addresses = []
        self._without_ticket = []
        self._begun_again = []
        self._from_another_port = []
        self.retry_at = now + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def resolved(self, addresses: Sequence[Address], now: float) -> None:
        """The host's addresses, in the order in which to try them."""
        if not self.wants_addresses:
            return
        self.wants_addresses = False
        self._known = list(addresses)
        self._addresses = sorted(addresses, key=lambda one: one == self._left)
        self._next_attempt = now

    def not_resolved(self, error: TSQError, now: float) -> None:
        """The name could not be looked up. Try the last addresses: while the network is down, no name can be looked up."""
        self._note_failure(error)
        self.resolved(self._known, now)

    def ask(self, now: float, *, counted: bool = True, patience: float | None = None) -> int:
        """Send a request; its number. Without a connection its outcome is there at once."""
        at_ns = self._driver.unix_ns()
        if self.chosen is not None:
            return self.chosen.channel.ask(now, counted=counted, at_ns=at_ns, patience=patience)
        number = next(self._numbers)
        error = self.failure or self.loss
        detail = "no connection" if error is None else f"no connection: {error.found}"
        self._outcomes.append(Outcome(number, Sample(at_ns, reason=Reason.NOT_SENT, detail=detail)))
        return number

    def take(self) -> list[Outcome]:
        """The outcomes of requests since the last call."""
        taken, self._outcomes = self._outcomes, []
        return taken

    def advance(self, now: float) -> None:
        """Do what is due: timers, attempts, datagrams to send."""
        self._start_attempts(now)
        for attempt in list(self.attempts):
            if attempt in self.attempts:
                self._tend(attempt, now)
        if self.connecting and not self.wants_addresses and not self._addresses and not self._candidates():
            self.connecting = False
            self.failure = self._worst or ConnectionLost("no address")
            if self.connections and self.chosen is None:
                self.lost = self.failure

    def pump(self, now: float) -> None:
        """Send the requests that `ask` has just made."""
        if self.chosen is not None:
            self._send_and_collect(self.chosen, now)

    def move(self) -> None:
        """Go on with the connection in use from a new socket: this machine has another address now. `advance` follows."""
        attempt = self.chosen
        if attempt is None:
            return
        self._driver.closing(attempt)
        try:
            attempt.move()
        except OSError as error:
            attempt.channel.fail(network_error(error))
        self._driver.opened(attempt)

    def lose(self, error: TSQError) -> None:
        """End all connections and attempts: the network that they used is gone. `advance` follows."""
        for attempt in self.attempts:
            attempt.channel.fail(error)

    def finish(self, now: float) -> None:
        """Close everything; every request without an outcome ends."""
        self._abandon(now)
        ending, self.chosen, self._replaced = (self._replaced, self.chosen), None, None
        for attempt in ending:
            if attempt is not None:
                self._drop(attempt, now)
                self._end_requests(attempt, ConnectionLost("the client was closed"))

    def _candidates(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt is not self.chosen and attempt is not self._replaced]

    def _start_attempts(self, now: float) -> None:
        while self._addresses and (now >= self._next_attempt or not self._candidates()):
            try:
                attempt = self._driver.open(self._addresses.pop(0), self._numbers)
            except OSError as error:
                self._note_failure(network_error(error))
                continue
            self.attempts.append(attempt)
            self._driver.opened(attempt)
            # 0-RTT is for the first connection only: later ones are made before their requests.
            attempt.channel.start(now, at_ns=self._driver.unix_ns(), early=self.connections == 0)
            self._next_attempt = now + _STAGGER

    def _tend(self, attempt: Attempt, now: float) -> None:
        channel = attempt.channel
        if attempt.backlog:
            attempt.readable(now, clock=self._driver.clock)
        due = channel.deadline
        if due is not None and due <= now:
            channel.handle_timer(now)
        if channel.established and channel.error is None and attempt in self._candidates():
            self._choose(attempt, now)
            # What ends the handshake waits for the first request, so that both go in one datagram; `deadline` says until when.
            self._fresh = True
            return
        stalled_at = self._stalled_at(attempt)
        if stalled_at is not None and stalled_at <= now:
            self._begin_again(attempt, now)
        self._send_and_collect(attempt, now)

    def _stalled_at(self, attempt: Attempt) -> float | None:
        """When to begin another handshake because this one has stalled; None for never."""
        stalled_at = attempt.channel.stalled_at
        if stalled_at is None or attempt is self._replaced:
            return None
        if attempt is self.chosen:
            return None if self.connecting else max(stalled_at, self.retry_at)
        return None if attempt.origin is None or attempt.origin in self._begun_again else stalled_at

    def _begin_again(self, attempt: Attempt, now: float) -> None:
        """Begin another handshake beside a stalled one; the first to complete is used. In a round, once for each address."""
        if attempt is self.chosen:
            self.connect(now)
        elif attempt.origin is not None:
            self._begun_again.append(attempt.origin)
            self._addresses.insert(0, attempt.origin)
            self._next_attempt = now

    def _send_and_collect(self, attempt: Attempt, now: float) -> None:
        channel = attempt.channel
        self._fresh = self._fresh and attempt is not self.chosen
        attempt.pump(now)
        if attempt is self.chosen:
            self._collect(channel, now)
        elif attempt is self._replaced:
            self._outcomes += channel.take()
            if not channel.waiting:
                self._replaced = None
                self._drop(attempt, now)
                return
        if channel.error is not None:
            self._ended(attempt, channel.error, now)

    def _choose(self, attempt: Attempt, now: float) -> None:
        """Use the first attempt whose handshake completes, in place of a connection that seemed dead."""
        old, self.chosen = self.chosen, attempt
        if old is not None:
            why = "requests could not be sent" if old.channel.send_failed else "the server did not answer any more"
            self.loss = ConnectionLost(why)
            self._again_because = why
            self._replace(old, now)
            if old.channel.stalled_at is not None:
                # The server has never confirmed it, and does not know its requests.
                self._end_requests(old, self.loss)
        elif self.loss is not None:
            self._again_because = self.loss.found
        if self.connections and not self._idle:
            self._again += 1
        self._idle = False
        self.connections += 1
        self._abandon(now)
        self.failure = self.lost = None

    def _replace(self, old: Attempt, now: float) -> None:
        """Keep the old connection until its requests have ended."""
        if self._replaced is not None:
            older, self._replaced = self._replaced, None
            self._drop(older, now)
            self._end_requests(older, ConnectionLost("the server did not answer any more"))
        self._replaced = old

    def _end_requests(self, attempt: Attempt, error: TSQError) -> None:
        attempt.channel.fail(error)
        self._outcomes += attempt.channel.take()

    def _abandon(self, now: float) -> None:
        """End the round of attempts: there is a connection to use."""
        for other in self._candidates():
            self._drop(other, now)
        self.connecting = self.wants_addresses = False
        self._addresses = []

    def _collect(self, channel: Channel, now: float) -> None:
        """Take the outcomes, and learn from them how good the connection is."""
        outcomes = channel.take()
        self._outcomes += outcomes
        if any(outcome.sample.valid for outcome in outcomes):
            self._pause = _FIRST_PAUSE
            if self.connecting:
                # The connection works.
                self._abandon(now)
        elif channel.error is None and (channel.send_failed or channel.silent or channel.unanswered >= _MOST_UNANSWERED):
            self.connect(now)

    def _ended(self, attempt: Attempt, error: TSQError, now: float) -> None:
        if attempt is self._replaced:
            self._replaced = None
        elif attempt is self.chosen:
            self.chosen = None
            self.loss = error
            # Do not report that a connection idled out which was not in use.
            lost = any(outcome.sample.reason is Reason.CONNECTION_LOST for outcome in self._outcomes)
            self._idle = is_idle(error) and not lost and not attempt.channel.send_failed
            self._left = attempt.origin if has_left(error) else None
            self.lost = None if self._idle or self._left is not None else error
        else:
            self._candidate_failed(attempt, error)
            self._next_attempt = now
        self._drop(attempt, now)

    def _candidate_failed(self, attempt: Attempt, error: TSQError) -> None:
        """Note why. If its session ticket or its port may be the reason, try the same address without it, or from another one."""
        origin = attempt.origin
        if origin is not None and attempt.ticket_failed and origin not in self._without_ticket:
            # The ticket was removed from its file when it was taken.
            self._without_ticket.append(origin)
            self._addresses.insert(0, origin)
            self._ticket_notice = f"the session ticket is good for nothing ({error.found}); asked again without"
            return
        refused = type(error) is NothingListens and self.connections > 0
        if origin is not None and refused and origin not in self._from_another_port:
            # A balancer that goes by ports may still send this one's packets to a server that is gone.
            self._from_another_port.append(origin)
            self._addresses.insert(0, origin)
            return
        self._note_failure(error)

    def _note_failure(self, error: TSQError) -> None:
        """Keep the error that says most about the server."""
        if self._worst is None or rank(error) < rank(self._worst):
            self._worst = error

    def _drop(self, attempt: Attempt, now: float) -> None:
        self._driver.closing(attempt)
        attempt.finish(now)
        self.attempts.remove(attempt)
        self._zero_rtt = self._zero_rtt or attempt.channel.zero_rtt
        self._state_unknown = self._unknown_with(attempt.channel)
        if self._latest is None or attempt.channel.established or not self._latest.channel.established:
            self._latest = attempt
