"""TrimmedConnection: the same keys, peers and ends as with aioquic; and nothing that is freed is needed later."""

import gc
import weakref

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair, KeyUnavailableError, derive_key_iv_hp
from aioquic.quic.packet import QuicProtocolVersion
from aioquic.tls import CipherSuite, Epoch, Group

from tests.dataplane.test_session import inject
from tests.support.foreign import ForeignClient, PacketLog
from tests.support.messages import PLAIN_REQUEST
from tests.support.world import CLIENT, World
from tsq.quic import tls
from tsq.quic.aioquic import trim
from tsq.quic.aioquic.trim import TrimmedConnection
from tsq.quic.router import Limits, RetryPolicy

MS = 1_000_000
GROUPS = [Group.SECP256R1, Group.SECP384R1, Group.X25519, Group.X448]
# RFC 9001 Appendix A.1.
CONNECTION_ID = bytes.fromhex("8394c8f03e515708")
CLIENT_SECRET = "c00cf151ca5be075ed0ebfb5c80323c42d6b7db67881289af4008f1f6c357aea"
SERVER_SECRET = "3c199828fd139efd216c155ad844cc81fb82fa8d7446fa7d78be803acdda951b"
# RFC 9369 Appendix A.1.
CLIENT_SECRET_2 = "14ec9d6eb9fd7af83bf5a668bc17a7e283766aade7ecd0891f70f9ff7f4bf47b"
SERVER_SECRET_2 = "0263db1782731bf4588e7e4d93b7463907cb8cd8200b5da55a8bd488eafc37c1"


class PickyClient(ForeignClient):
    """Offers key shares of these groups only."""

    def __init__(self, world, groups, **options):
        super().__init__(world, connect=False, **options)
        original = self.quic._initialize

        def initialize(peer_cid):
            original(peer_cid)
            self.quic.tls._supported_groups = list(groups)

        self.quic._initialize = initialize
        self.quic.connect("the server", world.now)
        world.pump(self)
        world.run(0.1)


@pytest.fixture
def world(certificates):
    return World(certificates, data_plane=True)


@pytest.fixture(params=[True, False], ids=["data plane", "aioquic alone"])
def either(request, certificates):
    return World(certificates, data_plane=request.param)


def is_served(client, times=3):
    return all(len(client.ask(PLAIN_REQUEST)) == 1 for _ in range(times))


# ------------------------------------------------------------------------------------------------------- Initial keys


@pytest.mark.parametrize(
    ("version", "client", "server"),
    [
        (QuicProtocolVersion.VERSION_1, CLIENT_SECRET, SERVER_SECRET),
        (QuicProtocolVersion.VERSION_2, CLIENT_SECRET_2, SERVER_SECRET_2),
    ],
)
@pytest.mark.parametrize("is_client", [True, False])
def test_initial_keys_that_waited_are_those_of_the_rfc(version, client, server, is_client):
    pair = trim._Pair()
    pair.setup_initial(cid=CONNECTION_ID, is_client=is_client, version=version)
    assert pair.send.is_valid()
    assert pair.recv.secret is pair.send.secret is None
    pair.send.encrypt_packet(b"\xc3" + bytes(17), bytes(20), 0)
    mine, theirs = (client, server) if is_client else (server, client)
    assert (pair.send.secret.hex(), pair.recv.secret.hex()) == (mine, theirs)


@pytest.mark.parametrize("version", [QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2])
@pytest.mark.parametrize("size", [0, 8, 20])
def test_packets_under_them_are_those_of_aioquic(version, size):
    cid = bytes(range(size))
    ours, theirs = trim._Pair(), CryptoPair()
    ours.setup_initial(cid=cid, is_client=True, version=version)
    theirs.setup_initial(cid=cid, is_client=True, version=version)
    header = b"\xc1" + version.to_bytes(4, "big") + bytes(10) + b"\x00\x05"
    packets = [pair.encrypt_packet(header, b"\x01" + bytes(30), 5) for pair in (ours, theirs)]
    assert packets[0] == packets[1]
    server = trim._Pair()
    server.setup_initial(cid=cid, is_client=False, version=version)
    assert server.decrypt_packet(packets[1], 15, 5) == (header, b"\x01" + bytes(30), 5)


