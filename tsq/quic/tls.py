"""TLS on both sides: configurations for aioquic, trust, and why a certificate was refused.

Comes in: file names, trust, names. Goes out: QuicConfiguration objects, and for a refused certificate the error that says what to
do. Whether a certificate is accepted is decided by aioquic, and where the trust is a pinned key or another time than the clock's,
by `chain`; nothing here may turn verification off unless the user asked for it.
"""

import datetime
import hashlib
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any, TextIO

from aioquic.quic.configuration import QuicConfiguration
from aioquic.tls import CipherSuite
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tsq.config import Trust
from tsq.errors import (
    CertificateError,
    ConfigError,
    Expired,
    NotPinned,
    NotYetValid,
    SelfSigned,
    UnknownAuthority,
    WrongName,
)
from tsq.quic.tickets import AcceptedTicket

# R1: the client's order, and the server's preference.
ALPN = ["tsq/1", "tsq"]
# A message never fills a packet; the largest value says "whatever fits" (RFC 9221 §3).
DATAGRAM_FRAME_LIMIT = 65535
IDLE_TIMEOUT = 30.0
_PEM = b"-----BEGIN CERTIFICATE-----"
_STREAM_WINDOW = 4096
_CONNECTION_WINDOW = 65536
# The mandatory suite first (RFC 9001 §5.3): it is the fastest to open and seal.
_CIPHER_SUITES = [
    CipherSuite.AES_128_GCM_SHA256,
    CipherSuite.AES_256_GCM_SHA384,
    CipherSuite.CHACHA20_POLY1305_SHA256,
]

Accept = Callable[[list[x509.Certificate]], CertificateError | None]


@dataclass
class ClientConfiguration(QuicConfiguration):
    """A client's configuration.

    accept: judges the server's certificates when the handshake is done, where aioquic does not. acceptance: what names the trust
    and the server name that the server is checked by. accepted: where the ticket to use comes from.
    """

    accept: Accept | None = None
    acceptance: str = ""
    accepted: AcceptedTicket | None = None


def check_trust(trust: Trust) -> None:
    """Raises ConfigError where the CA file cannot be used."""
    if trust.ca_file is None:
        return
    try:
        with open(trust.ca_file, "rb") as file:
            content = file.read()
    except OSError as error:
        raise ConfigError(f"CA file {trust.ca_file}: {_why(error)}", expected="certificates in PEM form") from error
    try:
        x509.load_pem_x509_certificates(content)
    except ValueError as error:
        damaged = _PEM in content
        advice = (
            "is it the right file?" if b"-----BEGIN" in content else "if it is in DER form, `openssl x509 -inform der` converts it"
        )
        raise ConfigError(
            f"CA file {trust.ca_file} holds {'a damaged certificate' if damaged else 'no certificate'}",
            expected=f"certificates in PEM form, which begin with {_PEM.decode()}",
            advice="get the file anew" if damaged else advice,
        ) from error


def trust_identity(trust: Trust) -> str:
    """A name for this trust, by what it is and not by what it is called: another content of the same CA file is another trust."""
    if trust.insecure:
        return "insecure"
    if trust.pins:
        return "pins:" + " ".join(sorted(trust.pins))
    if trust.valid_at is not None:
        return f"valid at {trust.valid_at}, {trust_identity(replace(trust, valid_at=None))}"
    file, directory = _authorities(trust)
    return f"authorities:{_content_of_file(file)}{_content_of_directory(directory)}"


def acceptance(server_name: str, trust: Trust) -> str:
    """What a server is checked by: its name, and the trust. A ticket of a server that was checked by one is not used for another.

    Raises ConfigError where the authorities' file cannot be read.
    """
    try:
        # A ticket of a version before this prefix may come from a server that was never accepted.
        return f"accepted as {_ascii_name(server_name)}, {trust_identity(trust)}"
    except OSError as error:
        raise ConfigError(f"CA file {trust.ca_file}: {_why(error)}", expected="certificates in PEM form") from error


def _content_of_file(name: str | None) -> str:
    if name is None:
        return ""
    with open(name, "rb") as file:
        return " file " + hashlib.sha256(file.read()).hexdigest()


