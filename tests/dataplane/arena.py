"""Seeded traffic between a plain aioquic client and the server's two planes, in virtual time.

The client asks, pings, opens streams, updates keys, changes connection IDs and its address; the link loses, doubles and reorders;
time jumps. What must hold whatever happens is checked on the way: no protocol error, no second answer to a request, no packet
number twice under one key.
"""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.tls import CipherSuite, Epoch

from tsq._fast import pack_address
from tsq.counters import Counters
from tsq.dataplane.batches import DataPlane
from tsq.quic import tls
from tsq.quic.router import Limits, Router
from tsq.quic.selfsigned import CertificateFiles
from tsq.quic.udp import Datagram, NetworkPath
from tsq.server.core import ServerCore
from tsq.server.responder import Responder

CLOCK_NS = 1_800_000_000_000_000_000
LOCAL = b"\x7f\x00\x00\x01"
REQUEST = b"\x01\x10"
_JUMPS = (0.0002, 0.002, 0.005, 0.03, 0.3)


class Arena:
    """One connection. lossy: whether the link misbehaves; data_plane: whether the server has one; rest_after: as in Limits."""

    def __init__(
        self,
        seed: int,
        certificates: CertificateFiles,
        *,
        lossy: bool,
        data_plane: bool = True,
        rest_after: float = 1e9,
        suite: CipherSuite = CipherSuite.AES_128_GCM_SHA256,
    ) -> None:
        self.random = random.Random(seed)
        self.lossy = lossy
        self.now = 1000.0
        self.counters = Counters()
        self.data_plane = DataPlane() if data_plane else None
        configuration = tls.server_configuration(str(certificates.certificate), str(certificates.key))
        configuration.cipher_suites = [suite]
        self.router = Router(configuration, self.counters, Limits(rest_after=rest_after))
        self.core = ServerCore(self.router, Responder(), self.counters, self._clock, self.data_plane)
        client = QuicConfiguration(is_client=True, alpn_protocols=["tsq/1"], max_datagram_frame_size=65535, server_name="localhost")
        client.load_verify_locations(cafile=str(certificates.authority))
        self.client = QuicConnection(configuration=client)
        self.path = self._path(40000)
        self.client.connect("the server", self.now)
        self.asked: set[bytes] = set()
        self.answers: Counter[bytes] = Counter()
        self.done: Counter[str] = Counter()
        self.numbers: dict[tuple[int, int], bytes] = {}
        self._to_server: list[tuple[bytes, NetworkPath]] = []
        self._next_care = self.now + 1
        self._last_update = 0.0

    # ---------------------------------------------------------------------------------------------------------- traffic

    def establish(self) -> None:
        """The handshake, and what it leaves to acknowledge; on a link that behaves."""
        lossy, self.lossy = self.lossy, False
        for _ in range(20):
            self._client_turn()
            self.now += 0.03
            self._timers()
        self.lossy = lossy
        self._watch_numbers()
        assert self.connection is not None

    def step(self) -> None:
        """One random act, and time goes on."""
        choice = self.random.random()
        if choice < 0.75:
            self.ask(self.random.choice((1, 1, 1, 1, 2, 5)))
        elif choice < 0.80:
            self.client.send_ping(self.done["ping"])
            self.done["ping"] += 1
        elif choice < 0.85:
            self._stream()
        elif choice < 0.87:
            self._update_keys(self.client.request_key_update)
        elif choice < 0.88:
            self._update_keys(self._server_key_update)
        elif choice < 0.90:
            self.client.change_connection_id()
            self.done["connection ID"] += 1
        elif choice < 0.91:
            # RFC 9000 §9.5: who moves of his own will takes another connection ID with him.
            if self.random.random() < 0.5:
                self.client.change_connection_id()
            self.path = self._path(self.random.randint(2000, 60000))
            self.done["migration"] += 1
        self._client_turn()
        self.now += self.random.choice(_JUMPS)
        self._timers()
        self._client_turn()
        self.check()

    def ask(self, count: int = 1) -> None:
        """Requests as DATAGRAM frames of one packet."""
        for _ in range(count):
            nonce = self.random.randbytes(16)
            self.asked.add(nonce)
            self.client.send_datagram_frame(REQUEST + nonce)

    def settle(self) -> None:
        """Let everything that is under way arrive."""
        self.lossy = False
        for _ in range(40):
            self._client_turn()
            self.now += 0.1
            self._timers()
        self.check()

    def check(self) -> None:
        """What must hold at any time."""
        connection = self.connection
        assert connection is not None, "the server dropped the connection"
        assert self.client._close_event is None, self.client._close_event
        assert connection.quic._close_event is None, connection.quic._close_event
        assert all(count == 1 for count in self.answers.values())
        assert set(self.answers) <= self.asked

    @property
    def connection(self) -> Any:
        """The server's end."""
        connections = self.router.connections
        return connections[0] if connections else None

    # -------------------------------------------------------------------------------------------------------- both ends

    def _client_turn(self) -> None:
        for data, _ in self.client.datagrams_to_send(self.now):
            self._to_server.append((data, self.path))
        if self.lossy and self.random.random() < 0.2:
            self.random.shuffle(self._to_server)
        arriving, self._to_server = self._to_server, []
        for data, path in arriving:
            for _ in range(self._copies()):
                self._from_server(self._server_takes(data, path))

    def _server_takes(self, data: bytes, path: NetworkPath) -> list[tuple[bytes, Any]]:
        out: list[tuple[bytes, Any]] = []
        rest = [(data, path.remote, path.local, self._clock(), True)]
        if self.data_plane is not None:
            answers, rest = self.data_plane.process(rest, self.now, self._clock())
            out += [(answer, path) for answer, _, _ in answers]
        for item, remote, local, received_ns, kernel in rest:
            out += self.core.received(Datagram(item, NetworkPath(remote, local), received_ns, kernel), self.now).datagrams
        if self.connection is not None:
            # The client may use a connection ID as soon as it has it.
            sent = {item.cid for item in self.connection.quic._host_cids if item.was_sent}
            assert sent <= self.connection.ids
        return out

    def _from_server(self, out: list[tuple[bytes, Any]]) -> None:
        for data, _ in out:
            for _ in range(self._copies()):
                self.client.receive_datagram(data, "the server", self.now)
        while (event := self.client.next_event()) is not None:
            if isinstance(event, events.DatagramFrameReceived):
                assert event.data[:2] == REQUEST
                assert len(event.data) == 38
                self.answers[event.data[2:18]] += 1
            elif isinstance(event, events.StreamDataReceived) and event.end_stream:
                self.done["stream answered"] += 1

    def _timers(self) -> None:
        if (due := self.client.get_timer()) is not None and due <= self.now:
            self.client.handle_timer(self.now)
        connection = self.connection
        if connection is not None:
            # The server's own timer reads the deadline as the router does.
            due = self.router.deadline(connection)
            if due is not None and due <= self.now:
                self._from_server(self.core.expired(connection, self.now).datagrams)
        if self.now >= self._next_care:
            self._next_care = self.now + 1
            for outcome in self.core.look_after(self.now):
                self._from_server(outcome.datagrams)

    def _stream(self) -> None:
        stream_id = self.client.get_next_available_stream_id()
        self.client.send_stream_data(stream_id, REQUEST + self.random.randbytes(16), end_stream=True)
        self.done["stream"] += 1

    def _update_keys(self, update: Callable[[], None]) -> None:
        # RFC 9001 §6.5: not before the last one has settled.
        if self.now - self._last_update > 1:
            self._last_update = self.now
            update()
            self.done["key update"] += 1

    def _server_key_update(self) -> None:
        connection = self.connection
        connection.take_back()
        connection.quic.request_key_update()
        connection.quic.send_ping(0)
        out = connection.flush(self.now)
        connection.hand_over(self.now)
        self._from_server(out)

    def _copies(self) -> int:
        if not self.lossy:
            return 1
        choice = self.random.random()
        return 0 if choice < 0.05 else 2 if choice < 0.10 else 1

    def _path(self, port: int) -> NetworkPath:
        return NetworkPath(pack_address("127.0.0.1", port), LOCAL)

    def _clock(self) -> int:
        return CLOCK_NS + round((self.now - 1000) * 1e9)

    def _watch_numbers(self) -> None:
        """Remember each packet number that the server's packets turn out to have, with its key; the same twice is a failure."""
        keys = self.client._cryptos[Epoch.ONE_RTT]
        decrypt = keys.decrypt_packet

        def watched(packet: bytes, offset: int, expected: int) -> Any:
            result = decrypt(packet, offset, expected)
            known = self.numbers.setdefault((hash(keys.recv.secret), result[2]), packet)
            assert known == packet, f"packet number {result[2]} twice under one key"
            return result

        keys.decrypt_packet = watched  # type: ignore[method-assign]
