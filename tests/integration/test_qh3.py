"""TSQ's server with a client on qh3, a QUIC stack with a core of its own, controlled by the test."""

from typing import Any

import pytest

from tests.integration.peers import RawClient, assert_answers, new_request
from tests.support.processes import ServerProcess

pytestmark = pytest.mark.foreign

configuration = pytest.importorskip("qh3.quic.configuration", reason="qh3 is not installed")
connection = pytest.importorskip("qh3.quic.connection", reason="qh3 is not installed")


@pytest.fixture
def qh3_client(server_process, certificates):
    """Makes a client that verifies the server: (ALPN offered, ticket to resume with, where tickets go, more configuration)."""

    def make(
        alpn: str = "tsq/1", ticket: Any = None, tickets: list[Any] | None = None, server: Any = server_process, **more: Any
    ) -> RawClient:
        settings = configuration.QuicConfiguration(
            is_client=True, alpn_protocols=[alpn], server_name="localhost", session_ticket=ticket,
            **{"max_datagram_frame_size": 65535, **more},
        )
        settings.load_verify_locations(cafile=str(certificates.authority))
        keep = [] if tickets is None else tickets
        return RawClient(
            connection.QuicConnection(configuration=settings, session_ticket_handler=keep.append), server.target
        )

    return make


@pytest.mark.parametrize("alpn", ["tsq/1", "tsq"])
def test_handshake_agrees_on_tsq(qh3_client, alpn):
    with qh3_client(alpn) as client:
        done = client.wait("HandshakeCompleted")
        assert (done.alpn_protocol, done.session_resumed, done.early_data_accepted) == (alpn, False, False)


def test_exchanges_as_datagram_frames(qh3_client, server_process):
    with qh3_client() as client:
        client.wait("HandshakeCompleted")
        for _ in range(50):
            client.exchange()
    server_process.stop()
    assert "requests: datagram: 50" in server_process.errors
    assert "retries" not in server_process.errors


def test_requests_of_one_packet_are_all_answered(qh3_client):
    with qh3_client() as client:
        client.wait("HandshakeCompleted")
        client.exchange()
        requests = [new_request() for _ in range(8)]
        for request in requests:
            client.quic.send_datagram_frame(request)
        client.flush()
        for request in requests:
            assert_answers(client.wait("DatagramFrameReceived").data, request)


@pytest.mark.parametrize("end", [True, False])
def test_exchanges_on_streams(qh3_client, end):
    with qh3_client() as client:
        client.wait("HandshakeCompleted")
        for _ in range(30):
            request, stream_id = client.ask_on_stream(end)
            event = client.wait("StreamDataReceived", stream_id=stream_id)
            assert_answers(event.data, request)
            assert event.end_stream


def test_both_modes_on_one_connection(qh3_client):
    with qh3_client() as client:
        client.wait("HandshakeCompleted")
        client.exchange()
        request, stream_id = client.ask_on_stream(end=True)
        assert_answers(client.wait("StreamDataReceived", stream_id=stream_id).data, request)
        client.exchange()


def test_client_that_takes_no_datagrams_is_answered_on_streams(qh3_client):
    with qh3_client(max_datagram_frame_size=None) as client:
        client.wait("HandshakeCompleted")
        request, stream_id = client.ask_on_stream(end=True)
        assert_answers(client.wait("StreamDataReceived", stream_id=stream_id).data, request)


def test_resumption(qh3_client, server_process):
    tickets: list[Any] = []
    with qh3_client(tickets=tickets) as client:
        client.wait("HandshakeCompleted")
        client.exchange()
    assert tickets
    with qh3_client(ticket=tickets[0]) as client:
        assert client.wait("HandshakeCompleted").session_resumed is True
        client.exchange()
    # The server takes a ticket once.
    with qh3_client(ticket=tickets[0]) as client:
        assert client.wait("HandshakeCompleted").session_resumed is False
        client.exchange()
    server_process.stop()
    assert "handshakes: resumed: 1" in server_process.errors
    assert "handshakes: full: 2" in server_process.errors


def test_another_alpn_is_refused(qh3_client):
    with qh3_client("h3") as client:
        # CRYPTO_ERROR with the TLS alert no_application_protocol.
        assert client.wait("ConnectionTerminated").error_code == 0x178


def test_connection_goes_on_over_a_key_update(qh3_client):
    with qh3_client() as client:
        client.wait("HandshakeCompleted")
        for _ in range(3):
            client.exchange()
            client.quic.request_key_update()
            client.exchange()


def test_connection_goes_on_under_another_connection_id(qh3_client):
    with qh3_client() as client:
        client.wait("HandshakeCompleted")
        client.exchange()
        client.quic.change_connection_id()
        client.exchange()


def test_connections_are_closed_when_the_server_ends(qh3_client, server_process):
    with qh3_client() as client:
        client.wait("HandshakeCompleted")
        client.exchange()
        assert server_process.stop() == 0
        end = client.wait("ConnectionTerminated")
        assert (end.error_code, end.reason_phrase) == (0, "server is shutting down")


def test_a_client_that_finds_the_server_full_is_refused_at_once(qh3_client, certificates):
    options = ["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key, "--max-connections", "1"]
    with ServerProcess(options) as server, qh3_client(server=server) as first:
        first.wait("HandshakeCompleted")
        with qh3_client(server=server) as second:
            end = second.wait("ConnectionTerminated")
    assert (end.error_code, end.reason_phrase) == (0x2, "connection limit reached")
