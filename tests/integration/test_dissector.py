"""contrib/wireshark/tsq.lua in tshark: what it shows of captures made by hand, and of each vector and many random messages."""

import random
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import oracle
from tests.support.made_capture import DELAY_NS, START_NS, MadeCapture
from tests.support.messages import mutated
from tests.support.tshark import PROGRAM, need_lua, needs_tshark
from tests.vectors.parts import ANSWER, LAB, NONCE, NONCE_BYTES, PRECISION, SIGN, metadata, ntp, signed, stamp, tlv
from tests.vectors.test_codec import load

SCRIPT = Path(__file__).parents[2] / "contrib" / "wireshark" / "tsq.lua"
pytestmark = [pytest.mark.foreign, needs_tshark]
NS = 10**9
SEPARATOR = "\x1f"


class Look:
    """A made capture as tshark shows it with the dissector. passes: of tshark over the file."""

    def __init__(self, made: MadeCapture, directory: Path, *, passes: int = 1) -> None:
        need_lua()
        capture, secrets = made.write(directory)
        self._command = [
            str(PROGRAM), "-X", f"lua_script:{SCRIPT}", "-r", str(capture), "-o", f"tls.keylog_file:{secrets}",
            *(["-2"] if passes == 2 else []),
        ]  # fmt: skip

    def run(self, *more: str) -> str:
        done = subprocess.run([*self._command, *more], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert "Lua" not in done.stderr, done.stderr
        return done.stdout

    def rows(self, *fields: str, only: str = "tsq") -> dict[int, list[list[str]]]:
        """The values of these fields, by the number of the frame."""
        names = [word for field in ("frame.number", "_ws.lua.error", *fields) for word in ("-e", field)]
        lines = self.run("-Y", f"({only}) || _ws.lua", "-T", "fields", "-E", f"aggregator={SEPARATOR}", *names).splitlines()
        cells = [[cell.split(SEPARATOR) if cell else [] for cell in line.split("\t")] for line in lines]
        assert not any(error for _, error, *_ in cells)
        return {int(number): values for (number,), _, *values in cells}

    def frames(self, only: str) -> list[int]:
        return list(self.rows(only=only))


def answer(nonce: bytes, t2_ns: int, t3_ns: int, rest: bytes = b"") -> bytes:
    return tlv(1, nonce) + tlv(2, stamp(t2_ns)) + tlv(3, stamp(t3_ns)) + rest


def nonce_of(number: int) -> bytes:
    return number.to_bytes(2, "big") * 8


def ns_of(text: str) -> int:
    """Nanoseconds of a time that tshark prints in seconds."""
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    seconds, _, fraction = digits.partition(".")
    return sign * (int(seconds) * NS + int(fraction.ljust(9, "0")))


@pytest.fixture
def made(certificates) -> MadeCapture:
    return MadeCapture(certificates)


def ask(made: MadeCapture, number: int, *, offset_ns: int = 0, request: bytes = b"", rest: bytes = b"") -> int:
    """An exchange with a server whose clock is so far ahead; the frame of its response."""
    nonce = nonce_of(number)
    made.datagram(tlv(1, nonce) + request)
    t2_ns = made.now_ns + offset_ns
    made.now_ns += 250_000
    return made.datagram(answer(nonce, t2_ns, made.now_ns + offset_ns, rest), from_server=True)


@pytest.mark.parametrize("offset_ns", [0, 1, -1, 1_234_567_891, -1_234_567_891, 86_399 * NS, -40_000 * NS])
def test_offset_and_delay_are_those_of_the_frames_times(made, tmp_path, offset_ns) -> None:
    frame = ask(made, 1, offset_ns=offset_ns)
    look = Look(made, tmp_path)
    ((offset, delay, processing, request),) = [
        rows for number, rows in look.rows("tsq.offset", "tsq.delay", "tsq.processing", "tsq.request_in").items() if number == frame
    ]
    assert ns_of(offset[0]) == offset_ns
    assert ns_of(delay[0]) == 2 * DELAY_NS
    assert ns_of(processing[0]) == 250_000
    assert request == [str(frame - 1)]
    assert look.frames("tsq.unusable") == []


def test_a_path_that_is_slower_in_one_direction_shifts_the_offset_by_half(made, tmp_path) -> None:
    nonce = nonce_of(1)
    made.datagram(tlv(1, nonce))
    # As if the request had taken 501 ns less than the response.
    frame = made.datagram(answer(nonce, made.now_ns - 501, made.now_ns), from_server=True)
    offset, delay = Look(made, tmp_path).rows("tsq.offset", "tsq.delay")[frame]
    # Half a nanosecond is rounded down.
    assert (ns_of(offset[0]), ns_of(delay[0])) == (-251, 2 * DELAY_NS - 501)


@pytest.mark.parametrize("start_ns", [2_085_978_496 * NS - DELAY_NS * 7, (2_085_978_496 + 5) * NS])
def test_nothing_special_happens_at_the_end_of_an_era(certificates, tmp_path, start_ns) -> None:
    made = MadeCapture(certificates, start_ns=start_ns)
    frames = [ask(made, number, offset_ns=1_000_001) for number in range(4)]
    rows = Look(made, tmp_path).rows("tsq.offset", "tsq.t2", only="tsq.offset")
    assert {frame: ns_of(offset[0]) for frame, (offset, _) in rows.items()} == dict.fromkeys(frames, 1_000_001)
    assert all("2036" in t2[0] for _, t2 in rows.values())


def test_what_a_client_does_not_use_is_marked(made, tmp_path) -> None:
    good = ask(made, 1)
    early = ask(made, 2, offset_ns=25 * 3600 * NS)
    nonce = nonce_of(3)
    made.datagram(tlv(1, nonce))
    backwards = made.datagram(answer(nonce, made.now_ns, made.now_ns - 1), from_server=True)
    made.datagram(tlv(1, nonce_of(4)))
    negative = made.datagram(answer(nonce_of(4), made.now_ns, made.now_ns + 2 * DELAY_NS + 1001), from_server=True)
    made.datagram(tlv(1, nonce_of(5)))
    made.datagram(answer(nonce_of(5), made.now_ns, made.now_ns + 2 * DELAY_NS + 1000), from_server=True)
    look = Look(made, tmp_path)
    assert look.frames("tsq.unusable") == [early, backwards, negative]
    assert good in look.frames("tsq.offset")
    text = look.run("-O", "tsq", "-Y", "tsq.unusable")
    for why in ("an offset over 24 h", "T3 is before T2", "negative delay"):
        assert why in text


def test_an_exact_t3_gives_the_earlier_sample_another_offset(made, tmp_path) -> None:
    first = ask(made, 1, request=metadata(("tsq.t3", "")))
    claimed_ns = made.now_ns - DELAY_NS  # the response was sent that long before it came
    report = nonce_of(1)[:8].hex() + f"{ntp(claimed_ns + 2200):016x}"
    second = ask(made, 2, request=metadata(("tsq.t3", "")), rest=metadata(("tsq.t3", report)))
    for passes in (1, 2):
        look = Look(made, tmp_path, passes=passes)
        rows = look.rows(
            "tsq.exact.response_in", "tsq.exact.late", "tsq.exact.offset", "tsq.exact.delay", "tsq.metadata.value",
            only="tsq.exact.t3",
        )  # fmt: skip
        assert list(rows) == [second]
        response, late, offset, delay, value = rows[second]
        assert (response, value) == ([str(first)], [report])
        assert (ns_of(late[0]), ns_of(offset[0]), ns_of(delay[0])) == (2200, 1100, 2 * DELAY_NS - 2200)
    assert look.frames("tsq.report") == []


@pytest.mark.parametrize(
    ("report", "why"),
    [
        (lambda at_ns: nonce_of(1)[:8].hex() + f"{ntp(at_ns - 1000):016x}", "earlier than the claimed T3"),
        (lambda at_ns: nonce_of(9)[:8].hex() + f"{ntp(at_ns):016x}", "no earlier response whose nonce begins so"),
        (lambda at_ns: nonce_of(2)[:8].hex() + f"{ntp(at_ns):016x}", "no earlier response whose nonce begins so"),
        (lambda at_ns: nonce_of(1)[:8].hex() + f"{ntp(at_ns):016X}", "32 hexadecimal digits"),
        (lambda at_ns: "0" * 31, "32 hexadecimal digits"),
    ],
    ids=["early", "unknown", "itself", "upper case", "short"],
)
def test_an_exact_t3_that_is_not_used_is_marked(made, tmp_path, report, why) -> None:
    ask(made, 1)
    second = ask(made, 2, rest=metadata(("tsq.t3", report(made.now_ns - DELAY_NS))))
    look = Look(made, tmp_path)
    assert look.frames("tsq.report") == [second]
    assert look.frames("tsq.exact.offset") == []
    assert why in look.run("-O", "tsq", "-Y", "tsq.report")


def test_pairs_that_do_not_fit_are_marked(made, tmp_path) -> None:
    alone = made.datagram(ANSWER, from_server=True)
    first = ask(made, 1)
    again = made.datagram(answer(nonce_of(1), START_NS, START_NS), from_server=True)
    repeated = made.datagram(tlv(1, nonce_of(1)))
    error = made.datagram(tlv(249, b"\x01\0no"), from_server=True)
    short = ask(made, 2, request=PRECISION, rest=PRECISION)
    unsigned = ask(made, 3, request=SIGN)
    good = ask(made, 4, request=PRECISION + tlv(254, bytes(18)), rest=PRECISION)
    made.datagram(tlv(1, nonce_of(5)) + SIGN)
    key = made.datagram(signed("ed25519-a", answer(nonce_of(5), made.now_ns, made.now_ns)), from_server=True)
    look = Look(made, tmp_path)
    assert look.frames("tsq.no_request") == [alone]
    assert look.frames("tsq.repeated") == [again, repeated]
    assert look.frames("tsq.misplaced") == look.frames("tsq.error") == [error]
    assert look.frames("tsq.sizes") == [short]
    assert look.frames("tsq.unsigned") == [unsigned]
    warned = look.frames("tsq && _ws.expert.severity >= Warning")
    assert not {first, good, key} & set(warned)


def test_the_second_pass_shows_the_response_of_a_request_too(made, tmp_path) -> None:
    frame = ask(made, 1)
    assert Look(made, tmp_path).rows("tsq.response_in")[frame - 1] == [[]]
    twice = Look(made, tmp_path, passes=2)
    assert twice.rows("tsq.response_in")[frame - 1] == [[str(frame)]]
    assert twice.rows("tsq.offset")[frame] == Look(made, tmp_path).rows("tsq.offset")[frame]


def test_the_list_of_packets_names_messages_and_offsets(made, tmp_path) -> None:
    ask(made, 1, offset_ns=-1_500_000_000)
    *_, request, response = Look(made, tmp_path).run().splitlines()
    assert " TSQ " in request
    assert request.endswith(", TSQ request")
    assert response.endswith(", TSQ response, offset -1.500000000 s, delay 0.002000000 s")


# -------------------------------------------------------------------------------------------------------------- streams


def test_a_stream_s_request_and_response_are_paired(made, tmp_path) -> None:
    nonce = nonce_of(1)
    made.stream(0, tlv(1, nonce), fin=True)
    frame = made.stream(0, answer(nonce, made.now_ns, made.now_ns), fin=True, from_server=True)
    mode, offset = Look(made, tmp_path).rows("tsq.mode", "tsq.offset")[frame]
    assert (mode, ns_of(offset[0])) == (["2"], 0)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1)])
