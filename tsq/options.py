"""Options of the client and the server, and how hosts and ports are written.

Comes in: values from a command line or a program, of any type. Goes out: frozen options that are right, or a ConfigError that says
what was found and what was expected. It must never open a socket or read a clock.
"""

import os
import re
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv6Address, ip_address, ip_network
from math import isfinite
from typing import Any
from urllib.parse import urlsplit

from tsq.errors import ConfigError
from tsq.timing.filter import DEFAULT_SERVER_ERROR

DEFAULT_PORT = 443
MAX_PORT = 65535
_PIN = "sha256//"
_DIGEST_SIZE = 32
# Kinds of time sources, as Time Source Info (251) has them.
SOURCES = ("gps", "ptp", "ntp", "manual", "unknown")


class Precision(StrEnum):
    """Precision Mode (docs/reference/protocol.md R7): do not ask for it; use other answers, too; use no others."""

    OFF = "off"
    ASK = "ask"
    REQUIRE = "require"


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom a client trusts: the system's authorities, one CA file, holders of certain keys (pins), or anybody (insecure).

    valid_at: check certificates for this time (Unix seconds) instead of the clock's time, which may be wrong. read: the content of
    the authorities' file, read once for all that this trust is used for; `tsq.quic.certificates.trust` keeps it.
    """

    ca_file: str | os.PathLike[str] | None = None
    insecure: bool = False
    pins: tuple[str, ...] = ()
    valid_at: float | None = None
    read: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ca_file", _path("CA file", self.ca_file))
        check_type("insecure", self.insecure, bool)
        if isinstance(self.pins, str) or not isinstance(self.pins, Iterable):
            raise ConfigError(f"pins {self.pins!r}", expected="a tuple of texts, each sha256// and the Base64 of 32 bytes")
        if self.valid_at is not None and not isfinite(check_number("valid_at", self.valid_at)):
            raise ConfigError(f"valid_at {self.valid_at}", expected="seconds since 1970")
        if self.insecure and self.ca_file is not None:
            raise ConfigError("a CA file together with 'insecure'", expected="one of them")
        if self.pins and (self.insecure or self.ca_file is not None or self.valid_at is not None):
            raise ConfigError("pinned keys together with another trust", expected="one of them")
        if self.insecure and self.valid_at is not None:
            raise ConfigError("a time to check certificates for together with 'insecure'", expected="one of them")
        object.__setattr__(self, "pins", tuple(parse_pin(pin) for pin in self.pins))


def parse_pin(text: str) -> str:
    """A pinned key as curl writes it: sha256// and the Base64 of the SHA-256 of the key's SubjectPublicKeyInfo."""
    check_type("pinned key", text, str)
    try:
        digest = b64decode(text.removeprefix(_PIN), validate=True)
    except ValueError:
        digest = b""
    if not text.startswith(_PIN) or len(digest) != _DIGEST_SIZE:
        raise ConfigError(f"pinned key {text!r}", expected="sha256// and the Base64 of 32 bytes")
    return text


@dataclass(frozen=True, slots=True)
class Target:
    """A server: name or address, and UDP port. Port 0 is for a server's own address only: any free port."""

    host: str
    port: int = DEFAULT_PORT

    def __post_init__(self) -> None:
        if not isinstance(self.host, str) or not _is_host(self.host):
            raise ConfigError(f"host {self.host!r}", expected="a name or an address, without a port")
        check_type("port", self.port, int)
        if not 0 <= self.port <= MAX_PORT:
            raise ConfigError(f"port {self.port}", expected=f"a number from 1 to {MAX_PORT}")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class LocalClock:
    """What a server's operator declares about a clock that nothing synchronizes. error in seconds."""

    stratum: int
    source: str = "manual"
    error: float = 1e-6

    def __post_init__(self) -> None:
        check_type("local stratum", self.stratum, int)
        if not 1 <= self.stratum <= 15:
            raise ConfigError(f"local stratum {self.stratum}", expected="1 to 15")
        if self.source not in SOURCES:
            raise ConfigError(f"local source {self.source!r}", expected=", ".join(SOURCES))
        if not 0 < check_number("local error", self.error) <= 16:
            raise ConfigError(f"local error {self.error}", expected="above 0, at most 16 seconds")


# The networks of this machine itself.
LOOPBACK = ("127.0.0.0/8", "::1/128")


@dataclass(frozen=True, slots=True)
class WebOptions:
    """A server's pages. networks: who may see status and metrics over HTTP/3. origins: web sites whose pages may ask for the time
    in WebTransport sessions, beside this server's own page; "*" for all. version: of the program, to be shown.
    """

    networks: tuple[str, ...] = LOOPBACK
    origins: tuple[str, ...] = ()
    version: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "networks", tuple(parse_network(one) for one in self.networks))
        object.__setattr__(self, "origins", tuple(parse_origin(one) for one in self.origins))


def parse_network(text: str) -> str:
    """ADDRESS or ADDRESS/BITS."""
    check_type("network", text, str)
    try:
        return str(ip_network(text))
    except ValueError as error:
        raise ConfigError(f"network {text!r}: {error}", expected="ADDRESS or ADDRESS/BITS, such as 192.0.2.0/24") from error


def parse_origin(text: str) -> str:
    """A web site's origin as browsers write it (RFC 6454 §6.1), or * for any."""
    check_type("origin", text, str)
    if text != "*" and split_origin(text) is None:
        raise ConfigError(f"origin {text!r}", expected="https://HOST or https://HOST:PORT, or *")
    return text


