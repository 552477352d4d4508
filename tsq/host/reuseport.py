"""Which of the sockets of one address gets a datagram: a program of the kernel's packet filter (socket(7), SO_REUSEPORT).

Comes in: how many workers there are, and which of their places serve. Goes out: the program, as bytes of `struct sock_filter`, and
its attachment to a group of sockets. The program must never depend on anything but the datagram's first bytes: there is no table
that the kernel has to keep in step with connections.
"""

import array
import errno
import socket
import struct
from collections.abc import Collection, Sequence

# <asm-generic/socket.h>
_SO_ATTACH_REUSEPORT_CBPF = getattr(socket, "SO_ATTACH_REUSEPORT_CBPF", 51)
# Operations of classic BPF (<linux/bpf_common.h>), by the names of the kernel's bpf_asm.
_OPERATIONS = {
    "ldlen": 0x80,
    "ldw": 0x20,
    "ldb": 0x30,
    "add": 0x04,
    "mod": 0x94,
    "and": 0x54,
    "jeq": 0x15,
    "jge": 0x35,
    "jset": 0x45,
    "ret": 0x06,
    "reta": 0x16,
}
_INSTRUCTION = struct.Struct("=HBBI")
# What a datagram must have for its connection ID's first octet to be read, whatever its header.
_LEAST = 7
# RFC 9000 §17.2, RFC 9369 §3.2: the bits of a long header's packet type, and the type Handshake.
_LONG = 0x80
_TYPE_BITS = 0x30
_VERSION_2 = 0x6B3343CF
_HANDSHAKE_1, _HANDSHAKE_2 = 0x20, 0x30
_SHORT_ID_AT, _LONG_ID_AT, _VERSION_AT = 1, 6, 1
# A connection ID's slot is in these bits of its first octet; where there are more slots, in the whole octet.
SLOT_BITS = 0x1F
_MOST_SLOTS = 256
# How often another free port is looked for.
_TRIES = 8

# An operation with its operand and, of a jump, the labels for yes and no; or a label. "" as a label: the next line.
Line = str | tuple[str] | tuple[str, int] | tuple[str, int, str, str]


def assemble(lines: Sequence[Line]) -> bytes:
    """The instructions of these lines. A jump is forward, by 255 instructions at most."""
    places: dict[str, int] = {}
    operations: list[tuple[str] | tuple[str, int] | tuple[str, int, str, str]] = []
    for line in lines:
        if isinstance(line, str):
            places[line] = len(operations)
        else:
            operations.append(line)
    code = bytearray()
    for number, (name, *operands) in enumerate(operations):
        constant = operands[0] if operands else 0
        jumps = [places[label] - number - 1 if label else 0 for label in map(str, operands[1:])] or [0, 0]
        code += _INSTRUCTION.pack(_OPERATIONS[name], *jumps, constant)
    return bytes(code)


def steering(workers: int, newcomers: int, living: Collection[int] = (), *, divided: bool = False) -> bytes:
    """The program for two generations of `workers` workers each, whose sockets are in the order of their slots.

    newcomers: the generation, 0 or 1, that gets Initial and 0-RTT packets. living: the slots of the other generation whose workers
    still serve their connections. A packet of any other of its connections goes to the newcomers' generation, which ends the
    connection by a stateless reset. divided: behind these sockets come as many others, in the same order, for newcomers alone.
    """
    slots, first = 2 * workers, newcomers * workers
    if not 1 <= workers <= _MOST_SLOTS // 2:
        raise ValueError(f"{workers} workers (expected 1 to {_MOST_SLOTS // 2})")
    in_slot: list[Line] = [("and", SLOT_BITS)] if slots <= SLOT_BITS + 1 else []
    to_newcomers: list[Line] = [*in_slot, ("mod", workers), ("add", first), ("reta",)]
    to_strangers: list[Line] = [*in_slot, ("mod", workers), ("add", first + slots * divided), ("reta",)]
    other = range(workers - first, 2 * workers - first)
    ended = [slot for slot in other if slot not in living]
    if len(ended) == workers:
        known = to_newcomers
    else:
        known = [*in_slot, ("mod", slots)]
        for slot in ended:
            known += [("jeq", slot, "", f"not {slot}"), ("ret", slot % workers + first), f"not {slot}"]
        known.append(("reta",))
    return _by_header(to_strangers, known, first + slots * divided)


def division() -> bytes:
    """The program for one server with two sockets, of which the second is for newcomers."""
    return _by_header([("ret", 1)], [("ret", 0)], 1)


def _by_header(newcomer: Sequence[Line], known: Sequence[Line], short: int) -> bytes:
    """A program that tells newcomers' packets (Initial, 0-RTT, unknown versions) from those of connections.

    newcomer, known: what is done then, with the first octet of the connection ID in the accumulator. short: the socket for
    datagrams that are too short for one.
    """
    return assemble(
        [
            ("ldlen",),
            ("jge", _LEAST, "long enough", ""),
            ("ret", short),
            "long enough",
            ("ldb", 0),
            ("jset", _LONG, "long header", "short header"),
            "long header",
            ("ldw", _VERSION_AT),
            ("jeq", _VERSION_2, "version 2", ""),
            ("ldb", 0),
            ("and", _TYPE_BITS),
            ("jeq", _HANDSHAKE_1, "handshake", "newcomer"),
            "version 2",
            ("ldb", 0),
            ("and", _TYPE_BITS),
            ("jeq", _HANDSHAKE_2, "handshake", "newcomer"),
            "newcomer",
            ("ldb", _LONG_ID_AT),
            *newcomer,
            "handshake",
            ("ldb", _LONG_ID_AT),
            ("jge", 0, "known", "known"),
            "short header",
            ("ldb", _SHORT_ID_AT),
            "known",
            *known,
        ]
    )


def attach(member: socket.socket, program: bytes) -> None:
    """Let this program choose among the sockets of the group that `member` is in. Raises OSError where the kernel does not."""
    instructions = array.array("B", program)
    address, size = instructions.buffer_info()
    # struct sock_fprog: the number of instructions, and where they are.
    member.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, struct.pack("@HP", size // _INSTRUCTION.size, address))


def may_share(member: socket.socket) -> bool:
    """Whether a bound socket lets others have its address, so that they form a group."""
    return bool(member.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))


def bind_group(family: int, address: tuple[str, int], count: int) -> list[socket.socket]:
    """`count` sockets bound to one address, whose places in the kernel's group are those in the list. Raises OSError.

    Port 0: any free one, the same for all. An address that another process has, even as a group, is in use.
    """
    for attempt in range(_TRIES):
        with _unbound(family) as probe:
            # Without SO_REUSEPORT: another server's group must not become larger.
            probe.bind(address)
            bound = probe.getsockname()
        members: list[socket.socket] = []
        try:
            for _ in range(count):
                member = _unbound(family)
                members.append(member)
                member.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                member.bind(bound)
        except OSError as error:
            for member in members:
                member.close()
            # Another process took a port that was free.
            if address[1] == 0 and error.errno == errno.EADDRINUSE and attempt + 1 < _TRIES:
                continue
            raise
        return members
    raise AssertionError


def _unbound(family: int) -> socket.socket:
    created = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        try:
            # So that 0.0.0.0 and [::] can be listened on side by side.
            created.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        except OSError:
            created.close()
            raise
    return created