@pytest.mark.parametrize("passes", [1, 2])
def test_a_message_in_several_packets_is_put_together_also_out_of_order(made, tmp_path, order, passes) -> None:
    message = ANSWER + LAB + metadata(("site", "us-east"))
    made.stream(0, NONCE, fin=True)
    frames = [made.stream(0, message[at : at + 25], fin=at == 50, from_server=True) for at in (0, 25, 50)]
    assert len(message) <= 75
    parts = [made.packets[frame - 1] for frame in frames]
    for frame, at in zip(frames, order, strict=True):
        # At the times of the frames that they replace.
        made.packets[frame - 1] = (made.packets[frame - 1][0], parts[at][1])
    look = Look(made, tmp_path, passes=passes)
    rows = look.rows("tsq.size", "tsq.source.description", "tsq.metadata.value", "tsq.request_in")
    assert rows[frames[-1]] == [[str(len(message))], ["ntp"], ["us-east"], [str(frames[0] - 1)]]
    assert [rows[frame] for frame in frames[:2]] == [[[], [], [], []]] * 2
    assert look.frames("tsq.malformed") == []


def test_the_end_of_a_stream_may_come_alone(made, tmp_path) -> None:
    first = made.stream(0, NONCE, fin=False)
    made.stream(0, b"", fin=True)
    response = made.stream(0, ANSWER, fin=False, from_server=True)
    end = made.stream(0, b"", fin=True, from_server=True)
    rows = Look(made, tmp_path).rows("tsq.size", "tsq.request_in")
    assert rows == {first: [["18"], []], response: [[], []], end: [["38"], [str(first)]]}


