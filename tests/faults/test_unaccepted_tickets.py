"""Session tickets of servers that were not accepted: never kept, never used. Tickets of accepted ones are for the same trust only.

A resumed session shows no certificate. So a ticket is worth as much as the check that came before it.
"""

import asyncio
import dataclasses
import datetime
import os
import socket
import struct
import time
from functools import partial
from pathlib import Path

import aioquic.asyncio.server
import pytest
from aioquic.buffer import Buffer
from aioquic.quic.connection import QuicConnection
from aioquic.tls import Epoch, NewSessionTicket, State, push_new_session_ticket

import tsq
from tests.cli import peers
from tests.cli.peers import DAY, NOW, Authority, Peer
from tsq.client.channel import Channel
from tsq.errors import CertificateError, Expired, NotPinned, UnknownAuthority
from tsq.quic import tls
from tsq.quic.aioquic import internals
from tsq.quic.certificates import chain
from tsq.quic.client_connection import ClientConnection
from tsq.quic.udp import UdpSocket

HOWS = pytest.mark.parametrize("how", ["blocking", "asyncio"])


class HastyConnection(QuicConnection):
    """A server's connection whose NewSessionTicket comes right behind its Finished, before the client can judge its certificate."""

    hasty = 0

    def _push_crypto_data(self) -> None:
        super()._push_crypto_data()
        if not self._is_client and self.tls.state is State.SERVER_EXPECT_FINISHED and not getattr(self, "_was_hasty", False):
            self._was_hasty = True
            HastyConnection.hasty += 1
            ticket = NewSessionTicket(
                ticket_lifetime=86400,
                ticket_age_add=struct.unpack("I", os.urandom(4))[0],
                ticket_nonce=b"",
                ticket=os.urandom(64),
                max_early_data_size=0xFFFFFFFF,
            )
            buffer = Buffer(capacity=1024)
            push_new_session_ticket(buffer, ticket)
            self._crypto_streams[Epoch.ONE_RTT].sender.write(buffer.data)
            # The client's Finished is in the transcript already: the server can compute it.
            self.tls.new_session_ticket_cb(self.tls._build_session_ticket(ticket, self.tls.handshake_extensions))


class Store:
    """A server's tickets; each may be used as often as it is presented."""

    def __init__(self) -> None:
        self.tickets = {}
        self.presented = 0

    def add(self, ticket) -> None:
        self.tickets[ticket.ticket] = ticket

    def fetch(self, label: bytes):
        self.presented += label in self.tickets
        return self.tickets.get(label)


@pytest.fixture
def store(monkeypatch) -> Store:
    """What `Peer` servers keep of tickets from now on; they are hasty."""
    made = Store()
    monkeypatch.setattr(aioquic.asyncio.server, "QuicConnection", HastyConnection)
    monkeypatch.setattr(
        peers, "serve", partial(peers.serve, session_ticket_fetcher=made.fetch, session_ticket_handler=made.add)
    )
    return made


def ask(how: str, target: tsq.Target, trust: tsq.Trust, file: Path | None = None, **options) -> tsq.HostResult:
    """One sample by either client; raises TSQError."""
    chosen = tsq.ClientOptions(
        count=1, interval=0.0, trust=trust, session_file=None if file is None else str(file), **{"timeout": 5.0, **options}
    )
    if how == "blocking":
        return tsq.query(target, chosen)

    async def use() -> tsq.HostResult:
        async with tsq.connect(target, chosen) as client:
            return await client.measure(count=1)

    return asyncio.run(use())


def pin_of(files) -> str:
    return chain.pin(tls.server_configuration(str(files.certificate), str(files.key)).certificate)


@HOWS
def test_a_server_without_the_pinned_key_gets_in_neither_at_once_nor_with_a_ticket(how, certificates, store, tmp_path):
    trust = tsq.Trust(pins=(pin_of(Authority("Another").issue(tmp_path / "pinned")),))
    with Peer(certificates) as peer:
        before = HastyConnection.hasty
        for _ in range(3):
            with pytest.raises(NotPinned):
                ask(how, peer.target, trust, tmp_path / "sessions")
        assert HastyConnection.hasty == before + 3
    assert store.presented == 0


