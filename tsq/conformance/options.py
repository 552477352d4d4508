"""What a server may offer: information about its clock, Precision Mode, signatures (§6.3.2, §6.4, §8).

Comes in: a Site; a Verifier, where the user has the server's keys. Goes out: findings. What is not offered is skipped, and only
what was offered is judged.
"""

import os

from tsq.conformance.judge import Answer, packed, plain
from tsq.conformance.link import Link, Site
from tsq.errors import SignatureError
from tsq.wire.message import SignatureBlock, padding, tlvs_size
from tsq.wire.signature import Verifier
from tsq.wire.tlv import NONCE_SIZE, ErrorCode, TlvType

_SILENT = "no answer"
_PRECISION = "6.4-2,6.4-6,6.4-7,6.4-8,6.4-9"
_SIGNED = "6.3.2-8,6.3.2-43,7-6,8-2"
# Nonce, T2, T3 and 250.
_LEAST = 40
_GAP_OF_ONE = _LEAST + 1
_SIZES = (_LEAST, 200, 700)


def information(site: Site) -> None:
    """A Metadata Query."""
    note = site.note
    with site.link() as link:
        answer = _asked(site, link, [(TlvType.METADATA_QUERY, b"")])
        if answer is None or answer.is_error:
            found = _SILENT if answer is None else answer.described()
            note.check("6.3.2-14", False, found, "a response, with or without information")
            return
        what = answer.described()
        note.check("6.3.2-14", True, what, "")
        note.offered("6.3.2-11", TlvType.METADATA in answer.kinds, what)
        note.offered("6.3.2-15", TlvType.CLOCK_QUALITY in answer.kinds, what)
        note.offered("9-10", TlvType.TIME_SOURCE in answer.kinds, what)


def precision(site: Site) -> None:
    """Precision Mode, where lengths can be equal and where they cannot."""
    note = site.note
    with site.link() as link:
        for size in _SIZES:
            answer = _precise(site, link, size)
            if answer is None or answer.is_error:
                note.check("6.4-3", False, _SILENT if answer is None else answer.described(), "a response, with or without 250")
                return
            if TlvType.PRECISION_MODE not in answer.kinds:
                note.check("6.4-3", True, answer.described(), "")
                note.skip(f"{_PRECISION},R7-1,R7-2", "the server does not offer Precision Mode")
                return
            _precise_answer(site, answer, size)
        answer = _precise(site, link, _GAP_OF_ONE)
        if answer is not None:
            claims = TlvType.PRECISION_MODE in answer.kinds
            equal = not claims or len(answer.data) == _GAP_OF_ONE
            found = f"{answer.described()}, {len(answer.data)} bytes"
            note.check("R7-1", equal, found, f"no 250 where no response has {_GAP_OF_ONE} bytes")


def _precise_answer(site: Site, answer: Answer, size: int) -> None:
    note = site.note
    sizes = f"{len(answer.data)} bytes for {size}"
    number = "R7-2" if size > _LEAST + 257 else "6.4-6"
    note.check(number, len(answer.data) == size, sizes, "the same length")
    note.check("6.4-2", True, "an empty TLV 250", "")
    paddings = [value for kind, value in answer.tlvs or () if kind == TlvType.PADDING]
    if size > _LEAST:
        note.check("6.4-7", bool(paddings), answer.described(), "Padding (254)")
        note.check(
            "6.4-8",
            not any(map(any, paddings)),
            "padding of " + ("zero" if not any(map(any, paddings)) else "other") + " bytes",
            "zero bytes",
        )
    if paddings:
        rest = [kind for kind in answer.kinds if kind != TlvType.SIGNATURE]
        last = set(rest[rest.index(TlvType.PADDING) :]) == {TlvType.PADDING}
        note.check("6.4-9", last, answer.described(), "254 after all others but 255")


def signatures(site: Site, verifier: Verifier | None) -> None:
    """Signature Requests, in Datagram Mode and on a stream."""
    if site.datagrams:
        with site.link() as link:
            answer = _signed_datagram(link)
            _signature(site, answer, verifier, "in a datagram")
    if site.streams:
        with site.link() as link:
            nonce = os.urandom(NONCE_SIZE)
            answer, _ = link.ask_stream(plain(nonce) + packed([(TlvType.SIGNATURE_REQUEST, b"")]), nonce)
            _signature(site, answer, verifier, "on a stream")


