"""TLS on both sides: configurations for aioquic, and the check of a server's certificate.

Comes in: file names, trust, names. Goes out: QuicConfiguration objects. A client's configuration holds the check, which runs inside
the handshake: in `chain` for authorities and names, here for a pinned key. It must never turn verification off unless the user
asked for that.
"""

import datetime
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, TextIO

from aioquic import tls as aioquic_tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.tls import CipherSuite
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tsq.errors import CertificateError, NotPinned
from tsq.options import Trust
from tsq.quic.certificates.names import certificate_names, name_to_check
from tsq.quic.certificates.trust import DEFAULT_PATIENCE, authorities, read_again
from tsq.quic.tickets import AcceptedTicket

__all__ = ["certificate_names"]

# R1: the client's order, and the server's preference.
ALPN = ["tsq/1", "tsq"]
# A message never fills a packet; the largest value says "whatever fits" (RFC 9221 §3).
DATAGRAM_FRAME_LIMIT = 65535
IDLE_TIMEOUT = 30.0
_BY_HASH = datetime.timedelta(days=14)
# `ssl.CERT_NONE`, without that module, which takes 2 MB.
_CERT_NONE = 0
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

    accept: checks the server's certificates; aioquic does not. acceptance: identifies the trust and the server name of that check.
    accepted: the ticket to use.
    """

    accept: Accept | None = None
    acceptance: str = ""
    accepted: AcceptedTicket | None = None


@dataclass
class ServerConfiguration(QuicConfiguration):
    """A server's configuration. warnings: what its operator should know about certificate and key."""

    warnings: tuple[str, ...] = ()


def load_checks() -> None:
    """Load the modules that check a certificate. Call this while the program waits for something else."""
    import_module("tsq.quic.certificates.chain")


def check_trust(trust: Trust, patience: float = DEFAULT_PATIENCE) -> None:
    """Read the authorities, anew where a file has changed. patience: how many seconds a pipe may take.

    Raises ConfigError where they cannot be used.
    """
    if not trust.insecure and not trust.pins:
        read_again(trust, patience)


def trust_is_read(trust: Trust) -> bool:
    """Whether there is nothing to read, or it has been read, so that `check_trust` reads at most what has changed since."""
    return trust.insecure or bool(trust.pins) or bool(trust.read)


def trust_identity(trust: Trust) -> str:
    """Identifies this trust by its content: another content of the same CA file is another trust.

    Raises ConfigError where the authorities cannot be used.
    """
    if trust.insecure:
        return "insecure"
    if trust.pins:
        return "pins:" + " ".join(sorted(trust.pins))
    if trust.valid_at is not None:
        return f"valid at {trust.valid_at}, {trust_identity(replace(trust, valid_at=None))}"
    return f"authorities:{authorities(trust).identity}"


def acceptance(server_name: str, trust: Trust) -> str:
    """Identifies the check of a server: its name and the trust. A ticket from one check is not used for another.

    Raises ConfigError where the authorities cannot be used.
    """
    # Tickets without this prefix may come from a server that was never accepted.
    return f"accepted as {name_to_check(server_name)}, {trust_identity(trust)}"


def client_configuration(
    server_name: str, trust: Trust, *, ticket: AcceptedTicket | None = None, key_log: TextIO | None = None
) -> ClientConfiguration:
    """Configuration of one client connection. The certificate is checked against `server_name` unless trust says insecure, or pins
    the key. A ticket is used only where its server was accepted by the same name and trust.
    """
    configuration = ClientConfiguration(**_common(is_client=True, key_log=key_log))
    configuration.server_name = name_to_check(server_name)
    configuration.acceptance = acceptance(server_name, trust)
    if ticket is not None and ticket.acceptance == configuration.acceptance and not _has_expired(ticket, trust):
        configuration.accepted, configuration.session_ticket, configuration.token = ticket, ticket.ticket, ticket.token
    configuration.accept = _certificate_check(trust, configuration.server_name)
    # aioquic's own check knows no purposes, and lets one odd name spoil all others: `accept` replaces it.
    configuration.verify_mode = _CERT_NONE
    return configuration


