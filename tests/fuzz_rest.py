"""Connections at rest against the oracle of connections that never rest: the same seeded traffic, and no difference.

    python -m tests.fuzz_rest [--packets 1000000] [--whole 50000] [--seed N]

`Twins` gives the same packets to a session and to records of it, one of which goes back to rest after each packet: every reply must
be the same, byte for byte. `Worlds` runs whole servers, with the control plane.
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from typing import Any

from aioquic.tls import CipherSuite, Epoch

from tests.dataplane.arena import Arena
from tests.dataplane.peer import CLOCK_NS, MAX_ACK_DELAY, SUITES, Peer, ack, datagram, request, varint
from tsq.dataplane.batches import DataPlane
from tsq.dataplane.derivation import next_keys
from tsq.dataplane.packet import PacketKeys
from tsq.dataplane.session import Session
from tsq.quic.selfsigned import CertificateFiles, self_signed
from tsq.quic.udp import NetworkPath

VERSION_1 = 0x00000001
HOT = 128
ID, SPARE = b"server01", b"server02"
JUMPS = (0.0, 0.0001, 0.002, 0.03, 0.2, 1.5)


class Twins:
    """One connection three times: as a session, as a record whose keys stay expanded, and as one that rests after each packet."""

    def __init__(self, suite: int, seed: int) -> None:
        self.random = random.Random(f"{suite} {seed}")
        self.suite = suite
        self.peer = Peer(suite, seed=seed, data_plane=DataPlane(), connection_id=ID)
        self.now = self.peer.now
        size = 48 if suite == 0x1302 else 32
        self.secrets = [self.random.randbytes(size), self.random.randbytes(size)]
        self.planes = [DataPlane(), DataPlane(hot=HOT), DataPlane(hot=HOT)]
        self.done: Counter[str] = Counter()
        for number, plane in enumerate(self.planes):
            session = self._session()
            plane.add(ID, session)
            if number:
                plane.rest(session, (ID, SPARE), b"", 6e4, self.now)
        self._keys()
        self.updated = False
        self.number = 0
        self.largest = -1
        self.outstanding: list[bytes] = []
        self.packets = 0
        self.numbers: set[tuple[bytes, int]] = set()

    def _session(self) -> Session:
        rng = random.Random("keys of " + self.secrets[0].hex())
        size = 16 if self.suite == 0x1301 else 32
        session = Session()
        self.protection = rng.randbytes(size), rng.randbytes(size)
        session.set_protection(self.suite, *self.protection)
        self.first = [(rng.randbytes(size), rng.randbytes(12)) for _ in range(2)]
        _, *following = next_keys(self.suite, VERSION_1, self.secrets[0])
        session.set_keys(0, *self.first[0], *self.first[1], *following, self.now)
        session.set_secrets(VERSION_1, *self.secrets)
        session.set_path(self.peer.remote, self.peer.local, self.peer.peer_id)
        session.set_received(-1, 0.0, 0, -1)
        session.set_recovery(12_000, 0, 1 << 62, 0.0, False)
        session.set_round_trip(True, 0.02, 0.02, 0.005, 0.02, MAX_ACK_DELAY, 3)
        session.key_updates = (16.0, self.now)
        session.active = True
        return session

    def _keys(self) -> None:
        self.phase = 0
        self.sealer = PacketKeys(self.suite, *self.first[0], self.protection[0])
        self.opener = PacketKeys(self.suite, *self.first[1], self.protection[1])

    def update_keys(self) -> None:
        """The peer's key update; from now on the session, which leaves it to aioquic, is out of the comparison."""
        for at in range(2):
            self.secrets[at], key, iv = next_keys(self.suite, VERSION_1, self.secrets[at])
            keys = PacketKeys(self.suite, key, iv, self.protection[at])
            if at == 0:
                self.former, self.sealer = self.sealer, keys
            else:
                self.opener = keys
        self.phase ^= 1
        self.updated = True
        self.done["key update"] += 1

    def run(self, packets: int) -> None:
        """So many packets of the client's, and whatever comes of them."""
        end = self.packets + packets
        next_update = self.packets + packets // 2
        while self.packets < end:
            self.now += self.random.choice(JUMPS)
            if self.packets >= next_update:
                next_update = self.packets + 40
                self.now += 2.0
                self.update_keys()
            self.outstanding.append(self._packet())
            self.random.shuffle(self.outstanding)
            while len(self.outstanding) > self.random.choice((0, 0, 0, 3)):
                data = self.outstanding.pop()
                fate = self.random.random()
                for _ in range(0 if fate < 0.08 else 2 if fate < 0.16 else 1):
                    self._deliver(data)

    def _packet(self) -> bytes:
        rng = self.random
        frames = b""
        if self.largest >= 0 and rng.random() < 0.7:
            frames += ack(self.largest, rng.randint(0, min(self.largest, 3)), delay=rng.choice((0, 10, 3000)))
        choice = rng.random()
        if choice < 0.7:
            for _ in range(rng.choice((1, 1, 2, 20))):
                frames += datagram(request(rng.getrandbits(64), exact=rng.random() < 0.2))
        elif choice < 0.8:
            frames += b"\x01"
        elif choice < 0.84:
            frames += datagram(rng.randbytes(rng.randint(0, 40)))
        elif choice < 0.86:
            # What only the control plane takes: handed up by all, or by none.
            frames += b"\x10" + varint(rng.getrandbits(20))
        elif choice < 0.88:
            frames += ack(self.largest + 1000) if not frames else b""
        elif choice < 0.9:
            frames += rng.randbytes(rng.randint(1, 60))
            # A PATH_CHALLENGE or a close is served for records alone.
            if any(kind in frames for kind in (b"\x1a", b"\x1c", b"\x1d")):
                frames = b"\x01\0\0\0"
        frames = frames.ljust(4, b"\0")
        self.number += rng.choice((1, 1, 1, 2, 40))
        self.done["sent"] += 1
        first = 0x43 | self.phase << 2 | rng.choice((0, 0, 0x20)) | (rng.random() < 0.01) << 3
        data = self.sealer.protect(bytes([first]) + ID + self.number.to_bytes(4, "big"), self.number, frames)
        if rng.random() < 0.03:
            at = rng.randrange(9, len(data))
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        return data

    def _deliver(self, data: bytes) -> None:
        self.packets += 1
        elsewhere = self.random.random() < 0.01
        item = (data, b"elsewhere" if elsewhere else self.peer.remote, self.peer.local, CLOCK_NS + int(self.now * 1e9), True)
        planes = self.planes[1:] if self.updated else self.planes
        found = [plane.process([item], self.now, CLOCK_NS + int(self.now * 1e9) + 1000) for plane in planes]
        assert all(one == found[0] for one in found), f"different outcomes: {found}"
        self.planes[2].cool()
        for answer, _, _ in found[0][0]:
            self._check(answer)

    def _check(self, answer: bytes) -> None:
        opened = self.opener.open(answer, 1 + len(self.peer.peer_id), max(0, self.largest + 1))
        if opened is None:
            # The reply to a late packet of the former phase is sealed with the present keys; this one with the former ones.
            self.done["of another phase"] += 1
            return
        header, number, _ = opened
        known = (bytes([header[0] >> 2 & 1]) + self.secrets[1], number)
        assert known not in self.numbers, "a packet number twice under one key"
        self.numbers.add(known)
        self.largest = max(self.largest, number)
        self.done["answered"] += 1