def _content_of_directory(name: str | None) -> str:
    """A directory's files by name, size and time: it may hold hundreds of them."""
    if name is None:
        return ""
    digest = hashlib.sha256(name.encode(errors="surrogateescape"))
    try:
        with os.scandir(name) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                status = entry.stat()
                digest.update(f"{entry.name} {status.st_ino} {status.st_size} {status.st_mtime_ns}\n".encode(errors="replace"))
    except OSError:
        # One that cannot be read holds no authority for TLS either.
        pass
    return " directory " + digest.hexdigest()


def client_configuration(
    server_name: str, trust: Trust, *, ticket: AcceptedTicket | None = None, key_log: TextIO | None = None
) -> ClientConfiguration:
    """Configuration of one client connection. The certificate is checked against `server_name` unless trust says insecure, or pins
    the key. A ticket is used only where its server was accepted by the same name and trust.
    """
    if not server_name:
        # Without a name aioquic would check the chain only.
        raise ConfigError("an empty server name", expected="the name or address that the certificate must have")
    configuration = ClientConfiguration(**_common(is_client=True, key_log=key_log))
    configuration.server_name = _ascii_name(server_name)
    configuration.acceptance = acceptance(server_name, trust)
    if ticket is not None and ticket.acceptance == configuration.acceptance and not _has_expired(ticket, trust):
        configuration.accepted, configuration.session_ticket = ticket, ticket.ticket
    configuration.accept = _acceptance(trust, configuration.server_name)
    if trust.insecure or configuration.accept is not None:
        configuration.verify_mode = ssl.CERT_NONE
    else:
        # Where the system has no store, aioquic takes certifi's.
        cafile, capath = _authorities(trust)
        configuration.load_verify_locations(cafile=cafile, capath=capath)
    return configuration


def server_configuration(certificate_file: str, key_file: str, *, key_log: TextIO | None = None) -> QuicConfiguration:
    """Configuration of all connections of a server. Raises ConfigError where certificate and key cannot be used together."""
    configuration = QuicConfiguration(**_common(is_client=False, key_log=key_log))
    try:
        configuration.load_cert_chain(certificate_file, key_file)
    except (OSError, ValueError, TypeError, IndexError) as error:
        # What the library says of a file that it cannot read is no help.
        why = _why(error) if isinstance(error, OSError | TypeError) else "one of them cannot be read"
        raise ConfigError(
            f"certificate {certificate_file} with key {key_file}: {why}",
            expected="a certificate chain and an unencrypted private key, both in PEM form",
        ) from error
    if configuration.certificate.public_key() != configuration.private_key.public_key():
        raise ConfigError(
            f"certificate {certificate_file} and key {key_file} do not belong together",
            advice="give the key that the certificate was issued for",
        )
    return configuration


def private_key_bytes(configuration: QuicConfiguration) -> bytes:
    """The server's private key (PKCS #8): a secret that is the same after a restart."""
    encoded: bytes = configuration.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return encoded


def certificate_expiry(configuration: QuicConfiguration) -> datetime.datetime:
    """When the server's certificate expires."""
    certificate: x509.Certificate = configuration.certificate
    return certificate.not_valid_after_utc


def refusal(
    certificates: list[x509.Certificate], server_name: str, reason: str, at: datetime.datetime | None = None
) -> CertificateError:
    """The error for a certificate that was refused with this reason; the first cause found, in a user's words.

    at: the time for which it was checked, where that is not the clock's.
    """
    if not certificates:
        return CertificateError(f"the server's certificate was refused: {reason}")
    leaf = certificates[0]
    now = at or datetime.datetime.now(datetime.UTC)
    who = "this machine's clock says" if at is None else "the servers say"
    clock = f"{who} {now:%Y-%m-%d %H:%M:%S} UTC"
    if now < leaf.not_valid_before_utc:
        return NotYetValid(
            f"the server's certificate is not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M:%S} UTC; {clock}",
            advice="if the clock is wrong, set it roughly first; otherwise the server's operator must act",
        )
    if now > leaf.not_valid_after_utc:
        return Expired(
            f"the server's certificate expired at {leaf.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC; {clock}",
            advice="the server's operator must renew it; if the clock is wrong, set it roughly first",
        )
    names = certificate_names(leaf)
    if not any(_matches(name, server_name) for name in names):
        return WrongName(
            f"the server's certificate is for {', '.join(names) or 'no name'}, not for {server_name}",
            advice="ask by one of these names, or give the right one with --server-name",
        )
    if leaf.issuer == leaf.subject:
        return SelfSigned(
            f"the server's certificate is self-signed ({leaf.subject.rfc4514_string()})",
            advice="trust it with --ca FILE if it is the right one",
        )
    top = certificates[-1]
    if "expired" in reason or "not yet valid" in reason:
        return Expired(f"a certificate in the server's chain is out of its time ({reason}); {clock}")
    return UnknownAuthority(
        f"the server's certificate is signed by {top.issuer.rfc4514_string()}, which is not trusted here ({reason})",
        advice="give that authority's certificate with --ca FILE if it is the right one",
    )


