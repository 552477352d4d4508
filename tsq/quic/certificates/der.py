"""As much of DER as it takes to read a certificate's extensions one by one (ITU-T X.690, RFC 5280 §4.1).

Comes in: bytes from the network. Goes out: their parts, or ValueError. `cryptography` reads all extensions or none, so one odd
entry would hide all others. It must never look beyond the end of what it was given.
"""

from cryptography import x509

SEQUENCE = 0x30
OBJECT_IDENTIFIER = 0x06
BIT_STRING = 0x03
BOOLEAN = 0x01
_OCTET_STRING = 0x04
_EXTENSIONS = 0xA3
_LONG = 0x80
_MOST_LENGTH_BYTES = 4
_MULTI_BYTE_TAG = 0x1F


def items(data: bytes) -> list[tuple[int, bytes]]:
    """(tag, content) of each element, one behind the other."""
    found = []
    at = 0
    while at < len(data):
        tag, start, end = _header(data, at)
        found.append((tag, data[start:end]))
        at = end
    return found


def only(data: bytes, tag: int) -> bytes:
    """The content of the one element that this is, which must have this tag."""
    found = items(data)
    if len(found) != 1 or found[0][0] != tag:
        raise ValueError("not the element that was expected")
    return found[0][1]


def dotted(content: bytes) -> str:
    """An object identifier's content as text."""
    numbers: list[int] = []
    value = 0
    if not content or content[-1] & _LONG:
        raise ValueError("an object identifier that is cut off")
    for byte in content:
        value = value << 7 | byte & ~_LONG
        if not byte & _LONG:
            numbers.append(value)
            value = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, [first, numbers[0] - 40 * first, *numbers[1:]]))


def bits(content: bytes) -> list[bool]:
    """A bit string's content, the first bit first."""
    if not content or content[0] > 7 or (content[0] and len(content) == 1):
        raise ValueError("a malformed bit string")
    flat = [bool(byte >> (7 - place) & 1) for byte in content[1:] for place in range(8)]
    return flat[: len(flat) - content[0]]


def extensions(certificate: x509.Certificate) -> dict[str, bytes]:
    """Object identifier -> content of each extension. Raises ValueError, also where one stands twice (RFC 5280 §4.2)."""
    fields = items(only(certificate.tbs_certificate_bytes, SEQUENCE))
    found: dict[str, bytes] = {}
    for _, content in (field for field in fields if field[0] == _EXTENSIONS):
        for tag, extension in items(only(content, SEQUENCE)):
            parts = [part for part in items(extension) if part[0] != BOOLEAN]
            if tag != SEQUENCE or [part[0] for part in parts] != [OBJECT_IDENTIFIER, _OCTET_STRING]:
                raise ValueError("a malformed extension")
            name = dotted(parts[0][1])
            if name in found:
                raise ValueError(f"the extension {name} twice")
            found[name] = parts[1][1]
    return found


def _header(data: bytes, at: int) -> tuple[int, int, int]:
    """(tag, where the content begins, where it ends)."""
    if len(data) - at < 2 or data[at] & _MULTI_BYTE_TAG == _MULTI_BYTE_TAG:
        raise ValueError("malformed DER")
    tag, length, start = data[at], data[at + 1], at + 2
    if length & _LONG:
        count = length & ~_LONG
        if not 1 <= count <= _MOST_LENGTH_BYTES or len(data) - start < count:
            raise ValueError("malformed DER")
        length = int.from_bytes(data[start : start + count], "big")
        start += count
    if length > len(data) - start:
        raise ValueError("malformed DER")
    return tag, start, start + length
