"""What the daemon knows as tables: golden text, chronyc's own columns, bounds that are never rounded down."""

import json
import math
import re
import subprocess
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.chronyd import Chronyd, needs_chronyd
from tests.support.control import SOURCES, STATUS, TRACKING, UNKNOWN
from tsq.daemon import control_protocol as protocol
from tsq.discipline.settings import Mode
from tsq.discipline.status import ClockStatus, SourceStatus, Status, Tracking
from tsq.report import control as report

TRACKING_TEXT = """\
Reference ID    : C0000201 (time-a.example:443)
Stratum         : 2
Ref time (UTC)  : Mon Nov 23 01:59:50 2026
System time     : 0.000000123 seconds slow of NTP time
Last offset     : -0.000002100 seconds
RMS offset      : 0.000003400 seconds
Frequency       : 12.346 ppm fast
Residual freq   : -0.046 ppm
Skew            : 0.013 ppm
Root delay      : 0.000200001 seconds
Root dispersion : 0.000023457 seconds
Update interval : 16.0 seconds
Leap status     : Normal
Status          : synchronized
Error bound     : 0.000123457 seconds, growing by 15.000 ppm
Bound holds at  : 2026-11-23 02:00:00.123456 UTC
Mode            : steer
Steps           : 1, 0.512300000 seconds in all
Foreign moves   : 0"""
UNKNOWN_TEXT = """\
Reference ID    : 00000000 ()
Stratum         : 0
Ref time (UTC)  : never
System time     : unknown
Last offset     : unknown
RMS offset      : unknown
Frequency       : unknown
Residual freq   : unknown
Skew            : unknown
Root delay      : 0.000000000 seconds
Root dispersion : 16.000000000 seconds
Update interval : unknown
Leap status     : Not synchronised
Status          : unsynchronized
Error bound     : unknown
Bound holds at  : 1970-01-01 00:00:00.000000 UTC
Mode            : observe
Steps           : 0, 0.000000000 seconds in all
Foreign moves   : 0"""
SOURCES_TEXT = """\
MS Name/IP address         Stratum Poll Reach LastRx Last sample
===============================================================================
^* time-a.example:443            1   4   377     7   +100ns[+2400ns] +/-  101us
^x time-b.example:443            2  10    17   66m   +250ms[ +250ms] +/-   51ms
^? a-very-long-n..example:4433   -   6     0     -        -[      -] +/-      -
x time-b.example:443: contradicts the majority
? a-very-long-name-of-a-server.in-a-long-domain.example:4433: no sample yet
offsets: positive when this clock is behind (chronyc: ahead); +/-: error bound"""
STATS_TEXT = """\
Name/IP Address            NP  NR  Span  Frequency  Freq Skew  Offset  Std Dev
==============================================================================
time-a.example:443         32   -   496     +0.000      0.020   +100ns  3400ns
time-b.example:443          6   -  102m     +0.246      1.000   +250ms  1500us
a-very-long-..xample:4433   0   -     0          -          -        -       -
offsets: positive when this clock is behind (chronyc: ahead)"""


def over_the_wire(status: Status) -> dict:
    """A status as the command gets it."""
    return protocol.read_reply(protocol.result("1", asdict(status)))


def test_the_tracking_is_golden():
    assert report.tracking(over_the_wire(STATUS)) == TRACKING_TEXT


def test_a_clock_that_was_never_measured_has_no_invented_value():
    assert report.tracking(over_the_wire(UNKNOWN)) == UNKNOWN_TEXT
    header = "\n".join(SOURCES_TEXT.splitlines()[:2])
    assert report.sources(over_the_wire(UNKNOWN)) == header
    assert report.sourcestats(over_the_wire(UNKNOWN)) == "\n".join(STATS_TEXT.splitlines()[:2])
    assert report.activity(over_the_wire(UNKNOWN)).splitlines()[0] == "0 sources online"


def test_the_sources_are_golden():
    assert report.sources(over_the_wire(STATUS)) == SOURCES_TEXT
    assert report.sourcestats(over_the_wire(STATUS)) == STATS_TEXT


def test_the_legend_points_at_the_columns_and_fits():
    for table, legend in ((report.sources, "|  xxxx = offset now"), (report.sourcestats, "Number of samples")):
        text = table(over_the_wire(STATUS), verbose=True)
        assert text.endswith(table(over_the_wire(STATUS)))
        assert legend in text
        assert all(len(line) < 80 for line in text.splitlines())
        assert text.isascii()


def test_a_long_reason_is_cut_but_not_in_a_verbose_table():
    long = over_the_wire(Status(STATUS.tracking, (replace(SOURCES[0], mark="?", unused=40 * "why " + "end"),)))
    assert [len(line) for line in report.sources(long).splitlines() if "why" in line] == [len(f"? {SOURCES[0].name}: ") + 100]
    assert f"? {SOURCES[0].name}: {40 * 'why '}end" in report.sources(long, verbose=True).splitlines()


