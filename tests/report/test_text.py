"""Results as text and JSON: units, columns, the verdict, reasons, and text from the network that cannot write to the terminal."""

import json
import re
import unicodedata
from dataclasses import replace
from fractions import Fraction

import pytest

from tests.support.shown import wrong_by
from tsq.client.result import HostResult, selection
from tsq.errors import NoAnswer
from tsq.options import Target
from tsq.report import spans, text
from tsq.report.document import document
from tsq.report.plain import in_ascii
from tsq.timing.local_clock import ClockReading
from tsq.timing.sample import Reason, Sample, StampSource, make_sample
from tsq.timing.selection import Mark, NoTime, Unused
from tsq.timing.server_state import ServerState

T = 1_800_000_000_000_000_000


def sample(offset_ns: int = 0, delay_ns: int = 2_000_000, **more) -> Sample:
    """One exchange that took delay_ns on the way, half of it each way."""
    half = delay_ns // 2
    stamps = {"t1_source": StampSource.KERNEL, "t4_source": StampSource.KERNEL, **more}
    return make_sample(T, T + half + offset_ns, T + half + offset_ns + 1000, T + delay_ns + 1000, **stamps)


def host(*samples: Sample, name: str = "time.example", **more) -> HostResult:
    return HostResult(Target(name), address="192.0.2.1", mode="datagram", alpn="tsq/1", samples=samples, **more)


def table(results) -> str:
    return text.table(results, selection(results), full=True)


def short(results, columns: int = 80) -> list[str]:
    return text.table(results, selection(results), columns).splitlines()


