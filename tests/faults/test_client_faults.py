"""What befalls a client, each with the number of its case in the name; test_table.py says where each case is tested."""

import asyncio
import json
import os
import pty
import random
import subprocess
import tty
from contextlib import ExitStack
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.peers import DAY, NOW, Authority, Peer, closed_port, honest, self_signed_leaf
from tests.cli.test_selection import telling
from tests.integration.peers import run_json
from tests.simulation.network import MS, SECOND, START_NS, Client, Clock, Link, Plan, Reported, Server
from tests.support.badlink import BadLink
from tests.support.kernel import VirtualKernel
from tests.support.odd_certificates import root
from tests.support.processes import BIN, run_client
from tests.support.shown import wrong_by
from tests.support.world import World
from tsq import ClientOptions, Rules, Trust, query
from tsq._fast import clock_ns, pack_response, pack_tlvs
from tsq.cli.adjtime import main as adjtime
from tsq.cli.client import EXIT_CERTIFICATE, EXIT_NO_ANSWER, EXIT_NO_MAJORITY, EXIT_OK, EXIT_REJECTED, main
from tsq.errors import HandshakeTimeout
from tsq.host.clock import SystemClock
from tsq.timing.filter import estimate
from tsq.timing.sample import Reason
from tsq.timing.selection import Source, Unused, select
from tsq.wire.message import ClockQuality, TimeSource
from tsq.wire.signature import HmacSigner, Verifier
from tsq.wire.tlv import MAX_VALUE_SIZE, TlvType


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


# ------------------------------------------------------------------------------------------------------------- the path


def asked(link: Link, *, offset_ns: int = 0, seed: int = 1, count: int = 12, **server):
    client = Client(Clock(-offset_ns), random.Random(seed))
    return client.ask(Server(Clock(), link, Reported(1e-6), **server), Plan(count, interval_ns=10 * MS, stamps_ns=0))


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


@pytest.mark.parametrize("mode", [[], ["--stream"]], ids=["datagram", "stream"])
@pytest.mark.parametrize("seed", range(3))
def test_45_half_lost_doubled_reordered_between_processes_is_right_or_a_clean_time_out(server_process, certificates, seed, mode):
    with BadLink(server_process.target.port, seed, loss=0.5, doubling=0.5, spread=0.03) as link:
        many = ("--count", 12, "--interval", 0.02, "--timeout", 2)
        done, [host] = run_json(link.target, "--ca", certificates.authority, *many, *mode)
    assert link.counts["lost"] > 0
    assert link.counts["doubled"] > 0
    assert "Traceback" not in done.stderr
    # Status 8: samples came, and the answer that says whether the server's clock is synchronized was lost. Such a time is not used.
    expected = {(0, None), (3, "HandshakeTimeout"), (3, "NoAnswer"), (8, None)}
    assert (done.returncode, host["error_kind"]) in expected, host
    assert (host["unused"] == "STATE_UNKNOWN") == (done.returncode == 8), host
    # However many copies came of it, a request is one sample.
    assert len(host["samples"]) == (0 if host["error_kind"] == "HandshakeTimeout" else 12)
    assert len({sample["t1_ns"] for sample in host["samples"]}) == len(host["samples"])
    # With much bad luck the server seems to be gone: the client connects again, and what was under way is lost.
    again = any("the server did not answer any more" in notice for notice in host["notices"])
    missing = {"no answer in time", *(["connection lost"] if again else [])}
    for sample in host["samples"]:
        if sample["valid"]:
            # Both ends read one clock.
            assert abs(sample["offset"]) <= sample["root_distance"], sample
        else:
            assert sample["reason"] in missing, (sample["reason"], sample["detail"], host["notices"])


@pytest.mark.parametrize("mode", [[], ["--stream"]], ids=["datagram", "stream"])
def test_45_doubled_and_reordered_alone_costs_no_sample(server_process, certificates, mode):
    with BadLink(server_process.target.port, 7, doubling=0.5, spread=0.03) as link:
        many = ("--count", 12, "--interval", 0.005, "--timeout", 20)
        done, [host] = run_json(link.target, "--ca", certificates.authority, *many, *mode)
    assert link.counts["doubled"] > 0
    assert link.counts["overtaken"] > 0
    assert (done.returncode, done.stderr) == (0, "")
    assert len(host["samples"]) == 12
    assert all(sample["valid"] and abs(sample["offset"]) <= sample["root_distance"] for sample in host["samples"])


