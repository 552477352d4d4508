"""One connection to one server address with its exchanges, without I/O.

Comes in: received datagrams with their receive timestamps, transmit timestamps, the monotonic time. Goes out: datagrams to send,
one outcome for every request, an error at the end. It must never read a clock or touch a socket (its driver does), and never leave
a request without an outcome, whatever fails.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from math import inf

from tsq.client.exchange import Exchange, Rules
from tsq.client.outcomes import REMEMBERED_BY_SERVER, Outcome, Outcomes
from tsq.errors import HandshakeTimeout, TransportError, TSQError
from tsq.quic.client_connection import ClientConnection
from tsq.quic.connection import Message
from tsq.quic.udp import Datagram, Transmission
from tsq.settings import Setting
from tsq.timing.local_clock import ClockReading
from tsq.timing.sample import Reason, Sample, StampSource
from tsq.wire.message import Mode, is_response

# How long to wait for the answer to a 0-RTT request after the handshake is complete, at least.
_EARLY_GRACE = 0.02
# The same for a request of the handshake's last flight, after the server has confirmed that: a lost packet is rare.
_LAST_FLIGHT_GRACE = 0.25
_HELD_BACK_PAUSE = 0.005
# A handshake of which nothing comes for this part of the time-out has stalled, but not before so many seconds: longer than a round
# trip on nearly any path, and than the pause before a lost packet is sent again. Who begins again sooner is more load for a server
# that is merely slow.
_STALLED_PART, _STALLED_LEAST = 1 / 3, 1.0
_SHORT_DELAY = 0.001


@dataclass(slots=True)
class _Request:
    """A request without an outcome. at_ns: Unix time at which it was made. expires: monotonic time."""

    number: int
    counted: bool
    asked: float
    at_ns: int
    expires: float
    early: bool = False
    first: bool = False
    stream_id: int | None = None


class Channel:
    """One connection to one address. `take` gives the outcomes of its requests; `error` ends it.

    numbers: the source of the requests' numbers; channels with one source never use the same number.
    """

    def __init__(
        self,
        connection: ClientConnection,
        *,
        rules: Rules | None = None,
        stream: bool = False,
        timeout: float = 3.0,
        numbers: Iterator[int] | None = None,
    ) -> None:
        self._stream = stream
        self.mode = Mode.STREAM if stream else Mode.DATAGRAM
        self.notices: list[str] = []
        self.error: TSQError | None = None
        self.established = False
        # The number of the request that went with the first flight (0-RTT).
        self.early: int | None = None
        self.exchange = Exchange(rules or Rules())
        # How many requests in a row got no answer; whether the server sent nothing in the time of one; whether the last ones could
        # not be sent.
        self.unanswered = 0
        self.silent = False
        self.send_failed = False
        self._heard_at = 0.0
        self._came_at: float | None = None
        self._early_answered = False
        self._timeout = timeout
        self._connection = connection
        self._numbers = numbers or count()
        self._started = 0.0
        self._leaving: list[bytes] = []
        self._messages: list[bytes] = []
        self._requests: dict[bytes, _Request] = {}
        self._held_back: list[_Request] = []
        self._streams: dict[int, bytes] = {}
        self._outcomes = Outcomes()
        self._closed = False
        self._last_asked = 0
        self._last_revised = False
        self._early_again_at: float | None = None
        self._held_back_at: float | None = None
        # Since when the handshake has been confirmed, so that what went with its last flight is due again if it has no answer.
        self._round_trip = 0.0
        self._confirmed = False
        self._first_again_at: float | None = None

    @property
    def alpn(self) -> str | None:
        """The protocol that was agreed on."""
        return self._connection.alpn

    @property
    def zero_rtt(self) -> bool:
        """Whether a request went out with the first flight, was accepted, and is the one that was answered."""
        return self._early_answered and self._connection.early_accepted

    @property
    def samples(self) -> list[Sample]:
        """The samples of outcomes that were not taken yet."""
        return self._outcomes.samples

    @property
    def least_delay(self) -> float | None:
        """The least delay of the newest valid samples, seconds; None: there is none."""
        return self._outcomes.least_delay

    @property
    def waiting(self) -> int:
        """How many requests have no outcome yet."""
        return len(self._requests) + len(self._held_back)

    @property
    def warming(self) -> bool:
        """Whether a request that makes no sample has no answer yet."""
        return any(not request.counted for request in self._requests.values())

    @property
    def gains_by_warming(self) -> bool:
        """Whether a request sent just before makes the next sample better.

        A path that has rested takes longer one way than the other, some microseconds: only where the delay is short does that show.
        """
        delay = self.least_delay
        return self.exchange.rules.exact and self.mode is Mode.DATAGRAM and delay is not None and delay < _SHORT_DELAY

    @property
    def state_unknown(self) -> bool:
        """Whether there are samples, and the server's state was asked for without an answer: what they are worth is unknown."""
        return self.exchange.state_unknown and self._outcomes.any_valid

    @property
    def wants_one_more(self) -> bool:
        """Whether one more request, which is not counted, is of use: see `ask_last`.

        It may make one of the last samples exact (R12); an answer does so for one earlier answer only, so samples that were asked
        for together take several. Or it repeats the question about the server's clock, if that has no answer yet (R13).
        """
        if self.error is not None or self._last_asked >= REMEMBERED_BY_SERVER:
            return False
        if self.state_unknown:
            return True
        if not self.exchange.rules.exact or self.mode is Mode.STREAM:
            return False
        if self._outcomes.exact:
            return False
        if self._last_asked:
            return self._last_revised
        # A server that gave no exact T3 with the second answer gives none at all.
        return self._outcomes.ended == 1 or self._outcomes.any_exact

    @property
    def deadline(self) -> float | None:
        """When `handle_timer` is due; None when it is over."""
        if self.error is not None:
            return None
        # Asked several times for each exchange.
        due = inf
        for time in (self._connection.timer, self._early_again_at, self._first_again_at, self._held_back_at):
            if time is not None and time < due:
                due = time
        for requests in (self._requests.values(), self._held_back):
            for request in requests:
                due = min(due, request.expires)
        if not self.established:
            due = min(due, self._started + self._timeout)
        return None if due == inf else due

    @property
    def stalled_at(self) -> float | None:
        """When a handshake that the server has begun with counts as stalled, if nothing more comes; None: it does not.

        Until the server has confirmed it. A server that does not know it any more cannot say so (RFC 9000 §5.2.2): its process was
        ended, or it gave the handshake up.
        """
        if self._came_at is None or self._confirmed or self.error is not None:
            return None
        return self._came_at + max(_STALLED_LEAST, self._timeout * _STALLED_PART)

    def start(self, now: float, *, at_ns: int = 0, early: bool = True) -> None:
        """Begin the handshake. Where a ticket allows it and `early` is set, the first request goes with it (0-RTT)."""
        self._started = self._heard_at = now
        self._connection.connect(now)
        # A ticket that cannot be used ends it at once.
        self._after(now)
        if self.error is not None:
            return
        if early and self.mode is Mode.DATAGRAM and self._connection.early_possible:
            self.early = self.ask(now, at_ns=at_ns)
            for request in self._requests.values():
                request.early = True

    def ask(self, now: float, *, counted: bool = True, at_ns: int = 0, patience: float | None = None) -> int:
        """Put one more request under way, which leaves with the next `datagrams`; its number.

        counted: False for one that makes no sample. at_ns: the Unix time, which is the sample's T1 where the request never leaves.
        patience: how long to wait for the answer, where that is shorter than the channel's time-out.
        """
        wait = self._timeout if patience is None else min(patience, self._timeout)
        request = _Request(next(self._numbers), counted, now, at_ns, now + wait)
        if counted:
            self._last_asked = 0
        if self.error is not None:
            self._conclude(request, Sample(at_ns, reason=Reason.CONNECTION_LOST, detail=self.error.found))
        else:
            self._put_under_way(request, now)
        return request.number

    def ask_last(self, now: float) -> None:
        """Send one more request for what only a later answer can report; only if `wants_one_more`."""
        self._last_revised = False
        self._last_asked += 1
        self.ask(now, counted=False)

    def take(self) -> list[Outcome]:
        """The outcomes since the last call."""
        return self._outcomes.take()

    def datagrams(self, now: float) -> list[bytes]:
        """What to send now; when it holds requests, `sent` or `not_sent` must follow."""
        if not self._leaving:
            return [data for data, _ in self._connection.flush(now)]
        messages, self._messages = self._messages, []
        self._connection.equal_datagrams = self.exchange.asks_precision
        try:
            out, held_back = self._connection.transmit(messages, now)
        except TransportError as error:
            # The peer takes no message as large as this.
            self._end(error)
            return []
        if self.mode is Mode.DATAGRAM and not out:
            held_back = len(self._leaving)
        if held_back:
            self._hold_back(self._leaving[-held_back:], now)
            del self._leaving[-held_back:]
        return [data for data, _ in out]

    @property
    def has_leaving(self) -> bool:
        """Whether the last `datagrams` held requests, whose transmit timestamps count."""
        return bool(self._leaving)

    def sent(self, transmission: Transmission, reading: ClockReading | None = None) -> None:
        """The last `datagrams` were sent. reading: of the local clock, taken just before.

        If only some of them were sent, all requests count as sent: it is not known which ones were.
        """
        self.send_failed = False
        source = StampSource.KERNEL if transmission.kernel else StampSource.USER
        for nonce in self._leaving:
            if nonce in self._requests:
                self.exchange.sent(nonce, transmission.at_ns, source, reading)
        self._leaving.clear()

    def not_sent(self, why: str, reading: ClockReading | None = None) -> None:
        """None of the last `datagrams` was sent: their requests end. On streams QUIC sends them again.

        reading: as in `sent`.
        """
        self.send_failed = True
        leaving, self._leaving = self._leaving, []
        for nonce in leaving:
            if self.mode is Mode.STREAM and nonce in self._requests:
                # If it is wrong, it is too early, which only widens the bound.
                self.exchange.sent(nonce, self._requests[nonce].at_ns, StampSource.USER, reading)
            elif (request := self._forget(nonce)) is not None:
                self.exchange.withdraw(nonce)
                self._conclude(request, Sample(request.at_ns, reason=Reason.NOT_SENT, detail=why))

    def receive(self, datagram: Datagram, now: float, reading: ClockReading | None = None) -> None:
        """A datagram has come. reading: of the local clock, taken since."""
        self._came_at = now
        messages = self._connection.receive(datagram.data, now)
        if self._connection.heard:
            self._heard_at, self.silent = now, False
        source = StampSource.KERNEL if datagram.kernel else StampSource.USER
        self._after(now)
        for message in messages:
            self._answer(message, datagram.received_ns, source, reading)
        self._see_confirmation(now)

    def handle_timer(self, now: float) -> None:
        """Let deadlines that have passed take effect."""
        self._connection.handle_timer(now)
        self._after(now)
        self._expire(now)
        if self.error is None and self._early_again_at is not None and self._early_again_at <= now:
            self._repeat_early(now)
        if self.error is None and self._first_again_at is not None and self._first_again_at <= now:
            self._repeat_first(now)
        if self.error is None and self._held_back_at is not None and self._held_back_at <= now:
            self._held_back_at = None
            held_back, self._held_back = self._held_back, []
            for request in held_back:
                self._put_under_way(request, now)
        if not self.established and self.error is None and now >= self._started + self._timeout:
            self._end(
                HandshakeTimeout(
                    f"no answer to the QUIC handshake in {self._timeout:g} s",
                    advice="is the server up, and does a firewall block UDP to this port?",
                )
            )

    def fail(self, error: TSQError) -> None:
        """End it, because of an error that the network reports."""
        if self.error is None:
            self._end(error)

    def close(self) -> None:
        """Close the connection; `datagrams` gives its last one."""
        self._closed = True
        self._connection.close()

    def _after(self, now: float) -> None:
        """Note that the connection was established or has ended."""
        connection = self._connection
        if connection.handshake is not None and not self.established and self.error is None:
            self._establish(now, connection.early_accepted)
        failure = connection.failure() if self.error is None and not self._closed else None
        if failure is not None:
            self._end(failure)

    def _establish(self, now: float, early_accepted: bool) -> None:
        self.established = True
        self._round_trip = now - self._started
        if self.mode is Mode.DATAGRAM and not self._connection.peer_takes_datagrams:
            self.mode = Mode.STREAM
            self.notices.append("the server takes no datagrams: using Stream Mode")
        if self.mode is Mode.STREAM and not self._connection.peer_takes_streams:
            self._end(
                TransportError("the server allows no streams", advice=f"ask without {Setting.STREAM}" if self._stream else "")
            )
            return
        if self.early is not None:
            # aioquic forgets 0-RTT datagrams when the server refuses 0-RTT, or after a Retry: ask again. An accepted request is
            # answered in the server's first flight; the grace covers one that was lost.
            grace = max(_EARLY_GRACE, 2 * (now - self._started)) if early_accepted else 0.0
            self._early_again_at = now + grace

    def _put_under_way(self, request: _Request, now: float) -> None:
        """A new message with a new nonce for this request."""
        nonce, message = self.exchange.request(self.mode, now)
        if self.mode is Mode.DATAGRAM:
            self._messages.append(message)
            request.first = self.established and not self._confirmed
        else:
            request.stream_id = self._connection.open_stream()
            self._connection.send_stream(request.stream_id, message)
            self._streams[request.stream_id] = nonce
        self._leaving.append(nonce)
        self._requests[nonce] = request

    def _hold_back(self, nonces: list[bytes], now: float) -> None:
        """Pacing or the congestion window: what cannot leave now is asked again later, with a new T1."""
        for nonce in nonces:
            request = self._forget(nonce)
            self.exchange.withdraw(nonce)
            # One that makes no sample is of use for another one, which does not wait for it.
            if request is not None and request.counted:
                self._held_back.append(request)
        self._held_back_at = now + _HELD_BACK_PAUSE

    def _repeat_early(self, now: float) -> None:
        """Ask again what went with the first flight and has no answer: with all that it asked for, and its own time to wait."""
        self._early_again_at = None
        for nonce in [nonce for nonce, request in self._requests.items() if request.early]:
            request = self._forget(nonce)
            self.exchange.withdraw(nonce)
            if request is not None:
                request.early, request.asked, request.expires = False, now, now + self._timeout
                self._put_under_way(request, now)

    def _see_confirmation(self, now: float) -> None:
        """The server has the handshake's last flight, which QUIC repeats until it comes; not so a request (RFC 9221 §5.2)."""
        if self._confirmed or not self.established or not self._connection.confirmed:
            return
        self._confirmed = True
        if any(request.first for request in self._requests.values()):
            # The answer may be right behind.
            self._first_again_at = now + max(_LAST_FLIGHT_GRACE, 2 * self._round_trip)

    def _repeat_first(self, now: float) -> None:
        """Ask again what went with the handshake's last flight and has no answer: its packet may be lost.

        Of several requests, only the first one: all together in one packet would have one T1, and be no more than one sample.
        """
        self._first_again_at = None
        nonce = next((nonce for nonce, request in self._requests.items() if request.first), None)
        request = None if nonce is None else self._forget(nonce)
        if nonce is not None and request is not None:
            self.exchange.withdraw(nonce)
            self._put_under_way(request, now)

    def _answer(self, message: Message, received_ns: int, source: StampSource, reading: ClockReading | None) -> None:
        if message.stream_id is None:
            sample = self.exchange.answer(message.data, received_ns, source, reading=reading)
        else:
            nonce = self._streams.get(message.stream_id)
            # A peer that answers without FIN is heard too; where a signature is to come last, FIN says that it has.
            whole = message.finished or (self.exchange.rules.verifier is None and is_response(message.data))
            if nonce is None:
                # An answer that came too late.
                self._connection.stream_done(message.stream_id, message.finished)
                return
            if not whole:
                return
            del self._streams[message.stream_id]
            self._connection.stream_done(message.stream_id, message.finished)
            sample = self.exchange.answer(message.data, received_ns, source, nonce, reading=reading)
        self._keep(sample)

    def _keep(self, sample: Sample | None) -> None:
        """What the exchange made of the last answer: an outcome, and the exact form of an earlier one."""
        ended = self.exchange.ended
        request = None if ended is None else self._forget(ended)
        if request is not None and sample is not None:
            self._early_answered = self._early_answered or request.early
            self.unanswered = 0
            self._conclude(request, sample)
        if self.exchange.revised is not None:
            self._last_revised = True
            self._outcomes.revise(*self.exchange.revised)

    def _forget(self, nonce: bytes) -> _Request | None:
        """A request that is not under way any more, with its stream."""
        request = self._requests.pop(nonce, None)
        if request is not None and request.stream_id is not None and self._streams.pop(request.stream_id, None) is not None:
            # Not stopped: the server may be about to answer. If it does, `_answer` sees to the stream.
            self._connection.stream_done(request.stream_id, finished=True)
        return request

    def _expire(self, now: float) -> None:
        """End the requests whose time is over."""
        for nonce in [nonce for nonce, request in self._requests.items() if request.expires <= now]:
            request = self._forget(nonce)
            if request is not None:
                waited = f"waited {request.expires - request.asked:g} s"
                self.unanswered += request.counted
                self.silent = self._heard_at <= request.asked
                self._conclude(request, self.exchange.give_up(nonce, Reason.NO_ANSWER, waited) or self._never_left(request))
        for request in [request for request in self._held_back if request.expires <= now]:
            self._held_back.remove(request)
            self._conclude(request, self._never_left(request))

    def _never_left(self, request: _Request) -> Sample:
        return Sample(request.at_ns, reason=Reason.NOT_SENT, detail="held back by the congestion window until its time was over")

    def _conclude(self, request: _Request, sample: Sample) -> None:
        """The one end of a request."""
        self._outcomes.conclude(request.number, request.counted, sample)

    def _end(self, error: TSQError) -> None:
        self.error = error
        for nonce in list(self._requests):
            request = self._requests.pop(nonce)
            lost = Sample(request.at_ns, reason=Reason.CONNECTION_LOST, detail=error.found)
            self._conclude(request, self.exchange.give_up(nonce, Reason.CONNECTION_LOST, error.found) or lost)
        for request in self._held_back:
            self._conclude(request, Sample(request.at_ns, reason=Reason.CONNECTION_LOST, detail=error.found))
        for pending in (self._held_back, self._leaving, self._messages, self._streams):
            pending.clear()
        self._early_again_at = self._first_again_at = self._held_back_at = None
