"""The log of measurements has the columns that the real chronyd writes, and survives what happens to files."""

import errno
import os
import re
import socket
import struct
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.daemon.recordings import START_NS, polled
from tests.support.chronyd import Chronyd, needs_chronyd, until
from tsq.daemon.measurements_log import BANNER, MeasurementsLog, line
from tsq.discipline.status import SourceStatus
from tsq.host import files
from tsq.timing.sample import Reason, Sample, StampSource
from tsq.timing.server_state import ServerState

STATUS = SourceStatus("a", "192.0.2.1:443", "*", poll=4, server_error=0.01)
COLUMNS = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?P<address>\S+) +(?P<leap>[N+\-?]) (?P<stratum>[ \d]\d) "
    r"(?P<tests>[01]{3} [01]{3} [01]{4})  (?P<poll>[ \-\d]\d) (?P<remote_poll>[ \-\d]\d) (?P<score>\d\.\d\d) "
    r"(?P<offset>[ \-]\d\.\d{3}e[+\-]\d\d) (?P<delay>[ \-]\d\.\d{3}e[+\-]\d\d) (?P<dispersion>[ \-]\d\.\d{3}e[+\-]\d\d) "
    r"(?P<root_delay>[ \-]\d\.\d{3}e[+\-]\d\d) (?P<root_dispersion>[ \-]\d\.\d{3}e[+\-]\d\d) (?P<refid>[0-9A-F]{8}) "
    r"(?P<mode>\d)(?P<basic>[BI]) (?P<tx>[DKH]) (?P<rx>[DKH])\n"
)
NTP_EPOCH = 2_208_988_800


def columns(text: str) -> dict[str, str]:
    match = COLUMNS.fullmatch(text)
    assert match, text
    return match.groupdict()


class NtpServer:
    """An NTP server on loopback whose time is 0.25 s ahead."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, daemon=True)

    def serve(self) -> None:
        while True:
            request, address = self.socket.recvfrom(512)
            if len(request) < 48:
                return
            now = time.time() + 0.25 + NTP_EPOCH
            stamp = struct.pack("!II", int(now), int(now % 1 * 2**32))
            # Leap 1, version 4, mode 4; stratum 1; root delay 0.5 s, root dispersion 0.125 s.
            head = struct.pack("!BBBbII4s", 1 << 6 | 4 << 3 | 4, 1, request[2], -20, 0x8000, 0x2000, b"GPS\0")
            self.socket.sendto(head + stamp + request[40:48] + stamp + stamp, address)

    def __enter__(self) -> "NtpServer":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.sendto(b"end", self.socket.getsockname())
        self.thread.join(60)
        self.socket.close()


@pytest.fixture(scope="module")
def of_chronyd(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The lines of a chronyd's measurements.log about that server."""
    directory = tmp_path_factory.mktemp("chronyd")
    log = directory / "c" / "measurements.log"
    with NtpServer() as server:
        source = f"server 127.0.0.1 port {server.port} minpoll -6 maxpoll -6 iburst"
        with Chronyd(directory / "c", source, "log measurements"):
            until(lambda: log.exists() and log.read_text().count("\n") >= 3 + 32 + 3 + 2)
    return log.read_text().splitlines(keepends=True)


@needs_chronyd
def test_chronyds_own_lines_have_these_columns_and_this_banner(of_chronyd):
    assert "".join(of_chronyd[:3]) == BANNER
    assert "".join(of_chronyd[3 + 32 : 6 + 32]) == BANNER
    for text in of_chronyd[3 : 3 + 32]:
        columns(text)


