"""What befalls a client, each with the number of its case in the name; the table below names cases that are tested elsewhere."""

import ast
import asyncio
import json
import random
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.peers import Peer, closed_port
from tests.cli.test_selection import telling
from tests.simulation.network import MS, START_NS, Client, Clock, Link, Plan, Server, Told
from tsq._fast import clock_ns, pack_response, pack_tlvs
from tsq.cli.client import EXIT_NO_ANSWER, EXIT_NO_MAJORITY, EXIT_OK, main
from tsq.timing.filter import estimate
from tsq.timing.selection import Source, Unused, select
from tsq.wire.message import ClockQuality, TimeSource
from tsq.wire.tlv import MAX_VALUE_SIZE, TlvType

TESTS = Path(__file__).parents[1]
# Cases that are tests elsewhere: (case, file, names).
ELSEWHERE = [
    (42, "test_exchange.py", ["test_a_wrong_nonce_fails_the_oldest_request", "test_malformed_fails_the_request_it_came_for"]),
    (42, "properties/test_tlv.py", ["test_messages_behind_a_nonce_are_judged_as_the_oracle_does"]),
    (43, "test_exchange.py", ["test_a_second_answer_is_ignored", "test_a_second_answer_does_not_fail_the_next_request"]),
    (44, "timing/test_sample.py", ["test_each_check_has_its_reason", "test_the_first_check_that_fails_gives_the_reason"]),
    (44, "conformance/test_samples.py", ["test_R8_implausible_answers_are_discarded_with_their_reason"]),
    (45, "test_session.py", ["test_half_of_all_datagrams_lost_is_a_right_answer_or_a_clean_time_out"]),
    (46, "conformance/test_samples.py", ["test_R11_a_one_sided_delay_moves_the_offset_by_half_of_it"]),
    (47, "timing/test_selection.py", ["test_47_one_liar_of_four_is_rejected_and_named"]),
    (47, "timing/test_selection.py", ["test_47_two_liars_of_four_leave_no_majority_and_no_time"]),
    (47, "cli/test_selection.py", ["test_a_liar_among_four_is_named_and_the_time_is_that_of_the_others"]),
    (47, "simulation/test_sweep.py", ["test_no_bound_fails_while_an_honest_majority_is_compared"]),
    (48, "timing/test_selection.py", ["test_48_a_liar_inside_the_intervals_is_bounded_by_the_root_distance"]),
    (48, "timing/test_intersection.py", ["test_a_liar_inside_cannot_narrow_it_to_where_the_truth_is_not"]),
    (50, "cli/test_client.py", ["test_a_server_without_datagrams_is_asked_on_streams_and_that_is_said"]),
    (51, "integration/test_processes.py", ["test_silent_port_times_out"]),
    (52, "cli/test_client.py", ["test_a_self_signed_certificate_is_called_that_and_the_advice_works"]),
    (52, "cli/test_client.py", ["test_an_unknown_authority_is_named_and_the_advice_works"]),
    (52, "cli/test_client.py", ["test_a_wrong_name_tells_the_certificates_names_and_the_advice_works"]),
    (52, "cli/test_client.py", ["test_an_expired_certificate_tells_its_end_and_our_clock"]),
    (52, "cli/test_client.py", ["test_a_certificate_of_the_future_tells_its_beginning_and_suspects_our_clock"]),
    (54, "conformance/test_signatures.py", ["test_R6_client_rejects_a_response_without_a_right_signature"]),
    (54, "wire/test_signature.py", ["test_absent_is_refused", "test_anything_changed_is_refused"]),
    (55, "test_report.py", ["test_details_from_the_network_are_escaped_wherever_they_are_shown"]),
    (56, "conformance/test_samples.py", ["test_R8_the_offset_limit_is_the_users"]),
    (61, "integration/test_processes.py", ["test_name_with_a_dead_address_is_answered_by_the_next"]),
    (61, "cli/test_client.py", ["test_name_not_found_has_its_own_message_and_status"]),
    (61, "cli/test_client.py", ["test_no_address_of_the_family_asked_for_says_which_family"]),
    (62, "conformance/test_samples.py", ["test_R9_the_era_edge_is_uneventful", "test_R9_an_exchange_that_spans_the_era_edge"]),
    (62, "timing/test_selection.py", ["test_62_smeared_and_unsmeared_are_not_mixed"]),
    (62, "timing/test_selection.py", ["test_62_leap_is_what_more_than_half_of_the_survivors_say"]),
    (67, "quic/test_tickets.py", ["test_a_ticket_out_of_its_time_is_not_used"]),
    (67, "integration/test_processes.py", ["test_ticket_that_was_used_already_is_refused_and_the_client_asks_again_by_itself"]),
    (69, "cli/test_client.py", ["test_ctrl_c_in_mid_run_ends_with_what_there_is"]),
    (69, "cli/test_client.py", ["test_ctrl_c_before_any_answer_exits_130_and_says_so"]),
    (69, "cli/test_selection.py", ["test_watch_on_a_terminal_redraws_and_ends_with_the_final_table"]),
    (69, "test_boundaries.py", ["test_only_the_one_door_sets_a_clock"]),
]


