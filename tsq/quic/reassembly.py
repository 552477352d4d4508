"""Put the bytes of a stream into order (RFC 9000 §2.2), without memory for bytes that have not come.

Comes in: STREAM and CRYPTO frames. Goes out: aioquic's events, in order. It must never keep more bytes than came, than the stream's
limits or than the limit of the process; the cost of a frame must not grow with the number of earlier frames. It replaces aioquic's
QuicStreamReceiver, which fills gaps with zeros and searches its ranges one by one.
"""

from bisect import bisect_left

from aioquic.quic import events
from aioquic.quic.packet import QuicErrorCode, QuicStopSendingFrame, QuicStreamFrame
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.stream import FinalSizeError, QuicStream

from tsq.quic.limits import MOST_KEPT, PeerLimits

_DEFAULT = PeerLimits()


class BufferExceeded(Exception):
    """A peer sent more bytes out of order than may be kept."""


class Kept:
    """How many bytes all receivers of the process keep."""

    total = 0
    most = MOST_KEPT


class Receiver:
    """The receiving part of a stream. ahead: how far a frame may reach beyond what was read; gaps: how many pieces may wait."""

    def __init__(self, stream_id: int | None, readable: bool, ahead: int, gaps: int) -> None:
        self.highest_offset = 0
        self.is_finished = not readable
        self.stop_pending = False
        self._stream_id = stream_id
        self._ahead = ahead
        self._gaps = gaps
        self._start = 0
        self._final_size: int | None = None
        self._stop_error_code: int | None = None
        # Offsets in ascending order, and the piece at each. Pieces do not overlap.
        self._offsets: list[int] = []
        self._pieces: list[bytes] = []

    def __del__(self) -> None:
        self._release()

    @property
    def kept(self) -> int:
        """How many bytes wait for earlier ones."""
        return sum(map(len, self._pieces))

    def limit(self, ahead: int, gaps: int) -> None:
        """Change the limits."""
        self._ahead, self._gaps = ahead, gaps

    def starting_offset(self) -> int:
        """The offset of the next byte to be read."""
        return self._start

    def handle_frame(self, frame: QuicStreamFrame) -> events.StreamDataReceived | None:
        """Take a frame's bytes. Return what can be read. Raises FinalSizeError, and BufferExceeded before anything is kept."""
        end = frame.offset + len(frame.data)
        if not self.is_finished and frame.offset > self._start and end > self._start + self._ahead:
            raise BufferExceeded(f"bytes up to {end - self._start} ahead of those that were read")
        self._check_final_size(frame, end)
        self.highest_offset = max(self.highest_offset, end)
        if self.is_finished:
            return None
        if frame.offset > self._start:
            self._keep(frame.offset, frame.data)
            data = b""
        else:
            data = frame.data[self._start - frame.offset :]
            self._start += len(data)
            if self._offsets:
                data += self._following()
        ended = self._start == self._final_size
        if ended:
            self.is_finished = True
            self._release()
        if not data and not ended:
            return None
        return events.StreamDataReceived(data=data, end_stream=ended, stream_id=self._stream_id or 0)

    def handle_reset(self, *, final_size: int, error_code: int = QuicErrorCode.NO_ERROR) -> events.StreamReset | None:
        """The peer sends no more (RFC 9000 §19.4)."""
        if self._final_size is not None and final_size != self._final_size:
            raise FinalSizeError("Cannot change final size")
        if final_size < self.highest_offset:
            raise FinalSizeError("Data received beyond final size")
        self.highest_offset = final_size
        if self.is_finished:
            return None
        self._final_size = final_size
        self.is_finished = True
        self._release()
        return events.StreamReset(error_code=error_code, stream_id=self._stream_id or 0)

    def get_stop_frame(self) -> QuicStopSendingFrame:
        """The STOP_SENDING frame that is to be sent."""
        self.stop_pending = False
        return QuicStopSendingFrame(error_code=self._stop_error_code or 0, stream_id=self._stream_id or 0)

    def on_stop_sending_delivery(self, delivery: QuicDeliveryState) -> None:
        """A STOP_SENDING frame was acknowledged or lost."""
        if delivery != QuicDeliveryState.ACKED:
            self.stop_pending = True

    def stop(self, error_code: int = QuicErrorCode.NO_ERROR) -> None:
        """Ask the peer to send no more."""
        self._stop_error_code = error_code
        self.stop_pending = True

    def _check_final_size(self, frame: QuicStreamFrame, end: int) -> None:
        """RFC 9000 §4.5."""
        if self._final_size is not None:
            if end > self._final_size:
                raise FinalSizeError("Data received beyond final size")
            if frame.fin and end != self._final_size:
                raise FinalSizeError("Cannot change final size")
        if frame.fin:
            if end < self.highest_offset:
                raise FinalSizeError("Data received beyond final size")
            self._final_size = end

    def _keep(self, start: int, data: bytes) -> None:
        """Keep the new ones of these bytes, which come out of order."""
        new = self._new_pieces(start, data)
        size = sum(len(piece) for _, piece in new)
        if len(self._offsets) + len(new) > self._gaps:
            raise BufferExceeded(f"more than {self._gaps} pieces out of order")
        if Kept.total + size > Kept.most:
            raise BufferExceeded("more out of order than this process keeps")
        for offset, piece in new:
            at = bisect_left(self._offsets, offset)
            self._offsets.insert(at, offset)
            self._pieces.insert(at, piece)
        Kept.total += size

    def _new_pieces(self, start: int, data: bytes) -> list[tuple[int, bytes]]:
        new: list[tuple[int, bytes]] = []
        position, end = start, start + len(data)
        at = max(0, bisect_left(self._offsets, start) - 1)
        while position < end:
            stop, beyond = end, end
            if at < len(self._offsets):
                stop = min(end, self._offsets[at])
                beyond = self._offsets[at] + len(self._pieces[at])
                at += 1
            if stop > position:
                new.append((position, data[position - start : stop - start]))
            position = max(position, stop, min(beyond, end))
        return new

    def _following(self) -> bytes:
        """The pieces that are next in order."""
        out = []
        count = 0
        for offset, piece in zip(self._offsets, self._pieces, strict=True):
            if offset > self._start:
                break
            count += 1
            Kept.total -= len(piece)
            rest = piece[self._start - offset :]
            out.append(rest)
            self._start += len(rest)
        del self._offsets[:count], self._pieces[:count]
        return b"".join(out)

    def _release(self) -> None:
        Kept.total -= self.kept
        self._offsets.clear()
        self._pieces.clear()


class BoundedStream(QuicStream):
    """A QuicStream with such a receiver. It has the limits of a stream that the peer opened, until others are set."""

    def __init__(
        self,
        stream_id: int | None = None,
        max_stream_data_local: int = 0,
        max_stream_data_remote: int = 0,
        readable: bool = True,
        writable: bool = True,
    ) -> None:
        super().__init__(stream_id, max_stream_data_local, max_stream_data_remote, readable, writable)
        self.receiver: Receiver = Receiver(  # type: ignore[assignment]  # takes the place of aioquic's
            stream_id, readable, _DEFAULT.stream_ahead, _DEFAULT.stream_gaps
        )