def columns_of(line: str) -> int:
    """The columns of a terminal that a line takes, for names without combining signs."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line)


def verdict(results) -> str:
    return text.verdict(selection(results))


def as_json(results, version: str = "1", now: ClockReading | None = None) -> dict:
    return document(results, selection(results, now=now), version, now)


def read(seconds: float = 0.0, moved_ns: int = 0, **more) -> ClockReading:
    """A synchronized clock so long after T, moved by this since."""
    return ClockReading(T + round(seconds * 1e9), moved_ns, **{"width_ns": 100, "frequency": 0.0, "synchronized": True, **more})


def drifting(ppm: float, name: str = "time.example", count: int = 10, offset_ns: int = 0) -> HostResult:
    """A host that was asked once a second by a clock that runs fast by this."""
    taken = []
    for number in range(count):
        begin, there = T + number * 10**9, 100_000 - round(number * ppm * 1000) + offset_ns
        stamps = begin, begin + there, begin + there, begin + 200_000
        taken.append(make_sample(*stamps, server=told(1e-5), sent=read(number), received=read(number)))
    return replace(host(*taken, name=name), address=name)


def told(error: float | None = 0.001, **more) -> ServerState:
    return ServerState(T, **{"stratum": 2, "error": error, **more})


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
    assert spans.duration(seconds) == text


def test_signed_spans_always_show_their_sign():
    assert spans.duration(0.25, signed=True) == "+250.000 ms"
    assert spans.duration(-0.25, signed=True) == "-250.000 ms"
    assert spans.duration(0.0, signed=True) == "+0.000 µs"


@pytest.mark.parametrize(("seconds", "text"), [(0.9999999, "1.000 s"), (0.0009999999, "1.000 ms"), (-0.9999999, "-1.000 s")])
def test_spans_that_round_up_to_the_next_unit_are_written_in_it(seconds, text):
    assert spans.duration(seconds) == text


def test_offsets_are_told_to_the_microsecond_at_least():
    assert spans.duration(182.0001234, signed=True) == "+182.000123 s"
    assert spans.duration(-0.2500004, signed=True) == "-250.000 ms"


def test_a_table_shows_each_host_with_its_bound_and_dashes_for_what_is_not_known():
    header, first, failed, second = table([
        host(sample(250_000_000), sample(250_000_000)),
        HostResult(Target("dead.example"), error=NoAnswer("nothing")),
        host(sample(-5_000, server=told(0.0025)), name="192.0.2.1", zero_rtt=True),
    ]).splitlines()
    assert tuple(re.split(r"  +", header)) == text._HEADER
    cells = re.split(r"  +", first)
    assert cells[1:4] == ["time.example:443 (192.0.2.1)", "-", "+250.000 ms"]
    assert re.fullmatch(r"± 1\.\d{3} ms", cells[4])
    assert cells[5:] == ["unknown", "2.000 ms", "0.001 µs", "kernel", "2/2", "datagram tsq/1"]
    assert failed.split() == ["?", "dead.example:443", *"-" * 9]
    cells = re.split(r"  +", second)
    # An address that is what the user wrote is not said twice; one sample has no jitter.
    assert cells[1:4] == ["192.0.2.1:443", "2", "-5.000 µs"]
    # 2.5 ms, and what 15 ppm make of 2 ms.
    assert cells[5] == "± 2.501 ms"
    assert cells[7:] == ["-", "kernel", "1/1", "datagram tsq/1 0-RTT"]


def test_the_short_table_has_one_bound_and_fits_80_columns():
    header, first, failed = short([
        host(sample(250_000_000), sample(250_000_000)),
        HostResult(Target("dead.example"), error=NoAnswer("nothing")),
    ])
    assert header.split() == ["M", "host", "stratum", "offset", "±", "delay", "samples"]
    assert first.split() == ["?" if first[0] == "?" else "*", "time.example:443", "-", "+250.000", "ms", *first.split()[5:7],
                             "2.000", "ms", "2/2"]
    # Half of 2 ms, and the 10 ms that are assumed for the server.
    assert re.search(r" 11\.00\d ms ", first)
    assert failed.split() == ["?", "dead.example:443", *"-" * 5]
    assert max(len(header), len(first)) <= 80


def test_a_long_name_is_shortened_until_the_line_fits_and_keeps_its_port():
    name = "a-very-long-name-of-a-time-server.in-a-deep.zone.of-a-large.organization.example"
    results = [host(sample(-90_000_000_000, 300_000_000), name=name, zero_rtt=True), host(sample(1), name="b")]
    for columns in (76, 80, 100):
        lines = short(results, columns)
        assert max(map(len, lines)) == columns
        assert lines[1].split()[1].startswith("a-ver")
        assert lines[1].split()[1].endswith(":443")
        assert ".." in lines[1]
    assert name in table(results)


def test_names_with_wide_signs_keep_the_columns_in_line_and_fit_the_terminal():
    names = ["time.example", "時計.例え.テスト", "時計" * 30 + ".テスト", "cafe\N{COMBINING ACUTE ACCENT}.example"]
    lines = short([host(sample(), name=name) for name in names])
    assert max(map(columns_of, lines)) <= 80
    assert [line.rstrip().endswith("1/1") for line in lines[1:]] == [True] * len(names)
    widths = [columns_of(line.replace("\N{COMBINING ACUTE ACCENT}", "")) for line in lines[1:]]
    assert len(set(widths)) == 1
    assert lines[3].split()[1].startswith("時計")
    assert lines[3].split()[1].endswith("スト:443")


def test_a_name_with_combining_signs_is_padded_like_its_letters():
    plain, marked = short([host(sample(), name="cafe.example"), host(sample(), name="cafe\N{COMBINING ACUTE ACCENT}.example")])[1:]
    assert marked.replace("\N{COMBINING ACUTE ACCENT}", "")[1:] == plain[1:]


def test_all_columns_stand_where_they_fit():
    results = [host(sample(1))]
    width = max(map(len, table(results).splitlines()))
    assert text.is_full("\n".join(short(results, width)))
    assert not text.is_full("\n".join(short(results, width - 1)))


def test_a_plain_table_is_ascii_and_aligned():
    results = [host(sample(1)), host(sample(2), name="b")]
    for full in (False, True):
        shown = text.table(results, selection(results), full=full, plain=True)
        assert shown.isascii()
        assert "+/-" in shown
        assert " us" in shown
        assert shown == in_ascii(shown)
    assert len(set(map(len, text.table(results, selection(results), plain=True).splitlines()))) == 1


@pytest.mark.parametrize(
    ("offset", "low", "high", "text"),
    [
        (0.0, -3e-6, 3e-6, "+0.000 ± 3.000 µs"),
        (2.4e-9, -3.0001e-6, 3e-6, "+0.002 ± 3.003 µs"),
        (-1e-10, -3e-6, 3e-6, "+0.000 ± 3.000 µs"),
        (12e-6, -0.0101, 0.0101, "+0.012 ± 10.112 ms"),
        (0.1, 0.096, 0.104001, "+100.000 ± 4.001 ms"),
        (-182.4, -182.400003, -182.399999, "-182.400000 ± 0.000003 s"),
        (0.0009999999, 0.0009999, 0.001, "+1.000 ± 0.001 ms"),
    ],
)
def test_an_offset_and_its_bound_have_one_unit(offset, low, high, text):
    assert spans.within(offset, low, high) == text


def test_columns_of_a_table_are_aligned():
    lines = table([host(sample(1)), host(sample(-90_000_000_000), name="a-much-longer-name.example")]).splitlines()
    mode = {line.index("mode" if line is lines[0] else "datagram") for line in lines}
    assert len(mode) == 1


def test_the_stamps_column_tells_when_one_of_them_is_not_the_kernels():
    row = table([host(sample(t4_source=StampSource.USER))]).splitlines()[1]
    assert " kernel/user " in row


def test_a_host_that_answered_badly_shows_its_samples_and_how_it_was_asked():
    bad = host(Sample(T, reason=Reason.NO_ANSWER), name="bad.example", error=NoAnswer("connected, but"))
    row = table([host(sample()), bad]).splitlines()[2]
    assert row.split() == ["?", "bad.example:443", "(192.0.2.1)", *"-" * 7, "0/1", "datagram", "tsq/1"]


def failing(words: str) -> HostResult:
    return HostResult(Target("dead.example"), error=NoAnswer(words, advice="do this"))


def test_hosts_that_gave_no_time_are_named_with_the_first_words_of_their_errors():
    chosen = selection([host(sample()), failing("nothing came")])
    assert text.unused(chosen, failed=True) == ["? dead.example:443: gave no time: nothing came"]
    # Without being asked for, only those that gave one.
    assert text.unused(chosen) == []


def test_reasons_are_short_and_escaped():
    (line,) = text.unused(selection([failing(HOSTILE + "x" * 1000)]), failed=True)
    assert line.isprintable()
    assert line.endswith("…")
    assert len(line) < 120


def test_no_estimate_gives_no_table_and_no_verdict():
    dead = [HostResult(Target("dead.example"), error=NoAnswer("nothing"))]
    assert table(dead) == verdict(dead) == ""
    assert table([]) == verdict([]) == ""


def test_the_verdict_is_the_agreed_offset_and_its_bound():
    (result,) = [host(sample(100_000_000, 2_000_000, server=told(0.003)))]
    # 1 ms, 3 ms, and some nanoseconds: rounded up.
    assert verdict([result]) == "System clock wrong by +100.000 ± 4.001 ms (ignored)"


def test_the_verdict_is_never_of_a_rejected_sample():
    rejected = make_sample(T, T + 1000, T, T + 10)
    assert verdict([host(rejected, sample(100_000_000))]).startswith("System clock wrong by +100.000 ±")


@pytest.mark.parametrize("offset_ns", [0, 499, 500, 501, -499, -501, 1_234_567, 999_999_999])
def test_the_bound_holds_for_the_offset_as_it_is_printed(offset_ns):
    result = host(sample(offset_ns, 3_000), assumed_error=0.0)
    offset, bound = wrong_by(verdict([result]))
    found = result.estimate
    assert offset - bound <= found.offset - found.root_distance + 2e-12
    assert offset + bound >= found.offset + found.root_distance - 2e-12
    assert bound < found.root_distance + 2e-6


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.000 µs"),
        (1e-9, "0.001 µs"),
        (1.1e-9, "0.002 µs"),
        (0.0010001, "1.001 ms"),
        (0.001, "1.000 ms"),
        (1.5, "1.500 s"),
    ],
)
def test_bounds_are_never_rounded_down(seconds, text):
    assert spans.bound(seconds) == text


def three_and_a_liar() -> list[HostResult]:
    found = [
        host(sample(offset_ns, delay_ms * 1_000_000, server=told()), name=name)
        for name, offset_ns, delay_ms in (("a", 0, 1), ("b", 0, 2), ("c", 0, 3), ("liar.example", 10**9, 2))
    ]
    # One server is at one address.
    return [replace(each, address=f"192.0.2.{number}") for number, each in enumerate(found, 1)]


def test_a_liar_is_marked_named_and_left_out():
    results = three_and_a_liar()
    chosen = selection(results)
    lines = text.table(results, chosen).splitlines()
    assert [line[0] for line in lines[1:]] == ["*", "+", "+", "x"]
    assert text.unused(chosen) == ["x liar.example:443: its interval does not overlap what the majority agrees on"]
    assert text.redundancy(chosen, 0.01) == "3 of 4 sources agree; ± holds with up to 1 liar among them"
    assert text.verdict(chosen).startswith("System clock wrong by +0.000 ± ")
    shown = as_json(results)
    assert [each["mark"] for each in shown["hosts"]] == ["*", "+", "+", "x"]
    assert shown["hosts"][3]["unused"] == Unused.FALSETICKER.name
    assert (shown["selection"]["compared"], shown["selection"]["survivors"], shown["selection"]["tolerated"]) == (4, 3, 1)
    assert shown["selection"]["low"] <= 0 <= shown["selection"]["high"]
    assert shown["selection"]["server_errors_known"] is True


def test_two_that_disagree_give_no_time_and_say_so():
    first, _, _, liar = three_and_a_liar()
    chosen = selection([first, liar])
    assert chosen.problem is NoTime.TWO_DISAGREE
    assert text.verdict(chosen) == "No time: the two sources contradict each other"
    assert text.redundancy(chosen, 0.01) == ""
    assert {each.mark for each in chosen.verdicts} == {Mark.FALSETICKER}
    assert text.line(chosen).endswith(f"no time: {chosen.problem}  xa:443 xliar.example:443")
    assert as_json([first, liar])["selection"]["problem"] == "TWO_DISAGREE"


def test_what_is_assumed_or_told_besides_is_said():
    (one, two, *_) = three_and_a_liar()
    assert "no redundancy" in text.redundancy(selection([one]), 0.01)
    assert "it is unknown which" in text.redundancy(selection([one, two]), 0.01)
    unknown = host(sample(), assumed_error=0.25)
    assert text.redundancy(selection([unknown]), 0.25).endswith("server's own error unknown: 250.000 ms assumed")
    leaping = host(sample(server=told(leap=1, smeared=True)))
    assert text.redundancy(selection([leaping]), 0.01).endswith("a leap second is to be inserted; leap seconds are smeared")


def test_the_line_of_a_watch_has_time_offset_bound_and_marks():
    chosen = selection(three_and_a_liar())
    assert re.fullmatch(
        r"2027-01-15 08:00:00  \+0\.000 ± \d\.\d{3} ms  \*a:443 \+b:443 \+c:443 xliar\.example:443", text.line(chosen)
    )


def test_the_newest_sample_is_that_which_came_last_whichever_is_best():
    late = replace(sample(delay_ns=9_000_000), t1_ns=T + 5 * 10**9, t4_ns=T + 5 * 10**9 + 9_000_000)
    results = [host(sample(), late), host(sample(), name="b"), failing("nothing")]
    assert selection(results).at_ns == late.t4_ns
    assert text.line(selection(results)).startswith("2027-01-15 08:00:05  ")


def test_an_unsynchronized_server_is_shown_and_not_used():
    result = host(sample(server=told(stratum=0, leap=3)))
    assert text.unused(selection([result])) == [f"? time.example:443: {Unused.UNSYNCHRONIZED}"]
    assert f"no time: {NoTime.NO_SOURCE} (time.example:443 {Unused.UNSYNCHRONIZED})  ?time" in text.line(selection([result]))
    assert verdict([result]) == "No time: no source can be used"
    assert as_json([result])["hosts"][0]["leap"] == 3


def test_sample_lines_show_four_timestamps_their_sources_and_the_bound():
    (line,) = text.sample_lines(host(sample(7_000, t1_source=StampSource.USER)))
    stamps = f"T1 {T} (user)  T2 {T + 1_007_000}  T3 {T + 1_008_000}  T4 {T + 2_001_000} (kernel)"
    assert line.startswith(f"  sample 1: {stamps}  offset +7.000 µs ± 1.001 ms")
    assert "NOT USED" not in line


def test_sample_lines_of_a_request_without_answer_show_what_there_is():
    (line,) = text.sample_lines(host(Sample(T, reason=Reason.NO_ANSWER, detail="waited 3 s")))
    assert line == f"  sample 1: T1 {T} (user)  T2 -  T3 -  T4 -  NOT USED: no answer in time (waited 3 s)"


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_told_for_the_sample_that_has_it(reason):
    result = host(sample(), Sample(T, reason=reason, detail="so it is"), sample())
    assert text.rejections(result) == [f"sample 2 of time.example:443 not used: {reason.value} (so it is)"]


def test_reasons_are_worded_differently():
    assert len({reason.value for reason in Reason}) == len(Reason)


HOSTILE = "\x1b]0;owned\x07\r\n\x00\x7f\x9b31m\u202e\u2028\ud800"


def test_escaped_text_holds_nothing_that_a_terminal_acts_on():
    shown = spans.escaped(f"before{HOSTILE}after")
    assert shown.startswith("before\\x1b]0;owned\\x07\\r\\n\\x00\\x7f\\x9b31m\\u202e\\u2028\\ud800")
    assert shown.endswith("after")
    assert shown.isprintable()
    assert shown.encode()


def test_text_that_people_write_is_not_escaped():
    assert spans.escaped("Zeit für ±1 µs, 時間") == "Zeit für ±1 µs, 時間"


def test_details_from_the_network_are_escaped_wherever_they_are_shown():
    result = host(Sample(T, reason=Reason.ERROR_REPLY, detail=f"code 1: {HOSTILE}"))
    for line in [*text.sample_lines(result), *text.rejections(result)]:
        assert line.isprintable()
        assert "owned" in line


def test_json_has_every_field_of_a_host_and_of_a_sample():
    result = host(sample(250_000_000), sample(250_000_000), notices=("a notice",), zero_rtt=True)
    content = json.loads(json.dumps(as_json([result], "1.2.3")))
    assert content["version"] == "1.2.3"
    (shown,) = content["hosts"]
    samples = shown.pop("samples")
    assert shown.pop("root_distance") == pytest.approx(0.011, rel=0.1)
    assert shown.pop("jitter") == pytest.approx(0, abs=1e-6)
    assert (shown.pop("low"), shown.pop("high")) == (pytest.approx(0.239, rel=0.01), pytest.approx(0.261, rel=0.01))
    assert shown == {
        "host": "time.example", "address": "192.0.2.1", "port": 443, "mode": "datagram", "alpn": "tsq/1", "zero_rtt": True,
        "offset": 0.25, "delay": 0.002, "notices": ["a notice"], "error": None, "error_kind": None, "mark": "*", "unused": None,
        "unused_because": None, "server_error": 0.01, "server_error_known": False, "stratum": None, "leap": None,
        "smeared": None, "source": None, "at_ns": T + 2_001_000, "drift": None, "drift_error": None, "source_type": None,
        "clock_class": None, "clock_tag": None, "bad_values": None, "metadata": {},
    }
    assert len(samples) == 2
    assert samples[0].pop("root_distance") == pytest.approx(0.001, rel=0.1)
    assert 0 < samples[0].pop("dispersion") < 1e-6
    assert samples[0] == {
        "t1_ns": T, "t2_ns": T + 251_000_000, "t3_ns": T + 251_001_000, "t4_ns": T + 2_001_000, "t1_source": "kernel",
        "t4_source": "kernel", "offset": 0.25, "delay": 0.002, "exact": False, "precise": False, "valid": True, "reason": None,
        "detail": None,
    }


def test_json_of_a_failure_has_the_same_fields_with_nulls():
    good = as_json([host(sample())], "1")["hosts"][0]
    bad = as_json([HostResult(Target("dead.example"), error=NoAnswer("nothing", advice="wait"))], "1")["hosts"][0]
    assert set(bad) == set(good)
    assert (bad["error"], bad["error_kind"]) == ("nothing: wait", "NoAnswer")
    assert {bad[name] for name in ("address", "mode", "alpn", "offset", "root_distance", "delay", "jitter")} == {None}
    assert (bad["mark"], bad["unused"], bad["unused_because"]) == ("?", "NO_ESTIMATE", "gave no time")


def test_json_of_a_rejected_sample_tells_reason_and_timestamps():
    rejected = make_sample(T, T + 1000, T, T + 10)
    shown = as_json([host(rejected)], "1")["hosts"][0]
    assert (shown["offset"], shown["samples"][0]["valid"], shown["samples"][0]["reason"]) == (None, False, "T3 is before T2")
    assert shown["samples"][0]["t2_ns"] == T + 1000


def test_json_of_a_rejected_sample_tells_the_detail_that_text_tells():
    result = host(Sample(T, reason=Reason.MALFORMED, detail="one byte after the last TLV at byte 38"))
    assert "one byte after the last TLV" in json.dumps(as_json([result], "1"))


def test_the_legend_explains_sign_and_bound():
    for legend in (text.LEGEND, text.FULL_LEGEND):
        assert "positive when this clock is behind" in legend
        assert "±" in legend
    assert len(text.LEGEND) <= 80


# -------------------------------------------------------------------------------------------- the time, and this clock


def test_what_is_printed_says_the_time_that_it_holds_for():
    results = three_and_a_liar()
    shown = text.legend(selection(results, now=read(61.25)))
    assert shown == [text.LEGEND, "holds at 2027-01-15 08:01:01.250000 UTC by this machine's clock"]
    assert text.line(selection(results, now=read(61.25))).startswith("2027-01-15 08:01:01  ")
    assert text.legend(selection([failing("nothing")])) == [text.LEGEND]
    shown = as_json(results, now=read(61.25))
    assert {entry["at_ns"] for entry in (*shown["hosts"], shown["selection"])} == {T + 61_250_000_000}


@pytest.mark.parametrize("at_ns", [-62_200_000_000_000_000_000, 10**21])
def test_a_time_that_no_calendar_has_is_written_in_seconds(at_ns):
    assert spans.moment(at_ns) == f"{at_ns // 10**9} s since 1970"


def test_bounds_are_those_of_the_time_at_which_they_are_printed():
    result = host(sample(server=told(1e-6), sent=read(), received=read()))
    then, later = (as_json([result], now=read(seconds)) for seconds in (0.002, 1000.0))
    for place in ("hosts", "selection"):
        first, last = (shown[place][0] if place == "hosts" else shown[place] for shown in (then, later))
        assert last["root_distance"] - first["root_distance"] == pytest.approx(15e-6 * 1000, rel=1e-3)


@pytest.mark.parametrize("ppm", [80, -80, 300])
def test_a_drift_that_the_samples_show_is_told_once(ppm):
    results = [drifting(ppm), drifting(ppm, "b.example")]
    (notice,) = as_json(results, now=read(10))["notices"]
    way = "fast" if ppm > 0 else "slow"
    assert re.fullmatch(rf"this clock drifts by {abs(ppm)} ppm: it runs {way} against \S+ \(± \d+ ppm\)", notice)
    assert text.line(selection(results, now=read(10)), [notice]).endswith(f"({notice})")
    shown = as_json(results, now=read(10))["hosts"][0]
    assert abs(shown["drift"] - ppm * 1e-6) <= shown["drift_error"] < 40e-6


def test_a_steady_clock_and_one_sample_are_no_reason_for_notices():
    assert as_json([drifting(10)], now=read(10))["notices"] == []
    assert as_json([host(sample(sent=read(), received=read()))], now=read(10))["notices"] == []


def test_a_liar_does_not_make_this_clock_drift():
    results = [drifting(0, "a"), drifting(0, "b"), drifting(300, "liar", offset_ns=10**9)]
    chosen = selection(results, now=read(10))
    assert [one.source.name for one in chosen.falsetickers] == ["liar:443"]
    assert text.clock_notices(chosen, read(10)) == []


def test_samples_that_no_drift_explains_are_told():
    chosen = selection([drifting(-50_000)], now=read(10))
    assert text.clock_notices(chosen, read(10)) == [
        "the samples of time.example:443 contradict each other: this clock or the server's was set while it was measured"
    ]


def test_a_slew_while_the_clock_was_measured_is_told_and_taken_off():
    result = host(sample(server=told(1e-6), sent=read(), received=read()))
    # 10 s at 5000 ppm.
    now = read(10, 50_000_000)
    shown = as_json([result], now=now)
    assert shown["notices"] == ["this clock was being slewed by +5025 ppm while it was measured (+50.000 ms in all)"]
    assert shown["selection"]["low"] <= -0.05 <= shown["selection"]["high"]
    assert shown["selection"]["root_distance"] < 0.002


def test_a_short_slew_in_a_long_run_is_told_where_it_is_more_than_the_bound():
    samples = [
        make_sample(
            at, at + 50_000, at + 50_000, at + 100_000, server=ServerState(at, stratum=2, error=1e-6), sent=one, received=one
        )
        for at, one in ((read(seconds).at_ns, read(seconds, moved)) for seconds, moved in ((0, 0), (50_000, 50_000_000)))
    ]
    (notice,) = as_json([host(*samples)], now=read(50_001, 50_000_000))["notices"]
    assert notice == "this clock was being slewed by +1 ppm while it was measured (+50.000 ms in all)"
    # A clock that is kept is moved a little all the time.
    assert as_json([host(samples[0])], now=read(100, 300_000))["notices"] == []


def test_a_step_while_the_clock_was_measured_is_told():
    result = host(sample(server=told(1e-6), sent=read(), received=read()))
    shown = as_json([result], now=read(2, 1_000_000_000))
    assert shown["notices"] == ["this clock was stepped by +1.000000 s while it was measured: earlier samples have wider bounds"]
    # A machine that was suspended looks the same, and then nothing has changed.
    assert shown["selection"]["low"] <= -1.0
    assert shown["selection"]["high"] >= 0.0


def test_what_the_kernel_has_still_to_slew_is_told_where_it_matters():
    result = host(sample(server=told(1e-6), sent=read(), received=read()))
    (notice,) = as_json([result], now=read(1, pending_ns=-40_000_000))["notices"]
    assert notice == "the kernel is still slewing this clock: -40.000 ms are left"
    assert as_json([result], now=read(1, pending_ns=1000))["notices"] == []


def test_the_number_of_compared_sources_is_told_without_a_majority_too():
    results = [replace(host(sample(offset), name=str(offset)), address=str(offset)) for offset in (0, 10**9, 2 * 10**9, 3 * 10**9)]
    shown = as_json(results)["selection"]
    assert (shown["compared"], shown["problem"], shown["survivors"]) == (4, "NO_MAJORITY", 0)


@pytest.mark.parametrize("seconds", [1_800_000_000.123456789, -1_800_000_000.987654321, 0.5, 1e-7])
def test_bounds_hold_for_offsets_of_decades_as_they_are_printed(seconds):
    offset_ns = round(seconds * 1e6) * 1000 + 789
    result = host(
        make_sample(T, T + 100 + offset_ns, T + 100 + offset_ns, T + 200, server=told(1e-9), offset_limit=float("inf"))
    )
    chosen = selection([result])
    number, reach, unit = re.search(r"wrong by (\S+) ± (\S+) (\S+) ", text.verdict(chosen)).groups()
    scale = {"s": 10**9, "ms": 10**6, "µs": 10**3}[unit]
    assert abs(Fraction(number) * scale - offset_ns) <= Fraction(reach) * scale
    found = result.estimate
    assert abs(Fraction(found.offset) * 10**9 - offset_ns) <= Fraction(found.root_distance) * 10**9
    assert Fraction(found.interval.low) * 10**9 <= offset_ns <= Fraction(found.interval.high) * 10**9
    (only,) = result.samples
    assert abs(Fraction(only.offset) * 10**9 - offset_ns) <= Fraction(only.root_distance) * 10**9


def test_the_bound_in_the_table_holds_for_the_offset_as_it_is_written():
    # 12.3454 ms are written as 12.345 ms.
    result = host(sample(12_345_400, 1000, server=told(1e-9)))
    cells = re.search(r"\+12\.345 ms +± (\d+\.\d+) µs", table([result]))
    assert float(cells[1]) >= 0.9