def server_configuration(
    certificate_file: str, key_file: str, *, key_log: TextIO | None = None, more_alpn: tuple[str, ...] = ()
) -> ServerConfiguration:
    """Configuration of all connections of a server. more_alpn: protocols that it speaks beside TSQ.

    Raises ConfigError where certificate and key cannot be used together.
    """
    # Imported only here: clients do not need it.
    from tsq.quic.certificates import credentials  # noqa: PLC0415

    loaded = credentials.load(certificate_file, key_file)
    configuration = ServerConfiguration(**_common(is_client=False, key_log=key_log))
    configuration.certificate, *configuration.certificate_chain = loaded.chain
    configuration.private_key = loaded.key
    configuration.warnings = loaded.warnings
    configuration.alpn_protocols = [*ALPN, *more_alpn]
    return configuration


def private_key_bytes(configuration: QuicConfiguration) -> bytes:
    """The server's private key (PKCS #8): a secret that is the same after a restart."""
    encoded: bytes = configuration.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return encoded


def certificate_expiry(configuration: QuicConfiguration) -> datetime.datetime:
    """When the server's certificate expires."""
    certificate: x509.Certificate = configuration.certificate
    return certificate.not_valid_after_utc


def browser_hash(configuration: QuicConfiguration) -> str:
    """The SHA-256 of a certificate that browsers accept by its hash for WebTransport, as hexadecimal digits; "" for any other.

    They accept ECDSA keys on P-256, and 14 days at most (W3C WebTransport, "custom certificate requirements").
    """
    certificate: x509.Certificate = configuration.certificate
    key = certificate.public_key()
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1) or lifetime > _BY_HASH:
        return ""
    return certificate.fingerprint(SHA256()).hex()


def _has_expired(ticket: AcceptedTicket, trust: Trust) -> bool:
    """Whether the certificate that the ticket stands for has expired."""
    if ticket.certificates_expire is None:
        return False
    at = datetime.datetime.now(datetime.UTC).timestamp() if trust.valid_at is None else trust.valid_at
    return ticket.certificates_expire < at


def _certificate_check(trust: Trust, server_name: str) -> Accept | None:
    """How to check the server's certificates; None for no check."""
    if trust.insecure:
        return None
    if trust.pins:
        return _closed(lambda certificates: _unless_pinned(certificates, trust.pins))
    trusted = authorities(trust)

    def judge(certificates: list[x509.Certificate]) -> CertificateError | None:
        # Imported only here: it takes time that a client need not spend before it asks.
        from tsq.quic.certificates import chain, rejections  # noqa: PLC0415

        if trust.valid_at is None:
            return chain.judge(certificates, server_name, trusted, aioquic_tls.utcnow())
        at = datetime.datetime.fromtimestamp(trust.valid_at, datetime.UTC)
        return chain.judge(certificates, server_name, trusted, at, rejections.THE_SERVERS)

    return _closed(judge)


def _closed(judge: Accept) -> Accept:
    """The same check, which also rejects where it cannot be made, and is not made twice for the same certificates."""
    judged: dict[tuple[x509.Certificate, ...], CertificateError | None] = {}

    def guarded(certificates: list[x509.Certificate]) -> CertificateError | None:
        shown = tuple(certificates)
        if shown not in judged:
            judged.clear()
            try:
                judged[shown] = judge(certificates)
            except ImportError as error:
                judged[shown] = CertificateError(
                    f"certificates cannot be checked here: {_why(error)}", advice="is the installation of TSQ complete?"
                )
            except Exception as error:
                judged[shown] = CertificateError(
                    f"the server's certificate cannot be judged: {_why(error)}", advice="is it well formed?"
                )
        return judged[shown]

    return guarded


def _unless_pinned(certificates: list[x509.Certificate], pins: tuple[str, ...]) -> CertificateError | None:
    from tsq.quic.certificates import chain  # noqa: PLC0415 - as above

    found = chain.pin(certificates[0]) if certificates else "no key"
    if found in pins:
        return None
    return NotPinned(f"the server's key is {found}", expected=" or ".join(pins), advice="is this the right server?")


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
