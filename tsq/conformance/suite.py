"""All tests of a server, one group after the other.

Comes in: a Site, and the server's keys where the user has them. Goes out: a Report. It must never let one group that fails keep the
others from their turn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tsq.conformance import connections, datagrams, options, streams
from tsq.conformance.findings import Finding, Verdict
from tsq.conformance.link import OutOfTime, Site
from tsq.conformance.statements import STATEMENTS, Statement
from tsq.errors import CertificateError, NoAnswer, TransportError
from tsq.wire.signature import Verifier

_DATAGRAM_STATEMENTS = "6.2-1,6.3.1-3,6.3.2-2,6.3.2-5,6.5-1,6.5-a,6.6-2,7-a,RFC 9221-1"
_STREAM_STATEMENTS = "6.5-b,6.6-3,R2-1,R2-2,RFC 9000-1"


@dataclass(frozen=True, slots=True)
class Report:
    """The result. unfinished: groups that ended early, and why."""

    alpn: str
    datagrams: bool
    streams: bool
    findings: Sequence[Finding]
    unfinished: Sequence[str]

    @property
    def failed(self) -> list[Finding]:
        """What the server does not fulfil."""
        return [finding for finding in self.findings if finding.verdict is Verdict.FAIL]

    @property
    def untested(self) -> list[Statement]:
        """Statements that cannot be tested from outside, such as those about clients, or not on this server."""
        seen = {finding.statement.number for finding in self.findings}
        return [statement for number, statement in STATEMENTS.items() if number not in seen]

    def count(self, verdict: Verdict) -> int:
        """How many statements have this verdict."""
        return sum(finding.verdict is verdict for finding in self.findings)


def run(site: Site, verifier: Verifier | None = None, names: Sequence[bytes] = ()) -> Report:
    """Test a server. names: what its tickets must not show. Raises TransportError where there is no connection at all."""
    connections.first_contact(site)
    groups: list[tuple[str, Callable[[], None]]] = [("ALPN", lambda: connections.application_protocol(site))]
    if site.datagrams:
        groups += [
            ("plain requests", lambda: datagrams.plain_exchanges(site)),
            ("unknown types", lambda: datagrams.unknown_types(site)),
            ("malformed messages", lambda: datagrams.malformed_messages(site)),
            ("packets", lambda: datagrams.packets(site)),
        ]
    else:
        site.note.skip(_DATAGRAM_STATEMENTS, "the server takes no DATAGRAM frames")
    if site.streams:
        groups += [
            ("streams", lambda: streams.plain_streams(site)),
            ("malformed requests on streams", lambda: streams.malformed_streams(site)),
            ("a request without end", lambda: streams.endless_request(site)),
        ]
    else:
        site.note.skip(_STREAM_STATEMENTS, "the server takes no streams")
    groups += [
        ("information", lambda: options.information(site)),
        ("Precision Mode", lambda: options.precision(site)),
        ("signatures", lambda: options.signatures(site, verifier)),
        ("signatures in Precision Mode", lambda: options.signed_precision(site, verifier)),
        ("resumption", lambda: connections.resumption(site, list(names))),
    ]
    if site.datagrams:
        # Last: a server may not survive it.
        groups.append(("small frames", lambda: datagrams.small_frames(site)))
    unfinished = _all(site, groups)
    return Report(site.alpn or "", site.datagrams, site.streams, site.note.in_order(), unfinished)


def _all(site: Site, groups: list[tuple[str, Callable[[], None]]]) -> list[str]:
    """Run each group; which ones ended early."""
    unfinished: list[str] = []
    for at, (name, group) in enumerate(groups):
        # Without these, every later test would fail for the same reason.
        lost = site.note.failed("6.3.2-a") or site.note.failed("6.5-a")
        if lost:
            return [*unfinished, *(f"{later}: not tested: {lost}" for later, _ in groups[at:])]
        try:
            group()
        except OutOfTime as error:
            return [*unfinished, *(f"{later}: not tested: {error.found}" for later, _ in groups[at:])]
        except CertificateError:
            raise
        except (TransportError, NoAnswer) as error:
            unfinished.append(f"{name}: {error.found}")
    return unfinished
