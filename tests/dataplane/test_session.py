"""One session by itself: what it takes, what it leaves to the control plane, what it sends."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.peer import (
    CLOCK_NS,
    EXACT_T3,
    LOCAL,
    PADDING,
    PING,
    REMOTE,
    SUITES,
    Peer,
    ack,
    datagram,
    nonce_of,
    request,
    varint,
)
from tests.support.foreign import ForeignClient
from tests.support.world import CLIENT, World
from tsq._fast import ns_from_ntp, pack_address
from tsq.dataplane.batches import DataPlane
from tsq.dataplane.session import STATE_SIZE, Session
from tsq.errors import ConfigError


@pytest.fixture
def peer() -> Peer:
    return Peer()


def not_taken(peer: Peer, frames: bytes, number: int | None = None, **options) -> None:
    """This packet is the control plane's, and leaves no trace."""
    before = peer.state
    peer.give(frames, number, **options)
    assert not peer.taken
    assert peer.state == before


def excessive(peer: Peer, frames: bytes) -> None:
    """This packet is dropped and counted, and leaves no other trace."""
    before, dropped = peer.state, peer.session.counts["excessive"]
    assert peer.give(frames) == []
    assert peer.taken
    assert peer.session.counts["excessive"] == peer.data_plane.excessive == dropped + 1
    assert [new for new, old in zip(peer.state, before, strict=True) if new != old] == [tuple(peer.session.counts.items())]


# ------------------------------------------------------------------------------------------------------------ requests

@pytest.mark.parametrize("suite", SUITES)
def test_a_request_is_answered_with_nonce_t2_and_t3(suite):
    peer = Peer(suite)
    peer.clock_ns = CLOCK_NS + 5000
    [packet] = peer.deliver(peer.seal(datagram(request(7))), received_ns=CLOCK_NS)
    [message] = packet.messages
    assert message[:18] == request(7)
    assert message[18:20] == b"\x02\x08"
    assert message[28:30] == b"\x03\x08"
    assert ns_from_ntp(int.from_bytes(message[20:28], "big"), CLOCK_NS) == CLOCK_NS
    assert ns_from_ntp(int.from_bytes(message[30:38], "big"), CLOCK_NS) == CLOCK_NS + 5000
    assert len(message) == 38
    assert packet.acked == [0]


@pytest.mark.parametrize("count", [1, 2, 15, 16])
def test_every_request_of_a_packet_is_answered_in_order(peer, count):
    [packet] = peer.ask(*range(count))
    assert packet.nonces == list(range(count))
    assert peer.data_plane.answered == count