@needs_chronyd
def test_the_same_measurement_gives_the_same_line_as_chronyds(of_chronyd):
    # One for which neither of the two was kept waiting, of those before chronyd corrected its idea of the clock.
    number, theirs = min(
        ((number, found) for number in range(3, 3 + 32) if float((found := columns(of_chronyd[number]))["offset"]) > 0.1),
        key=lambda one: (one[1]["tests"] != "111 111 1111", float(one[1]["delay"])),
    )
    offset, delay = float(theirs["offset"]), float(theirs["delay"])
    # The server is ahead, so this clock is behind: positive in both.
    assert 0.24 < offset < 0.26
    at_ns = START_NS
    sample = Sample(
        at_ns, at_ns, at_ns, at_ns + 10, StampSource.KERNEL, StampSource.KERNEL, offset, delay, float(theirs["dispersion"]),
        server=ServerState(at_ns, stratum=1, source="GPS", leap=1, error=0.125),
    )  # fmt: skip
    ours = line(replace(polled("a", 1), sample=sample, address="127.0.0.1:443"), replace(STATUS, poll=int(theirs["poll"])))
    same = {"address", "leap", "stratum", "tests", "poll", "offset", "delay", "dispersion", "refid", "mode", "basic", "tx", "rx"}
    found = columns(ours)
    assert {key: found[key] for key in same} == {key: theirs[key] for key in same}
    # chronyd's root dispersion is the server's alone; so is this.
    assert float(found["root_dispersion"]) == float(theirs["root_dispersion"]) == 0.125
    assert len(ours) == len(of_chronyd[number])


def test_a_line_has_what_was_measured():
    given = polled("a", 16.25)
    found = columns(line(given, STATUS))
    assert found == {
        "date": "2026-11-23 02:00:16", "address": "192.0.2.1", "leap": "N", "stratum": " 1", "tests": "111 111 1111", "poll": " 4",
        "remote_poll": " 4", "score": "1.00", "offset": f"{given.sample.offset:10.3e}"[-10:], "delay": " 3.870e-04",
        "dispersion": f"{given.sample.dispersion:10.3e}", "root_delay": " 0.000e+00", "root_dispersion": " 1.000e-06",
        "refid": "47505300", "mode": "4", "basic": "I", "tx": "K", "rx": "K",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "tests"),
    [
        (None, "111 111 1111"),
        (Reason.WRONG_NONCE, "101 111 1111"),
        (Reason.SEND_BEFORE_RECEIVE, "110 111 1111"),
        (Reason.ANSWER_BEFORE_REQUEST, "110 111 1111"),
        (Reason.MALFORMED, "110 111 1111"),
        (Reason.SIGNATURE, "111 011 1111"),
        (Reason.OFFSET_LIMIT, "111 110 1111"),
        (Reason.NEGATIVE_DELAY, "111 111 0111"),
    ],
)
def test_a_rejected_answer_shows_the_test_that_failed(reason, tests):
    given = polled("a", 1)
    assert columns(line(replace(given, sample=replace(given.sample, reason=reason)), STATUS))["tests"] == tests


@pytest.mark.parametrize(
    ("state", "leap", "stratum", "tests", "refid"),
    [
        (None, "?", " 0", "111 111 1111", "00000000"),
        (ServerState(1, stratum=2, leap=2, source="GPS"), "-", " 2", "111 111 1111", "00000000"),
        (ServerState(1, stratum=0, leap=3), "?", " 0", "111 101 1111", "00000000"),
        (ServerState(1, stratum=16, leap=0), "N", "16", "111 101 1111", "00000000"),
        (ServerState(1, stratum=1, leap=1, source="é Galileo"), "+", " 1", "111 111 1111", "3F204761"),
        (ServerState(1, stratum=1, source=""), "?", " 1", "111 111 1111", "00000000"),
    ],
)
def test_what_the_server_reports(state, leap, stratum, tests, refid):
    given = polled("a", 1)
    found = columns(line(replace(given, sample=replace(given.sample, server=state)), STATUS))
    assert (found["leap"], found["stratum"], found["tests"], found["refid"]) == (leap, stratum, tests, refid)
    assert found["root_dispersion"] == " 1.000e-02"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("192.0.2.1:443", "192.0.2.1"), ("[2001:db8::1]:4433", "2001:db8::1"), ("[fe80::1%eth0]:443", "fe80::1%eth0"),
        ("2001:db8::1", "2001:db8::1"), ("", "time?b.example"),
    ],
)  # fmt: skip
def test_addresses_have_no_port(address, shown):
    assert columns(line(replace(polled("time b.example", 1), address=address), None))["address"] == shown


