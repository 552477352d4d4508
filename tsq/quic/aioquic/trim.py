"""aioquic's connection with less work, less memory, and limits on what a peer may cost (RFC 9000, RFC 9001).

Comes in: what comes into a QuicConnection. Goes out: the same packets, with fewer spare connection IDs and, from a client, fewer
key shares. Packets beyond `limits` are dropped or end the connection. It must never change what is verified or which keys protect
what: keys may be derived later than in aioquic; memory is freed only where aioquic has discarded the keys. Methods that need
another object under a global name run as copies (`_with_names`): other users of aioquic in the process are not affected.
"""

from collections.abc import Callable, Mapping
from functools import cache
from types import FunctionType
from typing import Any

from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # compiled, and not in its stub
from aioquic.quic import connection as aioquic_connection
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicConnectionError, QuicReceiveContext
from aioquic.quic.crypto import CryptoContext, CryptoPair, derive_key_iv_hp
from aioquic.quic.packet import QuicErrorCode
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.tls import Context, Epoch, Group

from tsq.quic.frames import contents, packets_in
from tsq.quic.limits import CLIENT_LIMITS, PeerLimits
from tsq.quic.reassembly import BoundedStream, BufferExceeded

PRIVATE_NAMES = {
    "connection": (
        "_QuicConnection__frame_handlers",
        "_crypto_buffers",
        "_crypto_streams",
        "_cryptos",
        "_cryptos_initial",
        "_handle_crypto_frame",
        "_handle_new_connection_id_frame",
        "_handle_padding_frame",
        "_handle_stream_frame",
        "_handshake_confirmed",
        "_initialize",
        "_is_client",
        "_local_active_connection_id_limit",
        "_loss",
        "_payload_received",
        "_peer_cid_sequence_numbers",
        "_remote_active_connection_id_limit",
        "_replenish_connection_ids",
        "_spaces",
        "_streams",
        "_streams_queue",
    ),
    "keys": ("_update_key",),
    "recovery": ("_send_probe",),
    # Of the TLS context; all but the receive buffer are used up when the handshake is over.
    "tls": (
        "_dec_key",
        "_ec_private_keys",
        "_enc_key",
        "_key_schedule_proxy",
        "_key_schedule_psk",
        "_new_session_ticket",
        "_receive_buffer",
        "_supported_groups",
        "_x25519_private_key",
        "_x448_private_key",
    ),
}
# Method of QuicConnection -> global names under which it finds another object.
REPLACED_NAMES = {
    "__init__": ("EPOCHS",),
    "_get_or_create_stream": ("QuicStream",),
    "_get_or_create_stream_for_send": ("QuicStream",),
    "_initialize": ("CryptoPair", "QuicStream"),
}

# RFC 9000 §5.1.1: the one in use, and one for the next path. aioquic would have eight.
_CONNECTION_IDS = 2
_MOST_REASONS = 16
# The two cheap ones of aioquic's four; every TLS library has one of them. A group without a share is of no use: aioquic knows no
# HelloRetryRequest.
_KEY_SHARES = [Group.X25519, Group.SECP256R1]


def missing_names() -> list[str]:
    """Names of PRIVATE_NAMES and REPLACED_NAMES that the installed aioquic lacks."""
    connection: Any = QuicConnection(configuration=QuicConfiguration())
    owners = {
        "connection": connection,
        "keys": CryptoPair(),
        "recovery": getattr(connection, "_loss", None),
        "tls": Context(is_client=True),
    }
    missing = [f"{owner}.{name}" for owner, names in PRIVATE_NAMES.items() for name in names if not hasattr(owners[owner], name)]
    for method, names in REPLACED_NAMES.items():
        found = getattr(QuicConnection, method, None)
        if found is None:
            missing.append(f"QuicConnection.{method}")
            continue
        code = found.__code__
        known = {*code.co_names, *(name for inner in code.co_consts if hasattr(inner, "co_names") for name in inner.co_names)}
        missing += [f"QuicConnection.{method}: {name}" for name in names if name not in known]
    return missing