@pytest.mark.parametrize("way", ["there", "back"])
def test_46_a_delay_one_way_between_processes_is_inside_the_printed_bound(server_process, certificates, way):
    with BadLink(server_process.target.port, 1, **{way: 0.06}) as link:
        arguments = (link.target, "--ca", certificates.authority, "--interval", 0.01)
        done = run_client(*arguments)
        _, [host] = run_json(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    offset, bound = wrong_by(done.stdout)
    # Both ends read one clock: all of the offset is error.
    assert abs(offset) <= bound
    assert bound >= 0.03, "who delays must show it"
    for sample in host["samples"]:
        assert sample["delay"] >= 0.06
        assert abs(sample["offset"]) <= sample["delay"] / 2


# ---------------------------------------------------------------------------------------------------------- the servers


def no_nonce(nonce: bytes, request: bytes, number: int) -> list[bytes]:
    return [honest(nonce, request, number)[0][18:]]


def nonce_twice(nonce: bytes, request: bytes, number: int) -> list[bytes]:
    return [request[:18] + honest(nonce, request, number)[0]]


def another_nonce(nonce: bytes, request: bytes, number: int) -> list[bytes]:
    return honest(bytes(byte ^ 1 for byte in nonce), request, number)


def short_nonce(nonce: bytes, request: bytes, number: int) -> list[bytes]:
    return [b"\x01\x0f" + nonce[:15] + honest(nonce, request, number)[0][18:]]


@pytest.mark.parametrize("mode", [[], ["--stream"]], ids=["datagram", "stream"])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (no_nonce, "malformed answer (a message that does not begin with a Nonce"), (nonce_twice, "malformed answer ("),
        (short_nonce, "malformed answer ("), (another_nonce, "answer with a nonce that was not asked (nonce "),
    ],
)  # fmt: skip
def test_42_an_answer_without_its_nonce_fails_its_exchange_and_no_other(capsys, certificates, wrong, words, mode):
    with Peer(certificates, lambda *request: (wrong if request[2] == 1 else honest)(*request)) as peer:
        status, out, err = run(capsys, peer.target, "--ca", peer.ca, "--interval", "0.05", *mode)
    assert status == EXIT_OK
    assert f"tsq-client: sample 2 of {peer.target} not used: {words}" in err
    assert len(err.splitlines()) == 1
    assert " 2/3 " in out


def test_42_the_nonce_of_an_earlier_exchange_answers_no_later_one(capsys, certificates):
    nonces = []

    def repeat(nonce: bytes, request: bytes, number: int) -> list[bytes]:
        nonces.append(nonce)
        return honest(nonces[0] if number == 1 else nonce, request, number)

    with Peer(certificates, repeat) as peer:
        status, out, err = run(capsys, peer.target, "--ca", peer.ca, "--interval", "0.05", "--timeout", "1", "--json")
    assert status == EXIT_OK, err
    (host,) = json.loads(out)["hosts"]
    # Ignored as a second answer to the first; its own request has none.
    assert [(sample["valid"], sample["reason"]) for sample in host["samples"]] in (
        [(True, None), (False, "no answer in time"), (True, None)], [(True, None), (True, None), (False, "no answer in time")],
    )  # fmt: skip


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
    # Its report is an hour old by then: at 15 ppm, 54 ms.
    assert chosen.agreed.root_distance == pytest.approx(0.054 + 0.001, rel=0.02)


def hostile(nonce: bytes, request: bytes, number: int) -> list[bytes]:
    """Everything that a server may say, at its longest and worst."""
    now = clock_ns()
    text = b"\x1b]0;owned\x07\xff\xfe\r\n" + b"\x9b31m" * 60
    pairs = bytes([8]) + b"tsq.leap" + bytes([4]) + b"\x1b[2J" + bytes([9]) + b"tsq.smear" + bytes([1]) + b"\xff"
    pairs += bytes([200]) + text[:200] + bytes([10]) + text[:10]
    report = [
        (TlvType.CLOCK_QUALITY, ClockQuality(3, 500, 0).tlv()[1] + text[: MAX_VALUE_SIZE - 6]),
        (TlvType.TIME_SOURCE, TimeSource(2, 3).tlv()[1] + text[: MAX_VALUE_SIZE - 2]),
        (TlvType.METADATA, pairs[:MAX_VALUE_SIZE]),
    ]
    return [pack_response(nonce, now, now) + pack_tlvs(report)]


