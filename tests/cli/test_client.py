"""tsq-client: every failure against a real server that is set up for it, its message, what it says to do, and its exit status."""

import json
import os
import pty
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice

import pytest

import tsq
from tests.cli.peers import DAY, NOW, Authority, Peer, closed_port, deaf_port, honest, self_signed_leaf, silent
from tests.support.ports import free_port
from tests.support.processes import BIN, ServerProcess, run_client
from tests.support.threads import ServerThread
from tests.support.tries import in_one_of_some
from tsq._fast import clock_ns, pack_response, pack_tlvs
from tsq.cli.client import main
from tsq.wire.message import encode_error
from tsq.wire.tlv import TlvType

OK, SOME_FAILED, USAGE, NO_ANSWER, CERTIFICATE, NAME, REJECTED, NOT_TSQ, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 7, 130
DAY_NS = 86_400_000_000_000


@dataclass
class Run:
    """What a command gave."""

    status: int
    out: str
    err: str


Ask = Callable[..., Run]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """tsq-client inside this process; usage errors give their exit status, too."""

    def run(*arguments: object) -> Run:
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code
        captured = capsys.readouterr()
        return Run(status, captured.out, captured.err)

    return run


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Children take SIGINT, also where these tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def one_line_of(run: Run) -> str:
    """The only line on standard error; failures print nothing on standard output."""
    assert run.out == ""
    lines = run.err.splitlines()
    assert len(lines) == 1, run.err
    assert lines[0].startswith("tsq-client: ")
    return lines[0]


# ------------------------------------------------------------------------------------------------------------ success


def test_a_good_server_gives_a_table_a_legend_and_a_verdict(ask, server):
    run = ask(server.target, "--ca", server.ca, "--interval", "0")
    assert run.status == OK
    assert run.err == ""
    header, row, legend, time, trust, verdict = run.out.splitlines()
    assert header.split()[:4] == ["M", "host", "stratum", "offset"]
    assert row.startswith(f"*  {server.target} ")
    assert trust.startswith("one source, no redundancy")
    assert row.endswith(" 3/3 ")
    assert header.split() == ["M", "host", "stratum", "offset", "±", "delay", "samples"]
    assert "positive when this clock is behind" in legend
    assert re.fullmatch(r"holds at \S+ \S+ UTC by this machine's clock", time)
    assert re.fullmatch(r"System clock wrong by [+-]\d+\.\d{3} ± \d+\.\d{3} (µs|ms) \(ignored\)", verdict)
    assert max(map(len, run.out.splitlines())) <= 80


def test_count_is_the_number_of_samples_and_one_request_more_makes_the_last_exact(ask, server):
    def requests() -> int:
        before = server.server.counters.get("requests")
        # Not all at once, which takes more than one to make them all exact, and too fast to be worth a warm path.
        run = ask(server.target, "--ca", server.ca, "--count", "7", "--interval", "0.005")
        assert " 7/7 " in run.out
        return server.server.counters.get("requests") - before

    assert in_one_of_some(lambda: requests() == 8)


def test_stream_option_asks_on_streams_without_a_notice(ask, server):
    run = ask(server.target, "--ca", server.ca, "--stream", "--interval", "0", "-v")
    assert (run.status, run.err) == (OK, "")
    assert "stream tsq/1" in run.out
    assert server.server.counters.get("requests", "stream") == 3


def test_several_hosts_have_a_line_each_in_the_order_given(ask, certificates):
    with ServerThread(["127.0.0.1:0", "127.0.0.1:0"], certificates) as server:
        targets = [str(target) for target in server.server.addresses]
        run = ask(*targets, "--ca", server.ca, "--interval", "0")
    assert run.status == OK
    assert [line.split()[1] for line in run.out.splitlines()[1:3]] == targets


def test_port_option_is_for_hosts_without_a_port(ask, server):
    run = ask("127.0.0.1", "--port", server.target.port, "--ca", server.ca, "--interval", "0")
    assert run.status == OK
    assert run.out.splitlines()[1].startswith(f"*  127.0.0.1:{server.target.port} ")


def test_a_host_name_is_resolved_verified_and_shown_with_its_address(ask, server):
    run = ask(f"localhost:{server.target.port}", "--ca", server.ca, "--interval", "0", "-v")
    assert run.status == OK
    assert f"\n*  localhost:{server.target.port} (127.0.0.1) " in run.out


def test_ipv6_is_asked_and_written_in_brackets(ask, certificates):
    with ServerThread(["[::1]:0"], certificates) as server:
        host = f"[::1]:{server.target.port}"
        run = ask("-6", host, "--ca", server.ca, "--interval", "0")
    assert run.status == OK
    assert run.out.splitlines()[1].startswith(f"*  {host} ")


