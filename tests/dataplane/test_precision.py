"""Precision Mode in the data plane (docs/reference/protocol.md R7): the control plane's answers, as large as the requests."""

import socket
from collections.abc import Iterator

import pytest

from tests.dataplane.peer import PING, Peer, ack, datagram, request
from tests.support import oracle
from tsq._fast import MOST_MESSAGE, clock_ns, pack_address
from tsq._sockets import enable_transmit_timestamps
from tsq.server.responder import Draft, Responder
from tsq.wire.message import Mode

REPORT_SIZE = 42


def precise(number: int, size: int, *, exact: bool = False) -> bytes:
    """A request of this size, which asks for an answer of the same size."""
    message = request(number, exact=exact) + b"\xfa\x00"
    gap = size - len(message)
    assert gap != 1
    while gap > 0:
        take = gap if gap <= 257 else min(257, gap - 2)
        message += bytes([254, take - 2]) + bytes(take - 2)
        gap -= take
    return message


def of_the_control_plane(message: bytes, peer: Peer, report: str = "", most: int = MOST_MESSAGE) -> bytes:
    """What the control plane answers."""
    draft = Responder().prepare(message, peer.clock_ns, Mode.DATAGRAM)
    assert isinstance(draft, Draft)
    draft = draft.within(most)
    if report and draft.exact:
        draft = draft.with_exact_t3(report)
    return draft.complete(peer.clock_ns)


def kinds_of(message: bytes) -> list[int]:
    return [kind for kind, _ in oracle.unpack_message(message)]


@pytest.fixture
def peer():
    return Peer()


@pytest.fixture
def with_report() -> Iterator[Peer]:
    """A session that has the transmit timestamp of an earlier answer to report, from the kernel."""
    peer = Peer()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        enable_transmit_timestamps(ours.fileno())
        to = pack_address(*other.getsockname())
        assert peer.data_plane.send_stamped(ours.fileno(), b"x", to, b"", peer.session, bytes(16), clock_ns()) == 1
    if not peer.data_plane.exact:
        pytest.skip("this kernel gives no transmit timestamps")
    return peer


def sizes(*, exact: bool) -> list[int]:
    """Around every edge: nothing fits, an exact T3 fits, a second and a third padding TLV."""
    edges = (40, 40 + REPORT_SIZE, 40 + 257, 40 + 257 + REPORT_SIZE, 40 + 514, 1050)
    least = 30 if exact else 20
    return sorted({size for edge in edges for size in range(edge - 4, edge + 5) if size >= least and size != least + 1})


@pytest.mark.parametrize("size", sizes(exact=False))
def test_R7_the_answer_is_the_control_planes(peer, size):
    message = precise(1, size)
    [packet] = peer.give(datagram(message))
    assert packet.messages == [of_the_control_plane(message, peer)]
    assert peer.data_plane.answered == 1
    assert peer.data_plane.shortened == 0
    promised = size >= 40 and size != 41
    assert len(packet.messages[0]) == (size if promised else 38)
    assert (250 in kinds_of(packet.messages[0])) == promised


@pytest.mark.parametrize("size", sizes(exact=True))
def test_R12_without_an_exact_t3_to_report_its_place_is_padding(peer, size):
    message = precise(2, size, exact=True)
    [packet] = peer.give(datagram(message))
    assert packet.messages == [of_the_control_plane(message, peer)]


@pytest.mark.parametrize("size", sizes(exact=True))
def test_R12_an_exact_t3_takes_the_place_of_padding(with_report, size):
    message = precise(2, size, exact=True)
    [packet] = with_report.give(datagram(message))
    [answer] = packet.messages
    promised = size >= 40 and size != 41
    has_room = not promised or (size >= 40 + REPORT_SIZE and size != 41 + REPORT_SIZE)
    assert (253 in kinds_of(answer)) == has_room
    report = dict(oracle.unpack_message(answer)).get(253, b"")[-32:].decode()
    assert answer == of_the_control_plane(message, with_report, report)
    # What had no room waits for the next answer.
    assert bool(with_report.session.report()) != has_room


def test_R7_udp_datagrams_are_equal_too(peer):
    for number in range(1, 30):
        size = 60 + 7 * number
        # The client's packet number is shorter than the server's: it pads, too.
        packet = peer.seal(datagram(precise(number, size)) + (ack(number - 2) if number > 1 else b"") + bytes(12))
        [answer] = peer.deliver(packet)
        assert answer.size == len(packet)
        assert len(answer.messages[0]) == size
        peer.now += 0.1 * number


