"""The server's log of failed handshakes: with which client, and why.

Comes in: the client's address, how its connection ended, the time. Goes out: lines at level `info`, few of them in a flood. It must
never write a peer's text unquoted: it could begin another line or control a terminal.
"""

import logging

from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import AlertDescription

from tsq.quic.budget import Bucket, Throttle
from tsq.wording import counted

logger = logging.getLogger(__name__)

# Lines a second, and at once.
_RATE, _BURST = 1.0, 10.0
# Seconds between reports of clients that went silent: an attacker's are many.
_SILENT_INTERVAL = 10.0
_MOST_TEXT = 100
_MAX_ALERT = 0xFF


class HandshakeLog:
    """Writes the lines, and counts those that it leaves out."""

    def __init__(self) -> None:
        self._lines = Bucket(_RATE, _BURST)
        self._left_out = 0
        self._silent = Throttle(_SILENT_INTERVAL)

    def failed(self, client: object, end: ConnectionTerminated | None, now: float) -> None:
        """A handshake with this client failed. end: how; None where the client went silent."""
        if end is None:
            count = self._silent.due(now)
            if count:
                logger.info("%s not finished in time, the last with %s", counted(count, "handshake"), client)
            return
        if self._lines.refill(now) < 1:
            self._left_out += 1
            return
        self._lines.take()
        more = f" ({self._left_out} more are not listed)" if self._left_out else ""
        self._left_out = 0
        logger.info("handshake with %s failed: %s%s", client, _why(end), more)


def _why(end: ConnectionTerminated) -> str:
    text = repr(end.reason_phrase[:_MOST_TEXT])
    alert = end.error_code - QuicErrorCode.CRYPTO_ERROR
    if 0 <= alert <= _MAX_ALERT:
        return f"TLS alert {alert} ({_name(AlertDescription, alert)}), {text}"
    return f"QUIC error {end.error_code:#x} ({_name(QuicErrorCode, end.error_code)}), {text}"


def _name(kind: type[AlertDescription] | type[QuicErrorCode], code: int) -> str:
    try:
        return kind(code).name
    except ValueError:
        return "unknown"
