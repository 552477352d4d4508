"""The control socket: commands, who may give them, hostile clients, the socket's file."""

import asyncio
import errno
import grp
import json
import os
import pwd
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.control import SOURCES, STATUS, ControlThread
from tsq.daemon import control
from tsq.daemon import control_protocol as protocol
from tsq.daemon.control_client import ask
from tsq.daemon.control_protocol import Problem, Refused
from tsq.discipline.events import Burst, MakeStepNow, SetOnline, Unfreeze
from tsq.discipline.settings import Mode
from tsq.discipline.status import Status
from tsq.errors import AlreadyRunning, ConfigError, NoDaemon

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a program as another user")
OTHER, OTHER_GROUP, THIRD_GROUP = 65533, 65533, 65532


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that other users can reach; `tmp_path` is closed to them."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def served(directory) -> Iterator[ControlThread]:
    with ControlThread(directory / "control") as running:
        yield running


def raw(path: str) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stream.settimeout(20)
    stream.connect(path)
    return stream


def all_of(stream: socket.socket) -> bytes:
    """What comes until the other side closes."""
    data = b""
    while True:
        try:
            part = stream.recv(65536)
        except ConnectionResetError:
            # It closed without having read everything.
            return data
        if not part:
            return data
        data += part


def sent(path: str, data: bytes) -> dict:
    """The reply to these bytes."""
    with raw(path) as stream:
        stream.sendall(data, socket.MSG_NOSIGNAL)
        return json.loads(all_of(stream))


def refused(path: str, command: str, **arguments) -> Refused:
    with pytest.raises(Refused) as caught:
        ask(path, command, arguments)
    return caught.value


# -------------------------------------------------------------------------------------------------------------- commands


def test_the_status_is_that_of_the_daemon_bit_for_bit(served):
    found = ask(served.path, "status")
    assert found["tracking"]["bound"] == STATUS.tracking.bound
    assert found["tracking"]["real_ns"] == STATUS.tracking.real_ns
    assert found["tracking"]["mode"] == "steer"
    assert [source["name"] for source in found["sources"]] == [source.name for source in SOURCES]
    assert found["sources"][2]["offset"] is None


def test_a_number_that_json_lacks_is_null(served):
    served.handler.change(bound=float("inf"), offset=float("nan"))
    tracking = ask(served.path, "status")["tracking"]
    assert (tracking["bound"], tracking["offset"]) == (None, None)


@pytest.mark.parametrize(
    ("command", "arguments", "event"),
    [
        ("burst", {}, Burst("", 4)),
        ("burst", {"name": SOURCES[1].name, "count": 32}, Burst(SOURCES[1].name, 32)),
        ("burst", {"name": "192.0.2.1"}, Burst(SOURCES[0].name, 4)),
        ("online", {}, SetOnline(True)),
        ("online", {"name": SOURCES[0].name}, SetOnline(True, SOURCES[0].name)),
        ("offline", {"name": ""}, SetOnline(False)),
        ("makestep", {}, MakeStepNow()),
        ("unfreeze", {}, Unfreeze()),
    ],
)
def test_a_command_that_changes_something_is_an_event(served, command, arguments, event):
    assert ask(served.path, command, arguments)["text"]
    assert served.handler.events == [event]


def test_a_source_that_does_not_exist_is_refused_with_those_that_do(served):
    error = refused(served.path, "burst", name="time-c.example")
    assert error.problem is Problem.ARGUMENT
    assert str(error).startswith("no source 'time-c.example' (expected time-a.example:443, time-b.example:443, a-very")
    served.handler.given = Status(STATUS.tracking)
    assert "there is none" in str(refused(served.path, "offline", name="x"))
    assert served.handler.events == []


def test_what_is_changed_is_logged_and_a_name_cannot_forge_a_line(served, caplog):
    caplog.set_level("INFO", "tsq.control")
    ask(served.path, "online", {"name": SOURCES[0].name})
    refused(served.path, "offline", name="x\ntsqd: the clock is wrong")
    ask(served.path, "status")
    who = f"(user {os.geteuid()}, process {os.getpid()})"
    assert [record.getMessage() for record in caplog.records] == [
        f"control: online 'time-a.example:443' {who}", f"control: offline 'x\\ntsqd: the clock is wrong' {who}",
    ]  # fmt: skip


def test_an_address_that_two_sources_have_names_neither(served):
    served.handler.given = Status(STATUS.tracking, (SOURCES[0], replace(SOURCES[0], name="other")))
    assert refused(served.path, "burst", name="192.0.2.1").problem is Problem.ARGUMENT