def test_verbose_shows_all_four_timestamps_and_who_took_ours(ask, server):
    before = clock_ns()
    run = ask(server.target, "--ca", server.ca, "-v", "--count", "2", "--interval", "0")
    after = clock_ns()
    assert run.status == OK
    lines = run.out.splitlines()
    assert lines[0] == f"{server.target} (127.0.0.1)"
    stamp, source = r"(\d{19})", r"\((?:kernel|user)\)"
    pattern = rf"  sample \d: T1 {stamp} {source}  T2 {stamp}  T3 {stamp} \(exact\)  T4 {stamp} {source}  offset \S+ \S+ ± "
    for line in lines[1:3]:
        t1, t2, t3, t4 = map(int, re.match(pattern, line).groups())
        # One machine, one clock.
        assert before <= t1 <= t2 <= t3 <= t4 <= after


def test_json_is_one_object_with_all_samples(ask, server):
    run = ask(server.target, "--ca", server.ca, "--json", "--count", "2", "--interval", "0")
    assert (run.status, run.err) == (OK, "")
    content = json.loads(run.out)
    assert content["version"] == tsq.__version__
    (host,) = content["hosts"]
    assert (host["host"], host["port"], host["address"]) == ("127.0.0.1", server.target.port, "127.0.0.1")
    assert (host["mode"], host["alpn"], host["error"], host["error_kind"]) == ("datagram", "tsq/1", None, None)
    assert host["root_distance"] > 0
    assert len(host["samples"]) == 2
    assert all(sample["valid"] and sample["t1_ns"] <= sample["t4_ns"] for sample in host["samples"])


# ------------------------------------------------------------------------------------------ nobody there, no name, no answer


def test_name_not_found_has_its_own_message_and_status(ask):
    run = ask("something.invalid")
    assert run.status == NAME
    line = one_line_of(run)
    assert "something.invalid:443: no address for something.invalid" in line
    assert "is the name right" in line


@pytest.mark.parametrize(("option", "host", "family"), [("-6", "127.0.0.1", "IPv6"), ("-4", "::1", "IPv4")])
def test_no_address_of_the_family_asked_for_says_which_family(ask, option, host, family):
    run = ask(option, host)
    assert run.status == NAME
    line = one_line_of(run)
    assert f"no address ({family}) for {host}" in line
    assert line.endswith(f": allow {'IPv4' if family == 'IPv6' else 'IPv6'}, too")


@pytest.mark.parametrize("name", ["a" * 64 + ".invalid", "a..invalid", "münchen.invalid"])
def test_names_that_cannot_be_looked_up_are_not_found(ask, name):
    run = ask(name)
    assert run.status == NAME
    assert f"no address for {name}" in one_line_of(run)


def test_nothing_listens_is_known_from_icmp_without_waiting_for_the_time_out(ask):
    with closed_port() as target:
        run = ask(target, "--timeout", "3600")
    assert run.status == NO_ANSWER
    line = one_line_of(run)
    assert f"{target}: nothing listens on this UDP port (ICMP port unreachable)" in line
    assert "is the server running, and is the port right?" in line


def test_silence_is_a_time_out_that_suspects_a_firewall(ask):
    with deaf_port() as (target, _):
        run = ask(target, "--timeout", "0.3")
    assert run.status == NO_ANSWER
    line = one_line_of(run)
    assert f"{target}: no answer to the QUIC handshake in 0.3 s" in line
    assert "does a firewall block UDP to this port?" in line


def test_a_server_that_connects_and_never_answers_is_no_answer(ask, certificates):
    with Peer(certificates, silent) as peer:
        run = ask(peer.target, "--ca", peer.ca, "--timeout", "2", "--interval", "0")
        # The first one is sent again: its packet may be lost.
        assert peer.requests == 4
    assert run.status == NO_ANSWER
    assert "connected, but none of 3 requests was answered" in one_line_of(run)
    assert "try again, or with --stream" in run.err


def test_one_request_without_an_answer_is_told_in_the_singular(ask, certificates):
    with Peer(certificates, silent) as peer:
        run = ask(peer.target, "--ca", peer.ca, "--timeout", "0.3", "--count", "1")
    assert "connected, but the request was not answered" in one_line_of(run)


def test_no_answer_differs_by_words_between_nobody_there_silence_and_no_name(ask):
    with closed_port() as closed, deaf_port() as (deaf, _):
        runs = [ask(host, "--timeout", "0.2") for host in (closed, deaf, "something.invalid")]
    assert len({run.err.partition(": ")[2].partition(": ")[2] for run in runs}) == 3


def test_where_all_hosts_fail_the_error_that_says_most_gives_the_status(ask, certificates):
    with closed_port() as closed, deaf_port() as (deaf, _), Peer(certificates) as untrusted:
        quiet = ["--timeout", "0.3"]
        assert ask(closed, "something.invalid", *quiet).status == NAME
        assert ask(closed, deaf, *quiet).status == NO_ANSWER
        assert ask("something.invalid", deaf, untrusted.target, "--timeout", "2").status == CERTIFICATE
        assert ask(untrusted.target, "something.invalid", closed, "--timeout", "2").status == CERTIFICATE


def test_a_connection_that_the_server_closes_at_once_says_so(ask, certificates):
    with Peer(certificates, greeting=lambda protocol: protocol.close(0x17, "go away\x1b[31m")) as peer:
        run = ask(peer.target, "--ca", peer.ca)
    assert run.status == SOME_FAILED
    line = one_line_of(run)
    assert "the connection was closed: code 0x17" in line
    assert "go away" in line
    assert "\x1b" not in line


