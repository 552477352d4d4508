#!/usr/bin/env python3
"""Checks the test vectors of TSQ with a decoder of its own: python3 check.py [DIRECTORY]

Needs Python 3.11 and the package `cryptography`, and nothing of TSQ. Prints a line for each file; exit status 1: a vector is wrong.
It is a small implementation of docs/reference/protocol.md, to read beside README.md.
"""

import hmac
import json
import sys
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

NONCE, T2, T3, QUERY, QUALITY, ERROR, PRECISION, SOURCE, SIGN, METADATA, PADDING, SIGNATURE = 1, 2, 3, *range(247, 256)
LENGTHS = {NONCE: 16, T2: 8, T3: 8, QUERY: 0, PRECISION: 0, SIGN: 0}
ONCE = (NONCE, T2, T3, PRECISION, SIGN, SIGNATURE)
KNOWN = (NONCE, T2, T3, *range(QUERY, SIGNATURE + 1))
EPOCH = 2_208_988_800  # seconds from 1900 to 1970
ERA = 1 << 64
NS = 10**9
UNKNOWN_KEY, WRONG_ALGORITHM, BAD, MISSING, GOOD = "unknown key", "wrong algorithm", "bad", "missing", "good"


class Malformed(Exception):
    """A message that is malformed; its text is the rule."""


def wrong_unless(condition, what):
    """A vector that is wrong."""
    if not condition:
        raise AssertionError(what)


# ------------------------------------------------------------------------------------------------------------ messages


def split(data):
    """R4: the TLVs of a message."""
    tlvs = []
    while data:
        if len(data) == 1:
            raise Malformed("one byte left")
        end = 2 + data[1]
        if len(data) < end:
            raise Malformed("value past the end")
        tlvs.append((data[0], data[2:end]))
        data = data[end:]
    return tlvs


def message(data):
    """R4: the TLVs of a request or a response that is no error."""
    tlvs = split(data)
    if not tlvs or tlvs[0][0] != NONCE:
        raise Malformed("no nonce")
    seen = set()
    for kind, value in tlvs:
        if len(value) != LENGTHS.get(kind, len(value)):
            raise Malformed("length")
        if kind in ONCE and kind in seen:
            raise Malformed("repeated")
        if SIGNATURE in seen:
            raise Malformed("after 255")
        seen.add(kind)
    return tlvs


