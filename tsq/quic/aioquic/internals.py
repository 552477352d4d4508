"""What TSQ needs from aioquic beyond its public interface: single values, read and set.

Comes in: aioquic objects. Goes out: plain values. Every private name stands in PRIVATE_NAMES, which `check` (run once, on the first
connection) and a test compare with the installed aioquic; an aioquic that lacks one is an error, never worked around silently.
"""

from typing import Any
from weakref import ref

from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # compiled, and not in its stub
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.stream import QuicStream
from aioquic.tls import AlertBadCertificate, Context, Epoch, SessionTicket, push_new_session_ticket
from cryptography.x509 import Certificate

from tsq.errors import ConfigError
from tsq.quic.aioquic import trim
from tsq.quic.sealed_tickets import SealedTickets

PRIVATE_NAMES = (
    "_ack_delay",
    "_close_event",
    "_crypto_buffers",
    "_datagrams_pending",
    "_handshake_confirmed",
    "_local_active_connection_id_limit",
    "_local_max_streams_bidi",
    "_local_max_streams_uni",
    "_packet_number",
    "_peer_cid",
    "_remote_max_datagram_frame_size",
    "_remote_max_streams_bidi",
    "_spaces",
    "_streams",
)
# Of a stream's sending part.
PRIVATE_SENDER_NAMES = ("_buffer_fin", "_buffer_start", "_buffer_stop", "_reset_error_code")
# Of the connection's TLS context, which is made when the first packet is.
PRIVATE_TLS_NAMES = ("_check_certificate_verify_signature", "_new_session_ticket", "_peer_certificate", "_peer_certificate_chain")


class _Checked:
    done = False


def check(connection: QuicConnection) -> None:
    """Compare the names above and those of `trim` with this connection, once a process. Raises ConfigError where one is missing."""
    if _Checked.done:
        return
    missing = [name for name in PRIVATE_NAMES if not hasattr(connection, name)]
    # A throw-away context costs 30 µs, once.
    context = Context(is_client=True)
    missing += [f"tls.{name}" for name in PRIVATE_TLS_NAMES if not hasattr(context, name)]
    sender = QuicStream().sender
    missing += [f"sender.{name}" for name in PRIVATE_SENDER_NAMES if not hasattr(sender, name)]
    missing += trim.missing_names()
    if missing:
        raise ConfigError(f"an aioquic without {', '.join(missing)}", expected="aioquic 1.7", advice="install aioquic >=1.7,<1.8")
    _Checked.done = True


def limit_streams(connection: QuicConnection, bidirectional: int, unidirectional: int) -> None:
    """Set how many streams the peer may have open. Call this before the first packet."""
    quic: Any = connection
    for limit, value in ((quic._local_max_streams_bidi, bidirectional), (quic._local_max_streams_uni, unidirectional)):
        limit.value = limit.sent = value


def delay_acknowledgments(connection: QuicConnection, seconds: float) -> None:
    """Set how long an acknowledgment waits for data to travel with."""
    quic: Any = connection
    quic._ack_delay = seconds


def acknowledge_now(connection: QuicConnection) -> None:
    """Let an acknowledgment that waits travel with what is sent next (RFC 9000 §13.2.1), instead of in a packet of its own."""
    quic: Any = connection
    space = quic._spaces.get(Epoch.ONE_RTT)
    if space is not None and space.ack_at is not None:
        space.ack_at = 0.0


def peer_reset_token(connection: QuicConnection) -> bytes:
    """The peer's stateless reset token (RFC 9000 §10.3); empty where it sent none."""
    quic: Any = connection
    return quic._peer_cid.stateless_reset_token or b""


def peer_datagram_limit(connection: QuicConnection) -> int:
    """The largest DATAGRAM frame that the peer takes (RFC 9221 §3); 0 where it takes none or where that is not known yet."""
    quic: Any = connection
    return quic._remote_max_datagram_frame_size or 0


def peer_stream_limit(connection: QuicConnection) -> int:
    """How many bidirectional streams the peer allows so far; 0 where it allows none or where that is not known yet."""
    quic: Any = connection
    limit: int = quic._remote_max_streams_bidi
    return limit


def stream_takes_data(connection: QuicConnection, stream_id: int) -> bool:
    """Whether more can be sent on a stream: it is there, and neither end has ended or cancelled that direction."""
    quic: Any = connection
    stream = quic._streams.get(stream_id)
    if stream is None or stream.sender.is_finished:
        return False
    return stream.sender._reset_error_code is None and stream.sender._buffer_fin is None