def test_a_connection_that_ends_in_mid_run_gives_what_there_is_and_says_why_it_is_not_more(ask, certificates):
    protocols = []

    def answer_once(nonce: bytes, request: bytes, number: int) -> list[bytes]:
        if number == 0:
            return honest(nonce, request, number)
        protocols[-1].close(0x17, "that is all")
        return []

    with Peer(certificates, answer_once, greeting=protocols.append) as peer:
        run = ask(peer.target, "--ca", peer.ca, "--interval", "0.01", "--count", "50", "--timeout", "1")
    assert run.status == OK
    assert re.search(r" 1/[1-9] ", run.out)
    assert "the connection was closed: code 0x17, 'that is all'" in run.err


# --------------------------------------------------------------------------------------------------------------- ALPN


def test_a_quic_server_of_another_protocol_is_not_tsq(ask, certificates):
    with Peer(certificates, alpn=["h3"]) as peer:
        run = ask(peer.target, "--ca", peer.ca)
    assert run.status == NOT_TSQ
    line = one_line_of(run)
    assert "the server does not speak TSQ (expected ALPN tsq/1 or tsq)" in line
    assert "is this the right host and port?" in line


def test_a_server_that_chooses_no_protocol_is_not_tsq(ask, certificates):
    # R1: any other negotiated value, or none, is an error on both sides.
    peer = Peer(certificates)
    peer._configuration.alpn_protocols = None
    with peer:
        run = ask(peer.target, "--ca", peer.ca)
        assert peer.requests == 0
    assert run.status == NOT_TSQ
    assert "does not speak TSQ" in one_line_of(run)


@pytest.mark.parametrize("alpn", ["tsq/1", "tsq"])
def test_either_name_of_the_protocol_will_do_and_is_shown(ask, certificates, alpn):
    with Peer(certificates, alpn=[alpn]) as peer:
        run = ask(peer.target, "--ca", peer.ca, "--interval", "0", "-v")
    assert run.status == OK
    assert f" datagram {alpn}\n" in run.out


# -------------------------------------------------------------------------------------------------------- certificates


def test_verification_is_on_by_default(ask, server):
    run = ask(server.target)
    assert run.status == CERTIFICATE
    assert server.server.counters.get("requests") == 0


def test_a_self_signed_certificate_is_called_that_and_the_advice_works(ask, tmp_path):
    with Peer(self_signed_leaf(tmp_path)) as peer:
        run = ask(peer.target)
        assert run.status == CERTIFICATE
        line = one_line_of(run)
        assert "the server's certificate is self-signed (CN=a lonely server)" in line
        assert "trust it with --ca FILE" in line
        assert ask(peer.target, "--ca", peer.files.certificate, "--interval", "0").status == OK


def test_an_unknown_authority_is_named_and_the_advice_works(ask, tmp_path, authority):
    with Peer(authority.issue(tmp_path)) as peer:
        for arguments in ((), ("--ca", self_signed_leaf(tmp_path / "other").authority)):
            run = ask(peer.target, *arguments)
            assert run.status == CERTIFICATE
            line = one_line_of(run)
            assert "the server's certificate is signed by CN=Test authority, which is not trusted here" in line
            assert "--ca FILE" in line
        assert ask(peer.target, "--ca", peer.ca, "--interval", "0").status == OK


def test_an_authority_of_the_same_name_and_another_key_is_not_trusted(ask, tmp_path, authority):
    namesake = Authority(authority.name).issue(tmp_path / "namesake")
    with Peer(authority.issue(tmp_path / "right")) as peer:
        run = ask(peer.target, "--ca", namesake.authority)
    assert run.status == CERTIFICATE
    assert "is not trusted here" in one_line_of(run)


def test_a_wrong_name_tells_the_certificates_names_and_the_advice_works(ask, tmp_path, authority):
    with Peer(authority.issue(tmp_path, ["time.example", "192.0.2.1"])) as peer:
        run = ask(peer.target, "--ca", peer.ca)
        assert run.status == CERTIFICATE
        line = one_line_of(run)
        assert "the server's certificate is for time.example, 192.0.2.1, not for 127.0.0.1" in line
        assert "--server-name" in line
        assert ask(peer.target, "--ca", peer.ca, "--interval", "0", "--server-name", "time.example").status == OK
        assert ask(peer.target, "--ca", peer.ca, "--interval", "0", "--server-name", "192.0.2.1").status == OK


def test_a_wrong_server_name_option_is_a_wrong_name(ask, server):
    run = ask(server.target, "--ca", server.ca, "--server-name", "time.example")
    assert run.status == CERTIFICATE
    assert "not for time.example" in one_line_of(run)


def test_wildcard_names_cover_one_label_only(ask, tmp_path, authority):
    with Peer(authority.issue(tmp_path, ["*.time.example"])) as peer:
        good = ask(peer.target, "--ca", peer.ca, "--interval", "0", "--server-name", "a.time.example")
        bad = ask(peer.target, "--ca", peer.ca, "--server-name", "a.b.time.example")
    assert good.status == OK
    assert bad.status == CERTIFICATE
    assert "is for *.time.example, not for a.b.time.example" in one_line_of(bad)