@pytest.mark.parametrize("options", [[], ["-v"], ["--json"], ["--watch", "--count", "2"]])
def test_55_hostile_text_of_a_server_reaches_no_terminal(capsys, certificates, options):
    with Peer(certificates, hostile) as peer:
        status, out, err = run(capsys, peer.target, "--ca", peer.ca, "--interval", "0", *options)
    assert status == EXIT_OK, err
    assert all(line.isprintable() for line in [*out.splitlines(), *err.splitlines()])
    if options == ["--json"]:
        (host,) = json.loads(out)["hosts"]
        # A malformed report is no report.
        assert (host["leap"], host["smeared"], host["stratum"]) == (None, None, 2)
        assert host["server_error"] == pytest.approx(5e-4, rel=0.1)


# What a server can put where text is: control characters of terminals, as much as fits, bytes that are no UTF-8.
TEXTS = {
    "control characters": b"\x1b]0;owned\x07\x1b[2J\r\n\x00\x7f\xc2\x9b31m\xe2\x80\xaetxt.exe",
    "255 bytes": b"x\x1b" * 126 + b"y",
    "bad UTF-8": b"\xff\xfe\xc3(\xed\xa0\x80\xf5\x80 end",
}


def on_a_terminal(*arguments: object) -> tuple[int, bytes]:
    """tsq-client on a terminal: exit status, and each byte that the terminal got."""
    master, slave = pty.openpty()
    # As it is written: the terminal adds nothing.
    tty.setraw(slave)
    shown = b""
    command = [str(word) for word in (BIN / "tsq-client", *arguments)]
    with subprocess.Popen(command, stdout=slave, stderr=slave, stdin=slave) as process:
        os.close(slave)
        try:
            while part := _read(master):
                shown += part
            process.wait(60)
        finally:
            process.kill()
            os.close(master)
    return process.returncode, shown


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:
        # How a terminal ends.
        return b""


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_55_text_of_an_error_reply_is_shown_escaped_on_a_terminal(certificates, text):
    reply = pack_tlvs([(TlvType.ERROR, bytes([3, 0]) + text[:253])])
    with Peer(certificates, lambda *_: [reply]) as peer:
        status, shown = on_a_terminal("--ca", peer.ca, "--interval", "0", "--stream", "-v", peer.target)
    assert status == EXIT_REJECTED
    lines = shown.decode().split("\n")
    assert all(line.isprintable() for line in lines)
    (told,) = [line for line in lines if line.startswith("tsq-client: ")]
    # It is shown, all of it, and not left out.
    assert repr(text[:253].decode(errors="backslashreplace")) in told


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_55_text_of_the_reason_for_a_close_is_shown_escaped_on_a_terminal(certificates, text):
    def close(protocol) -> None:
        # Bad UTF-8 cannot be said by way of aioquic.
        protocol.close(0x17, text[:250].decode(errors="replace"))

    with Peer(certificates, greeting=close) as peer:
        status, shown = on_a_terminal("--ca", peer.ca, "--interval", "0", peer.target)
    assert status == 1
    assert b"the connection was closed: code 0x17" in shown
    assert all(line.isprintable() for line in shown.decode().split("\n"))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_55_metadata_and_a_clocks_name_are_escaped_in_json_and_reach_no_terminal(certificates, text):
    def tell(nonce: bytes, request: bytes, number: int) -> list[bytes]:
        now = clock_ns()
        report = [
            (TlvType.TIME_SOURCE, bytes([2, 3]) + text[:253]),
            (TlvType.METADATA, bytes([9]) + b"tsq.smear" + bytes([min(244, len(text))]) + text[:244]),
        ]
        return [pack_response(nonce, now, now) + pack_tlvs(report)]

    with Peer(certificates, tell) as peer:
        arguments = ("--ca", peer.ca, "--interval", "0", peer.target)
        for options in ([], ["-v"], ["--json"]):
            status, shown = on_a_terminal(*arguments, *options)
            assert status == EXIT_OK
            assert all(line.isprintable() for line in shown.decode().split("\n")), shown
    (host,) = json.loads(shown)["hosts"]
    assert shown.isascii()
    assert (host["stratum"], host["smeared"]) == (2, None)
    assert host["source"] == text[:253].decode(errors="backslashreplace")


