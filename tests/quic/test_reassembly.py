"""Bytes out of order: what is delivered is what aioquic delivers; what is kept is what came, and no more than the limits say."""

import random

import pytest
from aioquic.quic.packet import QuicStreamFrame
from aioquic.quic.stream import FinalSizeError, QuicStreamReceiver

from tsq.quic import reassembly
from tsq.quic.reassembly import BufferExceeded, Kept, Receiver

TEXT = bytes(range(256)) * 8


def frame(offset: int, data: bytes, *, fin: bool = False) -> QuicStreamFrame:
    return QuicStreamFrame(data=data, offset=offset, fin=fin)


def receiver(ahead: int = 4096, gaps: int = 16) -> Receiver:
    return Receiver(0, True, ahead, gaps)


def outcome(call, *arguments, **options):
    """What a receiver says to a frame."""
    try:
        return call(*arguments, **options)
    except FinalSizeError as error:
        return str(error)


@pytest.mark.parametrize("seed", range(30))
def test_frames_in_any_order_give_what_aioquic_gives(seed):
    rng, before = random.Random(seed), Kept.total
    ours, theirs = receiver(ahead=1 << 20, gaps=1 << 20), QuicStreamReceiver(0, True)
    end = rng.randint(1, len(TEXT))
    for _ in range(60):
        start = rng.randint(0, end)
        stop = rng.randint(start, min(end, start + rng.choice((1, 30, 600))))
        fin = stop == end and rng.random() < 0.5
        expected = outcome(theirs.handle_frame, frame(start, TEXT[start:stop], fin=fin))
        assert outcome(ours.handle_frame, frame(start, TEXT[start:stop], fin=fin)) == expected
        assert (ours.is_finished, ours.starting_offset()) == (theirs.is_finished, theirs.starting_offset())
        assert ours.highest_offset == theirs.highest_offset
        if rng.random() < 0.02 and not theirs.is_finished:
            size = theirs.highest_offset + rng.choice((0, 5))
            assert outcome(ours.handle_reset, final_size=size) == outcome(theirs.handle_reset, final_size=size)
    del ours
    assert Kept.total == before


@pytest.mark.parametrize("size", [0, 18])
def test_a_final_size_that_changes_is_an_error_as_with_aioquic(size):
    for target in (receiver(), QuicStreamReceiver(0, True)):
        target.handle_frame(frame(size, b"", fin=True))
        with pytest.raises(FinalSizeError):
            target.handle_frame(frame(size, b"x"))
        with pytest.raises(FinalSizeError):
            target.handle_reset(final_size=size + 1)


def test_memory_is_what_came_and_not_what_is_missing():
    before = Kept.total
    target = receiver(ahead=1 << 20)
    target.handle_frame(frame(1 << 19, b"x"))
    assert Kept.total == before + target.kept == before + 1
    # The same byte again is not kept twice.
    target.handle_frame(frame(1 << 19, b"x"))
    assert target.kept == 1


def test_what_is_too_far_ahead_is_refused_and_leaves_nothing():
    target = receiver(ahead=100)
    for offset in (100, 101, 1 << 40):
        with pytest.raises(BufferExceeded):
            target.handle_frame(frame(offset, b"x"))
    assert (target.kept, target.highest_offset) == (0, 0)
    target.handle_frame(frame(99, b"x"))
    # In order there is no such limit: nothing of it is kept.
    assert target.handle_frame(frame(0, TEXT[:200])).data == TEXT[:200]


def test_too_many_pieces_are_refused():
    target = receiver(gaps=16)
    for number in range(16):
        target.handle_frame(frame(2 + 2 * number, b"x"))
    with pytest.raises(BufferExceeded):
        target.handle_frame(frame(2 + 2 * 16, b"x"))
    # One that brings several pieces at once, between those that are there.
    with pytest.raises(BufferExceeded):
        target.handle_frame(frame(1, bytes(40)))
    assert target.kept == 16


def test_all_receivers_of_the_process_share_one_limit(monkeypatch):
    monkeypatch.setattr(reassembly.Kept, "most", Kept.total + 100)
    one, other = receiver(), receiver()
    one.handle_frame(frame(1, bytes(60)))
    with pytest.raises(BufferExceeded):
        other.handle_frame(frame(1, bytes(60)))
    other.handle_frame(frame(1, bytes(40)))
    one.handle_reset(final_size=61)
    assert one.kept == 0
    other.handle_frame(frame(100, bytes(60)))


def test_bytes_that_are_read_are_not_counted_any_more():
    before = Kept.total
    target = receiver()
    target.handle_frame(frame(10, TEXT[10:20]))
    target.handle_frame(frame(30, TEXT[30:40]))
    assert target.handle_frame(frame(0, TEXT[:15])).data == TEXT[:20]
    assert Kept.total == before + 10
    assert target.handle_frame(frame(20, TEXT[20:50], fin=True)).data == TEXT[20:50]
    assert Kept.total == before
