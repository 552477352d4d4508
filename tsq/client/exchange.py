"""The client's role without I/O: request -> matching response -> Sample (docs/reference/protocol.md R4, R6, R8, R11).

Comes in: the bytes of answers, transmit and receive timestamps. Goes out: requests and Samples. T1 and T4 are never sent. It must
never read a clock, and never make a sample from an answer whose nonce is not that of one of its requests.
"""

import os
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Protocol

from tsq._fast import ns_from_ntp
from tsq.errors import ConfigError, MalformedMessage, SignatureError
from tsq.options import Precision, check_number, check_type
from tsq.timing.local_clock import ClockReading
from tsq.timing.sample import DEFAULT_OFFSET_LIMIT, Reason, Sample, StampSource, make_sample
from tsq.timing.server_state import ServerState, server_state
from tsq.wire.annotations import annotations
from tsq.wire.message import ErrorReply, Mode, Response, SignatureBlock, decode_response, encode_request
from tsq.wire.tlv import EXACT_T3, MAX_VALUE_SIZE, NONCE_SIZE, PLAIN_RESPONSE_SIZE, REPORT_SIZE, STATE_KEYS, TLV_HEADER_SIZE

# The value of R12's metadata: 8 bytes of a nonce and an NTP timestamp, in hex.
_PREFIX_SIZE = 8
_EXACT_SIZE = 32
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
_REMEMBERED = 64
# Of the largest Signature Block, and of a server's report about its clock with room to spare; bytes.
_SIGNATURE_SIZE = 73
_STATE_SIZE = 256
_LEAST_PRECISION_NS = 1
# Seconds. Rarely, because the data plane does not answer a request that asks about the server. If no answer comes, ask again soon.
STATE_INTERVAL = 32.0
_STATE_PATIENCE = 0.05


class Checks(Protocol):
    """What an exchange needs of a `tsq.wire.signature.Verifier`."""

    def check(self, block: SignatureBlock | None) -> None:
        """Raises SignatureError unless the signature is there and right."""


@dataclass(frozen=True, slots=True)
class Exchanged:
    """One exchange as it was on the wire: the bytes of the request and of its answer, and the local times T1 and T4."""

    request: bytes
    response: bytes
    t1_ns: int
    t4_ns: int


@dataclass(frozen=True, slots=True)
class Rules:
    """What a client asks for and what it believes.

    precision: Precision Mode (R7): request and answer have the same length. precision_size: of the request, in bytes; None: as
    large as the answer may become. precision_ns: of the local clock; None: measure it. era_pivot_ns: read NTP timestamps in the era
    that is nearest to this Unix time; None: the local clock's (R9). offset_limit: in seconds. exact: ask for the transmit timestamp
    of each answer, which the server reports in the next answer (R12). state_interval: seconds between questions about the server's
    own clock, the first of which goes with the first request (R13); None: do not ask. metadata_query: send 247 with every request.
    nonces: makes the requests' nonces; None: random ones. keep: is called with every exchange whose answer passed the checks.
    """

    verifier: Checks | None = None
    metadata_query: bool = False
    metadata: Mapping[str, str] | None = None
    precision: Precision = Precision.OFF
    precision_size: int | None = None
    precision_ns: int | None = None
    era_pivot_ns: int | None = None
    offset_limit: float = DEFAULT_OFFSET_LIMIT
    exact: bool = True
    state_interval: float | None = STATE_INTERVAL
    nonces: Callable[[int], bytes] | None = None
    keep: Callable[[Exchanged], None] | None = None

    def __post_init__(self) -> None:
        if self.verifier is not None and not callable(getattr(self.verifier, "check", None)):
            raise ConfigError(f"verifier {self.verifier!r}", expected="a tsq.wire.signature.Verifier")
        check_type("metadata_query", self.metadata_query, bool)
        check_type("exact", self.exact, bool)
        check_type("precision", self.precision, Precision)
        if self.metadata is not None:
            if not isinstance(self.metadata, Mapping):
                raise ConfigError(f"metadata {self.metadata!r}", expected="a mapping from text to text")
            for text in (*self.metadata.keys(), *self.metadata.values()):
                check_type("metadata", text, str)
        for name, least in (("precision_size", 1), ("precision_ns", 0), ("era_pivot_ns", None)):
            value = getattr(self, name)
            if value is not None:
                check_type(name, value, int)
                if least is not None and value < least:
                    raise ConfigError(f"{name} {value}", expected=f"{least} or more")
        if not check_number("offset_limit", self.offset_limit) > 0:
            raise ConfigError(f"offset_limit {self.offset_limit}", expected="a number of seconds above 0")
        if self.state_interval is not None and not check_number("state_interval", self.state_interval) >= 0:
            raise ConfigError(f"state_interval {self.state_interval}", expected="0 seconds or more, or None")

    @property
    def asks_precision(self) -> bool:
        """Whether to ask for Precision Mode."""
        return self.precision is not Precision.OFF or self.precision_size is not None

    def precise_size(self, *, exact: bool, state: bool) -> int | None:
        """The length of a request in Precision Mode; None: it asks for none. exact: it may ask for exact T3; state: for state."""
        if not self.asks_precision:
            return None
        if self.precision_size is not None:
            return self.precision_size
        return (
            PLAIN_RESPONSE_SIZE
            + TLV_HEADER_SIZE
            + REPORT_SIZE * (exact and self.exact)
            + _SIGNATURE_SIZE * (self.verifier is not None)
            + _STATE_SIZE * (state or self.metadata_query)
            + (TLV_HEADER_SIZE + MAX_VALUE_SIZE) * (self.metadata is not None)
        )

    def requested(self, *, exact: bool, state: bool) -> Mapping[str, str] | None:
        """The metadata of a request. exact: it may ask for exact T3. state: it asks about the server's clock."""
        asked = {**(self.metadata or {})}
        if exact and self.exact:
            asked[EXACT_T3] = ""
        if state:
            asked |= dict.fromkeys(STATE_KEYS, "")
        return asked if asked or self.metadata is not None else None