@pytest.mark.parametrize("mode", [Mode.FEED, Mode.OBSERVE])
def test_a_daemon_that_does_not_steer_makes_no_step(served, mode):
    served.handler.change(mode=mode)
    error = refused(served.path, "makestep")
    assert error.problem is Problem.FAILED
    assert f"mode {mode}" in str(error)
    assert served.handler.events == []


def test_there_is_no_step_before_anything_was_measured(served):
    served.handler.change(offset=None)
    assert "nothing has been measured" in str(refused(served.path, "makestep"))


def test_unfreezing_says_what_it_was(served):
    assert ask(served.path, "unfreeze")["text"] == "the clock was not frozen"
    served.handler.change(frozen="an offset of 2000 s")
    assert ask(served.path, "unfreeze")["text"] == "unfrozen; it was frozen: an offset of 2000 s"


def test_texts_are_those_of_the_daemon(served):
    assert ask(served.path, "metrics") == {"text": "tsq_up 1\n"}
    assert ask(served.path, "dump") == {"text": '{"samples": []}'}
    assert ask(served.path, "reload") == {"text": "nothing changed"}


def test_a_reload_that_fails_says_why_and_the_daemon_goes_on(served, caplog):
    served.handler.reloads += [ConfigError("tsqd.toml:3: minpol", expected="minpoll"), ValueError("a fault of the program")]
    assert str(refused(served.path, "reload")) == "tsqd.toml:3: minpol (expected minpoll)"
    assert "its log has the details" in str(refused(served.path, "reload"))
    assert "a fault of the program" in caplog.text
    assert ask(served.path, "reload")["text"] == "nothing changed"


def test_a_reload_may_close_the_socket_that_it_came_over(served):
    async def reload() -> str:
        await served.server.close()
        return "closed"

    served.handler.reload = reload
    assert ask(served.path, "reload") == {"text": "closed"}
    with pytest.raises(NoDaemon):
        ask(served.path, "status")


def test_a_reply_that_is_too_large_is_an_error_in_its_place(served):
    served.handler.text = "x" * protocol.MAX_REPLY
    assert "at most 4194304" in str(refused(served.path, "metrics"))
    served.handler.text = "x" * (protocol.MAX_REPLY - 200)
    assert len(ask(served.path, "metrics")["text"]) == protocol.MAX_REPLY - 200


# ------------------------------------------------------------------------------------------------------- who may do what

# The interpreter may be closed to other users: it becomes one when it runs.
BECOME = """
import json, os, socket, sys
user, group, groups = json.loads(sys.argv[3])
os.setgroups(groups)
os.setgid(group)
os.setuid(user)
"""
AS_ANOTHER = f"""{BECOME}
stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
stream.connect(sys.argv[1])
data = b""
try:
    stream.sendall(sys.argv[2].encode() + b"\\n")
except BrokenPipeError:
    pass
while not data.endswith(b"\\n"):
    data += stream.recv(65536)
sys.stdout.buffer.write(data)
"""


def as_another(path: str, command: str, user: int = OTHER, group: int = OTHER_GROUP, groups: tuple[int, ...] = ()) -> dict:
    """The reply to a process of another user."""
    line = json.dumps({"version": 1, "command": command})
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", AS_ANOTHER, path, line, json.dumps([user, group, groups])],
        capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


@needs_root
@pytest.mark.parametrize("command", protocol.READING)
def test_everybody_may_read(served, command):
    assert as_another(served.path, command)["ok"]


@needs_root
@pytest.mark.parametrize("command", protocol.CHANGING)
def test_other_users_may_change_nothing_and_learn_who_may(served, command, caplog):
    reply = as_another(served.path, command)
    assert (reply["ok"], reply["problem"]) == (False, "permission")
    assert reply["error"] == (
        f"user {OTHER} may not give the command {command} (expected root): to let a group do it, set [control] group in the "
        "daemon's configuration"
    )
    assert served.handler.events == []
    assert f"{command} refused (user {OTHER}, process " in caplog.text


@needs_root
@pytest.mark.parametrize(
    ("group", "groups", "allowed"),
    [
        (OTHER_GROUP, (), False), (THIRD_GROUP, (), False), (OTHER_GROUP, (THIRD_GROUP,), False), ("its", (), True),
        (OTHER_GROUP, ("its",), True), (OTHER_GROUP, (*range(5000, 5040), "its"), True),
    ],
    ids=["none", "another", "another more", "main", "supplementary", "many"],
)  # fmt: skip
def test_members_of_the_group_may_change_things(directory, group, groups, allowed):
    its = next(one for one in grp.getgrall() if one.gr_gid not in (0, OTHER_GROUP, THIRD_GROUP))
    numbers = tuple(its.gr_gid if one == "its" else one for one in groups)
    with ControlThread(directory / "control", group=its.gr_name) as served:
        reply = as_another(served.path, "unfreeze", group=its.gr_gid if group == "its" else group, groups=numbers)
        assert reply["ok"] is allowed
        assert served.handler.events == ([Unfreeze()] if allowed else [])
        if not allowed:
            assert f"(expected root, or a member of the group {its.gr_name})" in reply["error"]


