"""Datagram Mode: plain requests, unknown types, malformed messages, packets changed or sent again (§6.2, §6.3, §6.5, §6.6).

Comes in: a Site. Goes out: findings. Each malformed message is followed by a good one, whose answer shows that the server has
dropped the former and is still there: silence is never waited for.
"""

import os
from collections.abc import Mapping

from tsq.conformance.judge import Answer, packed, plain, read_tlvs, seconds_between
from tsq.conformance.link import Site
from tsq.errors import NoAnswer, TransportError
from tsq.wire.tlv import NONCE_SIZE, TlvType

_PLAIN_KINDS = {1, 2, 3}
# A clock may be slewed by this much (the kernel's limit), and its times are read in user space on this side.
_SLEW = 0.0005
_SLACK = 0.002
_ROUNDS = 4
_SILENT = "no answer"


def malformed(nonce: bytes) -> Mapping[str, bytes]:
    """Requests whose TLVs are broken, whatever is known of their types."""
    whole = plain(nonce)
    return {
        "an empty message": b"",
        "one byte": b"\x01",
        "a nonce that is cut": whole[:-1],
        "a TLV that runs past the end": whole + b"\x64\x05abcd",
        "one byte after the last TLV": whole + b"\x00",
        "no nonce": packed([(TlvType.METADATA_QUERY, b"")]),
        "a nonce of 15 bytes": packed([(TlvType.NONCE, nonce[:15])]),
        "a nonce of 17 bytes": packed([(TlvType.NONCE, nonce + b"\x00")]),
        "a nonce that is not first": packed([(TlvType.METADATA_QUERY, b""), (TlvType.NONCE, nonce)]),
    }


UNKNOWN = [(4, b""), (100, b"conformance"), (246, bytes(32)), (0, b"\x00")]


def plain_exchanges(site: Site) -> None:
    """Plain requests, and whether the server's clock goes on between them."""
    note = site.note
    with site.link() as link:
        answers = []
        for _ in range(_ROUNDS):
            before = link.now()
            answer = link.ask_plain()
            if answer is None:
                note.check("6.5-a", False, _SILENT, "a response in one DATAGRAM frame")
                return
            answers.append((before, answer))
            link.settle(0.02)
        note.check("6.5-a,6.5-1", True, f"{_ROUNDS} answers in DATAGRAM frames, from the first request on", "")
        last = answers[-1][1]
        note.check("7-12", set(last.kinds) <= _PLAIN_KINDS, last.described(), "TLVs 1 2 3 for a plain request")
        note.check("8-1", not any(TlvType.SIGNATURE in one.kinds for _, one in answers), last.described(), "no 255 unasked")
        _clock(site, answers)


def _clock(site: Site, answers: list[tuple[float, Answer]]) -> None:
    """T2 of each answer lies within its request's time here, shifted by one offset."""
    stamps = [(before, one.elapsed, one.value(TlvType.RECEIVE_TIMESTAMP)) for before, one in answers]
    if any(stamp is None or len(stamp) != 8 for _, _, stamp in stamps):
        site.note.check("6.2-1", False, answers[0][1].described(), "T2 and T3 of 8 bytes")
        return
    (start, elapsed, first), *later = [(before, took, int.from_bytes(stamp or b"", "big")) for before, took, stamp in stamps]
    for before, took, stamp in later:
        step = seconds_between(first, stamp)
        slack = _SLACK + _SLEW * (before + took - start)
        least, most = before - start - elapsed - slack, before + took - start + slack
        if not least <= step <= most:
            expected = f"{max(least, 0):.6f} to {most:.6f} s, the time here"
            site.note.check("6.2-1", False, f"{step:.6f} s between two T2", expected)
            return
    site.note.check("6.2-1", True, f"T2 moves on with the time here, over {later[-1][0] - start:.3f} s", "")