@dataclass(slots=True)
class _Asked:
    """A request under way."""

    nonce: bytes
    t1_ns: int
    t1_source: StampSource
    reading: ClockReading | None = None
    message: bytes = b""
    # What the answer must have in Precision Mode; 0: any. state: it asks about the server.
    size: int = 0
    state: bool = False


@dataclass(slots=True)
class Exchange:
    """The requests to one server that have no answer yet, and the samples that the answers give.

    nonces: the source of nonces (a CSPRNG). revised: (an earlier sample, the same sample with its exact T3), if the last answer
    reported it. ended: the nonce of the request that the last answer ended; None: it ended none. server: the newest state that the
    server reported about its clock. metadata: what its operator says about it (R14), as of the last answer that has any.
    precision_ignored: the server answered a request in Precision Mode as any other; do not ask for it again, where it is not
    required.
    """

    rules: Rules = field(default_factory=Rules)
    nonces: Callable[[int], bytes] = os.urandom
    last_response: Response | None = None
    revised: tuple[Sample, Sample] | None = None
    ended: bytes | None = None
    server: ServerState | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    precision_ignored: bool = False
    _state_asked: float = -inf
    _state_nonces: set[bytes] = field(default_factory=set)
    _state_unanswered: bool = False
    _state_answers: int = 0
    _asked: dict[bytes, _Asked] = field(default_factory=dict)
    # The lengths of Precision Mode requests, from `request` until `sent`.
    _sizes: dict[bytes, int] = field(default_factory=dict)
    # Requests that are to be kept with their answers, from `request` until `sent`.
    _messages: dict[bytes, bytes] = field(default_factory=dict)
    _inexact: OrderedDict[bytes, Sample] = field(default_factory=OrderedDict)
    _past: deque[bytes] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    @property
    def under_way(self) -> list[bytes]:
        """Nonces that wait for an answer, oldest first."""
        return list(self._asked)

    @property
    def state_unknown(self) -> bool:
        """Whether the server was asked about its own clock, and no answer to that question has come on this connection.

        An answer that reports nothing about the clock counts as an answer: the server does not know the question.
        """
        return self._state_answers == 0 and self._state_unanswered

    @property
    def asks_precision(self) -> bool:
        """Whether the next request asks for Precision Mode."""
        required = self.rules.precision is Precision.REQUIRE or self.rules.precision_size is not None
        return self.rules.asks_precision and (required or not self.precision_ignored)

    @property
    def state_answered(self) -> bool:
        """Whether the question about the server's own clock has had an answer on this connection."""
        return self._state_answers > 0

    def request(self, mode: Mode = Mode.DATAGRAM, now: float = 0.0) -> tuple[bytes, bytes]:
        """(nonce, bytes) of a new request at this monotonic time; `sent` must follow.

        A request in Stream Mode does not ask for exact T3, because there is none.
        """
        nonce = (self.rules.nonces or self.nonces)(NONCE_SIZE)
        state = self._asks_state(nonce, now)
        exact = mode is Mode.DATAGRAM
        message = encode_request(
            nonce,
            metadata_query=self.rules.metadata_query or state,
            signature=self.rules.verifier is not None,
            metadata=self.rules.requested(exact=exact, state=state),
            precision_size=self.rules.precise_size(exact=exact, state=state) if self.asks_precision else None,
        )
        if self.asks_precision:
            self._sizes[nonce] = len(message)
        if self.rules.keep is not None:
            self._messages[nonce] = message
        return nonce, message

    def _asks_state(self, nonce: bytes, now: float) -> bool:
        """Whether this request asks about the server: the interval is over, or the last question got no answer (R13)."""
        interval = self.rules.state_interval
        # Where the length of the answer is chosen by others (R7), it may have no room for a report about the server.
        if interval is None or self.rules.precision_size is not None:
            return False
        repeated = self._state_unanswered and now >= self._state_asked + _STATE_PATIENCE
        if not repeated and now < self._state_asked + interval:
            return False
        self._state_asked = now
        self._state_nonces.add(nonce)
        self._state_unanswered = True
        return True

    def sent(self, nonce: bytes, t1_ns: int, source: StampSource, reading: ClockReading | None = None) -> None:
        """A request was sent at this time. reading: of the local clock, taken just before."""
        message, size = self._messages.pop(nonce, b""), self._sizes.pop(nonce, 0)
        self._asked[nonce] = _Asked(nonce, t1_ns, source, reading, message, size, nonce in self._state_nonces)

    def _state_answered(self, nonce: bytes) -> None:
        """The request has its answer. If it asked about the server, that question is answered, whatever the answer reports."""
        if nonce in self._state_nonces:
            self._state_nonces.clear()
            self._state_unanswered = False
            self._state_answers += 1

    def give_up(self, nonce: bytes, reason: Reason, detail: str = "") -> Sample | None:
        """Stop waiting for the answer to this request; its sample, with the reason."""
        asked = self._asked.pop(nonce, None)
        if asked is None:
            return None
        self._past.append(nonce)
        self.ended = nonce
        if reason not in (Reason.NO_ANSWER, Reason.CONNECTION_LOST):
            # Do not repeat the question at once to a server that answers it wrongly.
            self._state_answered(nonce)
        self._state_nonces.discard(nonce)
        return Sample(asked.t1_ns, t1_source=asked.t1_source, reason=reason, detail=detail)

    def withdraw(self, nonce: bytes) -> None:
        """Forget a request that is sent again, or that could not be sent. The next request asks for the same things."""
        self._messages.pop(nonce, None)
        self._sizes.pop(nonce, None)
        if self._asked.pop(nonce, None) is not None:
            self._past.append(nonce)
        if nonce in self._state_nonces:
            self._state_nonces.discard(nonce)
            self._state_asked = -inf

    def answer(
        self,
        data: bytes,
        t4_ns: int,
        source: StampSource,
        asked_nonce: bytes | None = None,
        *,
        reading: ClockReading | None = None,
    ) -> Sample | None:
        """The sample that an answer gives; None for a second answer, or one that came too late.

        asked_nonce: the nonce that the answer must have (Stream Mode: that of the request on this stream). A wrong answer fails the
        exchange that it belongs to; in Datagram Mode, the oldest one. The peer is authenticated, so a wrong answer is the server's
        fault, not an attacker's. reading: of the local clock, taken after T4.
        """
        self.revised = self.ended = None
        expected = asked_nonce or next(iter(self._asked), None)
        if expected is None:
            return None
        try:
            response = decode_response(data)
            if isinstance(response, ErrorReply):
                return self.give_up(expected, Reason.ERROR_REPLY, f"code {response.code}: {response.reason!r}")
            if response.nonce in self._past:
                return None
            asked = self._asked.get(response.nonce)
            if asked is None or (asked_nonce is not None and asked_nonce != response.nonce):
                return self.give_up(expected, Reason.WRONG_NONCE, f"nonce {response.nonce.hex()}")
            expected = response.nonce
            if self.rules.verifier is not None:
                self.rules.verifier.check(response.signature)
            state = server_state(response, t4_ns)
            self.server = state or self.server
            sample = self._sample(asked, response, t4_ns, source, reading, precise=self._is_precise(asked, response, len(data)))
        except SignatureError as error:
            return self.give_up(expected, Reason.SIGNATURE, error.found)
        except MalformedMessage as error:
            return self.give_up(expected, Reason.MALFORMED, error.found)
        del self._asked[response.nonce]
        self._past.append(response.nonce)
        self.ended = response.nonce
        self._state_answered(response.nonce)
        self.last_response = response
        self.metadata = annotations(response.metadata) or self.metadata
        self._learn(response, sample)
        if self.rules.keep is not None:
            self.rules.keep(Exchanged(asked.message, data, asked.t1_ns, t4_ns))
        return sample

    def _learn(self, response: Response, sample: Sample) -> None:
        """Make an earlier sample exact if this answer reports its transmit timestamp (R12). Remember this sample for the same."""
        reported = response.metadata.get(EXACT_T3, "")
        if self.rules.exact and len(reported) == _EXACT_SIZE and set(reported) <= _HEX_DIGITS:
            self._revise(reported)
        if sample.valid:
            self._inexact[response.nonce[:_PREFIX_SIZE]] = sample
            while len(self._inexact) > _REMEMBERED:
                self._inexact.popitem(last=False)

    def _revise(self, reported: str) -> None:
        prefix, ntp = bytes.fromhex(reported[: 2 * _PREFIX_SIZE]), int(reported[2 * _PREFIX_SIZE :], 16)
        early = self._inexact.pop(prefix, None)
        if early is None or early.t2_ns is None or early.t3_ns is None or early.t4_ns is None:
            return
        left_ns = ns_from_ntp(ntp, early.t3_ns)
        late = make_sample(
            early.t1_ns,
            early.t2_ns,
            left_ns,
            early.t4_ns,
            t1_source=early.t1_source,
            t4_source=early.t4_source or StampSource.USER,
            precision_ns=self.rules.precision_ns or _LEAST_PRECISION_NS,
            offset_limit=self.rules.offset_limit,
            server=early.server,
            sent=early.sent,
            received=early.received,
            exact=True,
            precise=early.precise,
        )
        # Ignore implausible reports: an answer is not sent before its claimed T3, and not so late that the sample becomes invalid.
        if left_ns >= early.t3_ns and late.valid:
            self.revised = (early, late)

    def _is_precise(self, asked: _Asked, response: Response, size: int) -> bool:
        """Whether request and answer were in Precision Mode, with the same length (R7)."""
        precise = bool(asked.size) and response.precision and size == asked.size
        if asked.size and not precise and not asked.state:
            # What a server reports about its clock may by chance leave a gap that no padding fills.
            self.precision_ignored = True
        return precise

    def _sample(
        self,
        asked: _Asked,
        response: Response,
        t4_ns: int,
        source: StampSource,
        reading: ClockReading | None,
        *,
        precise: bool,
    ) -> Sample:
        sample = self._measured(asked, response, t4_ns, source, reading, precise=precise)
        if precise or self.rules.precision is not Precision.REQUIRE or not sample.valid:
            return sample
        return replace(sample, reason=Reason.NOT_PRECISE, detail="the server does not answer in Precision Mode")

    def _measured(
        self,
        asked: _Asked,
        response: Response,
        t4_ns: int,
        source: StampSource,
        reading: ClockReading | None,
        *,
        precise: bool,
    ) -> Sample:
        # Right to 68 years either way (R9).
        t2_ns = ns_from_ntp(response.receive_ntp, t4_ns if self.rules.era_pivot_ns is None else self.rules.era_pivot_ns)
        return make_sample(
            asked.t1_ns,
            t2_ns,
            # One clock took both, moments apart.
            ns_from_ntp(response.send_ntp, t2_ns),
            t4_ns,
            t1_source=asked.t1_source,
            t4_source=source,
            precision_ns=self.rules.precision_ns or _LEAST_PRECISION_NS,
            offset_limit=self.rules.offset_limit,
            server=self.server,
            sent=asked.reading,
            received=reading,
            precise=precise,
        )
