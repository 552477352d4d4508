"""Vectors of more than one message: what a server answers, when a stream's request is complete, samples, and NTP timestamps
(docs/reference/protocol.md R2, R4, R6 to R9, R11).
"""

from tests.vectors.parts import (
    ANSWER,
    KEYS,
    LAB,
    NONCE,
    NS,
    PRECISION,
    QUERY,
    SIGN,
    T2_NS,
    T3_NS,
    UNIX_EPOCH,
    Vector,
    document,
    metadata,
    ntp,
    signed,
    stamp,
    tlv,
)

ERA_END_NS = ((1 << 32) - UNIX_EPOCH) * NS  # 2036-02-07 06:28:16 UTC
PIVOT_NS = T2_NS


def exchange(
    name: str, about: str, request: bytes, response: bytes | None, *, key: str | None = None, info: bytes = b"", mode: str = ""
) -> Vector:
    """response: the datagram's payload; None: no answer. mode: "" for both modes."""
    return {
        "name": name,
        "about": about,
        "modes": [mode] if mode else ["datagram", "stream"],
        "request": request.hex(),
        "server": {"key": key, "clock_info": info.hex()},
        "response": None if response is None else response.hex(),
    }


def exchanges() -> str:
    wide = NONCE + PRECISION + tlv(254, bytes(100))
    refusal = tlv(249, b"\x03\0no signing key")
    full = ANSWER + LAB + PRECISION + tlv(254, bytes(120 - len(ANSWER + LAB) - 4 - 41))
    vectors = [
        exchange("plain", "nonce, T2, T3", NONCE, ANSWER),
        exchange(
            "metadata is for nothing", "a server skips keys that it does not know", NONCE + metadata(("site", "us-east")), ANSWER
        ),
        exchange("unknown type", "is skipped", NONCE + tlv(100, b"later"), ANSWER),
        exchange("metadata query", "248 and 251", NONCE + QUERY, ANSWER + LAB, info=LAB),
        exchange("nothing is reported unasked", "no 247, no 248 and 251", NONCE, ANSWER, info=LAB),
        exchange("metadata query, nothing to report", "a plain response", NONCE + QUERY, ANSWER),
        exchange("precision, padded request", "40 bytes each", NONCE + PRECISION + tlv(254, bytes(18)), ANSWER + PRECISION),
        exchange(
            "precision, short request", "the response cannot be as short, so it does not acknowledge", NONCE + PRECISION, ANSWER
        ),
        exchange("precision, padded response", "122 bytes each", wide, ANSWER + PRECISION + tlv(254, bytes(len(wide) - 42))),
        exchange(
            "precision, one byte is missing",
            "no padding has one byte, so the response does not acknowledge",
            NONCE + PRECISION + tlv(254, bytes(19)),
            ANSWER,
        ),
        exchange(
            "precision, two bytes are missing",
            "a padding TLV without a value",
            NONCE + PRECISION + tlv(254, bytes(20)),
            ANSWER + PRECISION + tlv(254),
        ),
        exchange(
            "precision, 300 bytes are missing",
            "several padding TLVs",
            NONCE + PRECISION + tlv(254, bytes(255)) + tlv(254, bytes(61)),
            ANSWER + PRECISION + tlv(254, bytes(255)) + tlv(254, bytes(41)),
        ),
        exchange(
            "precision, 258 bytes are missing",
            "the first padding TLV leaves two bytes for the second",
            NONCE + PRECISION + tlv(254, bytes(255)) + tlv(254, bytes(19)),
            ANSWER + PRECISION + tlv(254, bytes(254)) + tlv(254),
        ),
        exchange(
            "precision, room for one of two",
            "the last optional TLV is omitted",
            NONCE + QUERY + PRECISION + tlv(254, bytes(29)),
            ANSWER + LAB[:11] + PRECISION + tlv(254),
            info=LAB,
        ),
        exchange(
            "precision, room for none",
            "both optional TLVs are omitted",
            NONCE + QUERY + PRECISION + tlv(254, bytes(16)),
            ANSWER + PRECISION,
            info=LAB,
        ),
        exchange("signature, Ed25519", "over all bytes before 255", NONCE + SIGN, signed("ed25519-a", ANSWER), key="ed25519-a"),
        exchange("signature, HMAC-SHA256", "over all bytes before 255", NONCE + SIGN, signed("hmac-a", ANSWER), key="hmac-a"),
        exchange("no signature unasked", "a server with a key, a plain request", NONCE, ANSWER, key="ed25519-a"),
        exchange(
            "signature and metadata query",
            "what is reported is signed",
            NONCE + QUERY + SIGN,
            signed("ed25519-b", ANSWER + LAB),
            key="ed25519-b",
            info=LAB,
        ),
        exchange(
            "everything",
            "120 bytes each; padding is signed",
            NONCE + QUERY + SIGN + PRECISION + tlv(254, bytes(94)),
            signed("hmac-b", full),
            key="hmac-b",
            info=LAB,
        ),
        exchange("no key, datagram", "no answer (R6)", NONCE + SIGN, None, mode="datagram"),
        exchange("no key, stream", "error 3 (R6); the reason is this server's", NONCE + SIGN, refusal, mode="stream"),
        exchange("malformed, datagram", "no answer (R4)", NONCE + NONCE, None, mode="datagram"),
    ]
    return document(
        "What a server answers with T2 and T3 given, its key and its clock info (R4, R6, R7).",
        vectors,
        t2_ns=str(T2_NS),
        t3_ns=str(T3_NS),
        keys=KEYS,
    )