def test_bytes_after_a_whole_request_are_marked(made, tmp_path) -> None:
    made.stream(0, NONCE, fin=False)
    more = made.stream(0, NONCE, fin=True)
    cut = made.stream(4, NONCE[:5], fin=True)
    look = Look(made, tmp_path)
    assert look.frames("tsq.after") == [more]
    assert look.frames("tsq.malformed") == [cut]


def test_an_error_belongs_to_the_request_of_its_stream(made, tmp_path) -> None:
    frames = [made.stream(stream, NONCE[:2] + nonce_of(stream), fin=True) for stream in (0, 4)]
    error = made.stream(0, tlv(249, b"\x03\0no signing key"), fin=True, from_server=True)
    look = Look(made, tmp_path)
    assert look.rows("tsq.error.code", "tsq.error.reason", "tsq.request_in", only="tsq.error") == {
        error: [["3"], ["no signing key"], [str(frames[0])]]
    }
    assert look.frames("tsq.misplaced") == []


def test_streams_of_the_server_are_no_messages(made, tmp_path) -> None:
    made.stream(1, NONCE, fin=True, from_server=True)
    assert Look(made, tmp_path).frames("tsq") == []


# ---------------------------------------------------------------------------------------------------------- connections


def test_another_protocol_is_left_alone(certificates, tmp_path) -> None:
    made = MadeCapture(certificates, alpn="h3", offered=("tsq/1", "h3"))
    made.datagram(NONCE)
    made.datagram(ANSWER, from_server=True)
    assert Look(made, tmp_path).frames("tsq") == []


