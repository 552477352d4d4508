"""Valid messages and mutations of them, for property tests and fuzzing; made with the oracle, not with the code under test."""

import random
from collections.abc import Callable

from tests.support import oracle

NONCE = bytes(range(0x10, 0x20))
T2_NTP = 0xE9A0_0000_1234_5678
T3_NTP = T2_NTP + 0x10000
PLAIN_REQUEST = oracle.pack([(oracle.NONCE, NONCE)])
TIMESTAMPS = [(oracle.T2, T2_NTP.to_bytes(8, "big")), (oracle.T3, T3_NTP.to_bytes(8, "big"))]
PLAIN_RESPONSE = oracle.pack([(oracle.NONCE, NONCE), *TIMESTAMPS])
# The example of docs/reference/protocol.md: site = us-east.
SITE = bytes.fromhex("04736974650775732d65617374")
SIGNATURE_BLOCK = (oracle.SIGNATURE, b"\x01" + bytes([0, 0, 0, 7]) + bytes([0, 64]) + bytes(range(64)))

REQUESTS = [
    PLAIN_REQUEST,
    oracle.pack([(oracle.NONCE, NONCE), (oracle.METADATA_QUERY, b""), (oracle.SIGNATURE_REQUEST, b"")]),
    oracle.pack([(oracle.NONCE, NONCE), (oracle.METADATA, SITE), (oracle.PRECISION, b""), (oracle.PADDING, bytes(20))]),
    oracle.pack([(oracle.NONCE, NONCE), (100, b"unknown"), (oracle.METADATA, b"")]),
]
RESPONSES = [
    PLAIN_RESPONSE,
    oracle.pack(
        [
            (oracle.NONCE, NONCE),
            *TIMESTAMPS,
            (oracle.QUALITY, bytes([1, 0, 0, 5, 0, 9]) + b"GPS"),
            (oracle.SOURCE, bytes([1, 1]) + b"roof"),
            (oracle.METADATA, SITE),
            (oracle.PRECISION, b""),
            (oracle.PADDING, bytes(5)),
            SIGNATURE_BLOCK,
        ]
    ),
    oracle.pack([(oracle.ERROR, b"\x01\x00malformed")]),
]
MESSAGES = REQUESTS + RESPONSES

_KINDS = [1, 2, 3, 100, 247, 248, 249, 250, 251, 252, 253, 254, 255]


def flip(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice([0, 1, 2, 8, 16, 127, 128, *_KINDS])


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randint(0, len(data)) :]


def remove(data: bytearray, rng: random.Random) -> None:
    start = rng.randint(0, len(data))
    del data[start : start + rng.randint(0, 20)]


def insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randint(0, len(data))
    data[at:at] = rng.randbytes(rng.randint(1, 8))


def append_tlv(data: bytearray, rng: random.Random) -> None:
    size = rng.choice([0, 0, 1, 2, 6, 7, 8, 16, 71, 255])
    data += bytes([rng.choice(_KINDS), size]) + rng.randbytes(size)


def repeat(data: bytearray, rng: random.Random) -> None:
    del rng
    data += data[:300]


MUTATIONS: list[Callable[[bytearray, random.Random], None]] = [flip, overwrite, cut, remove, insert, append_tlv, repeat]


def mutated(rng: random.Random) -> bytes:
    """A valid message with zero to four mutations."""
    data = bytearray(rng.choice(MESSAGES))
    for _ in range(rng.randint(0, 4)):
        rng.choice(MUTATIONS)(data, rng)
    return bytes(data[:2048])
