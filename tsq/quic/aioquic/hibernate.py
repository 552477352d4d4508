"""A quiet connection of a server as some bytes, and the same connection made again from them.

Comes in: an aioquic connection whose session the data plane holds; later a new connection, a session, and those bytes. Goes out:
what the session does not hold (numbers of connection IDs, limits of streams and data), or None for a connection that must stay.
It must never rest while anything is in flight, pending or open, and never make a connection complete whose keys it does not have.

Only this package touches aioquic's private attributes; PRIVATE_NAMES lists those that this module touches.
"""

import struct
from functools import cache
from typing import Any, NamedTuple

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicConnectionId, QuicConnectionState, QuicNetworkPath
from aioquic.quic.crypto import CIPHER_SUITES, CryptoContext
from aioquic.quic.packet import QuicProtocolVersion
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.tls import CipherSuite, Context, Epoch, State

from tsq.dataplane.session import Session
from tsq.quic.aioquic.shared_connection import SharedConnection
from tsq.quic.aioquic.trim import let_go_of_handshake
from tsq.quic.udp import NetworkPath

PRIVATE_NAMES = {
    "connection": (
        "_close_at",
        "_close_event",
        "_close_pending",
        "_crypto_buffers",
        "_cryptos",
        "_datagrams_pending",
        "_discard_epoch",
        "_events",
        "_handshake_complete",
        "_handshake_confirmed",
        "_handshake_done_pending",
        "_host_cid_seq",
        "_host_cids",
        "_initialize",
        "_local_max_data",
        "_local_max_streams_bidi",
        "_local_next_stream_id_bidi",
        "_local_next_stream_id_uni",
        "_loss",
        "_network_paths",
        "_peer_cid",
        "_peer_cid_available",
        "_peer_cid_sequence_numbers",
        "_peer_retire_prior_to",
        "_ping_pending",
        "_probe_pending",
        "_remote_active_connection_id_limit",
        "_remote_max_data",
        "_remote_max_data_used",
        "_remote_max_datagram_frame_size",
        "_remote_max_idle_timeout",
        "_remote_max_stream_data_bidi_local",
        "_remote_max_stream_data_bidi_remote",
        "_remote_max_stream_data_uni",
        "_remote_max_streams_bidi",
        "_remote_max_streams_uni",
        "_retire_connection_ids",
        "_set_state",
        "_spaces",
        "_state",
        "_streams",
        "_streams_blocked_bidi",
        "_streams_blocked_uni",
        "_version",
        "_version_negotiated_compatible",
    ),
    "tls": ("_receive_buffer",),
    "space": ("ack_at", "ack_eliciting_in_flight", "largest_acked_packet", "loss_time"),
    "keys": ("hp",),
}
_ALPNS = ("tsq/1", "tsq")
# As many as this end issues (trim), and as the peer may issue besides the one in use.
MOST_IDS = 2
_MOST_SPARE = 1
_SEEN = 64
# The data plane answers at rest without knowing the peer's limit (RFC 9221 §3): with no larger frame than fits a packet.
_LEAST_PEER_FRAME = 1200
_UNLIMITED = 0xFFFFFFFF
# Flags and ALPN; numbers of this end's connection IDs and the next one; the peer's: number in use, least number, reset token.
_HEAD = struct.Struct("<BBIIIII16s")
# The peer's spare connection ID: number, size, ID, reset token. Then which of its numbers came: the first of 64, a bit for each.
_PEER = struct.Struct("<IB20s16sIQ")
# The peer's idle timeout (ms), frame size, connection ID limit; its limits of data and streams, and how much data was sent.
_REMOTE = struct.Struct("<IIB6II")
# This end's limits of data and streams: value, what the peer knows, use; the largest own packet that is acknowledged; excesses.
_LOCAL = struct.Struct("<6IQB")
SIZE = _HEAD.size + _PEER.size + _REMOTE.size + _LOCAL.size
_EARLY, _RESUMED = 1, 2


class Remains(NamedTuple):
    """What is kept of a connection besides its session.

    ids: this end's connection IDs, the one in use first. active_at: when the last packet came. idle_timeout: in seconds.
    """

    ids: tuple[bytes, ...]
    state: bytes
    idle_timeout: float
    active_at: float


def missing_names() -> list[str]:
    """The names in PRIVATE_NAMES that the installed aioquic lacks."""
    connection: Any = QuicConnection(configuration=QuicConfiguration())
    owners = {
        "connection": connection,
        "tls": Context(is_client=True),
        "space": QuicPacketSpace(),
        "keys": CryptoContext(),
    }
    return [f"{owner}.{name}" for owner, names in PRIVATE_NAMES.items() for name in names if not hasattr(owners[owner], name)]


