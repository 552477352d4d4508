"""Vectors of signatures and of chains of nonces (docs/reference/protocol.md R5, R6; docs/explanation/proofs.md)."""

import hmac
from hashlib import sha256
from itertools import permutations

from tests.vectors.parts import (
    ANSWER,
    KEYS,
    LAB,
    NONCE_BYTES,
    PRECISION,
    SIGN,
    T2_NS,
    Vector,
    blind,
    block,
    document,
    quality,
    signature,
    signed,
    source,
    stamp,
    tlv,
)


def signatures() -> str:
    def vector(name: str, about: str, message: bytes, trusted: list[str], verdict: str) -> Vector:
        return {"name": name, "about": about, "message": message.hex(), "trusted": trusted, "verdict": verdict}

    by_a, by_b, by_hmac = (signed(name, ANSWER) for name in ("ed25519-a", "ed25519-b", "hmac-a"))
    flipped = bytes([by_a[20] ^ 1])
    high = KEYS["ed25519-b"]["key_id"]
    vectors = [
        vector("Ed25519", "a trusted key", by_a, ["ed25519-a"], "good"),
        vector("Ed25519, largest key id", "4294967295", by_b, ["ed25519-b"], "good"),
        vector("HMAC-SHA256", "a trusted key", by_hmac, ["hmac-a"], "good"),
        vector("HMAC-SHA256, key id 0", "a secret of 50 bytes", signed("hmac-b", ANSWER), ["hmac-b"], "good"),
        vector("key found by its id", "of four trusted keys", by_b, list(KEYS), "good"),
        vector(
            "everything is covered",
            "optional TLVs and padding, too",
            signed("ed25519-a", ANSWER + LAB + PRECISION + tlv(254, bytes(9))),
            ["ed25519-a"],
            "good",
        ),
        vector(
            "unknown types are covered",
            "skipped, and signed all the same",
            signed("hmac-a", ANSWER + tlv(100, b"later")),
            ["hmac-a"],
            "good",
        ),
        vector("none", "a response without a signature", ANSWER, ["ed25519-a"], "missing"),
        vector("unknown key", "a right signature by a key that is not trusted", by_b, ["ed25519-a", "hmac-a"], "unknown key"),
        vector("no key", "nothing is trusted", by_a, [], "unknown key"),
        vector("T2 changed", "one bit", by_a[:20] + flipped + by_a[21:], ["ed25519-a"], "bad"),
        vector("nonce changed", "one bit", by_hmac[:2] + b"\x01" + by_hmac[3:], ["hmac-a"], "bad"),
        vector("signature changed", "one bit", by_a[:-1] + bytes([by_a[-1] ^ 1]), ["ed25519-a"], "bad"),
        vector("TLV inserted", "padding before the block", ANSWER + tlv(254) + by_a[len(ANSWER) :], ["ed25519-a"], "bad"),
        vector(
            "another key's id",
            "signed by ed25519-a, with the id of ed25519-b",
            ANSWER + block(1, high, signature("ed25519-a", ANSWER)),
            ["ed25519-a", "ed25519-b"],
            "bad",
        ),
        vector(
            "another algorithm",
            "a right HMAC of the public key of an Ed25519 key",
            ANSWER + block(2, 1, _hmac_with_public("ed25519-a", ANSWER)),
            ["ed25519-a"],
            "wrong algorithm",
        ),
        vector("algorithm without a name", "3", ANSWER + block(3, 7, signature("hmac-a", ANSWER)), ["hmac-a"], "wrong algorithm"),
        vector("Ed25519 cut", "63 bytes", ANSWER + block(1, 1, signature("ed25519-a", ANSWER)[:63]), ["ed25519-a"], "bad"),
        vector("HMAC cut", "16 bytes are not enough", ANSWER + block(2, 7, signature("hmac-a", ANSWER)[:16]), ["hmac-a"], "bad"),
        vector("HMAC of nothing", "an empty signature", ANSWER + block(2, 7, b""), ["hmac-a"], "bad"),
        vector(
            "block is covered",
            "a signature over the block's header, too, is that of another protocol",
            ANSWER + block(2, 7, signature("hmac-a", ANSWER + block(2, 7, bytes(32))[:9])),
            ["hmac-a"],
            "bad",
        ),
    ]
    return document("Signature Blocks, and what a client that requires one finds (R5, R6).", vectors, keys=KEYS)


def _hmac_with_public(name: str, covered: bytes) -> bytes:
    """What a forger can make with the public key."""
    return hmac.digest(bytes.fromhex(KEYS[name]["public"]), covered, "sha256")


ERROR_US = 100
SERVERS = {"ant": "ed25519-a", "bee": "ed25519-b", "cat": "hmac-a"}


