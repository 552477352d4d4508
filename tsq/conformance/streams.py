"""Stream Mode: with FIN and without, malformed requests, requests without end (§6.3.2, §6.6; docs/reference/protocol.md R2, R4).

Comes in: a Site. Goes out: findings. It must never send more than some kibibytes on one stream.
"""

import os

from tsq.conformance.datagrams import UNKNOWN, malformed
from tsq.conformance.judge import packed, plain
from tsq.conformance.link import Site
from tsq.errors import NoAnswer, TransportError
from tsq.wire.tlv import NONCE_SIZE

_SILENT = "no answer"
_PIECE, _PIECES = 1000, 16


def plain_streams(site: Site) -> None:
    """Plain requests, with FIN and without."""
    note = site.note
    with site.link() as link:
        nonce = os.urandom(NONCE_SIZE)
        answer, ended = link.ask_stream(plain(nonce), nonce)
        found = _SILENT if answer is None else answer.described() + (", then FIN" if ended else ", no FIN")
        note.check("R2-1", answer is not None and not answer.is_error and ended, found, "one response, then FIN")
        note.check("6.5-b", answer is not None and not answer.is_error, found, "the TLVs of a response in Datagram Mode")
        nonce = os.urandom(NONCE_SIZE)
        answer, _ = link.ask_stream(plain(nonce), nonce, fin=False)
        found = f"{_SILENT} in {site.timeout:g} s" if answer is None else answer.described()
        note.check("R2-2", answer is not None and not answer.is_error, found, "a response")
        nonce = os.urandom(NONCE_SIZE)
        answer, _ = link.ask_stream(plain(nonce) + packed(UNKNOWN), nonce)
        found = _SILENT if answer is None else answer.described()
        note.check(
            "6.3.1-3,6.3.2-5", answer is not None and not answer.is_error, f"on a stream: {found}", "the answer of a plain request"
        )


def malformed_streams(site: Site) -> None:
    """Malformed requests: an error at most, and the connection goes on."""
    note = site.note
    link = site.link()
    try:
        for name, message in malformed(os.urandom(NONCE_SIZE)).items():
            nonce = os.urandom(NONCE_SIZE)
            try:
                answer, _ = link.ask_stream(message, nonce)
                if answer is not None:
                    note.check("6.6-1", answer.is_error, f"{name} on a stream: {answer.described()}", "an Error TLV, or nothing")
                note.offered("6.6-3", answer is not None and answer.is_error, "Error TLV")
                link.others_before_next()
            except (NoAnswer, TransportError) as error:
                note.check("R4-1", False, f"{name} on a stream: {error.found}", "the connection goes on")
                link.close()
                link = site.link()
                continue
            note.check("R4-1", True, "the connection goes on", "")
    finally:
        link.close()


def endless_request(site: Site) -> None:
    """A request that does not end: others are served meanwhile."""
    note = site.note
    with site.link() as link:
        stream_id = link.open_stream(plain(os.urandom(NONCE_SIZE)) + bytes([100, 255]), fin=False)
        sent, why = 0, ""
        try:
            while sent < _PIECE * _PIECES and link.connection.can_send_stream(stream_id):
                link.write(stream_id, bytes([100, 250]) * (_PIECE // 2), fin=False)
                sent += _PIECE
            stopped = not link.connection.can_send_stream(stream_id)
            served = (link.ask_plain() if site.datagrams else link.ask_stream_plain()) is not None
        except TransportError as error:
            stopped, served, why = True, False, error.found
    if why:
        # It may close that connection; then it must still take others.
        with site.link() as other:
            served = (other.ask_plain() if site.datagrams else other.ask_stream_plain()) is not None
    where = f"the connection was closed ({why})" if why else "stopped" if stopped else "not stopped"
    served_text = "others are served" if served else "others get no answer"
    note.check("RFC 9000-1", served, f"after {sent} bytes {where}; {served_text}", "others are served meanwhile")