@pytest.mark.parametrize("used", [True, False])
def test_discarded_initial_keys_never_come_back(used):
    pair = trim._Pair()
    pair.setup_initial(cid=CONNECTION_ID, is_client=True, version=QuicProtocolVersion.VERSION_1)
    pair.recv.teardown()
    if used:
        pair.encrypt_packet(b"\xc3" + bytes(17), bytes(20), 0)
    assert not pair.recv.is_valid()
    assert pair.recv.secret is None
    with pytest.raises(KeyUnavailableError):
        pair.decrypt_packet(bytes(40), 18, 0)
    pair.teardown()
    assert not pair.send.is_valid()
    assert pair.send.secret is None


@pytest.mark.parametrize("updates", [0, 1, 5])
def test_header_protection_keeps_its_keys_over_key_updates(updates):
    """RFC 9001 §6.1. The data plane may get them late: after an update."""
    pair = trim._Pair()
    secrets = bytes(range(32)), bytes(range(32, 64))
    for context, secret in zip((pair.recv, pair.send), secrets, strict=True):
        context.setup(cipher_suite=CipherSuite.AES_128_GCM_SHA256, secret=secret, version=QuicProtocolVersion.VERSION_1)
    first = tuple(
        derive_key_iv_hp(cipher_suite=CipherSuite.AES_128_GCM_SHA256, secret=secret, version=QuicProtocolVersion.VERSION_1)[2]
        for secret in secrets
    )
    for _ in range(updates):
        pair.update_key()
        pair.encrypt_packet(b"\x40" + bytes(9), bytes(20), 0)
    assert pair.protection == first
    assert (pair.recv.secret, pair.send.secret) == secrets if not updates else pair.send.secret not in secrets


@pytest.mark.parametrize("asked", [1, 2, 3])
def test_a_client_updates_its_keys_whenever_it_likes(either, asked):
    """Also before its data plane has the connection, which is so until its second request."""
    channel = either.channel()
    either.run(0.5)
    for _ in range(asked):
        either.exchange(channel)
    channel._connection.take_back()
    channel._connection.quic.request_key_update()
    for _ in range(3):
        either.exchange(channel)
    assert [sample.valid for sample in channel.samples] == [True] * (asked + 3)


def test_no_keys_are_derived_for_a_version_that_is_not_spoken(world):
    derived = []
    original = CryptoPair.setup_initial

    def setup_initial(self, **given):
        derived.append(given["version"])
        original(self, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CryptoPair, "setup_initial", setup_initial)
        session = world.channel()
        world.run(0.5)
    assert session.established
    assert derived == [QuicProtocolVersion.VERSION_1] * 2


@pytest.mark.parametrize("original", [None, QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2])
def test_a_client_of_quic_version_2_is_served(either, original):
    versions = [QuicProtocolVersion.VERSION_2, QuicProtocolVersion.VERSION_1]
    client = ForeignClient(either, supported_versions=versions, original_version=original)
    assert client.established
    assert is_served(client)


# --------------------------------------------------------------------------------------------------------- key shares


@pytest.mark.parametrize("groups", [[group] for group in GROUPS] + [GROUPS[::-1]], ids=str)
def test_a_client_with_any_key_share_is_served(either, groups):
    client = PickyClient(either, groups)
    assert client.established
    assert is_served(client)


@pytest.mark.parametrize("only", [Group.X25519, Group.SECP256R1], ids=str)
def test_our_client_is_served_by_a_server_that_has_one_of_its_groups(certificates, only):
    configuration = tls.client_configuration("localhost", tls.Trust(ca_file=str(certificates.authority)))
    client = TrimmedConnection(configuration=configuration)
    client.connect("the server", 0.0)
    server = server_of(certificates, client, only)
    talk(client, server)
    assert client._handshake_confirmed
    assert client.tls._supported_groups == [Group.X25519, Group.SECP256R1]


def server_of(certificates, client, *groups):
    """A plain aioquic server that knows these groups."""
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["tsq/1"], max_datagram_frame_size=65535)
    configuration.load_cert_chain(certificates.certificate, certificates.key)
    original_id = client.original_destination_connection_id
    server = QuicConnection(configuration=configuration, original_destination_connection_id=original_id)
    original = server._initialize

    def initialize(peer_cid):
        original(peer_cid)
        if groups:
            server.tls._supported_groups = list(groups)

    server._initialize = initialize
    return server


def talk(client, server, rounds=6):
    now = 0.0
    for _ in range(rounds):
        now += 0.03
        for data, _ in client.datagrams_to_send(now):
            server.receive_datagram(data, "the client", now)
        for data, _ in server.datagrams_to_send(now):
            client.receive_datagram(data, "the server", now)


# ---------------------------------------------------------------------------------------------------- connection IDs


