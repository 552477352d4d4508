"""The habits of deployed clients: no FIN, acknowledgments that wait for the next request, few reads for each request.

They are lived here by a plain aioquic connection, over a real socket, or in virtual time where a second must be a second.
"""

import time
from itertools import pairwise

import pytest
from aioquic.quic.connection import QuicConnection

from tests.integration.peers import aioquic_client, assert_answers, new_request
from tests.support.world import World
from tsq.options import Trust
from tsq.quic import tls

# How many datagrams the deployed client reads for each request.
READS = 10
# The least time after which a server may probe for an acknowledgment: max_ack_delay (RFC 9002 §6.2.1).
PROBE_TIMEOUT = 0.025


@pytest.fixture
def client(server_process, certificates):
    """A plain aioquic client whose handshake is done; what the server sends after it may not have been read."""
    with aioquic_client(server_process.target, certificates) as running:
        running.wait("HandshakeCompleted")
        running.flush()
        yield running


def stream_events(events, stream_id):
    return [e for e in events if type(e).__name__ == "StreamDataReceived" and e.stream_id == stream_id]


def datagram_events(events):
    return [e.data for e in events if type(e).__name__ == "DatagramFrameReceived"]


def test_stream_request_without_fin_gets_the_whole_response_and_fin_in_one_read(client):
    request, stream_id = client.ask_on_stream(end=False)
    event = client.wait("StreamDataReceived", stream_id=stream_id)
    # The first read of the stream returns the whole response.
    assert_answers(event.data, request)
    assert event.end_stream


def test_stream_request_in_pieces_is_answered_once_it_is_whole(client):
    request = new_request()
    stream_id = client.quic.get_next_available_stream_id()
    for piece in (request[:1], request[1:2], request[2:17]):
        client.quic.send_stream_data(stream_id, piece)
        client.flush()
        # An exchange in between, so that the server has handled the first piece.
        client.exchange()
        assert not stream_events(client.events, stream_id)
    client.quic.send_stream_data(stream_id, request[17:])
    client.flush()
    event = client.wait("StreamDataReceived", stream_id=stream_id)
    assert_answers(event.data, request)
    assert event.end_stream


def test_stream_credit_does_not_run_out_for_a_client_that_never_sends_fin(client):
    for _ in range(40):
        request, stream_id = client.ask_on_stream(end=False)
        event = client.wait("StreamDataReceived", stream_id=stream_id)
        assert_answers(event.data, request)
        assert event.end_stream


def test_stream_credit_does_not_run_out_for_a_client_that_sends_fin(client):
    for _ in range(40):
        request, stream_id = client.ask_on_stream(end=True)
        assert_answers(client.wait("StreamDataReceived", stream_id=stream_id).data, request)


@pytest.mark.parametrize("end", [True, False])
def test_more_streams_at_once_than_the_credit_are_answered_in_the_end(client, end):
    asked = [client.ask_on_stream(end) for _ in range(40)]
    for request, stream_id in asked:
        assert_answers(client.wait("StreamDataReceived", stream_id=stream_id).data, request)


def test_one_read_for_each_request_is_enough_from_the_second_request_on(client):
    client.exchange()
    read = time.monotonic()
    for _ in range(20):
        request = client.ask()
        before, read = read, time.monotonic()
        events = client.read()
        while not events and time.monotonic() - before > PROBE_TIMEOUT:
            events = client.read()  # one of the two was kept waiting, and the server looked whether the client is still there
        [answer] = datagram_events(events)
        assert_answers(answer, request)


def test_ten_reads_are_enough_for_each_stream_request(client):
    for _ in range(20):
        request, stream_id = client.ask_on_stream(end=False)
        events = []
        for _ in range(READS):
            events += stream_events(client.read(), stream_id)
            if events:
                break
        [event] = events
        assert_answers(event.data, request)
        assert event.end_stream


def test_ten_reads_are_enough_for_the_first_datagram_request(client):
    request = client.ask()
    answers = []
    for _ in range(READS):
        answers += datagram_events(client.read())
        if answers:
            break
    [answer] = answers
    assert_answers(answer, request)