@cache
def rest_is_possible() -> bool:
    """Whether the installed aioquic has all names that are needed here."""
    return not missing_names()


def rest(connection: SharedConnection, alpn: str | None, *, resumed: bool, early: bool) -> Remains | None:
    """What to keep of a connection whose session the data plane holds; None where something is under way."""
    quic: Any = connection
    if alpn not in _ALPNS or not _is_quiet(quic) or not _owes_nothing(quic):
        return None
    ids = sorted(quic._host_cids, key=lambda known: known.cid != quic.host_cid)
    if not 0 < len(ids) <= MOST_IDS or ids[0].cid != quic.host_cid or not all(known.was_sent for known in ids):
        return None
    flags = early * _EARLY | resumed * _RESUMED
    numbers = [known.sequence_number for known in ids] + [0]
    peer = quic._peer_cid
    try:
        head = _HEAD.pack(
            flags, _ALPNS.index(alpn), *numbers[:2], quic._host_cid_seq, peer.sequence_number, quic._peer_retire_prior_to,
            peer.stateless_reset_token or b"",
        )  # fmt: skip
        state = head + _pack_peer(quic) + _pack_limits(quic)
    except struct.error:
        # A number that no usual client reaches.
        return None
    idle = connection.idle_timeout
    return Remains(tuple(known.cid for known in ids), state, idle, quic._close_at - idle)


def revive(
    connection: SharedConnection, session: Session, ids: tuple[bytes, ...], state: bytes, path: NetworkPath, now: float
) -> tuple[str, bool, bool]:
    """Complete a new connection with what `rest` and the session have kept; (ALPN, whether resumed, whether with early data)."""
    quic: Any = connection
    flags, alpn, first, second, next_number, peer_number, least, token = _HEAD.unpack_from(state)
    make_token = connection.reset_token
    quic._host_cids = [
        QuicConnectionId(known, number, b"" if make_token is None else make_token(known), was_sent=True)
        for known, number in zip(ids, (first, second), strict=False)
    ]
    quic.host_cid = ids[0]
    quic._host_cid_seq = next_number
    quic._network_paths = [QuicNetworkPath(path, is_validated=True)]
    quic._version = session.version
    quic._initialize(ids[0])
    quic._version_negotiated_compatible = True
    _complete_handshake(quic, _ALPNS[alpn])
    _set_keys(quic, session)
    quic._peer_cid = QuicConnectionId(session.peer_id, peer_number, token.rstrip(b"\0") and token)
    quic._peer_retire_prior_to = least
    _unpack_peer(quic, state, _HEAD.size)
    _unpack_limits(quic, state, _HEAD.size + _PEER.size)
    quic.session = session
    # `take_back` sets what the session knows better.
    quic._close_at = now + connection.idle_timeout
    let_go_of_handshake(connection)
    return _ALPNS[alpn], bool(flags & _RESUMED), bool(flags & _EARLY)


def _is_quiet(quic: Any) -> bool:
    """Whether no end has a stream open, and nothing waits to be sent, acknowledged or validated."""
    space = quic._spaces[Epoch.ONE_RTT]
    main, *others = quic._network_paths
    return bool(
        quic._handshake_confirmed
        and quic._state is QuicConnectionState.CONNECTED
        and quic._close_event is None
        and not quic._events
        and (quic._remote_max_datagram_frame_size or 0) >= _LEAST_PEER_FRAME
        and not quic._streams
        and quic._local_next_stream_id_bidi == 1
        and quic._local_next_stream_id_uni == 3
        and space.ack_eliciting_in_flight == 0
        and quic._loss.bytes_in_flight == 0
        and space.loss_time is None
        and (space.ack_at is None or quic.session.received[3])
        and main.is_validated
        and not any(path.remote_challenges or path.peer_cid is not None for path in (main, *others))
        and not quic.tls._receive_buffer
    )


def _owes_nothing(quic: Any) -> bool:
    """Whether no frame is pending."""
    return not (
        quic._close_pending
        or quic._datagrams_pending
        or quic._handshake_done_pending
        or quic._ping_pending
        or quic._probe_pending
        or quic._retire_connection_ids
        or quic._streams_blocked_bidi
        or quic._streams_blocked_uni
        or len(quic._peer_cid_available) > _MOST_SPARE
    )