@needs_root
def test_the_daemons_own_user_may_change_things(served, monkeypatch):
    assert not as_another(served.path, "unfreeze")["ok"]
    monkeypatch.setattr(control.os, "geteuid", lambda: OTHER)
    assert as_another(served.path, "unfreeze")["ok"]
    assert ask(served.path, "unfreeze")["text"], "and root still may"


def test_the_group_database_says_the_groups_where_the_kernel_does_not():
    class Stream:
        def getsockopt(self, level, option, size):
            if option == socket.SO_PEERCRED:
                me = pwd.getpwuid(os.getuid())
                return struct.pack("=iII", 7, me.pw_uid, me.pw_gid)
            raise OSError(errno.ENOPROTOOPT, "not known")

    peer = control.peer_of(Stream())
    me = pwd.getpwuid(os.getuid())
    assert (peer.pid, peer.uid, peer.groups) == (7, me.pw_uid, frozenset(os.getgrouplist(me.pw_name, me.pw_gid)))


def test_a_user_without_a_name_has_its_own_group_only():
    class Stream:
        def getsockopt(self, level, option, size):
            if option == socket.SO_PEERCRED:
                return struct.pack("=iII", 7, 4_000_000_001, 4_000_000_002)
            raise OSError(errno.ERANGE, "too many")

    assert control.peer_of(Stream()).groups == {4_000_000_002}


def test_a_group_that_does_not_exist_is_an_error_at_the_start(directory):
    with pytest.raises(ConfigError, match="group 'no-such-group' does not exist"), ControlThread(
        directory / "control", group="no-such-group"
    ):
        pass
    assert not (directory / "control").exists()


# ------------------------------------------------------------------------------------------------------- hostile clients