@pytest.mark.parametrize("reason", [Reason.NO_ANSWER, Reason.NOT_SENT, Reason.CONNECTION_LOST])
def test_a_poll_without_an_answer_has_no_line(tmp_path, reason):
    given = replace(polled("a", 1), sample=Sample(START_NS, reason=reason))
    assert line(given, STATUS) is None
    log = MeasurementsLog(str(tmp_path / "log"))
    log.add(given, STATUS)
    assert not (tmp_path / "log").exists()


numbers = st.floats(allow_nan=True, allow_infinity=True)


@given(st.integers(-(2**70), 2**70), numbers, numbers, numbers, st.text(max_size=20), st.text(max_size=20), st.text(max_size=9))
def test_any_values_make_one_line_of_columns(at_ns, offset, delay, dispersion, name, address, source):
    sample = Sample(at_ns, 1, 1, at_ns, offset=offset, delay=delay, dispersion=dispersion, server=ServerState(1, 1, source=source))
    text = line(replace(polled("a", 1), name=name, address=address, sample=sample))
    assert text.count("\n") == 1
    assert text.isprintable() or text[:-1].isprintable()
    # Two more where the server's address is of several words; the date and time are two.
    assert len(text.split()) == 20


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True)


def test_a_banner_comes_every_32_lines(tmp_path):
    log = MeasurementsLog(str(tmp_path / "log"))
    for second in range(70):
        log.add(polled("a", second), STATUS)
    log.close()
    found = lines(tmp_path / "log")
    starts = [number for number in range(len(found)) if "".join(found[number : number + 3]) == BANNER]
    assert starts == [0, 35, 70]
    assert len(found) == 70 + 9


def test_a_file_that_was_moved_or_removed_is_opened_anew(tmp_path):
    path = tmp_path / "log"
    log = MeasurementsLog(str(path))
    log.add(polled("a", 1), STATUS)
    path.rename(tmp_path / "log.1")
    log.add(polled("a", 2), STATUS)
    assert len(lines(path)) == len(lines(tmp_path / "log.1")) == 4
    path.unlink()
    log.add(polled("a", 3), STATUS)
    assert len(lines(path)) == 4
    log.reopen()
    log.add(polled("a", 4), STATUS)
    # As chronyd does after `cyclelogs`, it begins with a banner.
    assert len(lines(path)) == 8
    log.close()
    log.close()


def test_a_disk_that_is_full_costs_one_warning_and_the_log_goes_on(tmp_path, monkeypatch, caplog):
    now = [0.0]
    log = MeasurementsLog(str(tmp_path / "log"), clock=lambda: now[0])
    real = os.write

    def full(_fd: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "write", full)
    for second in range(30):
        now[0] = second
        log.add(polled("a", second), STATUS)
    assert caplog.text.count("No space left on device") == 1
    monkeypatch.setattr(files.os, "write", real)
    now[0] = 60
    log.add(polled("a", 60), STATUS)
    log.close()
    assert len(lines(tmp_path / "log")) == 4


@pytest.mark.parametrize("make", ["link", "directory", "missing"])
def test_what_is_not_its_own_file_is_not_used(tmp_path, caplog, make):
    path = tmp_path / "log"
    if make == "link":
        (tmp_path / "other").touch(0o600)
        path.symlink_to(tmp_path / "other")
    elif make == "directory":
        path.mkdir()
    else:
        path = tmp_path / "no" / "log"
    log = MeasurementsLog(str(path))
    log.add(polled("a", 1), STATUS)
    log.add(polled("a", 2), STATUS)
    assert caplog.text.count(f"cannot write measurements to {path}") == 1
    log.close()
