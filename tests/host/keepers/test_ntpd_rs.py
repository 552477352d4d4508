"""ntpd-rs's state at its observation socket: the layouts of its versions, and data that is not a state."""

import json
import socket
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsq.host.keepers.ntpd_rs import Observation, decode, observe

FLAT = {"stratum": 2, "leap_indicator": "NoWarning", "root_delay": 0.01, "root_dispersion": 0.002, "precision": 1e-6}
NESTED = {"stratum": 2, "reference_id": 0, "time_snapshot": {key: FLAT[key] for key in FLAT if key != "stratum"}}


def document(system: object) -> bytes:
    return json.dumps({"system": system, "sources": [], "servers": []}).encode()


@pytest.mark.parametrize("system", [FLAT, NESTED], ids=["flat", "nested"])
def test_both_layouts(system):
    assert decode(document(system)) == Observation(2, 0, 0.01, 0.002)


@pytest.mark.parametrize(("word", "leap"), [("NoWarning", 0), ("Leap61", 1), ("Leap59", 2)])
def test_leap_indicators(word, leap):
    assert decode(document({**FLAT, "leap_indicator": word})).leap == leap


@pytest.mark.parametrize(
    "change", [{"leap_indicator": "Unknown"}, {"leap_indicator": "Unsynchronized"}, {"stratum": 16}, {"stratum": 0}]
)
def test_not_synchronized(change):
    report = decode(document({**FLAT, **change}))
    assert (report.stratum, report.leap) == (0, 3)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"null", b'{"system": 3}', b'{"system": []}', document({}), document({**FLAT, "root_delay": "no"}),
        document({**FLAT, "root_delay": None}), document({**FLAT, "root_dispersion": -1.0}), b"[" * 100_000,
        b'{"system": {"stratum": 1, "leap_indicator": "NoWarning", "root_delay": NaN, "root_dispersion": 0}}',
        b'{"system": {"stratum": Infinity, "leap_indicator": "NoWarning", "root_delay": 0, "root_dispersion": 0}}',
        b'{"system": {"stratum": 1, "leap_indicator": "NoWarning", "root_delay": 1' + b"0" * 400 + b', "root_dispersion": 0}}',
        document({**FLAT, "time_snapshot": 5}), document({**FLAT, "leap_indicator": []}), b"\xff\xfe",
    ],
)
def test_data_that_is_no_state(data):
    assert decode(data) is None


@given(st.binary(max_size=100))
def test_any_bytes_are_a_state_or_none(data):
    assert decode(data) is None


def serve(path: str, *parts: bytes) -> threading.Thread:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen()

    def answer() -> None:
        with listener, listener.accept()[0] as stream:
            for part in parts:
                stream.sendall(part)

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


@pytest.mark.parametrize("split", [0, 1, 8, 20])
def test_the_state_comes_with_its_length_in_any_pieces(tmp_path, split):
    data = document(NESTED)
    whole = struct.pack("!Q", len(data)) + data
    thread = serve(str(tmp_path / "observe"), whole[:split], whole[split:])
    assert observe(str(tmp_path / "observe")) == Observation(2, 0, 0.01, 0.002)
    thread.join(20)


@pytest.mark.parametrize("data", [b"", b"\0\0\0", struct.pack("!Q", 100) + b"{}", struct.pack("!Q", 2**40)])
def test_a_state_with_a_wrong_length(tmp_path, data):
    thread = serve(str(tmp_path / "observe"), data)
    assert observe(str(tmp_path / "observe")) is None
    thread.join(20)


def test_nobody_there(tmp_path):
    assert observe(str(tmp_path / "observe")) is None


def test_a_daemon_that_sends_slowly_is_not_waited_for(tmp_path, monkeypatch):
    """Virtual time: only the daemon's bytes take time, 0.1 s each."""
    path = str(tmp_path / "observe")
    now = [0.0]
    monkeypatch.setattr("tsq.host.keepers.ntpd_rs.time.monotonic", lambda: now[0])
    real = socket.socket.recv
    received = []

    class Slow(socket.socket):
        def recv(self, size: int) -> bytes:
            now[0] += 0.1
            received.append(size)
            return real(self, 1)

    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen()

    def answer() -> None:
        with listener, listener.accept()[0] as peer:
            data = document(FLAT)
            peer.sendall(struct.pack("!Q", len(data)) + data)

    thread = threading.Thread(target=answer)
    thread.start()
    monkeypatch.setattr("tsq.host.keepers.ntpd_rs.socket.socket", Slow)
    assert observe(path) is None
    thread.join(20)
    assert len(received) < 20
