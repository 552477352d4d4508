"""Checks an audit log: every signature, every link of every chain, and what they prove together.

Comes in: records, the keys that may sign, what to assume about servers that do not give their clock's error. Goes out: a frozen
Examination. It must never count a record that was not signed by a known key, or use an order that is not proven.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tsq._fast import ns_from_ntp
from tsq.audit.order import Event, Findings, examine
from tsq.audit.records import Record, chained_nonce
from tsq.errors import MalformedMessage, SignatureError
from tsq.timing.server_state import server_state
from tsq.wire.message import Response, decode_request, decode_response
from tsq.wire.signature import Verifier

DEFAULT_ERROR = 0.01


@dataclass(frozen=True, slots=True)
class Fault:
    """A record that proves nothing: where it is, and why."""

    line: int
    server: str
    why: str


@dataclass(slots=True)
class ServerReport:
    """What one server signed. key_ids: by which keys; error: the largest error that it gave for its own clock, in seconds."""

    server: str
    records: int = 0
    key_ids: set[int] = field(default_factory=set)
    error: float | None = None


@dataclass(frozen=True, slots=True)
class Examination:
    """What a log proves. records: how many it has; chained: how many follow another one."""

    records: int
    chains: int
    chained: int
    servers: tuple[ServerReport, ...]
    faults: tuple[Fault, ...]
    findings: Findings
    assumed_error: float

    def error_of(self, server: str) -> float:
        """How far a server's clock may be off, by its own report or by assumption, seconds."""
        found = next((one.error for one in self.servers if one.server == server), None)
        return self.assumed_error if found is None else found


def examination(records: Iterable[Record], verifier: Verifier, assumed_error: float = DEFAULT_ERROR) -> Examination:
    """Check these records, in the order of their log."""
    count = chained = 0
    faults: list[Fault] = []
    servers: dict[str, ServerReport] = {}
    chains: dict[str, _Links] = {}
    for record in records:
        count += 1
        links = chains.setdefault(record.chain, _Links()) if record.chain else None
        try:
            if links is not None:
                # Also where the signature is bad: the bytes of an answer tie the next one to what was before.
                chained += links.follow(record)
            response = _signed(record, verifier)
        except (MalformedMessage, SignatureError) as error:
            faults.append(Fault(record.line, record.server, error.found))
            continue
        _note(servers.setdefault(record.server, ServerReport(record.server)), response, record)
        if links is not None:
            links.sequences[-1].append(_event(record, response))
    errors = {one.server: round((assumed_error if one.error is None else one.error) * 1e9) for one in servers.values()}
    sequences = [sequence for links in chains.values() for sequence in links.sequences]
    return Examination(
        count, len(chains), chained, tuple(servers.values()), tuple(faults), examine(sequences, errors), assumed_error
    )


@dataclass(slots=True)
class _Links:
    """One chain as far as it was read. sequences: events whose order is proven; a link that is missing begins another one."""

    sequences: list[list[Event]] = field(default_factory=list)
    _last: bytes | None = None

    def follow(self, record: Record) -> bool:
        """Tie a record to the one before it; False for the first one. Raises MalformedMessage where it does not follow."""
        before, self._last = self._last, record.response
        linked = False
        try:
            linked = _nonce_of(record) == chained_nonce(before or b"", record.blind)
        finally:
            if before is None or not linked:
                self.sequences.append([])
        if not linked:
            raise MalformedMessage("a nonce that does not follow from the answer before it", expected="the next link of its chain")
        return before is not None


def _nonce_of(record: Record) -> bytes:
    """The nonce of a request and its answer. Raises MalformedMessage where they differ."""
    nonce = decode_request(record.request).nonce
    response = decode_response(record.response)
    if not isinstance(response, Response) or response.nonce != nonce:
        raise MalformedMessage("an answer to another request", expected="the nonce of its request")
    return nonce


def _signed(record: Record, verifier: Verifier) -> Response:
    """The response of a record, which a known key signed. Raises MalformedMessage, SignatureError."""
    _nonce_of(record)
    response = decode_response(record.response)
    assert isinstance(response, Response)
    verifier.check(response.signature)
    return response


def _note(report: ServerReport, response: Response, record: Record) -> None:
    report.records += 1
    if response.signature is not None:
        report.key_ids.add(response.signature.key_id)
    state = server_state(response, record.t4_ns)
    if state is not None and state.error is not None:
        report.error = max(state.error, report.error or 0.0)


def _event(record: Record, response: Response) -> Event:
    t2_ns = ns_from_ntp(response.receive_ntp, record.t4_ns)
    return Event(record.server, t2_ns, ns_from_ntp(response.send_ntp, t2_ns), record.line)