@pytest.mark.parametrize("length", [0, 4, 8, 20])
def test_R7_udp_datagrams_are_equal_for_connection_ids_of_any_length(length):
    # The client's own ID is in the answers alone. Where it is longer than the server's, the client has to pad.
    peer = Peer(peer_id=bytes(range(length)))
    packet = peer.seal(datagram(precise(1, 80)) + bytes(30 if length > 8 else 5))
    [answer] = peer.deliver(packet)
    assert answer.size == len(packet)
    # A client that does not gets the smallest packet that there is.
    packet = peer.seal(datagram(precise(2, 80)), pn_size=1)
    [answer] = peer.deliver(packet)
    assert answer.size == max(len(packet), 1 + length + 4 + 5 + 3 + 80 + 16)


def test_R7_a_packet_with_other_requests_is_made_as_large_as_it_came(peer):
    packet = peer.seal(datagram(request(1)) + datagram(precise(2, 300)) + PING * 200)
    [answer] = peer.deliver(packet)
    assert answer.size == len(packet)
    assert [len(message) for message in answer.messages] == [38, 300]


def test_R7_plain_requests_are_not_padded(peer):
    packet = peer.seal(datagram(request(1)) + PING * 300)
    [answer] = peer.deliver(packet)
    assert answer.padding == 0
    assert answer.size < 100


def test_R7_what_cannot_have_the_promised_length_is_not_padded(peer):
    packet = peer.seal(datagram(precise(1, 39)) + PING * 300)
    [answer] = peer.deliver(packet)
    assert answer.padding == 0


def test_R7_many_requests_are_answered_in_packets_that_fit_any_path(peer):
    numbers = range(10)
    packet = peer.seal(b"".join(datagram(precise(number, 150)) for number in numbers))
    answers = peer.deliver(packet)
    assert [nonce for answer in answers for nonce in answer.nonces] == list(numbers)
    assert all(answer.size <= 1200 for answer in answers)
    assert all(len(message) == 150 for answer in answers for message in answer.messages)
    assert len(answers) == 2
    assert peer.data_plane.answered == 10


@pytest.mark.parametrize(
    ("most_frame", "size", "promised"), [(500, 497, True), (500, 498, False), (128, 125, True), (128, 200, False)]
)
def test_an_answer_over_the_peers_limit_has_no_padding_and_is_counted(peer, most_frame, size, promised):
    peer.session.most_frame = most_frame
    message = precise(1, size)
    [packet] = peer.give(datagram(message))
    assert packet.messages == [of_the_control_plane(message, peer, most=most_frame - 3)]
    assert len(packet.messages[0]) == (size if promised else 38)
    assert peer.data_plane.shortened == (not promised)
    assert peer.data_plane.answered == 1


@pytest.mark.parametrize(("size", "promised"), [(1100, True), (1102, False), (1400, False)])
def test_an_answer_over_the_path_mtu_has_no_padding_and_is_counted(peer, size, promised):
    message = precise(1, size)
    packet = peer.seal(datagram(message))
    [answer] = peer.deliver(packet)
    assert answer.messages == [of_the_control_plane(message, peer)]
    assert len(answer.messages[0]) == (size if promised else 38)
    assert answer.size <= 1200
    assert peer.data_plane.shortened == (not promised)


def test_a_long_ack_frame_leaves_a_large_answer_no_room(peer):
    # Packets with gaps: the ACK frame has many ranges.
    for number in range(0, 120, 2):
        peer.give(PING, number)
    [answer] = peer.deliver(peer.seal(datagram(precise(1, 1100)), 121))
    assert answer.size <= 1200
    assert len(answer.messages[0]) == 38
    assert peer.data_plane.shortened == 1
    assert peer.data_plane.answered == 1


def test_an_answer_counts_for_the_congestion_window_with_its_padding():
    peer = Peer(window=600)
    [first] = peer.deliver(peer.seal(datagram(precise(1, 450))))
    assert len(first.messages) == 1
    assert peer.session.in_flight == (1, first.size)
    # The window has no room for another one: it is dropped, and acknowledged.
    [second] = peer.deliver(peer.seal(datagram(precise(2, 450))))
    assert second.messages == []
    assert peer.data_plane.held_back == 1


def test_the_peers_limit_outlives_a_rest(peer):
    peer.session.most_frame = 300
    peer.data_plane.rest(peer.session, [peer.id], b"", 30.0, peer.now)
    [packet] = peer.deliver(peer.seal(datagram(precise(1, 200))))
    assert len(packet.messages[0]) == 200
    [packet] = peer.deliver(peer.seal(datagram(precise(2, 298))))
    assert len(packet.messages[0]) == 38
    peer.session, _, _ = peer.data_plane.wake(peer.id)
    assert peer.session.most_frame == 300
