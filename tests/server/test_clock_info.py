"""What a server reports about its clock, byte by byte: only on request, and never better than it is."""

from dataclasses import replace

import pytest

from tsq.host.keepers.sync_state import SyncState
from tsq.server.clock_info import clock_info
from tsq.server.responder import Draft, Responder
from tsq.timing.server_state import server_state
from tsq.wire.message import Mode, decode_response, encode_request
from tsq.wire.tlv import EXACT_T3, LEAP, ROOT_DELAY, ROOT_DISPERSION, SMEAR, STATE_KEYS, ClockClass, SourceType

NONCE = bytes(range(16))
RECEIVED_NS = 1_800_000_000_000_000_000
GOOD = SyncState("chrony", 2, 1, SourceType.NTP, ClockClass.NTP_SYNCHRONIZED, "192.0.2.1", 0.0100000001, 0.0021, 1.75)
BAD = SyncState("kernel", 0, 3, SourceType.UNKNOWN, ClockClass.UNKNOWN, "", 0.0, 16.0)


def answered(state: SyncState, **request) -> bytes:
    tlvs, pairs = clock_info(state)
    draft = Responder(clock_info=tlvs, pairs=pairs).prepare(encode_request(NONCE, **request), RECEIVED_NS, Mode.DATAGRAM)
    assert isinstance(draft, Draft)
    return draft.complete(RECEIVED_NS + 1000)


def asked(*keys: str) -> dict[str, str]:
    return dict.fromkeys(keys, "")


@pytest.mark.parametrize("request_", [{}, {"metadata": {"site": "x"}}, {"metadata": asked(*STATE_KEYS)}, {"signature": False}])
def test_a_request_without_a_metadata_query_gets_38_bytes(request_):
    assert len(answered(GOOD, **request_)) == 38


@pytest.mark.draft("9-10", "9-14")
def test_the_answer_to_a_metadata_query_reports_stratum_source_error_and_drift():
    response = decode_response(answered(GOOD, metadata_query=True))
    assert response.metadata == {}
    assert (response.time_source.stratum, response.time_source.source_type) == (2, SourceType.NTP)
    assert response.time_source.description == "chrony 192.0.2.1"
    # 7100.00005 µs and 1750 ppb.
    assert (response.clock_quality.error_us, response.clock_quality.drift_ppb) == (7101, 1750)
    assert response.clock_quality.clock_class == ClockClass.NTP_SYNCHRONIZED


@pytest.mark.draft("9-8")
@pytest.mark.parametrize("keys", [(LEAP,), (ROOT_DELAY, ROOT_DISPERSION), STATE_KEYS])
def test_keys_are_reported_if_a_metadata_query_asks_for_them(keys):
    response = decode_response(answered(GOOD, metadata_query=True, metadata=asked(*keys)))
    reported = {LEAP: "1", ROOT_DELAY: "10000001", ROOT_DISPERSION: "2100000"}
    # The server does not know whether leap seconds are smeared.
    assert response.metadata == {key: reported[key] for key in keys if key != SMEAR}


@pytest.mark.parametrize(("smeared", "reported"), [(True, "1"), (False, "0"), (None, None)])
def test_smearing_is_reported_where_the_keeper_knows_it(smeared, reported):
    response = decode_response(answered(replace(GOOD, smeared=smeared), metadata_query=True, metadata=asked(*STATE_KEYS)))
    assert response.metadata.get(SMEAR) == reported
    assert server_state(response, RECEIVED_NS).smeared is smeared


def test_a_key_with_a_value_asks_for_nothing():
    assert decode_response(answered(GOOD, metadata_query=True, metadata={LEAP: "0"})).metadata == {}


def test_the_client_decodes_the_reported_error_stratum_and_leap():
    state = server_state(decode_response(answered(GOOD, metadata_query=True, metadata=asked(*STATE_KEYS))), RECEIVED_NS)
    assert state.error == pytest.approx(GOOD.error, abs=2e-9)
    assert state.error >= GOOD.error
    assert (state.stratum, state.leap, state.smeared) == (2, 1, None)


def test_fault_33_an_unsynchronized_clock_is_reported_with_stratum_0_leap_3_and_the_largest_error():
    response = decode_response(answered(BAD, metadata_query=True, metadata=asked(*STATE_KEYS)))
    assert response.time_source.stratum == 0
    assert response.clock_quality.error_us == 65535
    assert response.metadata[LEAP] == "3"


def test_an_error_of_0_is_reported_as_the_least_error():
    perfect = SyncState("operator", 1, 0, SourceType.MANUAL, ClockClass.UNKNOWN, "", 0.0, 0.0, 0.0)
    response = decode_response(answered(perfect, metadata_query=True, metadata=asked(*STATE_KEYS)))
    assert response.clock_quality.error_us == 1
    assert response.metadata[ROOT_DISPERSION] == "1"


def test_a_reference_of_any_length_fits():
    long = SyncState("chrony", 2, 0, SourceType.NTP, ClockClass.UNKNOWN, "ü" * 300, 0.0, 0.1)
    assert decode_response(answered(long, metadata_query=True)).time_source.description.startswith("chrony ü")


def test_precision_mode_leaves_out_the_keys_first_and_keeps_the_length():
    plain = answered(GOOD, metadata_query=True)
    size = len(plain) + 2
    answer = answered(GOOD, metadata_query=True, metadata=asked(*STATE_KEYS), precision_size=size + 90)
    request = encode_request(NONCE, metadata_query=True, metadata=asked(*STATE_KEYS), precision_size=size + 90)
    assert len(answer) == len(request)
    assert decode_response(answer).time_source is not None


def test_keys_and_exact_t3_are_both_reported():
    tlvs, pairs = clock_info(GOOD)
    request = encode_request(NONCE, metadata_query=True, metadata=asked(*STATE_KEYS, EXACT_T3))
    draft = Responder(clock_info=tlvs, pairs=pairs).prepare(request, RECEIVED_NS, Mode.DATAGRAM)
    assert draft.exact
    exact = "0" * 32
    response = decode_response(draft.with_exact_t3(exact).complete(RECEIVED_NS + 1))
    assert response.metadata[EXACT_T3] == exact
    assert response.metadata[LEAP] == "1"
