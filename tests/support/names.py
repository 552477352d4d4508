"""A DNS server for tests: `python -m tests.support.names TABLE ADDRESS PORT` answers from a JSON file, read for each query.

The file maps a name to its records, such as {"time.example": {"A": ["192.0.2.1"]}}. A name without the requested record gives an
empty answer (NODATA), an unknown name NXDOMAIN, a number that response code, null no answer.
"""

import json
import socket
import sys
from ipaddress import ip_address
from pathlib import Path

_KINDS = {1: "A", 28: "AAAA"}
_NAME_ERROR = 3
_HEADER_SIZE = 12


def answer(question: bytes, table: dict) -> bytes | None:
    """The response to one query (RFC 1035 §4.1); None: no response."""
    labels, at = [], _HEADER_SIZE
    while size := question[at]:
        labels.append(question[at + 1 : at + 1 + size].decode().lower())
        at += 1 + size
    kind = int.from_bytes(question[at + 1 : at + 3], "big")
    records = table.get(".".join(labels), _NAME_ERROR)
    if records is None:
        return None
    code, data = (records, []) if isinstance(records, int) else (0, records.get(_KINDS.get(kind, ""), []))
    # A response, authoritative, recursion desired and available; one question, no other sections.
    header = question[:2] + bytes([0x85, 0x80 | code]) + (1).to_bytes(2, "big") + len(data).to_bytes(2, "big") + bytes(4)
    out = header + question[_HEADER_SIZE : at + 5]
    for text in data:
        packed = ip_address(text).packed
        # The name as a pointer to the question, the type, class IN, TTL 0.
        out += b"\xc0\x0c" + kind.to_bytes(2, "big") + b"\x00\x01" + bytes(4) + len(packed).to_bytes(2, "big") + packed
    return out


def main(table: str, address: str, port: str) -> None:
    """Answer queries until the process ends."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind((address, int(port)))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            question, peer = udp.recvfrom(4096)
            reply = answer(question, json.loads(Path(table).read_text()))
            if reply is not None:
                udp.sendto(reply, peer)


if __name__ == "__main__":
    main(*sys.argv[1:])
