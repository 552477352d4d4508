"""Writes down every IP packet that passes an interface: when, how large, which way, which ports.

    python -m benchmarks.compare.sniffer INTERFACE

Prints "ready", and a JSON list when it is asked to end (SIGTERM): [Unix ns, bytes of the IP packet, "tcp" or "udp", outgoing,
source port, destination port]. It must never see more than its own network namespace.
"""

import json
import signal
import socket
import struct
import sys
from typing import NamedTuple

_ALL = 0x0003  # ETH_P_ALL
_IPV4 = 0x0800
_OUTGOING = 4  # PACKET_OUTGOING
_TIMESTAMP = 35  # SO_TIMESTAMPNS
_KINDS = {6: "tcp", 17: "udp"}
_BUFFER = 1 << 22


class Packet(NamedTuple):
    """One packet."""

    at_ns: int
    size: int
    kind: str
    outgoing: bool
    source: int
    destination: int


def read(listener: socket.socket) -> Packet | None:
    """The next packet; None for what is not TCP or UDP over IPv4."""
    data, more, _, address = listener.recvmsg(256, 128)
    (_, protocol, way, *_) = address
    if protocol != _IPV4 or len(data) < 24 or data[9] not in _KINDS:
        return None
    header = (data[0] & 15) * 4
    source, destination = struct.unpack_from("!HH", data, header)
    seconds, ns = struct.unpack("@qq", more[0][2][:16])
    return Packet(
        seconds * 1_000_000_000 + ns, int.from_bytes(data[2:4], "big"), _KINDS[data[9]], way == _OUTGOING, source, destination
    )


def main(interface: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    packets: list[Packet] = []
    # SOCK_DGRAM: without the link's header.
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        listener.setsockopt(socket.SOL_SOCKET, _TIMESTAMP, 1)
        listener.bind((interface, 0))
        print("ready", flush=True)
        try:
            while True:
                if (packet := read(listener)) is not None:
                    packets.append(packet)
        finally:
            print(json.dumps(packets), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