def test_an_expired_certificate_tells_its_end_and_our_clock(ask, tmp_path, authority):
    end = NOW - timedelta(hours=1)
    with Peer(authority.issue(tmp_path, not_after=end)) as peer:
        run = ask(peer.target, "--ca", peer.ca)
    assert run.status == CERTIFICATE
    line = one_line_of(run)
    assert f"the server's certificate expired at {end:%Y-%m-%d %H:%M:%S} UTC; this machine's clock says" in line
    assert "must renew it" in line


def test_a_certificate_of_the_future_tells_its_beginning_and_suspects_our_clock(ask, tmp_path, authority):
    begin = NOW + DAY
    with Peer(authority.issue(tmp_path, not_before=begin)) as peer:
        run = ask(peer.target, "--ca", peer.ca)
    assert run.status == CERTIFICATE
    line = one_line_of(run)
    assert f"the server's certificate is not valid before {begin:%Y-%m-%d %H:%M:%S} UTC; this machine's clock says" in line
    assert "if the clock is wrong" in line


def test_a_certificate_that_names_nothing_is_not_for_us(ask, tmp_path, authority):
    with Peer(authority.issue(tmp_path, [])) as peer:
        run = ask(peer.target, "--ca", peer.ca)
    assert run.status == CERTIFICATE
    assert "the common name a server only" in one_line_of(run)


@pytest.mark.parametrize("fault", ["self-signed", "wrong name", "expired", "future"])
def test_insecure_takes_any_certificate_and_warns_each_time(ask, tmp_path, authority, fault):
    files = {
        "self-signed": lambda: self_signed_leaf(tmp_path),
        "wrong name": lambda: authority.issue(tmp_path, ["time.example"]),
        "expired": lambda: authority.issue(tmp_path, not_after=NOW - DAY / 2),
        "future": lambda: authority.issue(tmp_path, not_before=NOW + DAY),
    }[fault]()
    with Peer(files) as peer:
        run = ask(peer.target, "--insecure", "--interval", "0")
    assert run.status == OK
    assert run.err == ("tsq-client: warning: --insecure: the servers' certificates are not checked; the answers may be forged\n")


# ------------------------------------------------------------------------------------------------ answers that are not used


def test_a_server_without_datagrams_is_asked_on_streams_and_that_is_said(ask, certificates):
    with Peer(certificates, datagrams=False) as peer:
        run = ask(peer.target, "--ca", peer.ca, "--interval", "0", "-v")
        assert (peer.requests, peer.datagram_requests) == (3, 0)
    assert run.status == OK
    assert run.err == f"tsq-client: {peer.target}: the server takes no datagrams: using Stream Mode\n"
    assert "stream tsq/1" in run.out


def other_nonce(nonce: bytes, request: bytes, number: int) -> list[bytes]:
    return honest(bytes(byte ^ 0xFF for byte in nonce), request, number)


def cut_short(nonce: bytes, request: bytes, number: int) -> list[bytes]:
    return [honest(nonce, request, number)[0][:-1]]


def no_send_time(nonce: bytes, request: bytes, number: int) -> list[bytes]:
    return [pack_tlvs([(TlvType.NONCE, nonce), (TlvType.RECEIVE_TIMESTAMP, bytes(8))])]


def garbage(nonce: bytes, request: bytes, number: int) -> list[bytes]:
    return [b"GET / HTTP/1.0\r\n\r\n"]


def sent_before_received(nonce: bytes, request: bytes, number: int) -> list[bytes]:
    now = clock_ns()
    return [pack_response(nonce, now, now - 1_000_000)]


def held_for_a_minute(nonce: bytes, request: bytes, number: int) -> list[bytes]:
    now = clock_ns()
    return [pack_response(nonce, now - 60_000_000_000, now)]


def far_future(nonce: bytes, request: bytes, number: int) -> list[bytes]:
    now = clock_ns() + 2 * DAY_NS
    return [pack_response(nonce, now, now)]


WRONG = {
    "bad nonce": (other_nonce, "answer with a nonce that was not asked (nonce "),
    "cut short": (cut_short, "malformed answer (a TLV that runs past the end of the message at byte 28)"),
    "no T3": (no_send_time, "malformed answer (a response without T2 or T3)"),
    "garbage": (garbage, "malformed answer ("),
    "T3 before T2": (sent_before_received, "T3 is before T2"),
    "negative delay": (held_for_a_minute, "negative delay"),
    "offset": (far_future, "offset over the limit"),
}


@pytest.mark.parametrize("mode", [[], ["--stream"]], ids=["datagram", "stream"])
@pytest.mark.parametrize("fault", WRONG)
def test_answers_that_are_all_rejected_say_why(ask, certificates, fault, mode):
    answer, words = WRONG[fault]
    with Peer(certificates, answer) as peer:
        run = ask(peer.target, "--ca", peer.ca, "--interval", "0", *mode)
        # The first one may be sent again.
        assert peer.requests in (3, 4)
    assert run.status == REJECTED
    line = one_line_of(run)
    assert f"{peer.target}: all answers were rejected; the last one: {words}" in line
    assert "-v shows each sample" in line