def _signature(site: Site, answer: Answer | None, verifier: Verifier | None, where: str) -> None:
    note = site.note
    if answer is None or answer.is_error:
        note.skip(f"{_SIGNED},8-3,8-4,6.3.2-42", "the server does not sign")
        what = _SILENT if answer is None else f"Error, code {(answer.value(TlvType.ERROR) or b'?')[0]}"
        note.check("7-6", True, f"{where}: {what}: the request failed", "")
        if answer is not None:
            code = (answer.value(TlvType.ERROR) or b"\x00")[0]
            note.check("R6-1", code == ErrorCode.AUTHENTICATION_REQUIRED, f"{where}: {what}", "code 3")
        elif where == "on a stream":
            note.check("R6-1", False, f"{where}: {what}", "Error, code 3")
        else:
            note.check("R6-1", True, f"{where}: {what}", "")
        return
    what = f"{where}: {answer.described()}"
    signed = TlvType.SIGNATURE in answer.kinds
    note.check("7-6", signed, what, "a Signature Block, or no response")
    if not signed:
        return
    note.check("8-2,6.3.2-8", True, what, "")
    if not answer.stream:
        note.check("6.3.2-43", True, what, "")
    block = _block(answer)
    if block is None or verifier is None:
        note.skip("8-3,8-4,6.3.2-42", "needs a key that may sign")
        return
    try:
        verifier.check(block)
    except SignatureError as error:
        note.check("6.3.2-8,8-3,8-4,6.3.2-42", False, f"{where}: {error.found}", "a valid one over all bytes before 255")
    else:
        note.check("8-3,8-4,6.3.2-42", True, f"{where}: valid over the {len(block.covered)} bytes before 255", "")


def _block(answer: Answer) -> SignatureBlock | None:
    value = answer.value(TlvType.SIGNATURE) or b""
    if len(value) < 7:
        return None
    return SignatureBlock(value[0], int.from_bytes(value[1:5], "big"), value[7:], answer.covered)


def signed_precision(site: Site, verifier: Verifier | None) -> None:
    """A signature over padding. One more signature: only where there are signatures and keys to check them."""
    with site.link() as link:
        nonce = os.urandom(NONCE_SIZE)
        head: list[tuple[int, bytes]] = [(TlvType.NONCE, nonce), (TlvType.PRECISION_MODE, b""), (TlvType.SIGNATURE_REQUEST, b"")]
        message = packed([*head, *(padding(300 - tlvs_size(head)) or [])])
        answer = link.ask(message, nonce) if site.datagrams else link.ask_stream(message, nonce)[0]
        if answer is None or not {TlvType.SIGNATURE, TlvType.PADDING} <= set(answer.kinds):
            site.note.skip("6.3.2-39,6.4-10", "the server does not sign in Precision Mode")
            return
        place = answer.kinds[-2:] == [TlvType.PADDING, TlvType.SIGNATURE]
        site.note.check("6.4-10", place, answer.described(), "254, then 255 last")
        block = _block(answer)
        if block is None or verifier is None:
            site.note.skip("6.3.2-39", "needs a key that may sign")
            return
        try:
            verifier.check(block)
        except SignatureError as error:
            site.note.check("6.3.2-39", False, error.found, "a valid signature over the padding, too")
        else:
            site.note.check("6.3.2-39", True, f"valid over {len(block.covered)} bytes with padding", "")


def _signed_datagram(link: Link) -> Answer | None:
    nonce = os.urandom(NONCE_SIZE)
    return link.ask(plain(nonce) + packed([(TlvType.SIGNATURE_REQUEST, b"")]), nonce)


def _precise(site: Site, link: Link, size: int) -> Answer | None:
    used = 2 + NONCE_SIZE + 2
    return _asked(site, link, [(TlvType.PRECISION_MODE, b""), *(padding(size - used) or [])])


def _asked(site: Site, link: Link, tlvs: list[tuple[int, bytes]]) -> Answer | None:
    nonce = os.urandom(NONCE_SIZE)
    message = plain(nonce) + packed(tlvs)
    return link.ask(message, nonce) if site.datagrams else link.ask_stream(message, nonce)[0]
