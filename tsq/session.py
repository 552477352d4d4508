"""A client's dealings with one server address, without I/O: connection and exchanges put together.

Comes in: received datagrams with their receive times, departure times, the monotonic time. Goes out: datagrams to send, samples, an
error when it is over. It must never read a clock or touch a socket; whoever drives it does.
"""

from tsq.errors import HandshakeTimeout, TransportError, TSQError
from tsq.exchange import Exchange, Rules
from tsq.quic.client_connection import ClientConnection
from tsq.quic.connection import Message
from tsq.quic.udp import Datagram, Departure
from tsq.timing.local_clock import ClockReading
from tsq.timing.sample import Reason, Sample, StampSource
from tsq.wire.message import Mode, is_response

# How long an answer to a 0-RTT request may come after the handshake is complete, at least.
_EARLY_GRACE = 0.02
_HELD_BACK_PAUSE = 0.005
_SHORT_DELAY = 0.001
_LATELY = 64
# So many of its answers a server remembers (docs/reference/protocol.md R12).
_MOST_TOLD = 4


class Session:
    """One connection to one address. `samples` grows; `error` ends it."""

    def __init__(
        self,
        connection: ClientConnection,
        *,
        rules: Rules | None = None,
        stream: bool = False,
        timeout: float = 3.0,
    ) -> None:
        self._stream = stream
        self.mode = Mode.STREAM if stream else Mode.DATAGRAM
        self.samples: list[Sample] = []
        self.notices: list[str] = []
        self.error: TSQError | None = None
        self.established = False
        self.early = False
        self.exchange = Exchange(rules or Rules())
        self._timeout = timeout
        self._connection = connection
        self._started = 0.0
        self._leaving: list[bytes] = []
        self._messages: list[bytes] = []
        self._expiry: dict[bytes, float] = {}
        self._streams: dict[int, bytes] = {}
        self._early_nonces: list[bytes] = []
        self._uncounted: set[bytes] = set()
        self._held_back = 0
        self._closed = False
        self._last_asked = 0
        self._told_by_last = False
        self._ask_again_at: float | None = None

    @property
    def alpn(self) -> str | None:
        """The protocol that was agreed on."""
        return self._connection.alpn

    @property
    def zero_rtt(self) -> bool:
        """Whether a request went out with the first flight and was accepted."""
        return self.early and self._connection.early_accepted

    @property
    def waiting(self) -> int:
        """How many requests have no sample yet."""
        return len(self._expiry) + self._held_back

    @property
    def warming(self) -> bool:
        """Whether a request that makes no sample has no answer yet."""
        return bool(self._uncounted)

    @property
    def gains_by_warmth(self) -> bool:
        """Whether a request sent just before makes the next sample better.

        A path that has rested takes longer one way than the other, some microseconds: only where the delay is short does that show.
        """
        delays = [sample.delay for sample in self.samples[-_LATELY:] if sample.valid and sample.delay is not None]
        return self.exchange.rules.exact and self.mode is Mode.DATAGRAM and bool(delays) and min(delays) < _SHORT_DELAY

    @property
    def wants_one_more(self) -> bool:
        """Whether one more request, which is not counted, may make one of the last samples exact (R12): see `ask_last`.

        An answer tells of one earlier answer only, so samples that were asked for together take several.
        """
        valid = [sample for sample in self.samples if sample.valid]
        if not self.exchange.rules.exact or self.error is not None or self.mode is Mode.STREAM:
            return False
        if all(sample.exact for sample in valid[-_MOST_TOLD:]):
            return False
        if self._last_asked:
            return self._told_by_last and self._last_asked < _MOST_TOLD
        # A server that told nothing with the second answer tells nothing at all.
        return len(self.samples) == 1 or any(sample.exact for sample in valid)

    @property
    def deadline(self) -> float | None:
        """When `handle_timer` is due; None when it is over."""
        if self.error is not None:
            return None
        times = [self._connection.timer, self._ask_again_at, *self._expiry.values()]
        if not self.established:
            times.append(self._started + self._timeout)
        return min((time for time in times if time is not None), default=None)

    def start(self, now: float) -> None:
        """Begin the handshake. Where a ticket allows it, the first request goes with it (0-RTT)."""
        self._started = now
        self._connection.connect(now)
        if self.mode is Mode.DATAGRAM and self._connection.early_possible:
            self.early = True
            self.ask(now)
            self._early_nonces = list(self._leaving)

    def ask(self, now: float, *, counted: bool = True) -> None:
        """Put one more request under way; it leaves with the next `datagrams`. counted: False for one that makes no sample."""
        nonce, message = self.exchange.request(self.mode, now)
        if counted:
            self._last_asked = 0
        else:
            self._uncounted.add(nonce)
        if self.mode is Mode.DATAGRAM:
            self._messages.append(message)
        else:
            stream_id = self._connection.open_stream()
            self._connection.send_stream(stream_id, message)
            self._streams[stream_id] = nonce
        self._leaving.append(nonce)
        self._expiry[nonce] = now + self._timeout

    def ask_last(self, now: float) -> None:
        """Ask once more only to hear when earlier answers left; where `wants_one_more`."""
        self._told_by_last = False
        self._last_asked += 1
        self.ask(now, counted=False)

    def datagrams(self, now: float) -> list[bytes]:
        """What to send now; when it holds requests, `departed` must follow."""
        if not self._leaving:
            return [data for data, _ in self._connection.flush(now)]
        messages, self._messages = self._messages, []
        out, held_back = self._connection.transmit(messages, now)
        if held_back:
            # Pacing or the congestion window: what cannot leave now is asked anew later, so that T1 stays true.
            for nonce in self._leaving[-held_back:]:
                self._expiry.pop(nonce, None)
                self.exchange.withdraw(nonce)
                # One that makes no sample was for another's sake, which does not wait for it.
                self._held_back += nonce not in self._uncounted
                self._uncounted.discard(nonce)
            del self._leaving[-held_back:]
            self._ask_again_at = now + _HELD_BACK_PAUSE
        return [data for data, _ in out]

    @property
    def has_leaving(self) -> bool:
        """Whether the last `datagrams` held requests, whose departure time counts."""
        return bool(self._leaving)

    def departed(self, departure: Departure, reading: ClockReading | None = None) -> None:
        """When the last `datagrams` left. reading: of the local clock, taken just before."""
        source = StampSource.KERNEL if departure.kernel else StampSource.USER
        for nonce in self._leaving:
            self.exchange.sent(nonce, departure.at_ns, source, reading)
        self._leaving.clear()

    def receive(self, datagram: Datagram, now: float, reading: ClockReading | None = None) -> None:
        """A datagram has come. reading: of the local clock, taken since."""
        messages = self._connection.receive(datagram.data, now)
        source = StampSource.KERNEL if datagram.kernel else StampSource.USER
        self._after(now)
        for message in messages:
            self._answer(message, datagram.received_ns, source, reading)

    def handle_timer(self, now: float) -> None:
        """Let deadlines that have passed take effect."""
        self._connection.handle_timer(now)
        self._after(now)
        for nonce in [nonce for nonce, expiry in self._expiry.items() if expiry <= now]:
            self._finish(nonce, self.exchange.give_up(nonce, Reason.NO_ANSWER, f"waited {self._timeout:g} s"))
        if self._ask_again_at is not None and self._ask_again_at <= now and self.error is None:
            self._ask_again(now)
        if not self.established and self.error is None and now >= self._started + self._timeout:
            self._end(
                HandshakeTimeout(
                    f"no answer to the QUIC handshake in {self._timeout:g} s",
                    advice="is the server up, and does a firewall block UDP to this port?",
                )
            )

    def fail(self, error: TSQError) -> None:
        """End it: the network says that it cannot go on."""
        self._end(error)

    def close(self) -> None:
        """Close the connection; `datagrams` gives its last one."""
        self._closed = True
        self._connection.close()

    def _after(self, now: float) -> None:
        """Take note of what the connection has become."""
        connection = self._connection
        if connection.handshake is not None and not self.established and self.error is None:
            self._establish(now, connection.early_accepted)
        failure = connection.failure() if self.error is None and not self._closed else None
        if failure is not None:
            self._end(failure)

    def _establish(self, now: float, early_accepted: bool) -> None:
        self.established = True
        if self.mode is Mode.DATAGRAM and not self._connection.peer_takes_datagrams:
            self.mode = Mode.STREAM
            self.notices.append("the server takes no datagrams: using Stream Mode")
        if self.mode is Mode.STREAM and not self._connection.peer_takes_streams:
            self._end(TransportError("the server allows no streams", advice="ask without --stream" if self._stream else ""))
            return
        if self._early_nonces:
            # aioquic forgets 0-RTT datagrams when the server refuses 0-RTT, or after a Retry: ask anew. An accepted request is
            # answered in the server's first flight; the grace covers one that was lost.
            grace = max(_EARLY_GRACE, 2 * (now - self._started)) if early_accepted else 0.0
            self._ask_again_at = now + grace

    def _ask_again(self, now: float) -> None:
        self._ask_again_at = None
        lost = [nonce for nonce in self._early_nonces if nonce in self._expiry]
        count = len(lost) + self._held_back
        self._early_nonces, self._held_back = [], 0
        for nonce in lost:
            self.exchange.withdraw(nonce)
            self._expiry.pop(nonce, None)
        for _ in range(count):
            self.ask(now)

    def _answer(self, message: Message, received_ns: int, source: StampSource, reading: ClockReading | None) -> None:
        if message.stream_id is None:
            sample = self.exchange.answer(message.data, received_ns, source, reading=reading)
        else:
            nonce = self._streams.get(message.stream_id)
            # A peer that answers without FIN is heard too; where a signature is to come last, FIN says that it has.
            whole = message.finished or (self.exchange.rules.verifier is None and is_response(message.data))
            if nonce is None or not whole:
                return
            del self._streams[message.stream_id]
            self._connection.stream_done(message.stream_id, message.finished)
            sample = self.exchange.answer(message.data, received_ns, source, nonce, reading=reading)
        self._keep(sample)
        waiting = set(self.exchange.under_way) | set(self._leaving)
        self._expiry = {nonce: expiry for nonce, expiry in self._expiry.items() if nonce in waiting}

    def _finish(self, nonce: bytes, sample: Sample | None) -> None:
        self._expiry.pop(nonce, None)
        if nonce in self._uncounted:
            self._uncounted.discard(nonce)
        elif sample is not None:
            self.samples.append(sample)

    def _keep(self, sample: Sample | None) -> None:
        """Add a sample, where it counts, and put the exact form of an earlier one in its place."""
        ended = self._uncounted & set(self._expiry) - set(self.exchange.under_way) - set(self._leaving)
        self._uncounted -= ended
        # A wrong answer is a server's fault that a user must see, whatever was asked for.
        if sample is not None and (not ended or not sample.valid):
            self.samples.append(sample)
        if self.exchange.revised is not None:
            early, late = self.exchange.revised
            self._told_by_last = True
            # From the end: it is one of the last.
            for index in range(len(self.samples) - 1, -1, -1):
                if self.samples[index] is early:
                    self.samples[index] = late
                    break

    def _end(self, error: TSQError) -> None:
        self.error = error
        for nonce in list(self._expiry):
            self._finish(nonce, self.exchange.give_up(nonce, Reason.CONNECTION_LOST, error.found))
        self._ask_again_at = None
