"""A fixed number of the packet fuzzer's inputs (tests/fuzz_packets.py), and that it would find what is wrong."""

import pytest

from tests import fuzz_packets
from tests.dataplane.peer import PADDING, PING, ack, datagram, request
from tests.fuzz_packets import Fuzzer, requests_of, run, work_of
from tsq.dataplane.frames import work

INPUTS = 400


@pytest.mark.parametrize("seed", range(6))
def test_packets_are_taken_exactly_when_they_should_be(certificates, seed):
    fuzzer = Fuzzer(seed, certificates)
    number, difference = run(fuzzer, count=INPUTS)
    assert difference is None, str(difference)
    assert number == INPUTS
    # All kinds of outcome were there.
    assert fuzzer.taken > INPUTS / 10
    assert fuzzer.refused > INPUTS / 10
    assert fuzzer.ended > INPUTS / 50
    assert fuzzer.excessive > INPUTS / 50


def test_a_wrong_opinion_is_noticed(certificates, monkeypatch):
    def wrong(frames: bytes, next_number: int, *, defer_acks: bool) -> list[bytes] | None:
        right = requests_of(frames, next_number, defer_acks=defer_acks)
        return None if right and 1 < len(right) < 8 else right

    monkeypatch.setattr(fuzz_packets, "requests_of", wrong)
    _, difference = run(Fuzzer(1, certificates), count=INPUTS)
    assert difference is not None
    assert "taken, and is the control plane's" in str(difference)


@pytest.mark.parametrize(
    ("frames", "units"),
    [
        (b"", 0),
        (PADDING * 500, 0),
        (PING * 3, 12),
        (ack(9), 4),
        (ack(9, 0, (0, 0), (0, 0), ecn=(1, 2, 3)), 6),
        # Broken frames count as far as they go, and nothing behind them counts.
        (b"\x02\x09\x00\x05\x00\x00\x00\x00", 6),
        (b"\x21" + PING, 4),
        (b"\x06\x00\x05x" + PING, 4),
        (datagram(b"") * 2 + b"\x30" + PING, 24),
        (b"\x08\x00" + PING * 9, 4),
        (b"\x0f\x00\x01\x01x" + PING, 8),
        (b"\x18\x01\x00\x08" + bytes(24) + PING, 8),
        (b"\x18\x01\x00\x08" + bytes(23) + PING, 4),
        (b"\x1a" + bytes(8) + b"\x1c\x00\x00\x01x" + b"\x1d\x00\x00" + PING, 16),
        (b"\x04\x00\x00\x00\x05\x00\x00\x07\x01x\x10\x01\x11\x00\x01\x12\x01\x13\x01\x14\x01" + PING, 36),
        (b"\x15\x00\x01\x16\x01\x17\x01\x19\x00\x1b" + bytes(8) + b"\x1e\x40\x01", 28),
    ],
)
def test_the_work_of_a_packet_is_counted_frame_by_frame(frames, units):
    assert work(frames) == work_of(frames) == units


@pytest.mark.parametrize(
    ("frames", "count"),
    [
        (b"", None),
        (PADDING, 0),
        (PING, 0),
        (PING * 300, 0),
        (PING + datagram(request(1)), 1),
        (ack(9), 0),
        (ack(10), None),
        (ack(3, 4), None),
        (ack(1) + ack(2), None),
        (datagram(request(1)) * 16, 16),
        (datagram(request(1)) * 64, 64),
        (datagram(request(1)) * 65, None),
        (datagram(b""), 1),
        (datagram(request(1) + b"\xf8\x00"), None),
        (b"\x30" + request(1, exact=True), 1),
        (datagram(request(1))[:-1], None),
        (ack(9, 0, *[(0, 0)] * 3), 0),
    ],
)
def test_the_second_opinion_is_the_rules(frames, count):
    found = requests_of(frames, 10, defer_acks=False)
    assert (None if found is None else len(found)) == count