def test_both_ends_have_one_spare_connection_id_and_get_another_for_each_that_is_used(either):
    log = PacketLog(either)
    client = ForeignClient(either)
    assert client.established
    frames = [frame for packet in log.frames() for frame in packet]
    assert frames.count("new_connection_id") == 1
    assert len(client.quic._host_cids) == 2
    for number in range(2, 12):
        client.quic.change_connection_id()
        assert is_served(client, 1)
        frames = [frame for packet in log.frames() for frame in packet]
        assert frames.count("new_connection_id") == number


def test_a_client_that_moves_again_and_again_is_served_everywhere(either):
    client = ForeignClient(either)
    for number in range(8):
        if number % 2:
            client.quic.change_connection_id()
        del either._sessions[next(iter(either._sessions))]
        where = CLIENT.__class__(bytes(CLIENT.remote[:-1]) + bytes([number]), CLIENT.local)
        either._sessions[where] = client
        # The first one on a new path may find no room there before the path is validated.
        client.ask(PLAIN_REQUEST)
        assert is_served(client, 2)


# -------------------------------------------------------------------------------------- what is let go of, and when


def test_what_the_handshake_needed_is_let_go_of_when_it_is_confirmed(either):
    client = ForeignClient(either)
    quic = either.router.connections[0].quic
    assert quic._crypto_buffers == {}
    assert list(quic._crypto_streams) == [Epoch.ONE_RTT]
    assert not any(quic._cryptos[epoch].recv.is_valid() for epoch in (Epoch.INITIAL, Epoch.HANDSHAKE, Epoch.ZERO_RTT))
    assert quic.tls.key_schedule is None
    assert quic.tls._x25519_private_key is None
    assert quic.tls._ec_private_keys == []
    # The keys in use are those that the client has.
    ours, theirs = quic._cryptos[Epoch.ONE_RTT], client.quic._cryptos[Epoch.ONE_RTT]
    assert (ours.recv.secret, ours.send.secret) == (theirs.send.secret, theirs.recv.secret)
    assert is_served(client)


def test_it_is_kept_until_the_clients_finished_has_come(either):
    # All that the client sends after its first flight is lost.
    either.to_server = lambda data, number: [MS] if number == 0 else []
    client = ForeignClient(either)
    assert client.established
    quic = either.router.connections[0].quic
    # Those that were written to.
    assert set(quic._crypto_buffers) == {Epoch.INITIAL, Epoch.HANDSHAKE}
    assert quic.tls.key_schedule is not None
    either.to_server = lambda data, number: [MS]
    either.run(2)
    assert quic._crypto_buffers == {}
    assert is_served(client)


@pytest.mark.parametrize("seconds", [0.0, 0.02, 2.0])
def test_late_and_doubled_handshake_packets_change_nothing(either, seconds):
    client = ForeignClient(either)
    flight = [data for side, data in either.sent if side == "client"]
    assert any(data[0] & 0xF0 == 0xC0 for data in flight)
    assert is_served(client, 1)
    either.run(seconds)
    for data in flight * 2:
        either.deliver_to_server(data)
    assert is_served(client)
    assert client.end is None
    assert len(either.router.connections) == 1


@pytest.mark.parametrize("version", [1, QuicProtocolVersion.VERSION_2])
@pytest.mark.parametrize("kind", range(3), ids=["Initial", "0-RTT", "Handshake"])
def test_a_forged_long_header_with_a_known_connection_id_changes_nothing(either, version, kind):
    client = ForeignClient(either)
    known = either.router.connections[0].quic.host_cid
    token = b"\x00" if kind == 0 else b""
    # RFC 9369 §3.2: version 2 numbers its packet types otherwise.
    kind = kind if version == 1 else (kind + 1) % 4
    header = bytes([0xC3 | kind << 4]) + version.to_bytes(4, "big") + b"\x08" + known + b"\x02me" + token
    for _ in range(3):
        either.deliver_to_server(header + b"\x44\xa0" + bytes(1184))
    assert is_served(client)
    assert client.end is None


def test_a_tls_message_after_the_handshake_ends_the_connection(either):
    client = ForeignClient(either)
    # RFC 9001 §8.3 and §6: no EndOfEarlyData, no KeyUpdate; aioquic's own server says the same.
    inject_crypto = b"\x06\x00\x05" + b"\x18\x00\x00\x01\x00"
    if either.data_plane is None:
        either.data_plane = type("None", (), {"taken": 0, "process": lambda self, rest, *_: ([], rest)})()
    inject(either, client, inject_crypto)
    assert client.end is not None
    assert client.end.error_code == 0x100 + 10