@pytest.mark.parametrize("text", ["\x1b]0;owned\x07", "\x1b[2J\r\n", "x\x1b" * 126, "\x9b31m\u202etxt"])
def test_55_names_in_a_certificate_are_escaped(capsys, tmp_path, text):
    authority = Authority(text[:64])
    names = [f"{text[:60]}.example"] if text.isascii() else ["time.example"]
    with Peer(authority.issue(tmp_path, names)) as peer:
        for options in ([], ["--ca", peer.ca]):
            status, out, err = run(capsys, peer.target, *options)
            assert (status, out) == (EXIT_CERTIFICATE, "")
            assert all(line.isprintable() for line in err.splitlines()), err
            assert len(err.splitlines()) == 1


@pytest.mark.parametrize("confirmed", [False, True])
def test_53_insecure_asks_nobody_before_it_is_confirmed(capsys, certificates, confirmed):
    twin = VirtualKernel(truth_ns=clock_ns(), error_ns=-2e9)
    with Peer(certificates, telling()) as peer:
        try:
            arguments = ["--insecure", *(["--i-know-this-is-insecure"] if confirmed else []), "--dry-run", str(peer.target)]
            status = adjtime(arguments, SystemClock(twin), lambda: None)
        except SystemExit as end:
            status = end.code
        assert (peer.requests > 0) is confirmed
    assert status == (0 if confirmed else 2)
    assert twin.calls == []
    assert "--i-know-this-is-insecure" in capsys.readouterr().err


@pytest.mark.parametrize("mode", [False, True], ids=["datagram", "stream"])
@pytest.mark.parametrize("fault", ["absent", "unknown key", "bad", "not last"])
def test_54_a_required_signature_that_is_not_right_is_an_answer_discarded(certificates, fault, mode):
    """A real server over the network, and the library, which is where signatures can be asked for."""
    known, unknown = HmacSigner(7, bytes(range(32))), HmacSigner(8, bytes(range(32)))

    def signed(nonce: bytes, request: bytes, number: int) -> list[bytes]:
        plain = honest(nonce, request, number)[0]
        right = plain + pack_tlvs([known.sign(plain)])
        if number != 1:
            return [right]
        return [{
            "absent": plain,
            "unknown key": plain + pack_tlvs([unknown.sign(plain)]),
            "bad": right[:-1] + bytes([right[-1] ^ 1]),
            "not last": right + pack_tlvs([(TlvType.PADDING, bytes(4))]),
        }[fault]]  # fmt: skip

    with Peer(certificates, signed) as peer:
        options = ClientOptions(interval=0.05, trust=Trust(ca_file=peer.ca), stream=mode)
        result = query(peer.target, options, rules=Rules(verifier=Verifier({7: bytes(range(32))})))
    first, wrong, last = result.samples
    assert first.valid
    assert last.valid
    assert wrong.reason is (Reason.MALFORMED if fault == "not last" else Reason.SIGNATURE)
    assert wrong.offset is None
    assert result.good == 2


@pytest.mark.parametrize("fault", ["SelfSigned", "WrongName", "Expired", "NotYetValid", "UnknownAuthority"])
def test_52_each_fault_of_a_certificate_has_its_kind_and_no_answer_is_asked_for(capsys, tmp_path, fault):
    authority = Authority()
    files = {
        "SelfSigned": lambda: self_signed_leaf(tmp_path),
        "WrongName": lambda: authority.issue(tmp_path, ["time.example"]),
        "Expired": lambda: authority.issue(tmp_path, not_after=NOW - DAY / 2),
        "NotYetValid": lambda: authority.issue(tmp_path, not_before=NOW + DAY),
        "UnknownAuthority": lambda: authority.issue(tmp_path),
    }[fault]()
    trusted = [] if fault in ("SelfSigned", "UnknownAuthority") else ["--ca", files.authority]
    with Peer(files) as peer:
        for mode in ([], ["--stream"]):
            status, out, _ = run(capsys, peer.target, *trusted, *mode, "--json")
            (host,) = json.loads(out)["hosts"]
            assert (status, host["error_kind"], host["samples"]) == (EXIT_CERTIFICATE, fault, [])
            words = [SAID[kind] in host["error"] for kind in SAID]
            assert words == [kind == fault for kind in SAID], host["error"]
        assert peer.requests == 0, "nothing is said to a server that is not believed"