@pytest.mark.parametrize(
    "data",
    [
        b"\n", b"\0\n", b"\xff" * 100 + b"\n", b"[" * 4095 + b"\n", b"x" * 4096, b"x" * 100_000, b'{"version": 1}\n',
        b'{"version": 1, "command": "status", "arguments": {"name": "x"}}\n', b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=lambda data: repr(data[:12]),
)  # fmt: skip
def test_garbage_gets_one_reply_that_refuses_it(served, data):
    reply = sent(served.path, data)
    assert reply["ok"] is False
    assert reply["problem"] in tuple(Problem)
    assert ask(served.path, "status"), "and the daemon goes on"


def test_a_request_in_parts_is_one_and_what_follows_it_is_ignored(served):
    with raw(served.path) as stream:
        for byte in protocol.request("metrics"):
            stream.send(bytes([byte]))
        assert json.loads(all_of(stream))["result"] == {"text": "tsq_up 1\n"}
    assert sent(served.path, protocol.request("metrics") + protocol.request("reload"))["result"] == {"text": "tsq_up 1\n"}


@pytest.mark.parametrize("data", [b"", b'{"version": 1'])
def test_a_client_that_leaves_early_is_forgotten(served, data):
    with raw(served.path) as stream:
        stream.sendall(data)
        stream.shutdown(socket.SHUT_WR)
        reply = all_of(stream)
    assert not reply if not data else json.loads(reply)["problem"] == "malformed"
    assert_idle(served)


@pytest.mark.parametrize("data", [b"", b'{"version": 1'])
def test_a_client_that_says_nothing_is_disconnected(served, monkeypatch, data):
    monkeypatch.setattr(control, "_PATIENCE_S", 0.05)
    with raw(served.path) as stream:
        stream.sendall(data)
        assert all_of(stream) == b""
    assert_idle(served)


def test_a_client_that_does_not_read_is_disconnected(served, monkeypatch):
    # Long enough for the request to be read on a busy machine.
    monkeypatch.setattr(control, "_PATIENCE_S", 0.5)
    served.handler.text = "x" * 4_000_000
    with raw(served.path) as stream:
        stream.sendall(protocol.request("metrics"))
        assert_idle(served)
        reply = all_of(stream)
    assert 0 < len(reply) < 4_000_000


def test_connections_are_limited_and_one_that_ends_makes_room(served):
    held = [raw(served.path) for _ in range(control._MOST_CHANGERS)]
    try:
        # One that is served after all of them.
        assert sent(served.path, b"")["problem"] == "busy"
        error = refused(served.path, "status")
        assert error.problem is Problem.BUSY
        held.pop().close()
        served.run(lambda: one_ends(served))
        assert ask(served.path, "metrics")
    finally:
        for stream in held:
            stream.close()
    assert_idle(served)


HOLDS = f"""{BECOME}
streams = []
for _ in range(int(sys.argv[2])):
    streams.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    streams[-1].connect(sys.argv[1])
    streams[-1].sendall(b"x")
print(streams[-1].recv(65536).decode(), flush=True)
sys.stdin.read()
"""


@needs_root
def test_a_user_who_takes_all_its_connections_keeps_no_other_user_out(served):
    """It has one connection more than it may have, and holds the others."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", HOLDS, served.path, str(control._MOST_OF_ONE_USER + 1), f"[{OTHER}, {OTHER_GROUP}, []]"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert json.loads(process.stdout.readline())["problem"] == "busy"
        assert as_another(served.path, "status")["problem"] == "busy"
        assert as_another(served.path, "status", user=OTHER - 1)["ok"]
        assert ask(served.path, "unfreeze")
    finally:
        process.communicate(timeout=20)
    assert_idle(served)


FLOODS = f"""{BECOME}
answers = []
for _ in range(int(sys.argv[2])):
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stream.connect(sys.argv[1])
    try:
        stream.sendall(b'{{"version": 1, "command": "metrics"}}\\n')
    except BrokenPipeError:
        pass
    answers.append(json.loads(stream.recv(65536)).get("problem", "none"))
print(json.dumps(answers))
"""


@needs_root
def test_a_user_who_asks_too_often_is_refused_and_no_other_user_is(directory, monkeypatch):
    monkeypatch.setattr(control, "_USER_RATE", 0.0)
    burst = int(control._USER_BURST)
    with ControlThread(directory / "control") as served:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", FLOODS, served.path, str(burst + 20), f"[{OTHER}, {OTHER_GROUP}, []]"],
            capture_output=True, timeout=60, check=True,
        )  # fmt: skip
        assert json.loads(done.stdout) == ["none"] * burst + ["busy"] * 20
        assert as_another(served.path, "status", user=OTHER - 1)["ok"]
        for _ in range(burst + 1):
            assert ask(served.path, "metrics"), "root is not limited"


def test_the_users_that_are_remembered_are_limited(served, monkeypatch):
    monkeypatch.setattr(control, "_USER_RATE", 0.0)
    monkeypatch.setattr(control, "_USER_BURST", 1.0)
    monkeypatch.setattr(control, "_MOST_USERS", 2)

    async def ask_as(*users: int) -> list[bool]:
        return [served.server._in_time(user) for user in users]

    assert served.run(lambda: ask_as(1, 1, 2, 1)) == [True, False, True, False]
    # The third one makes the daemon forget the one that was not seen for longest, which is 2.
    assert served.run(lambda: ask_as(3, 1, 2)) == [True, False, True]


def test_more_connections_than_a_second_may_have_are_served_later(directory, monkeypatch):
    """More than the burst, at once: none is lost."""
    monkeypatch.setattr(control, "_ACCEPT_BURST", 5.0)
    monkeypatch.setattr(control, "_ACCEPT_RATE", 50.0)
    with ControlThread(directory / "control") as served:
        for _ in range(15):
            assert ask(served.path, "metrics")


def test_a_daemon_without_a_free_descriptor_accepts_later(served, caplog):
    class Failing:
        """As the listening socket, and fails once."""

        def __init__(self, stream: socket.socket) -> None:
            self._stream, self._left = stream, 1

        def accept(self):
            if self._left:
                self._left -= 1
                raise OSError(errno.EMFILE, "Too many open files")
            return self._stream.accept()

        def __getattr__(self, name):
            return getattr(self._stream, name)

    async def replace() -> None:
        served.server._listening = Failing(served.server._listening)

    served.run(replace)
    assert ask(served.path, "metrics")
    assert "no connection can be accepted: Too many open files" in caplog.text


def test_closing_disconnects_those_who_wait(directory):
    with ControlThread(directory / "control") as served, raw(served.path) as stream:
        ask(served.path, "metrics")
        served.close()
        assert all_of(stream) == b""


def assert_idle(served: ControlThread) -> None:
    """All connections end, and none is counted any more."""

    async def ended() -> tuple[int, int]:
        while served.server._tasks:
            await asyncio.wait(served.server._tasks)
        return len(served.server._tasks), sum(served.server._users.values())

    assert served.run(ended) == (0, 0)


async def one_ends(served: ControlThread) -> None:
    """A connection less than there may be."""
    while len(served.server._tasks) == control._MOST_CHANGERS:
        await asyncio.wait(served.server._tasks, return_when=asyncio.FIRST_COMPLETED)


# ------------------------------------------------------------------------------------------------------ the socket's file


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_everybody_may_open_the_socket_whatever_the_umask(directory, mask):
    before = os.umask(mask)
    try:
        with ControlThread(directory / "control") as served:
            assert stat.S_IMODE(os.lstat(served.path).st_mode) == 0o666
    finally:
        os.umask(before)


def test_the_file_is_removed_at_the_end_and_nothing_else_is_left(directory):
    with ControlThread(directory / "control"):
        assert os.listdir(directory) == ["control"]
    assert os.listdir(directory) == []


def test_the_socket_of_a_dead_daemon_is_replaced(directory):
    path = str(directory / "control")
    for leftover in (path, f"{path}.new"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
            dead.bind(leftover)
    with ControlThread(path) as served:
        assert ask(served.path, "metrics")


def test_the_socket_of_a_live_daemon_is_refused(served):
    with pytest.raises(AlreadyRunning, match=r"another daemon listens at .*end it first"), ControlThread(served.path):
        pass
    assert ask(served.path, "metrics"), "and it still listens"


def test_a_live_daemon_whose_queue_is_full_is_refused(directory):
    path = str(directory / "control")
    waiting = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as live:
        live.bind(path)
        live.listen(0)
        try:
            while not waiting or waiting[-1].connect_ex(path) == 0:
                waiting.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            with pytest.raises(AlreadyRunning), ControlThread(path):
                pass
        finally:
            for stream in waiting:
                stream.close()


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: path.write_text("text"), "a regular file"),
        (lambda path: path.mkdir(), "a directory"),
        (lambda path: path.symlink_to("/dev/null"), "a symbolic link"),
        (os.mkfifo, "a FIFO"),
    ],
    ids=["file", "directory", "link", "fifo"],
)
def test_something_else_at_the_path_is_left_alone(directory, make, kind):
    path = directory / "control"
    make(path)
    before = os.lstat(path)
    with pytest.raises(ConfigError, match=f"is {kind} .expected a socket, or nothing.: remove it"), ControlThread(path):
        pass
    assert os.lstat(path).st_ino == before.st_ino


def test_a_directory_that_is_missing_is_named(directory):
    with pytest.raises(ConfigError, match=f"no directory {directory}/run: create it, or let systemd"), ControlThread(
        directory / "run" / "control"
    ):
        pass


@pytest.mark.parametrize("path", ["control", "/" + "x" * 110], ids=["relative", "long"])
def test_a_path_that_cannot_be_a_socket_is_refused(path):
    with pytest.raises(ConfigError, match="expected an absolute path of at most 103 bytes"), ControlThread(path):
        pass


def test_a_directory_that_does_not_allow_it_says_so():
    with pytest.raises(ConfigError, match=r"socket /proc/control: .*: name a path that"), ControlThread("/proc/control"):
        pass


def test_the_socket_of_another_daemon_is_not_removed(directory):
    path = directory / "control"
    with ControlThread(path) as first:
        path.unlink()
        with ControlThread(path) as second:
            first.close()
            assert ask(second.path, "metrics")


def test_without_a_path_there_is_no_socket():
    with ControlThread("") as served:
        assert served.server._listening is None


def test_a_socket_that_systemd_opened_is_used_and_left(directory):
    path = str(directory / "activated")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as given:
        given.bind(path)
        given.listen()
        for _ in range(2):
            # As before and after a reload.
            with ControlThread("/nowhere/control", listening=given):
                assert ask(path, "metrics")
        assert os.path.exists(path)


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_passed_socket_of_another_kind_is_refused(family, kind):
    """None of them listens."""
    with socket.socket(family, kind) as given:
        served = ControlThread("/nowhere/control", listening=given)
        with pytest.raises(ConfigError, match="expected ListenStream= with a path"), served:
            pass


@pytest.mark.parametrize(("mode", "refused"), [(0o777, True), (0o733, True), (0o1777, False), (0o775, False)])
def test_a_directory_where_every_user_could_replace_the_socket_is_refused(directory, mode, refused):
    directory.chmod(mode)
    served = ControlThread(directory / "control")
    outcome = pytest.raises(ConfigError, match=f"mode {mode:04o}. .expected mode 0755") if refused else nullcontext()
    with outcome, served:
        assert ask(served.path, "metrics")