def _pack_peer(quic: Any) -> bytes:
    [spare] = quic._peer_cid_available or [None]
    seen = quic._peer_cid_sequence_numbers
    first = max(0, max(seen, default=0) + 1 - _SEEN)
    bits = sum(1 << (number - first) for number in seen if number >= first)
    if spare is None:
        return _PEER.pack(0, 0, b"", b"", first, bits)
    return _PEER.pack(spare.sequence_number, len(spare.cid), spare.cid, spare.stateless_reset_token, first, bits)


def _unpack_peer(quic: Any, state: bytes, offset: int) -> None:
    number, size, spare, token, first, bits = _PEER.unpack_from(state, offset)
    quic._peer_cid_available = [QuicConnectionId(spare[:size], number, token)] if size else []
    quic._peer_cid_sequence_numbers = {first + bit for bit in range(_SEEN) if bits >> bit & 1}


def _limits(quic: Any) -> tuple[Any, Any]:
    """This end's limits that change. A change that the peer does not know of travels with what is sent next, as in aioquic."""
    return quic._local_max_data, quic._local_max_streams_bidi


def _pack_limits(quic: Any) -> bytes:
    idle = quic._remote_max_idle_timeout
    remote = (
        quic._remote_max_data,
        quic._remote_max_stream_data_bidi_local,
        quic._remote_max_stream_data_bidi_remote,
        quic._remote_max_stream_data_uni,
        quic._remote_max_streams_bidi,
        quic._remote_max_streams_uni,
    )
    return _REMOTE.pack(
        _UNLIMITED if idle is None else round(idle * 1000),
        min(quic._remote_max_datagram_frame_size or 0, _UNLIMITED),
        quic._remote_active_connection_id_limit,
        # Less than the peer allows is always right.
        *(min(limit, _UNLIMITED) for limit in remote),
        quic._remote_max_data_used,
    ) + _LOCAL.pack(
        *(number for limit in _limits(quic) for number in (limit.value, limit.sent, limit.used)),
        quic._spaces[Epoch.ONE_RTT].largest_acked_packet,
        min(quic._excessive, 255),
    )


def _unpack_limits(quic: Any, state: bytes, offset: int) -> None:
    idle, frame_size, ids, *remote = _REMOTE.unpack_from(state, offset)
    quic._remote_max_idle_timeout = None if idle == _UNLIMITED else idle / 1000
    quic._remote_max_datagram_frame_size = frame_size or None
    quic._remote_active_connection_id_limit = ids
    (
        quic._remote_max_data,
        quic._remote_max_stream_data_bidi_local,
        quic._remote_max_stream_data_bidi_remote,
        quic._remote_max_stream_data_uni,
        quic._remote_max_streams_bidi,
        quic._remote_max_streams_uni,
        quic._remote_max_data_used,
    ) = remote
    *local, acknowledged, excessive = _LOCAL.unpack_from(state, offset + _REMOTE.size)
    for number, limit in enumerate(_limits(quic)):
        limit.value, limit.sent, limit.used = local[3 * number : 3 * number + 3]
    quic._spaces[Epoch.ONE_RTT].largest_acked_packet = acknowledged
    quic._excessive = excessive


def _complete_handshake(quic: Any, alpn: str) -> None:
    """Everything that the handshake leaves, except the keys (RFC 9001 §4.1.2, §4.9)."""
    quic.tls.state = State.SERVER_POST_HANDSHAKE
    quic.tls.alpn_negotiated = alpn
    quic._discard_epoch(Epoch.INITIAL)
    quic._discard_epoch(Epoch.HANDSHAKE)
    quic._crypto_buffers = {}
    quic._handshake_complete = quic._handshake_confirmed = True
    quic._loss.handshake_confirmed = quic._loss.peer_completed_address_validation = True
    quic._set_state(QuicConnectionState.CONNECTED)


def _set_keys(quic: Any, session: Session) -> None:
    """Set the keys of the present phase. Those for header protection are the first phase's (RFC 9001 §6.1)."""
    pair = quic._cryptos[Epoch.ONE_RTT]
    suite = CipherSuite(session.suite)
    pair.first = session.protection
    for context, secret, protection in zip((pair.recv, pair.send), session.secrets, session.protection, strict=True):
        context.setup(cipher_suite=suite, secret=secret, version=QuicProtocolVersion(session.version))
        context.hp = type(context.hp)(CIPHER_SUITES[suite][0], protection)
        context.key_phase = session.phase