def test_the_alpn_of_the_draft_is_known_too(certificates, tmp_path) -> None:
    made = MadeCapture(certificates, alpn="tsq", offered=("tsq",))
    assert Look(ask(made, 1) and made, tmp_path).frames("tsq.offset") == [made.frame]


def test_a_request_in_the_first_flight_is_shown(certificates, tmp_path) -> None:
    earlier = MadeCapture(certificates)
    made = MadeCapture(certificates, resume=earlier, early=NONCE)
    frame = made.datagram(answer(NONCE_BYTES, made.now_ns, made.now_ns), from_server=True)
    look = Look(made, tmp_path)
    (first,) = look.frames("tsq.response == 0")
    assert look.rows("tsq.request_in", only="tsq.response == 1") == {frame: [[str(first)]]}
    assert first <= 2


def test_two_connections_are_not_mixed_up(certificates, tmp_path) -> None:
    made, other = MadeCapture(certificates), MadeCapture(certificates, start_ns=START_NS + 3600 * NS)
    made.datagram(NONCE)
    other.datagram(ANSWER, from_server=True)
    made.join(other)
    assert Look(made, tmp_path).frames("tsq.no_request") == [made.frame]


# ------------------------------------------------------------------------------------------------------- any message


def send_all(made: MadeCapture, messages: list[tuple[bytes, bool]]) -> dict[int, int]:
    """Send each message as a datagram, from the server where True; the frame of each by its place in the list."""
    found = {}
    for at, (message, from_server) in enumerate(messages):
        found[at] = made.datagram(message, from_server=from_server)
        made.exchange()
    return found


@pytest.fixture(scope="module")
def vectors(certificates, tmp_path_factory) -> tuple[Look, list[tuple[dict[str, Any], int]]]:
    """All vectors of single messages in one capture, each with its frame."""
    made = MadeCapture(certificates)
    chosen = [(vector, vector.get("message", side) == "response") for name, side in (
        ("requests.json", "request"), ("responses.json", "response"), ("errors.json", "response"), ("malformed.json", "")
    ) for vector in load(name)["vectors"]]  # fmt: skip
    frames = send_all(made, [(bytes.fromhex(vector["hex"]), is_response) for vector, is_response in chosen])
    look = Look(made, tmp_path_factory.mktemp("vectors"))
    return look, [(vector, frames[at]) for at, (vector, _) in enumerate(chosen)]


