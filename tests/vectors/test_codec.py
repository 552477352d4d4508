"""TSQ itself agrees with each vector: decoders, encoders, the responder, samples, timestamps, signatures and proofs."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tests.vectors.parts import HERE
from tsq import _fast
from tsq.audit.examination import examination
from tsq.audit.records import Record, chained_nonce
from tsq.errors import MalformedMessage, SignatureError
from tsq.server.responder import Draft, Responder, Unanswered, stream_request_ready
from tsq.timing.sample import make_sample
from tsq.wire.message import (
    ErrorReply,
    Mode,
    Response,
    decode_request,
    decode_response,
    encode_error,
    encode_request,
    is_response,
    padding,
)  # fmt: skip
from tsq.wire.signature import Ed25519Signer, HmacSigner, Verifier
from tsq.wire.tlv import TlvType


def load(name: str) -> dict[str, Any]:
    return json.loads((HERE / name).read_text())


def vectors(name: str) -> Any:
    return pytest.mark.parametrize("vector", [pytest.param(vector, id=vector["name"]) for vector in load(name)["vectors"]])


def shown(value: Any) -> str:
    """A text of a vector as TSQ shows it: what is not UTF-8 as escapes."""
    return value if isinstance(value, str) else bytes.fromhex(value["hex"]).decode("utf-8", "backslashreplace")


def shown_pairs(pairs: list[list[Any]] | None) -> dict[str, str] | None:
    return None if pairs is None else {shown(key): shown(value) for key, value in pairs}


def signer_of(key: dict[str, Any]) -> Ed25519Signer | HmacSigner:
    if "secret" in key:
        return HmacSigner(key["key_id"], bytes.fromhex(key["secret"]))
    return Ed25519Signer(key["key_id"], Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key["private"])))


def verifier_of(keys: list[dict[str, Any]]) -> Verifier:
    return Verifier(
        {
            key["key_id"]: bytes.fromhex(key["secret"]) if "secret" in key
            else Ed25519PublicKey.from_public_bytes(bytes.fromhex(key["public"]))
            for key in keys
        }
    )  # fmt: skip


@vectors("requests.json")
def test_request(vector) -> None:
    data, fields = bytes.fromhex(vector["hex"]), vector["fields"]
    request = decode_request(data)
    assert request.nonce.hex() == fields["nonce"]
    assert (request.metadata_query, request.precision, request.signature) == (
        fields["metadata_query"], fields["precision"], fields["signature_request"],
    )  # fmt: skip
    assert request.metadata == shown_pairs(fields["metadata"])
    assert request.size == len(data)
    if vector["as_sent"] and not fields["unknown"]:
        size = len(data) if request.precision else None
        again = encode_request(
            request.nonce, metadata_query=request.metadata_query, signature=request.signature, metadata=request.metadata,
            precision_size=size,
        )  # fmt: skip
        assert again == data


@vectors("responses.json")
def test_response(vector) -> None:
    data, fields = bytes.fromhex(vector["hex"]), vector["fields"]
    response = decode_response(data)
    assert isinstance(response, Response)
    assert (response.nonce.hex(), f"{response.receive_ntp:016x}", f"{response.send_ntp:016x}") == (
        fields["nonce"], fields["t2"], fields["t3"],
    )  # fmt: skip
    quality, source, block = response.clock_quality, response.time_source, response.signature
    assert (quality and [quality.clock_class, quality.error_us, quality.drift_ppb, quality.tag]) == (
        fields["clock_quality"] and [shown(value) if name == "tag" else value for name, value in fields["clock_quality"].items()]
    )
    assert (source and [source.stratum, source.source_type, source.description]) == (
        fields["time_source"] and list(fields["time_source"].values())
    )
    assert response.metadata == (shown_pairs(fields["metadata"]) or {})
    assert response.precision == fields["precision"]
    assert (block and [block.algorithm, block.key_id, block.signature.hex(), len(block.covered)]) == (
        fields["signature"] and list(fields["signature"].values())
    )
    if vector["as_sent"]:
        for known in (quality, source):
            assert known is None or _fast.pack_tlvs([known.tlv()]) in data


@vectors("errors.json")
def test_error(vector) -> None:
    data, fields = bytes.fromhex(vector["hex"]), vector["fields"]
    assert decode_response(data) == ErrorReply(fields["code"], shown(fields["reason"]))
    if vector["as_sent"]:
        assert encode_error(fields["code"], fields["reason"]) == data


def test_a_reason_that_is_too_long_is_cut_as_the_vector_shows() -> None:
    vector = next(vector for vector in load("errors.json")["vectors"] if vector["name"] == "reason cut between letters")
    assert encode_error(1, "é" * 127) == bytes.fromhex(vector["hex"])


@vectors("malformed.json")
def test_malformed(vector) -> None:
    data = bytes.fromhex(vector["hex"])
    if vector["message"] == "response":
        with pytest.raises(MalformedMessage):
            decode_response(data)
        assert not is_response(data)
        return
    for mode in Mode:
        answer = Responder().prepare(data, 0, mode)
        assert isinstance(answer, Unanswered)
        error = answer.error and decode_response(answer.error)
        assert vector["verdict"][mode.value] == (f"error {error.code}" if isinstance(error, ErrorReply) else "no answer")


@vectors("exchanges.json")
def test_exchange(vector) -> None:
    file = load("exchanges.json")
    key = vector["server"]["key"]
    clock_info = tuple(_fast.unpack_tlvs(bytes.fromhex(vector["server"]["clock_info"])))
    responder = Responder(signer_of(file["keys"][key]) if key else None, clock_info)
    for mode in vector["modes"]:
        answer = responder.prepare(bytes.fromhex(vector["request"]), int(file["t2_ns"]), Mode(mode))
        made = answer.complete(int(file["t3_ns"])) if isinstance(answer, Draft) else answer.error
        assert (made or b"").hex() == (vector["response"] or ""), mode


def test_the_padding_of_the_vectors_is_what_a_client_sends() -> None:
    assert padding(258) == [(TlvType.PADDING, bytes(254)), (TlvType.PADDING, b"")]


@vectors("streams.json")
def test_stream(vector) -> None:
    received = bytes.fromhex(vector["received"])
    ready = stream_request_ready(received, vector["fin"])
    answer = Responder().prepare(received, 0, Mode.STREAM) if ready else None
    verdict = "wait" if answer is None else "answer" if isinstance(answer, Draft) else f"error {decode_response(answer.error).code}"
    assert verdict == vector["verdict"]


@vectors("samples.json")
def test_sample(vector) -> None:
    number = {name: int(vector[name]) for name in vector if name.endswith(("_ns", "_s"))}
    response = decode_response(bytes.fromhex(vector["response"]))
    t2_ns = _fast.ns_from_ntp(response.receive_ntp, number["pivot_ns"])
    t3_ns = _fast.ns_from_ntp(response.send_ntp, t2_ns)
    assert (t2_ns, t3_ns) == (number["t2_ns"], number["t3_ns"])
    sample = make_sample(
        number["t1_ns"], t2_ns, t3_ns, number["t4_ns"], precision_ns=number["precision_ns"], offset_limit=number["offset_limit_s"]
    )
    assert (sample.reason.value if sample.reason else "good").replace(" is ", " ") == vector["verdict"]
    assert sample.offset == number["twice_offset_ns"] / 2e9
    if sample.valid:
        assert sample.delay == max(number["delay_ns"], number["precision_ns"]) / 1e9


@vectors("timestamps.json")
def test_timestamp(vector) -> None:
    unix_ns, ntp = int(vector["unix_ns"]), int(vector["ntp"], 16)
    assert _fast.ns_from_ntp(ntp, int(vector["pivot_ns"])) == unix_ns
    if vector["direction"] == "both":
        assert _fast.ntp_from_ns(unix_ns) == ntp


@vectors("signatures.json")
def test_signature(vector) -> None:
    keys = load("signatures.json")["keys"]
    response = decode_response(bytes.fromhex(vector["message"]))
    verifier = verifier_of([keys[name] for name in vector["trusted"]])
    if vector["verdict"] == "good":
        verifier.check(response.signature)
        signer = signer_of(keys[next(name for name in vector["trusted"] if keys[name]["key_id"] == response.signature.key_id)])
        block = _fast.pack_tlvs([signer.sign(response.signature.covered)])
        assert response.signature.covered + block == bytes.fromhex(vector["message"])
        return
    with pytest.raises(SignatureError) as caught:
        verifier.check(response.signature)
    said = {"missing": "without a signature", "unknown key": "a signature by key"}.get(vector["verdict"], "a bad signature")
    assert said in caught.value.found


@vectors("chains.json")
def test_chain(vector) -> None:
    file = load("chains.json")
    records = [
        Record(
            record["server"], bytes.fromhex(record["request"]), bytes.fromhex(record["response"]), 0, int(record["t3_ns"]), "chain",
            bytes.fromhex(record["blind"]), number,
        )
        for number, record in enumerate(vector["records"])
    ]  # fmt: skip
    found = examination(records, verifier_of(list(file["keys"].values())))
    assert [fault.line for fault in found.faults] == [at for at, record in enumerate(vector["records"]) if not record["follows"]]
    limits = {(limit.earlier, limit.later): limit.at_most_ns for limit in found.findings.limits}
    assert limits == {(limit["earlier"], limit["later"]): int(limit["at_most_ns"]) for limit in vector["limits"]}
    assert {one.server: str(round(found.error_of(one.server) * 1e9)) for one in found.servers} == vector["errors_ns"]
    assert bool(found.findings.contradiction) == vector["contradiction"]
    assert found.findings.accused == vector["accused"]
    previous = b""
    for record in records:
        follows = chained_nonce(previous, record.blind) == decode_request(record.request).nonce
        assert follows == vector["records"][record.line]["follows"]
        previous = record.response
