"""Vectors of single messages: requests, responses, errors, and malformed ones (docs/reference/protocol.md R3, R4)."""

from typing import Any

from tests.vectors.parts import (
    ANSWER,
    LAB,
    NONCE,
    NONCE_BYTES,
    PRECISION,
    QUERY,
    SIGN,
    T2,
    T2_NS,
    T3,
    Vector,
    block,
    document,
    metadata,
    quality,
    signed,
    source,
    stamp,
    tlv,
)

STATE = metadata(("tsq.leap", ""), ("tsq.root_delay", ""), ("tsq.root_dispersion", ""), ("tsq.smear", ""), ("tsq.t3", ""))
SITE = metadata(("site", "us-east"))


def request(name: str, about: str, message: bytes, *, as_sent: bool = True, **fields: Any) -> Vector:
    usual = {
        "nonce": NONCE_BYTES.hex(),
        "metadata_query": False,
        "precision": False,
        "signature_request": False,
        "metadata": None,
        "padding": [],
        "unknown": [],
    }
    assert fields.keys() <= usual.keys()
    return {"name": name, "about": about, "hex": message.hex(), "as_sent": as_sent, "fields": usual | fields}


def response(name: str, about: str, message: bytes, *, as_sent: bool = True, **fields: Any) -> Vector:
    usual = {
        "nonce": NONCE_BYTES.hex(),
        "t2": T2[2:].hex(),
        "t3": T3[2:].hex(),
        "clock_quality": None,
        "time_source": None,
        "metadata": None,
        "precision": False,
        "signature": None,
        "padding": [],
        "unknown": [],
    }
    assert fields.keys() <= usual.keys()
    return {"name": name, "about": about, "hex": message.hex(), "as_sent": as_sent, "fields": usual | fields}


def requests() -> str:
    site = [["site", "us-east"]]
    high = bytes(range(0xF0, 0x100))
    return document(
        "Requests that are well-formed, with what they say (R4).",
        [
            request("plain", "the smallest request", NONCE),
            request("another nonce", "bytes with their top bit", tlv(1, high), nonce=high.hex()),
            request("metadata query", "asks for 248 and 251", NONCE + QUERY, metadata_query=True),
            request("signature request", "asks for 255", NONCE + SIGN, signature_request=True),
            request("metadata", "a pair", NONCE + SITE, metadata=site),
            request("empty metadata", "no pair", NONCE + tlv(253), metadata=[]),
            request(
                "metadata in order",
                "keys in the order of their bytes: an upper case letter is before a lower case one",
                NONCE + metadata(("B", "1"), ("a", "2"), ("aa", "3"), ("é", "4")),
                metadata=[["B", "1"], ["a", "2"], ["aa", "3"], ["é", "4"]],
            ),
            request(
                "metadata of full length", "253 with 255 bytes", NONCE + metadata(("k", "v" * 252)), metadata=[["k", "v" * 252]]
            ),
            request("empty key and value", "both may be empty", NONCE + metadata(("", "")), metadata=[["", ""]]),
            request("exact T3", "TX timestamp request (R12)", NONCE + metadata(("tsq.t3", "")), metadata=[["tsq.t3", ""]]),
            request(
                "clock state",
                "the first request of tsq-client on a connection (R13)",
                NONCE + QUERY + STATE,
                metadata_query=True,
                metadata=[[key, ""] for key in ("tsq.leap", "tsq.root_delay", "tsq.root_dispersion", "tsq.smear", "tsq.t3")],
            ),
            request(
                "precision",
                "padded to the 40 bytes of the response (R7)",
                NONCE + PRECISION + tlv(254, bytes(18)),
                precision=True,
                padding=[18],
            ),
            request("precision without padding", "20 bytes", NONCE + PRECISION, precision=True),
            request("padding of no bytes", "the smallest TLV: 2 bytes", NONCE + PRECISION + tlv(254), precision=True, padding=[0]),
            request(
                "much padding",
                "a gap of 300 bytes takes two TLVs",
                NONCE + PRECISION + tlv(254, bytes(255)) + tlv(254, bytes(41)),
                precision=True,
                padding=[255, 41],
            ),
            request(
                "everything",
                "all that a request may ask for",
                NONCE + QUERY + SIGN + SITE + PRECISION + tlv(254, bytes(60)),
                metadata_query=True,
                signature_request=True,
                metadata=site,
                precision=True,
                padding=[60],
            ),
            request(
                "unknown type",
                "is skipped",
                NONCE + tlv(100, b"later") + QUERY,
                metadata_query=True,
                unknown=[[100, b"later".hex()]],
            ),
            request(
                "unknown types at their limits",
                "4 and 246 are the first and the last that the IETF assigns; 0 is unknown, too",
                NONCE + tlv(4) + tlv(246, bytes(255)) + tlv(0, b"\0"),
                unknown=[[4, ""], [246, "00" * 255], [0, "00"]],
            ),
            request(
                "unknown type twice",
                "only some known types may not be repeated",
                NONCE + tlv(9, b"a") + tlv(9, b"b"),
                unknown=[[9, "61"], [9, "62"]],
            ),
            request(
                "two metadata TLVs",
                "253 may be repeated",
                NONCE + metadata(("a", "1")) + metadata(("b", "2")),
                as_sent=False,
                metadata=[["a", "1"], ["b", "2"]],
            ),
            request("two metadata queries", "247 may be repeated", NONCE + QUERY + QUERY, as_sent=False, metadata_query=True),
            request(
                "metadata out of order",
                "receivers do not require the order of keys",
                NONCE + metadata(("b", "2"), ("a", "1")),
                as_sent=False,
                metadata=[["b", "2"], ["a", "1"]],
            ),
            request(
                "padding before others",
                "receivers do not require the order of optional TLVs",
                NONCE + tlv(254, bytes(3)) + QUERY,
                as_sent=False,
                metadata_query=True,
                padding=[3],
            ),
            request(
                "padding that is not zero", "receivers ignore its value", NONCE + tlv(254, b"\xff\x00"), as_sent=False, padding=[2]
            ),
            request(
                "metadata that is not UTF-8",
                "is no reason for a refusal",
                NONCE + tlv(253, b"\x01a\x02\xff\xfe"),
                as_sent=False,
                metadata=[["a", {"hex": "fffe"}]],
            ),
        ],
    )