def split_origin(text: str) -> tuple[str, str, int] | None:
    """(scheme, host, port) of an origin; None for anything else, such as "null"."""
    try:
        parts = urlsplit(text)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
    except ValueError:
        return None
    if not parts.hostname or not port or parts.path or parts.query or parts.fragment or parts.username is not None:
        return None
    return parts.scheme, parts.hostname, port


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How a client asks. interval and timeout in seconds; family 0 (any), 4 or 6; server_name None: the host's name.

    server_error: what is assumed for the own error of a server that does not report it, seconds. accept_unknown: use also a server
    that was asked about its own clock and never answered that question; it may not be synchronized. precision: whether to ask for
    answers that are as long as the requests.
    """

    count: int = 3
    interval: float = 0.1
    timeout: float = 3.0
    family: int = 0
    trust: Trust = field(default_factory=Trust)
    server_name: str | None = None
    stream: bool = False
    session_file: str | os.PathLike[str] | None = None
    server_error: float = DEFAULT_SERVER_ERROR
    accept_unknown: bool = False
    precision: Precision = Precision.OFF

    def __post_init__(self) -> None:
        check_type("count", self.count, int)
        if not 1 <= self.count <= 1_000_000:
            raise ConfigError(f"count {self.count}", expected="1 to 1000000")
        if not 0 <= check_number("interval", self.interval) <= 86400:
            raise ConfigError(f"interval {self.interval}", expected="0 to 86400 seconds")
        if not 0 < check_number("timeout", self.timeout) <= 3600:
            raise ConfigError(f"timeout {self.timeout}", expected="above 0, at most 3600 seconds")
        check_type("address family", self.family, int)
        if self.family not in (0, 4, 6):
            raise ConfigError(f"address family {self.family}", expected="0, 4 or 6")
        if not isinstance(self.trust, Trust):
            advice = f"write Trust(ca_file={self.trust!r})" if isinstance(self.trust, str) else ""
            raise ConfigError(f"trust {self.trust!r}", expected="a tsq.Trust", advice=advice)
        if self.server_name is not None:
            check_type("server name", self.server_name, str)
        check_type("stream", self.stream, bool)
        check_type("accept_unknown", self.accept_unknown, bool)
        check_type("precision", self.precision, Precision)
        object.__setattr__(self, "session_file", _path("session file", self.session_file))
        if not 0 <= check_number("server error", self.server_error) <= 1:
            raise ConfigError(f"server error {self.server_error}", expected="0 to 1 second")
        if self.server_name is not None and not self.server_name.strip("."):
            # The host's own name would be checked in its place.
            raise ConfigError(f"server name {self.server_name!r}", expected="the name or address that the certificate must have")


def as_target(host: str | Target) -> Target:
    """A server to ask, from text as in `parse_target` or from a Target."""
    if isinstance(host, str):
        return parse_target(host)
    if not isinstance(host, Target):
        raise ConfigError(f"host {host!r}", expected="text such as 'time.example' or 'time.example:443', or a tsq.Target")
    if host.port == 0:
        raise ConfigError("port 0", expected=f"a number from 1 to {MAX_PORT}", advice=f"{host.host} cannot be asked at it")
    return host


def as_targets(hosts: Iterable[str | Target]) -> list[Target]:
    """Servers to ask, each as in `as_target`."""
    if isinstance(hosts, str | Target) or not isinstance(hosts, Iterable):
        raise ConfigError(f"hosts {hosts!r}", expected="a list of hosts")
    return [as_target(host) for host in hosts]


def as_options(options: "ClientOptions | None") -> "ClientOptions":
    """These options; the default ones for None."""
    if options is None:
        return ClientOptions()
    if not isinstance(options, ClientOptions):
        raise ConfigError(f"options {options!r}", expected="a tsq.ClientOptions")
    return options


def parse_target(text: str, default_port: int = DEFAULT_PORT) -> Target:
    """HOST, HOST:PORT, IPv6 address, [IPv6] or [IPv6]:PORT."""
    check_type("host", text, str)
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
    if not _is_host(host) or ":" in (port or "") or (port or "").startswith("/"):
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


def parse_precision(text: str) -> Precision:
    """How to ask for Precision Mode."""
    try:
        return Precision(text)
    except ValueError:
        raise ConfigError(f"{text!r}", expected="no value, or =require") from None


def _is_host(text: str) -> bool:
    """Whether a text may be a host: no name is longer than 253 characters, and brackets are a matter of how hosts are written."""
    if ":" in text and _canonical_ipv6(text) is None:
        return False
    return 0 < len(text) <= 253 and text[0] != "[" and not any(c.isspace() or not c.isprintable() for c in text)


def check_type(name: str, value: object, kind: type) -> None:
    """Refuse a value of another type; True and False are no numbers."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        words = {int: "a whole number", str: "text", bool: "True or False", Precision: "a tsq.Precision"}
        raise ConfigError(f"{name} {value!r}", expected=words[kind])


def check_number(name: str, value: float) -> float:
    """A number of any kind; refuses everything else."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ConfigError(f"{name} {value!r}", expected="a number")
    return value


def _path(name: str, value: object) -> str | None:
    """A file's name as text, from text or a pathlib.Path; None stays None."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if value is not None and (not isinstance(value, str) or not value):
        raise ConfigError(f"{name} {value!r}", expected="a file's name")
    return value


def _canonical_ipv6(text: str) -> str | None:
    """An IPv6 address in its canonical form (RFC 5952), with its zone unchanged; None if the text is not an IPv6 address."""
    try:
        parsed = IPv6Address(text)
    except ValueError:
        return None
    return str(parsed)
