"""Why a client's connection ended: QUIC's and TLS's codes -> an error with advice.

Comes in: the end of a connection as aioquic reports it. Goes out: one of TSQ's errors. It decides nothing.
"""

from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import AlertDescription

from tsq.errors import AlpnRefused, CertificateError, ConnectionLost, TransportError
from tsq.quic import tls
from tsq.quic.limits import FULL

_CERTIFICATE_ALERTS = frozenset(
    {
        AlertDescription.bad_certificate,
        AlertDescription.unsupported_certificate,
        AlertDescription.certificate_revoked,
        AlertDescription.certificate_expired,
        AlertDescription.certificate_unknown,
        AlertDescription.unknown_ca,
    }
)
_MAX_ALERT = 0xFF
STATELESS_RESET = "stateless reset"
# aioquic's reason after a Version Negotiation packet without QUIC version 1.
_NO_COMMON_VERSION = "Could not find a common protocol version"
_IDLE = "the connection went silent"
_LEFT = "the server parted from its clients"
_FULL = f"the server is full ({FULL})"
_REFUSED = "the server refused the connection"


def why_ended(end: ConnectionTerminated, established: bool) -> TransportError:
    """The error for this end. established: whether the handshake was done."""
    reason = end.reason_phrase
    alert = end.error_code - QuicErrorCode.CRYPTO_ERROR
    if reason == _NO_COMMON_VERSION and not established:
        return AlpnRefused(
            "the server does not speak TSQ: it has no QUIC version 1",
            advice="is this the right host and port?",
            section="RFC 9000 §6",
        )
    if alert == AlertDescription.no_application_protocol:
        return AlpnRefused(
            "the server does not speak TSQ",
            expected=f"ALPN {' or '.join(tls.ALPN)}",
            advice="is this the right host and port?",
        )
    if alert in _CERTIFICATE_ALERTS and not established:
        # TLS found this before the certificate was checked.
        return CertificateError(
            f"the server's certificate was refused: {reason}", advice="the server's operator must get another one"
        )
    if 0 <= alert <= _MAX_ALERT:
        return TransportError(f"TLS failed with alert {alert} ({reason!r})", advice="the server's log may say more")
    if end.error_code == QuicErrorCode.CONNECTION_REFUSED:
        if reason == FULL:
            return ConnectionLost(_FULL, advice="try later, or ask another server")
        return ConnectionLost(f"{_REFUSED} ({reason!r})", advice="it may be at its limits: try later")
    if end.error_code == QuicErrorCode.APPLICATION_ERROR and not established:
        # A close before the handshake is confirmed has this code (RFC 9000 §10.2.3).
        return ConnectionLost("the server closed the connection during the handshake", advice="it may be shutting down: try again")
    if end.frame_type is None and reason == STATELESS_RESET:
        return ConnectionLost("the server does not know this connection any more", advice="it may have been restarted: try again")
    if reason == "Idle timeout":
        return ConnectionLost(_IDLE, advice="the server or the network may be down: try again")
    if established and end.error_code == QuicErrorCode.NO_ERROR:
        # docs/reference/protocol.md R15.
        return ConnectionLost(
            f"{_LEFT} ({reason!r})", advice="ask again: another connection is made, to another server if there is one"
        )
    state = "the connection was closed" if established else "the handshake failed"
    return ConnectionLost(f"{state}: code {end.error_code:#x}, {reason!r}")


def is_idle(error: Exception) -> bool:
    """Whether a connection ended because nothing came on it for long."""
    return isinstance(error, ConnectionLost) and error.found == _IDLE


def has_left(error: Exception) -> bool:
    """Whether the server has closed a connection on which nothing was wrong, because it goes, or moves its clients."""
    return isinstance(error, ConnectionLost) and error.found.startswith(_LEFT)


def is_refused(error: Exception) -> bool:
    """Whether the server had no room for the connection. It looked at nothing that the client sent."""
    return isinstance(error, ConnectionLost) and error.found.startswith((_FULL, _REFUSED))