def block_fields(message: bytes) -> Vector:
    """The fields of the Signature Block at the end of a message that is signed with one of the keys here."""
    size = 73 if message[-73:-71] == b"\xff\x47" else 41
    value = message[len(message) - size + 2 :]
    return {
        "algorithm": value[0],
        "key_id": int.from_bytes(value[1:5], "big"),
        "signature": value[7:].hex(),
        "covered": len(message) - size,
    }


def responses() -> str:
    lab: dict[str, Any] = {
        "clock_quality": {"clock_class": 3, "error_us": 120, "drift_ppb": 15000, "tag": "lab"},
        "time_source": {"stratum": 2, "source_type": 3, "description": "ntp"},
    }
    report = NONCE_BYTES[:8].hex() + (int.from_bytes(T3[2:], "big") + 9448).to_bytes(8, "big").hex()
    later = bytes(range(16, 32))
    state = [["tsq.leap", "0"], ["tsq.root_delay", "1500000"], ["tsq.root_dispersion", "250001"], ["tsq.smear", "0"]]
    by_ed25519, by_hmac = signed("ed25519-a", ANSWER), signed("hmac-a", ANSWER)
    full = signed("ed25519-b", ANSWER + LAB + SITE + PRECISION + tlv(254, bytes(5)))
    most = quality(5, 65535, 65535, b"t" * 249)
    return document(
        "Responses that are well-formed, with what they say (R4).",
        [
            response("plain", "the smallest response", ANSWER),
            response(
                "timestamps with all bits",
                "numbers have no sign; T3 before T2 is well-formed, and no sample (R8)",
                NONCE + tlv(2, b"\xff" * 8) + tlv(3, bytes(8)),
                t2="ff" * 8,
                t3="00" * 8,
            ),
            response("clock quality and time source", "the answer to a Metadata Query", ANSWER + LAB, **lab),
            response(
                "clock quality at its limits",
                "both numbers saturated, a tag of 249 bytes",
                ANSWER + most,
                clock_quality={"clock_class": 5, "error_us": 65535, "drift_ppb": 65535, "tag": "t" * 249},
            ),
            response(
                "clock quality without a tag",
                "6 bytes are the least",
                ANSWER + quality(0, 0, 0),
                clock_quality={"clock_class": 0, "error_us": 0, "drift_ppb": 0, "tag": ""},
            ),
            response(
                "time source without a text",
                "2 bytes are the least",
                ANSWER + source(0, 5),
                time_source={"stratum": 0, "source_type": 5, "description": ""},
            ),
            response(
                "values without a name",
                "a class, a stratum and a source type that no list has",
                ANSWER + quality(99, 1, 1) + source(255, 0),
                clock_quality={"clock_class": 99, "error_us": 1, "drift_ppb": 1, "tag": ""},
                time_source={"stratum": 255, "source_type": 0, "description": ""},
            ),
            response(
                "text in UTF-8",
                "letters of two and three bytes",
                ANSWER + quality(1, 1, 1, "Zürich".encode()) + source(1, 1, "時計".encode()),
                clock_quality={"clock_class": 1, "error_us": 1, "drift_ppb": 1, "tag": "Zürich"},
                time_source={"stratum": 1, "source_type": 1, "description": "時計"},
            ),
            response(
                "text that is not UTF-8",
                "is no reason for a refusal",
                ANSWER + quality(1, 1, 1, b"\xc3"),
                as_sent=False,
                clock_quality={"clock_class": 1, "error_us": 1, "drift_ppb": 1, "tag": {"hex": "c3"}},
            ),
            response("metadata", "a pair", ANSWER + SITE, metadata=[["site", "us-east"]]),
            response(
                "exact T3",
                "the transmit timestamp of the plain response, 2.2 µs after its claimed T3 (R12)",
                tlv(1, later)
                + tlv(2, stamp(T2_NS + 100_000_000))
                + tlv(3, stamp(T2_NS + 100_250_000))
                + metadata(("tsq.t3", report)),
                nonce=later.hex(),
                t2=stamp(T2_NS + 100_000_000).hex(),
                t3=stamp(T2_NS + 100_250_000).hex(),
                metadata=[["tsq.t3", report]],
            ),
            response(
                "clock state",
                "the server's report about its clock (R13)",
                ANSWER + LAB + metadata(*map(tuple, state)),
                **lab,
                metadata=state,
            ),
            response("precision", "40 bytes, like its request (R7)", ANSWER + PRECISION, precision=True),
            response("precision with padding", "60 bytes", ANSWER + PRECISION + tlv(254, bytes(18)), precision=True, padding=[18]),
            response("signed by Ed25519", "64 bytes of signature", by_ed25519, signature=block_fields(by_ed25519)),
            response("signed by HMAC-SHA256", "32 bytes of signature", by_hmac, signature=block_fields(by_hmac)),
            response(
                "everything",
                "all that a response may have",
                full,
                **lab,
                metadata=[["site", "us-east"]],
                precision=True,
                padding=[5],
                signature=block_fields(full),
            ),
            response(
                "algorithm without a name",
                "well-formed; no client can check it",
                ANSWER + block(9, 5, b"abc"),
                signature={"algorithm": 9, "key_id": 5, "signature": b"abc".hex(), "covered": 38},
            ),
            response(
                "no signature in the block",
                "well-formed, and never valid",
                ANSWER + block(1, 5, b""),
                signature={"algorithm": 1, "key_id": 5, "signature": "", "covered": 38},
            ),
            response("unknown type", "is skipped", ANSWER + tlv(100, b"later"), unknown=[[100, b"later".hex()]]),
            response(
                "timestamps after others",
                "receivers require the nonce first, and no other order",
                NONCE + PRECISION + T3 + T2,
                as_sent=False,
                precision=True,
            ),
        ],
    )


