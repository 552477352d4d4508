"""What a user may choose, checked: options of the client and the server, and how hosts and ports are written.

Comes in: values from a command line or a program. Goes out: frozen options, or ConfigError that says what was found and expected.
It must never open a socket or read a clock.
"""

import re
from base64 import b64decode
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import Any

from tsq.errors import ConfigError
from tsq.timing.filter import DEFAULT_SERVER_ERROR

DEFAULT_PORT = 443
MAX_PORT = 65535
_PIN = "sha256//"
_DIGEST_SIZE = 32
# Kinds of time sources, as Time Source Info (251) has them.
SOURCES = ("gps", "ptp", "ntp", "manual", "unknown")


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom a client believes: the system's store, one CA file, holders of certain keys (pins), or anybody (insecure).

    valid_at: check certificates for this time (Unix seconds) in place of what the clock says, which may be wrong. read: what was
    read of the authorities' file, once for all that this trust is used for; `tsq.quic.certificates.trust` keeps it.
    """

    ca_file: str | None = None
    insecure: bool = False
    pins: tuple[str, ...] = ()
    valid_at: float | None = None
    read: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.insecure and self.ca_file is not None:
            raise ConfigError("a CA file together with 'insecure'", expected="one of them")
        if self.pins and (self.insecure or self.ca_file is not None or self.valid_at is not None):
            raise ConfigError("pinned keys together with another trust", expected="one of them")
        if self.insecure and self.valid_at is not None:
            raise ConfigError("a time to check certificates for together with 'insecure'", expected="one of them")


def parse_pin(text: str) -> str:
    """A pinned key as curl writes it: sha256// and the Base64 of the SHA-256 of the key's SubjectPublicKeyInfo."""
    try:
        digest = b64decode(text.removeprefix(_PIN), validate=True)
    except ValueError:
        digest = b""
    if not text.startswith(_PIN) or len(digest) != _DIGEST_SIZE:
        raise ConfigError(f"pinned key {text!r}", expected="sha256// and the Base64 of 32 bytes")
    return text


@dataclass(frozen=True, slots=True)
class Target:
    """A server to ask: name or address, and UDP port."""

    host: str
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class LocalClock:
    """What a server's operator declares of a clock that nothing synchronizes. error in seconds."""

    stratum: int
    source: str = "manual"
    error: float = 1e-6

    def __post_init__(self) -> None:
        if not 1 <= self.stratum <= 15:
            raise ConfigError(f"local stratum {self.stratum}", expected="1 to 15")
        if self.source not in SOURCES:
            raise ConfigError(f"local source {self.source!r}", expected=", ".join(SOURCES))
        if not 0 < self.error <= 16:
            raise ConfigError(f"local error {self.error}", expected="above 0, at most 16 seconds")


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How a client asks. interval and timeout in seconds; family 0 (any), 4 or 6; server_name None: the host's name.

    server_error: what is assumed for the own error of a server that does not report it, seconds. accept_unknown: use also a server
    that was asked about its own clock and never answered that question; it may not be synchronized.
    """

    count: int = 3
    interval: float = 0.1
    timeout: float = 3.0
    family: int = 0
    trust: Trust = field(default_factory=Trust)
    server_name: str | None = None
    stream: bool = False
    session_file: str | None = None
    server_error: float = DEFAULT_SERVER_ERROR
    accept_unknown: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.count <= 1_000_000:
            raise ConfigError(f"count {self.count}", expected="1 to 1000000")
        if not 0 <= self.interval <= 86400:
            raise ConfigError(f"interval {self.interval}", expected="0 to 86400 seconds")
        if not 0 < self.timeout <= 3600:
            raise ConfigError(f"timeout {self.timeout}", expected="above 0, at most 3600 seconds")
        if self.family not in (0, 4, 6):
            raise ConfigError(f"address family {self.family}", expected="0, 4 or 6")
        if not 0 <= self.server_error <= 1:
            raise ConfigError(f"server error {self.server_error}", expected="0 to 1 second")
        if self.server_name is not None and not self.server_name.strip("."):
            # The host's own name would be checked in its place.
            raise ConfigError(f"server name {self.server_name!r}", expected="the name or address that the certificate must have")


def parse_target(text: str, default_port: int = DEFAULT_PORT) -> Target:
    """HOST, HOST:PORT, IPv6 address, [IPv6] or [IPv6]:PORT."""
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", text)
    if bracketed:
        host, port = bracketed[1], bracketed[2]
        canonical = _canonical_ipv6(host)
        if canonical is None:
            raise ConfigError(f"{host!r} in brackets", expected="an IPv6 address")
        host = canonical
    elif (canonical := _canonical_ipv6(text)) is not None:
        host, port = canonical, None
    else:
        host, colon, rest = text.partition(":")
        port = rest if colon else None
    if not host or any(c.isspace() or not c.isprintable() for c in host) or len(host) > 253 or ":" in (port or ""):
        raise ConfigError(f"host {text!r}", expected="HOST, HOST:PORT, IPv6 or [IPv6]:PORT")
    return Target(host, default_port if port is None else parse_port(port))


def parse_listen(text: str) -> Target:
    """ADDRESS:PORT or [IPv6]:PORT, the address numeric. Port 0 is any free one."""
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ConfigError(f"listen address {text!r}", expected="ADDRESS:PORT, such as 0.0.0.0:443 or [::]:443")
    address = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        parsed = ip_address(address)
    except ValueError:
        raise ConfigError(f"listen address {host!r}", expected="a numeric IPv4 address, or an IPv6 one in brackets") from None
    if isinstance(parsed, IPv6Address) != host.startswith("["):
        raise ConfigError(f"listen address {text!r}", expected="brackets around IPv6, and only there")
    if isinstance(parsed, IPv6Address) and parsed.scope_id is not None:
        raise ConfigError(
            f"listen address {text!r}", expected="an address without a zone", advice="[::] listens on link-local addresses, too"
        )
    # In the one form that it has, so that every way to write the wildcard is known as such.
    return Target(str(parsed), parse_port(port, least=0))


def parse_port(text: str, least: int = 1) -> int:
    """A port number."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or not least <= int(text) <= MAX_PORT:
        raise ConfigError(f"port {text!r}", expected=f"a number from {least} to {MAX_PORT}")
    return int(text)


def _canonical_ipv6(text: str) -> str | None:
    """An IPv6 address in the one form that it has (RFC 5952), its zone as it came; None where the text is no such address."""
    try:
        parsed = IPv6Address(text)
    except ValueError:
        return None
    return str(parsed)
