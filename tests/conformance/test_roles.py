"""What client and server may do, must do, or must not do beside the messages themselves (docs/reference/conformance.md)."""

import pytest

from tests.conformance.test_secrecy import tickets_of
from tests.conformance.test_signatures import ED25519, HMAC, KEYS, SECRET, STREAM, asked
from tests.support import oracle
from tests.support.foreign import ForeignClient, Recorder, WrongServer, path
from tests.support.messages import NONCE, PLAIN_REQUEST, PLAIN_RESPONSE, SITE
from tests.support.world import World
from tsq._fast import unpack_tlvs
from tsq.client.exchange import Rules
from tsq.options import Precision
from tsq.timing.sample import Reason
from tsq.wire import tlv
from tsq.wire.message import ClockQuality, Response, TimeSource, decode_response, encode_error, encode_request, metadata_tlv
from tsq.wire.signature import HmacSigner

EVERYTHING = (ClockQuality(1, 100, 50, "gpsdo").tlv(), TimeSource(1, 1, "roof").tlv(), metadata_tlv({"site": "us-east"}))


def sample_of(world: World, answer=None, *, stream: bool = False, **rules):
    """(channel, sample) of one exchange; `answer` makes the server's answer from the right one."""
    if answer is not None:
        world.core.responder = WrongServer(answer)
    session = world.channel(stream=stream, rules=Rules(**rules))
    world.run(0.5)
    world.exchange(session, 4)
    (sample,) = session.samples
    return session, sample


# ------------------------------------------------------------------------------------------------- messages


@pytest.mark.draft("6.3.1-2")
def test_additions_are_metadata_keys_that_begin_with_tsq():
    # R12: the values of TlvType are those of the draft (test_messages.py); everything else is a key of Metadata.
    assert all(key.startswith("tsq.") for key in (tlv.EXACT_T3, *tlv.STATE_KEYS))
    asked = encode_request(NONCE, metadata=Rules().requested(exact=True, state=True), metadata_query=True)
    assert [kind for kind, _ in oracle.unpack(asked)] == [1, 247, 253]


@pytest.mark.draft("6.3.2-4")
def test_tlvs_are_read_one_after_the_other():
    # What looks like a TLV inside a value is not one.
    inside = oracle.pack([(250, b""), (252, b""), (255, bytes(7))])
    data = PLAIN_REQUEST + oracle.pack([(100, inside), (247, b""), (101, PLAIN_REQUEST)])
    assert unpack_tlvs(data) == [(1, NONCE), (100, inside), (247, b""), (101, PLAIN_REQUEST)] == oracle.unpack(data)


@pytest.mark.draft("6.3.2-7")
@STREAM
def test_a_signature_request_is_empty_and_sent_only_by_who_needs_a_signature(certificates, stream):
    for verifier, wanted in ((None, []), (HMAC.verifier, [(252, b"")])):
        world = World(certificates)
        world.core.responder = recorder = Recorder()
        session = world.channel(stream=stream, rules=Rules(verifier=verifier))
        world.run(0.5)
        world.exchange(session)
        (request,) = recorder.requests
        assert [item for item in oracle.unpack(request) if item[0] == 252] == wanted


@pytest.mark.draft("6.3.2-13")
@STREAM
def test_a_server_never_sends_what_belongs_to_requests(certificates, stream):
    client = ForeignClient(World(certificates, signer=HMAC.signer, clock_info=EVERYTHING))
    request = encode_request(NONCE, metadata_query=True, signature=True, metadata={"a": ""}, precision_size=300)
    answer = client.ask_stream(request) if stream else client.ask(request)[0]
    assert not {247, 252} & {kind for kind, _ in oracle.unpack(answer)}


@pytest.mark.draft("6.3.2-14", "6.3.2-18", "6.3.2-30", "6.3.2-31")
@STREAM
def test_a_server_may_know_nothing_about_its_clock(certificates, stream):
    session, sample = sample_of(World(certificates), stream=stream, metadata_query=True)
    response = session.exchange.last_response
    assert (response.clock_quality, response.time_source, dict(response.metadata)) == (None, None, {})
    assert sample.valid
    assert sample.server is None