def errors() -> str:
    def error(name: str, about: str, code: int, reason: bytes, shown: Any = None, *, as_sent: bool = True) -> Vector:
        fields = {"code": code, "reason": reason.decode() if shown is None else shown}
        message = tlv(249, bytes([code, 0]) + reason)
        return {"name": name, "about": about, "hex": message.hex(), "as_sent": as_sent, "fields": fields}

    return document(
        "Error TLVs: the whole response of a stream, and never in Datagram Mode (R3, R4).",
        [
            error("malformed request", "code 1", 1, b"x"),
            error("unsupported TLV", "code 2", 2, b"type 100"),
            error("authentication required", "code 3", 3, b"no signing key"),
            error("no reason", "the smallest error", 1, b""),
            error("longest reason", "253 bytes", 1, b"r" * 253),
            error("reason cut between letters", "127 letters of two bytes do not fit: 126 are sent", 1, ("é" * 126).encode()),
            error("code without a name", "is an error all the same", 200, b"?"),
            error("reason that is not UTF-8", "is no reason for a refusal", 1, b"\xff", {"hex": "ff"}, as_sent=False),
        ],
    )


def malformed() -> str:
    def bad(side: str, name: str, rule: str, message: bytes) -> Vector:
        verdict = (
            {"datagram": "no answer", "stream": "error 1"}
            if side == "request"
            else {"datagram": "no sample", "stream": "no sample"}
        )
        return {"name": f"{side}: {name}", "message": side, "rule": rule, "hex": message.hex(), "verdict": verdict}

    found = []
    for side, good in (("request", NONCE), ("response", ANSWER)):
        rest = good[len(NONCE) :]
        found += [
            bad(side, "nothing", "no nonce", b""),
            bad(side, "one byte", "one byte left", b"\x01"),
            bad(side, "one byte after the last TLV", "one byte left", good + b"\xfa"),
            bad(side, "value that runs past the end by one byte", "value past the end", good + tlv(100, bytes(5))[:-1]),
            bad(side, "header without its value", "value past the end", good + b"\x64\xff"),
            bad(side, "nonce cut", "value past the end", NONCE[:-1]),
            bad(side, "another TLV first", "no nonce", tlv(100) + good),
            bad(side, "padding first", "no nonce", tlv(254, bytes(16)) + good),
            bad(side, "nonce of 15 bytes", "length", tlv(1, NONCE_BYTES[:15]) + rest),
            bad(side, "nonce of 17 bytes", "length", tlv(1, bytes(17)) + rest),
            bad(side, "nonce of 0 bytes", "length", tlv(1) + rest),
            bad(side, "second nonce", "repeated", good + NONCE),
            bad(side, "250 with a value", "length", good + tlv(250, b"\0")),
            bad(side, "second 250", "repeated", good + PRECISION + PRECISION),
            bad(side, "metadata key past the end", "metadata", good + tlv(253, b"\x05site")),
            bad(side, "metadata value past the end", "metadata", good + tlv(253, b"\x04site\x08us-east")),
            bad(side, "metadata key without a value", "metadata", good + tlv(253, b"\x04site")),
            bad(side, "second metadata TLV bad", "metadata", good + SITE + tlv(253, b"\x01")),
        ]
    found += [
        bad("request", "247 with a value", "length", NONCE + tlv(247, b"\0")),
        bad("request", "252 with a value", "length", NONCE + tlv(252, b"\0")),
        bad("request", "second 252", "repeated", NONCE + SIGN + SIGN),
        bad("request", "T2 of 7 bytes", "length", NONCE + tlv(2, bytes(7))),
        bad("response", "only a nonce", "no T2 or T3", NONCE),
        bad("response", "no T2", "no T2 or T3", NONCE + T3),
        bad("response", "no T3", "no T2 or T3", NONCE + T2),
        bad("response", "T2 of 7 bytes", "length", NONCE + tlv(2, bytes(7)) + T3),
        bad("response", "T3 of 9 bytes", "length", NONCE + T2 + tlv(3, bytes(9))),
        bad("response", "second T2", "repeated", ANSWER + T2),
        bad("response", "second T3", "repeated", ANSWER + T3),
        bad("response", "248 of 5 bytes", "too short", ANSWER + tlv(248, bytes(5))),
        bad("response", "251 of 1 byte", "too short", ANSWER + tlv(251, bytes(1))),
        bad("response", "255 of 6 bytes", "signature block", ANSWER + tlv(255, bytes(6))),
        bad("response", "255 with less than its signature length", "signature block", ANSWER + block(2, 7, bytes(32), length=33)),
        bad("response", "255 with more than its signature length", "signature block", ANSWER + block(2, 7, bytes(32), length=31)),
        bad("response", "padding after 255", "after 255", ANSWER + block(2, 7, bytes(32)) + tlv(254)),
        bad("response", "unknown type after 255", "after 255", ANSWER + block(2, 7, bytes(32)) + tlv(100)),
        bad("response", "second 255", "repeated", ANSWER + block(2, 7, bytes(32)) + block(2, 7, bytes(32))),
        bad("response", "error of one byte", "error", tlv(249, b"\x01")),
        bad("response", "error without a value", "error", tlv(249)),
        bad("response", "error and another TLV", "error", tlv(249, b"\x01\0x") + tlv(254)),
        bad("response", "error cut", "value past the end", tlv(249, b"\x01\0x")[:-1]),
    ]
    return document("Messages that are malformed, with the rule that they break and what becomes of them (R4).", found)
