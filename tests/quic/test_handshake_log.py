"""The log of failed handshakes: it names the client and the TLS alert, stays short in a flood, and shows no raw bytes."""

import logging

import pytest
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicErrorCode

from tests.support.foreign import ForeignClient, path
from tests.support.world import World
from tsq._fast import pack_address
from tsq.errors import CertificateError
from tsq.quic.handshake_log import HandshakeLog
from tsq.quic.limits import Limits
from tsq.quic.selfsigned import self_signed
from tsq.quic.udp import CONNECTED, NetworkPath

NOT_OUR_PROTOCOL = ConnectionTerminated(QuicErrorCode.CRYPTO_ERROR + 120, 6, "No common ALPN protocols")


@pytest.fixture
def lines(caplog):
    """The lines at level info and above, as they are written."""
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("tsq")]


@pytest.mark.parametrize(
    ("packed", "text"),
    [
        (pack_address("192.0.2.1", 4433), "192.0.2.1:4433"),
        (pack_address("::1", 4433), "[::1]:4433"),
        (b"", "the connected peer"),
    ],
)
def test_a_path_is_written_as_the_peers_address(packed, text):
    assert str(NetworkPath(packed, b"")) == text
    assert str(CONNECTED) == "the connected peer"


def test_a_client_that_speaks_another_protocol_is_logged_with_its_address_and_the_alert(certificates, lines):
    world = World(certificates)
    ForeignClient(world, where=path(1), alpn_protocols=["h3"])
    world.run(10)
    assert lines() == ["handshake with 192.0.2.7:41001 failed: TLS alert 120 (no_application_protocol), 'No common ALPN protocols'"]


def test_a_client_that_rejects_the_certificate_is_logged_with_the_alert_that_it_sent(certificates, tmp_path, lines):
    world = World(certificates)
    world.certificates = self_signed(str(tmp_path), ["localhost"])
    session = world.channel(path=path(1))
    world.run(10)
    assert isinstance(session.error, CertificateError)
    assert lines() == ["handshake with 192.0.2.7:41001 failed: TLS alert 42 (bad_certificate), 'the certificate was refused'"]


def test_a_client_that_goes_silent_is_logged(certificates, lines):
    world = World(certificates, limits=Limits(handshake_timeout=2.0))
    world.to_client = lambda data, number: []
    client = ForeignClient(world, where=path(1))
    world.to_server = lambda data, number: []
    world.run(10)
    assert not client.established
    assert lines() == ["1 handshake not finished in time, the last with 192.0.2.7:41001"]


def test_a_handshake_that_succeeds_is_not_logged(certificates, lines):
    world = World(certificates)
    client = ForeignClient(world)
    assert client.established
    world.run(100)
    assert lines() == []


def test_a_flood_of_failures_is_ten_lines_and_one_a_second_and_says_how_many_are_missing(lines):
    log = HandshakeLog()
    for number in range(1000):
        log.failed("192.0.2.1:4433", NOT_OUR_PROTOCOL, number / 1000)
    assert len(lines()) == 10
    log.failed("192.0.2.1:4433", NOT_OUR_PROTOCOL, 2.0)
    assert lines()[-1].endswith("(990 more are not listed)")
    log.failed("192.0.2.1:4433", NOT_OUR_PROTOCOL, 3.0)
    assert lines()[-1].endswith("'No common ALPN protocols'")


def test_a_flood_of_silent_clients_is_a_line_in_ten_seconds_and_hides_no_alert(lines):
    log = HandshakeLog()
    for number in range(1000):
        log.failed("192.0.2.1:4433", None, number / 100)
    log.failed("192.0.2.9:4433", NOT_OUR_PROTOCOL, 9.0)
    assert len(lines()) == 2
    log.failed("192.0.2.1:4433", None, 10.0)
    assert lines()[-1] == "1000 handshakes not finished in time, the last with 192.0.2.1:4433"


def test_text_of_a_peer_is_quoted_and_cut(lines):
    log = HandshakeLog()
    text = "a\nERROR: b\x1b[2J\u202e" + "x" * 999
    log.failed("192.0.2.1:4433", ConnectionTerminated(QuicErrorCode.CRYPTO_ERROR + 42, None, text), 0.0)
    (line,) = lines()
    assert line.startswith(r"handshake with 192.0.2.1:4433 failed: TLS alert 42 (bad_certificate), 'a\nERROR: b\x1b[2J\u202exxx")
    assert line.isprintable()
    assert len(line) < 200


@pytest.mark.parametrize(
    ("code", "text"),
    [(0x1FE, "TLS alert 254 (unknown)"), (0xA, "QUIC error 0xa (PROTOCOL_VIOLATION)"), (0x4242, "QUIC error 0x4242 (unknown)")],
)
def test_every_code_has_a_line(lines, code, text):
    HandshakeLog().failed("[::1]:4433", ConnectionTerminated(code, None, ""), 0.0)
    assert lines() == [f"handshake with [::1]:4433 failed: {text}, ''"]


def test_lines_of_aioquic_are_printable_and_show_addresses_as_people_write_them(certificates, caplog):
    caplog.set_level(logging.DEBUG, logger="quic")
    world = World(certificates)
    client = ForeignClient(world, where=path(1))
    client.quic.close(error_code=1, reason_phrase="gone\nERROR: \x1b[2J")
    world.pump(client)
    world.run(5)
    texts = [record.getMessage() for record in caplog.records if record.name == "quic"]
    assert any("reason gone\\nERROR: \\x1b[2J" in text for text in texts)
    assert any("Network path 192.0.2.7:41001 discovered" in text for text in texts)
    assert [text for text in texts if not text.isprintable()] == []
