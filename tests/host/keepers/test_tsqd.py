"""tsqd's state at its control socket: what it reports, at the present moment; and data that is not a state."""

import json
import socket
import threading
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsq.daemon import control_protocol
from tsq.discipline.settings import Mode
from tsq.discipline.status import ClockStatus, Status, Tracking
from tsq.host.keepers import tsqd
from tsq.host.keepers.sync_state import by_report
from tsq.host.keepers.tsqd import Report, ask_status, decode

REAL, RAW = 1_800_000_000_000_000_000, 5_000_000_000_000
TRACKING = Tracking(
    Mode.STEER, ClockStatus.SYNCHRONIZED, REAL, RAW, offset=1e-5, bound=0.003, bound_rate=20e-6, stratum=3, leap=1,
    root_delay=0.002, root_dispersion=0.002, reference="time.example:443", updates=9,
    earliest_ns=REAL - 2_000_000, latest_ns=REAL + 3_000_000, rate_low=-5e-6, rate_high=20e-6,
)  # fmt: skip


def line(**changes) -> bytes:
    """The daemon's own reply, with these changes."""
    return control_protocol.result("0.1.0", asdict(Status(replace(TRACKING, **changes))))


def report(later: float = 0.0, stepped: float = 0.0, **changes) -> Report:
    """What is made of it so long after the reading."""
    passed = round(later * 1e9)
    found = decode(line(**changes), RAW + passed, REAL + passed + round(stepped * 1e9))
    assert found is not None
    return found


def test_it_is_what_the_daemon_reports():
    assert report() == Report(True, 3, 1, False, "time.example:443", 0.002, 0.002, 20e-6)
    assert report(status=ClockStatus.HOLDOVER).holdover
    assert not report(mode=Mode.OBSERVE).steers


@pytest.mark.parametrize(("said", "smeared"), [(True, True), (False, False), (None, None), (1, None), ("yes", None)])
def test_whether_leap_seconds_are_smeared(said, smeared):
    assert by_report(report(smeared=said)).smeared is smeared
    older = line().replace(b',"smeared":null', b"")
    assert older != line()
    assert decode(older, RAW, REAL) == report()


def test_the_bound_is_that_of_the_clock_at_this_moment():
    """3 ms in all, of which the delay's half is 1 ms."""
    assert report(later=1.5).root_dispersion == pytest.approx(0.002 + 1.5 * 20e-6)
    assert report(later=10).root_dispersion == pytest.approx(0.002 + 10 * 20e-6)
    assert report(earliest_ns=REAL - 9_000_000).root_dispersion == pytest.approx(0.008)
    assert report(root_delay=0.1).root_dispersion == 0


@pytest.mark.parametrize(("by", "error"), [(-2.0, 2.002), (2.0, 2.001), (400e-6, 0.0016), (-0.0001, 0.0021)])
def test_what_the_clock_was_moved_by_after_the_reading_counts(by, error):
    assert report(later=1, stepped=by).root_dispersion == pytest.approx(error, abs=25e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"status": ClockStatus.UNSYNCHRONIZED}, {"status": ClockStatus.FROZEN}, {"stratum": 0}, {"stratum": 16}, {"leap": 3},
        {"later": 31.0}, {"later": -1.0},
    ],
)
def test_not_synchronized(changes):
    found = report(**changes)
    assert (found.steers, found.stratum, found.leap) == (True, 0, 3)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]\n", b"null\n", b"[" * 100_000, b"\xff\xfe", b'{"version":1,"ok":true}\n',
        b'{"version":1,"ok":true,"result":[]}',
        line().replace(b'"version":1', b'"version":2'), line().replace(b'"ok":true', b'"ok":false'), line(earliest_ns=None),
        line(earliest_ns=REAL * 2), line(rate_high=float("inf")), line().replace(b'"rate_low":-5e-06', b'"rate_low":NaN'),
        line().replace(b'"rate_low":-5e-06', b'"rate_low":"x"'),
        line().replace(b'"stratum":3', b'"stratum":Infinity'), line().replace(b'"raw_ns":5', b'"raw_ns":' + b"9" * 400),
        line(root_delay=-1e-9), line(bound_rate=-1.0),
        control_protocol.refusal("0.1.0", control_protocol.Problem.BUSY, "too many connections"),
    ],
)  # fmt: skip
def test_data_that_is_no_state(data):
    assert decode(data, RAW, REAL) is None


@given(st.binary(max_size=100))
def test_any_bytes_are_a_state_or_none(data):
    assert decode(data, RAW, REAL) is None


PLAIN = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5)


@given(PLAIN | st.lists(PLAIN, max_size=3))
def test_any_value_in_any_field(value):
    for name in asdict(TRACKING):
        document = json.loads(line())
        document["result"]["tracking"][name] = value
        found = decode(json.dumps(document).encode(), RAW, REAL)
        assert found is None or (0 <= found.stratum <= 15 and found.root_delay >= 0 and found.root_dispersion >= 0)


# ---------------------------------------------------------------------------------------------------------- the socket


def serve(path: str, *parts: bytes) -> threading.Thread:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen()

    def answer() -> None:
        with listener, listener.accept()[0] as stream:
            request = stream.recv(4096)
            assert control_protocol.read_request(request)[0] in control_protocol.READING
            for part in parts:
                stream.sendall(part)

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


def read() -> tuple[int, int]:
    return RAW, REAL


@pytest.mark.parametrize("split", [0, 1, 8, 200])
def test_the_state_comes_in_any_pieces(tmp_path, split):
    thread = serve(str(tmp_path / "control"), line()[:split], line()[split:])
    assert ask_status(str(tmp_path / "control"), read) == report()
    thread.join(20)


@pytest.mark.parametrize("data", [b"", b"{}", line()[:-1], b"x" * (tsqd._MOST + 2)])
def test_a_reply_without_an_end(tmp_path, data):
    thread = serve(str(tmp_path / "control"), data)
    assert ask_status(str(tmp_path / "control"), read) is None
    thread.join(20)


@pytest.mark.parametrize("path", ["/nonexistent/control", "x" * 200, "a\0b", ""])
def test_nobody_there(path):
    assert ask_status(path) is None


def test_a_daemon_that_hangs_is_not_waited_for(tmp_path, monkeypatch):
    """The kernel takes the connection, as it does for a daemon that is stopped."""
    monkeypatch.setattr(tsqd, "_TIMEOUT", 0.01)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "control"))
        listener.listen()
        assert ask_status(str(tmp_path / "control")) is None


def test_the_place_and_the_version_are_the_daemons():
    assert control_protocol.DEFAULT_SOCKET == tsqd.DEFAULT
    assert control_protocol.read_request(tsqd._REQUEST) == ("status", {})
    assert set(tsqd._USABLE) == {ClockStatus.SYNCHRONIZED, ClockStatus.HOLDOVER}
    assert Mode.STEER == tsqd.STEERS
