"""Names of servers: as users write them, as certificates contain them, and whether the two match.

Comes in: host names and addresses, certificates. Goes out: the name to check, a certificate's names, yes or no. Each entry of a
certificate is checked by itself: an odd one does not spoil the others (RFC 9525 §6). It must never take a common name for the
server's name, nor a DNS entry for an address.
"""

import string
from ipaddress import IPv4Address, IPv6Address, ip_address

from cryptography import x509
from cryptography.x509.oid import NameOID

from tsq.errors import ConfigError
from tsq.quic.certificates import der

_ALTERNATIVE_NAME = "2.5.29.17"
# Kinds of entries (RFC 5280 §4.2.1.6).
_DNS, _ADDRESS = 0x82, 0x87
_LETTERS = frozenset(string.ascii_lowercase + string.digits + "-")
# Two labels must stand behind the asterisk, as OpenSSL requires: "*.com" stands for no server.
_LEAST_DOTS = 2


def name_to_check(text: str) -> str:
    """The name that a certificate must have, for a host or a server name that a user wrote.

    An address in its canonical form, without brackets and zone. A host name in lower case, in A-labels
    (RFC 5890 §2.3.2.1), without the dot that makes it absolute. Raises ConfigError.
    """
    address = address_of(text)
    if address is not None:
        return str(address)
    try:
        name = text if text.isascii() else text.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise ConfigError(f"server name {text!r}", expected="a host name or an address") from error
    name = name.lower().removesuffix(".")
    if not name:
        # Without a name only the authority would be checked.
        raise ConfigError("an empty server name", expected="the name or address that the certificate must have")
    return name


def address_of(text: str) -> IPv4Address | IPv6Address | None:
    """The address that a text is, without its zone; None where it is a name."""
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    address, _, zone = text.partition("%")
    try:
        found = ip_address(address)
    except ValueError:
        return None
    return None if zone and isinstance(found, IPv4Address) else found


def certificate_names(certificate: x509.Certificate) -> list[str]:
    """DNS names and IP addresses of a certificate, as text. One without any is described by its common name."""
    try:
        entries = _entries(certificate)
    except ValueError:
        entries = []
    names = [_as_text(kind, content) for kind, content in entries if kind in (_DNS, _ADDRESS)]
    if names or entries:
        return names
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return [f"the common name {name.value!s} only" for name in common]


def fits(certificate: x509.Certificate, name: str) -> bool:
    """Whether one of a certificate's entries fits this name, which is as `name_to_check` gives it.

    Raises ValueError where the certificate has no list of names that can be read.
    """
    address = address_of(name)
    entries = _entries(certificate)
    if address is not None:
        return any(kind == _ADDRESS and content == address.packed for kind, content in entries)
    return any(kind == _DNS and _same(content, name.encode("ascii")) for kind, content in entries)


def _entries(certificate: x509.Certificate) -> list[tuple[int, bytes]]:
    """(kind, content) of each alternative name. Raises ValueError."""
    extension = der.extensions(certificate).get(_ALTERNATIVE_NAME)
    return [] if extension is None else der.items(der.only(extension, der.SEQUENCE))


def _as_text(kind: int, content: bytes) -> str:
    if kind == _DNS:
        return content.decode("ascii", "backslashreplace")
    try:
        return str(ip_address(content))
    except ValueError:
        return f"an address of {len(content)} bytes"


def _same(entry: bytes, name: bytes) -> bool:
    """Whether a DNS entry fits a host name (RFC 9525 §6.3): the same labels, or an asterisk for the whole first one."""
    pattern = entry.lower()
    first, _, rest = pattern.partition(b".")
    label, _, others = name.partition(b".")
    if first == b"*" and _is_wildcard(rest):
        return rest == others and bool(label) and set(label.decode("ascii")) <= _LETTERS
    return pattern == name


def _is_wildcard(rest: bytes) -> bool:
    """Whether what stands behind "*." makes it a wildcard."""
    labels = rest.decode("latin-1").split(".")
    well_formed = all(label and set(label) <= _LETTERS and label[0] != "-" and label[-1] != "-" for label in labels)
    return well_formed and len(labels) >= _LEAST_DOTS