class Resting(Arena):
    """A server whose connection may be at rest. Links and acts have random numbers of their own in each step."""

    def __init__(self, seed: int, certificates: CertificateFiles, rest_after: float, suite: CipherSuite) -> None:
        super().__init__(seed, certificates, lossy=True, rest_after=rest_after, suite=suite)
        self.seed, self.steps, self.packets = seed, 0, 0
        self.link = random.Random(seed)

    @property
    def rests(self) -> bool:
        """Whether nothing is left in Python."""
        return not self.router.connections

    def step(self) -> None:
        self.steps += 1
        self.random = random.Random(f"acts {self.seed} {self.steps}")
        self.link = random.Random(f"link {self.seed} {self.steps}")
        super().step()
        if self.random.random() < 0.15:
            # Long enough to rest.
            for _ in range(8):
                self.now += 0.3
                self._timers()
                self._client_turn()

    def check(self) -> None:
        assert self.router.count == 1, "the server dropped the connection"
        assert self.client._close_event is None, self.client._close_event
        assert all(connection.quic._close_event is None for connection in self.router.connections)
        assert all(count == 1 for count in self.answers.values())
        assert set(self.answers) <= self.asked

    def establish(self) -> None:
        self.lossy = False
        for _ in range(20):
            self._client_turn()
            self.now += 0.03
            self._timers()
        self.lossy = True
        self._watch_numbers()
        self.check()

    def awake(self) -> Any:
        """The connection, made again where it was at rest."""
        if self.rests:
            assert self.router.wake(self.client._peer_cid.cid, self.now) is not None
        [connection] = self.router.connections
        return connection

    def state(self) -> dict[str, Any]:
        """What must not depend on whether the connection ever rested."""
        connection = self.awake()
        connection.take_back()
        quic = connection.quic
        # How often an end changed its connection ID depends on the order of packets; both ends must know the same ones.
        client: Any = self.client
        own = {known.cid: known.sequence_number for known in quic._host_cids}
        assert own == {known.cid: known.sequence_number for known in (client._peer_cid, *client._peer_cid_available)}
        peers = {known.cid: known.sequence_number for known in (quic._peer_cid, *quic._peer_cid_available)}
        assert peers == {known.cid: known.sequence_number for known in client._host_cids}
        assert max(quic._peer_cid_sequence_numbers) == client._host_cid_seq - 1
        keys, limits = quic._cryptos[Epoch.ONE_RTT], quic._local_max_streams_bidi
        return {
            "alpn": connection.alpn,
            "phase": (keys.recv.key_phase, keys.send.key_phase),
            "streams": (limits.used, limits.value, sorted(quic._streams)),
            "data": (quic._local_max_data.used, quic._remote_max_data_used, quic._remote_max_data),
            "path": (quic._network_paths[0].addr.remote, quic._network_paths[0].is_validated),
            "answered on streams": self.done["stream answered"],
            "asked": len(self.asked),
        }

    def _server_key_update(self) -> None:
        self.awake()
        super()._server_key_update()

    def _server_takes(self, data: bytes, path: NetworkPath) -> list[tuple[bytes, Any]]:
        out = super()._server_takes(data, path)
        self.packets += 1 + len(out)
        return out

    def _copies(self) -> int:
        if not self.lossy:
            return 1
        choice = self.link.random()
        return 0 if choice < 0.05 else 2 if choice < 0.10 else 1


