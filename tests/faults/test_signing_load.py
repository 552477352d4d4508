"""Requests for signatures: limited for each client and for all, and never signed before the handshake is complete."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.foreign import ForeignClient, path
from tests.support.messages import PLAIN_REQUEST
from tests.support.world import World
from tsq.client.exchange import Rules
from tsq.quic.limits import Limits
from tsq.server import core
from tsq.server.responder import NoResponse
from tsq.wire.message import ErrorReply, decode_response, encode_request
from tsq.wire.signature import Ed25519Signer, Verifier

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
SIGNER, RULES = Ed25519Signer(5, KEY), Rules(verifier=Verifier({5: KEY.public_key()}))
AT_ONCE = 4 * int(Limits().signatures)
PLANES = pytest.mark.parametrize("data_plane", [False, True], ids=["control plane", "both planes"])


def signed_request(number: int) -> bytes:
    return encode_request(number.to_bytes(16, "big"), signature=True)


def over_quota(world: World) -> int:
    return world.counters.get("unanswered", NoResponse.SIGNATURE_QUOTA)


@pytest.mark.draft("7-14")
@PLANES
def test_22_a_flood_of_one_client_gets_its_share_and_others_are_answered_meanwhile(certificates, data_plane):
    world = World(certificates, signer=SIGNER, data_plane=data_plane)
    greedy, modest = ForeignClient(world, where=path(1)), ForeignClient(world, where=path(2))
    answers = []
    for number in range(40):
        answers += greedy.ask(*(signed_request(5 * number + i) for i in range(5)), seconds=0.003)
    # 0.12 s bring one more.
    assert AT_ONCE <= len(answers) <= AT_ONCE + 2
    assert over_quota(world) == 200 - len(answers)
    assert all(decode_response(answer).signature for answer in answers)
    assert decode_response(modest.ask(signed_request(1))[0]).signature
    # The greedy client's plain requests cost nothing.
    assert decode_response(greedy.ask(PLAIN_REQUEST)[0]).signature is None
    world.run(1.0)
    assert len(greedy.ask(signed_request(999))) == 1


def test_22_all_clients_together_get_no_more_than_the_server_will_spend(certificates):
    world = World(certificates, signer=SIGNER, limits=Limits(all_signatures=10.0))
    clients = [ForeignClient(world, where=path(number)) for number in range(5)]
    answers = [client.ask(*(signed_request(i) for i in range(5)), seconds=0.003) for client in clients]
    assert 10 <= sum(map(len, answers)) <= 11
    assert over_quota(world) == 25 - sum(map(len, answers))


def test_22_on_a_stream_the_client_learns_the_reason(certificates):
    world = World(certificates, signer=SIGNER, limits=Limits(signatures=1.0))
    client = ForeignClient(world)
    answers = [decode_response(client.ask_stream(signed_request(number))) for number in range(6)]
    refused = [answer for answer in answers if isinstance(answer, ErrorReply)]
    assert [(answer.code, answer.reason) for answer in refused] == 2 * [(3, "too many signatures")]


@PLANES
def test_24_early_data_gets_its_signature_after_the_handshake_with_the_times_that_are_true(certificates, data_plane):
    world = World(certificates, signer=SIGNER, data_plane=data_plane)
    tickets = []
    first = world.channel(rules=RULES, on_ticket=tickets.append)
    world.run(0.5)
    first.close()
    world.pump(first)
    world.run(1.0)
    signed_at = []
    sign = Ed25519Signer.sign

    class Noting(Ed25519Signer):
        def sign(self, covered):
            signed_at.append((world.now, [connection.handshake is not None for connection in world.router.connections]))
            return sign(self, covered)

    world.responder.signer = Noting(5, KEY)
    started = world.now
    second = world.channel(rules=RULES, ticket=tickets[-1])
    world.run(0.5)
    (sample, *_) = second.samples
    assert second.zero_rtt
    assert sample.valid
    # The handshake needs one more round trip of 2 ms than early data does. T2 is when the request came.
    (when, complete), *_ = signed_at
    assert all(complete)
    assert when >= started + 0.003
    assert sample.t3_ns - sample.t2_ns >= 2_000_000
    assert abs(sample.offset) < 1e-6


def test_24_early_data_cannot_make_the_server_keep_many_requests(certificates, monkeypatch):
    monkeypatch.setattr(core, "_MOST_WAITING", 1)
    world = World(certificates, signer=SIGNER)
    tickets = []
    world.channel(on_ticket=tickets.append)
    world.run(0.5)
    client = ForeignClient(world, where=path(3), connect=False, session_ticket=tickets[-1].ticket)
    client.quic.connect("the server", world.now)
    answers = client.ask(*(signed_request(number) for number in range(2)))
    assert [decode_response(answer).nonce for answer in answers] == [bytes(16)]
    assert over_quota(world) == 1


def test_24_a_plain_request_in_early_data_does_not_wait(certificates):
    world = World(certificates, signer=SIGNER)
    tickets = []
    world.channel(on_ticket=tickets.append)
    world.run(0.5)
    second = world.channel(path=path(4), ticket=tickets[-1])
    world.run(0.5)
    assert second.zero_rtt
    assert second.samples[0].t3_ns - second.samples[0].t2_ns == 0