def stream_is_receiving(connection: QuicConnection, stream_id: int) -> bool:
    """Whether more can come on a stream."""
    quic: Any = connection
    stream = quic._streams.get(stream_id)
    return stream is not None and not stream.receiver.is_finished


def stream_is_sending(connection: QuicConnection, stream_id: int) -> bool:
    """Whether data of a stream waits to be sent or acknowledged."""
    quic: Any = connection
    stream = quic._streams.get(stream_id)
    return stream is not None and not stream.sender.is_finished


def stream_is_acknowledged(connection: QuicConnection, stream_id: int) -> bool:
    """Whether the peer has all that was sent on a stream so far."""
    quic: Any = connection
    stream = quic._streams.get(stream_id)
    return stream is None or stream.sender._buffer_start == stream.sender._buffer_stop


def packets_sent(connection: QuicConnection) -> int:
    """How many packets were sent under the connection's packet numbers."""
    quic: Any = connection
    number: int = quic._packet_number
    return number


def drop_unsent_datagrams(connection: QuicConnection) -> int:
    """Drop DATAGRAM frames that pacing, congestion or missing keys held back. Return how many. Late time is wrong time."""
    quic: Any = connection
    count = len(quic._datagrams_pending)
    quic._datagrams_pending.clear()
    return count


def closing(connection: QuicConnection) -> ConnectionTerminated | None:
    """Why the connection is closing, as soon as that is known: aioquic reports it when the closing period is over."""
    quic: Any = connection
    event: ConnectionTerminated | None = quic._close_event
    return event


def peer_certificates(connection: QuicConnection) -> list[Certificate]:
    """The certificate that the peer showed, and its chain; empty where it showed none."""
    context: Any = getattr(connection, "tls", None)
    if context is None or context._peer_certificate is None:
        return []
    return [context._peer_certificate, *context._peer_certificate_chain]


def judge_in_handshake(connection: QuicConnection) -> None:
    """Have `connection.rejects` check the peer's certificates as soon as the peer has proven that it holds the key.

    A rejected server gets an alert (RFC 8446 §6.2), and can neither answer nor send a ticket.
    """
    context: Any = connection.tls
    check = type(context)._check_certificate_verify_signature
    # No reference cycle: a forgotten connection is freed at once.
    weakly = ref(connection)

    def checked(verify: object) -> None:
        quic: Any = weakly()
        check(quic.tls, verify)
        if quic.rejects(peer_certificates(quic)):
            raise AlertBadCertificate("the certificate was refused")

    context._check_certificate_verify_signature = checked


def use_tickets(connection: QuicConnection, tickets: SealedTickets) -> None:
    """Have a server's session tickets sealed and opened by `tickets`: aioquic's own are random bytes, which a server must keep."""
    # No reference cycle: a forgotten connection is freed at once.
    weakly = ref(connection)
    limits = _limits_of_early_data(connection)

    def take(label: bytes) -> SessionTicket | None:
        return tickets.open(label, _binding())

    def give(ticket: SessionTicket) -> None:
        quic: Any = weakly()
        message = quic.tls._new_session_ticket
        buffer = quic._crypto_buffers[Epoch.ONE_RTT]
        # aioquic has written its own just now.
        buffer.seek(buffer.tell() - _size(message))
        message.ticket = tickets.seal(ticket, _binding())
        push_new_session_ticket(buffer, message)

    def _binding() -> bytes:
        quic: Any = weakly()
        return (quic.tls.alpn_negotiated or "").encode() + limits

    context: Any = connection.tls
    context.get_session_ticket_cb, context.new_session_ticket_cb = take, give


def _size(message: Any) -> int:
    scratch = Buffer(capacity=1024)
    push_new_session_ticket(scratch, message)
    return int(scratch.tell())


def _limits_of_early_data(connection: QuicConnection) -> bytes:
    """What a client that resumes remembers of a server (RFC 9000 §7.4.1, RFC 9221 §3): the server must not allow less."""
    quic: Any = connection
    own = quic.configuration
    limits = (
        own.max_data,
        own.max_stream_data,
        own.max_datagram_frame_size or 0,
        quic._local_max_streams_bidi.value,
        quic._local_max_streams_uni.value,
        quic._local_active_connection_id_limit,
    )
    return b"".join(b"\0%d" % limit for limit in limits)


def is_confirmed(quic: Any) -> bool:
    """Whether both ends know that the handshake is complete (RFC 9001 §4.1.2)."""
    return bool(quic._handshake_confirmed)