def streams() -> str:
    def stream(name: str, about: str, received: bytes, fin: bool, verdict: str) -> Vector:
        return {"name": name, "about": about, "received": received.hex(), "fin": fin, "verdict": verdict}

    return document(
        "What a server does with the bytes that a stream has so far: answer, wait, or error 1 (R2, R4).",
        [
            stream("whole and ended", "the usual request", NONCE, True, "answer"),
            stream("whole, not ended", "some clients never send FIN", NONCE, False, "answer"),
            stream("nothing yet", "no byte", b"", False, "wait"),
            stream("ended without a byte", "no nonce", b"", True, "error 1"),
            stream("half a nonce", "more may come", NONCE[:9], False, "wait"),
            stream("half a nonce, ended", "nothing more can come", NONCE[:9], True, "error 1"),
            stream("half a second TLV", "more may come", NONCE + metadata(("site", "us-east"))[:5], False, "wait"),
            stream("a second TLV, ended", "a request with metadata", NONCE + metadata(("site", "us-east")), True, "answer"),
            stream("no nonce, not ended", "not a message; an end may come", tlv(254, bytes(3)), False, "wait"),
            stream("no nonce, ended", "malformed", tlv(254, bytes(3)), True, "error 1"),
        ],
    )


def samples() -> str:
    limit = 86400

    def sample(
        name: str, about: str, t1_ns: int, t4_ns: int, verdict: str, *, t2_ns: int = T2_NS, t3_ns: int = T3_NS, precision: int = 1
    ) -> Vector:
        return {
            "name": name,
            "about": about,
            "t1_ns": str(t1_ns),
            "response": (NONCE + tlv(2, stamp(t2_ns)) + tlv(3, stamp(t3_ns))).hex(),
            "t4_ns": str(t4_ns),
            "pivot_ns": str(PIVOT_NS),
            "precision_ns": str(precision),
            "offset_limit_s": str(limit),
            "t2_ns": str(t2_ns),
            "t3_ns": str(t3_ns),
            "twice_offset_ns": str((t2_ns - t1_ns) + (t3_ns - t4_ns)),
            "delay_ns": str((t4_ns - t1_ns) - (t3_ns - t2_ns)),
            "verdict": verdict,
        }

    ahead = limit * NS
    return document(
        "Samples of one exchange: offset, delay, and whether it may be used (R8, R9, R11).",
        [
            sample("equal clocks", "1 ms each way", T2_NS - NS // 1000, T3_NS + NS // 1000, "good"),
            sample("client behind", "a positive offset", T2_NS - 2 * NS, T3_NS - 2 * NS + 3_000_000, "good"),
            sample("client ahead", "a negative offset", T2_NS + 2 * NS, T3_NS + 2 * NS + 3_000_000, "good"),
            sample("odd sum", "half a nanosecond of offset", T2_NS - 1000, T3_NS + 1001, "good"),
            sample("negative delay within the precision", "counts as the precision", T2_NS, T3_NS - 10, "good", precision=10),
            sample("negative delay", "one nanosecond more", T2_NS, T3_NS - 11, "negative delay", precision=10),
            sample("T3 before T2", "by a nanosecond", T2_NS - 5, T2_NS + 5, "T3 before T2", t3_ns=T2_NS - 1),
            sample("T3 is T2", "both may be equal", T2_NS - 5, T2_NS + 5, "good", t3_ns=T2_NS),
            sample("T4 before T1", "by a nanosecond", T2_NS, T2_NS - 1, "T4 before T1"),
            sample("offset at the limit", "24 h", T2_NS - ahead - 5, T3_NS - ahead + 5, "good"),
            sample(
                "offset over the limit",
                "24 h and a millisecond",
                T2_NS - ahead - 1_000_005,
                T3_NS - ahead - 999_995,
                "offset over the limit",
            ),
            sample(
                "end of an era between T2 and T3",
                "nothing special happens",
                ERA_END_NS - 1000,
                ERA_END_NS + 1000,
                "good",
                t2_ns=ERA_END_NS - 1,
                t3_ns=ERA_END_NS + 1,
            ),
            sample(
                "end of an era between T1 and T2",
                "nothing special happens",
                ERA_END_NS - 1000,
                ERA_END_NS + 2000,
                "good",
                t2_ns=ERA_END_NS + 1,
                t3_ns=ERA_END_NS + 2,
            ),
        ],
    )


def timestamps() -> str:
    def both(name: str, about: str, unix_ns: int, pivot_ns: int | None = None) -> Vector:
        """ns to NTP, and back again with a pivot near it."""
        return {
            "name": name,
            "about": about,
            "unix_ns": str(unix_ns),
            "ntp": f"{ntp(unix_ns):016x}",
            "pivot_ns": str(unix_ns if pivot_ns is None else pivot_ns),
            "direction": "both",
        }

    def to_ns(name: str, about: str, number: int, pivot_ns: int, unix_ns: int) -> Vector:
        """NTP to ns only: this fraction is not made from whole ns."""
        return {
            "name": name,
            "about": about,
            "unix_ns": str(unix_ns),
            "ntp": f"{number:016x}",
            "pivot_ns": str(pivot_ns),
            "direction": "to ns",
        }

    half = 1 << 63
    base = T2_NS // NS * NS
    whole = ntp(base)
    names: list[Vector] = [
        both("the example", "2026-11-23 02:00:00.123456789", T2_NS),
        both("Unix epoch", "1970-01-01", 0),
        both("before the Unix epoch", "1969-12-31 23:59:59.999999999", -1),
        both("NTP epoch", "1900-01-01, all bits zero", -UNIX_EPOCH * NS),
        both("a nanosecond after the NTP epoch", "4.29 units, rounded up to 5", -UNIX_EPOCH * NS + 1),
        both("a nanosecond before the NTP epoch", "the end of era -1", -UNIX_EPOCH * NS - 1),
        both("top bit", "1968-01-20 03:14:08: the first second of the upper half", ((1 << 31) - UNIX_EPOCH) * NS),
        both("last nanosecond of era 0", "2036-02-07 06:28:15.999999999", ERA_END_NS - 1),
        both("first of era 1", "2036-02-07 06:28:16, all bits zero", ERA_END_NS),
        both("a nanosecond of era 1", "2036-02-07 06:28:16.000000001", ERA_END_NS + 1),
        both("end of era 0 from 2026", "the pivot is in era 0", ERA_END_NS + 1, base),
        both("end of era 0 from 2050", "the pivot is in era 1", ERA_END_NS - 1, 2_524_608_000 * NS),
        both("first of era 2", "2172-03-15 12:56:32", ERA_END_NS + (1 << 32) * NS),
        both("end of 32-bit Unix time", "2038-01-19 03:14:08", (1 << 31) * NS),
    ]
    names += [
        both(f"fraction {ns} ns", "rounded up", base + ns) for ns in (1, 2, 3, 232, 233, 500_000_000, 999_999_998, 999_999_999)
    ]
    names += [
        to_ns(f"{units} units", "rounded down", whole + units, base, base + units * NS // (1 << 32))
        for units in (0, 1, 4, 5, 8, 9, (1 << 32) - 1)
    ]
    names += [
        to_ns(
            "half an era after the pivot",
            "two eras are equally near: the earlier one counts",
            (whole + half) % (1 << 64),
            base,
            base - (1 << 31) * NS,
        ),
        to_ns(
            "just less than half an era after the pivot",
            "the nearest era",
            (whole + half - 1) % (1 << 64),
            base,
            base + (1 << 31) * NS - 1,
        ),
        to_ns(
            "just more than half an era after the pivot",
            "the nearest era is the one before",
            (whole + half + 1) % (1 << 64),
            base,
            base - (1 << 31) * NS,
        ),
    ]
    return document("NTP timestamps and Unix ns, in the era nearest to a pivot (R9).", names)