def _with_names(method: str, **names: object) -> Callable[..., Any]:
    """A copy of this method of QuicConnection that finds these objects under these global names."""
    original = getattr(QuicConnection, method)
    copy = FunctionType(original.__code__, original.__globals__ | names, method, original.__defaults__, original.__closure__)
    copy.__kwdefaults__ = original.__kwdefaults__
    return copy


class _InitialContext(CryptoContext):
    """Initial keys of one direction (RFC 9001 §5.2), derived when they are first needed: a peer speaks one QUIC version."""

    def __init__(self, derive: Callable[[], None]) -> None:
        super().__init__()
        self._derive: Callable[[], None] | None = derive

    def take(self, keys: CryptoContext) -> None:
        """Use these keys from now on, unless they have been discarded."""
        if self._derive is not None:
            self._derive = None
            self.aead, self.hp, self.secret = keys.aead, keys.hp, keys.secret
            self.cipher_suite, self.version = keys.cipher_suite, keys.version

    def decrypt_packet(self, packet: bytes, encrypted_offset: int, expected_packet_number: int) -> tuple[bytes, bytes, int, bool]:
        if self._derive is not None:
            self._derive()
        return super().decrypt_packet(packet, encrypted_offset, expected_packet_number)

    def encrypt_packet(self, plain_header: bytes, plain_payload: bytes, packet_number: int) -> bytes:
        if self._derive is not None:
            self._derive()
        return super().encrypt_packet(plain_header, plain_payload, packet_number)

    def is_valid(self) -> bool:
        return self._derive is not None or super().is_valid()

    def teardown(self) -> None:
        self._derive = None
        super().teardown()


def _protection(context: CryptoContext) -> bytes:
    """The header protection key of a direction whose keys were never updated (RFC 9001 §5.4)."""
    if context.cipher_suite is None or context.secret is None or context.version is None:
        raise ValueError("keys that are not there yet")
    return derive_key_iv_hp(cipher_suite=context.cipher_suite, secret=context.secret, version=context.version)[2]


class _Pair(CryptoPair):
    """A CryptoPair whose Initial keys wait until they are needed, and whose keys for header protection outlive key updates."""

    first: tuple[bytes, bytes] | None = None

    @property
    def protection(self) -> tuple[bytes, bytes]:
        """Keys for header protection, receiving and sending: those of the first phase (RFC 9001 §6.1)."""
        return self.first or (_protection(self.recv), _protection(self.send))

    def _update_key(self, trigger: str) -> None:
        # Afterwards the secrets that they come from are gone.
        self.first = self.protection
        super()._update_key(trigger)

    def setup_initial(self, cid: bytes, is_client: bool, version: int) -> None:
        def derive() -> None:
            pair = CryptoPair()
            pair.setup_initial(cid=cid, is_client=is_client, version=version)
            receive.take(pair.recv)
            send.take(pair.send)

        self.recv = receive = _InitialContext(derive)
        self.send = send = _InitialContext(derive)


class _FrameHandlers:
    """In place of the table that aioquic makes for each connection: frame type -> method, and the epochs in which it may come."""

    __slots__ = ("_connection", "_names")

    def __init__(self, connection: QuicConnection, names: Mapping[int, tuple[str, frozenset[Epoch]]]) -> None:
        self._connection = connection
        self._names = names

    def __getitem__(self, frame_type: int) -> tuple[Callable[..., None], frozenset[Epoch]]:
        name, epochs = self._names[frame_type]
        return getattr(self._connection, name), epochs


class _CryptoBuffers(dict[Epoch, Buffer]):
    """Buffers for TLS messages to send. Each is made at its first use: half a ClientHello causes none."""

    def __missing__(self, epoch: Epoch) -> Buffer:
        self[epoch] = buffer = Buffer(capacity=aioquic_connection.CRYPTO_BUFFER_SIZE)
        return buffer


# For epochs whose keys are discarded: late packets fail to open, as with aioquic's own objects.
_SPENT_KEYS = CryptoPair()
_SPENT_SPACE = QuicPacketSpace()
_SPENT_SPACE.discarded = True


class PacketDropped(Exception):
    """A packet exceeds a limit and is dropped. str() is the reason in the counters."""