def test_a_wide_terminal_shows_names_whole_with_the_columns_moved():
    narrow, wide = (report.sources(over_the_wire(STATUS), columns).splitlines() for columns in (80, 120))
    assert SOURCES[2].name in wide[4]
    moved = len(SOURCES[2].name) - 27
    assert wide[0] == narrow[0][:21] + " " * moved + narrow[0][21:]
    for row in (2, 3):
        assert wide[row].replace(" " * moved, "", 1) == narrow[row]
    legend = report.sources(over_the_wire(STATUS), 120, verbose=True).splitlines()
    assert legend[1].startswith("  .-- '^'")
    assert legend[5].index("Reachability") == 8 + moved
    stats = report.sourcestats(over_the_wire(STATUS), 120).splitlines()
    assert len(stats[2]) == len(stats[4]) == 78 + len(SOURCES[2].name) - 25


def test_the_activity_counts_each_kind():
    assert report.activity(over_the_wire(STATUS)).splitlines() == [
        "2 sources online", "1 sources offline", "1 sources with unknown address", "2 sources answering", "1 sources used",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.1", "C0000201"), ("192.0.2.1:443", "C0000201"), ("", "00000000"), ("time.example", "00000000"),
        # md5 of the sixteen bytes of ::1
        ("::1", "4F1B6D5C"), ("[::1]:443", "4F1B6D5C"), ("::1%eth0", "4F1B6D5C"),
    ],
)  # fmt: skip
def test_the_reference_id_is_that_of_ntp(address, expected):
    if ":1" in address and not address.startswith("192"):
        import hashlib  # noqa: PLC0415

        expected = hashlib.md5(bytes(15) + b"\1").hexdigest()[:8].upper()
    assert report.reference_id(address) == expected


@pytest.mark.parametrize(("values", "label", "text"), [
    ({"offset": -1.5}, "System time", "1.500000000 seconds fast of NTP time"),
    ({"offset": 0.0}, "System time", "0.000000000 seconds fast of NTP time"),
    ({"frequency": 3e-6}, "Frequency", "3.000 ppm slow"),
    ({"leap": 1}, "Leap status", "Insert second"),
    ({"leap": 2}, "Leap status", "Delete second"),
    ({"status": ClockStatus.FROZEN, "frozen": "an offset of 2000 s"}, "Status", "frozen: an offset of 2000 s"),
    ({"status": ClockStatus.HOLDOVER}, "Status", "holdover"),
    ({"bound": 3e9}, "Error bound", "3000000000 seconds, growing by 15.000 ppm"),
    ({"bound": 1.0000000001}, "Error bound", "1.000000001 seconds, growing by 15.000 ppm"),
    ({"reference": "\x1b[2J"}, "Reference ID", "C0000201 (\\x1b[2J)"),
])  # fmt: skip
def test_a_line_of_the_tracking(values, label, text):
    lines = report.tracking(over_the_wire(Status(replace(TRACKING, **values)))).splitlines()
    assert f"{label:<16}: {text}" in lines


@pytest.mark.parametrize(("seconds", "text"), [
    (0, "0ns"), (1e-9, "1ns"), (1.1e-9, "2ns"), (9.999e-6, "9999ns"), (9.9991e-6, "10us"), (1.00001e-3, "1001us"),
    (9.999, "9999ms"), (9.9991, "10.0s"), (10.01, "10.1s"), (999.4, "999.4s"),
    (999.5, "1000s"), (99_997.0, "99997s"), (99_999.0, "1667m"),
])  # fmt: skip
def test_a_bound_is_rounded_up_in_six_columns(seconds, text):
    assert report._span_up(seconds) == text


@given(st.floats(0, 1e9))
def test_a_bound_never_becomes_less(seconds):
    text = report._span_up(seconds)
    assert report._value(text) >= seconds * (1 - 1e-12) - 1e-15
    assert len(text) <= 6
    assert float(report._rounded_up(seconds)) >= seconds * (1 - 1e-12) - 1e-15


@given(st.floats(-1e9, 1e9), st.floats(0, 1e3))
def test_a_bound_holds_for_the_offset_as_it_is_written(measured, distance):
    source = replace(SOURCES[0], last_offset=measured, last_root_distance=distance)
    line = report.sources(over_the_wire(Status(TRACKING, (source,)))).splitlines()[2]
    offset, bound = re.search(r"\[ *([^\]]+)\] \+/- +(\S+)$", line).groups()
    low, high = report._value(offset) - report._value(bound), report._value(offset) + report._value(bound)
    slack = 1e-12 * (1 + abs(measured))
    assert low <= measured - distance + slack
    assert high >= measured + distance - slack


@pytest.mark.parametrize(("seconds", "text"), [
    (None, "-"), (-1, "-"), (0.9, "0"), (1024, "1024"), (1025, "17m"), (36_000, "10h"), (345_600, "4d"), (1e9, "31y"),
])  # fmt: skip
def test_an_age_takes_four_columns(seconds, text):
    assert report._age(seconds) == text


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
NAMES = [*asdict(TRACKING), *asdict(SOURCES[0])]