@HOWS
def test_its_tickets_are_not_kept_where_it_is_judged_after_the_handshake_only(how, certificates, store, tmp_path, monkeypatch):
    monkeypatch.setattr(internals, "judge_in_handshake", lambda connection: None)
    trust = tsq.Trust(pins=(pin_of(Authority("Another").issue(tmp_path / "pinned")),))
    with Peer(certificates) as peer:
        for _ in range(2):
            with pytest.raises(NotPinned):
                ask(how, peer.target, trust, tmp_path / "sessions")
    assert store.presented == 0


@HOWS
def test_the_same_server_with_the_pinned_key_gets_in_and_its_ticket_is_used(how, certificates, store, tmp_path):
    """The tests here can fail: the hasty ticket is one that works."""
    trust = tsq.Trust(pins=(pin_of(certificates),))
    with Peer(certificates) as peer:
        for _ in range(2):
            assert ask(how, peer.target, trust, tmp_path / "sessions").good == 1
    assert store.presented == 1


@HOWS
def test_a_server_whose_certificate_is_not_valid_at_the_time_given_gets_in_never(how, certificates, store, tmp_path):
    later = (NOW + 3650 * DAY).timestamp()
    trust = tsq.Trust(ca_file=str(certificates.authority), valid_at=later)
    with Peer(certificates) as peer:
        for _ in range(3):
            with pytest.raises(CertificateError):
                ask(how, peer.target, trust, tmp_path / "sessions")
    assert store.presented == 0


@HOWS
@pytest.mark.parametrize("first", ["insecure", "other pins", "other authorities"])
def test_a_ticket_of_one_trust_is_of_no_use_under_another(how, certificates, store, tmp_path, first):
    stranger = Authority("Another").issue(tmp_path / "stranger")
    trusts = {
        "insecure": tsq.Trust(insecure=True),
        "other pins": tsq.Trust(pins=(pin_of(stranger),)),
        "other authorities": tsq.Trust(ca_file=str(stranger.authority)),
    }
    with Peer(stranger) as peer:
        assert ask(how, peer.target, trusts[first], tmp_path / "sessions").good == 1
        for trust, error in (
            (tsq.Trust(pins=(pin_of(certificates),)), NotPinned),
            (tsq.Trust(ca_file=str(certificates.authority)), UnknownAuthority),
            (tsq.Trust(ca_file=str(certificates.authority), valid_at=NOW.timestamp()), UnknownAuthority),
        ):
            with pytest.raises(error):
                ask(how, peer.target, trust, tmp_path / "sessions")
    assert store.presented == 0


@HOWS
def test_a_ticket_is_of_no_use_when_the_authorities_file_has_another_content(how, certificates, store, tmp_path):
    stranger = Authority("Another").issue(tmp_path / "stranger")
    file = tmp_path / "ca.pem"
    file.write_bytes(stranger.authority.read_bytes())
    with Peer(stranger) as peer:
        assert ask(how, peer.target, tsq.Trust(ca_file=str(file)), tmp_path / "sessions").good == 1
        file.write_bytes(certificates.authority.read_bytes())
        with pytest.raises(UnknownAuthority):
            ask(how, peer.target, tsq.Trust(ca_file=str(file)), tmp_path / "sessions")
    assert store.presented == 0


def test_a_ticket_is_of_no_use_when_the_system_trusts_other_authorities(certificates, store, tmp_path, monkeypatch):
    stranger = Authority("Another").issue(tmp_path / "stranger")
    with Peer(stranger) as peer:
        monkeypatch.setenv("SSL_CERT_FILE", str(stranger.authority))
        assert ask("blocking", peer.target, tsq.Trust(), tmp_path / "sessions").good == 1
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
        with pytest.raises(UnknownAuthority):
            ask("blocking", peer.target, tsq.Trust(), tmp_path / "sessions")
    assert store.presented == 0


def test_a_ticket_of_another_server_name_is_not_used(certificates, store, tmp_path):
    trust = tsq.Trust(ca_file=str(certificates.authority))
    with Peer(certificates) as peer:
        assert ask("blocking", peer.target, trust, tmp_path / "sessions", server_name="localhost").good == 1
        with pytest.raises(CertificateError):
            ask("blocking", peer.target, trust, tmp_path / "sessions", server_name="time.example")
    assert store.presented == 0


