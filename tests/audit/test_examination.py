"""What chained, signed answers prove: a server that lies is caught, delays accuse nobody, and nothing counts that is not proven."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest

from tests.audit.servers import MS, Signing, asked_in_turn, verifier
from tsq.audit.examination import examination
from tsq.audit.records import Chain, chained_nonce, read, write
from tsq.errors import ConfigError
from tsq.oneshot.chain import tour
from tsq.report import audit
from tsq.wire.message import encode_request
from tsq.wire.tlv import TlvType


def three(**changes: int) -> list[Signing]:
    return [Signing(name, offset_ns=changes.get(name, 0)) for name in ("ant", "bee", "cat")]


def numbered(records):
    return [replace(record, line=number) for number, record in enumerate(records, 1)]


@pytest.mark.parametrize("count", range(2, 7))
def test_a_tour_asks_each_server_directly_after_each_other_one(count):
    way = tour(count)
    pairs = list(pairwise(way))
    assert sorted(pairs) == [(a, b) for a in range(count) for b in range(count) if a != b]


def test_servers_that_are_right_contradict_nobody_and_the_order_bounds_their_clocks():
    servers = three(ant=50_000, bee=-50_000)
    found = examination(numbered(asked_in_turn(servers)), verifier(*servers))
    assert (found.records, found.chains, found.chained, found.faults) == (7, 1, 6, ())
    assert (found.findings.contradiction, found.findings.accused) == ((), None)
    limits = {(limit.earlier, limit.later): limit.at_most_ns for limit in found.findings.limits}
    # The truth lies between the limits: bee is behind ant by 0.1 ms.
    assert -limits["bee", "ant"] <= -100_000 <= limits["ant", "bee"]
    assert limits["ant", "bee"] < 4 * MS
    assert audit.verdict(found) == "all signatures are good, the order is proven, and no server contradicts another"


@pytest.mark.parametrize("lie_ns", [10 * MS, -10 * MS])
@pytest.mark.parametrize("liar", ["ant", "bee", "cat"])
def test_a_server_that_lies_by_10_ms_is_caught_with_the_smallest_proof(liar, lie_ns):
    servers = three(**{liar: lie_ns})
    found = examination(numbered(asked_in_turn(servers)), verifier(*servers))
    assert found.findings.accused == liar
    proof = found.findings.contradiction
    assert sum(limit.at_most_ns for limit in proof) < 0
    # One proven order, and what the two servers say of their own clocks.
    assert len(proof) == 3
    proven = [limit for limit in proof if limit.first is not None]
    assert len(proven) == 1
    assert liar in (proven[0].earlier, proven[0].later)
    text = "\n".join(audit.lines(found))
    assert f"{liar} contradicts the others: without it, all agree" in text
    assert "below zero" in text


@pytest.mark.parametrize("seed", range(30))
def test_a_relay_that_delays_accuses_nobody(seed):
    servers = three(ant=60_000, bee=-90_000, cat=10_000)

    def delay(seeded: random.Random, number: int) -> int:
        # One direction or the other, for one server or all, for up to minutes.
        return 500_000 + (seeded.choice((0, 0, 10 * MS, 60_000 * MS)) if number == seed % 3 or seed % 2 else 0)

    found = examination(numbered(asked_in_turn(servers, seed, tours=2, delay=delay)), verifier(*servers))
    assert (found.findings.contradiction, found.findings.accused, found.faults) == ((), None, ())


def test_two_servers_that_contradict_each_other_are_both_named_and_neither_is_accused():
    servers = [Signing("ant", 10 * MS), Signing("bee")]
    found = examination(numbered(asked_in_turn(servers)), verifier(*servers))
    assert found.findings.contradiction
    assert found.findings.accused is None
    assert audit.verdict(found) == "ant and bee contradict each other; it is not proven which of them is wrong"


def test_a_server_that_goes_back_in_time_contradicts_itself():
    servers = three()
    records = asked_in_turn(servers)
    chain = Chain(random.Random(5).randbytes)
    servers[0].offset_ns = 0
    rebuilt = []
    for number, record in enumerate(records):
        server = next(one for one in servers if one.name == record.server)
        # ant's clock is set back by a second in mid-chain, which its own error of 0.1 ms does not allow; nor does its first answer.
        server.offset_ns = -1000 * MS if number >= 3 and server.name == "ant" else 0
        request = record.request[:2] + chain.nonce(16) + record.request[18:]
        rebuilt.append(chain.add(server.name, request, server.answer(request, record.t1_ns + 1, 5), record.t1_ns, record.t4_ns))
    found = examination(numbered(rebuilt), verifier(*servers))
    assert found.findings.accused == "ant"
    assert [limit.earlier for limit in found.findings.contradiction] == ["ant"]


def test_a_lie_smaller_than_the_delays_is_not_proven_and_nobody_is_accused_of_it():
    servers = three(bee=MS)
    found = examination(
        numbered(asked_in_turn(servers, delay=lambda seeded, number: 2 * MS)), verifier(*servers)
    )
    assert found.findings.contradiction == ()


def test_an_assumed_error_holds_for_servers_that_report_none():
    servers = three(bee=10 * MS)
    for server in servers:
        server.responder.clock_info = ()
    records = numbered(asked_in_turn(servers))
    assert examination(records, verifier(*servers), assumed_error=0.02).findings.contradiction == ()
    assert examination(records, verifier(*servers), assumed_error=0.0001).findings.accused == "bee"


# ------------------------------------------------------------------------------------------------- what proves nothing

def signed_part(line: str) -> tuple[bytes, bytes, bytes]:
    (record,) = read([line], "log")
    return record.request[:18], record.response, record.blind


def spoiled(records, index, **changes):
    return [*records[:index], replace(records[index], **changes), *records[index + 1 :]]


def test_a_changed_answer_is_a_fault_and_breaks_the_chain_at_its_place():
    servers = three()
    records = numbered(asked_in_turn(servers))
    response = bytearray(records[3].response)
    response[25] ^= 1
    found = examination(spoiled(records, 3, response=bytes(response)), verifier(*servers))
    key_id = next(one.key_id for one in servers if one.name == records[3].server)
    assert [(fault.line, fault.why) for fault in found.faults] == [
        (4, f"a bad signature by key {key_id}"), (5, "a nonce that does not follow from the answer before it"),
    ]
    assert found.findings.contradiction == ()
    assert audit.verdict(found) == "2 records of 7 prove nothing; the others do not contradict each other"


def test_no_order_is_proven_across_a_link_that_is_missing():
    servers = three(bee=10 * MS)
    records = numbered(asked_in_turn(servers))
    # Every second record alone: no two of them are tied.
    found = examination(records[::2], verifier(*servers))
    assert found.findings.limits == ()
    assert len(found.faults) == 3


def test_records_in_another_order_prove_nothing():
    servers = three()
    records = numbered(asked_in_turn(servers))
    found = examination([records[1], records[0], *records[2:]], verifier(*servers))
    assert len(found.faults) >= 2


def test_halves_of_a_log_that_changed_places_accuse_nobody():
    servers = three()
    records = numbered(asked_in_turn(servers, delay=lambda seeded, number: 50 * MS))
    found = examination([*records[3:], *records[:3]], verifier(*servers))
    assert (found.findings.contradiction, len(found.faults)) == ((), 2)


def test_an_unknown_key_is_a_fault_and_its_bytes_still_tie_the_chain():
    servers = three()
    records = numbered(asked_in_turn(servers))
    found = examination(records, verifier(servers[0], servers[2]))
    assert {fault.server for fault in found.faults} == {"bee"}
    assert {one.server for one in found.servers} == {"ant", "cat"}
    assert found.chained == 6
    assert ("ant", "cat") in {(limit.earlier, limit.later) for limit in found.findings.limits}


def test_an_answer_to_another_request_is_a_fault():
    servers = three()
    records = numbered(asked_in_turn(servers))
    found = examination([replace(records[0], request=records[1].request, chain="", blind=b"")], verifier(*servers))
    assert [fault.why for fault in found.faults] == ["an answer to another request"]


def test_a_reply_with_an_error_is_a_fault():
    servers = three()
    records = numbered(asked_in_turn(servers))
    error = bytes([TlvType.ERROR, 2, 1, 0])
    found = examination([replace(records[0], response=error, chain="", blind=b"")], verifier(*servers))
    assert len(found.faults) == 1


def test_answers_that_are_not_chained_say_nothing_about_order():
    servers = three(bee=10 * MS)
    records = [replace(record, chain="", blind=b"") for record in numbered(asked_in_turn(servers))]
    found = examination(records, verifier(*servers))
    assert found.findings.limits == ()
    assert audit.verdict(found) == (
        "all signatures are good; nothing is proven about the order of the answers, because they are not chained"
    )


def test_no_change_of_one_byte_of_a_log_goes_unnoticed_or_raises_anything_else():
    servers = three()
    seeded = random.Random(7)
    lines = [write(record) for record in asked_in_turn(servers)]
    good = examination(read(lines, "log"), verifier(*servers))
    assert good.faults == ()
    for _ in range(600):
        index = seeded.randrange(len(lines))
        at = seeded.randrange(len(lines[index]))
        changed = lines[index][:at] + chr(seeded.randrange(32, 127)) + lines[index][at + 1 :]
        if changed == lines[index]:
            continue
        try:
            records = list(read([*lines[:index], changed, *lines[index + 1 :]], "log"))
        except ConfigError:
            continue
        found = examination(records, verifier(*servers))
        # Not signed are the client's own times, the servers' names, and what a request asks for beside its nonce.
        assert found.faults or signed_part(changed) == signed_part(lines[index])


def test_a_second_answer_to_one_place_in_the_chain_is_not_recorded():
    chain = Chain(random.Random(1).randbytes)
    server = Signing("ant")
    first, second = (encode_request(chain.nonce(16), signature=True) for _ in range(2))
    assert chain.add("ant", first, server.answer(first, 10**18, 5), 1, 2) is not None
    assert chain.add("ant", second, server.answer(second, 10**18, 5), 1, 2) is None


def test_the_nonce_is_the_documented_hash():
    assert chained_nonce(b"", bytes(32)).hex() == "66687aadf862bd776c8fc18b8e9f8e20"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "log, line 1 is no record (Expecting property name"),
        ("[]", "log, line 1 is no record (its format is not 1)"),
        ('{"tsq_audit": 2}', "log, line 1 is no record (its format is not 1)"),
        ('{"tsq_audit": 1}', "log, line 1 is no record (no 'server')"),
        ('{"tsq_audit": 1, "server": 5}', "log, line 1 is no record (a name that is no text)"),
        ('{"tsq_audit": 1, "server": "a", "request": "zz"}', "log, line 1 is no record (non-hexadecimal"),
        (
            '{"tsq_audit": 1, "server": "a", "request": "", "response": "", "t1_ns": -1}',
            "log, line 1 is no record (t1_ns is no time)",
        ),
        ('{"tsq_audit": 1, "extra": 1}', "log, line 1 is no record (unknown field 'extra')"),
        ('{"tsq_audit": 1, "chain": ""}', "log, line 1 is no record (one of chain and blind without the other)"),
        ("x" * 20000, "log, line 1 has 20000 characters"),
    ],
)
def test_a_line_that_is_no_record_is_named(line, words):
    with pytest.raises(ConfigError) as error:
        list(read([line], "log"))
    assert str(error.value).startswith(words)