def unknown_types(site: Site) -> None:
    """TLVs of unknown types, and values that look like TLVs."""
    note = site.note
    with site.link() as link:
        nonce = os.urandom(NONCE_SIZE)
        answer = link.ask(plain(nonce) + packed(UNKNOWN), nonce)
        found = _SILENT if answer is None else answer.described()
        note.check("6.3.1-3,6.3.2-5", answer is not None and not answer.is_error, found, "the answer of a plain request")
        nonce = os.urandom(NONCE_SIZE)
        inside = packed([(TlvType.PRECISION_MODE, b""), (TlvType.SIGNATURE_REQUEST, b"")])
        answer = link.ask(plain(nonce) + packed([(100, inside)]), nonce)
        found = _SILENT if answer is None else answer.described()
        note.check(
            "6.3.2-4", answer is not None and not {250, 255} & set(answer.kinds), found, "no 250, no 255: a value is no TLVs"
        )
        nonce = os.urandom(NONCE_SIZE)
        answer = link.ask(plain(nonce) + packed([(TlvType.METADATA, b"\x0bconformance\x01?")]), nonce)
        found = _SILENT if answer is None else answer.described()
        note.check("6.3.2-12", answer is not None and not answer.is_error, found, "an answer, whatever the keys are")


def malformed_messages(site: Site) -> None:
    """Malformed messages: each is dropped, and the connection goes on."""
    note = site.note
    link = site.link()
    try:
        for name, message in malformed(os.urandom(NONCE_SIZE)).items():
            try:
                link.send(message)
                others = link.others_before_next()
            except (NoAnswer, TransportError) as error:
                note.check("R4-1", False, f"{name}: {error.found}", "the connection goes on")
                link.close()
                link = site.link()
                continue
            note.check("R4-1", True, "the connection goes on", "")
            _dropped(site, name, others)
        first, second = plain(os.urandom(NONCE_SIZE)), plain(os.urandom(NONCE_SIZE))
        link.send(first + second)
        others = link.others_before_next()
        note.check("6.3.2-2", len(others) <= 1, f"{len(others)} answers to one DATAGRAM frame", "one at most")
    finally:
        link.close()


def packets(site: Site) -> None:
    """Packets that are sent again, and one that is changed on its way."""
    note = site.note
    with site.link() as link:
        if link.ask_plain() is None:
            note.skip("7-a", _SILENT)
            return
        # The second request on: the first may have gone together with the end of the handshake.
        if link.ask_plain() is None:
            note.skip("7-a", _SILENT)
            return
        link.send_raw(link.last_sent * 2)
        others = link.others_before_next()
        changed = [data[:-1] + bytes([data[-1] ^ 1]) for data in link.sealed(plain(os.urandom(NONCE_SIZE)))]
        link.send_raw(changed)
        forged = link.others_before_next()
        found = f"{len(others)} answers to a packet sent again, {len(forged)} to a changed one"
        note.check("7-a", not others and not forged, found, "none")


def small_frames(site: Site) -> None:
    """A client that takes only DATAGRAM frames that are too small for a response (RFC 9221 §3)."""
    limit = 30
    link = site.connect(datagram_limit=limit)
    try:
        link.handshake()
    except TransportError:
        link.close()
        raise
    try:
        link.send(plain(os.urandom(NONCE_SIZE)))
        # With larger frames, the connection would end here.
        if site.streams:
            link.ask_stream_plain()
        else:
            link.settle(site.timeout / 2)
        site.note.check("RFC 9221-1", True, f"no frame of more than {limit} bytes", "")
    except TransportError as error:
        site.note.check("RFC 9221-1", False, error.found, f"no DATAGRAM frame of more than {limit} bytes")
    finally:
        link.close()


def _dropped(site: Site, name: str, others: list[bytes]) -> None:
    """Note what came in answer to a malformed message."""
    answers = [Answer(data, b"", 0.0, False, read_tlvs(data)) for data in others]
    found = f"{name}: " + (f"{len(answers)} answers, the first with {answers[0].described()}" if answers else "no answer")
    site.note.check("6.6-2", not answers, found, "no answer")
    site.note.check("6.6-1", all(one.is_error for one in answers), found, "no response")
    site.note.check("6.3.2-24", not any(one.is_error for one in answers), found, "no Error TLV in a datagram")