@pytest.mark.parametrize("fault", WRONG)
def test_one_rejected_sample_of_three_is_reported_and_the_others_count(ask, certificates, fault):
    answer, words = WRONG[fault]
    with Peer(certificates, lambda *request: (answer if request[2] == 1 else honest)(*request)) as peer:
        run = ask(peer.target, "--ca", peer.ca, "--interval", "0.01")
    assert run.status == OK
    assert f"tsq-client: sample 2 of {peer.target} not used: {words}" in run.err
    assert len(run.err.splitlines()) == 1
    assert " 2/3 " in run.out


def test_verbose_marks_the_rejected_sample_in_its_line(ask, certificates):
    with Peer(certificates, sent_before_received) as peer:
        run = ask(peer.target, "--ca", peer.ca, "--interval", "0", "-v")
    assert run.status == REJECTED
    assert [line.rpartition("  ")[2] for line in run.out.splitlines()[1:]] == ["NOT USED: T3 is before T2"] * 3


def test_an_error_reply_is_shown_with_code_and_reason_and_cannot_write_to_the_terminal(ask, certificates):
    with Peer(certificates, lambda *_: [encode_error(3, "who are you?\x1b]0;owned\x07")]) as peer:
        for arguments in (["--stream"], ["--stream", "-v"]):
            run = ask(peer.target, "--ca", peer.ca, "--interval", "0", *arguments)
            assert run.status == REJECTED
            assert "server answered with an error (code 3: 'who are you?" in run.err
            assert not any(character in run.out + run.err for character in "\x1b\x07")


def test_a_second_answer_to_one_request_is_no_sample(ask, certificates):
    with Peer(certificates, lambda *request: honest(*request) * 2) as peer:
        run = ask(peer.target, "--ca", peer.ca, "--interval", "0.01", "--json")
    assert run.status == OK
    assert [sample["valid"] for sample in json.loads(run.out)["hosts"][0]["samples"]] == [True] * 3


# --------------------------------------------------------------------------------------------------------- several hosts


def test_one_bad_host_of_several_gives_status_1_and_the_good_ones_line(ask, server):
    with closed_port() as bad:
        run = ask(server.target, bad, "--ca", server.ca, "--interval", "0")
    assert run.status == SOME_FAILED
    assert f"{bad}: nothing listens" in run.err
    assert len(run.err.splitlines()) == 1
    header, good, failed, _, _, reason, trust, _ = run.out.splitlines()
    assert good.startswith(f"*  {server.target} ")
    assert failed.split() == ["?", str(bad), *"-" * 5]
    assert len(header) == len(good) == len(failed)
    assert reason == f"? {bad}: gave no time: nothing listens on this UDP port (ICMP port unreachable)"
    assert trust.startswith("one source, no redundancy")


def test_a_host_that_is_silent_does_not_keep_the_others_from_answering(ask, server):
    with deaf_port() as (deaf, _):
        run = ask(deaf, server.target, "--ca", server.ca, "--interval", "0", "--timeout", "1")
    assert run.status == SOME_FAILED
    assert f"{deaf}: no answer to the QUIC handshake" in run.err
    assert str(server.target) in run.out


def test_hosts_that_all_fail_alike_give_that_failures_status(ask):
    with closed_port() as first, closed_port() as second:
        run = ask(first, second)
    assert run.status == NO_ANSWER
    assert len(run.err.splitlines()) == 2


# ----------------------------------------------------------------------------------------------------------------- usage


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: HOST"),
        (["127.0.0.1:0"], "port '0' (expected a number from 1 to 65535)"),
        (["127.0.0.1:65536"], "port '65536'"),
        (["127.0.0.1", "--port", "http"], "port 'http'"),
        (["[127.0.0.1]:443"], "expected an IPv6 address"),
        (["two words"], "expected HOST, HOST:PORT, IPv6 or [IPv6]:PORT"),
        ([""], "host ''"),
        (["127.0.0.1", "--count", "0"], "count 0 (expected 1 to 1000000)"),
        (["127.0.0.1", "--count", "many"], "argument --count: 'many' (expected a whole number, such as 3)"),
        (["127.0.0.1", "--count", "-3"], "count -3 (expected 1 to 1000000)"),
        (["--port", "-1", "127.0.0.1"], "port '-1' (expected a number from 1 to 65535)"),
        (["127.0.0.1", "--interval", "-1"], "interval -1.0 (expected 0 to 86400 seconds)"),
        (["127.0.0.1", "--interval", "nan"], "interval nan"),
        (["127.0.0.1", "--timeout", "0"], "timeout 0.0"),
        (["127.0.0.1", "--timeout", "inf"], "timeout inf"),
        (["127.0.0.1", "-4", "-6"], "not allowed with argument -4"),
        (["127.0.0.1", "--insecure", "--ca", "ca.pem"], "not allowed with argument"),
        (["127.0.0.1", "--nonsense"], "unknown option --nonsense"),
        (["--hepl"], "unknown option --hepl: did you mean --help?"),
        (["--jsno=1", "127.0.0.1"], "unknown option --jsno: did you mean --json?"),
    ],
)
def test_usage_errors_exit_2_and_say_what_is_wrong(ask, arguments, words):
    run = ask(*arguments)
    assert run.status == USAGE
    assert run.out == ""
    assert run.err.startswith("tsq-client: error: ")
    (line,) = run.err.splitlines()
    assert words in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file or directory"),
        ("", "holds no certificate"),
        ("not PEM", "expected certificates in PEM form"),
        ("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", "is it the right file?"),
    ],
)
def test_a_ca_file_that_cannot_be_used_exits_2_and_names_the_file(ask, tmp_path, server, content, words):
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    run = ask(server.target, "--ca", file)
    assert run.status == USAGE
    assert str(file) in one_line_of(run)
    assert words in run.err


