"""The largest messages (docs/reference/protocol.md): what is left out of an answer, what is not answered, what is not kept."""

import pytest

from tests.support import oracle
from tests.support.foreign import ForeignClient, WrongServer
from tests.support.messages import NONCE
from tests.support.world import World
from tsq.client.exchange import Rules
from tsq.quic.connection import MAX_STREAM_SIZE
from tsq.server.responder import NoResponse, Responder
from tsq.timing.sample import Reason
from tsq.wire.message import ClockQuality, Mode, TimeSource, decode_response, encode_request
from tsq.wire.signature import HmacSigner

T2_NS = 1_800_000_000_000_000_000
QUALITY, SOURCE = ClockQuality(1, 2, 3, "a-good-clock--").tlv(), TimeSource(1, 1, "roof-north").tlv()
PAIRS = {"tsq.leap": "0", "tsq.root_delay": "123456", "tsq.root_dispersion": "654321", "tsq.smear": "0"}
SIGNER = HmacSigner(1, bytes(16))
PLANES = pytest.mark.parametrize("data_plane", [False, True], ids=["control", "data"])


def kinds_of(data: bytes) -> list[int]:
    return [kind for kind, _ in oracle.unpack_message(data)]


def everything() -> bytes:
    return encode_request(NONCE, metadata_query=True, metadata=dict.fromkeys([*PAIRS, "tsq.t3"], ""))


@pytest.mark.parametrize("most", range(30, 260))
@pytest.mark.parametrize("signed", [False, True])
def test_an_answer_is_never_larger_than_its_limit_unless_the_mandatory_tlvs_are(most, signed):
    responder = Responder(SIGNER, (QUALITY, SOURCE), PAIRS)
    request = encode_request(NONCE, metadata_query=True, signature=signed, metadata=dict.fromkeys([*PAIRS, "tsq.t3"], ""))
    draft = responder.prepare(request, T2_NS, Mode.DATAGRAM).within(most)
    if draft.exact:
        draft = draft.with_exact_t3("0" * 32)
    answer = draft.complete(T2_NS)
    least = 38 + signed * SIGNER.block_size
    assert len(answer) <= max(most, least)
    decode_response(answer)
    whole = responder.prepare(request, T2_NS, Mode.DATAGRAM)
    assert draft.shortened == (whole.size > most)
    # What is left is a prefix of what there was.
    optional = [248, 251, 253]
    assert kinds_of(draft.complete(T2_NS))[3 : 3 + len(draft.optional)] == [*optional, 253][: len(draft.optional)]


def test_a_whole_answer_is_left_as_it_is():
    draft = Responder(None, (QUALITY, SOURCE), PAIRS).prepare(everything(), T2_NS, Mode.DATAGRAM)
    assert draft.within(1100) is draft
    assert not draft.shortened


@PLANES
@pytest.mark.parametrize("most_frame", [150, 70])
def test_a_client_that_takes_small_frames_gets_an_answer_without_optional_tlvs(certificates, data_plane, most_frame):
    world = World(certificates, data_plane=data_plane, clock_info=(QUALITY, SOURCE), pairs=PAIRS)
    client = ForeignClient(world, max_datagram_frame_size=most_frame)
    [answer] = client.ask(everything())
    assert len(answer) + 3 <= most_frame
    assert kinds_of(answer) == ([1, 2, 3, 248, 251] if most_frame == 150 else [1, 2, 3, 248])
    assert world.counters.get("shortened") == 1
    assert world.counters.get("answered") == 1


@PLANES
def test_an_answer_whose_mandatory_tlvs_do_not_fit_is_dropped_and_counted(certificates, data_plane):
    world = World(certificates, data_plane=data_plane, signer=SIGNER)
    client = ForeignClient(world, max_datagram_frame_size=70)
    assert client.ask(encode_request(NONCE, signature=True)) == []
    assert world.counters.get("unanswered", "peer takes no datagram of this size") == 1
    # A plain answer fits.
    assert len(client.ask(encode_request(NONCE))) == 1


@PLANES
@pytest.mark.parametrize(("size", "promised"), [(297, True), (298, False), (1000, False)])
def test_a_precision_answer_over_the_clients_limit_is_a_plain_one(certificates, data_plane, size, promised):
    world = World(certificates, data_plane=data_plane)
    client = ForeignClient(world, max_datagram_frame_size=300)
    for _ in range(3):
        [answer] = client.ask(encode_request(NONCE, precision_size=size))
        assert len(answer) == (size if promised else 38)
    shortened = world.counters.get("shortened") + (world.data_plane.shortened if data_plane else 0)
    assert shortened == (0 if promised else 3)
    if data_plane:
        assert world.data_plane.answered >= 2


def test_at_rest_the_limit_is_the_same(certificates):
    world = World(certificates, data_plane=True, rest_after=1.0, clock_info=(QUALITY, SOURCE), pairs=PAIRS)
    client = ForeignClient(world, max_datagram_frame_size=1300)
    client.ask(encode_request(NONCE))
    world.run(5)
    assert world.data_plane.resting == 1
    [answer] = client.ask(everything())
    assert kinds_of(answer) == [1, 2, 3, 248, 251, 253]
    assert world.data_plane.resting == 1
    [answer] = client.ask(encode_request(NONCE, precision_size=1101))
    assert len(answer) == 38
    assert world.data_plane.shortened == 1


@pytest.mark.parametrize("pieces", [1, 2, 5])
@pytest.mark.parametrize("excess", [0, 1])
def test_a_request_over_2048_bytes_on_a_stream_is_not_kept(certificates, pieces, excess):
    world = World(certificates)
    client = ForeignClient(world)
    stream = client.open()
    request = encode_request(NONCE, precision_size=MAX_STREAM_SIZE) + bytes(excess)
    step = -(-len(request) // pieces)
    for at in range(0, len(request), step):
        client.write(stream, request[at : at + step], fin=at + step >= len(request))
    world.run(0.5)
    [connection] = world.router.connections
    assert connection._streams == {}
    assert world.counters.get("unanswered", NoResponse.TOO_LARGE) == excess
    assert (stream in client.reset) == bool(excess)
    if not excess:
        assert len(client.streams[stream]) == MAX_STREAM_SIZE
    # The connection goes on.
    assert len(client.ask_stream(encode_request(NONCE))) == 38


def test_an_answer_over_2048_bytes_on_a_stream_fails_its_exchange_alone(certificates):
    world = World(certificates)
    large = [True]
    world.core.responder = WrongServer(lambda right: right + (bytes([200, 255]) + bytes(255)) * 8 * large[0])
    session = world.channel(stream=True, rules=Rules(state_interval=None), timeout=1.0)
    world.run(0.5)
    world.exchange(session, 2)
    assert session.samples[0].reason is Reason.NO_ANSWER
    large[0] = False
    world.exchange(session)
    assert session.samples[1].valid
    assert session.error is None