@pytest.mark.draft("6.3.2-26")
@STREAM
def test_nothing_after_an_error_is_read(certificates, stream):
    session, sample = sample_of(World(certificates), lambda right: encode_error(1, "no") + right, stream=stream)
    assert not sample.valid
    assert sample.offset is None
    assert session.exchange.last_response is None


@pytest.mark.draft("6.3.2-27")
@KEYS
@STREAM
def test_an_error_with_a_signature_fails_the_request(certificates, keys, stream):
    # An Error TLV is alone (R4), so there is no signature to trust or to mistrust.
    error = encode_error(1, "no")
    sample = asked(certificates, keys, lambda right: error + oracle.pack([keys.signer.sign(error)]), stream=stream)
    assert not sample.valid
    assert sample.offset is None


@pytest.mark.draft("6.3.2-33")
@STREAM
def test_metadata_keys_that_the_client_does_not_know_are_ignored(certificates, stream):
    odd = oracle.pack([(253, SITE), (253, b"\x07tsq.new\x01?\x00\x00")])
    session, sample = sample_of(World(certificates), lambda right: right + odd, stream=stream)
    assert sample.valid
    assert sample.server is None
    assert dict(session.exchange.last_response.metadata) == {"site": "us-east", "tsq.new": "?", "": ""}


@pytest.mark.draft("6.3.2-34", "6.3.2-35")
@KEYS
def test_metadata_is_canonical_before_it_is_signed(certificates, keys):
    pairs = {"b": "2", "é": "3", "a": "1"}
    world = World(certificates, signer=keys.signer, clock_info=(metadata_tlv(pairs),))
    answer = ForeignClient(world).ask(encode_request(NONCE, metadata_query=True, signature=True))[0]
    value = next(value for kind, value in oracle.unpack(answer) if kind == 253)
    assert value == b"\x01a\x011\x01b\x012\x02\xc3\xa9\x013"
    keys.verifier.check(decode_response(answer).signature)


# ------------------------------------------------------------------------------------------------- Precision Mode


@pytest.mark.draft("6.4-4", "6.4-5", "6.4-11")
@STREAM
@pytest.mark.parametrize("precision", [Precision.ASK, Precision.REQUIRE])
def test_without_the_acknowledgment_the_client_goes_on_or_fails_as_it_was_told(certificates, stream, precision):
    def not_acknowledged(right: bytes) -> bytes:
        return oracle.pack([item for item in oracle.unpack(right) if item[0] not in (250, 254)])

    session, sample = sample_of(World(certificates), not_acknowledged, stream=stream, precision=precision)
    assert not session.exchange.last_response.precision
    assert not sample.precise
    assert sample.reason is (Reason.NOT_PRECISE if precision is Precision.REQUIRE else None)


# ------------------------------------------------------------------------------------------------- what a client believes


@pytest.mark.draft("6.6-4", "6.6-5", "7-3", "7-10", "9-16")
@STREAM
def test_a_response_with_another_nonce_is_discarded_with_its_reason(certificates, stream):
    # Neither a good stratum nor a signature is in place of the nonce.
    good = oracle.pack([TimeSource(1, 1, "gps").tlv()])

    def answer(right: bytes) -> bytes:
        return right[:17] + bytes([right[17] ^ 1]) + right[18:] + good

    session, sample = sample_of(World(certificates), answer, stream=stream)
    assert sample.reason is Reason.WRONG_NONCE
    assert sample.detail
    assert sample.offset is None
    assert session.exchange.last_response is None


@pytest.mark.draft("7-9", "9-11")
@STREAM
def test_what_a_server_reports_of_its_source_changes_no_measured_value(certificates, stream):
    # It is advice: it may widen a bound, or keep a server from being used, but it is not the time.
    offsets = set()
    for stratum in (None, 0, 1, 15, 255):
        world = World(certificates)
        world.server_offset_ns = 12_345_678
        reported = b"" if stratum is None else oracle.pack([TimeSource(stratum, 1).tlv()])
        _, sample = sample_of(world, lambda right, reported=reported: right + reported, stream=stream)
        offsets.add((sample.valid, sample.offset, sample.delay))
    assert offsets == {(True, 0.012345678, 0.002)}