@pytest.mark.parametrize(
    ("plot", "words"),
    [
        ("x.jpg", "plot file x.jpg ends in .jpg (expected a name that ends in .png, .svg or .pdf)"),
        ("png", "plot file png has no suffix (expected"),
        ("nowhere/x.png", "plot file nowhere/x.png: No such file or directory: name a file that can be written"),
        ("here.png", "plot file here.png: it is a directory"),
    ],
)
def test_a_picture_that_cannot_be_written_is_known_before_any_server_is_asked(ask, server, tmp_path, monkeypatch, plot, words):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.png").mkdir()
    run = ask(server.target, "--ca", server.ca, "--plot", plot)
    assert run.status == USAGE
    assert words in one_line_of(run)
    assert server.server.counters.get("handshakes", "full") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["here.png"]


@pytest.mark.parametrize("name", ["münchen.example", "a" * 300, "\N{SNOWMAN}"])
def test_a_server_name_that_no_certificate_can_have_is_an_error_in_words(ask, server, name):
    run = ask(server.target, "--ca", server.ca, "--server-name", name)
    assert run.status in (USAGE, CERTIFICATE)
    assert "Traceback" not in run.err


def test_version_prints_program_and_version(ask):
    run = ask("--version")
    assert (run.status, run.err) == (OK, "")
    assert run.out == f"tsq-client {tsq.__version__}\n"


def test_help_documents_every_exit_status(ask):
    run = ask("--help")
    assert (run.status, run.err) == (OK, "")
    words = " ".join(run.out.split())
    for status, meaning in {
        OK: "every host gave the time",
        SOME_FAILED: "some hosts did",
        USAGE: "usage",
        NO_ANSWER: "no answer",
        CERTIFICATE: "certificate refused",
        NAME: "name not found",
        REJECTED: "all answers rejected",
        NOT_TSQ: "the server does not speak TSQ",
        INTERRUPTED: "interrupted",
    }.items():
        assert f"{status} {meaning}" in words


def test_json_on_failure_carries_the_error_its_kind_and_the_same_exit_status(ask, server):
    with closed_port() as bad:
        run = ask(bad, "something.invalid", "--json")
        # That of the error which says most.
        assert run.status == NAME
        both = ask(bad, server.target, "--ca", server.ca, "--json", "--interval", "0")
        assert both.status == SOME_FAILED
    hosts = json.loads(run.out)["hosts"]
    assert run.err == ""
    assert [host["error_kind"] for host in hosts] == ["NothingListens", "NameNotFound"]
    assert "ICMP port unreachable" in hosts[0]["error"]
    assert [host["offset"] for host in hosts] == [None, None]
    assert [host["error_kind"] for host in json.loads(both.out)["hosts"]] == ["NothingListens", None]


def test_json_of_rejected_samples_says_why_in_each(ask, certificates):
    with Peer(certificates, sent_before_received) as peer:
        run = ask(peer.target, "--ca", peer.ca, "--json", "--interval", "0")
    assert run.status == REJECTED
    (host,) = json.loads(run.out)["hosts"]
    assert host["error_kind"] == "RejectedSamples"
    assert [(sample["valid"], sample["reason"]) for sample in host["samples"]] == [(False, "T3 is before T2")] * 3


# ------------------------------------------------------------------------------------------------------------- key log


def test_sslkeylogfile_gets_the_secrets_in_a_private_file_and_that_is_said(tmp_path, server):
    log = tmp_path / "keys.log"
    run = run_client(server.target, "--ca", server.ca, SSLKEYLOGFILE=str(log))
    assert run.returncode == OK
    assert run.stderr == f"tsq-client: TLS secrets go to {log} (SSLKEYLOGFILE)\n"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    labels = {line.split()[0] for line in log.read_text().splitlines()}
    assert {"CLIENT_HANDSHAKE_TRAFFIC_SECRET", "CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"} <= labels


def test_an_unwritable_sslkeylogfile_costs_the_log_alone(tmp_path, server):
    log = tmp_path / "no" / "keys.log"
    run = run_client(server.target, "--ca", server.ca, SSLKEYLOGFILE=str(log))
    assert run.returncode == OK
    why = "No such file or directory"
    assert run.stderr == f"tsq-client: warning: TLS secrets are not written to {log} (SSLKEYLOGFILE): {why}\n"
    assert "System clock wrong by" in run.stdout


