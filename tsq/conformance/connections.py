"""Connections: ALPN, which modes there are, resumed sessions and their tickets (§6.1, §7).

Comes in: a Site. Goes out: findings; in the Site, what the server speaks. It must never take a refused connection for a broken
server where another one is accepted.
"""

import os

from tsq.conformance.judge import plain
from tsq.conformance.link import OutOfTime, Site
from tsq.errors import AlpnRefused, CertificateError, TransportError
from tsq.wire.tlv import NONCE_SIZE

# Registered nowhere: a server that accepts it accepts anything.
_OTHER = "tsq-conformance-other"
# For tickets, which come after the handshake.
_TICKET_WAIT = 0.3
_LEAST_NAME = 4


def first_contact(site: Site) -> None:
    """Connect as a client of TSQ does, and see which modes there are. Raises TransportError: there is nothing to test."""
    with site.link() as link:
        site.alpn = link.connection.alpn
        site.datagrams = link.connection.peer_takes_datagrams
        site.streams = link.connection.peer_takes_streams
        if site.alpn not in ("tsq/1", "tsq"):
            raise AlpnRefused(f"the server chose the ALPN identifier {site.alpn!r}", expected="tsq/1 or tsq")


def application_protocol(site: Site) -> None:
    """Which ALPN identifiers the server accepts."""
    note = site.note
    refused = _refusal(site, ["tsq"])
    note.check("6.1-1,2-1", not refused, refused or "tsq", "tsq")
    also = _refusal(site, ["tsq/1"])
    found = ", ".join(name for name, why in (("tsq/1", also), ("tsq", refused)) if not why)
    note.check("R1-1", bool(found), found or also, "tsq/1 or tsq")
    for offered, name in (([_OTHER], _OTHER), (None, "no ALPN")):
        accepted = not _refusal(site, offered)
        note.check("7-1,R1-1", not accepted, f"{name}: {'accepted' if accepted else 'refused'}", "refused")


def _refusal(site: Site, offered: list[str] | None) -> str:
    """Why a connection with these ALPN identifiers fails; "" where it does not."""
    link = site.connect(offered)
    try:
        link.handshake()
        # A server may close only after the handshake.
        link.settle(site.pace)
    except (OutOfTime, CertificateError):
        raise
    except TransportError as error:
        return error.found
    finally:
        link.close()
    return "" if offered is None or link.connection.alpn in offered else f"the server chose {link.connection.alpn!r}"


def resumption(site: Site, names: list[bytes]) -> None:
    """Session tickets: what they show, and a connection with one. names: what they must not show."""
    note = site.note
    with site.link() as link:
        link.settle(_TICKET_WAIT)
    if not site.tickets:
        note.skip("6.1-2,7-4,7-5,9-2", "the server gives no session tickets")
        return
    shown = [name for name in names if len(name) >= _LEAST_NAME for one in site.tickets if name in one.ticket.ticket]
    found = f"{shown[0]!r} in clear" if shown else f"{len(site.tickets[-1].ticket.ticket)} bytes without a name or an address"
    note.check("7-5", not shown, found, "nothing that identifies the client or the server")
    link = site.connect(ticket=site.tickets.pop())
    nonce = os.urandom(NONCE_SIZE)
    try:
        early = link.send_early(plain(nonce))
        link.handshake()
        resumed = link.connection.resumed
        answered = early and link.connection.early_accepted and link.early_answer(nonce) is not None
    except TransportError as error:
        note.check("7-4", False, error.found, "a connection")
    else:
        note.offered("6.1-2,7-4,9-2", resumed, "a resumed session" + (", answered in 0-RTT" if answered else ", without 0-RTT"))
    finally:
        link.close()
