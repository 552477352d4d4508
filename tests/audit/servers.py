"""Signing servers with clocks of their own, asked in turn in virtual time over links that delay."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tsq.audit.records import Chain, Record
from tsq.oneshot.chain import tour
from tsq.server.responder import Draft, Responder
from tsq.wire.message import ClockQuality, Mode, encode_request
from tsq.wire.signature import Ed25519Signer, Verifier

START_NS = 1_800_000_000_000_000_000
MS = 1_000_000


@dataclass
class Signing:
    """A server: its clock is off by `offset_ns`, and it says that its error is at most `error_us`."""

    name: str
    offset_ns: int = 0
    error_us: int = 100

    def __post_init__(self) -> None:
        self.private = Ed25519PrivateKey.from_private_bytes(self.name.encode().ljust(32, b"."))
        self.key_id = sum(self.name.encode())
        self.responder = Responder(Ed25519Signer(self.key_id, self.private), (ClockQuality(3, self.error_us, 1).tlv(),))

    def answer(self, request: bytes, at_ns: int, takes_ns: int) -> bytes:
        draft = self.responder.prepare(request, at_ns + self.offset_ns, Mode.DATAGRAM)
        assert isinstance(draft, Draft)
        response = draft.complete(at_ns + takes_ns + self.offset_ns)
        assert isinstance(response, bytes)
        return response


def verifier(*servers: Signing) -> Verifier:
    return Verifier({server.key_id: server.private.public_key() for server in servers})


def asked_in_turn(
    servers: Sequence[Signing], seed: int = 1, *, tours: int = 1, delay: Callable[[random.Random, int], int] | None = None
) -> list[Record]:
    """The records of a chain. delay: of one direction to the server with this number, ns; 0.5 to 1.5 ms where it is not given."""
    seeded = random.Random(seed)
    delay = delay or (lambda seeded, number: seeded.randrange(500_000, 1_500_000))
    chain = Chain(seeded.randbytes)
    now_ns, records = START_NS, []
    for number in tours * tour(len(servers)):
        server = servers[number]
        request = encode_request(chain.nonce(16), metadata_query=True, signature=True)
        sent_ns, now_ns = now_ns, now_ns + delay(seeded, number)
        response = server.answer(request, now_ns, 50_000)
        now_ns += 50_000 + delay(seeded, number)
        record = chain.add(server.name, request, response, sent_ns, now_ns)
        assert record is not None
        records.append(record)
        now_ns += 10_000
    return records