@pytest.mark.parametrize("count", [17, 32, 33, 50, 58])
def test_more_than_16_requests_of_a_packet_are_answered_in_several_packets(peer, count):
    packets = peer.ask(*range(count))
    assert [nonce for packet in packets for nonce in packet.nonces] == list(range(count))
    assert [len(packet.messages) for packet in packets[:-1]] == [16] * ((count - 1) // 16)
    assert [packet.number for packet in packets] == list(range(len(packets)))
    assert all(packet.acked == [0] for packet in packets)
    assert peer.data_plane.answered == peer.session.counts["answered"] == count
    assert peer.session.in_flight[0] == len(packets)


def test_of_many_requests_those_that_the_window_does_not_admit_get_one_acknowledgment():
    peer = Peer(window=2000)
    packets = peer.ask(*range(50))
    assert [len(packet.messages) for packet in packets] == [16, 0]
    assert (peer.data_plane.answered, peer.data_plane.held_back) == (16, 34)
    assert peer.session.in_flight[0] == 1


def test_a_packet_may_hold_64_requests_at_most(peer):
    assert len(peer.give((datagram(request(1)) * 64)[: 64 * 20])) == 4
    excessive(peer, datagram(request(1)) * 65)


def test_a_request_without_length_that_fills_the_packet_is_answered(peer):
    [packet] = peer.give(b"\x30" + request(3))
    assert packet.nonces == [3]


def test_a_request_without_length_swallows_what_follows_and_is_malformed(peer):
    [packet] = peer.give(b"\x30" + request(3) + PADDING)
    assert packet.messages == []
    assert peer.data_plane.malformed == 1


@pytest.mark.parametrize("size", [2, 4, 8])
def test_a_length_in_a_longer_form_than_needed_is_understood(peer, size):
    [packet] = peer.give(b"\x31" + varint(18, size) + request(3))
    assert packet.nonces == [3]


def test_padding_ping_and_ack_may_surround_a_request(peer):
    peer.ask(1)
    [packet] = peer.give(PADDING * 20 + PING + ack(0) + datagram(request(2)) + PING + PADDING * 3)
    assert packet.nonces == [2]
    assert peer.session.in_flight[0] == 1


def test_padding_alone_is_taken_and_not_answered(peer):
    assert peer.give(PADDING * 30) == []
    assert peer.taken
    assert peer.session.received[0] == 0


PINGS = {"alone": PING, "padded": PING + PADDING * 1100, "many": PING * 1100, "last": PADDING + PING}


@pytest.mark.parametrize("frames", PINGS.values(), ids=PINGS)
def test_a_ping_is_acknowledged_at_once_by_a_packet_that_asks_for_no_acknowledgment(peer, frames):
    peer.receive([3])
    [packet] = peer.give(frames, 5)
    assert peer.taken
    assert (packet.acked, packet.messages, packet.delay) == ([3, 5], [], 0)
    assert peer.session.in_flight == (0, 0)
    assert peer.session.probe_at is None
    assert (peer.data_plane.answered, peer.data_plane.held_back) == (0, 0)
    # A copy of it gets nothing.
    assert peer.give(frames, 5) == []


def test_a_ping_with_an_ack_is_acknowledged(peer):
    peer.ask(1)
    [packet] = peer.give(PING + ack(0))
    assert packet.acked == [0, 1]
    assert peer.session.in_flight == (0, 0)


def test_a_ping_is_acknowledged_though_the_window_is_full():
    peer = Peer(window=0)
    [packet] = peer.give(PING)
    assert packet.acked == [0]
    assert peer.data_plane.held_back == 0


@pytest.mark.parametrize("frames", [PADDING * 20, b""])
def test_what_asks_for_no_acknowledgment_gets_none(peer, frames):
    """RFC 9000 §13.2.1: two ends that acknowledge acknowledgments would never stop."""
    peer.ask(1)
    assert peer.give(frames + ack(0)) == []
    assert peer.taken


def test_a_packet_without_frames_is_not_taken(peer):
    not_taken(peer, b"")


MALFORMED = {
    "empty": b"",
    "a nonce that is cut": request(1)[:17],
    "a byte too many": request(1) + b"\x00",
    "another nonce length": b"\x01\x0f" + bytes(16),
    "another type first": b"\x02\x10" + bytes(16),
    "a nonce twice": request(1) + request(1),
    "exact T3 before the nonce": EXACT_T3 + request(1),
    "exact T3 with a wrong length": request(1) + b"\xfd\x07\x06tsq.t3\x00",
}


@pytest.mark.parametrize("message", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_message_is_counted_acknowledged_and_not_answered(peer, message):
    [packet] = peer.give(datagram(message))
    assert (packet.acked, packet.messages) == ([0], [])
    assert (peer.data_plane.taken, peer.data_plane.malformed, peer.data_plane.answered) == (1, 1, 0)
    assert peer.session.in_flight == (0, 0)


@pytest.mark.parametrize("message", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_message_beside_requests_costs_them_nothing(peer, message):
    [packet] = peer.give(datagram(request(5)) + datagram(message) + datagram(request(6)) + datagram(message))
    assert packet.nonces == [5, 6]
    assert (peer.data_plane.malformed, peer.data_plane.answered) == (2, 2)


def test_a_malformed_message_is_counted_for_its_own_packet_only(peer):
    peer.give(datagram(b""))
    peer.give(datagram(request(1)))
    peer.give(PADDING)
    peer.give(datagram(request(1)), 0)
    assert peer.data_plane.malformed == 1


OTHER_REQUESTS = {
    "a padding TLV": request(1) + b"\xfb\x04" + bytes(4),
    "a signature request": request(1) + b"\xfc\x00",
    "a precision request after its padding": request(1) + b"\xfe\x00\xfa\x00",
    "a precision request and metadata": request(1) + b"\xfa\x00" + EXACT_T3,
    "a precision request and a signature request": request(1) + b"\xfc\x00\xfa\x00",
    "other metadata": request(1) + b"\xfd\x08\x06tsq.t4\x00",
    "exact T3 with a value": request(1) + b"\xfd\x09\x06tsq.t3\x01x",
    "exact T3 twice": request(1) + EXACT_T3 + EXACT_T3,
    "T2 of the client's": request(1) + b"\x02\x08" + bytes(8),
}


@pytest.mark.parametrize("message", OTHER_REQUESTS.values(), ids=OTHER_REQUESTS)
def test_other_messages_are_not_taken(peer, message):
    not_taken(peer, datagram(message))


@pytest.mark.parametrize("message", OTHER_REQUESTS.values(), ids=OTHER_REQUESTS)
def test_another_message_beside_a_request_takes_the_packet_along(peer, message):
    not_taken(peer, datagram(request(5)) + datagram(message))


OTHER_FRAMES = {
    "RESET_STREAM": b"\x04\x00\x00\x00",
    "CRYPTO": b"\x06\x00\x01x",
    "STREAM": b"\x0b\x00\x01x",
    "MAX_DATA": b"\x10\x40\x00",
    "NEW_CONNECTION_ID": b"\x18\x05\x00\x08" + bytes(8) + bytes(16),
    "PATH_CHALLENGE": b"\x1a" + bytes(8),
    "CONNECTION_CLOSE": b"\x1c\x00\x00\x00",
    "HANDSHAKE_DONE": b"\x1e",
    "unknown": b"\x21",
    "unknown, two bytes": b"\x52\x34",
    "PING in a longer form": b"\x40\x01",
    "PADDING in a longer form": b"\x40\x00",
    "ACK in a longer form": b"\x40\x02\x00\x00\x00\x00",
    "DATAGRAM in a longer form": b"\x40\x31\x00",
    "ACK_FREQUENCY": b"\x40\xaf\x00\x00\x00\x00",
    "a length that is cut": b"\x31\x40",
    "no length": b"\x31",
    "a length past the end": b"\x31\x13" + request(1),
    "the largest length": b"\x31" + varint((1 << 62) - 1) + request(1),
}


@pytest.mark.parametrize("frame", OTHER_FRAMES.values(), ids=OTHER_FRAMES)
def test_other_frames_are_not_taken(peer, frame):
    not_taken(peer, frame + PADDING * (frame[:1] != b"\x31"))


@pytest.mark.parametrize("frame", OTHER_FRAMES.values(), ids=OTHER_FRAMES)
def test_another_frame_after_a_request_takes_the_packet_along(peer, frame):
    not_taken(peer, datagram(request(5)) + frame)


# What a packet holds that the data plane does not deal with, and how often that may be there.
WORK = {
    "empty DATAGRAM frames beside a stream": (datagram(b""), 15, b"\x0b\x00\x01x"),
    "requests with a TLV": (datagram(request(1) + b"\x09\x00"), 16, b""),
    "STREAM": (b"\x0e\x00\x02\x01x", 32, b""),
    "CRYPTO": (b"\x06\x02\x01x", 32, b""),
    "MAX_DATA": (b"\x10\x40\x00", 32, b""),
    "PATH_CHALLENGE": (b"\x1a" + bytes(8), 32, b""),
    "NEW_CONNECTION_ID": (b"\x18\x05\x00\x08" + bytes(8) + bytes(16), 32, b""),
    "RETIRE_CONNECTION_ID": (b"\x19\x05", 32, b""),
    "PING beside a stream": (PING, 31, b"\x0b\x00\x01x"),
    "ACK": (ack(0), 32, b""),
}


@pytest.mark.parametrize(("frame", "most", "beside"), WORK.values(), ids=WORK)
def test_a_packet_that_is_too_much_work_for_the_control_plane_is_dropped_and_counted(peer, frame, most, beside):
    peer.ask(1)
    not_taken(peer, frame * most + beside)
    excessive(peer, frame * (most + 1) + beside)
    # It was not received: the same number may come again.
    assert peer.ask(2)[0].nonces == [2]


def test_an_ack_of_too_many_ranges_is_dropped_while_acks_are_the_control_planes(peer):
    peer.session.next_packet_number = 2000
    peer.recover(1 << 20, 0.1, 0.3, defer=True)
    not_taken(peer, ack(1999, 0, *[(0, 0)] * 124))
    excessive(peer, ack(1999, 0, *[(0, 0)] * 125))


def test_packets_that_are_too_much_work_end_the_connection_in_the_end(peer):
    for _ in range(peer.data_plane.excessive_limit):
        assert peer.data_plane.due(peer.now) == []
        excessive(peer, PING * 33 + b"\x1e")
    assert peer.data_plane.due(peer.now) == [peer.session]


def test_a_forged_packet_that_would_be_too_much_work_is_counted_as_forged_only(peer):
    data = bytearray(peer.seal(b"\x1e" * 100))
    data[-1] ^= 1
    peer.deliver(bytes(data))
    counts = peer.session.counts
    assert (counts["excessive"], counts["failed_opens"]) == (0, 1)
    assert (peer.data_plane.forged, peer.data_plane.excessive, peer.data_plane.taken) == (1, 0, 0)


# ------------------------------------------------------------------------------------------------- received packet numbers

def test_a_duplicate_is_dropped(peer):
    data = peer.seal(datagram(request(1)), 5)
    assert peer.deliver(data)
    before = peer.state
    assert peer.deliver(data) == []
    assert peer.taken
    assert peer.state == before
    assert (peer.data_plane.taken, peer.data_plane.duplicates, peer.data_plane.forged) == (1, 1, 0)


@pytest.mark.parametrize(
    ("behind", "fresh"), [(1, True), (63, True), (64, True), (65, True), (127, True), (128, False), (129, False)]
)
def test_a_late_packet_is_taken_once_within_the_window_of_128(peer, behind, fresh):
    peer.receive([1000])
    assert bool(peer.ask(1, number=1000 - behind)) is fresh
    assert peer.taken
    assert peer.ask(2, number=1000 - behind) == []
    assert peer.taken
    assert peer.session.received[0] == 1000


@pytest.mark.parametrize("jump", [1, 2, 62, 63, 64, 65, 66, 126, 127, 128, 129, 130, 200, 100_000])
def test_the_window_moves_with_the_largest_number(peer, jump):
    start = range(0, 130)
    peer.receive(start)
    largest = start[-1] + jump
    peer.receive([largest])
    expected = {n for n in (*start, largest) if n > largest - 128}
    found, _, bits, _ = peer.session.received
    assert found == largest
    assert {largest - d for d in range(128) if bits >> d & 1} == expected
    assert bits < 1 << 128


@given(numbers=st.lists(st.integers(0, 400), max_size=60))
@settings(max_examples=150, deadline=None)
def test_a_number_is_taken_exactly_once_in_any_order(numbers):
    peer = Peer()
    seen: set[int] = set()
    largest = -1
    for number in numbers:
        fresh = number not in seen and number > largest - 128
        assert bool(peer.ask(number, number=number)) is fresh
        assert peer.taken
        if fresh:
            seen.add(number)
        largest = max(largest, number)


@pytest.mark.parametrize("pn_size", [1, 2, 3, 4])
def test_packet_numbers_of_any_size_are_understood(peer, pn_size):
    for number in (0, 100, 220, 300, 420):
        [packet] = peer.give(datagram(request(number)), number, pn_size=pn_size)
        assert max(packet.acked) == number


def test_the_largest_packet_number_is_understood(peer):
    largest = (1 << 62) - 1
    peer.session.set_received(largest - 1, peer.now, 1, largest - 2)
    [packet] = peer.ask(1, number=largest)
    assert packet.acked == [largest - 1, largest]


# ---------------------------------------------------------------------------------------------------------- ACKs sent

def test_an_answer_acknowledges_all_that_came(peer):
    peer.receive([0, 1, 2, 5, 6, 9])
    [packet] = peer.ask(1, number=12)
    assert packet.acked == [0, 1, 2, 5, 6, 9, 12]
    assert packet.ranges == 4


@given(numbers=st.sets(st.integers(0, 127), max_size=128))
@settings(max_examples=150, deadline=None)
def test_acknowledged_are_only_numbers_that_came_and_the_newest_33_runs_of_them(numbers):
    peer = Peer()
    peer.receive(sorted(numbers))
    [packet] = peer.ask(1, number=128)
    came = {n for n in numbers if n > 0} | {128}
    starts = sorted((n for n in came if n - 1 not in came), reverse=True)
    oldest = starts[: 33][-1]
    assert set(packet.acked) == {n for n in came if n >= oldest}
    assert packet.ranges == min(33, len(starts))


def test_an_ack_of_64_gaps_has_33_ranges_at_most(peer):
    peer.receive(range(0, 126, 2))
    [packet] = peer.ask(1, number=126)
    assert packet.ranges == 33
    assert packet.acked == list(range(62, 127, 2))


@pytest.mark.parametrize(("floor", "oldest"), [(92, 96), (90, 96), (89, 89)])
def test_runs_at_and_below_the_acknowledged_floor_are_left_out(peer, floor, oldest):
    numbers = (89, 90, 96, 97, 99, 100)
    peer.session.set_received(100, peer.now, sum(1 << 100 - n for n in numbers), floor)
    [packet] = peer.ask(1, number=101)
    assert packet.acked == [n for n in (*numbers, 101) if n >= oldest]


def test_the_ack_delay_is_in_units_of_8_us(peer):
    peer.receive([0])
    peer.now += 0.008
    [packet] = peer.give(datagram(request(1)), 1)
    assert packet.delay == 0
    peer.now += 0.008
    assert peer.session.seal([b"x" * 20], peer.now) is not None
    packet = peer.open(peer.session.seal([b"x" * 20], peer.now))
    assert packet.delay in (999, 1000)


def test_a_late_packet_does_not_change_when_the_largest_came(peer):
    peer.receive([5])
    at = peer.session.received[1]
    peer.now += 1
    peer.receive([3])
    assert peer.session.received[1] == at
    assert peer.session.last_receive == peer.now


def test_nothing_that_came_is_acknowledged_by_nothing(peer):
    """RFC 9000 §19.3: a session that has received no packet has nothing to acknowledge."""
    packet = peer.open(peer.session.seal([b"message"], peer.now))
    assert packet.acked == []


# ------------------------------------------------------------------------------------------------------ ACKs received

def answered(count: int, **options) -> Peer:
    """A peer to which so many packets were sent, numbers 0 to count - 1."""
    peer = Peer(**options)
    for n in range(count):
        assert peer.ask(n)
    assert peer.session.in_flight[0] == count
    return peer


def test_an_ack_takes_what_it_names_out_of_flight():
    peer = answered(10)
    peer.give(ack(8, 1, (1, 2)))
    assert peer.taken
    # 8, 7, then a gap of two, then 4, 3, 2: what is three below the largest is lost.
    assert peer.session.largest_acknowledged == 8
    assert peer.session.counts["lost"] == 3
    assert peer.session.in_flight[0] == 10 - 5 - 3


@pytest.mark.parametrize(("largest", "taken"), [(9, True), (10, False), (11, False), (1 << 32, False), ((1 << 62) - 1, False)])
def test_an_ack_of_a_number_that_was_never_sent_is_not_taken(largest, taken):
    peer = answered(10)
    if not taken:
        not_taken(peer, ack(largest))
        not_taken(peer, ack(largest) + datagram(request(1)))
        not_taken(peer, datagram(request(1)) + ack(largest))
    else:
        peer.give(ack(largest))
        assert peer.taken


NEGATIVE = {
    "first range": ack(3, 4),
    "first range, far": ack(3, (1 << 62) - 1),
    "second range": ack(5, 0, (0, 4)),
    "second range, far": ack(5, 0, (0, (1 << 62) - 1)),
    "gap": ack(5, 0, (4, 0)),
    "gap, far": ack(5, 0, ((1 << 62) - 1, 0)),
    "gap and range, far": ack(5, 0, ((1 << 62) - 1, (1 << 62) - 1)),
    "last range": ack(9, 0, (0, 0), (0, 0), (0, 4)),
}


@pytest.mark.parametrize("frame", NEGATIVE.values(), ids=NEGATIVE)
def test_an_ack_below_zero_is_not_taken(frame):
    peer = answered(10)
    not_taken(peer, frame)
    not_taken(peer, datagram(request(1)) + frame)


def test_an_ack_down_to_zero_is_taken():
    for frame in (ack(9, 9), ack(5, 0, (0, 3)), ack(5, 0, (3, 0))):
        peer = answered(10)
        peer.give(frame)
        assert peer.taken


@pytest.mark.parametrize("count", [1, 63, 64, 65, 100, 500])
def test_an_ack_of_any_number_of_ranges_is_taken(count):
    peer = Peer()
    peer.session.next_packet_number = 1000
    [first], [second] = peer.ask(1), peer.ask(2)
    peer.session.next_packet_number = 1100
    assert peer.give(ack(1001, 0, *[(0, 0)] * (count - 1))) == []
    assert peer.taken
    assert (first.number, second.number) == (1000, 1001)
    assert peer.session.largest_acknowledged == 1001
    assert peer.session.in_flight[0] == 1


def test_of_more_than_64_ranges_the_newest_64_count():
    peer = Peer()
    for number in (72, 74, 200):
        peer.session.next_packet_number = number
        assert [packet.number for packet in peer.ask(number)] == [number]
    # 200, 198, 196 ... 0: the 64th is 74.
    peer.give(ack(200, 0, *[(0, 0)] * 100))
    assert peer.taken
    assert peer.session.in_flight == (0, 0)
    assert peer.session.counts["lost"] == 1


@pytest.mark.parametrize("count", [1, 64, 1000, (1 << 62) - 1])
def test_an_ack_with_fewer_ranges_than_it_says_is_not_taken(count):
    peer = Peer()
    peer.session.next_packet_number = 1000
    not_taken(peer, b"\x02" + varint(999) + varint(0) + varint(count) + varint(0))


def test_an_ack_with_ecn_counts_is_taken():
    peer = answered(10)
    peer.give(ack(9, 9, ecn=(1, 2, 1 << 40)) + datagram(request(1)))
    assert peer.taken
    assert peer.session.in_flight[0] == 1


@pytest.mark.parametrize("ecn", [None, (100, 200, 1 << 20)])
def test_an_ack_that_is_cut_anywhere_is_not_taken(ecn):
    peer = answered(10)
    frame = ack(9, 0, (1, 2), (0, 0), ecn=ecn, delay=1 << 20)
    for size in range(1, len(frame)):
        not_taken(peer, frame[:size])
        not_taken(peer, datagram(request(1)) + frame[:size])
    peer.give(frame)
    assert peer.taken


def test_two_acks_in_a_packet_are_not_taken():
    peer = answered(10)
    not_taken(peer, ack(3) + ack(4) + datagram(request(1)))


def test_an_ack_is_the_control_planes_while_that_waits_for_one():
    peer = answered(10)
    peer.recover(1 << 20, 0.1, 0.3, defer=True)
    not_taken(peer, ack(9, 9))
    not_taken(peer, ack(9, 9) + datagram(request(1)))
    assert peer.ask(1)


def test_an_old_ack_changes_nothing():
    peer = answered(6)
    peer.give(ack(5, 5))
    peer.give(ack(3, 1))
    assert peer.session.largest_acknowledged == 5
    assert peer.session.counts["lost"] == 0
    assert peer.session.in_flight == (0, 0)


def test_the_control_planes_ack_takes_packets_out_of_flight():
    peer = answered(10)
    peer.session.acknowledged([(8, 9), (2, 4)], peer.now)
    assert peer.session.largest_acknowledged == 9
    assert peer.session.in_flight[0] == 1  # 7; 0, 1, 5, 6 are lost by packet threshold
    assert peer.session.counts["lost"] == 4


# ------------------------------------------------------------------------------------------------------------ recovery

def test_three_numbers_below_the_largest_acknowledged_is_lost():
    peer = answered(6)
    peer.give(ack(5))
    assert peer.session.counts["lost"] == 3
    assert peer.session.in_flight[0] == 2


def test_older_than_the_time_threshold_is_lost():
    peer = Peer(loss_delay=0.1)
    peer.ask(1)
    peer.now += 0.06
    peer.ask(2)
    peer.now += 0.05
    peer.ask(3)
    peer.give(ack(2))
    assert peer.session.counts["lost"] == 1
    assert peer.session.in_flight[0] == 1


def test_a_packet_above_the_largest_acknowledged_is_not_lost_by_time():
    peer = answered(4)
    # The second time nothing is measured: the time threshold stays as small as the first round trip made it.
    for pause in (0.01, 100):
        peer.now += pause
        peer.give(ack(0))
        assert peer.session.counts["lost"] == 0
        assert peer.session.in_flight[0] == 3


def fill(peer: Peer) -> int:
    """Ask for large answers until they are held back; the bytes in flight then."""
    for _ in range(40):
        [packet] = peer.ask(*range(16))
        if not packet.messages:
            return peer.session.in_flight[1]
    raise AssertionError("nothing is held back")


# What the data plane reserves for one answer of 16 requests, and what the packet then has at most.
_LARGEST = 1450


def test_the_window_halves_once_in_a_round_trip_and_again_in_the_next():
    window = 16000
    peer = Peer(window=window)
    full = fill(peer)
    assert window - _LARGEST < full <= window
    sent = peer.session.next_packet_number
    peer.now += 0.05
    # Two ACKs, each of which shows losses among what was sent before the first of them.
    peer.give(ack(5))
    peer.give(ack(12))
    assert peer.session.counts["lost"] > 5
    peer.give(ack(sent - 1, sent - 1))
    assert peer.session.in_flight == (0, 0)
    peer.now += 0.05
    first = peer.session.next_packet_number
    half = fill(peer)
    assert window // 2 - _LARGEST < half <= window // 2
    peer.now += 0.05
    lost = peer.session.counts["lost"]
    peer.give(ack(first + 4))
    assert peer.session.counts["lost"] > lost
    sent = peer.session.next_packet_number
    peer.give(ack(sent - 1, sent - 1))
    peer.now += 0.05
    quarter = fill(peer)
    assert window // 4 - _LARGEST < quarter <= window // 4


def test_the_window_never_falls_below_two_packets():
    peer = Peer(window=3000)
    for _ in range(12):
        start = peer.session.next_packet_number
        for _ in range(5):
            peer.ask(1)
        peer.now += 0.05
        peer.give(ack(start + 4))
        peer.give(ack(start + 4, start + 4))
        peer.now += 0.05
    assert peer.session.in_flight == (0, 0)
    assert fill(peer) > 2400 - _LARGEST


def test_a_client_that_never_acknowledges_is_held_to_the_window():
    window = 5000
    peer = Peer(window=window)
    for n in range(500):
        [packet] = peer.ask(n)
        assert packet.acked
        assert peer.session.in_flight[1] <= window
        peer.now += 0.1
    assert peer.session.in_flight[0] <= 32
    assert peer.data_plane.answered + peer.data_plane.held_back == 500
    assert peer.data_plane.held_back == 500 - peer.session.counts["answered"]


@pytest.mark.parametrize("defer", [False, True])
def test_answers_that_are_not_acknowledged_are_looked_after_unless_aioquic_waits_for_acknowledgments_itself(defer):
    peer = answered(3)
    peer.recover(1 << 20, 0.1, 0.3, defer=defer)
    peer.now += 0.29
    assert peer.data_plane.due(peer.now) == []
    peer.now += 0.02
    assert peer.data_plane.due(peer.now) == ([] if defer else [peer.session])
    assert (peer.session.probe_at is None) == defer


def test_an_acknowledgment_ends_the_waiting_between_probes():
    peer = answered(1)
    for _ in range(4):
        peer.now += 0.31
        assert peer.session.probe(peer.now)
    assert peer.data_plane.due(peer.now + 1) == []
    peer.give(ack(0))
    assert peer.ask(2)[0].nonces == [2]
    assert peer.session.probe_at < peer.now + 3
    assert peer.data_plane.due(peer.session.probe_at) == [peer.session]


def test_with_32_packets_in_flight_there_is_an_ack_only_and_the_answer_counts_as_held_back():
    peer = answered(32)
    [packet] = peer.ask(40, 41)
    assert packet.messages == []
    assert max(packet.acked) == 32
    assert peer.data_plane.held_back == 2
    assert peer.session.in_flight[0] == 32
    peer.give(ack(10, 10))
    [packet] = peer.ask(42)
    assert packet.nonces == [42]


def test_an_ack_alone_is_not_in_flight():
    peer = answered(32)
    before = peer.session.in_flight
    for n in range(50):
        [packet] = peer.ask(n)
        assert not packet.messages
    assert peer.session.in_flight == before


def test_seal_gives_nothing_where_the_window_has_no_room():
    peer = answered(32)
    number = peer.session.next_packet_number
    assert peer.session.seal([b"message"], peer.now) is None
    assert peer.session.next_packet_number == number


def test_seal_gives_nothing_that_is_larger_than_the_smallest_mtu(peer):
    peer.receive([0])
    assert peer.session.seal([bytes(1190)], peer.now) is None
    packet = peer.session.seal([bytes(1100)], peer.now)
    assert packet is not None
    assert len(packet) <= 1200


def test_seal_gives_nothing_while_the_control_plane_has_the_session(peer):
    peer.session.active = False
    assert peer.session.seal([b"message"], peer.now) is None


# ------------------------------------------------------------------------------------------------- sent packet numbers

def test_the_next_packet_number_does_not_go_back(peer):
    peer.session.next_packet_number = 100
    peer.session.next_packet_number = 100
    for value in (99, 0, -1):
        with pytest.raises(ConfigError):
            peer.session.next_packet_number = value
    assert peer.session.next_packet_number == 100


_ACTS = st.one_of(
    st.tuples(st.just("ask"), st.integers(1, 16)),
    st.tuples(st.just("seal"), st.integers(1, 400)),
    st.tuples(st.just("control"), st.integers(0, 3)),
    st.tuples(st.just("back"), st.integers(1, 5)),
    st.tuples(st.just("ack"), st.integers(0, 40)),
    st.tuples(st.just("keys"), st.just(0)),
    st.tuples(st.just("idle"), st.just(0)),
    st.tuples(st.just("time"), st.integers(-5, 50)),
)


@given(acts=st.lists(_ACTS, max_size=60), window=st.sampled_from([0, 300, 3000, 100_000]))
@settings(max_examples=200, deadline=None)
def test_packet_numbers_strictly_increase_under_any_interleaving(acts, window):
    peer = Peer(window=window)
    last = -1
    for act, value in acts:
        numbers: list[int] = []
        if act == "ask":
            numbers = [packet.number for packet in peer.ask(*range(value))]
        elif act == "seal":
            data = peer.session.seal([bytes(value)], peer.now)
            # Only the number: the frame of a session that has received nothing is another test's.
            numbers = [] if data is None else [peer.opener.open(data, 1 + len(peer.peer_id), last + 1)[1]]
        elif act == "control":
            number = peer.session.next_packet_number
            numbers = list(range(number, number + value))
            peer.session.next_packet_number = number + value
        elif act == "back" and peer.session.next_packet_number >= value:
            with pytest.raises(ConfigError):
                peer.session.next_packet_number -= value
        elif act == "ack" and last >= 0:
            peer.give(ack(max(0, last - value)))
        elif act == "keys":
            peer.update_keys()
        elif act == "idle":
            peer.session.active = not peer.session.active
        elif act == "time":
            peer.now += value / 100
        for number in numbers:
            assert number == last + 1
            last = number
    assert peer.session.next_packet_number == last + 1


# ---------------------------------------------------------------------------------------------- round trip and window

def test_the_round_trip_is_measured_as_rfc_9002_has_it(peer):
    peer.session.set_round_trip(False, 0.1, 0.1, 0.025, 0.0, 0.025, 3)
    peer.ask(1)
    peer.now += 0.04
    peer.give(ack(0))
    assert peer.session.round_trip == pytest.approx((True, 0.04, 0.04, 0.02, 0.04))
    [packet] = peer.ask(2)
    peer.now += 0.1
    # 20 ms of it were the peer's, in units of 8 µs.
    peer.give(ack(packet.number, delay=2500))
    assert peer.session.round_trip == pytest.approx((True, 0.1, 0.045, 0.025, 0.04))
    [packet] = peer.ask(3)
    peer.now += 0.1
    # No more than the peer's max_ack_delay is believed.
    peer.give(ack(packet.number, delay=1 << 40))
    assert peer.session.round_trip[2] == pytest.approx(0.875 * 0.045 + 0.125 * 0.075)
    [packet] = peer.ask(4)
    peer.now += 0.041
    # It cannot have been less than the least.
    peer.give(ack(packet.number, delay=2500))
    assert peer.session.round_trip[2] == pytest.approx(0.875 * 0.04875 + 0.125 * 0.041)
    [packet] = peer.ask(5)
    peer.now += 0.1
    # Eight seconds; of any number that is too large, max_ack_delay counts.
    peer.give(ack(packet.number, delay=1 << 20))
    assert peer.session.round_trip[2] == pytest.approx(0.875 * (0.875 * 0.04875 + 0.125 * 0.041) + 0.125 * 0.075)


def test_a_probe_restarts_the_idle_timer_as_the_first_packet_since_the_last_receipt(peer):
    peer.ask(1)
    peer.now += 1
    peer.give(PADDING)
    received = peer.now
    assert peer.session.last_activity == received
    peer.now += 2
    assert peer.session.probe(peer.now)
    assert peer.session.last_activity == peer.now
    peer.now += 2
    peer.session.probe(peer.now)
    assert peer.session.last_activity == received + 2


def test_an_ack_whose_largest_is_known_measures_nothing(peer):
    first, second = peer.ask(1), peer.ask(2)
    assert [packet.number for packet in first + second] == [0, 1]
    peer.now += 0.02
    peer.give(ack(1))
    before = peer.session.round_trip
    peer.now += 5
    peer.give(ack(1, 1))
    assert peer.session.in_flight == (0, 0)
    assert peer.session.round_trip == before


def test_the_probe_waits_for_the_measured_round_trip(peer):
    peer.session.set_round_trip(False, 0.1, 0.1, 0.025, 0.0, 0.025, 3)
    peer.ask(1)
    assert peer.session.probe_at == pytest.approx(peer.now + 0.1 + 4 * 0.025 + 0.025)
    peer.now += 0.01
    peer.give(ack(0))
    peer.ask(2)
    assert peer.session.probe_at == pytest.approx(peer.now + 0.01 + 4 * 0.005 + 0.025)


def limited(window: int, threshold: int) -> Peer:
    """A peer whose answers fill the window."""
    peer = Peer()
    peer.session.set_recovery(window, 0, threshold, 0.0, False)
    while peer.ask(1)[0].messages:
        pass
    return peer


def acknowledge_all(peer: Peer) -> int:
    """How many bytes that makes."""
    _, size = peer.session.in_flight
    peer.give(ack(peer.session.next_packet_number - 1, peer.session.next_packet_number - 1))
    assert peer.session.in_flight == (0, 0)
    return size


def test_a_window_that_was_full_grows_by_what_is_acknowledged_in_slow_start():
    peer = limited(1500, 1 << 62)
    # Each acknowledged packet counts while half of the window or more is in use (RFC 9002 §7.8).
    size = acknowledge_all(peer)
    grown = peer.session.congestion[0] - 1500
    assert size // 3 < grown <= size


def test_a_window_beyond_slow_start_grows_by_a_datagram_for_each_window_acknowledged():
    peer = limited(1500, 1000)
    windows = 0
    for _ in range(40):
        before = peer.session.congestion[0]
        acknowledge_all(peer)
        assert peer.session.congestion[0] - before in (0, 1200)
        windows += peer.session.congestion[0] - before == 1200
        if windows == 2:
            break
        while peer.ask(1)[0].messages:
            pass
    assert windows >= 1


def test_a_window_that_was_no_limit_does_not_grow():
    peer = Peer(window=12000)
    for n in range(30):
        peer.ask(n)
        acknowledge_all(peer)
    assert peer.session.congestion == (12000, 1 << 62, 0.0)


def test_what_the_control_plane_has_in_flight_takes_up_the_window():
    peer = Peer()
    peer.session.set_recovery(12000, 11950, 1 << 62, 0.0, False)
    assert peer.ask(1)[0].messages == []
    peer.session.set_recovery(12000, 10000, 1 << 62, 0.0, False)
    assert peer.ask(2)[0].nonces == [2]


@pytest.mark.parametrize(("pause", "window"), [(0.5, 2400), (0.2, 1 << 19)])
def test_all_lost_for_three_probe_timeouts_is_persistent_congestion(pause, window):
    peer = Peer(probe_timeout=0.3)
    for n in range(4):
        peer.now += pause
        peer.ask(n)
    peer.now += 0.09
    peer.give(ack(3))
    assert peer.session.counts["lost"] == 3
    assert peer.session.congestion[0] == window


def test_losses_with_an_acknowledged_packet_between_them_are_no_persistent_congestion():
    peer = Peer(probe_timeout=0.3)
    for n in range(6):
        peer.now += 0.5
        peer.ask(n)
    peer.now += 0.09
    # 5 and 2 have arrived: what is lost spans 0.5 s before and behind 2, which is less than three probe timeouts.
    peer.give(ack(5, 0, (1, 0)))
    assert peer.session.counts["lost"] == 4
    assert peer.session.in_flight == (0, 0)
    assert peer.session.congestion[0] == 1 << 19


@pytest.mark.parametrize("exponent", [-1, 21])
def test_ack_delay_exponents_that_cannot_be_are_refused(peer, exponent):
    with pytest.raises(ConfigError):
        peer.session.set_round_trip(True, 0.1, 0.1, 0.1, 0.1, 0.025, exponent)


# -------------------------------------------------------------------------------------------------- header bits and keys

def test_the_spin_bit_of_the_largest_number_is_reflected(peer):
    for number, spin, expected in ((1, 1, 1), (2, 0, 0), (5, 1, 1), (4, 0, 1), (6, 0, 0)):
        [packet] = peer.give(datagram(request(number)), number, spin=spin)
        assert packet.spin == expected
        assert peer.session.spin == (bool(expected), max(number, 5) if number >= 4 else number)


def test_a_client_inverts_the_spin_bit(peer):
    peer.session.client = True
    [packet] = peer.give(datagram(request(1)), 1, spin=0)
    assert packet.spin == 1
    [packet] = peer.give(datagram(request(2)), 2, spin=1)
    assert packet.spin == 0


@pytest.mark.parametrize("reserved", [1, 2, 3])
def test_reserved_bits_of_an_authentic_packet_are_the_control_planes_business(peer, reserved):
    not_taken(peer, datagram(request(1)), reserved=reserved)


def test_a_forged_phase_bit_is_dropped_and_counted(peer):
    before = peer.state
    assert peer.give(datagram(request(1)), phase=1) == []
    assert peer.taken
    assert peer.session.counts["failed_opens"] == 1
    assert peer.session.received == before[0]
    assert peer.ask(1)


@pytest.mark.parametrize("suite", SUITES)
def test_the_next_phase_is_the_control_planes_business(suite):
    peer = Peer(suite)
    not_taken(peer, datagram(request(1)), phase=1, sealer=peer.next_sealer)
    assert peer.ask(1)
    peer.update_keys()
    [packet] = peer.ask(2)
    assert packet.phase == 1
    not_taken(peer, datagram(request(1)), phase=0, sealer=peer.next_sealer)
    peer.update_keys()
    [packet] = peer.ask(3)
    assert packet.phase == 0


def test_the_next_phases_keys_under_the_old_phase_bit_do_not_open(peer):
    peer.give(datagram(request(1)), phase=0, sealer=peer.next_sealer)
    assert peer.taken
    assert peer.packets == []
    assert peer.session.counts["failed_opens"] == 1


@pytest.mark.parametrize("suite", SUITES)
def test_a_packet_of_the_last_phase_that_was_overtaken_is_answered(suite):
    peer = Peer(suite)
    peer.ask(1, number=5)
    last = peer.sealer
    peer.update_keys()
    # None of the new phase came yet: any number may be the last phase's (RFC 9001 §6.5).
    [packet] = peer.give(datagram(request(2)), 9, phase=0, sealer=last)
    assert (packet.nonces, packet.phase) == ([2], 1)
    peer.ask(3, number=12)
    [packet] = peer.give(datagram(request(4)), 10, phase=0, sealer=last)
    assert packet.nonces == [4]
    assert peer.session.counts["failed_opens"] == 0
    # One that is newer than a packet of the new phase cannot be sealed with the old keys.
    assert peer.give(datagram(request(5)), 13, phase=0, sealer=last) == []
    assert peer.taken
    assert peer.session.counts["failed_opens"] == 1


def test_the_keys_of_the_last_phase_are_kept_for_three_probe_timeouts(peer):
    peer.recover(1 << 20, probe_timeout=0.4)
    last = peer.sealer
    peer.update_keys()
    peer.now += 1.19
    assert peer.give(datagram(request(1)), 1, phase=0, sealer=last)
    peer.now += 0.02
    assert peer.give(datagram(request(2)), 2, phase=0, sealer=last) == []
    assert peer.session.counts["failed_opens"] == 1


def test_the_next_phase_is_seen_while_the_last_ones_keys_are_kept(peer):
    peer.update_keys()
    not_taken(peer, datagram(request(1)), phase=0, sealer=peer.next_sealer)
    assert peer.ask(2)
    not_taken(peer, datagram(request(3)), phase=0, sealer=peer.next_sealer)


def test_a_forged_packet_from_anywhere_is_dropped_and_counted(peer):
    data = bytearray(peer.seal(datagram(request(1))))
    data[-1] ^= 1
    for count, remote in enumerate((peer.remote, pack_address("192.0.2.9", 9)), 1):
        assert peer.deliver(bytes(data), remote=remote) == []
        assert peer.taken
        assert peer.session.counts["failed_opens"] == peer.data_plane.forged == count
    assert (peer.data_plane.taken, peer.data_plane.duplicates) == (0, 0)


def test_a_copy_of_an_old_packet_from_elsewhere_proves_nothing(peer):
    data = peer.seal(datagram(request(1)))
    assert peer.deliver(data)
    assert peer.deliver(data, remote=pack_address("192.0.2.9", 9)) == []
    assert peer.taken
    assert peer.session.counts["failed_opens"] == 0


def test_sealed_packets_are_counted_for_each_key(peer):
    for n in range(3):
        peer.ask(n)
    assert peer.session.counts["sealed"] == 3
    peer.update_keys()
    assert peer.session.counts["sealed"] == 0


def test_every_bit_flip_of_a_packet_is_dropped_without_a_trace(peer):
    data = peer.seal(datagram(request(1)))
    before = peer.state[:6]
    count = 0
    for bit in range(8 * len(data)):
        if bit in (6, 7) or 8 <= bit < 72:
            # Header form, fixed bit and connection ID say whose the packet is.
            continue
        forged = bytearray(data)
        forged[bit // 8] ^= 1 << bit % 8
        assert peer.deliver(bytes(forged)) == []
        assert peer.taken
        count += 1
        assert peer.state[:6] == before
    assert peer.session.counts["failed_opens"] == count
    assert peer.deliver(data)


def test_every_truncation_of_a_packet_is_dropped_without_a_trace(peer):
    data = peer.seal(datagram(request(1)))
    before = peer.state[:6]
    for size in range(9, len(data)):
        assert peer.deliver(data[:size]) == []
        assert peer.taken
        assert peer.state[:6] == before
    # Where there is no sample for the header protection, nothing is decrypted, and nothing counts towards the limit of the keys.
    assert peer.session.counts["failed_opens"] == len(data) - (1 + 8 + 4 + 16)
    for size in range(9):
        assert peer.deliver(data[:size]) == []
        assert not peer.taken
    assert peer.deliver(data)


def test_a_packet_without_the_fixed_bit_is_dropped_even_if_it_opens(peer):
    """RFC 9000 §17.3.1: it is no packet of this version."""
    header = bytes([0x03]) + peer.id + bytes(4)
    assert peer.deliver(peer.sealer.protect(header, 0, datagram(request(1)))) == []
    assert peer.taken
    assert peer.data_plane.forged == 1
    assert peer.session.received[0] == -1


@pytest.mark.parametrize("bit", [0x80])
def test_another_header_form_is_not_taken(peer, bit):
    data = bytearray(peer.seal(datagram(request(1))))
    data[0] ^= bit
    before = peer.state
    assert peer.deliver(bytes(data)) == []
    assert not peer.taken
    assert peer.state == before


# --------------------------------------------------------------------------------------------------------------- paths

OTHER_PATHS = {
    "another port": (pack_address("192.0.2.2", 40001), LOCAL),
    "another address": (pack_address("192.0.2.3", 40000), LOCAL),
    "another family": (pack_address("2001:db8::1", 40000), LOCAL),
    "another address of ours": (REMOTE, b"\xc0\x00\x02\x02"),
    "no address of ours": (REMOTE, b"", 0.0),
    "no remote address": (b"", LOCAL),
    "a longer address of ours": (REMOTE, LOCAL + bytes(16)),
    "a longer remote address": (REMOTE + bytes(4), LOCAL),
}


@pytest.mark.parametrize("path", OTHER_PATHS.values(), ids=OTHER_PATHS)
def test_a_packet_from_another_path_is_not_taken(peer, path):
    before = peer.state
    assert peer.deliver(peer.seal(datagram(request(1))), remote=path[0], local=path[1]) == []
    assert not peer.taken
    assert peer.state == before


@pytest.mark.parametrize("size", [0, 1, 8, 20])
def test_answers_go_to_the_peers_connection_id_of_any_length(size):
    peer = Peer(peer_id=bytes(range(size)))
    [packet] = peer.ask(1)
    assert packet.nonces == [1]


def test_a_new_path_is_served_and_the_old_one_is_not(peer):
    peer.ask(1)
    peer.session.set_path(pack_address("2001:db8::1", 1), bytes(20), b"new")
    peer.ask(2)
    assert not peer.taken
    peer.remote, peer.local, peer.peer_id = pack_address("2001:db8::1", 1), bytes(20), b"new"
    [packet] = peer.ask(3)
    assert packet.nonces == [3]


def test_an_inactive_session_takes_nothing(peer):
    peer.session.active = False
    not_taken(peer, datagram(request(1)))
    data = bytearray(peer.seal(datagram(request(1))))
    data[-1] ^= 1
    peer.deliver(bytes(data))
    assert not peer.taken


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.set_protection(0x1304, bytes(16), bytes(16)),
        lambda s: s.set_protection(0x1301, bytes(15), bytes(16)),
        lambda s: s.set_protection(0x1302, bytes(32), bytes(16)),
        lambda s: s.set_keys(0, bytes(32), bytes(12), bytes(16), bytes(12), bytes(16), bytes(12), 0.0),
        lambda s: s.set_keys(0, bytes(16), bytes(12), bytes(15), bytes(12), bytes(16), bytes(12), 0.0),
        lambda s: s.set_keys(0, bytes(16), bytes(12), bytes(16), bytes(12), bytes(32), bytes(12), 0.0),
        lambda s: s.set_keys(0, bytes(16), bytes(11), bytes(16), bytes(12), bytes(16), bytes(12), 0.0),
        lambda s: s.set_keys(0, bytes(16), bytes(12), bytes(16), bytes(13), bytes(16), bytes(12), 0.0),
        lambda s: s.set_keys(0, bytes(16), bytes(12), bytes(16), bytes(12), bytes(16), b"", 0.0),
        lambda s: s.set_path(bytes(29), b"", b""),
        lambda s: s.set_path(b"", bytes(21), b""),
        lambda s: s.set_path(b"", b"", bytes(21)),
    ],
)
def test_what_has_another_size_is_refused(peer, call):
    with pytest.raises(ConfigError):
        call(peer.session)
    assert peer.ask(1)


def test_a_session_without_keys_does_not_become_active():
    session = Session()
    with pytest.raises(ConfigError):
        session.active = True
    session.set_protection(0x1301, bytes(16), bytes(16))
    with pytest.raises(ConfigError):
        session.active = True
    assert not session.active
    session.active = False
    assert session.open(b"\x40" + bytes(60), 0.0) is None
    assert session.seal([b"message"], 0.0) is None


def test_keys_without_header_protection_are_refused():
    with pytest.raises(ConfigError):
        Session().set_keys(0, bytes(16), bytes(12), bytes(16), bytes(12), bytes(16), bytes(12), 0.0)


# ----------------------------------------------------------------------------------------------------------- T3 and T2

def test_no_answer_where_the_clock_went_back_before_t2(peer):
    [packet] = peer.deliver(peer.seal(datagram(request(1))), received_ns=peer.clock_ns + 1)
    assert packet.messages == []
    assert packet.acked == [0]
    assert peer.session.in_flight == (0, 0)
    assert (peer.data_plane.answered, peer.data_plane.held_back, peer.data_plane.stepped_back) == (0, 0, 1)
    [packet] = peer.deliver(peer.seal(datagram(request(2))), received_ns=peer.clock_ns)
    assert packet.nonces == [2]


# ------------------------------------------------------------------------------------------------------ the client's end

def client_peer() -> Peer:
    peer = Peer(remote=b"", local=b"")
    peer.session.client = True
    return peer


def test_a_client_gets_the_messages_of_a_packet():
    peer = client_peer()
    assert peer.session.open(peer.seal(datagram(b"one") + datagram(b"") + b"\x30two"), peer.now) == [b"one", b"", b"two"]
    assert peer.session.received[:3] == (0, peer.now, 1)


def test_a_client_gets_nothing_of_a_duplicate_or_a_forged_packet():
    peer = client_peer()
    data = peer.seal(datagram(b"one"))
    forged = data[:-1] + bytes([data[-1] ^ 1])
    assert peer.session.open(forged, peer.now) == []
    assert peer.session.open(data, peer.now) == [b"one"]
    assert peer.session.open(data, peer.now) == []


def test_a_client_acknowledges_a_ping_when_its_time_has_come():
    peer = client_peer()
    assert peer.session.open(peer.seal(PING), peer.now) == []
    assert peer.session.ack_wanted
    assert peer.session.seal([b"message"], peer.now)
    assert not peer.session.ack_wanted
    assert peer.session.open(peer.seal(PADDING), peer.now) == []
    assert not peer.session.ack_wanted


def test_a_client_drops_what_is_too_much_work():
    peer = client_peer()
    assert peer.session.open(peer.seal(b"\x1e" * 33), peer.now) == []
    assert peer.session.counts["excessive"] == 1
    assert peer.session.received[0] == -1


@pytest.mark.parametrize("frames", [b"\x1e", datagram(b"one") + b"\x1e", ack(5), b"\x31\x05one"])
def test_a_client_leaves_other_packets_to_the_control_plane(frames):
    peer = client_peer()
    before = peer.state
    assert peer.session.open(peer.seal(frames), peer.now) is None
    assert peer.state == before


@pytest.mark.parametrize("data", [b"", b"\x40", b"\x40" + bytes(7), b"\xc0" + bytes(100)])
def test_a_client_leaves_what_is_no_short_header_to_the_control_plane(data):
    assert client_peer().session.open(data, 0.0) is None


# -------------------------------------------------------------------------------------- and then the control plane has it

@pytest.fixture
def world(certificates) -> World:
    return World(certificates, data_plane=True)


@pytest.fixture
def client(world) -> ForeignClient:
    client = ForeignClient(world)
    world.run(2.0)
    assert len(client.ask(request(999))) == 1
    assert world.data_plane.taken > 0
    return client


def inject(world: World, client: ForeignClient, frames: bytes, *, reserved: int = 0, seconds: float = 0.2) -> int:
    """A packet of the client's with these frames; how many of them the data plane took."""
    quic = client.quic
    taken = world.data_plane.taken
    keys = next(crypto for epoch, crypto in quic._cryptos.items() if epoch.name == "ONE_RTT")
    number = quic._packet_number
    quic._packet_number += 1
    first = 0x43 | reserved << 3 | keys.key_phase << 2
    header = bytes([first]) + quic._peer_cid.cid + number.to_bytes(4, "big")
    data = keys.encrypt_packet(header, frames, number)
    world.deliver_to_server(data)
    taken = world.data_plane.taken - taken
    world.run(seconds)
    return taken


ANSWERED = {
    "a padding TLV": [datagram(request(1) + b"\xf8\x04" + bytes(4))],
    "unknown TLV": [datagram(request(1) + b"\x09\x01x")],
    "metadata": [datagram(request(1) + b"\xfd\x08\x06tsq.t4\x00")],
    "16 requests with a TLV": [datagram(request(n) + b"\x09\x00") for n in range(16)],
    "two ACK frames": [ack(0), ack(1), datagram(request(1))],
    "MAX_DATA": [b"\x10\x80\x7f\xff\xff", datagram(request(1))],
    "PING in a longer form": [datagram(request(1)), PING],
}


@pytest.mark.parametrize("frames", ANSWERED.values(), ids=ANSWERED)
def test_a_request_that_is_not_taken_is_answered_by_the_control_plane(world, client, frames):
    before = len(client.datagram_messages)
    taken = inject(world, client, b"".join(frames))
    expected = [nonce_of(frame[2:]) for frame in frames if frame[:1] == b"\x31"]
    assert taken == (1 if frames[-1] == PING else 0)
    assert [nonce_of(message) for message in client.datagram_messages[before:]] == expected
    assert client.end is None
    # And the data plane goes on.
    assert len(client.ask(request(5))) == 1
    assert world.router.connections[0].plane.active


def test_a_stream_beside_a_request_is_answered_by_the_control_plane(world, client):
    before = len(client.datagram_messages)
    assert client.open() == 0
    assert inject(world, client, datagram(request(1)) + b"\x0b\x00\x12" + request(2)) == 0
    assert [nonce_of(message) for message in client.datagram_messages[before:]] == [1]
    assert nonce_of(client.streams[0]) == 2


@pytest.mark.parametrize("message", [request(1)[:-1], request(1) + b"\x09\x01x"])
def test_a_malformed_request_does_not_end_the_connection(world, client, message):
    assert inject(world, client, datagram(request(1)[:-1])) == 1
    assert world.data_plane.malformed == 1
    assert len(client.ask(request(5))) == 1


def test_metadata_that_does_not_hold_its_parts_is_counted_by_the_control_plane(world, client):
    assert inject(world, client, datagram(request(1) + b"\xfd\x02\x09x")) == 0
    assert world.counters.get("unanswered", "malformed request") == 1
    assert len(client.ask(request(5))) == 1


VIOLATIONS = {
    "unknown frame": (b"\x21", 0, 0x07),
    "a length past the end": (b"\x31\x13" + request(1), 0, 0x07),
    "negative ACK": (ack(0, 1), 0, 0x07),
    "a packet without frames": (b"", 0, 0x0A),
    "reserved bits": (datagram(request(1)), 1, 0x0A),
    "HANDSHAKE_DONE": (b"\x1e", 0, 0x0A),
    "ACK of a number never sent": (ack(1 << 20), 0, 0x0A),
    "ACK of a number never sent, with a request": (ack(1 << 20) + datagram(request(1)), 0, 0x0A),
}


@pytest.mark.parametrize("data_plane", [True, False])
@pytest.mark.parametrize("violation", VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_protocol_error_ends_the_connection_as_without_a_data_plane(certificates, violation, data_plane):
    frames, reserved, code = violation
    world = World(certificates, data_plane=data_plane)
    client = ForeignClient(world)
    world.run(2.0)
    if not data_plane:
        world.data_plane = DataPlane()  # an empty table, so that there is a count to read
    assert inject(world, client, frames, reserved=reserved, seconds=2.0) == 0
    assert client.end is not None
    assert client.end.error_code == code
    assert CLIENT in world._sessions
    assert not client.datagram_messages


def test_a_session_takes_four_kibibytes_at_the_most():
    assert 1024 < STATE_SIZE <= 4096


def test_a_client_acknowledges_without_a_message():
    peer = client_peer()
    assert peer.session.acknowledge(peer.now) is None
    assert peer.session.open(peer.seal(PING), peer.now) == []
    packet = peer.open(peer.session.acknowledge(peer.now))
    assert (packet.acked, packet.messages) == ([0], [])
    assert not peer.session.ack_wanted
    # Nobody acknowledges it: it takes no room in the window, and is not probed for.
    assert peer.session.in_flight == (0, 0)
    peer.session.active = False
    assert peer.session.acknowledge(peer.now) is None
