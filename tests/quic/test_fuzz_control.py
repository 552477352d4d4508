"""A fixed number of the control plane fuzzer's inputs (tests/fuzz_control.py), and proof that the fuzzer finds faults."""

import pytest

from tests.fuzz_control import ControlFuzzer, run
from tsq.quic import server_connection
from tsq.quic.connection import Connection
from tsq.quic.router import Router
from tsq.quic.server_connection import ServerConnection
from tsq.server.core import ServerCore

INPUTS = 400


@pytest.mark.parametrize("seed", range(3))
def test_all_that_must_hold_holds(seed, certificates):
    number, broken = run(ControlFuzzer(seed, certificates), count=INPUTS)
    assert broken is None, str(broken)
    assert number == INPUTS


def found(seed, certificates) -> str:
    """What it finds within some inputs; the exception's name where one comes out of the server."""
    fuzzer = ControlFuzzer(seed, certificates)
    try:
        _, broken = run(fuzzer, count=2000)
    except Exception as error:
        return type(error).__name__
    return "" if broken is None else broken.what


def test_it_finds_connections_that_are_left_without_their_end(certificates, monkeypatch):
    monkeypatch.setattr(Router, "deadline", lambda self, connection: connection.timer and connection.timer + 40)
    assert "deadline" in found(1, certificates)


def test_it_finds_answers_on_streams_that_are_cancelled(certificates, monkeypatch):
    def careless(self, connection, now, work, *, take_back=True):
        connection.take_back()
        out = work()
        self.router.refresh(connection)
        connection.hand_over(now)
        return out, connection

    monkeypatch.setattr(Connection, "can_send_stream", lambda self, stream_id: True)
    monkeypatch.setattr(ServerConnection, "_cancelled", lambda self, stream_id, touched: None)
    monkeypatch.setattr(ServerCore, "_visit", careless)
    assert found(1, certificates) in ("RuntimeError", "ValueError")


def test_it_finds_what_forgotten_connections_keep(certificates, monkeypatch):
    monkeypatch.setattr(server_connection, "release", lambda quic: None)
    assert "out of order" in found(1, certificates)
