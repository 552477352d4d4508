"""The operator's metadata: only for those who ask, the same from both planes, and nothing that it could break (protocol R14)."""

import asyncio

import pytest

import tsq
from tests.support import oracle
from tests.support.foreign import ForeignClient, path
from tests.support.messages import NONCE, PLAIN_REQUEST, SITE
from tests.support.threads import ServerThread
from tests.support.world import World
from tsq.errors import ConfigError
from tsq.server.responder import Responder
from tsq.wire.annotations import annotations_tlv
from tsq.wire.message import Mode, TimeSource, decode_response, encode_request
from tsq.wire.tlv import LEAP, PLAIN_RESPONSE_SIZE

T2_NS = 1_800_000_000_000_000_000
TLVS = annotations_tlv({"site": "us-east"})
QUERY = encode_request(NONCE, metadata_query=True)
EXACT = encode_request(NONCE, metadata={"tsq.t3": ""})


def kinds(response: bytes) -> list[int]:
    return [kind for kind, _ in oracle.unpack(response)]


@pytest.mark.parametrize("request_", [PLAIN_REQUEST, EXACT, encode_request(NONCE, metadata={"site": ""})])
def test_nobody_gets_it_unasked(request_):
    answer = Responder(annotations=TLVS).prepare(request_, T2_NS, Mode.DATAGRAM).complete(T2_NS)
    assert kinds(answer) == [1, 2, 3]


@pytest.mark.parametrize("mode", list(Mode))
def test_a_metadata_query_gets_it_after_what_the_server_says_of_its_clock(mode):
    responder = Responder(None, (TimeSource(1, 1).tlv(),), {LEAP: "0"}, TLVS)
    answer = responder.prepare(encode_request(NONCE, metadata_query=True, metadata={LEAP: ""}), T2_NS, mode).complete(T2_NS)
    assert oracle.unpack(answer)[3:] == [(251, b"\1\1"), (253, b"\x08tsq.leap\x010"), (253, SITE)]


def test_in_precision_mode_it_is_what_is_left_out_first():
    responder = Responder(None, (TimeSource(1, 1).tlv(),), annotations=TLVS)
    fits = PLAIN_RESPONSE_SIZE + 2 + 4 + 2 + len(SITE)
    for size, expected in ((fits, [1, 2, 3, 251, 253, 250]), (fits - 1, [1, 2, 3, 251, 250, 254])):
        request = encode_request(NONCE, metadata_query=True, precision_size=size)
        assert kinds(responder.prepare(request, T2_NS, Mode.DATAGRAM).complete(T2_NS)) == expected


@pytest.mark.parametrize("rest_after", [1e9, 0.5], ids=["awake", "at rest"])
def test_both_planes_agree(certificates, rest_after):
    answers = []
    for data_plane in (False, True):
        world = World(certificates, data_plane=data_plane, rest_after=rest_after, annotations=TLVS)
        client = ForeignClient(world, where=path(1))
        # A plain request and one for exact T3 before it: the data plane has the connection.
        client.ask(PLAIN_REQUEST)
        client.ask(EXACT)
        world.run(3.0)
        assert bool(data_plane and world.data_plane.resting) == (data_plane and rest_after < 1)
        (answer,) = client.ask(QUERY)
        assert decode_response(answer).metadata == {"site": "us-east"}
        assert oracle.unpack(answer)[3:] == [(253, SITE)]
        (plain,) = client.ask(PLAIN_REQUEST)
        assert len(plain) == PLAIN_RESPONSE_SIZE
        answers.append([value for kind, value in oracle.unpack(answer) if kind not in (2, 3)])
        if data_plane:
            assert world.data_plane.answered >= 2
    assert answers[0] == answers[1]


def test_a_program_gives_it_to_its_server_and_reads_it_in_its_result(certificates):
    with ServerThread(["127.0.0.1:0"], certificates, metadata={"site": "us-east", "contact": "time@example.com"}) as server:
        options = tsq.ClientOptions(count=1, trust=tsq.Trust(ca_file=server.ca))
        result = tsq.query(server.target, options)
        assert result.metadata == {"contact": "time@example.com", "site": "us-east"}
        assert result.to_dict()["metadata"] == result.metadata
        assert asyncio.run(tsq.aquery(server.target, options)).metadata == result.metadata
        # Its clock is reported as well.
        assert result.estimate.server.stratum == 1


def test_a_server_without_any_gives_none(certificates):
    with ServerThread(["127.0.0.1:0"], certificates) as server:
        assert tsq.query(server.target, tsq.ClientOptions(count=1, trust=tsq.Trust(ca_file=server.ca))).metadata == {}


def test_bad_metadata_is_refused_before_anything_is_opened(certificates):
    with pytest.raises(ConfigError, match="the protocol's own"):
        tsq.Server(["127.0.0.1:0"], str(certificates.certificate), str(certificates.key), metadata={"tsq.leap": "0"})
