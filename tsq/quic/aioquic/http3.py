"""aioquic's HTTP/3 with limits on what a client may make a server keep or compute (RFC 9114, RFC 9204, RFC 9297).

Comes in: QUIC events of a connection that negotiated h3. Goes out: HTTP events. Beyond the limits the connection is closed with
H3_EXCESSIVE_LOAD. It must never keep bytes of a client that no limit counts. QPACK's dynamic table is off in both directions: it
would be memory that the client chooses, and these few headers gain nothing from it.
"""

from typing import Any

import pylsqpack
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import ErrorCode, FrameType, H3Connection, H3Stream, ProtocolError, Setting, encode_frame
from aioquic.h3.events import Headers
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

PRIVATE_NAMES = (
    "_blocked_streams",
    "_decode_headers",
    "_decoder",
    "_get_local_settings",
    "_init_connection",
    "_local_control_stream_id",
    "_max_table_capacity",
    "_quic",
    "_receive_request_or_push_data",
    "_receive_stream_data_uni",
    "_stream",
    "_validate_settings",
)
# draft-ietf-webtrans-http3-07 and later: how many sessions a connection may have. aioquic sends the setting of draft 02 only.
_WEBTRANSPORT_MAX_SESSIONS = 0xC671706A
# RFC 9114 §4.2.2: what each field counts beside its name and value.
_FIELD_OVERHEAD = 32


def missing_names() -> list[str]:
    """The names in PRIVATE_NAMES that the installed aioquic lacks."""
    made = H3Connection(QuicConnection(configuration=QuicConfiguration(is_client=True)))
    return [f"h3.{name}" for name in PRIVATE_NAMES if not hasattr(made, name)]


class ExcessiveLoad(ProtocolError):
    """The client exceeds a limit."""

    error_code = ErrorCode.H3_EXCESSIVE_LOAD


class BoundedHttp3(H3Connection):
    """An H3Connection of a server.

    most_encoded: bytes of a header block, or of another frame that must be whole before it is handled. most_fields: size of a
    header section (RFC 9114 §4.2.2). sessions: WebTransport sessions of a connection; 0: no WebTransport. decoded: size of all
    header sections since this was last read.
    """

    def __init__(self, quic: QuicConnection, *, most_encoded: int, most_fields: int, sessions: int) -> None:
        self.most_encoded = most_encoded
        self.most_fields = most_fields
        self.sessions = sessions
        self.decoded = 0
        super().__init__(quic, enable_webtransport=sessions > 0)

    @property
    def control_stream(self) -> int:
        """The stream on which this end sends its settings, and GOAWAY."""
        stream_id = self._local_control_stream_id
        assert stream_id is not None
        return stream_id

    def send_goaway(self, stream_id: int) -> None:
        """Say that requests on this stream and later ones will not be handled (RFC 9114 §5.2)."""
        self._quic.send_stream_data(self.control_stream, encode_frame(FrameType.GOAWAY, encode_uint_var(stream_id)))

    def sends_no_more(self, stream_id: int) -> None:
        """Note that the sending part of a stream was reset, so that nothing is kept for it once the client's part has ended."""
        stream = self._stream.get(stream_id)
        if stream is not None:
            stream.sending_ended = True
            if stream.is_ended():
                del self._stream[stream_id]

    def _init_connection(self) -> None:
        self._max_table_capacity = self._blocked_streams = 0
        self._decoder = pylsqpack.Decoder(0, 0)
        super()._init_connection()

    def _get_local_settings(self) -> dict[int, int]:
        settings = super()._get_local_settings()
        settings[Setting.MAX_FIELD_SECTION_SIZE] = self.most_fields
        if self.sessions:
            settings[_WEBTRANSPORT_MAX_SESSIONS] = self.sessions
        return settings

    def _validate_settings(self, settings: dict[int, int]) -> None:
        super()._validate_settings(settings)
        # Before the encoder reads them.
        settings[Setting.QPACK_MAX_TABLE_CAPACITY] = settings[Setting.QPACK_BLOCKED_STREAMS] = 0

    def _decode_headers(self, stream_id: int, frame_data: bytes | None) -> Headers:
        headers = super()._decode_headers(stream_id, frame_data)
        size = sum(len(name) + len(value) + _FIELD_OVERHEAD for name, value in headers)
        self.decoded += size
        if size > self.most_fields:
            raise ExcessiveLoad("header section over the limit")
        return headers

    def _receive_request_or_push_data(self, stream: H3Stream, data: bytes, stream_ended: bool) -> list[Any]:
        events = super()._receive_request_or_push_data(stream, data, stream_ended)
        self._check(stream)
        return events

    def _receive_stream_data_uni(self, stream: H3Stream, data: bytes, stream_ended: bool) -> list[Any]:
        events = super()._receive_stream_data_uni(stream, data, stream_ended)
        self._check(stream)
        return events

    def _check(self, stream: H3Stream) -> None:
        if len(stream.buffer) > self.most_encoded:
            raise ExcessiveLoad("frame over the limit")
