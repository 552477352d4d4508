"""`tsq-conformance` without its command: our server passes, and a server that breaks one rule fails that rule's row, and no other.

The broken servers are ours with one thing changed, in virtual time.
"""

import os
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.conformance.test_signatures import ED25519
from tests.support import oracle
from tests.support.examined import site
from tests.support.messages import mutated
from tests.support.world import World
from tsq._fast import pack_response
from tsq.conformance import connections, datagrams
from tsq.conformance.findings import Finding, Findings, Verdict
from tsq.conformance.judge import Answer, judge, read_tlvs
from tsq.conformance.link import OutOfTime
from tsq.conformance.statements import STATEMENTS
from tsq.conformance.suite import Report, run
from tsq.errors import AlpnRefused, HandshakeTimeout, UnknownAuthority
from tsq.quic.connection import Connection
from tsq.quic.tickets import AcceptedTicket, SessionTicket
from tsq.server import core
from tsq.server.responder import Draft, NoResponse, Responder, Unanswered
from tsq.wire.message import ClockQuality, Mode, TimeSource, encode_error, metadata_tlv

INFORMATION = (ClockQuality(1, 100, 50, "gpsdo").tlv(), TimeSource(1, 1, "roof").tlv(), metadata_tlv({"site": "us-east", "a": "b"}))
Tlvs = list[tuple[int, bytes]]


class Changed(Responder):
    """A server whose answers are changed. `answer`: (TLVs of the request, right TLVs) -> TLVs that are sent."""

    def __init__(self, answer: Callable[[Tlvs, Tlvs], Tlvs], **options: Any) -> None:
        super().__init__(**options)
        self._answer = answer

    def prepare(self, data: bytes, receive_ns: int, mode: Mode) -> Draft | Unanswered:
        draft = super().prepare(data, receive_ns, mode)
        if isinstance(draft, Unanswered):
            return draft
        return Bytes(receive_ns, lambda send_ns: self._complete(data, draft, send_ns))

    def _complete(self, data: bytes, draft: Draft, send_ns: int) -> bytes | Unanswered:
        right = draft.complete(send_ns)
        if isinstance(right, Unanswered):
            return right
        return oracle.pack(self._answer(oracle.unpack(data), oracle.unpack(right)))


class Bytes(Draft):
    """A response that is made of anything."""

    __slots__ = ("_make",)

    def __init__(self, receive_ns: int, make: Callable[[int], bytes | Unanswered]) -> None:
        super().__init__(bytes(16), receive_ns)
        object.__setattr__(self, "_make", make)

    def within(self, most: int) -> "Bytes":
        return self

    def complete(self, send_ns: int) -> bytes | Unanswered:
        return self._make(send_ns)


class OnMalformed(Responder):
    """A server that does something with malformed requests. `act`: (the server, mode, time) -> bytes of an answer, or None."""

    def __init__(self, act: Callable[[World, Mode, int], bytes | None], world: World) -> None:
        super().__init__()
        self._act, self._world = act, world

    def prepare(self, data: bytes, receive_ns: int, mode: Mode) -> Draft | Unanswered:
        right = super().prepare(data, receive_ns, mode)
        if not isinstance(right, Unanswered) or right.reason is not NoResponse.MALFORMED:
            return right
        answer = self._act(self._world, mode, receive_ns)
        return right if answer is None else Bytes(receive_ns, lambda send_ns: answer)


class Strict(Responder):
    """A server that takes unknown types for an error."""

    def prepare(self, data: bytes, receive_ns: int, mode: Mode) -> Draft | Unanswered:
        known = {kind for kind, _ in oracle.unpack(data) or []} <= {1, 247, 250, 252, 253, 254}
        return super().prepare(data if known else b"", receive_ns, mode)


def examined(world: World, **options: Any) -> Report:
    return run(site(world), **options)


def failed(report: Report) -> set[str]:
    return {finding.statement.number for finding in report.failed}


