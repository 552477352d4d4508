"""tsq-server --metadata and tsq-client --metadata: what is refused, what is printed, and that it is harmless on a terminal."""

import json

import pytest

from tests.cli.peers import Peer
from tests.support.processes import ServerProcess, run_client
from tsq._fast import clock_ns, pack_response, pack_tlvs
from tsq.cli.client import main as client
from tsq.cli.server import main as server
from tsq.wire.message import ClockQuality, TimeSource, metadata_tlv

# Escape sequences, a title, a line of its own, text that runs backwards, a zero-width joiner, C1, a byte that is not UTF-8.
HOSTILE = {
    "a=b": "c",
    "clear": "\x1b[2J\x1b]0;owned\x07",
    "line": "1\n2\r3\u2028",
    "turned": "\u202egnp.exe\u2066\u200d",
    "c1": "\x9b31m",
}
CONTROLS = "\x1b\x07\r\u2028\u202e\u2066\u200d\x9b"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["site"], "argument --metadata: metadata 'site' (expected KEY=VALUE, such as site=us-east)"),
        (["site=a", "site=b"], "argument --metadata: the key 'site' is given twice"),
        (["tsq.t3=0"], "keys that begin with tsq. are the protocol's own"),
        (["site=\x1b[2J"], "argument --metadata: metadata value '\\x1b[2J' of the key 'site'"),
        (["a=" + "x" * 200, "b=" + "x" * 60], "metadata of 266 bytes (expected at most 255 bytes in all"),
    ],
)
def test_the_server_refuses_what_it_cannot_send(capsys, options, words):
    with pytest.raises(SystemExit) as end:
        server(["--self-signed", "/nowhere", *(part for pair in options for part in ("--metadata", pair))])
    assert end.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_client_prints_what_the_server_says(tmp_path, workers):
    arguments = ["--listen", "127.0.0.1:0", "--self-signed", str(tmp_path), "--metadata", "site=us-east", "--metadata", "rack=12"]
    with ServerProcess([*arguments, "--workers", workers]) as running:
        trust = ["--ca", tmp_path / "ca.pem", "--count", "1"]
        shown = run_client(running.target, "--metadata", *trust)
        assert shown.returncode == 0, shown.stderr
        lines = [line for line in shown.stdout.splitlines() if line.startswith("metadata")]
        assert lines == [f"metadata of {running.target}: rack=12", f"metadata of {running.target}: site=us-east"]
        assert "metadata" not in run_client(running.target, *trust).stdout
        (host,) = json.loads(run_client(running.target, "--json", *trust).stdout)["hosts"]
        assert host["metadata"] == {"rack": "12", "site": "us-east"}


def hostile(nonce: bytes, request: bytes, number: int) -> list[bytes]:
    now = clock_ns()
    return [pack_response(nonce, now, now) + pack_tlvs([metadata_tlv(HOSTILE), (253, b"\x02\xff\xfe\x01!")])]


def test_what_a_hostile_server_says_is_harmless_on_a_terminal(certificates, capsys):
    with Peer(certificates, hostile) as peer:
        arguments = [str(peer.target), "--ca", peer.ca, "--count", "1", "--metadata"]
        client(arguments)
        shown = capsys.readouterr()
        client([*arguments, "--json"])
        document = capsys.readouterr()
    for text in (shown.out, shown.err, document.out, document.err):
        assert not any(control in text for control in CONTROLS)
    about = f"metadata of {peer.target}: "
    lines = [line.removeprefix(about) for line in shown.out.splitlines() if line.startswith("metadata")]
    assert lines == [
        r"\xff\xfe=!",
        r"a\x3db=c",
        r"c1=\x9b31m",
        r"clear=\x1b[2J\x1b]0;owned\x07",
        r"line=1\n2\r3\u2028",
        r"turned=\u202egnp.exe\u2066\u200d",
    ]
    # A program gets what was sent.
    assert json.loads(document.out)["hosts"][0]["metadata"] == {**HOSTILE, "\\xff\\xfe": "!"}


def claiming(nonce: bytes, request: bytes, number: int) -> list[bytes]:
    now = clock_ns()
    quality, source = ClockQuality(1, 5, 20, "gpsdo\x1b[1m"), TimeSource(1, 1, "roof\u202e")
    about = metadata_tlv({"tsq.leap": "0", "tsq.root_delay": "1 ms", "tsq.smear": "perhaps"})
    return [pack_response(nonce, now, now) + pack_tlvs([quality.tlv(), source.tlv(), about])]


def test_what_a_server_says_of_its_clock_is_shown_and_bad_values_are_counted(certificates, capsys):
    with Peer(certificates, claiming) as peer:
        arguments = [str(peer.target), "--ca", peer.ca, "--count", "1"]
        client([*arguments, "-v"])
        shown = capsys.readouterr().out
        client([*arguments, "--json"])
        document = capsys.readouterr().out
    said = r"  says of its clock: stratum 1, GPS (roof\u202e), GNSS, tag gpsdo\x1b[1m; 2 values in another format, not used"
    assert said in shown.splitlines()
    (host,) = json.loads(document)["hosts"]
    assert (host["source_type"], host["clock_class"], host["clock_tag"], host["bad_values"]) == (1, 1, "gpsdo\x1b[1m", 2)
    assert not any(control in shown + document for control in CONTROLS)


def test_a_server_that_says_nothing(certificates, capsys):
    with Peer(certificates) as peer:
        client([str(peer.target), "--ca", peer.ca, "--count", "1", "--metadata"])
    assert f"metadata of {peer.target}: none\n" in capsys.readouterr().out
