"""A fixed number of the packet fuzzer's inputs (tests/fuzz_packets.py), and that it would find what is wrong."""

import pytest

from tests import fuzz_packets
from tests.datapath.peer import PADDING, PING, ack, datagram, request
from tests.fuzz_packets import Fuzzer, requests_of, run

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


def test_a_wrong_opinion_is_noticed(certificates, monkeypatch):
    def wrong(frames: bytes, next_number: int, *, defer_acks: bool) -> list[bytes] | None:
        right = requests_of(frames, next_number, defer_acks=defer_acks)
        return None if right and len(right) > 7 else right

    monkeypatch.setattr(fuzz_packets, "requests_of", wrong)
    _, difference = run(Fuzzer(1, certificates), count=INPUTS)
    assert difference is not None
    assert "taken, and is the control plane's" in str(difference)


@pytest.mark.parametrize(
    ("frames", "count"),
    [
        (b"", None),
        (PADDING, 0),
        (PING, None),
        (PING + datagram(request(1)), 1),
        (ack(9), 0),
        (ack(10), None),
        (ack(3, 4), None),
        (ack(1) + ack(2), None),
        (datagram(request(1)) * 16, 16),
        (datagram(request(1)) * 17, None),
        (b"\x30" + request(1, exact=True), 1),
        (datagram(request(1))[:-1], None),
    ],
)
def test_the_second_opinion_is_the_rules(frames, count):
    found = requests_of(frames, 10, defer_acks=False)
    assert (None if found is None else len(found)) == count