def changed(certificates, answer, **options) -> World:
    world = World(certificates)
    world.core.responder = Changed(answer, clock_info=INFORMATION, **options)
    return world


# ------------------------------------------------------------------------------------------------- right servers


@pytest.mark.parametrize("data_plane", [False, True], ids=["control_plane", "data_plane"])
@pytest.mark.parametrize("signer", [None, ED25519.signer], ids=["no_key", "key"])
@pytest.mark.parametrize("information", [(), INFORMATION], ids=["no_information", "information"])
def test_our_server_passes(certificates, data_plane, signer, information):
    world = World(certificates, data_plane=data_plane, signer=signer, clock_info=information)
    report = examined(world, verifier=ED25519.verifier, names=[b"localhost", b"192.0.2.7"])
    assert report.failed == []
    assert list(report.unfinished) == []
    assert (report.alpn, report.datagrams, report.streams) == ("tsq/1", True, True)
    skipped = {one.statement.number for one in report.findings if one.verdict is Verdict.SKIPPED}
    signed = {"6.3.2-8", "6.3.2-39", "6.3.2-42", "6.3.2-43", "6.4-10", "8-2", "8-3", "8-4"}
    assert skipped == (set() if signer else signed) | (set() if information else {"6.3.2-11", "6.3.2-15", "9-10"})
    assert len(report.findings) + len(report.untested) == len(STATEMENTS)


def test_a_run_is_bounded_in_messages_and_rate(certificates):
    world = World(certificates)
    examined(world)
    assert world.counters.get("requests") < 120
    assert world.counters.get("handshakes") < 40
    duration = world.now - 1000
    assert duration < 15
    assert world.counters.get("requests") / duration < 50


def test_a_server_without_datagrams_is_tested_on_streams(certificates):
    world = World(certificates)
    world.router.configuration.max_datagram_frame_size = None
    report = examined(world)
    assert report.failed == []
    assert not report.datagrams
    found = {one.statement.number: one.verdict for one in report.findings}
    assert found["6.5-a"] is Verdict.SKIPPED
    assert found["6.4-6"] is found["R2-1"] is found["6.3.2-5"] is Verdict.PASS


@pytest.mark.parametrize(("spoken", "chosen", "wrong"), [(["tsq"], "tsq", set()), (["tsq/1"], "tsq/1", {"2-1", "6.1-1"})])
def test_a_server_of_one_alpn_identifier(certificates, spoken, chosen, wrong):
    world = World(certificates)
    world.router.configuration.alpn_protocols = spoken
    report = examined(world)
    assert report.alpn == chosen
    assert failed(report) == wrong


# ------------------------------------------------------------------------------------------------- changed answers


def each(change: Callable[[Tlvs], Tlvs]) -> Callable[[Tlvs, Tlvs], Tlvs]:
    """Change each answer alike."""
    return lambda request, right: change(right)


def where(kind: int, change: Callable[[Tlvs], Tlvs]) -> Callable[[Tlvs, Tlvs], Tlvs]:
    """Change answers that have a TLV of this type."""
    return lambda request, right: change(right) if any(one == kind for one, _ in right) else right


def replaced(kind: int, make: Callable[[bytes], bytes]) -> Callable[[Tlvs, Tlvs], Tlvs]:
    """Change the values of one type."""
    return each(lambda right: [(one, make(value)) if one == kind else (one, value) for one, value in right])


def moved(kind: int, place: int) -> Callable[[Tlvs, Tlvs], Tlvs]:
    """Move the TLVs of one type to another place."""

    def change(right: Tlvs) -> Tlvs:
        rest = [item for item in right if item[0] != kind]
        return [*rest[:place], *(item for item in right if item[0] == kind), *rest[place:]]

    return where(kind, change)


