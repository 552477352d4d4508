"""Networks of a test's own: namespaces with their own addresses, routes, firewall and names, on this machine alone.

Made as root, and removed with everything in them at the end of the `with`, whatever happened in it. Where they cannot be made, the
test that wants one is skipped with the reason.
"""

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

_PATIENCE = 20.0
# What `ip netns exec` puts in the place of /etc's own files for programs in the namespace.
_ETC = Path("/etc/netns")


class NotPossibleError(Exception):
    """This machine does not let us make the network."""


def run(*command: str) -> None:
    """A command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    if done.returncode != 0:
        raise NotPossibleError(f"{' '.join(command)}: {done.stderr.strip()}")


def ip(*words: str) -> None:
    """The command `ip`."""
    run("ip", *words)


def inside(namespace: str) -> tuple[str, ...]:
    """What to put before a command so that it runs in this namespace."""
    return ("ip", "netns", "exec", namespace)


def need_root_and(*programs: str) -> None:
    """Skip where a network cannot be made, or one of these programs is missing."""
    for program in ("ip", *programs):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: `make peers` installs it where it may")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")


def add_namespace(name: str, device: str, addresses: list[str], cleanup: ExitStack) -> None:
    """A namespace with this device and these addresses on it."""
    ip("netns", "add", name)
    cleanup.callback(ip, "netns", "delete", name)
    ip("link", "set", device, "netns", name)
    for address in addresses:
        # No duplicate address detection: the address is there at once.
        prefix = [f"{address}/64", "nodad"] if ":" in address else [f"{address}/24"]
        ip("-n", name, "address", "add", *prefix, "dev", device)
    for interface in ("lo", device):
        ip("-n", name, "link", "set", interface, "up")


@dataclass(frozen=True)
class Pair:
    """Two namespaces with a link between them, and the device of each."""

    one: str
    other: str
    devices: tuple[str, str]


@contextmanager
def pair(addresses: list[str], other_addresses: list[str]) -> Iterator[Pair]:
    """Two namespaces with these addresses."""
    need_root_and()
    tag = secrets.token_hex(3)
    made = Pair(f"tsq-{tag}-a", f"tsq-{tag}-b", (f"tsq{tag}a", f"tsq{tag}b"))
    with ExitStack() as cleanup:
        try:
            ip("link", "add", made.devices[0], "type", "veth", "peer", "name", made.devices[1])
            # Goes with its namespace once it is there; until then by hand.
            cleanup.callback(
                subprocess.run, ["ip", "link", "delete", made.devices[0]], capture_output=True, timeout=_PATIENCE, check=False
            )
            add_namespace(made.one, made.devices[0], addresses, cleanup)
            add_namespace(made.other, made.devices[1], other_addresses, cleanup)
        except NotPossibleError as error:
            pytest.skip(f"network namespaces cannot be made here: {error}")
        yield made


def set_kernel(namespace: str, **values: int) -> None:
    """Settings of the namespace's own network, named after /proc/sys/net with `__` for a slash."""
    for name, value in values.items():
        run(*inside(namespace), "sh", "-c", f"echo {value} >/proc/sys/net/{name.replace('__', '/')}")


@contextmanager
def etc(namespace: str, **files: str) -> Iterator[None]:
    """Files of /etc as programs in this namespace see them: `hosts="..."`, `resolv_conf="..."`."""
    directory = _ETC / namespace
    directory.mkdir(parents=True)
    try:
        for name, text in files.items():
            (directory / name.replace("_", ".")).write_text(text)
        yield
    finally:
        shutil.rmtree(directory)
        # Others may have theirs in it.
        with suppress(OSError):
            _ETC.rmdir()