class TrimmedConnection(QuicConnection):
    """A QuicConnection that does less, and holds less once its handshake is confirmed.

    limits: what the peer may make it keep or do. dropped: why packets were dropped since this was last read. frames: how many
    frames the other packets had since then.
    """

    __init__ = _with_names("__init__", EPOCHS=cache(aioquic_connection.EPOCHS))
    _initialize_base = _with_names("_initialize", CryptoPair=_Pair, QuicStream=BoundedStream)
    _get_or_create_stream = _with_names("_get_or_create_stream", QuicStream=BoundedStream)
    _get_or_create_stream_for_send = _with_names("_get_or_create_stream_for_send", QuicStream=BoundedStream)
    _holds_handshake = True
    _excessive = 0
    limits: PeerLimits = CLIENT_LIMITS
    dropped: tuple[str, ...] = ()
    frames = 0

    def _initialize(self, peer_cid: bytes) -> None:
        # Sent to the peer in the transport parameters (RFC 9000 §18.2).
        self._local_active_connection_id_limit = _CONNECTION_IDS
        self._initialize_base(peer_cid)
        self._crypto_buffers = _CryptoBuffers()
        for epoch, stream in self._crypto_streams.items():
            later = epoch is Epoch.ONE_RTT
            receiver: Any = stream.receiver
            receiver.limit(self.limits.crypto_later if later else self.limits.crypto_bytes, self.limits.crypto_gaps)
        if self._is_client:
            tls: Any = self.tls
            tls._supported_groups = [group for group in _KEY_SHARES if group in tls._supported_groups]

    def _replenish_connection_ids(self) -> None:
        self._remote_active_connection_id_limit = min(_CONNECTION_IDS, self._remote_active_connection_id_limit)
        super()._replenish_connection_ids()

    def _payload_received(
        self, context: QuicReceiveContext, plain: bytes, crypto_frame_required: bool = False
    ) -> tuple[bool, bool]:
        # Check before the first frame is handled: a dropped packet must leave nothing behind.
        frames, excess = contents(plain, self.limits)
        if excess:
            self._excessive += 1
            if context.network_path.is_validated and self._excessive > self.limits.excessive_packets:
                raise QuicConnectionError(QuicErrorCode.PROTOCOL_VIOLATION, 0, "too many packets beyond the limits")
            raise PacketDropped(excess)
        self.frames += frames
        return super()._payload_received(context, plain, crypto_frame_required)

    def _handle_padding_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        # aioquic reads padding byte by byte, and an Initial has a thousand bytes of it.
        start = buf.tell()
        rest = buf.data_slice(start, buf.capacity)
        buf.seek(start + len(rest) - len(rest.lstrip(b"\0")))
        super()._handle_padding_frame(context, frame_type, buf)

    def _handle_crypto_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        end = buf.pull_uint_var() + buf.pull_uint_var()
        buf.seek(start)
        if context.epoch is Epoch.ONE_RTT:
            tls: Any = self.tls
            waiting = len(tls._receive_buffer)
            excess = waiting > self.limits.crypto_later
        else:
            excess = end > self.limits.crypto_bytes
        try:
            if excess:
                raise BufferExceeded
            super()._handle_crypto_frame(context, frame_type, buf)
        except BufferExceeded as error:
            if not context.network_path.is_validated:
                # The address may be forged: send nothing to it.
                raise PacketDropped("handshake data beyond the limits") from error
            raise QuicConnectionError(QuicErrorCode.CRYPTO_BUFFER_EXCEEDED, frame_type, "too much CRYPTO data waits") from error

    def _handle_stream_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        try:
            super()._handle_stream_frame(context, frame_type, buf)
        except BufferExceeded as error:
            raise QuicConnectionError(QuicErrorCode.INTERNAL_ERROR, frame_type, "too much of a stream out of order") from error

    def _handle_new_connection_id_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        super()._handle_new_connection_id_frame(context, frame_type, buf)
        # Against repeated frames aioquic remembers all numbers, until the peer retires older ones.
        numbers = self._peer_cid_sequence_numbers
        if len(numbers) > 2 * self.limits.connection_ids:
            self._peer_cid_sequence_numbers = set(sorted(numbers)[-self.limits.connection_ids :])

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """As in aioquic, within the limits. Free what the handshake needed as soon as it is confirmed (RFC 9001 §4.1.2)."""
        try:
            if self._is_client and packets_in(data, self.limits.packets) > self.limits.packets:
                # For a server, the router has checked this.
                raise PacketDropped("datagram with too many packets")
            super().receive_datagram(data, addr, now)
        except PacketDropped as refusal:
            # Bounded: a client never reads it.
            self.dropped = (*self.dropped[-_MOST_REASONS:], str(refusal))
        if self._holds_handshake and self._handshake_confirmed and not self._is_client:
            let_go_of_handshake(self)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        """As in aioquic. Then forget the oldest packets that ask for no acknowledgment: aioquic keeps them until one comes.

        now: may have been read before the last packet came. Then use that packet's time: aioquic cannot encode a negative delay.
        """
        received = [space.largest_received_time for space in self._loss.spaces if space.largest_received_time is not None]
        out = super().datagrams_to_send(max([now, *received]))
        for space in self._loss.spaces:
            sent = space.sent_packets
            if len(sent) > self.limits.sent_packets:
                idle = [number for number, packet in sent.items() if not packet.in_flight]
                for number in idle[: len(sent) - self.limits.sent_packets // 2]:
                    del sent[number]
        return out


@cache
def _frame_handler_names() -> Mapping[int, tuple[str, frozenset[Epoch]]]:
    """Frame type -> name of the method, epochs."""
    connection: Any = TrimmedConnection(configuration=QuicConfiguration())
    handlers = connection._QuicConnection__frame_handlers
    return {frame_type: (handler.__name__, epochs) for frame_type, (handler, epochs) in handlers.items()}


def let_go_of_handshake(connection: QuicConnection) -> None:
    """Free what only the Initial and Handshake keys needed, once a server's connection has discarded them (RFC 9001 §4.9)."""
    quic: Any = connection
    quic._holds_handshake = False
    # A server takes no TLS message any more (RFC 8446 §4.6), so nothing is ever written into these: 48 KiB.
    quic._crypto_buffers = {}
    quic._crypto_streams = {Epoch.ONE_RTT: quic._crypto_streams[Epoch.ONE_RTT]}
    for epoch in (Epoch.INITIAL, Epoch.HANDSHAKE):
        quic._cryptos[epoch] = _SPENT_KEYS
        quic._spaces[epoch] = _SPENT_SPACE
    if not quic._cryptos[Epoch.ZERO_RTT].recv.is_valid():
        quic._cryptos[Epoch.ZERO_RTT] = _SPENT_KEYS
    quic._cryptos_initial = dict.fromkeys(quic._cryptos_initial, _SPENT_KEYS)
    quic._loss.spaces = [quic._spaces[Epoch.ONE_RTT]]
    quic._QuicConnection__frame_handlers = _FrameHandlers(connection, _frame_handler_names())
    tls = quic.tls
    tls._ec_private_keys = []
    tls._x25519_private_key = tls._x448_private_key = None
    tls._key_schedule_psk = tls._key_schedule_proxy = tls._new_session_ticket = None
    tls._enc_key = tls._dec_key = None
    tls.key_schedule = tls.received_extensions = None


def release(connection: QuicConnection) -> None:
    """Cut the reference cycles of a forgotten connection, so that it is freed at once, without the garbage collector."""
    quic: Any = connection
    quic._QuicConnection__frame_handlers = {}
    quic._crypto_buffers = quic._crypto_streams = quic._streams = {}
    quic._streams_queue = []
    quic._cryptos = dict.fromkeys(Epoch, _SPENT_KEYS)
    for pair in quic._cryptos_initial.values():
        # Keys that were never derived hold the function that derives them, which holds them.
        pair.teardown()
    quic._cryptos_initial = {}
    for space in quic._spaces.values():
        # Delivery handlers of packets hold the space and the stream.
        space.sent_packets.clear()
    quic._spaces = dict.fromkeys(Epoch, _SPENT_SPACE)
    quic._loss.spaces = []
    quic._loss._send_probe = None
    tls: Any = getattr(connection, "tls", None)
    if tls is not None:
        tls.alpn_cb = tls.get_session_ticket_cb = tls.new_session_ticket_cb = tls.update_traffic_key_cb = None
