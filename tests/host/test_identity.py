"""The identifier of this machine."""

import socket

from tsq.host.identity import machine


def test_it_is_the_same_each_time_and_has_the_host_name():
    assert machine() == machine()
    assert machine().endswith(b" " + socket.gethostname().encode())


def test_a_host_name_may_be_any_bytes(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "h\udcff")
    assert machine().endswith(b" h\xff")
