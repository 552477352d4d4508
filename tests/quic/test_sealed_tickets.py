"""A server's session tickets: what they hold, who can open them, and that each is used once, in memory of one size."""

import datetime
import random

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet import QuicPacketType, pull_quic_header
from aioquic.tls import CipherSuite, SessionTicket, utcnow

from tests.support.foreign import path
from tests.support.world import World
from tsq.client.channel import Channel
from tsq.quic import tls
from tsq.quic.client_connection import ClientConnection
from tsq.quic.sealed_tickets import SealedTickets, UsedTickets
from tsq.quic.secrets import Secrets

ONE, TWO = bytes(32), bytes(range(32))
SUITES = {CipherSuite.AES_128_GCM_SHA256: 32, CipherSuite.AES_256_GCM_SHA384: 48, CipherSuite.CHACHA20_POLY1305_SHA256: 32}


def made(suite: CipherSuite = CipherSuite.AES_128_GCM_SHA256, lifetime: float = 86400.0) -> SessionTicket:
    now = utcnow()
    return SessionTicket(
        age_add=1,
        cipher_suite=suite,
        not_valid_after=now + datetime.timedelta(seconds=lifetime),
        not_valid_before=now,
        resumption_secret=random.Random(suite).randbytes(SUITES[suite]),
        server_name="",
        ticket=b"aioquic's own",
    )


@pytest.fixture
def refused():
    return []


@pytest.mark.parametrize("suite", SUITES)
def test_a_ticket_is_opened_by_every_server_with_the_same_secret(suite, refused):
    ticket = made(suite)
    label = SealedTickets(Secrets([ONE])).seal(ticket, b"tsq")
    opened = SealedTickets(Secrets([ONE]), refused.append).open(label, b"tsq")
    assert (opened.cipher_suite, opened.resumption_secret) == (suite, ticket.resumption_secret)
    assert abs(opened.not_valid_after - ticket.not_valid_after) < datetime.timedelta(seconds=1)
    assert opened.is_valid
    assert refused == []


def test_a_ticket_is_small_and_shows_nothing():
    tickets, ticket = SealedTickets(Secrets([ONE])), made()
    labels = [tickets.seal(ticket, b"tsq") for _ in range(100)]
    assert {len(label) for label in labels} == {74}
    assert not any(ticket.resumption_secret[:4] in label for label in labels)
    # Only the key's number is the same in two of them.
    assert len({label[4:] for label in labels}) == 100
    assert len({label[4:16] for label in labels}) == 100


def test_a_ticket_of_another_secret_protocol_or_limits_or_a_damaged_one_is_none(refused):
    tickets = SealedTickets(Secrets([ONE]), refused.append)
    label = tickets.seal(made(), b"tsq")
    foreign = SealedTickets(Secrets([TWO])).seal(made(), b"tsq")
    wrong = [(foreign, b"tsq"), (label, b"h3"), (label, b""), (b"", b"tsq"), (label[:40], b"tsq"), (label + b"\0", b"tsq")]
    wrong += [(label[:place] + bytes([label[place] ^ 1]) + label[place + 1 :], b"tsq") for place in range(len(label))]
    # The number of the key is known, and the rest is not its.
    wrong.append((label[:4] + foreign[4:], b"tsq"))
    assert [tickets.open(one, binding) for one, binding in wrong] == [None] * len(wrong)
    assert refused == ["unknown, or for another service"] * len(wrong)
    # None of these attempts has used it up.
    assert tickets.open(label, b"tsq") is not None


def test_any_bytes_are_a_ticket_or_none():
    tickets, chance = SealedTickets(Secrets([ONE])), random.Random(7)
    name = tickets.seal(made(), b"")[:4]
    for _ in range(2000):
        assert tickets.open(name + chance.randbytes(chance.randrange(120)), b"") is None


def test_an_old_secret_opens_and_does_not_seal():
    old, both = SealedTickets(Secrets([ONE])), SealedTickets(Secrets([TWO, ONE]))
    assert both.open(old.seal(made(), b""), b"") is not None
    assert old.open(both.seal(made(), b""), b"") is None


def test_replaced_secrets_are_used_at_once_and_a_secret_that_is_gone_opens_nothing(tmp_path, refused):
    file = tmp_path / "secrets"
    file.write_text(ONE.hex())
    file.chmod(0o600)
    secrets = Secrets.from_file(file)
    tickets = SealedTickets(secrets, refused.append)
    labels = [tickets.seal(made(), b"") for _ in range(2)]
    for content, opens in ((TWO.hex() + "\n" + ONE.hex(), True), (TWO.hex(), False)):
        file.write_text(content)
        assert secrets.reload()
        assert (tickets.open(labels.pop(), b"") is not None) == opens
        assert tickets.open(SealedTickets(Secrets([TWO])).seal(made(), b""), b"") is not None
    assert refused == ["unknown, or for another service"]


