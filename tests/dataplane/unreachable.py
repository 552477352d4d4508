"""One batch in which one client can no longer be reached: `unshare -n python -m tests.dataplane.unreachable 102`.

The argument says in which order requests come: 1 is the client whose route goes away between its request and the answer. Prints
the clients that got an answer, and of how many of two more answers the transmit timestamp is known then. Needs a network namespace
of its own, whose loopback device it changes.
"""

import socket
import subprocess
import sys

from tests.dataplane.peer import EXACT_T3, Peer, datagram, request
from tsq import _sockets
from tsq._fast import pack_address
from tsq.dataplane.batches import DataPlane

GONE = "10.9.9.9"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def main(order: list[int]) -> int:
    ip("link", "set", "lo", "up")
    ip("addr", "add", f"{GONE}/32", "dev", "lo")
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    _sockets.enable_receive_timestamps(server.fileno(), socket.AF_INET, False)
    _sockets.enable_transmit_timestamps(server.fileno())
    server.bind(("127.0.0.1", 0))
    data_plane = DataPlane()
    clients = []
    for number, host in enumerate(("127.0.0.1", GONE, "127.0.0.1")):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.setblocking(False)
        client.bind((host, 0))
        remote = pack_address(*client.getsockname())
        peer = Peer(data_plane=data_plane, connection_id=bytes([number]) * 8, seed=number, remote=remote, local=b"")
        clients.append((client, peer))
    for number in order:
        client, peer = clients[number]
        client.sendto(peer.seal(datagram(request(number, exact=True))), server.getsockname())
    ip("addr", "del", f"{GONE}/32", "dev", "lo")
    ip("route", "add", "unreachable", f"{GONE}/32")
    data_plane.receive(server.fileno())
    for number, (client, _) in enumerate(clients):
        try:
            client.recv(2048)
        except BlockingIOError:
            continue
        sys.stdout.write(f"{number}\n")
    sys.stdout.write(f"unsent {data_plane.unsent}\n")
    client, peer = clients[0]
    peer.session.report()
    exact = 0
    for nonce in (b"n" * 16, b"m" * 16):
        client.sendto(peer.seal(datagram(b"\x01\x10" + nonce + EXACT_T3)), server.getsockname())
        data_plane.receive(server.fileno())
        exact += peer.session.report()[:16] == nonce[:8].hex()
    sys.stdout.write(f"exact {exact}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main([int(digit) for digit in sys.argv[1]]))
