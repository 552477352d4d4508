"""Read PEM files as they occur: Windows line ends, trailing blanks, text between the blocks, any order (RFC 7468 §2).

Comes in: a file's content. Goes out: its blocks, and the certificates in them. It must never leave a certificate out silently.
"""

import re
from dataclasses import dataclass

from cryptography import x509

_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9][A-Z0-9 ]*)-----")
_CERTIFICATES = ("CERTIFICATE", "X509 CERTIFICATE")
# What some editors put in front of UTF-8.
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Damaged(ValueError):
    """A block that cannot be read. str() says which."""


@dataclass(frozen=True, slots=True)
class Block:
    """One block. label: its type; text: the whole block with plain line ends."""

    label: str
    text: bytes


def blocks(content: bytes) -> list[Block]:
    """All blocks of a file. Raises Damaged where one has no end."""
    found: list[Block] = []
    label, lines = "", []
    # `cat` joins two files so, where the first has no final line end.
    content = content.removeprefix(_BYTE_ORDER_MARK).replace(b"----------BEGIN ", b"-----\n-----BEGIN ")
    for line in (line.strip() for line in content.splitlines()):
        begins = _BEGIN.fullmatch(line)
        if begins and not label:
            label, lines = begins[1].decode("ascii"), [line]
        elif label:
            lines.append(line)
            if line == f"-----END {label}-----".encode():
                found.append(Block(label, b"\n".join(lines) + b"\n"))
                label = ""
            elif begins:
                break
    if label:
        raise Damaged(f"the block {len(found) + 1} ({label}) has no end")
    return found


def is_certificate(block: Block) -> bool:
    """Whether a block says that it is a certificate."""
    return block.label in _CERTIFICATES


def certificates(content: bytes) -> list[x509.Certificate]:
    """All certificates of a file, in its order; other blocks are passed over. Raises Damaged where one cannot be read."""
    found = []
    for block in filter(is_certificate, blocks(content)):
        try:
            found.append(x509.load_pem_x509_certificate(block.text))
        except ValueError as error:
            raise Damaged(f"certificate {len(found) + 1} cannot be read") from error
    return found


def what_else(content: bytes) -> str:
    """What to do with a file that holds no PEM block of the kind that was expected."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "it is text in UTF-16: save it as ASCII or UTF-8"
    if content.startswith(b"0"):
        return "it seems to be in DER form: `openssl x509 -inform der` converts a certificate, `openssl pkey -inform der` a key"
    if b"-----BEGIN TRUSTED CERTIFICATE" in content:
        return "`openssl x509 -in FILE` makes a plain certificate of a TRUSTED CERTIFICATE"
    return "is it the right file?"