# ------------------------------------------------------------------------------------------------- terminals and signals


def on_a_terminal(arguments: list[str], **streams: object) -> tuple[int, str, subprocess.CompletedProcess[bytes] | None]:
    """tsq-client with a pseudo-terminal as standard output and error, unless `streams` says otherwise."""
    master, slave = pty.openpty()
    try:
        process = subprocess.Popen([BIN / "tsq-client", *arguments], **{"stdout": slave, "stderr": slave, **streams})
        os.close(slave)
        shown = b""
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:
                break
            if not part:
                break
            shown += part
        _, errors = process.communicate(timeout=30)
    finally:
        os.close(master)
    return process.returncode, shown.decode(), errors


def test_a_long_run_on_a_terminal_shows_progress_and_leaves_a_clean_table(server):
    status, shown, _ = on_a_terminal([str(server.target), "--ca", server.ca, "--count", "100", "--interval", "0"])
    assert status == OK
    assert "\r\033[K1/100 samples, last 127.0.0.1" in shown
    assert "\r\033[K100/100 samples, last" in shown
    # The line is wiped before the table is printed.
    assert re.search(r"100/100 samples[^\r\n]*\r\033\[KM +host +stratum +offset", shown)
    assert shown.count(" 100/100 \r\n") == 1


def test_a_short_run_on_a_terminal_shows_no_progress(server):
    status, shown, _ = on_a_terminal([str(server.target), "--ca", server.ca, "--interval", "0"])
    assert status == OK
    assert "\033" not in shown
    assert "samples, last" not in shown


def test_a_long_run_on_a_terminal_with_standard_error_piped_stays_plain(server):
    status, shown, errors = on_a_terminal(
        [str(server.target), "--ca", server.ca, "--count", "100", "--interval", "0"], stderr=subprocess.PIPE
    )
    assert (status, errors) == (OK, b"")
    assert "\033" not in shown


def test_a_long_run_with_piped_output_stays_plain(server):
    run = run_client(server.target, "--ca", server.ca, "--count", "100", "--interval", "0")
    assert (run.returncode, run.stderr) == (OK, "")
    assert not {"\r", "\033"} & set(run.stdout)
    assert len(run.stdout.splitlines()) == 6


def test_json_on_a_terminal_shows_no_progress(server):
    status, shown, _ = on_a_terminal([str(server.target), "--ca", server.ca, "--count", "100", "--interval", "0", "--json"])
    assert status == OK
    assert len(json.loads(shown)["hosts"][0]["samples"]) == 100