@pytest.mark.parametrize("number", range(1, 6))
def test_a_lost_datagram_of_the_server_is_made_good_and_a_ticket_comes(certificates, number):
    world = World(certificates, data_plane=True)
    tickets = []
    world.to_client = lambda data, index: [] if index == number - 1 else [MS]
    session = world.channel(on_ticket=tickets.append)
    world.run(3)
    assert session.established
    assert len(tickets) == 1
    # Where it is the answer that is lost, it stays lost: late time is wrong time.
    world.exchange(session, 4)
    world.exchange(session)
    assert session.samples[-1].valid


@pytest.mark.parametrize("retry", [RetryPolicy.NEVER, RetryPolicy.ALWAYS])
def test_tickets_and_early_requests_go_on(certificates, retry):
    world = World(certificates, data_plane=True, limits=Limits(retry=retry))
    tickets = []
    for number in range(3):
        session = world.channel(on_ticket=tickets.append, ticket=tickets.pop() if tickets else None)
        world.run(1)
        assert session.established
        assert (session.early is not None) == (number > 0)
        world.exchange(session)
        assert session.samples[-1].valid
        session.close()
        world.pump(session)
        world.run(5)
    assert world.counters.get("handshakes", "resumed") == 2
    assert world.router.connections == []


def test_keys_are_updated_from_both_sides(either):
    client = ForeignClient(either)
    quic = either.router.connections[0].quic
    for _ in range(3):
        phase = client.quic._cryptos[Epoch.ONE_RTT].key_phase
        client.quic.request_key_update()
        assert is_served(client)
        either.run(2)
        assert client.quic._cryptos[Epoch.ONE_RTT].key_phase != phase
        assert quic._cryptos[Epoch.ONE_RTT].recv.secret == client.quic._cryptos[Epoch.ONE_RTT].send.secret
    assert client.end is None


def test_frame_handlers_are_aioquics_own(world):
    ForeignClient(world)
    quic = world.router.connections[0].quic
    plain = QuicConnection(configuration=quic.configuration, original_destination_connection_id=bytes(8))
    handlers = plain._QuicConnection__frame_handlers
    ours = quic._QuicConnection__frame_handlers
    assert isinstance(ours, trim._FrameHandlers)
    for frame_type, (handler, epochs) in handlers.items():
        assert ours[frame_type][0] == getattr(quic, handler.__name__)
        assert ours[frame_type][1] == epochs
    with pytest.raises(KeyError):
        ours[0x21]


# -------------------------------------------------------------------------------------------------- what is forgotten


@pytest.mark.parametrize("end", ["closed by the client", "closed by the server", "silent", "never finished"])
def test_a_forgotten_connection_is_gone_without_the_garbage_collector(either, end):
    gc.collect()
    gc.disable()
    try:
        if end == "never finished":
            either.to_server = lambda data, number: [MS] if number == 0 else []
        client = ForeignClient(either)
        connection = either.router.connections[0]
        if end != "never finished":
            assert is_served(client)
        watched = [weakref.ref(part) for part in (connection.quic, connection.quic.tls, connection.quic._loss)]
        if end == "closed by the client":
            client.quic.close()
            either.pump(client)
        elif end == "closed by the server":
            either.core.close_connection(connection, "bye", either.now)
        else:
            either.to_server = lambda data, number: []
        del connection
        either.run(90)
        # The world's timers know connections, too.
        either._events.clear()
        assert either.router.connections == []
        assert [ref() for ref in watched] == [None] * 3
    finally:
        gc.enable()


# --------------------------------------------------------------------------------------------------------- self-check


def test_other_users_of_aioquic_are_not_touched(world):
    session = world.channel()
    world.run(0.5)
    assert session.established
    client = QuicConnection(configuration=QuicConfiguration(is_client=True, server_name="localhost"))
    client.connect("the server", 0.0)
    assert client.tls._supported_groups == GROUPS
    assert client._local_active_connection_id_limit == 8
    assert all(type(pair) is CryptoPair for pair in client._cryptos_initial.values())


def test_the_installed_aioquic_has_every_name_that_is_needed(monkeypatch):
    assert trim.missing_names() == []
    monkeypatch.setitem(trim.PRIVATE_NAMES, "tls", ("_no_such_name",))
    monkeypatch.setitem(trim.REPLACED_NAMES, "_initialize", ("CryptoPair", "NoSuchClass"))
    assert trim.missing_names() == ["tls._no_such_name", "QuicConnection._initialize: NoSuchClass"]