@pytest.mark.parametrize(("case", "file", "names"), ELSEWHERE)
def test_cases_that_are_tested_elsewhere_are(case, file, names):
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert set(names) <= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, case


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


# ------------------------------------------------------------------------------------------------------------- the path


def asked(link: Link, *, offset_ns: int = 0, seed: int = 1, count: int = 12, **server):
    client = Client(Clock(-offset_ns), random.Random(seed))
    return client.ask(Server(Clock(), link, Told(1e-6), **server), Plan(count, interval_ns=10 * MS, stamps_ns=0))


@pytest.mark.parametrize("seed", range(20))
def test_45_lost_doubled_reordered_is_a_right_sample_or_none_and_each_request_ends_once(seed):
    run_ = asked(Link(5 * MS, 5 * MS, queue_ns=30e6, loss=0.5, doubling=0.5), offset_ns=7 * MS, seed=seed)
    assert len(run_.samples) == run_.sent == 12
    assert run_.exchange.under_way == []
    valid = [sample for sample in run_.samples if sample.valid]
    for sample in valid:
        assert abs(sample.offset - 0.007) <= sample.root_distance + 1e-6
    assert {sample.reason.name for sample in run_.samples if not sample.valid} <= {"NO_ANSWER"}


@given(st.integers(0, 2 * 10**8), st.booleans(), st.integers(-(10**9), 10**9))
def test_46_a_delay_added_one_way_is_an_error_of_half_of_it_and_inside_the_bound(added_ns, there, offset_ns):
    plain, late = 1 * MS, 1 * MS + added_ns
    found = estimate(asked(Link(late, plain) if there else Link(plain, late), offset_ns=offset_ns, count=1, early_ns=1).samples)
    error = found.offset - offset_ns / 1e9
    assert abs(error) <= added_ns / 2e9 + 1e-6
    assert abs(error) == pytest.approx(added_ns / 2e9, abs=1e-6)
    assert abs(error) <= found.server_distance
    # Who delays must show it.
    assert found.delay >= added_ns / 1e9


# ---------------------------------------------------------------------------------------------------------- the servers


def test_49_all_servers_down_is_no_answer_and_no_table(capsys):
    with closed_port() as one, closed_port() as other:
        status, out, err = run(capsys, one, other, "--timeout", "5")
    assert status == EXIT_NO_ANSWER
    assert out == ""
    assert len(err.splitlines()) == 2


def test_49_a_server_that_dies_in_mid_run_leaves_what_it_gave():
    died = asked(Link(MS, MS), dies_ns=START_NS + 45 * MS)
    assert [sample.valid for sample in died.samples] == [True] * 5 + [False] * 7
    chosen = select([Source("died", estimate(died.samples))], at_ns=died.samples[0].t1_ns + 3600 * 10**9)
    # Its word is an hour old by then: at 15 ppm, 54 ms.
    assert chosen.agreed.root_distance == pytest.approx(0.054 + 0.001, rel=0.02)


