"""Wireshark's dissector sees what TSQ sends: the commands of docs/howto/decrypt-with-wireshark.md, run unchanged."""

import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.peers import PATIENCE, process, read_until
from tests.support.processes import BIN
from tests.support.tshark import need_lua
from tsq._fast import ns_from_ntp
from tsq.options import parse_target

pytestmark = pytest.mark.foreign

ROOT = Path(__file__).parents[2]
HOWTO = ROOT / "docs" / "howto" / "decrypt-with-wireshark.md"
PORT = "4433"
SAMPLES = 3
# One more, which makes no sample: its answer reports the exact T3 of the last one (docs/reference/protocol.md R12).
EXCHANGES = SAMPLES + 1
ACK, DATAGRAM = 2, {0x30, 0x31}


def commands(port: int | str) -> list[tuple[list[str], dict[str, str]]]:
    """The page's shell commands in order, each as (arguments, environment), with this port instead of the page's."""
    blocks = re.findall(r"^```console\n(.*?)^```$", HOWTO.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    found = []
    for line in "".join(blocks).replace("\\\n", "").splitlines():
        words = shlex.split(line.removeprefix("$ ").replace(PORT, str(port)).replace("contrib/", f"{ROOT}/contrib/"))
        variables = dict(os.environ, PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}")
        while "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            variables[name] = value
        found.append((words, variables))
    return found


@dataclass
class Capture:
    """A capture in its own directory, and the page's commands for tshark, in order."""

    directory: Path
    port: int
    readers: list[list[str]]

    def look(self, number: int, *more: str, keys: str = "client-keys.log") -> list[str]:
        words = [word.replace("client-keys.log", keys) for word in self.readers[number]]
        done = subprocess.run(
            [*words, *more], cwd=self.directory, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


def wait_for_packet(directory: Path, port: int) -> None:
    """Wait until the capture file contains the last packet of the client's connection: tshark writes it in steps."""
    end = time.monotonic() + PATIENCE
    command = [
        "tshark", "-r", "tsq.pcapng", "-d", f"udp.port=={port},quic", "-o", "tls.keylog_file:client-keys.log",
        "-Y", "quic.cc.error_code.app || quic.cc.error_code",
    ]
    while time.monotonic() < end:
        # The file may still end in the middle of a packet.
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=PATIENCE, check=False)
        if done.stdout:
            return
    raise AssertionError(f"the capture lacks the connection's end: {done.stderr}")


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Capture:
    """The result of the page's steps, done once."""
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed: `make peers` installs it where it may")
    directory: Any = tmp_path_factory.mktemp("capture")
    (server_words, server_variables), *_ = commands(0)
    with process(server_words, cwd=directory, env=server_variables) as server:
        port = parse_target(read_until(server.stdout, "(UDP)").split()[3]).port
        _, (capture_words, capture_variables), (client_words, client_variables), *readers = commands(port)
        with process(capture_words, cwd=directory, env=capture_variables) as tshark:
            try:
                read_until(tshark.stderr, "Capture started")
            except AssertionError as error:
                if "permission" in str(error).lower():
                    pytest.skip("no right to capture on lo: run as root, or as a member of the group that dumpcap is for")
                raise
            done = subprocess.run(
                client_words, cwd=directory, env=client_variables, capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, done.stderr
            wait_for_packet(directory, port)
            tshark.send_signal(signal.SIGINT)
            tshark.communicate(timeout=PATIENCE)
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=PATIENCE)
        assert server.returncode == 0
    return Capture(directory, port, [words for words, _ in readers])


@dataclass
class Packet:
    """A line of the page's table."""

    from_server: bool
    alpn: str
    frames: list[int]
    messages: list[bytes]


def table(capture: Capture, keys: str = "client-keys.log") -> list[Packet]:
    packets = []
    for line in capture.look(1, keys=keys):
        port, alpn, frames, messages = line.split("\t")
        packets.append(
            Packet(
                int(port) == capture.port,
                alpn,
                [int(frame, 0) for frame in frames.split(",") if frame],
                [bytes.fromhex(message) for message in messages.split(",") if message],
            )
        )
    return packets


def test_tshark_decrypts_quic_that_agreed_on_tsq(capture):
    lines = capture.look(0)
    assert any("QUIC" in line and "Initial" in line for line in lines)
    assert not any("Malformed" in line for line in lines)
    offers = {(packet.from_server, packet.alpn) for packet in table(capture) if packet.alpn}
    assert offers == {(False, "tsq/1,tsq"), (True, "tsq/1")}


@pytest.mark.parametrize("keys", ["client-keys.log", "server-keys.log"])
def test_either_side_s_secrets_show_requests_and_answers_in_datagram_frames(capture, keys):
    packets = table(capture, keys)
    requests = [message for packet in packets if not packet.from_server for message in packet.messages]
    answers = [message for packet in packets if packet.from_server for message in packet.messages]
    assert len(requests) == len(answers) == EXCHANGES
    # The first one asks about the server's clock, too (R13).
    assert (requests[0][18:20], len(requests[0])) == (b"\xf7\x00", 88)
    for number, (request, answer) in enumerate(zip(requests, answers, strict=True)):
        assert request[:2] == b"\x01\x10"
        assert number == 0 or request[18:] == b"\xfd\x08\x06tsq.t3\x00"
        assert answer[:18] == request[:18]
        assert answer[18:20] == b"\x02\x08"
        assert answer[28:30] == b"\x03\x08"
    assert len(answers[0]) >= 38
    assert [len(answer) for answer in answers[1:]] == [80] * SAMPLES
    for earlier, told in itertools.pairwise(answers):
        assert told[38:48] == b"\xfd\x28\x06tsq.t3\x20"
        left = bytes.fromhex(told[48:].decode("ascii"))
        assert left[:8] == earlier[2:10]
        # The server sent it less than a second after it had read its clock.
        assert 0 <= int.from_bytes(left[8:], "big") - int.from_bytes(earlier[30:38], "big") < 1 << 32
    assert all(DATAGRAM & set(packet.frames) for packet in packets if packet.messages)


def test_acknowledgment_travels_in_the_answer_s_packet(capture):
    answers = [packet for packet in table(capture) if packet.from_server and packet.messages]
    assert len(answers) == EXCHANGES
    for packet in answers:
        assert ACK in packet.frames
        assert DATAGRAM & set(packet.frames)


def test_page_s_display_filters_find_requests_and_answers(capture):
    assert len(capture.look(2)) == EXCHANGES
    assert len(capture.look(3)) == EXCHANGES
    assert len(capture.readers) == 8


# The page's commands that install and use the dissector.
INSTALL, MESSAGES, SAMPLES_TABLE = slice(4, 6), 6, 7


def test_the_dissector_shows_requests_and_answers(capture):
    need_lua()
    lines = capture.look(MESSAGES)
    assert len(lines) == 2 * EXCHANGES
    assert all(" TSQ " in line for line in lines)
    assert sum("TSQ request" in line for line in lines) == sum("TSQ response, offset " in line for line in lines) == EXCHANGES
    # Client and server are correct: nothing is marked.
    bad = capture.look(MESSAGES, "-Y", "tsq.malformed || (tsq && _ws.expert.severity >= Warning)")
    assert bad == []
    assert len(capture.look(MESSAGES, "-Y", "tsq.exact.offset")) == SAMPLES


def nanoseconds(text: str) -> int:
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    seconds, _, fraction = digits.partition(".")
    return sign * (int(seconds) * 10**9 + int(fraction.ljust(9, "0")))


def test_the_dissector_s_offset_and_delay_follow_from_the_frames_times(capture):
    need_lua()
    words = capture.readers[MESSAGES]
    fields = ("frame.number", "frame.time_epoch", "tsq.ntp")
    done = subprocess.run(
        [*words, "-T", "fields", *(word for field in fields for word in ("-e", field))],
        cwd=capture.directory, capture_output=True, text=True, timeout=PATIENCE, check=True,
    )
    frames = {number: (nanoseconds(at), stamps) for number, at, stamps in (line.split("\t") for line in done.stdout.splitlines())}
    samples = [line.split("\t") for line in capture.look(SAMPLES_TABLE)]
    assert len(samples) == EXCHANGES
    for number, request, _, _, offset, delay in samples:
        (t1, _), (t4, stamps) = frames[request], frames[number]
        t2, t3 = (ns_from_ntp(int(stamp, 16), t4) for stamp in stamps.split(","))
        assert nanoseconds(offset) == ((t2 - t1) + (t3 - t4)) // 2
        assert nanoseconds(delay) == (t4 - t1) - (t3 - t2)


def test_the_dissector_is_found_where_the_page_installs_it(capture, tmp_path):
    need_lua()
    home = dict(os.environ, HOME=str(tmp_path))
    for words in capture.readers[INSTALL]:
        subprocess.run([word.replace("~", str(tmp_path)) for word in words], env=home, timeout=PATIENCE, check=True)
    words = [*capture.readers[0], "-Y", "tsq.offset"]
    done = subprocess.run(words, cwd=capture.directory, env=home, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert len(done.stdout.splitlines()) == EXCHANGES


def test_client_s_handshake_ends_in_the_packet_that_carries_its_first_request(capture):
    first = next(packet for packet in table(capture) if packet.messages)
    assert 6 in first.frames  # CRYPTO


def test_nothing_is_decrypted_without_the_secrets(capture):
    words = [word for word in capture.readers[1] if word != "-o" and not word.startswith("tls.keylog_file")]
    done = subprocess.run(words, cwd=capture.directory, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout
    assert not any(line.split("\t")[3] for line in done.stdout.splitlines())


def test_only_their_owner_can_read_the_secrets(capture):
    for name in ("client-keys.log", "server-keys.log"):
        assert (capture.directory / name).stat().st_mode & 0o077 == 0