@pytest.mark.draft("6.3.2-17", "6.3.2-29")
def test_the_reported_error_and_source_are_kept_with_the_sample(certificates):
    world = World(certificates, clock_info=EVERYTHING)
    session = world.channel()
    world.run(0.5)
    world.exchange(session)
    (sample,) = session.samples
    assert sample.server.error == 100e-6
    assert (sample.server.stratum, sample.server.source, sample.server.tag) == (1, "roof", "gpsdo")


# ------------------------------------------------------------------------------------------------- sessions and keys


@pytest.mark.draft("6.1-2", "7-4", "9-2")
def test_a_session_is_resumed_and_its_first_request_needs_no_round_trip(certificates):
    world = World(certificates)
    tickets = tickets_of(world)
    session = world.channel(ticket=tickets[0])
    world.run(0.5)
    assert session.zero_rtt
    assert session.samples[0].valid


@pytest.mark.draft("7-5")
def test_a_ticket_shows_neither_the_client_nor_the_server(certificates):
    world = World(certificates)
    tickets = tickets_of(world)
    assert tickets
    for ticket in tickets:
        assert b"localhost" not in ticket.ticket.ticket
        assert b"\xc0\x00\x02\x02" not in ticket.ticket.ticket
    # Two tickets of one client have no more in common than any two: an observer cannot link them.
    one, two = tickets[0].ticket.ticket, tickets_of(world)[0].ticket.ticket
    assert sum(a == b for a, b in zip(one, two, strict=False)) < len(one) // 2


@pytest.mark.draft("7-8")
def test_a_shared_secret_never_leaves_either_side(certificates):
    world = World(certificates, signer=HMAC.signer)
    world.core.responder = recorder = Recorder()
    recorder.signer = HMAC.signer
    session = world.channel(rules=Rules(verifier=HMAC.verifier))
    world.run(0.5)
    world.exchange(session)
    assert session.samples[0].valid
    assert len(recorder.requests) == 1
    everything = b"".join([*recorder.requests, *(data for _, data in world.sent)])
    answer = ForeignClient(world, where=path(1)).ask(encode_request(NONCE, signature=True))[0]
    assert isinstance(decode_response(answer), Response)
    assert SECRET[:8] not in everything + answer
    assert SECRET.hex()[:16].encode() not in everything + answer


@pytest.mark.draft("7-12")
@STREAM
def test_a_plain_exchange_has_nothing_that_identifies_its_sender(certificates, stream):
    client = ForeignClient(World(certificates, signer=ED25519.signer, clock_info=EVERYTHING))
    answer = client.ask_stream(PLAIN_REQUEST) if stream else client.ask(PLAIN_REQUEST)[0]
    assert len(answer) == len(PLAIN_RESPONSE) == 38
    assert encode_request(NONCE) == PLAIN_REQUEST


@pytest.mark.draft("7-13")
def test_two_connections_of_one_client_share_no_connection_id(certificates):
    world = World(certificates)
    for number in (1, 2):
        ForeignClient(world, where=path(number))
    firsts = [data for side, data in world.sent if side == "client" and data[0] & 0xC0 == 0xC0 and len(data) >= 1200]
    # RFC 9000 §17.2: after the version, the length and the bytes of the destination connection ID.
    identifiers = {data[6 : 6 + data[5]] for data in firsts}
    assert len(firsts) >= 2
    assert len(identifiers) >= 2


@pytest.mark.draft("8-5", "8-6")
@STREAM
def test_who_may_sign_is_the_choice_of_who_asks(certificates, stream):
    # Keys come from outside, by their ids: a server's own choice of a key proves nothing to a client that has not got it.
    stranger = HmacSigner(7, bytes(16))
    sample = asked(certificates, HMAC._replace(signer=stranger), stream=stream)
    assert sample.reason is Reason.SIGNATURE