def hostile(nonce: bytes, request: bytes, number: int) -> list[bytes]:
    """Everything that a server may say, at its longest and worst."""
    now = clock_ns()
    text = b"\x1b]0;owned\x07\xff\xfe\r\n" + b"\x9b31m" * 60
    pairs = bytes([8]) + b"tsq.leap" + bytes([4]) + b"\x1b[2J" + bytes([9]) + b"tsq.smear" + bytes([1]) + b"\xff"
    pairs += bytes([200]) + text[:200] + bytes([10]) + text[:10]
    word = [
        (TlvType.CLOCK_QUALITY, ClockQuality(3, 500, 0).tlv()[1] + text[: MAX_VALUE_SIZE - 6]),
        (TlvType.TIME_SOURCE, TimeSource(2, 3).tlv()[1] + text[: MAX_VALUE_SIZE - 2]),
        (TlvType.METADATA, pairs[:MAX_VALUE_SIZE]),
    ]
    return [pack_response(nonce, now, now) + pack_tlvs(word)]


@pytest.mark.parametrize("options", [[], ["-v"], ["--json"], ["--watch", "--count", "2"]])
def test_55_hostile_text_of_a_server_reaches_no_terminal(capsys, certificates, options):
    with Peer(certificates, hostile) as peer:
        status, out, err = run(capsys, peer.target, "--ca", peer.ca, "--interval", "0", *options)
    assert status == EXIT_OK, err
    assert all(line.isprintable() for line in [*out.splitlines(), *err.splitlines()])
    if options == ["--json"]:
        (host,) = json.loads(out)["hosts"]
        # Told badly is not told.
        assert (host["leap"], host["smeared"], host["stratum"]) == (None, None, 2)
        assert host["server_error"] == pytest.approx(5e-4, rel=0.1)


def test_56_an_offset_over_the_limit_is_refused_and_is_no_time(capsys, certificates):
    with Peer(certificates, telling(2 * 86_400 * 10**9)) as peer:
        status, out, err = run(capsys, peer.target, "--ca", peer.ca, "--interval", "0")
    assert (status, out) == (6, "")
    assert "offset over the limit" in err


def test_62_smeared_and_unsmeared_servers_give_no_time_together(capsys, certificates):
    with ExitStack() as running:
        peers = [running.enter_context(Peer(certificates, telling(smear=smear))) for smear in "01"]
        status, out, _ = run(capsys, *[peer.target for peer in peers], "--ca", peers[0].ca, "--interval", "0")
    assert status == EXIT_NO_MAJORITY
    assert out.count(Unused.SMEAR) == 2
    assert out.splitlines()[-1] == "No time: no majority of the sources treats leap seconds alike"


def test_68_a_server_that_drips_bytes_does_not_keep_the_client(capsys, certificates):
    protocols = []

    def drip(nonce: bytes, request: bytes, number: int) -> list[bytes]:
        protocol, loop = protocols[0], asyncio.get_running_loop()
        answer = pack_response(nonce, clock_ns(), clock_ns())

        def one(at: int) -> None:
            if at < len(answer):
                protocol._quic.send_stream_data(4 * number, answer[at : at + 1])
                protocol.transmit()
                loop.call_later(0.2, one, at + 1)

        one(0)
        return []

    with Peer(certificates, drip, greeting=protocols.append) as peer:
        options = ["--stream", "--timeout", "0.7", "--count", "2", "--interval", "0"]
        status, out, err = run(capsys, peer.target, "--ca", peer.ca, *options)
    # All of an answer would take 7.6 s; each byte comes well within the time-out, and none of them starts it anew.
    assert (status, out) == (EXIT_NO_ANSWER, "")
    assert "connected, but none of 2 requests was answered" in err