def test_a_session_file_from_before_tickets_were_kept_of_accepted_servers_only_is_not_used(certificates, store, tmp_path):
    trust = tsq.Trust(pins=(pin_of(certificates),))
    file = tmp_path / "sessions"
    with Peer(certificates) as peer:
        ask("blocking", peer.target, trust, file)
        text = file.read_text()
        assert '"trust": "accepted as ' in text
        start = text.index('"accepted as ')
        file.write_text(text[:start] + text[start:].replace(text[start : text.index("pins:", start)], '"', 1))
        assert '"trust": "pins:' in file.read_text()
        ask("blocking", peer.target, trust, file)
    assert store.presented == 0


# ------------------------------------------------------------------------------------------------------- in one process


def handshake(target: tsq.Target, trust: tsq.Trust, ticket=None) -> tuple[Channel, list]:
    """A connection by hand: the session when it is established or over, and the tickets that were given to its owner."""
    tickets = []
    configuration = tls.client_configuration("localhost", trust, ticket=ticket)
    session = Channel(ClientConnection(configuration, on_ticket=tickets.append))
    udp = UdpSocket.connected(socket.AF_INET, (target.host, target.port))
    session.start(time.monotonic())
    end = time.monotonic() + 60
    while session.error is None and not (session.established and tickets) and time.monotonic() < end:
        udp.socket.settimeout(0.01)
        out = session.datagrams(time.monotonic())
        for data in out:
            udp.socket.send(data)
        for datagram in udp.receive():
            session.receive(datagram, time.monotonic())
        if session.deadline is not None and session.deadline <= time.monotonic():
            session.handle_timer(time.monotonic())
    udp.close()
    return session, tickets


def test_no_ticket_is_given_out_before_the_server_is_accepted(certificates, store, tmp_path):
    stranger = Authority("Another").issue(tmp_path / "stranger")
    with Peer(certificates) as peer:
        session, tickets = handshake(peer.target, tsq.Trust(pins=(pin_of(stranger),)))
        assert isinstance(session.error, NotPinned)
        assert tickets == []
        session, tickets = handshake(peer.target, tsq.Trust(pins=(pin_of(certificates),)))
        assert session.error is None
        assert tickets[0].acceptance.endswith(pin_of(certificates))


def test_a_ticket_whose_acceptance_differs_or_whose_certificate_has_expired_is_not_used(certificates, store):
    trust = tsq.Trust(ca_file=str(certificates.authority))
    with Peer(certificates) as peer:
        _, [ticket, *_] = handshake(peer.target, trust)
    assert tls.client_configuration("localhost", trust, ticket=ticket).session_ticket is ticket.ticket
    past = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1)).timestamp()
    for other in (
        dataclasses.replace(ticket, acceptance=""),
        dataclasses.replace(ticket, acceptance=tls.acceptance("localhost", tsq.Trust(insecure=True))),
        dataclasses.replace(ticket, certificates_expire=past),
    ):
        assert tls.client_configuration("localhost", trust, ticket=other).session_ticket is None
    assert tls.client_configuration("127.0.0.1", trust, ticket=ticket).session_ticket is None
    at = tsq.Trust(ca_file=trust.ca_file, valid_at=ticket.certificates_expire + 1)
    same = dataclasses.replace(ticket, acceptance=tls.acceptance("localhost", at))
    assert tls.client_configuration("localhost", at, ticket=same).session_ticket is None


def test_a_certificate_that_expired_is_not_hidden_by_a_ticket(store, tmp_path):
    assert any(_expires_behind_its_ticket(tmp_path / str(seconds), seconds) for seconds in (2, 4, 8, 16))
    assert store.presented == 0


def _expires_behind_its_ticket(directory, seconds: int) -> bool:
    """Ask a server before and after its certificate expires; False where it had expired before the first time."""
    expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    valid = Authority().issue(directory / "valid", not_after=expires)
    trust = tsq.Trust(ca_file=str(valid.authority))
    with Peer(valid) as peer:
        try:
            assert ask("blocking", peer.target, trust, directory / "sessions").good == 1
        except Expired:
            return False
        while _still_valid(valid):
            time.sleep(0.05)
        with pytest.raises(Expired):
            ask("blocking", peer.target, trust, directory / "sessions")
    return True


def _still_valid(files) -> bool:
    certificate = tls.server_configuration(str(files.certificate), str(files.key)).certificate
    return datetime.datetime.now(datetime.UTC) <= certificate.not_valid_after_utc
