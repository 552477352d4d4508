"""Results as text and JSON: units, columns, the verdict, reasons, and text from the network that cannot write to the terminal."""

import json
import re

import pytest

from tsq import report
from tsq.config import Target
from tsq.errors import NoAnswer
from tsq.result import HostResult
from tsq.timing.sample import Reason, Sample, StampSource, make_sample

T = 1_800_000_000_000_000_000


def sample(offset_ns: int = 0, delay_ns: int = 2_000_000, **more) -> Sample:
    """One exchange that took delay_ns on the way, half of it each way."""
    half = delay_ns // 2
    stamps = {"t1_source": StampSource.KERNEL, "t4_source": StampSource.KERNEL, **more}
    return make_sample(T, T + half + offset_ns, T + half + offset_ns + 1000, T + delay_ns + 1000, **stamps)


def host(*samples: Sample, name: str = "time.example", **more) -> HostResult:
    return HostResult(Target(name), address="192.0.2.1", mode="datagram", alpn="tsq/1", samples=samples, **more)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.000 µs"),
        (1.2e-8, "0.012 µs"),
        (1e-6, "1.000 µs"),
        (12.345e-6, "12.345 µs"),
        (-12.345e-6, "-12.345 µs"),
        (1e-3, "1.000 ms"),
        (0.25, "250.000 ms"),
        (1.0, "1.000 s"),
        (-86400.0, "-86400.000 s"),
    ],
)
def test_spans_have_the_unit_that_suits_them(seconds, text):
    assert report.duration(seconds) == text


def test_signed_spans_always_show_their_sign():
    assert report.duration(0.25, signed=True) == "+250.000 ms"
    assert report.duration(-0.25, signed=True) == "-250.000 ms"
    assert report.duration(0.0, signed=True) == "+0.000 µs"


@pytest.mark.parametrize(("seconds", "text"), [(0.9999999, "1.000 s"), (0.0009999999, "1.000 ms"), (-0.9999999, "-1.000 s")])
def test_spans_that_round_up_to_the_next_unit_are_written_in_it(seconds, text):
    assert report.duration(seconds) == text


def test_a_table_shows_each_host_that_has_an_estimate_with_its_bound():
    header, first, second = report.table([
        host(sample(250_000_000), sample(250_000_000)),
        HostResult(Target("dead.example"), error=NoAnswer("nothing")),
        host(sample(-5_000), name="192.0.2.1", zero_rtt=True),
    ]).splitlines()
    assert re.split(r"  +", header) == ["host", "offset", "± root distance", "delay", "jitter", "stamps", "samples", "mode"]
    cells = re.split(r"  +", first)
    assert cells[:2] == ["time.example:443 (192.0.2.1)", "+250.000 ms"]
    assert re.fullmatch(r"± 1\.\d{3} ms", cells[2])
    assert cells[3:] == ["2.000 ms", "0.001 µs", "kernel", "2/2", "datagram tsq/1"]
    cells = re.split(r"  +", second)
    # An address that is what the user wrote is not said twice; one sample has no jitter.
    assert cells[:2] == ["192.0.2.1:443", "-5.000 µs"]
    assert cells[4:] == ["-", "kernel", "1/1", "datagram tsq/1 0-RTT"]


def test_columns_of_a_table_are_aligned():
    lines = report.table([host(sample(1)), host(sample(-90_000_000_000), name="a-much-longer-name.example")]).splitlines()
    mode = {line.index("mode" if line is lines[0] else "datagram") for line in lines}
    assert len(mode) == 1


def test_the_stamps_column_tells_when_one_of_them_is_not_the_kernels():
    row = report.table([host(sample(t4_source=StampSource.USER))]).splitlines()[1]
    assert " kernel/user " in row


def test_no_estimate_gives_no_table_and_no_verdict():
    dead = [HostResult(Target("dead.example"), error=NoAnswer("nothing"))]
    assert report.table(dead) == report.verdict(dead) == ""
    assert report.table([]) == report.verdict([]) == ""


def test_the_verdict_is_of_the_host_with_the_least_root_distance():
    far, near = host(sample(250_000_000, 80_000_000)), host(sample(100_000_000, 2_000_000))
    for results in ([far, near], [near, far]):
        assert re.fullmatch(r"System clock wrong by \+0\.100000 ± 0\.00100\d seconds \(ignored\)", report.verdict(results))


def test_the_verdict_is_never_of_a_rejected_sample():
    rejected = make_sample(T, T + 1000, T, T + 10)
    assert report.verdict([host(rejected, sample(100_000_000))]).startswith("System clock wrong by +0.100000 ±")