def _has_expired(ticket: AcceptedTicket, trust: Trust) -> bool:
    """Whether the certificate that the ticket stands for would be refused by now, because its time is over."""
    if ticket.certificates_expire is None:
        return False
    at = datetime.datetime.now(datetime.UTC).timestamp() if trust.valid_at is None else trust.valid_at
    return ticket.certificates_expire < at


def _authorities(trust: Trust) -> tuple[str | None, str | None]:
    """(file, directory) of the authorities that are trusted."""
    if trust.ca_file is not None:
        return trust.ca_file, None
    paths = ssl.get_default_verify_paths()
    return paths.cafile, paths.capath


def _acceptance(trust: Trust, server_name: str) -> Accept | None:
    """How certificates are judged that aioquic does not judge."""
    if trust.pins:
        return _closed(lambda certificates: _unless_pinned(certificates, trust.pins))
    if trust.valid_at is None:
        return None
    at = datetime.datetime.fromtimestamp(trust.valid_at, datetime.UTC)

    def judge(certificates: list[x509.Certificate]) -> CertificateError | None:
        # What it loads takes time that most clients need not spend before they ask.
        from tsq.quic import chain  # noqa: PLC0415

        reason = chain.refused_at(certificates, server_name, at, *_authorities(trust))
        return None if reason is None else refusal(certificates, server_name, reason, at)

    return _closed(judge)


def _closed(judge: Accept) -> Accept:
    """The same judge, to whom what cannot be read is refused: certificates come from the network."""

    def guarded(certificates: list[x509.Certificate]) -> CertificateError | None:
        try:
            return judge(certificates)
        except Exception as error:
            return CertificateError(f"the server's certificate cannot be judged: {_why(error)}")

    return guarded


def _unless_pinned(certificates: list[x509.Certificate], pins: tuple[str, ...]) -> CertificateError | None:
    from tsq.quic import chain  # noqa: PLC0415 - as above

    found = chain.pin(certificates[0]) if certificates else "no key"
    if found in pins:
        return None
    return NotPinned(f"the server's key is {found}", expected=" or ".join(pins), advice="is this the right server?")


def certificate_names(certificate: x509.Certificate) -> list[str]:
    """DNS names and IP addresses of a certificate, as text."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return [f"the common name {name.value!s} only" for name in common]
    return [*names.get_values_for_type(x509.DNSName), *(str(a) for a in names.get_values_for_type(x509.IPAddress))]


def _matches(pattern: str, name: str) -> bool:
    try:
        return ip_address(pattern) == ip_address(name)
    except ValueError:
        pass
    pattern, name = pattern.lower().rstrip("."), name.lower().rstrip(".")
    if pattern.startswith("*."):
        return name.partition(".")[2] == pattern[2:]
    return pattern == name


def _ascii_name(name: str) -> str:
    """A host name as certificates and SNI have it: A-labels (RFC 5890 §2.3.2.1)."""
    if name.isascii():
        return name
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise ConfigError(f"server name {name!r}", expected="a host name or an address") from error


def _common(*, is_client: bool, key_log: TextIO | None) -> dict[str, Any]:
    return {
        "is_client": is_client,
        "alpn_protocols": list(ALPN),
        "idle_timeout": IDLE_TIMEOUT,
        "max_data": _CONNECTION_WINDOW,
        "max_stream_data": _STREAM_WINDOW,
        "max_datagram_frame_size": DATAGRAM_FRAME_LIMIT,
        "cipher_suites": list(_CIPHER_SUITES),
        "secrets_log_file": key_log,
    }


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
