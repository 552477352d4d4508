"""Networks for tests: network namespaces with their own addresses, routes, firewall and names, on this machine alone.

They need root, and are removed at the end of the `with` in any case. Where they cannot be made, the test is skipped with the
reason.
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

_PATIENCE = 60.0
# `ip netns exec` mounts the files of this directory over those of /etc.
_ETC = Path("/etc/netns")


class NotPossibleError(Exception):
    """This machine does not permit the network."""


def run(*command: str) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    if done.returncode != 0:
        raise NotPossibleError(f"{' '.join(command)}: {done.stderr.strip()}")


def ip(*words: str) -> None:
    """Run `ip`."""
    run("ip", *words)


def inside(namespace: str) -> tuple[str, ...]:
    """The prefix of a command that runs in this namespace."""
    return ("ip", "netns", "exec", namespace)


def need_root_and(*programs: str) -> None:
    """Skip the test without root, or where one of these programs is missing."""
    for program in ("ip", *programs):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: `make peers` installs it where it may")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")


def add_namespace(name: str, device: str, addresses: list[str], cleanup: ExitStack) -> None:
    """Make a namespace with this device and these addresses."""
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
    """Two namespaces with a link between them; devices: one in each."""

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
            # Once in its namespace, the device is deleted with it; until then, delete it here.
            cleanup.callback(
                subprocess.run, ["ip", "link", "delete", made.devices[0]], capture_output=True, timeout=_PATIENCE, check=False
            )
            add_namespace(made.one, made.devices[0], addresses, cleanup)
            add_namespace(made.other, made.devices[1], other_addresses, cleanup)
        except NotPossibleError as error:
            pytest.skip(f"network namespaces cannot be made here: {error}")
        yield made


def set_kernel(namespace: str, **values: int) -> None:
    """Set values below /proc/sys/net in the namespace; `__` in a name stands for a slash."""
    for name, value in values.items():
        run(*inside(namespace), "sh", "-c", f"echo {value} >/proc/sys/net/{name.replace('__', '/')}")


@contextmanager
def etc(namespace: str, **files: str) -> Iterator[None]:
    """Replace files of /etc for programs in this namespace: `hosts="..."`, `resolv_conf="..."`."""
    directory = _ETC / namespace
    directory.mkdir(parents=True)
    try:
        for name, text in files.items():
            (directory / name.replace("_", ".")).write_text(text)
        yield
    finally:
        shutil.rmtree(directory)
        # Other namespaces may have files in it.
        with suppress(OSError):
            _ETC.rmdir()