def test_sample_lines_show_four_timestamps_their_sources_and_the_bound():
    (line,) = report.sample_lines(host(sample(7_000, t1_source=StampSource.USER)))
    stamps = f"T1 {T} (user)  T2 {T + 1_007_000}  T3 {T + 1_008_000}  T4 {T + 2_001_000} (kernel)"
    assert line.startswith(f"  sample 1: {stamps}  offset +7.000 µs ± 1.000 ms")
    assert "NOT USED" not in line


def test_sample_lines_of_a_request_without_answer_show_what_there_is():
    (line,) = report.sample_lines(host(Sample(T, reason=Reason.NO_ANSWER, detail="waited 3 s")))
    assert line == f"  sample 1: T1 {T} (user)  T2 -  T3 -  T4 -  NOT USED: no answer in time (waited 3 s)"


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_told_for_the_sample_that_has_it(reason):
    result = host(sample(), Sample(T, reason=reason, detail="so it is"), sample())
    assert report.rejections(result) == [f"sample 2 of time.example:443 not used: {reason.value} (so it is)"]


def test_reasons_are_worded_differently():
    assert len({reason.value for reason in Reason}) == len(Reason)


HOSTILE = "\x1b]0;owned\x07\r\n\x00\x7f\x9b31m\u202e\u2028\ud800"


def test_escaped_text_holds_nothing_that_a_terminal_acts_on():
    shown = report.escaped(f"before{HOSTILE}after")
    assert shown.startswith("before\\x1b]0;owned\\x07\\r\\n\\x00\\x7f\\x9b31m\\u202e\\u2028\\ud800")
    assert shown.endswith("after")
    assert shown.isprintable()
    assert shown.encode()


def test_text_that_people_write_is_not_escaped():
    assert report.escaped("Zeit für ±1 µs, 時間") == "Zeit für ±1 µs, 時間"


def test_details_from_the_network_are_escaped_wherever_they_are_shown():
    result = host(Sample(T, reason=Reason.ERROR_REPLY, detail=f"code 1: {HOSTILE}"))
    for line in [*report.sample_lines(result), *report.rejections(result)]:
        assert line.isprintable()
        assert "owned" in line


def test_json_has_every_field_of_a_host_and_of_a_sample():
    result = host(sample(250_000_000), sample(250_000_000), notices=("a notice",), zero_rtt=True)
    content = json.loads(json.dumps(report.as_json([result], "1.2.3")))
    assert content["version"] == "1.2.3"
    (shown,) = content["hosts"]
    samples = shown.pop("samples")
    assert shown.pop("root_distance") == pytest.approx(0.001, rel=0.1)
    assert shown.pop("jitter") == pytest.approx(0, abs=1e-6)
    assert shown == {
        "host": "time.example", "address": "192.0.2.1", "port": 443, "mode": "datagram", "alpn": "tsq/1", "zero_rtt": True,
        "offset": 0.25, "delay": 0.002, "notices": ["a notice"], "error": None, "error_kind": None,
    }
    assert len(samples) == 2
    assert samples[0].pop("root_distance") == pytest.approx(0.001, rel=0.1)
    assert 0 < samples[0].pop("dispersion") < 1e-6
    assert samples[0] == {
        "t1_ns": T, "t2_ns": T + 251_000_000, "t3_ns": T + 251_001_000, "t4_ns": T + 2_001_000, "t1_source": "kernel",
        "t4_source": "kernel", "offset": 0.25, "delay": 0.002, "exact": False, "valid": True, "reason": None,
        "detail": None,
    }


def test_json_of_a_failure_has_the_same_fields_with_nulls():
    good = report.as_json([host(sample())], "1")["hosts"][0]
    bad = report.as_json([HostResult(Target("dead.example"), error=NoAnswer("nothing", advice="wait"))], "1")["hosts"][0]
    assert set(bad) == set(good)
    assert (bad["error"], bad["error_kind"]) == ("nothing: wait", "NoAnswer")
    assert {bad[name] for name in ("address", "mode", "alpn", "offset", "root_distance", "delay", "jitter")} == {None}


def test_json_of_a_rejected_sample_tells_reason_and_timestamps():
    rejected = make_sample(T, T + 1000, T, T + 10)
    shown = report.as_json([host(rejected)], "1")["hosts"][0]
    assert (shown["offset"], shown["samples"][0]["valid"], shown["samples"][0]["reason"]) == (None, False, "T3 is before T2")
    assert shown["samples"][0]["t2_ns"] == T + 1000


def test_json_of_a_rejected_sample_tells_the_detail_that_text_tells():
    result = host(Sample(T, reason=Reason.MALFORMED, detail="one byte after the last TLV at byte 38"))
    assert "one byte after the last TLV" in json.dumps(report.as_json([result], "1"))


def test_the_legend_explains_sign_and_bound():
    assert "positive when this machine's clock is behind" in report.LEGEND
    assert "±" in report.LEGEND