class Milestone:
    """Answers honestly, and tells when so many requests have come."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._reached = threading.Event()

    def __call__(self, nonce: bytes, request: bytes, number: int) -> list[bytes]:
        if number + 1 >= self._number:
            self._reached.set()
        return honest(nonce, request, number)

    def wait(self) -> None:
        assert self._reached.wait(30)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("hosts", [1, 2])
def test_ctrl_c_in_mid_run_ends_with_what_there_is(certificates, hosts):
    milestones = [Milestone(5) for _ in range(hosts)]
    peers = [Peer(certificates, milestone) for milestone in milestones]
    with ExitStack() as running:
        for peer in peers:
            running.enter_context(peer)
        targets = [str(peer.target) for peer in peers]
        command = [BIN / "tsq-client", *targets, "--ca", peers[0].ca, "--count", "100000", "--interval", "0.02"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            for milestone in milestones:
                milestone.wait()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
    assert "Traceback" not in err
    assert process.returncode == OK
    lines = out.splitlines()
    assert [line.split()[1] for line in lines[1 : 1 + hosts]] == targets
    for line in lines[1 : 1 + hosts]:
        good, all_of_them = map(int, re.search(r" (\d+)/(\d+) $", line).groups())
        assert 1 <= good <= all_of_them < 100000
    assert lines[-1].startswith("System clock wrong by ")


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("hosts", [1, 2])
def test_ctrl_c_before_any_answer_exits_130_and_says_so(hosts):
    with deaf_port() as (target, deaf):
        command = [BIN / "tsq-client", *[str(target)] * hosts, "--timeout", "600"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            deaf.recv(2048)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
    assert process.returncode == INTERRUPTED
    assert out == ""
    assert err.splitlines() == [f"tsq-client: {target}: stopped before an answer came"] * hosts


# ---------------------------------------------------------------------------------------------------------- session file


def test_session_file_is_private_and_makes_the_next_run_0_rtt(ask, tmp_path, server):
    file = tmp_path / "sessions"
    first = ask(server.target, "--ca", server.ca, "--session-file", file, "--interval", "0", "-v")
    assert (first.status, first.err) == (OK, "")
    assert "0-RTT" not in first.out
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    second = ask(server.target, "--ca", server.ca, "--session-file", file, "--interval", "0", "-v")
    assert second.status == OK
    assert " datagram tsq/1 0-RTT\n" in second.out
    assert server.server.counters.get("handshakes", "resumed") == 1


def test_a_ticket_is_used_once_by_the_client_and_once_by_the_server(ask, tmp_path, server):
    file, copy = tmp_path / "sessions", tmp_path / "copy"
    arguments = (server.target, "--ca", server.ca, "--interval", "0", "--json", "--session-file")
    ask(*arguments, file)
    shutil.copy(file, copy)
    tickets = [json.loads(file.read_text())]
    assert json.loads(ask(*arguments, file).out)["hosts"][0]["zero_rtt"] is True
    tickets.append(json.loads(file.read_text()))
    assert tickets[0] != tickets[1]
    # The same ticket from another place: it works as any connection does, and not as a resumed one.
    again = ask(*arguments, copy)
    assert again.status == OK
    assert json.loads(again.out)["hosts"][0]["zero_rtt"] is False
    assert server.server.counters.get("handshakes", "resumed") == 1


def test_a_ticket_got_without_verification_does_not_pass_for_a_verified_one(ask, tmp_path, server):
    file = tmp_path / "sessions"
    assert ask(server.target, "--insecure", "--session-file", file, "--interval", "0").status == OK
    # The server's authority is not in the system's store: only the ticket could let this pass.
    refused = ask(server.target, "--session-file", file)
    assert refused.status == CERTIFICATE
    assert server.server.counters.get("handshakes", "resumed") == 0


@pytest.mark.parametrize("rest", [b': 1, "sess', b": 1, \xff", b': 99, "sessions": {}}'])
def test_a_damaged_session_file_is_reported_and_replaced(ask, tmp_path, server, rest):
    file = tmp_path / "sessions"
    file.touch(0o600)
    file.write_bytes(b'{"tsq_sessions"' + rest)
    run = ask(server.target, "--ca", server.ca, "--session-file", file, "--interval", "0")
    assert run.status == OK
    assert f"{file}: a damaged session file; starting it anew" in run.err
    assert ask(server.target, "--ca", server.ca, "--session-file", file, "--interval", "0", "-v").out.count("0-RTT") == 1


@pytest.mark.parametrize("content", [b"notes of mine", b"\xff\xfe\x00\x01", b"{}"])
def test_a_session_file_that_is_something_else_costs_the_tickets_alone_and_is_left_as_it_is(ask, tmp_path, server, content):
    file = tmp_path / "sessions"
    file.touch(0o600)
    file.write_bytes(content)
    run = ask(server.target, server.target, "--ca", server.ca, "--interval", "0", "--session-file", file)
    assert run.status == OK
    advice = "give a file of its own, or one that does not exist"
    assert run.err == f"tsq-client: {file} is not a session file: {advice}; session tickets are not kept\n"
    assert file.read_bytes() == content


def test_an_unwritable_session_file_costs_the_tickets_alone_and_is_named(ask, tmp_path, server):
    file = tmp_path / "no" / "sessions"
    run = ask(server.target, server.target, "--ca", server.ca, "--interval", "0", "--session-file", file)
    assert run.status == OK
    assert run.err == f"tsq-client: session file {file}: No such file or directory; session tickets are not kept\n"


def test_early_data_after_a_server_restart_is_asked_again(ask, tmp_path, certificates):
    file = tmp_path / "sessions"
    with ServerThread([f"127.0.0.1:{free_port()}"], certificates) as server:
        target, ca = server.target, server.ca
        ask(target, "--ca", ca, "--session-file", file, "--interval", "0")
    # A new server on the same port knows nothing of the old one's tickets.
    with ServerThread([str(target)], certificates):
        run = ask(target, "--ca", ca, "--session-file", file, "--interval", "0", "-v")
    assert run.status == OK
    assert " 3/3 " in run.out
    assert "0-RTT" not in run.out


def test_the_module_runs_as_a_program(server):
    run = subprocess.run(
        [sys.executable, "-m", "tsq.cli.client", str(server.target), "--ca", server.ca, "--interval", "0"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (run.returncode, run.stderr) == (OK, "")
    assert "System clock wrong by" in run.stdout


def test_watch_says_that_a_server_that_it_had_believed_is_refused_now(tmp_path):
    """It was started again with a certificate that is not trusted: the old samples age, and the user learns why."""
    trusted, stranger = Authority("Known").issue(tmp_path / "known"), Authority("Stranger").issue(tmp_path / "stranger")
    refused = "no connection at present: the server's certificate is signed by CN=Stranger, which is not trusted here"
    with ExitStack() as ending:
        port = free_port()
        with ServerProcess(["--listen", f"127.0.0.1:{port}", "--cert", trusted.certificate, "--key", trusted.key]) as server:
            target = server.target
            command = [BIN / "tsq-client", "--watch", "--interval", "0.3", "--timeout", "1", "--ca", trusted.authority, target]
            watch = ending.enter_context(
                subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            )
            assert "no connection" not in watch.stdout.readline()
        again = ["--listen", str(target), "--cert", stranger.certificate, "--key", stranger.key]
        with ServerProcess(again):
            # A line for each round; the first ones may come before the new server is there.
            assert any(f"({target}: {refused}" in line for line in islice(watch.stdout, 100))
            watch.send_signal(signal.SIGINT)
            _, errors = watch.communicate(timeout=20)
    assert f"tsq-client: {target}: {refused}" in errors
    assert watch.returncode == 0
