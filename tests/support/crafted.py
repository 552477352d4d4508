"""Hostile packets: any frames, protected with keys that the server accepts.

The keys of an Initial follow from its connection ID, so any attacker can make one, from any address. Later packets use the keys of
a client.
"""

from typing import Any

from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicProtocolVersion
from aioquic.tls import Epoch

from tests.dataplane.peer import varint
from tests.support.foreign import ForeignClient

V1 = QuicProtocolVersion.VERSION_1
_LONG = {Epoch.INITIAL: 0xC3, Epoch.ZERO_RTT: 0xD3, Epoch.HANDSHAKE: 0xE3}
_TAG = 16
REQUEST = b"\x01\x10" + bytes(range(16))


def crypto(offset: int, data: bytes) -> bytes:
    """A CRYPTO frame."""
    return b"\x06" + varint(offset) + varint(len(data)) + data


def stream(stream_id: int, data: bytes, offset: int = 0, *, fin: bool = False) -> bytes:
    """A STREAM frame with offset and length."""
    return bytes([0x0E | fin]) + varint(stream_id) + varint(offset) + varint(len(data)) + data


def stop_sending(stream_id: int, code: int = 0) -> bytes:
    """A STOP_SENDING frame."""
    return b"\x05" + varint(stream_id) + varint(code)


def reset_stream(stream_id: int, final_size: int, code: int = 0) -> bytes:
    """A RESET_STREAM frame."""
    return b"\x04" + varint(stream_id) + varint(code) + varint(final_size)


def _long(epoch: Epoch, destination: bytes, source: bytes, number: int, frames: bytes, keys: Any, token: bytes = b"") -> bytes:
    header = bytes([_LONG[epoch]]) + V1.to_bytes(4, "big") + bytes([len(destination)]) + destination
    header += bytes([len(source)]) + source
    if epoch is Epoch.INITIAL:
        header += varint(len(token)) + token
    header += varint(4 + len(frames) + _TAG, 2) + number.to_bytes(4, "big")
    return keys.encrypt_packet(header, frames, number)


class Stranger:
    """An attacker who makes Initials with one connection ID, and needs no address."""

    def __init__(self, connection_id: bytes = b"stranger", source: bytes = b"source..") -> None:
        self.id, self.source = connection_id, source
        self.number = 0
        self._keys = CryptoPair()
        self._keys.setup_initial(cid=connection_id, is_client=True, version=V1)

    @classmethod
    def server_of(cls, client: Any) -> "Stranger":
        """An attacker who saw a client's first packet, and answers in place of the server."""
        stranger = cls(client.host_cid)
        stranger._keys = CryptoPair()
        stranger._keys.setup_initial(cid=client.original_destination_connection_id, is_client=False, version=V1)
        return stranger

    def initial(self, frames: bytes) -> bytes:
        """An Initial of a whole datagram."""
        overhead = 1 + 4 + 2 + len(self.id) + len(self.source) + 1 + 2 + 4 + _TAG
        frames += bytes(max(0, 1200 - overhead - len(frames)))
        data = _long(Epoch.INITIAL, self.id, self.source, self.number, frames, self._keys)
        self.number += 1
        return data


def one_rtt(client: ForeignClient, frames: bytes) -> bytes:
    """A 1-RTT packet with this client's keys."""
    quic: Any = client.quic
    number = quic._packet_number
    quic._packet_number += 1
    keys = quic._cryptos[Epoch.ONE_RTT]
    header = bytes([0x43 | keys.key_phase << 2]) + quic._peer_cid.cid + number.to_bytes(4, "big")
    return keys.encrypt_packet(header, frames, number)


def zero_rtt(client: ForeignClient, frames: bytes) -> bytes:
    """A 0-RTT packet with the keys of this client, which has a ticket and has started to connect."""
    quic: Any = client.quic
    number = quic._packet_number
    quic._packet_number += 1
    source = quic._local_initial_source_connection_id
    return _long(Epoch.ZERO_RTT, quic._peer_cid.cid, source, number, frames, quic._cryptos[Epoch.ZERO_RTT])
