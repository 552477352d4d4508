"""chronyd's report: its layout, replies that are not reports, and a real chronyd queried over UDP and through chronyc."""

import math
import shutil
import socket
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.chronyd import Chronyd, needs_chronyd, until
from tsq.host.keepers import chrony
from tsq.host.keepers.chrony import Tracking, ask_tracking, decode_csv, decode_reply, encode_request

NOBODY = "/nonexistent/chronyd.sock"


def wire_float(value: float) -> int:
    """chrony's float: a signed exponent of 7 bits, a signed coefficient of 25; written from its documentation."""
    if value == 0.0:
        return 0
    mantissa, exponent = math.frexp(value)
    coefficient = round(mantissa * 2**24)
    exponent += 1
    if abs(coefficient) == 2**24 and coefficient > 0:
        coefficient, exponent = coefficient // 2, exponent + 1
    return (exponent & 0x7F) << 25 | coefficient & 0x1FFFFFF


def reply(
    sequence: int, *, floats=(0.0,) * 9, reference=0x50505300, address=bytes(16), family=0, stratum=1, leap=0, **header
) -> bytes:
    fields = {"version": 6, "kind": 2, "command": 33, "reply": 5, "status": 0} | header
    head = struct.pack(
        "!BBBBHHHHHHIII", fields["version"], fields["kind"], 0, 0, fields["command"], fields["reply"], fields["status"],
        0, 0, 0, sequence, 0, 0,
    )
    body = struct.pack("!I16sHHHHIII", reference, address, family, 0, stratum, leap, 0, 1_795_000_000, 5)
    return head + body + struct.pack("!9I", *map(wire_float, floats))


def test_the_request_is_104_bytes_with_the_sequence_number_at_its_place():
    request = encode_request(0x01020304)
    assert len(request) == 104
    assert request[:4] == bytes([6, 1, 0, 0])
    assert request[4:6] == struct.pack("!H", 33)
    assert request[8:12] == bytes([1, 2, 3, 4])
    assert not any(request[12:])


@given(st.floats(1e-9, 1e6), st.sampled_from([1, -1]))
def test_floats_are_read_as_they_are_written(value, sign):
    report = decode_reply(reply(1, floats=(sign * value, *[0.0] * 8)), 1)
    assert report.correction == pytest.approx(sign * value, rel=2**-22)


def test_each_number_of_the_report_is_found_at_its_place():
    floats = (1e-3, 2e-3, 3e-3, -4.0, 5.0, 6.0, 7e-3, 8e-3, 64.0)
    source = {"reference": 0xC0000201, "family": 1, "address": b"\xc0\0\2\1" + bytes(12)}
    report = decode_reply(reply(9, floats=floats, stratum=3, leap=2, **source), 9)
    assert (report.reference_id, report.reference, report.stratum, report.leap) == (0xC0000201, "192.0.2.1", 3, 2)
    numbers = (report.correction, report.residual_ppm, report.skew_ppm, report.root_delay, report.root_dispersion)
    assert numbers == pytest.approx((1e-3, 5.0, 6.0, 7e-3, 8e-3), rel=1e-6)


@pytest.mark.parametrize(
    ("reference", "family", "address", "expected"),
    [
        (0x50505300, 0, bytes(16), "PPS"),
        (0x47505331, 0, bytes(16), "GPS1"),
        (0x7F7F0101, 0, bytes(16), "7F7F0101"),
        (0, 0, bytes(16), ""),
        (1, 2, bytes(15) + b"\1", "::1"),
    ],
)
def test_references_as_text(reference, family, address, expected):
    assert decode_reply(reply(1, reference=reference, family=family, address=address), 1).reference == expected


@pytest.mark.parametrize(
    "header", [{"version": 5}, {"kind": 1}, {"command": 34}, {"reply": 6}, {"status": 2}], ids=lambda header: next(iter(header))
)
def test_a_reply_of_another_kind_gives_no_report(header):
    assert decode_reply(reply(1, **header), 1) is None


def test_a_reply_to_another_request_or_a_short_one_gives_no_report():
    assert decode_reply(reply(1), 2) is None
    whole = reply(1)
    assert len(whole) == 104
    assert all(decode_reply(whole[:size], 1) is None for size in range(len(whole)))


@given(st.binary(max_size=200), st.integers(0, 2**32 - 1))
def test_any_bytes_are_a_report_or_none(data, sequence):
    for candidate in (data, reply(sequence)[:64] + data):
        report = decode_reply(candidate, sequence)
        assert report is None or isinstance(report, Tracking)


@given(st.text(max_size=300))
def test_any_text_is_a_report_or_none(text):
    report = decode_csv(text)
    assert report is None or isinstance(report, Tracking)


@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("number", ["1" + "0" * 400, "-1", "1" * 20, "0x", "nan"])
def test_numbers_that_cannot_be_in_chronycs_line_make_it_none(at, number):
    line = "C0000201,192.0.2.1,3,1700000000.0,0.0,0.0,0.0,0.0,0.0,0.1,0.01,0.002,64.0,Normal"
    fields = line.split(",")
    assert decode_csv(",".join(fields)) is not None
    fields[at] = number
    assert decode_csv(",".join(fields)) is None


def test_nobody_there():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        address = holder.getsockname()
    assert ask_tracking(address, NOBODY) is None


def test_somebody_else_there():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(20)

        def answer() -> None:
            data, peer = udp.recvfrom(2048)
            # Right except for the sequence number.
            udp.sendto(reply(int.from_bytes(data[8:12], "big") ^ 1), peer)

        thread = threading.Thread(target=answer)
        thread.start()
        assert ask_tracking(udp.getsockname(), NOBODY) is None
        thread.join(20)


@needs_chronyd
def test_a_real_chronyd_without_a_source_reports_that(tmp_path):
    with Chronyd(tmp_path / "chrony") as running:
        report = ask_tracking(running.command, NOBODY)
    assert report.leap == chrony.LEAP_UNSYNCHRONIZED
    assert report.stratum == 0


@needs_chronyd
def test_a_real_chronyd_that_is_its_own_reference(tmp_path):
    with Chronyd(tmp_path / "chrony", "local stratum 7") as running:
        report = ask_tracking(running.command, NOBODY)
    assert (report.leap, report.stratum, report.reference_id) == (0, 7, 0x7F7F0101)


@needs_chronyd
@pytest.mark.skipif(shutil.which("chronyc") is None, reason="chronyc is not installed (Debian: apt-get install chrony)")
def test_chronyc_gives_the_same_report_if_the_port_is_closed(tmp_path):
    with Chronyd(tmp_path / "chrony", "local stratum 6", unix_socket=True) as running:
        by_udp = ask_tracking(running.command, NOBODY)
        until(running.socket.exists)
        closed = ("127.0.0.1", 9)
        by_chronyc = ask_tracking(closed, str(running.socket))
    assert by_udp == by_chronyc
    assert by_udp.stratum == 6