def test_a_ticket_is_good_until_its_time(refused):
    tickets = SealedTickets(Secrets([ONE]), refused.append)
    assert tickets.open(tickets.seal(made(lifetime=-2), b""), b"") is None
    assert refused == ["expired"]
    assert tickets.open(tickets.seal(made(lifetime=60), b""), b"") is not None


def test_a_ticket_is_used_once(refused):
    tickets = SealedTickets(Secrets([ONE]), refused.append)
    labels = [tickets.seal(made(), b"") for _ in range(500)]
    assert all(tickets.open(label, b"") is not None for label in labels)
    assert all(tickets.open(label, b"") is None for label in labels)
    assert refused == ["used before"] * 500


def test_the_last_50000_used_tickets_are_known_in_memory_of_one_size():
    used, chance = UsedTickets(), random.Random(3)
    nonces = [chance.randbytes(12) for _ in range(170_000)]
    accepted = [nonce for nonce in nonces if not used.mark(nonce)]
    # Few unused ones are taken for used.
    assert len(nonces) - len(accepted) < len(nonces) / 300
    assert all(used.mark(nonce) for nonce in accepted[-50_000:])
    assert len(used._newer) + len(used._older) == 256 << 10


# ---------------------------------------------------------------------------------------------------- in handshakes


def ticket_of(world, *, client=None):
    """A client's ticket from this server."""
    kept = []
    session = world.channel(on_ticket=kept.append, **({} if client is None else {"path": client}))
    world.run(1)
    world.exchange(session)
    [ticket] = kept
    return ticket


def resumed(world, ticket, where) -> tuple[bool, bool, int]:
    """(whether the session was resumed, whether the request in the first flight was taken, datagrams of that flight)."""
    session = world.channel(path=where, ticket=ticket)
    sent = len(world.sent)
    world.ask(session)
    world.run(1)
    assert session.samples[-1].valid
    handshake = session._connection.handshake
    return handshake.session_resumed, handshake.early_data_accepted, sent


@pytest.fixture
def accepted(certificates):
    """A world of servers with one secret, and a ticket of the first."""
    worlds = [World(certificates, secrets=Secrets([ONE])) for _ in range(2)]
    return worlds, ticket_of(worlds[0])


def test_a_ticket_of_one_server_resumes_with_0rtt_at_another(accepted):
    (_, other), ticket = accepted
    assert resumed(other, ticket, path(5))[:2] == (True, True)
    assert other.counters.get("handshakes", "resumed") == 1


def test_after_its_use_a_ticket_costs_a_full_handshake_and_no_answer(accepted):
    (one, _), ticket = accepted
    assert resumed(one, ticket, path(5))[:2] == (True, True)
    assert resumed(one, ticket, path(6))[:2] == (False, False)
    assert one.counters.get("tickets refused", "used before") == 1


def test_a_server_with_other_secrets_makes_a_full_handshake(certificates, accepted):
    _, ticket = accepted
    stranger = World(certificates, secrets=Secrets([TWO]))
    assert resumed(stranger, ticket, path(5))[:2] == (False, False)
    assert stranger.counters.get("tickets refused", "unknown, or for another service") == 1


def test_a_server_that_allows_less_takes_no_0rtt(certificates, accepted, monkeypatch):
    """RFC 9000 §7.4.1: what the client may send is what it remembers."""
    _, ticket = accepted
    monkeypatch.setattr(tls, "_STREAM_WINDOW", 2048)
    smaller = World(certificates, secrets=Secrets([ONE]))
    assert resumed(smaller, ticket, path(5))[:2] == (False, False)


def test_a_request_in_the_first_flight_still_fits_one_datagram(accepted):
    """Initial with the ticket, 0-RTT with the request: 1200 bytes in all."""
    (_, other), ticket = accepted
    trust = tls.Trust(ca_file=str(other.certificates.authority))
    session = Channel(ClientConnection(tls.client_configuration("localhost", trust, ticket=ticket)))
    session.start(other.now)
    session.ask(other.now)
    flight = session.datagrams(other.now)
    kinds = []
    buffer = Buffer(data=flight[0])
    # aioquic fills a datagram with zeros behind its packets.
    while not buffer.eof() and flight[0][buffer.tell()]:
        start = buffer.tell()
        header = pull_quic_header(buffer, host_cid_length=8)
        kinds.append(header.packet_type)
        buffer.seek(start + header.packet_length)
    assert kinds == [QuicPacketType.INITIAL, QuicPacketType.ZERO_RTT]
    assert [len(data) for data in flight] == [1200]
