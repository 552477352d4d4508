"""Notifications to a real Unix socket, and sockets that are passed as the service manager passes them."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tsq.host.systemd import Notifier, listen_sockets


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path) -> Iterator[socket.socket]:
    """The service manager's socket."""
    name = str(tmp_path / "notify") if request.param == "path" else f"\0tsq-test-{os.getpid()}-{request.node.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as it:
        it.bind(name)
        it.settimeout(20)
        yield it


def environment(manager: socket.socket, **more: str) -> dict[str, str]:
    name = manager.getsockname()
    return {"NOTIFY_SOCKET": name if isinstance(name, str) else "@" + name[1:].decode(), **more}


def received(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def test_each_notification_is_a_datagram(manager):
    notifier = Notifier(environment(manager, WATCHDOG_USEC="3000000"))
    assert notifier.listens
    assert notifier.watchdog_interval == 1.5
    assert notifier.ready("listening\non  2 addresses")
    assert received(manager) == ["READY=1", "STATUS=listening on 2 addresses"]
    assert notifier.status("12 connections ± 1")
    assert received(manager) == ["STATUS=12 connections ± 1"]
    assert notifier.watchdog()
    assert received(manager) == ["WATCHDOG=1"]
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert notifier.reloading()
    kind, stamp = received(manager)
    assert kind == "RELOADING=1"
    assert before <= int(stamp.removeprefix("MONOTONIC_USEC=")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert notifier.ready()
    assert received(manager) == ["READY=1"]
    assert notifier.stopping("closing")
    assert received(manager) == ["STOPPING=1", "STATUS=closing"]
    notifier.close()
    assert notifier.status("again"), "it opens again"
    assert received(manager) == ["STATUS=again"]
    notifier.close()


def test_the_same_status_is_not_sent_twice_and_a_long_one_is_cut(manager):
    notifier = Notifier(environment(manager))
    assert notifier.status("same")
    assert not notifier.status("same")
    assert notifier.status("x" * 5000)
    assert received(manager) == ["STATUS=same"]
    assert received(manager) == ["STATUS=" + "x" * 500]
    notifier.close()


def test_a_full_queue_and_a_manager_that_is_gone_delay_and_fail_nothing(tmp_path):
    place = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(place)
        notifier = Notifier({"NOTIFY_SOCKET": place, "WATCHDOG_USEC": "1000"})
        sent = 0
        while notifier.watchdog():
            sent += 1
            assert sent < 100_000
        assert sent > 0
    assert not notifier.watchdog()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        os.unlink(place)
        manager.bind(place)
        assert notifier.watchdog(), "a new manager hears it"
    notifier.close()


@pytest.mark.parametrize("place", ["", "@", "relative", "vsock:2:1234", "/no/such/place"])
def test_without_a_manager_nothing_is_sent(place):
    notifier = Notifier({"NOTIFY_SOCKET": place, "WATCHDOG_USEC": "1000000"})
    assert not any([notifier.ready("x"), notifier.status("y"), notifier.watchdog(), notifier.reloading(), notifier.stopping()])
    assert notifier.listens is place.startswith("/")
    notifier.close()


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        ("1000000", "", 0.5), ("1000000", str(os.getpid()), 0.5), ("1000000", "1", None), ("", "", None), ("0", "", None),
        ("-5", "", None), ("1e6", "", None), ("x", "", None), ("9" * 30, "", None), ("٣", "", None),
    ],
)
def test_the_watchdogs_interval(usec, pid, interval):
    assert Notifier({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}).watchdog_interval == interval


# Passes descriptors from 3 on as systemd does, to the Python code in its arguments: the same process, so that LISTEN_PID is right.
LAUNCH = """
import os, sys
names, code, *fds = sys.argv[1:]
count = len(fds)
spare = [os.dup2(int(fd), 100 + at) for at, fd in enumerate(fds)]
for at, fd in enumerate(spare):
    os.dup2(fd, 3 + at, inheritable=True)
    os.close(fd)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count), LISTEN_FDNAMES=names)
os.execv(sys.executable, [sys.executable, "-c", code])
"""
SHOW = """
import os
from tsq.errors import ConfigError
from tsq.host.systemd import listen_sockets
try:
    for name, sockets in listen_sockets().items():
        for one in sockets:
            print(name, one.fileno(), one.family.name, one.type.name, one.getsockname()[-1], os.get_inheritable(one.fileno()),
                  one.getblocking())
except ConfigError as error:
    print(error)
"""


def launched(names: str, *files, code: str = SHOW) -> str:
    fds = [file.fileno() for file in files]
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, names, code, *map(str, fds)],
        pass_fds=fds, capture_output=True, text=True, timeout=60, check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_passed_sockets_have_their_names_and_are_not_inherited(tmp_path):
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control,
    ):
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        control.bind(str(tmp_path / "c"))
        ports = [each.getsockname()[1] for each in (one, two)]
        assert launched("ntp:control:ntp", one, control, two).splitlines() == [
            f"ntp 3 AF_INET SOCK_DGRAM {ports[0]} False False",
            f"ntp 5 AF_INET SOCK_DGRAM {ports[1]} False False",
            "control 4 AF_UNIX SOCK_STREAM c False False",
        ]
        assert launched("", one).startswith("unknown 3 ")
        assert "unknown 4 " in launched("only", one, two)


def test_a_descriptor_that_is_no_socket_is_an_error(tmp_path):
    with open(tmp_path / "file", "w") as file, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        out = launched("a:b", one, file)
    assert out.startswith("descriptor 4 ('b'), which the service manager passed, cannot be used: Socket operation on non-socket ")
    assert out.endswith("(expected a socket)\n")


@pytest.mark.parametrize(
    "more",
    [
        {}, {"LISTEN_PID": "1"}, {"LISTEN_PID": ""}, {"LISTEN_FDS": ""}, {"LISTEN_FDS": "0"}, {"LISTEN_FDS": "-1"},
        {"LISTEN_FDS": "x"}, {"LISTEN_FDS": "99999"}, {"LISTEN_FDS": "999999999"},
    ],
)
def test_what_is_not_for_this_process_or_makes_no_sense_is_no_socket(more):
    mine = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"} if more else {}
    assert listen_sockets(mine | more) == {}


def test_a_descriptor_that_is_not_open_is_an_error():
    code = SHOW.replace("listen_sockets()", "listen_sockets({**os.environ, 'LISTEN_FDS': '700'})")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        assert launched("", one, code=code).startswith("descriptor 4 ('unknown'), which the service manager passed, cannot be ")
