"""A small balancer that reads QUIC-LB connection IDs, as a program: datagrams go to the server that the connection ID names.

    python -m tests.support.quic_lb_relay LISTEN NUMBER:LENGTH KEYFILE SERVER-ID=ADDRESS:PORT ...

A connection ID that names no server (a client's own choice, at the start) goes to one of those that are up, always the same for an
address. Standard input: `up SERVER-ID ...` says which ones take new clients; standard output says `ok`, also at the start.
"""

import contextlib
import selectors
import socket
import sys
from collections.abc import Iterable

from tsq.options import parse_target
from tsq.quic.quic_lb import QuicLb

_ID_SIZE = 8
_AT_ONCE = 64
Address = tuple[str, int]


class Relay:
    """front: a bound socket. servers: their addresses by server ID."""

    def __init__(self, front: socket.socket, configuration: QuicLb, servers: dict[bytes, Address]) -> None:
        self._front, self._configuration, self._servers = front, configuration, servers
        self.up = list(servers)
        self._chosen: dict[Address, bytes] = {}
        self._backs: dict[tuple[Address, bytes], socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(front, selectors.EVENT_READ, None)
        self._selector.register(sys.stdin, selectors.EVENT_READ, "commands")

    def run(self) -> None:
        """Relay until standard input ends."""
        while True:
            for key, _ in self._selector.select():
                if key.data == "commands":
                    if not self._command(sys.stdin.readline()):
                        return
                elif key.data is None:
                    for data, client in received(self._front):
                        with contextlib.suppress(OSError):
                            self._back(client, self._server(data, client)).send(data)
                else:
                    for data, _ in received(key.fileobj):
                        self._front.sendto(data, key.data)

    def _command(self, line: str) -> bool:
        if line:
            self.up = [bytes.fromhex(word) for word in line.split()[1:]]
            print("ok", flush=True)
        return bool(line)

    def _server(self, data: bytes, client: Address) -> bytes:
        # Long headers have the connection ID's length before it (RFC 9000 §17.2).
        connection_id = data[6 : 6 + data[5]] if data[0] & 0x80 and len(data) > 6 else data[1 : 1 + _ID_SIZE]
        named = self._configuration.decode(connection_id)
        if named in self._servers:
            return named
        chosen = self._chosen.get(client)
        # The rest of a first flight follows its beginning, as long as the server takes new clients.
        if chosen not in self.up:
            chosen = self._chosen[client] = self.up[hash(client) % len(self.up)]
        return chosen

    def _back(self, client: Address, server: bytes) -> socket.socket:
        if (back := self._backs.get((client, server))) is None:
            back = self._backs[client, server] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            back.setblocking(False)
            back.connect(self._servers[server])
            self._selector.register(back, selectors.EVENT_READ, client)
        return back


def received(udp: socket.socket) -> Iterable[tuple[bytes, Address]]:
    """What waits in a socket, up to some datagrams."""
    for _ in range(_AT_ONCE):
        try:
            yield udp.recvfrom(65536)
        except BlockingIOError:
            return
        except OSError:
            # The server's port is closed: its ICMP message.
            continue


def main() -> int:
    listen, form, key, *servers = sys.argv[1:]
    number, length = map(int, form.split(":"))
    configuration = QuicLb(number, bytes(length), 7 - length).with_key(key)
    found = {}
    for server in servers:
        server_id, _, address = server.partition("=")
        target = parse_target(address)
        found[bytes.fromhex(server_id)] = (target.host, target.port)
    front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    front.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    front.setblocking(False)
    target = parse_target(listen)
    front.bind((target.host, target.port))
    print("ok", flush=True)
    Relay(front, configuration, found).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