@given(
    st.dictionaries(st.sampled_from(NAMES), VALUES) | VALUES,
    st.lists(st.dictionaries(st.sampled_from(NAMES), VALUES) | VALUES, max_size=3) | VALUES,
)
def test_no_reply_of_any_content_breaks_a_table(tracking, sources):
    status = {"tracking": tracking, "sources": sources}
    for table in (report.tracking, report.sources, report.sourcestats, report.activity, report.state):
        text = table(status)
        assert all(line.isprintable() for line in text.split("\n"))
    report.waiting(1, status)


@pytest.mark.parametrize(("values", "limit", "right"), [
    ({}, 0.001, True), ({}, 0.0001234561, True), ({}, 0.0001234560, False), ({"bound": None}, 1e9, False),
    ({"status": ClockStatus.HOLDOVER}, 1, False), ({"status": ClockStatus.FROZEN}, 1, False),
    ({"status": ClockStatus.UNSYNCHRONIZED}, 1, False), ({"bound": -1.0}, 1, False), ({"bound": math.inf}, math.inf, False),
])  # fmt: skip
def test_a_clock_is_right_when_it_is_synchronized_within_the_bound(values, limit, right):
    assert report.is_synchronized(over_the_wire(Status(replace(TRACKING, **values))), limit) is right


# ------------------------------------------------------------------------------------------------- beside the real chronyc


@pytest.fixture(scope="module")
def chronyc(tmp_path_factory):
    """A function: what the real chronyc prints."""
    directory = tmp_path_factory.mktemp("chronyd")
    with Chronyd(directory, "local stratum 10", "server 127.0.0.1 port 9 offline", command_port=False, unix_socket=True) as daemon:

        def run(*command: str) -> str:
            line = ["chronyc", "-n", "-h", str(daemon.socket), *command]
            return subprocess.run(line, capture_output=True, text=True, timeout=60, check=True).stdout

        yield run


def starts(line: str) -> list[int]:
    """Where the cells of a line end."""
    return [match.end() for match in re.finditer(r"\S+", line)]


@needs_chronyd
def test_the_lines_of_tracking_are_chronycs(chronyc):
    theirs = [line.partition(":")[0] for line in chronyc("tracking").splitlines()]
    ours = [line.partition(":")[0] for line in report.tracking(over_the_wire(STATUS)).splitlines()]
    assert ours[: len(theirs)] == theirs


@needs_chronyd
@pytest.mark.parametrize(("command", "table"), [("sources", report.sources), ("sourcestats", report.sourcestats)])
def test_the_columns_are_chronycs(chronyc, command, table):
    source = replace(
        SOURCES[0], name="127.0.0.1", mark="?", stratum=0, poll=6, reach=0, age=None, offset=0.0, last_offset=0.0,
        last_root_distance=0.0, samples=0, span=0.0, frequency=0.0, frequency_sd=2e-3, jitter=4.0,
    )  # fmt: skip
    status = over_the_wire(Status(replace(TRACKING, frequency=0.0), (source,)))
    theirs, ours = chronyc(command).splitlines(), table(status).splitlines()
    assert ours[0] == theirs[0].rstrip()
    assert ours[1] == theirs[1]
    # NR is not counted.
    assert re.sub(r"^(127\S+ +\S+ +)-", r"\g<1>0", ours[2]) == theirs[2]


@needs_chronyd
@pytest.mark.parametrize(("command", "table"), [("sources", report.sources), ("sourcestats", report.sourcestats)])
def test_the_legend_has_chronycs_form(chronyc, command, table):
    def pointers(text: str) -> list[list[int]]:
        """Where the lines of the legend point to."""
        lines = text.splitlines()
        header = next(at for at, line in enumerate(lines) if "Name/IP" in line)
        return [at for at, character in enumerate(lines[header - 1]) if character in "|\\"][:7]

    theirs, ours = chronyc(command, "-v"), table(over_the_wire(STATUS), verbose=True)
    assert pointers(ours) == pointers(theirs)


def test_json_of_a_status_is_one_line():
    assert json.loads(protocol.result("1", asdict(STATUS)))["result"]["tracking"]["reference"] == "time-a.example:443"


def test_verbose_shows_what_a_server_says_of_its_clock_and_how_much_of_it_was_nonsense():
    words = {"source_type": 1, "source": "roof\x1b[2J", "clock_class": 1, "clock_tag": "gpsdo", "bad_values": 3}
    status = over_the_wire(Status(Tracking(Mode.STEER, ClockStatus.SYNCHRONIZED, 1, 1), (SourceStatus("a.example", **words),)))
    said = r"? a.example says of its clock: GPS (roof\x1b[2J), GNSS, tag gpsdo; 3 values in another format so far, not used"
    assert said in report.sources(status, verbose=True).splitlines()
    assert "says" not in report.sources(status)
