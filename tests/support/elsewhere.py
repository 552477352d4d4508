"""Python as on another system: `python -m tests.support.elsewhere SYSTEM COMMAND [options]` runs a command of TSQ on it.

Comes in: "darwin" or "freebsd15". Goes out: this process without Linux's names, and without the modules that are built on Linux
only. Its sockets are Linux's, as the portable calls use them. It must never be used in a process that has loaded TSQ.
"""

import ast
import select
import selectors
import socket
import sys
import time
from importlib.abc import MetaPathFinder
from pathlib import Path

ROOT = Path(__file__).parents[2]
SYSTEMS = ("darwin", "freebsd15")
# What the standard library has on Linux, and these systems lack (the availability notes of its documentation).
LINUX_ONLY = {
    select: ("epoll", "EPOLLIN", "EPOLLOUT", "EPOLLERR", "EPOLLHUP", "EPOLLET", "EPOLL_CLOEXEC"),
    socket: ("SO_INCOMING_CPU", "SO_MARK", "SOCK_NONBLOCK", "SOCK_CLOEXEC", "MSG_ERRQUEUE", "AF_NETLINK", "AF_PACKET"),
    time: ("CLOCK_BOOTTIME", "CLOCK_TAI"),
}


def modules(name: str) -> tuple[str, ...]:
    """setup.py's list PORTABLE or LINUX."""
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return tuple(ast.literal_eval(node.value))
    raise AssertionError(name)


class NotBuilt(MetaPathFinder):
    """Finds none of the modules that are built on Linux only."""

    absent = frozenset(modules("LINUX"))

    def find_spec(self, name, path=None, target=None):
        if name in self.absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def become(system: str) -> None:
    """Take away what the system lacks."""
    assert "tsq" not in sys.modules
    assert system in SYSTEMS
    sys.meta_path.insert(0, NotBuilt())
    for module, names in LINUX_ONLY.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    # Theirs is kqueue's, which Linux lacks; poll(2) is everywhere.
    selectors.DefaultSelector = selectors.PollSelector
    if system != "darwin":
        del time.CLOCK_MONOTONIC_RAW
    # Before it is another system's: the standard library would load modules that are not there.
    import asyncio  # noqa: F401, PLC0415

    sys.platform = system


if __name__ == "__main__":
    become(sys.argv[1])
    from tsq.cli import start

    sys.exit(start.package(sys.argv[2:]))