class Worlds:
    """Two whole servers, one of whose connections rest whenever they can; the same acts of their clients, and the same links."""

    def __init__(self, seed: int, certificates: CertificateFiles) -> None:
        suite = CipherSuite(SUITES[seed % len(SUITES)])
        self.worlds = [Resting(seed, certificates, rest_after, suite) for rest_after in (1e9, 0.0)]
        for world in self.worlds:
            world.establish()

    @property
    def packets(self) -> int:
        """Of both servers, in both directions."""
        return sum(world.packets for world in self.worlds)

    def run(self, steps: int) -> Counter[str]:
        """So many acts, then all that is under way arrives: both servers must be in the same state. What was done."""
        for world in self.worlds:
            world.lossy = True
            for _ in range(steps):
                world.step()
            world.settle()
            world.ask(3)
            world.settle()
        oracle, rested = self.worlds
        assert oracle.state() == rested.state(), "not the state of a connection that never rested"
        for world in self.worlds:
            before = len(world.answers)
            world.ask(2)
            world.settle()
            assert len(world.answers) == before + 2, "a request without an answer"
        assert oracle.counters.get("rested") == 0
        return rested.done + Counter(rested=rested.counters.get("rested"), rebuilt=rested.counters.get("rebuilt"))


def records(packets: int, seed: int) -> None:
    """So many packets to records and sessions."""
    done: Counter[str] = Counter()
    first = seed
    while done["packets"] < packets:
        twins = Twins(SUITES[seed % len(SUITES)], seed)
        try:
            twins.run(2000)
        except AssertionError:
            sys.stdout.write(f"difference: records, seed {seed}, packet {twins.packets}\n")
            raise
        done.update(twins.done, packets=twins.packets)
        seed += 1
    sys.stdout.write(f"records, seeds {first} to {seed - 1}, no difference: {dict(done)}\n")


def whole_servers(packets: int, seed: int) -> None:
    """So many packets to and from whole servers."""
    done: Counter[str] = Counter()
    first = seed
    with tempfile.TemporaryDirectory(prefix="tsq-fuzz-") as directory:
        certificates = self_signed(directory, ["localhost"])
        while done["packets"] < packets:
            worlds = Worlds(seed, certificates)
            try:
                for _ in range(4):
                    found = worlds.run(30)
            except AssertionError:
                sys.stdout.write(f"difference: whole servers, seed {seed}\n")
                raise
            done.update(found, packets=worlds.packets)
            seed += 1
    sys.stdout.write(f"whole servers, seeds {first} to {seed - 1}, no difference: {dict(done)}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m tests.fuzz_rest", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--packets", type=int, default=1_000_000, help="packets to records and sessions (default: %(default)s)")
    parser.add_argument("--whole", type=int, default=50_000, help="packets of whole servers (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    values = parser.parse_args(arguments)
    records(values.packets, values.seed)
    whole_servers(values.whole, values.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
