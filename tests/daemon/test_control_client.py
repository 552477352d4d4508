"""Asking the daemon: what is said where it is absent, silent, or not what it should be."""

import errno
import math
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.false_daemon import FalseDaemon
from tsq.daemon import control_client
from tsq.daemon import control_protocol as protocol
from tsq.daemon.control_client import ask
from tsq.daemon.control_protocol import Problem, Refused
from tsq.errors import ConfigError, ControlError, NoDaemon, NotAllowed

GOOD = protocol.result("1.2.3", {"text": "done"})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "control"


def test_one_request_is_sent_and_its_result_returned(path):
    with FalseDaemon(path, [GOOD]) as daemon:
        assert ask(daemon.path, "burst", {"count": 3}) == {"text": "done"}
    assert list(map(protocol.read_request, daemon.requests)) == [("burst", {"count": 3})]


@pytest.mark.parametrize("name", ["absent", "absent/control", "file/control"])
def test_an_absent_socket_is_named_with_what_to_do(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(NoDaemon) as caught:
        ask(str(tmp_path / name), "status")
    assert str(caught.value) == (
        f"no daemon: there is no socket {tmp_path / name}: start tsqd, or name its socket with --socket ([control] socket)"
    )


def test_a_daemon_that_has_ended_is_said_to_have_ended(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    with pytest.raises(NoDaemon, match=f"nothing listens at {path}: tsqd has ended"):
        ask(str(path), "status")


def test_a_socket_of_another_kind_is_no_daemon(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(NoDaemon, match=f"no daemon at {path}: "):
            ask(str(path), "status")


@pytest.mark.parametrize("name", ["", "/" + "x" * 107, "/tmp/\0"])
def test_a_path_that_cannot_be_a_socket_is_refused(name):
    with pytest.raises(ConfigError, match="control socket"):
        ask(name, "status")


def test_a_path_as_long_as_a_socket_may_have_is_tried():
    with pytest.raises(NoDaemon, match="there is no socket"):
        ask("/" + "x" * (control_client.MAX_PATH - 1), "status")


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"", "closed the connection without a reply"),
        (b'{"version": 1', "ended in the middle of a reply"),
        (b"SSH-2.0-OpenSSH\r\n", "a reply that is none: 'SSH-2.0-OpenSSH"),
        (b"[1]\n", "a reply that is none"),
        (b'{"version": 1}\n', "a reply that is none"),
        (b'{"version": 1, "ok": true}\n', "without a result"),
        (b'{"version": 1, "ok": 1, "result": {}}\n', "a reply that is none"),
        (b'{"version": 1, "ok": false}\n', "the daemon refused, and gave no reason"),
        (b'{"version": 1, "ok": false, "problem": ["x"], "error": "because"}\n', "because"),
        (b"x" * (protocol.MAX_REPLY + 1), "a reply of more than 4194304 bytes"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_reply_that_is_none_is_an_error(path, reply, words):
    with FalseDaemon(path, [reply]) as daemon, pytest.raises(ControlError, match=words):
        ask(daemon.path, "status")


def test_a_daemon_that_says_nothing_is_not_waited_for_for_ever(path):
    with FalseDaemon(path, [None]) as daemon, pytest.raises(NoDaemon, match=f"no reply from {path} in time: the daemon is stopped"):
        ask(daemon.path, "status", patience=0.02)


@pytest.mark.parametrize("patience", [math.inf, 1e300, 20])
def test_any_patience_is_taken(path, patience):
    with FalseDaemon(path, [GOOD]) as daemon:
        assert ask(daemon.path, "status", patience=patience) == {"text": "done"}


def test_without_patience_nothing_is_waited_for(path):
    with FalseDaemon(path, [None]) as daemon, pytest.raises(NoDaemon, match="in time"):
        ask(daemon.path, "status", patience=0.0)


def test_a_full_queue_is_waited_for(path):
    """The client that waits gets in when the daemon accepts the one before it."""
    waiting = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as busy, ThreadPoolExecutor() as pool:
        busy.bind(str(path))
        busy.listen(0)
        while not waiting or waiting[-1].connect_ex(str(path)) == 0:
            waiting.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        asked = pool.submit(ask, str(path), "status")
        for _ in waiting[:-1]:
            busy.accept()[0].close()
        with busy.accept()[0] as stream:
            stream.recv(4096)
            stream.sendall(GOOD)
        assert asked.result(20) == {"text": "done"}
    for stream in waiting:
        stream.close()


def test_a_daemon_that_accepts_nothing_is_not_waited_for_for_ever(path):
    waiting = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stopped:
        stopped.bind(str(path))
        stopped.listen(0)
        while not waiting or waiting[-1].connect_ex(str(path)) == 0:
            waiting.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        with pytest.raises(NoDaemon, match=r"no reply from .* in time"):
            ask(str(path), "status", patience=0.02)
    for stream in waiting:
        stream.close()


def test_a_daemon_that_has_no_room_is_heard_though_it_reads_nothing(path):
    with FalseDaemon(path, [protocol.refusal("1", Problem.BUSY, "too many")], reads=False) as daemon:
        with pytest.raises(Refused, match="too many") as caught:
            ask(daemon.path, "status")
        assert caught.value.problem is Problem.BUSY


def test_a_refusal_for_lack_of_permission_is_an_error_of_its_own(path):
    reply = protocol.refusal("1", Problem.PERMISSION, "only root")
    with FalseDaemon(path, [reply]) as daemon, pytest.raises(NotAllowed, match="only root"):
        ask(daemon.path, "reload")


def test_a_socket_that_may_not_be_opened_says_what_to_change(path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    with FalseDaemon(path, [GOOD]) as daemon:
        monkeypatch.setattr(control_client.socket.socket, "connect", refuse, raising=False)
        with pytest.raises(NotAllowed, match="may not be opened: its directory must be open to this user"):
            ask(daemon.path, "status")