def chain(
    name: str, about: str, servers: str, *, offsets_ns: dict[str, int], delay_ns: int = 300_000, broken: int | None = None
) -> Vector:
    """Exchanges with these servers in turn. offsets_ns: how far each clock is ahead of true time; delay_ns: of each direction.
    broken: the number of a record whose nonce does not follow.
    """
    at_ns = T2_NS
    previous = b""
    records: list[Vector] = []
    for number, server in enumerate(servers.split()):
        salt = blind(number)
        nonce = NONCE_BYTES if number == broken else sha256(previous + salt).digest()[:16]
        t2_ns = at_ns + delay_ns + offsets_ns.get(server, 0)
        t3_ns = t2_ns + 50_000
        covered = tlv(1, nonce) + tlv(2, stamp(t2_ns)) + tlv(3, stamp(t3_ns)) + quality(1, ERROR_US, 0) + source(1, 1)
        previous = signed(SERVERS[server], covered)
        records.append(
            {
                "server": server,
                "blind": salt.hex(),
                "request": (tlv(1, nonce) + tlv(247) + SIGN).hex(),
                "response": previous.hex(),
                "t2_ns": str(t2_ns),
                "t3_ns": str(t3_ns),
                "follows": number != broken,
            }
        )
        at_ns += 2 * delay_ns + 60_000
    errors_ns = dict.fromkeys(sorted({record["server"] for record in records if record["follows"]}), ERROR_US * 1000)
    limits = proven(records)
    accused = [server for server in errors_ns if not contradict(limits, errors_ns, server)] if contradict(limits, errors_ns) else []
    return {
        "name": name,
        "about": about,
        "records": records,
        "errors_ns": {server: str(error) for server, error in errors_ns.items()},
        "limits": [{"earlier": a, "later": b, "at_most_ns": str(ns)} for (a, b), ns in sorted(limits.items())],
        "contradiction": contradict(limits, errors_ns),
        "accused": accused[0] if len(accused) == 1 else None,
    }


def proven(records: list[Vector]) -> dict[tuple[str, str], int]:
    """The lowest limit of each pair: every record against all before it, back to the last one that does not follow."""
    lowest: dict[tuple[str, str], int] = {}
    for later, after in enumerate(records):
        for earlier in range(later - 1, -1, -1):
            if not (after["follows"] and records[earlier]["follows"]):
                break
            pair = records[earlier]["server"], after["server"]
            limit = int(after["t2_ns"]) - int(records[earlier]["t3_ns"])
            lowest[pair] = min(limit, lowest.get(pair, limit))
    return lowest


def contradict(limits: dict[tuple[str, str], int], errors_ns: dict[str, int], without: str = "") -> bool:
    """Whether no offsets satisfy all limits, true time's included: by trying every cycle, which is right and slow."""
    edges = dict(limits)
    for server, error in errors_ns.items():
        edges |= {("", server): error, (server, ""): error}
    nodes = ["", *(server for server in errors_ns if server != without)]
    return any(
        sum(edges.get(edge, 1 << 62) for edge in zip(cycle, (*cycle[1:], cycle[0]), strict=True)) < 0
        for size in range(1, len(nodes) + 1)
        for cycle in permutations(nodes, size)
    )


def chains() -> str:
    order = "ant bee cat ant cat bee ant"
    return document(
        "Chains of exchanges: nonces, the order that they prove, and limits between clocks (docs/explanation/proofs.md).",
        [
            chain("one exchange", "proves no order", "ant", offsets_ns={}),
            chain("two servers", "a limit in one direction", "ant bee", offsets_ns={}),
            chain("three servers", "each directly after each other one", order, offsets_ns={}),
            chain("clocks within their errors", "90 µs ahead and behind", order, offsets_ns={"ant": 90_000, "cat": -90_000}),
            chain("a lie of 10 ms", "bee is ahead, and named", order, offsets_ns={"bee": 10_000_000}),
            chain("a lie of 10 ms backwards", "cat is behind, and named", order, offsets_ns={"cat": -10_000_000}),
            chain(
                "two that lie",
                "a contradiction, and nobody can be named",
                order,
                offsets_ns={"ant": 10_000_000, "bee": -10_000_000},
            ),
            chain(
                "delays hide a lie",
                "a minute each way: nobody is accused",
                order,
                offsets_ns={"bee": 10_000_000},
                delay_ns=60_000_000_000,
            ),
            chain(
                "a link that does not fit",
                "the third record does not follow and proves nothing; the fourth follows it",
                "ant bee cat ant bee",
                offsets_ns={},
                broken=2,
            ),
            chain(
                "a first record that does not fit",
                "the nonce of the first is made from its blind alone",
                "ant bee",
                offsets_ns={},
                broken=0,
            ),
        ],
        keys={name: KEYS[name] for name in SERVERS.values()},
        signers=SERVERS,
        pivot_ns=str(T2_NS),
    )