def if_asked(kind: int, change: Callable[[Tlvs], Tlvs]) -> Callable[[Tlvs, Tlvs], Tlvs]:
    """Change answers to requests that have a TLV of this type."""
    return lambda request, right: change(right) if any(one == kind for one, _ in request) else right


def plainly(change: Callable[[Tlvs], Tlvs]) -> Callable[[Tlvs, Tlvs], Tlvs]:
    """Change answers to requests that ask for nothing else."""
    return lambda request, right: change(right) if len(request) == 1 else right


def backwards(right: Tlvs) -> Tlvs:
    """T3 one second before T2."""
    early = (int.from_bytes(right[1][1], "big") - (1 << 32)).to_bytes(8, "big")
    return [*right[:2], (3, early), *right[3:]]


def frozen(right: Tlvs) -> Tlvs:
    return [(kind, bytes(range(8)) if kind in (2, 3) else value) for kind, value in right]


def only(*kinds: int) -> Callable[[Tlvs], Tlvs]:
    return lambda right: [item for item in right if item[0] in kinds]


UNSORTED = b"\x04site\x07us-east\x01a\x01b"

CHANGED: dict[str, tuple[set[str], Callable[[Tlvs, Tlvs], Tlvs]]] = {
    "another_nonce": ({"6.3.2-a"}, replaced(1, lambda nonce: bytes(16))),
    "a_short_nonce": ({"6.3.2-a"}, replaced(1, lambda nonce: nonce[:15])),
    "nonce_last": ({"6.3.2-1"}, plainly(lambda right: [*right[1:], right[0]])),
    "T3_before_T2": ({"6.2-a"}, each(backwards)),
    "T3_after_the_answer": ({"6.2-a"}, replaced(3, lambda t3: (int.from_bytes(t3, "big") + (1 << 32)).to_bytes(8, "big"))),
    "a_clock_that_stands_still": ({"6.2-1"}, each(frozen)),
    "no_T3": ({"6.3.2-b"}, plainly(only(1, 2))),
    "T2_of_7_bytes": ({"6.3.2-b", "6.2-1"}, plainly(lambda right: [right[0], (2, bytes(7)), *right[2:]])),
    "T2_twice": ({"6.3.2-b"}, plainly(lambda right: [*right, (2, bytes(8))])),
    "metadata_unasked": ({"7-12"}, plainly(lambda right: [*right, (253, b"\x01a\x01b")])),
    "signature_unasked": (
        {"7-12", "8-1"},
        plainly(lambda right: [*right, (255, b"\x02" + bytes(4) + b"\x00\x20" + bytes(32))]),
    ),
    "a_query_in_the_answer": ({"6.3.2-13"}, if_asked(247, lambda right: [*right, (247, b"")])),
    "optional_before_required": ({"6.3.2-9", "6.3.2-19"}, moved(248, 1)),
    "clock_quality_of_5_bytes": ({"6.3.2-c"}, replaced(248, lambda value: value[:5])),
    "a_tag_that_is_no_utf_8": ({"6.3.2-c"}, replaced(248, lambda value: value + b"\xff")),
    "time_source_of_1_byte": ({"6.3.2-c"}, replaced(251, lambda value: value[:1])),
    "metadata_that_is_cut": ({"6.3.2-d"}, replaced(253, lambda value: value[:-1])),
    "metadata_out_of_order": ({"6.3.2-34", "6.3.2-35"}, replaced(253, lambda value: UNSORTED)),
    "padding_not_zero": ({"6.3.2-37", "6.4-8"}, replaced(254, lambda value: b"\x01" * len(value))),
    "padding_first": ({"6.3.2-38", "6.4-9"}, moved(254, 3)),
    "type_0_beside_padding": ({"6.3.2-40", "6.4-6", "R7-2"}, where(254, lambda right: [*right[:3], (0, b""), *right[3:]])),
    "not_as_long_as_the_request": ({"6.4-6", "R7-2"}, where(250, lambda right: [*right, (254, b"")])),
    "acknowledged_without_padding": (
        {"6.4-6", "6.4-7", "R7-1", "R7-2"},
        if_asked(250, lambda right: [*only(1, 2, 3)(right), (250, b"")]),
    ),
    "an_acknowledgment_with_a_value": ({"6.4-2", "6.4-6", "R7-2"}, replaced(250, lambda value: b"\x00")),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_answer_fails_the_row_of_its_rule(certificates, name):
    wrong, answer = CHANGED[name]
    report = examined(changed(certificates, answer))
    assert failed(report) == wrong
    for finding in report.failed:
        assert finding.found
        assert finding.expected


def behind(right: Tlvs) -> Tlvs:
    """An empty TLV of an unknown type after a signature."""
    return [*right, (9, b"")] if right[-1][0] == 255 else right


SIGNED: dict[str, tuple[set[str], Callable[[Tlvs, Tlvs], Tlvs]]] = {
    "a_bad_signature": (
        {"6.3.2-8", "6.3.2-39", "6.3.2-42", "8-3", "8-4"},
        replaced(255, lambda block: block[:-1] + bytes([block[-1] ^ 1])),
    ),
    "something_after_it": (
        {"6.3.2-6", "6.3.2-38", "6.3.2-41", "6.4-10", "6.3.2-8", "6.3.2-39", "6.3.2-42", "8-3", "8-4"},
        each(behind),
    ),
    "no_signature": ({"7-6"}, each(lambda right: [item for item in right if item[0] != 255])),
    "a_length_that_is_wrong": (
        {"6.3.2-e"},
        replaced(255, lambda block: block[:5] + b"\x00\x41" + block[7:]),
    ),
    "another_algorithm": (
        {"6.3.2-45", "6.3.2-8", "6.3.2-39", "6.3.2-42", "8-3", "8-4"},
        replaced(255, lambda block: b"\x09" + block[1:]),
    ),
    "padding_apart_from_the_signature": (
        {"6.3.2-38", "6.3.2-39", "6.4-10"},
        where(255, lambda right: moved(254, 3)([], right)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SIGNED)
def test_a_wrong_signature_fails_the_row_of_its_rule(certificates, name):
    wrong, answer = SIGNED[name]
    world = changed(certificates, answer, signer=ED25519.signer)
    assert failed(examined(world, verifier=ED25519.verifier)) == wrong


def test_without_keys_a_signature_is_seen_but_not_verified(certificates):
    report = examined(World(certificates, signer=ED25519.signer))
    assert report.failed == []
    found = {one.statement.number: one for one in report.findings}
    assert found["8-3"].verdict is Verdict.SKIPPED
    assert found["8-2"].verdict is Verdict.PASS


# ------------------------------------------------------------------------------------------------- other broken rules


def wrong_on_malformed(certificates, act) -> set[str]:
    world = World(certificates)
    world.core.responder = OnMalformed(act, world)
    return failed(examined(world))


def test_a_server_that_skips_no_unknown_types(certificates):
    world = World(certificates)
    world.core.responder = Strict()
    assert failed(examined(world)) == {"6.3.1-3", "6.3.2-4", "6.3.2-5"}


def test_a_server_that_sends_errors_in_datagrams(certificates):
    def act(world, mode, receive_ns):
        return encode_error(1, "no") if mode is Mode.DATAGRAM else None

    assert wrong_on_malformed(certificates, act) == {"6.3.2-24", "6.6-2"}


def test_a_server_that_answers_malformed_datagrams(certificates):
    def act(world, mode, receive_ns):
        return pack_response(os.urandom(16), receive_ns, receive_ns) if mode is Mode.DATAGRAM else None

    assert wrong_on_malformed(certificates, act) == {"6.6-1", "6.6-2"}


def test_a_server_that_answers_malformed_streams(certificates):
    def act(world, mode, receive_ns):
        return pack_response(bytes(16), receive_ns, receive_ns) if mode is Mode.STREAM else None

    assert wrong_on_malformed(certificates, act) == {"6.6-1", "6.3.2-a"}


def test_a_server_that_closes_the_connection(certificates):
    def act(world, mode, receive_ns):
        world.router.connections[-1].close(0x1, "malformed")

    assert wrong_on_malformed(certificates, act) == {"R4-1"}


@pytest.mark.parametrize(
    ("error", "wrong"),
    [
        (b"\xf9\x04\x01\x01no", {"6.3.2-21"}),
        (b"\xf9\x04\x01\x00no\xfe\x00", {"6.3.2-20"}),
        (b"\xf9\x04\x01\x00\xff\xff", {"6.3.2-23"}),
        (b"\xf9\x01\x01", {"6.3.2-21"}),
        (b"\xf9\x04\x01\x00n", {"6.3.2-3", "6.6-1"}),
    ],
)
def test_a_server_whose_errors_are_wrong(certificates, error, wrong):
    assert wrong_on_malformed(certificates, lambda world, mode, receive_ns: error if mode is Mode.STREAM else None) == wrong


def test_a_server_whose_error_for_a_signature_has_another_code(certificates):
    world = World(certificates)

    class Other(Responder):
        def prepare(self, data, receive_ns, mode):
            right = super().prepare(data, receive_ns, mode)
            if isinstance(right, Unanswered) and right.reason is NoResponse.CANNOT_SIGN and mode is Mode.STREAM:
                return replace(right, error=encode_error(2, "no"))
            return right

    world.core.responder = Other()
    assert failed(examined(world)) == {"R6-1"}


def test_a_server_that_takes_one_frame_for_two_messages(certificates):
    class Two(Responder):
        def prepare(self, data, receive_ns, mode):
            if mode is Mode.DATAGRAM and len(data) == 36 and data[18:20] == b"\x01\x10":
                world.router.connections[-1].send_datagram(pack_response(data[2:18], receive_ns, receive_ns))
                data = data[18:]
            return super().prepare(data, receive_ns, mode)

    world = World(certificates)
    world.core.responder = Two()
    assert failed(examined(world)) == {"6.3.2-2"}


def test_a_server_that_takes_any_alpn_identifier(certificates):
    world = World(certificates)
    world.router.configuration.alpn_protocols = ["tsq/1", "tsq", connections._OTHER]
    assert failed(examined(world)) == {"7-1", "R1-1"}


def test_a_server_that_ends_no_stream(certificates, monkeypatch):
    monkeypatch.setattr(Connection, "send_stream", lambda self, stream_id, data: self.quic.send_stream_data(stream_id, data))
    assert failed(examined(World(certificates))) == {"R2-1"}


def test_a_server_that_waits_for_fin(certificates, monkeypatch):
    monkeypatch.setattr(core, "stream_request_ready", lambda data, finished: finished)
    assert failed(examined(World(certificates))) == {"R2-2"}


def test_a_server_that_is_silent_in_datagram_mode(certificates):
    class Silent(Responder):
        def prepare(self, data, receive_ns, mode):
            return Unanswered(NoResponse.MALFORMED) if mode is Mode.DATAGRAM else super().prepare(data, receive_ns, mode)

    world = World(certificates)
    world.core.responder = Silent()
    report = examined(world)
    assert failed(report) == {"6.5-a"}
    assert len(report.unfinished) > 5


def test_a_server_that_sends_frames_of_any_size(certificates, monkeypatch):
    monkeypatch.setattr(Connection, "can_send_datagram", lambda self, data: True)
    assert failed(examined(World(certificates))) == {"RFC 9221-1"}


def test_a_server_that_answers_a_packet_twice(certificates):
    world = World(certificates)
    seen: set[bytes] = set()

    def again(data: bytes, number: int) -> list[int]:
        if data in seen and world.router.connections:
            stamp = world.server_clock()
            world.router.connections[-1].send_datagram(pack_response(os.urandom(16), stamp, stamp))
        seen.add(data)
        return [1_000_000]

    world.to_server = again
    assert failed(examined(world)) == {"7-a"}


def test_a_server_that_an_endless_request_stops(certificates):
    world = World(certificates)
    large = []

    def stuck(data: bytes, number: int) -> list[int]:
        if 900 < len(data) < 1150:
            large.append(number)
        return [] if large else [1_000_000]

    world.to_server = stuck
    report = examined(world)
    assert "RFC 9000-1" in failed(report) or any("without end" in one for one in report.unfinished)
    assert failed(report) <= {"RFC 9000-1"}


def test_a_ticket_that_shows_a_name(certificates):
    world = World(certificates)
    under_test = site(world)
    ticket = SessionTicket.__new__(SessionTicket)
    ticket.ticket = b"..localhost.."
    under_test.tickets.append(AcceptedTicket(ticket, ""))
    connections.resumption(under_test, [b"localhost"])
    assert [one.statement.number for one in under_test.note.in_order() if one.verdict is Verdict.FAIL] == ["7-5"]


# ------------------------------------------------------------------------------------------------- no connection, lost datagrams


def test_nothing_is_tested_without_a_certificate_that_is_trusted(certificates, tmp_path):
    world = World(certificates)
    under_test = site(world)
    trusted = under_test.configuration

    def untrusted(ticket):
        configuration = trusted(ticket)
        configuration.accept = lambda shown: UnknownAuthority("nobody trusts it")
        return configuration

    under_test.configuration = untrusted
    with pytest.raises(UnknownAuthority):
        run(under_test)
    assert world.counters.get("requests") == 0


def test_a_server_that_does_not_speak_tsq(certificates):
    world = World(certificates)
    world.router.configuration.alpn_protocols = ["h3"]
    with pytest.raises(AlpnRefused):
        examined(world)


def test_a_server_that_is_not_there(certificates):
    world = World(certificates)
    world.to_server = lambda data, number: []
    with pytest.raises(HandshakeTimeout):
        examined(world)


@pytest.mark.parametrize("every", [7, 11, 13])
def test_lost_datagrams_are_no_faults_of_the_server(certificates, every):
    world = World(certificates)
    world.to_server = lambda data, number: [] if number % every == every - 1 else [1_000_000]
    world.to_client = lambda data, number: [] if number % every == every // 2 else [1_000_000]
    assert failed(examined(world)) == set()


def test_all_tests_together_have_an_end(certificates):
    under_test = site(World(certificates))
    under_test.limit = 2.0
    report = run(under_test)
    assert any("more than 2 s" in why for why in report.unfinished)
    assert report.failed == []
    under_test.ends = 0.0
    with pytest.raises(OutOfTime):
        datagrams.packets(under_test)


# ------------------------------------------------------------------------------------------------- the judge


def test_a_failure_is_not_hidden_by_a_later_pass():
    note = Findings()
    note.skip("8-2", "not offered")
    note.check("8-2", True, "there", "there")
    note.check("8-2", False, "missing", "there")
    note.check("8-2", True, "there", "there")
    note.skip("8-2", "not offered")
    assert note.in_order() == [Finding(STATEMENTS["8-2"], Verdict.FAIL, "missing", "there")]


@pytest.mark.parametrize("seed", range(40))
def test_the_judge_raises_nothing_for_any_bytes(seed):
    rng = random.Random(seed)
    for _ in range(50):
        data = mutated(rng)
        assert read_tlvs(data) == (None if oracle.unpack(data) is None else tuple(oracle.unpack(data)))
        note = Findings()
        judge(Answer(data, bytes(16), 0.1, rng.random() < 0.5, read_tlvs(data)), note)
        assert all(one.verdict in Verdict for one in note.in_order())