def test_vectors_that_are_malformed_are_marked_and_no_others(vectors) -> None:
    look, chosen = vectors
    assert look.frames("tsq") == [frame for _, frame in chosen]
    assert look.frames("tsq.malformed") == [frame for vector, frame in chosen if "rule" in vector]
    assert set(look.frames("tsq.unordered")) >= {
        frame for vector, frame in chosen if vector.get("as_sent") is False and "UTF-8" not in vector["name"]
        and "two metadata" not in vector["name"]
    }  # fmt: skip
    assert not set(look.frames("tsq.unordered")) & {frame for vector, frame in chosen if vector.get("as_sent")}
    assert look.frames("tsq.not_utf8") == [frame for vector, frame in chosen if "not UTF-8" in vector["name"]]
    skipped = [frame for vector, frame in chosen if vector.get("fields", {}).get("unknown")]
    assert look.frames("tsq.unknown && !tsq.malformed") == skipped


def test_fields_have_the_values_of_the_vectors(vectors) -> None:
    look, chosen = vectors
    names = {
        "nonce": "tsq.nonce", "ntp": "tsq.ntp", "clock_class": "tsq.quality.class", "error_us": "tsq.quality.error",
        "drift_ppb": "tsq.quality.drift", "tag": "tsq.quality.tag", "stratum": "tsq.source.stratum",
        "source_type": "tsq.source.type", "description": "tsq.source.description",
        "algorithm": "tsq.signature.algorithm", "key_id": "tsq.signature.key_id",
        "signature": "tsq.signature", "code": "tsq.error.code", "reason": "tsq.error.reason", "key": "tsq.metadata.key",
        "value": "tsq.metadata.value",
    }  # fmt: skip
    rows = look.rows(*names.values())
    for vector, frame in chosen:
        if "fields" not in vector or "UTF-8" in vector["name"]:
            continue
        fields = vector["fields"]
        shown = {name: cells for name, cells in zip(names, rows[frame], strict=True) if cells}
        expected: dict[str, list[str]] = {name: [str(fields[name])] for name in ("nonce", "code", "reason") if fields.get(name)}
        if "t2" in fields:
            stamps = [f"0x{fields[name]}" for name in ("t2", "t3")]
            expected["ntp"] = stamps[::-1] if "after others" in vector["name"] else stamps
        for part in ("clock_quality", "time_source", "signature"):
            for name, value in (fields.get(part) or {}).items():
                if name != "covered" and value != "":
                    expected[name] = [str(value)]
        if fields.get("metadata"):
            for at, name in enumerate(("key", "value")):
                texts = [pair[at] for pair in fields["metadata"]]
                expected[name] = texts if any(texts) or len(texts) > 1 else []
        assert shown == {name: values for name, values in expected.items() if values}, vector["name"]


def test_random_messages_are_malformed_by_the_same_rules(made, tmp_path) -> None:
    rng = random.Random(14)
    messages = [(mutated(rng), rng.random() < 0.5) for _ in range(500)]
    messages = [(data, from_server) for data, from_server in messages if len(data) < 1100]
    frames = send_all(made, messages)
    rules = {True: oracle.response_good, False: oracle.request_good}
    good = [frames[at] for at, (data, from_server) in enumerate(messages) if rules[from_server](data)]
    look = Look(made, tmp_path)
    assert look.frames("tsq") == list(frames.values())
    assert look.frames("tsq && !tsq.malformed") == good
    assert 50 < len(good) < len(messages) - 50


def test_the_page_names_fields_that_the_dissector_has(made, tmp_path) -> None:
    made.datagram(NONCE)
    page = (SCRIPT.parents[2] / "docs" / "howto" / "decrypt-with-wireshark.md").read_text()
    names = set(re.findall(r"\btsq\.[a-z][a-z0-9_.]*[a-z0-9]", page)) - {"tsq.lua", "tsq.pcapng"}
    assert len(names) > 15
    # tshark refuses a filter with an unknown field.
    assert Look(made, tmp_path).frames(" || ".join(sorted(names))) == [made.frame]