def text(value):
    """UTF-8, or the bytes in hex."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"hex": value.hex()}


def pairs(tlvs):
    """The pairs of all Metadata TLVs; None: there is no such TLV."""
    found = None
    for value in (value for kind, value in tlvs if kind == METADATA):
        parts, at = [], 0
        while at < len(value):
            end = at + 1 + value[at]
            if end > len(value):
                raise Malformed("metadata")
            parts.append(text(value[at + 1 : end]))
            at = end
        if len(parts) % 2:
            raise Malformed("metadata")
        found = (found or []) + [list(pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
    return found


def rest(tlvs):
    """What requests and responses have in common."""
    return {
        "nonce": tlvs[0][1].hex(),
        "precision": any(kind == PRECISION for kind, _ in tlvs),
        "metadata": pairs(tlvs),
        "padding": [len(value) for kind, value in tlvs if kind == PADDING],
        "unknown": [[kind, value.hex()] for kind, value in tlvs if kind not in KNOWN],
    }


def decode_request(data):
    tlvs = message(data)
    kinds = [kind for kind, _ in tlvs]
    return rest(tlvs) | {"metadata_query": QUERY in kinds, "signature_request": SIGN in kinds}


def number(value):
    return int.from_bytes(value, "big")


def decode_response(data):
    """A response, or an error."""
    if data[:1] == bytes([ERROR]):
        tlvs = split(data)
        if len(tlvs) > 1 or len(tlvs[0][1]) < 2:
            raise Malformed("error")
        return {"code": tlvs[0][1][0], "reason": text(tlvs[0][1][2:])}
    tlvs = message(data)
    values = dict(tlvs)
    if not {T2, T3} <= values.keys():
        raise Malformed("no T2 or T3")
    quality, source, block = values.get(QUALITY), values.get(SOURCE), values.get(SIGNATURE)
    if (quality is not None and len(quality) < 6) or (source is not None and len(source) < 2):
        raise Malformed("too short")
    if block is not None and (len(block) < 7 or number(block[5:7]) != len(block) - 7):
        raise Malformed("signature block")
    return rest(tlvs) | {
        "t2": values[T2].hex(),
        "t3": values[T3].hex(),
        "clock_quality": quality and {
            "clock_class": quality[0], "error_us": number(quality[2:4]), "drift_ppb": number(quality[4:6]),
            "tag": text(quality[6:]),
        },
        "time_source": source and {"stratum": source[0], "source_type": source[1], "description": text(source[2:])},
        "signature": block and {
            "algorithm": block[0], "key_id": number(block[1:5]), "signature": block[7:].hex(),
            "covered": len(data) - 2 - len(block),
        },
    }  # fmt: skip


def as_sent(data):
    """R4: whether a sender writes it so: in order, each type once, zeros where zeros belong, text in UTF-8, keys in order."""
    tlvs = split(data)
    groups = [{NONCE: 0, T2: 1, T3: 2, PADDING: 4, SIGNATURE: 5}.get(kind, 3) for kind, _ in tlvs]
    kinds = [kind for kind, _ in tlvs if kind in KNOWN and kind != PADDING]
    good = groups == sorted(groups) and len(kinds) == len(set(kinds))
    for kind, value in tlvs:
        if kind == PADDING:
            good &= not any(value)
        if kind in (QUALITY, ERROR):
            good &= value[1] == 0
        if kind in (QUALITY, ERROR, SOURCE):
            good &= isinstance(text(value[6 if kind == QUALITY else 2 :]), str)
    keys = pairs(tlvs) or []
    good &= all(isinstance(part, str) for pair in keys for part in pair)
    return good and [pair[0].encode() for pair in keys] == sorted({pair[0].encode() for pair in keys})


# ----------------------------------------------------------------------------------------- timestamps, signatures, chains


def ntp_from_ns(unix_ns):
    """R9: rounded up."""
    return -(-((unix_ns + EPOCH * NS) << 32) // NS) % ERA


def ns_from_ntp(ntp, pivot_ns):
    """R9: rounded down, in the era nearest to the pivot."""
    pivot = (pivot_ns + EPOCH * NS) * (1 << 32)  # in units of 2^-32 s, times 10^9
    era = pivot // (ERA * NS)
    candidates = [ntp + (era + step) * ERA for step in (-1, 0, 1)]
    nearest = min(candidates, key=lambda units: abs(units * NS - pivot))
    return (nearest * NS >> 32) - EPOCH * NS


def signature_verdict(data, keys):
    """R5, R6: what a client finds that trusts these keys."""
    block = decode_response(data)["signature"]
    if block is None:
        return MISSING
    key = next((key for key in keys if key["key_id"] == block["key_id"]), None)
    if key is None:
        return UNKNOWN_KEY
    if block["algorithm"] != {"ed25519": 1, "hmac-sha256": 2}[key["algorithm"]]:
        return WRONG_ALGORITHM
    covered, signature = data[: block["covered"]], bytes.fromhex(block["signature"])
    if key["algorithm"] == "hmac-sha256":
        right = hmac.digest(bytes.fromhex(key["secret"]), covered, "sha256")
        return GOOD if hmac.compare_digest(right, signature) else BAD
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key["public"])).verify(signature, covered)
    except InvalidSignature:
        return BAD
    return GOOD


def check_keys(keys):
    """Public keys belong to the private ones."""
    for name, key in keys.items():
        if key["algorithm"] == "ed25519":
            private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key["private"]))
            wrong_unless(private.public_key().public_bytes_raw().hex() == key["public"], f"key {name}")


def contradiction(limits, errors):
    """Whether no offsets satisfy all limits (Floyd, Warshall). limits: (earlier, later) -> ns; errors: by servers, ns."""
    nodes = ["", *errors]
    far = 1 << 80
    best = {(a, b): limits.get((a, b), far) for a in nodes for b in nodes}
    for server, error in errors.items():
        best["", server] = best[server, ""] = error
    for middle in nodes:
        for a in nodes:
            for b in nodes:
                best[a, b] = min(best[a, b], best[a, middle] + best[middle, b])
    return any(best[node, node] < 0 for node in nodes)


# --------------------------------------------------------------------------------------------------------------- files


def check_requests(vector, _):
    data = bytes.fromhex(vector["hex"])
    wrong_unless(decode_request(data) == vector["fields"], decode_request(data))
    wrong_unless(as_sent(data) == vector["as_sent"], "as_sent")


def check_responses(vector, _):
    data = bytes.fromhex(vector["hex"])
    wrong_unless(decode_response(data) == vector["fields"], decode_response(data))
    wrong_unless(as_sent(data) == vector["as_sent"], "as_sent")


def check_malformed(vector, _):
    decode = {"request": decode_request, "response": decode_response}[vector["message"]]
    try:
        decode(bytes.fromhex(vector["hex"]))
    except Malformed as rule:
        wrong_unless(str(rule) == vector["rule"], rule)
    else:
        raise AssertionError("well-formed")
    verdict = {"request": ("no answer", "error 1"), "response": ("no sample", "no sample")}[vector["message"]]
    wrong_unless((vector["verdict"]["datagram"], vector["verdict"]["stream"]) == verdict, verdict)


def answer(request, server, mode, file):
    """What this server answers; None: nothing (R4, R6, R7)."""
    try:
        asked = decode_request(request)
    except Malformed:
        return tlv(ERROR, b"\x01\x00malformed") if mode == "stream" else None
    key = file["keys"][server["key"]] if server["key"] else None
    if asked["signature_request"] and key is None:
        return tlv(ERROR, b"\x03\x00no signing key") if mode == "stream" else None
    stamps = b"".join(tlv(kind, ntp_from_ns(int(file[name])).to_bytes(8, "big")) for kind, name in ((T2, "t2_ns"), (T3, "t3_ns")))
    plain = tlv(NONCE, bytes.fromhex(asked["nonce"])) + stamps
    info = [tlv(*one) for one in split(bytes.fromhex(server["clock_info"]))] if asked["metadata_query"] else []
    signed_size = ({"ed25519": 64, "hmac-sha256": 32}[key["algorithm"]] + 9) if asked["signature_request"] else 0
    covered = plain + b"".join(info)
    if asked["precision"]:
        for kept in range(len(info), -1, -1):
            short = plain + b"".join(info[:kept]) + tlv(PRECISION)
            gap = len(request) - len(short) - signed_size
            if gap >= 0:
                covered = covered if gap == 1 else short + padding(gap)
                break
    return covered + sign(covered, key) if signed_size else covered


def tlv(kind, value=b""):
    return bytes([kind, len(value)]) + value


def padding(gap):
    """R7: the fewest TLVs that fill a gap, which is not 1."""
    out = b""
    while gap:
        size = gap if gap <= 257 else min(257, gap - 2)
        out += tlv(PADDING, bytes(size - 2))
        gap -= size
    return out


def sign(covered, key):
    """R5: the Signature Block over these bytes. Ed25519 signatures are the same each time (RFC 8032)."""
    if key["algorithm"] == "hmac-sha256":
        algorithm, signature = 2, hmac.digest(bytes.fromhex(key["secret"]), covered, "sha256")
    else:
        algorithm, signature = 1, Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key["private"])).sign(covered)
    return tlv(SIGNATURE, bytes([algorithm]) + key["key_id"].to_bytes(4, "big") + len(signature).to_bytes(2, "big") + signature)


def check_exchanges(vector, file):
    check_keys(file["keys"])
    request = bytes.fromhex(vector["request"])
    wrong_unless(vector["modes"] and set(vector["modes"]) <= {"datagram", "stream"}, "modes")
    for mode in ("datagram", "stream"):
        response = answer(request, vector["server"], mode, file)
        shown = None if response is None else response.hex()
        wrong_unless((shown == vector["response"]) or mode not in vector["modes"], f"{mode}: {shown}")
    if vector["response"] and vector["response"][:2] != "f9":
        decoded = decode_response(bytes.fromhex(vector["response"]))
        wrong_unless(len(vector["response"]) == len(vector["request"]) or not decoded["precision"], "sizes differ")


def check_streams(vector, _):
    received = bytes.fromhex(vector["received"])
    try:
        message(received)
        verdict = "answer"
    except Malformed:
        verdict = "error 1" if vector["fin"] else "wait"
    wrong_unless(verdict == vector["verdict"], verdict)


def check_samples(vector, _):
    response = decode_response(bytes.fromhex(vector["response"]))
    t1, t4, precision = (int(vector[name]) for name in ("t1_ns", "t4_ns", "precision_ns"))
    t2 = ns_from_ntp(int(response["t2"], 16), int(vector["pivot_ns"]))
    t3 = ns_from_ntp(int(response["t3"], 16), t2)
    twice_offset, delay = (t2 - t1) + (t3 - t4), (t4 - t1) - (t3 - t2)
    verdict = GOOD
    if t3 < t2:
        verdict = "T3 before T2"
    elif t4 < t1:
        verdict = "T4 before T1"
    elif delay < -precision:
        verdict = "negative delay"
    elif abs(twice_offset) > 2 * NS * int(vector["offset_limit_s"]):
        verdict = "offset over the limit"
    found = [str(one) for one in (t2, t3, twice_offset, delay)] + [verdict]
    wrong_unless(found == [vector[name] for name in ("t2_ns", "t3_ns", "twice_offset_ns", "delay_ns", "verdict")], found)


def check_timestamps(vector, _):
    unix_ns, ntp = int(vector["unix_ns"]), int(vector["ntp"], 16)
    wrong_unless(ns_from_ntp(ntp, int(vector["pivot_ns"])) == unix_ns, ns_from_ntp(ntp, int(vector["pivot_ns"])))
    # Other units of the same ns than the one that a sender writes give the ns in this direction only.
    expected = "both" if ntp_from_ns(unix_ns) == ntp and vector["direction"] == "both" else "to ns"
    wrong_unless(vector["direction"] == expected, f"{ntp_from_ns(unix_ns):016x}")


def check_signatures(vector, file):
    check_keys(file["keys"])
    verdict = signature_verdict(bytes.fromhex(vector["message"]), [file["keys"][name] for name in vector["trusted"]])
    wrong_unless(verdict == vector["verdict"], verdict)


def check_chains(vector, file):
    check_keys(file["keys"])
    previous, events, errors, limits = b"", [], {}, {}
    for record in vector["records"]:
        request, response = bytes.fromhex(record["request"]), bytes.fromhex(record["response"])
        nonce = sha256(previous + bytes.fromhex(record["blind"])).hexdigest()[:32]
        decoded = decode_response(response)
        follows = nonce == decoded["nonce"]
        wrong_unless(decode_request(request)["nonce"] == decoded["nonce"], "nonces differ")
        wrong_unless(follows == record["follows"], f"follows: {follows}")
        key = file["keys"][file["signers"][record["server"]]]
        wrong_unless(signature_verdict(response, [key]) == GOOD, "signature")
        t2 = ns_from_ntp(int(decoded["t2"], 16), int(file["pivot_ns"]))
        t3 = ns_from_ntp(int(decoded["t3"], 16), t2)
        wrong_unless((str(t2), str(t3)) == (record["t2_ns"], record["t3_ns"]), (t2, t3))
        previous = response
        if not follows:
            # It proves nothing, but the next one may follow it.
            events = []
            continue
        errors[record["server"]] = max(errors.get(record["server"], 0), decoded["clock_quality"]["error_us"] * 1000)
        for server, sent in events:
            pair = server, record["server"]
            limits[pair] = min(t2 - sent, limits.get(pair, t2 - sent))
        events.append((record["server"], t3))
    wrong_unless({name: str(error) for name, error in errors.items()} == vector["errors_ns"], errors)
    stated = {(limit["earlier"], limit["later"]): int(limit["at_most_ns"]) for limit in vector["limits"]}
    wrong_unless(stated == limits and len(stated) == len(vector["limits"]), limits)
    wrong_unless(contradiction(limits, errors) == vector["contradiction"], "contradiction")
    alone = [one for one in errors if vector["contradiction"] and not contradiction(*without(limits, errors, one))]
    wrong_unless((alone[0] if len(alone) == 1 else None) == vector["accused"], alone)


def without(limits, errors, server):
    """The same without one server."""
    return {pair: ns for pair, ns in limits.items() if server not in pair}, {one: ns for one, ns in errors.items() if one != server}


CHECKS = {
    "requests.json": check_requests, "responses.json": check_responses, "errors.json": check_responses,
    "malformed.json": check_malformed, "exchanges.json": check_exchanges, "streams.json": check_streams,
    "samples.json": check_samples, "timestamps.json": check_timestamps, "signatures.json": check_signatures,
    "chains.json": check_chains,
}  # fmt: skip


def problems(name, file):
    """What is wrong in a file: (vector, why)."""
    found = [] if file.get("format") == 1 else [("format", file.get("format"))]
    found += [] if file.get("vectors") else [("vectors", "none")]
    for vector in file.get("vectors", []):
        try:
            CHECKS[name](vector, file)
        except Exception as error:
            found.append((vector.get("name"), f"{type(error).__name__}: {error}"))
    return found


def main(directory):
    """Check all files of a directory. Returns the exit status."""
    status = 0
    for name in CHECKS:
        try:
            file = json.loads((directory / name).read_text(encoding="utf-8"))
            wrong = problems(name, file)
        except (OSError, ValueError, AttributeError, TypeError) as error:
            file, wrong = {}, [(name, error)]
        print(f"{name}: {'wrong' if wrong else 'good'}: {len(file.get('vectors', []))} vectors")
        for vector, why in wrong:
            status = 1
            print(f"  {vector}: {why}")
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent))
