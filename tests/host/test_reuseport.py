"""Steering datagrams to workers: the filter program as an interpreter runs it, and as this kernel does."""

import itertools
import select
import socket
import struct
from random import Random

import pytest

from tsq.errors import ConfigError
from tsq.host import reuseport
from tsq.quic.connection_ids import ConnectionIds
from tsq.quic.udp import UdpSocket

OPCODES = {code: name for name, code in reuseport._OPERATIONS.items()}
V1, V2, UNKNOWN = 1, 0x6B3343CF, 0x1A2A3A4A
INITIAL, ZERO_RTT, HANDSHAKE = "Initial", "0-RTT", "Handshake"
# RFC 9000 §17.2, RFC 9369 §3.2.
TYPES = {V1: {INITIAL: 0, ZERO_RTT: 1, HANDSHAKE: 2}, V2: {INITIAL: 1, ZERO_RTT: 2, HANDSHAKE: 3}}


def interpreted(program: bytes, packet: bytes) -> int:
    """What classic BPF returns for this packet (linux/Documentation/networking/filter.rst). A load beyond its end returns 0."""
    instructions = list(struct.iter_unpack("=HBBI", program))
    assert len(instructions) <= 4096
    a, at = 0, 0
    while True:
        code, yes, no, k = instructions[at]
        at += 1
        name = OPCODES[code]
        if name == "ldlen":
            a = len(packet)
        elif name in ("ldw", "ldb"):
            size = 4 if name == "ldw" else 1
            if k + size > len(packet):
                return 0
            a = int.from_bytes(packet[k : k + size], "big")
        elif name == "add":
            a = (a + k) & 0xFFFFFFFF
        elif name == "mod":
            a %= k
        elif name == "and":
            a &= k
        elif name == "ret":
            return k
        elif name == "reta":
            return a
        else:
            true = {"jeq": a == k, "jge": a >= k, "jset": bool(a & k)}[name]
            at += yes if true else no


def short(connection_id: bytes) -> bytes:
    return b"\x40" + connection_id + bytes(30)


def long(kind: str, connection_id: bytes, version: int = V1) -> bytes:
    first = 0xC0 | TYPES.get(version, TYPES[V1])[kind] << 4
    return bytes([first]) + version.to_bytes(4, "big") + bytes([len(connection_id)]) + connection_id + b"\x08" + bytes(1200)


WORKERS = [1, 2, 3, 5, 8, 16, 17, 100, 128]


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("newcomers", [0, 1])
def test_packets_of_a_connection_go_to_the_worker_that_made_its_id(workers, newcomers):
    other = range(workers) if newcomers else range(workers, 2 * workers)
    program = reuseport.steering(workers, newcomers, list(other))
    for slot in range(2 * workers):
        ids = ConnectionIds(slot=slot, slots=2 * workers)
        for _ in range(20):
            connection_id = ids.new()
            assert interpreted(program, short(connection_id)) == slot
            for version in (V1, V2):
                assert interpreted(program, long(HANDSHAKE, connection_id, version)) == slot


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("newcomers", [0, 1])
def test_newcomers_go_to_their_generation_and_stay_with_their_worker(workers, newcomers):
    program = reuseport.steering(workers, newcomers, range(2 * workers))
    own = range(newcomers * workers, (newcomers + 1) * workers)
    random = Random(workers)
    seen = set()
    for version, kind in itertools.product((V1, V2, UNKNOWN), (INITIAL, ZERO_RTT)):
        for size in (8, 20):
            chosen = random.randbytes(size)
            place = interpreted(program, long(kind, chosen, version))
            assert place in own
            assert place == interpreted(program, long(INITIAL, chosen))
            seen.add(place)
    if workers < 4:
        assert seen == set(own)
    for slot in own:
        # The client's later Initial packets have the ID that its worker chose, a Retry's too.
        assert interpreted(program, long(INITIAL, ConnectionIds(slot=slot, slots=2 * workers).new())) == slot


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("newcomers", [0, 1])
def test_packets_of_ended_workers_go_to_the_newcomers_generation(workers, newcomers):
    other = list(range(workers) if newcomers else range(workers, 2 * workers))
    for living in ([], other[:1], other[1:]):
        program = reuseport.steering(workers, newcomers, living)
        for slot in range(2 * workers):
            connection_id = ConnectionIds(slot=slot, slots=2 * workers).new()
            expected = slot if slot in living or slot not in other else slot % workers + newcomers * workers
            assert interpreted(program, short(connection_id)) == expected
            assert interpreted(program, long(HANDSHAKE, connection_id)) == expected


@pytest.mark.parametrize("workers", [1, 3, 128])
def test_garbage_goes_to_a_worker_of_the_newcomers_generation_or_one_that_lives(workers):
    random = Random(7)
    for newcomers in (0, 1):
        own = range(newcomers * workers, (newcomers + 1) * workers)
        program = reuseport.steering(workers, newcomers)
        for _ in range(2000):
            assert interpreted(program, random.randbytes(random.randrange(0, 40))) in own


