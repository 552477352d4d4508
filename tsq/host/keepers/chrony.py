"""chronyd's `tracking` report of the clock.

Comes in: the address of chronyd's command port. Goes out: a Tracking, or None without an answer. It must never send a request that
changes chronyd, and never accept a reply to another request. `sync_state` checks whether the numbers are plausible.
"""

# Query over UDP, which any user of the machine may. If that port is closed (`cmdport 0`) and chronyd's own socket exists, run
# `chronyc`, which may use the socket as root or as chrony's user.
#
# Layout (chrony's candm.h, protocol version 6), numbers big-endian: request of 104 bytes: version, type 1, two zeros, command 33,
# attempt, sequence, zeros. Reply: version, type 2, two zeros, command 33, reply 5, status 0, three unused u16, sequence, two unused
# u32; then the report. A float is a signed exponent of 7 bits and a signed coefficient of 25: coefficient · 2^(exponent - 25).

import os
import socket
import struct
import subprocess
from dataclasses import dataclass
from ipaddress import ip_address

Address = tuple[str, int]

DEFAULT: Address = ("127.0.0.1", 323)
UNIX_SOCKET = "/run/chrony/chronyd.sock"
LEAP_UNSYNCHRONIZED = 3
_VERSION, _REQUEST, _REPLY, _TRACKING, _TRACKING_REPLY, _SUCCESS = 6, 1, 2, 33, 5, 0
_REQUEST_SIZE = 104
_REQUEST_HEADER = struct.Struct("!BBBBHHIII")
_REPLY_HEADER = struct.Struct("!BBBBHHHHHHIII")
_REPORT = struct.Struct("!I16sHHHHIII9I")
_IPV4, _IPV6 = 1, 2
_TIMEOUT = 0.5
_CHRONYC_TIMEOUT = 2.0
_CSV_FIELDS = 14
_CHRONYC_LEAP = {"Normal": 0, "Insert second": 1, "Delete second": 2}


@dataclass(frozen=True, slots=True)
class Tracking:
    """The report, in seconds and ppm. reference: the source's address, or the name of a reference clock. correction: what to add to
    the system clock, where chronyd is not done with it yet.
    """

    reference_id: int
    reference: str
    stratum: int
    leap: int
    correction: float
    residual_ppm: float
    skew_ppm: float
    root_delay: float
    root_dispersion: float


def ask_tracking(address: Address = DEFAULT, unix_socket: str = UNIX_SOCKET) -> Tracking | None:
    """The report; None where chronyd cannot be asked. Takes half a second at the most, with chronyc two more."""
    return _ask(address) or (_ask_chronyc(unix_socket) if os.path.exists(unix_socket) else None)


def encode_request(sequence: int) -> bytes:
    """The request for the report."""
    return _REQUEST_HEADER.pack(_VERSION, _REQUEST, 0, 0, _TRACKING, 0, sequence, 0, 0).ljust(_REQUEST_SIZE, b"\0")


def decode_reply(data: bytes, sequence: int) -> Tracking | None:
    """The report in a reply to the request with this sequence number; None where it is none."""
    if len(data) < _REPLY_HEADER.size + _REPORT.size:
        return None
    version, kind, _, _, command, reply, status, _, _, _, echoed, _, _ = _REPLY_HEADER.unpack_from(data)
    if (version, kind, command, reply, status, echoed) != (_VERSION, _REPLY, _TRACKING, _TRACKING_REPLY, _SUCCESS, sequence):
        return None
    number, raw, family, _, stratum, leap, _, _, _, *floats = _REPORT.unpack_from(data, _REPLY_HEADER.size)
    correction, _, _, _, residual, skew, root_delay, root_dispersion, _ = map(_float, floats)
    addressed = {_IPV4: raw[:4], _IPV6: raw}.get(family)
    reference = _clock_name(number) if addressed is None else str(ip_address(addressed))
    return Tracking(number, reference, stratum, leap, correction, residual, skew, root_delay, root_dispersion)


def decode_csv(line: str) -> Tracking | None:
    """The report as `chronyc -c tracking` writes it; None where it is none."""
    fields = line.strip().split(",")
    if len(fields) != _CSV_FIELDS:
        return None
    try:
        number = int(fields[0], 16)
        correction, residual, skew, root_delay, root_dispersion = (float(fields[at]) for at in (4, 8, 9, 10, 11))
        stratum = int(fields[2])
    except ValueError:
        return None
    if not (0 <= number < 1 << 32 and 0 <= stratum < 1 << 16):
        return None
    leap = _CHRONYC_LEAP.get(fields[13], LEAP_UNSYNCHRONIZED)
    return Tracking(
        number, fields[1] or _clock_name(number), stratum, leap, correction, residual, skew, root_delay, root_dispersion
    )


def _ask(address: Address) -> Tracking | None:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sequence = int.from_bytes(os.urandom(4), "big")
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as udp:
            udp.settimeout(_TIMEOUT)
            udp.connect(address)
            udp.send(encode_request(sequence))
            return decode_reply(udp.recv(2048), sequence)
    except OSError:
        return None


def _ask_chronyc(unix_socket: str) -> Tracking | None:
    command = ["chronyc", "-h", unix_socket, "-n", "-c", "tracking"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_CHRONYC_TIMEOUT, check=False
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return decode_csv(done.stdout)


def _float(bits: int) -> float:
    exponent = (bits >> 25) - (0x80 if bits >> 31 else 0)
    coefficient = (bits & 0x1FFFFFF) - (0x2000000 if bits & 0x1000000 else 0)
    return float(coefficient) * 2.0 ** (exponent - 25)


def _clock_name(number: int) -> str:
    """A reference clock's name: the letters of its reference ID."""
    text = number.to_bytes(4, "big").rstrip(b"\0").decode("ascii", "replace")
    return text if text.isprintable() and text.isascii() else f"{number:08X}"