class ProbingClient:
    """Asks once a second, acknowledges with its next request only, and reads at most ten datagrams for each request."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.quic = QuicConnection(
            configuration=tls.client_configuration("localhost", Trust(ca_file=str(world.certificates.authority)))
        )
        self.answers: list[bytes] = []
        self.requests: list[bytes] = []
        self._read = 0
        self.quic.connect(("server", 443), world.now)
        self.send()
        self.handshake()

    def handshake(self) -> None:
        """Read and send until the handshake is done."""
        while True:
            names = self.read()
            if "HandshakeCompleted" in names:
                return
            assert self.unread or names, "the handshake does not go on"
            self.send()

    @property
    def unread(self) -> list[bytes]:
        return [data for side, data in self.world.sent if side == "server"][self._read :]

    def read(self, reads: int = READS) -> list[str]:
        """Read at most this many datagrams. Returns the names of the events."""
        names = []
        for data in self.unread[:reads]:
            self._read += 1
            self.quic.receive_datagram(data, ("server", 443), self.world.now)
            while (event := self.quic.next_event()) is not None:
                names.append(type(event).__name__)
                self.answers += datagram_events([event])
        return names

    def probe(self, seconds: float = 1.0, reads: int = READS) -> None:
        """Send one request, wait one second, and read."""
        request = new_request()
        self.requests.append(request)
        self.quic.send_datagram_frame(request)
        self.send()
        self.world.run(seconds)
        self.read(reads)

    def send(self) -> None:
        for data, _ in self.quic.datagrams_to_send(self.world.now):
            self.world.deliver_to_server(data)


@pytest.fixture
def world(certificates):
    return World(certificates)


def sent_times(world):
    """Records when the server sends from now on, in seconds since now."""
    times = []
    begin = world.now_ns

    def record(data, number):
        times.append((world.now_ns - begin) / 1e9)
        return [1_000_000]

    world.to_client = record
    return times


def test_client_that_acknowledges_late_gets_every_answer_within_ten_reads(world):
    client = ProbingClient(world)
    for number in range(60):
        client.probe()
        assert len(client.answers) == number + 1
        assert not client.unread
    for request, answer in zip(client.requests, client.answers, strict=True):
        assert_answers(answer, request)


def test_client_that_acknowledges_late_is_sent_at_most_ten_datagrams_a_second(world):
    client = ProbingClient(world)
    for _ in range(60):
        times = sent_times(world)
        client.probe()
        assert 1 <= len(times) <= READS, times


def test_each_probe_timeout_sends_one_datagram_and_the_next_comes_later(world):
    client = ProbingClient(world)
    for _ in range(10):
        times = sent_times(world)
        client.probe()
        # The answer, at once. Then one datagram for each probe time-out, with growing intervals.
        assert times[0] == 0.0
        probes = times[1:]
        assert len(set(probes)) == len(probes)
        gaps = [later - earlier for earlier, later in pairwise(probes)]
        assert gaps == sorted(gaps)


def test_probes_become_rare_once_the_server_knows_how_late_acknowledgments_are(world):
    client = ProbingClient(world)
    for _ in range(20):
        client.probe()
    times = sent_times(world)
    for _ in range(20):
        client.probe()
    assert len(times) <= 2 * 20


def test_client_that_never_comes_back_is_sent_little_and_forgotten(world):
    client = ProbingClient(world)
    client.probe()
    times = sent_times(world)
    world.run(60.0)
    assert len(times) <= READS
    assert not world.router.connections
    assert not world.counters.get("unsent")


@pytest.mark.parametrize("together", [True, False])
def test_few_datagrams_follow_the_handshake(world, together):
    client = ProbingClient(world)
    assert not client.unread
    times = sent_times(world)
    if not together:
        client.send()
        world.run(0.01)  # before any probe time-out
    client.probe()
    # Confirmation, ticket and connection IDs, perhaps an acknowledgment; the answer. One for all if the request came along.
    assert sum(time <= 0.01 for time in times) <= (1 if together else 3)
    assert len(client.answers) == 1
    assert len(times) <= READS


def test_one_read_for_each_request_is_enough_for_a_quick_client(world):
    client = ProbingClient(world)
    client.probe(seconds=0.02)
    for number in range(1, 50):
        client.probe(seconds=0.02, reads=1)
        assert len(client.answers) == number + 1
        assert not client.unread


def test_one_datagram_answers_one_request_in_virtual_time(world):
    client = ProbingClient(world)
    client.probe()
    for _ in range(20):
        times = sent_times(world)
        client.probe()
        assert times.count(0.0) == 1
