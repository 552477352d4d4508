"""The state of the network: notices of the kernel, local addresses."""

import asyncio
import errno
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.namespaces import inside, ip, pair
from tests.support.open_files import left_open, open_files
from tsq.daemon import network_state
from tsq.daemon.network_state import NetworkWatch, has_network, local_address

ROOT = Path(__file__).parents[2]


def test_the_local_address_of_a_peer_is_the_one_that_packets_would_leave_from():
    assert local_address((socket.AF_INET, ("127.0.0.7", 9))) == "127.0.0.1"
    assert local_address((socket.AF_INET6, ("::1", 9, 0, 0))) == "::1"
    # A link-local address without its interface.
    assert local_address((socket.AF_INET6, ("fe80::1", 9, 0, 0))) is None


def within(namespace: str, expression: str) -> str:
    """What an expression gives in this namespace."""
    program = f"from tsq.daemon.network_state import *; print({expression})"
    command = [*inside(namespace), sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT).stdout.strip()


def test_a_network_is_a_route_to_others_or_an_address_that_they_can_reach():
    with pair(["192.0.2.1", "2001:db8::1"], ["192.0.2.2", "2001:db8::2"]) as made:
        assert within(made.one, "has_network()") == "True"
        ip("-n", made.one, "address", "flush", "dev", made.devices[0])
        assert within(made.one, "has_network()") == "False"
        ip("-n", made.one, "address", "add", "2001:db8::3/64", "nodad", "dev", made.devices[0])
        assert within(made.one, "has_network()") == "True"
        ip("-n", made.one, "link", "set", made.devices[0], "down")
        assert within(made.one, "has_network()") == "False"


def test_where_the_kernel_shows_no_routes_there_may_be_a_network(monkeypatch, tmp_path):
    monkeypatch.setattr(network_state, "_IPV4_ROUTES", tmp_path / "missing")
    assert has_network()


NOTICES = """
import asyncio, sys
from tsq.daemon.network_state import NetworkWatch
async def main():
    changes = asyncio.Queue()
    watch = NetworkWatch(lambda: changes.put_nowait(1))
    assert watch.start()
    print("started", flush=True)
    for _ in range(int(sys.argv[1])):
        await changes.get()
        print("changed", flush=True)
    watch.close()
asyncio.run(main())
"""


def test_each_change_of_the_network_is_noticed_once_for_many_notices():
    with pair(["192.0.2.1"], ["192.0.2.2"]) as made:
        command = [*inside(made.one), sys.executable, "-c", NOTICES, "3"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
            try:
                assert running.stdout.readline() == "started\n"
                for change in (
                    ("address", "add", "192.0.2.9/24", "dev", made.devices[0]),
                    ("route", "add", "198.51.100.0/24", "via", "192.0.2.2"),
                    ("link", "set", made.devices[0], "down"),
                ):
                    ip("-n", made.one, *change)
                    assert running.stdout.readline() == "changed\n"
                assert running.wait(20) == 0
            finally:
                running.kill()


def test_without_notices_it_goes_on_and_says_so(monkeypatch, caplog):
    real = socket.socket

    def refuse(family: int, *arguments: int) -> socket.socket:
        if family == socket.AF_NETLINK:
            raise OSError(errno.EAFNOSUPPORT, "not here")
        return real(family, *arguments)

    async def use() -> None:
        monkeypatch.setattr("tsq.daemon.network_state.socket.socket", refuse)
        watch = NetworkWatch(lambda: None)
        assert not watch.start()
        watch.close()
        monkeypatch.undo()

    with caplog.at_level("INFO"):
        asyncio.run(use())
    assert "not noticed" in caplog.text


def test_an_overrun_of_notices_is_a_notice_and_closing_leaves_nothing():
    before = open_files()

    class Overrun:
        def __init__(self) -> None:
            self.errors = [OSError(errno.ENOBUFS, "overrun"), BlockingIOError()]

        def recv(self, size: int) -> bytes:
            raise self.errors.pop(0)

    async def use() -> None:
        changed = asyncio.Event()
        watch = NetworkWatch(changed.set)
        assert watch.start()
        kept, watch._socket = watch._socket, Overrun()
        watch._noticed()
        watch._noticed()
        watch._socket = kept
        async with asyncio.timeout(20):
            await changed.wait()
        watch._noticed()
        watch.close()
        watch.close()

    asyncio.run(use())
    assert left_open(before) == 0


@pytest.mark.parametrize("content", ["", "Iface\tDestination\nlo\t00000000\n"])
def test_a_loopback_route_is_no_network(monkeypatch, tmp_path, content):
    routes, addresses = tmp_path / "route", tmp_path / "if_inet6"
    routes.write_text(content)
    addresses.write_text("".join(f"{address:032x} 01 80 {scope} 80 any\n" for address, scope in ((1, 10), (0xFE80 << 112 | 1, 20))))
    monkeypatch.setattr(network_state, "_IPV4_ROUTES", routes)
    monkeypatch.setattr(network_state, "_IPV6_ADDRESSES", addresses)
    assert not has_network()