@pytest.mark.parametrize("workers", [2, 4, 8, 16, 32])
def test_newcomers_are_shared_evenly_by_a_power_of_two(workers):
    program = reuseport.steering(workers, 0)
    counts = [0] * workers
    for octet in range(256):
        counts[interpreted(program, long(INITIAL, bytes([octet]) + bytes(7)))] += 1
    assert set(counts) == {256 // workers}


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("newcomers", [0, 1])
def test_divided_sockets_get_the_same_packets_and_those_of_newcomers_in_the_second_half(workers, newcomers):
    random = Random(workers)
    for living in (range(2 * workers), ()):
        whole = reuseport.steering(workers, newcomers, living)
        divided = reuseport.steering(workers, newcomers, living, divided=True)
        for size in (8, 20):
            chosen = random.randbytes(size)
            for packet in (short(chosen), *(long(HANDSHAKE, chosen, version) for version in (V1, V2))):
                assert interpreted(divided, packet) == interpreted(whole, packet)
            for version, kind in itertools.product((V1, V2, UNKNOWN), (INITIAL, ZERO_RTT)):
                packet = long(kind, chosen, version)
                assert interpreted(divided, packet) == interpreted(whole, packet) + 2 * workers
        assert interpreted(divided, b"\x40") == interpreted(whole, b"\x40") + 2 * workers


def test_one_server_s_second_socket_gets_newcomers_packets_and_no_others():
    program = reuseport.division()
    for version in (V1, V2):
        assert interpreted(program, long(HANDSHAKE, b"8 bytes.", version)) == 0
    for version, kind in itertools.product((V1, V2, UNKNOWN), (INITIAL, ZERO_RTT)):
        assert interpreted(program, long(kind, b"8 bytes.", version)) == 1
    assert interpreted(program, short(b"8 bytes.")) == 0
    assert interpreted(program, b"\xc0") == 1


@pytest.mark.parametrize("workers", [0, 129])
def test_a_number_of_workers_that_an_octet_cannot_tell_apart_is_refused(workers):
    with pytest.raises(ValueError, match="expected 1 to 128"):
        reuseport.steering(workers, 0)


# ------------------------------------------------------------------------------------------------------------- the kernel


@pytest.fixture(params=["127.0.0.1", "::1"])
def group(request):
    made = UdpSocket.group(request.param, 0, 8)
    yield made
    for one in made:
        one.close()


def received_by(group: list[socket.socket], sender: socket.socket, packet: bytes) -> int:
    """Which socket of the group got it."""
    sender.sendto(packet, group[0].getsockname())
    ready, _, _ = select.select(group, [], [], 20)
    (one,) = ready
    assert one.recv(4096) == packet
    return group.index(one)


def test_the_kernel_does_what_the_interpreter_does(group):
    random = Random(3)
    with socket.socket(group[0].family, socket.SOCK_DGRAM) as sender:
        for newcomers, living in ((0, ()), (0, (4, 6)), (0, (4, 5, 6, 7)), (1, (0, 1, 2, 3)), (1, (3,)), (1, ())):
            program = reuseport.steering(4, newcomers, living)
            reuseport.attach(group[random.randrange(8)], program)
            for _ in range(40):
                some = random.randbytes(8)
                packets = [short(some), random.randbytes(random.randrange(1, 60))]
                packets += [long(kind, some, version) for kind in TYPES[V1] for version in (V1, V2, UNKNOWN)]
                for packet in packets:
                    assert received_by(group, sender, packet) == interpreted(program, packet), packet.hex()


def test_a_sender_that_moves_reaches_the_same_worker(group):
    reuseport.attach(group[0], reuseport.steering(4, 0))
    connection_id = ConnectionIds(slot=2, slots=8).new()
    for _ in range(20):
        with socket.socket(group[0].family, socket.SOCK_DGRAM) as sender:
            assert received_by(group, sender, short(connection_id)) == 2


def test_what_waits_for_a_worker_is_kept_while_another_one_has_its_socket(group):
    """A worker's copy of a socket is closed with its process; what came is there for the next one."""
    reuseport.attach(group[0], reuseport.steering(4, 0))
    copy = group[1].dup()
    with socket.socket(group[0].family, socket.SOCK_DGRAM) as sender:
        packet = short(ConnectionIds(slot=1, slots=8).new())
        sender.sendto(packet, group[0].getsockname())
        copy.close()
        assert received_by(group, sender, packet) == 1
        assert group[1].recv(4096) == packet


def test_an_address_that_has_a_group_is_in_use(group):
    host, port = group[0].getsockname()[:2]
    with pytest.raises(ConfigError, match="Address already in use"):
        UdpSocket.group(host, port, 2)


def test_a_group_is_refused_where_another_socket_is():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigError, match="Address already in use"):
            UdpSocket.group("127.0.0.1", other.getsockname()[1], 2)


def test_a_socket_that_is_no_member_is_refused_by_the_kernel():
    with UdpSocket.listening("127.0.0.1", 0).socket as alone, pytest.raises(OSError, match="Invalid argument"):
        reuseport.attach(alone, b"")