SAID = {
    "SelfSigned": "is self-signed", "WrongName": "is for time.example, not for 127.0.0.1", "Expired": "expired at ",
    "NotYetValid": "is not valid before ", "UnknownAuthority": "is not trusted here",
}  # fmt: skip


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


@pytest.mark.parametrize("inserted", [True, False], ids=["inserted", "deleted"])
@pytest.mark.parametrize("told", [0, 1])
def test_62_a_leap_second_in_the_midst_of_exchanges_is_in_the_bound_or_discarded(inserted, told):
    """Both clocks have it at the same moment. Exchanges begin each 7 ms around it, so that it falls into every part of some."""
    leap = [(START_NS + 1000 * MS, -SECOND if inserted else SECOND)]
    one, other = Clock(jumps=leap), Clock(jumps=leap)
    server = Server(other, Link(20 * MS, 20 * MS), Reported(1e-6, leap=1 if told else 0), work_ns=30 * MS)
    run_ = Client(one, random.Random(5)).ask(server, Plan(300, interval_ns=7 * MS))
    assert len(run_.samples) == 300
    discarded = [sample.reason for sample in run_.samples if not sample.valid]
    # An answer whose T3 would be before T2 is never sent.
    assert set(discarded) <= {Reason.NEGATIVE_DELAY, Reason.ANSWER_BEFORE_REQUEST, Reason.SEND_BEFORE_RECEIVE, Reason.NO_ANSWER}
    assert bool(discarded) == inserted
    for sample in run_.samples:
        if sample.valid:
            # Two clocks that are both right.
            assert abs(sample.offset) <= sample.root_distance
    found = estimate(run_.samples)
    assert abs(found.offset) <= found.root_distance < 0.1


def test_62_the_year_2036_is_uneventful_from_both_sides_and_for_the_selection():
    edge_ns = 2_085_978_496 * SECOND
    sources = []
    for number in range(3):
        client = Client(Clock(-3 * MS), random.Random(number))
        plan = Plan(9, interval_ns=SECOND, stamps_ns=0)
        run_ = client.ask(Server(Clock(), Link(MS, MS), Reported(1e-6)), plan, begin_ns=edge_ns - 4 * SECOND)
        assert run_.samples[0].t1_ns < edge_ns < run_.samples[-1].t4_ns
        assert all(abs(sample.offset - 0.003) < 0.0001 for sample in run_.samples)
        sources.append(Source(str(number), estimate(run_.samples)))
    chosen = select(sources, at_ns=edge_ns + 6 * SECOND)
    assert chosen.agreed.offset == pytest.approx(0.003, abs=1e-4)


@pytest.mark.parametrize("stream", [False, True], ids=["datagram", "stream"])
def test_68_a_server_that_drips_its_handshake_has_the_time_out_for_all_of_it(certificates, tmp_path, stream):
    """Each datagram comes well within the time-out after the one before, and starts no new one."""
    # Far more certificates than there have to be.
    chain = tmp_path / "chain.pem"
    others = [root(subject=f"authority {number}").by().certificate.public_bytes(Encoding.PEM) for number in range(30)]
    chain.write_bytes(certificates.certificate.read_bytes() + b"".join(others))
    world = World(replace(certificates, certificate=chain))
    arrivals: list[float] = []

    def drip(data: bytes, number: int) -> list[int]:
        arrivals.append(max([world.now, *arrivals]) + 0.3)
        return [round((arrivals[-1] - world.now) * 1e9)]

    world.to_client = drip
    session = world.channel(stream=stream, timeout=1.0)
    begin = world.now
    world.run(0.999)
    assert sum(at < begin + 0.999 for at in arrivals) == 3
    assert (session.error, session.established) == (None, False)
    world.run(0.002)
    assert isinstance(session.error, HandshakeTimeout)
    world.run(60)
    assert not session.established


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
        options = ["--stream", "--timeout", "2", "--count", "2", "--interval", "0"]
        status, out, err = run(capsys, peer.target, "--ca", peer.ca, *options)
    # All of an answer would take 7.6 s; each byte comes well within the time-out, and none of them starts it anew.
    assert (status, out) == (EXIT_NO_ANSWER, "")
    assert "connected, but none of 2 requests was answered" in err
