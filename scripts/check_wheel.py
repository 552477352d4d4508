"""Check the TSQ that this Python imports: all compiled modules load, AES works, and a client gets time of a server.

    python check_wheel.py [--inside] [--exchange]

Comes in: the Python that runs it; --inside: its TSQ has to have a libcrypto of its own; --exchange: run server and client, on the
loopback. Goes out: lines, or an error and a status of 1. It must never take modules of the directory that it lies in.
"""

import importlib
import importlib.machinery
import os
import pkgutil
import platform
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

if sys.path and sys.path[0] != sysconfig.get_path("purelib"):
    # This script's own directory.
    del sys.path[0]

import tsq

HEADER = bytes([0x41, *range(8), 0, 7])
PAYLOAD = bytes(range(256)) * 4
# For a processor that is emulated.
_SECONDS = 240


def compiled() -> int:
    """Load each compiled module; how many there are."""
    suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    loaded = 0
    for found in pkgutil.walk_packages(tsq.__path__, "tsq."):
        spec = found.module_finder.find_spec(found.name, None)  # type: ignore[call-arg]
        if spec is not None and spec.origin and spec.origin.endswith(suffixes):
            importlib.import_module(found.name)
            loaded += 1
    # On other systems than Linux, only what asks servers is built.
    least = 20 if sys.platform == "linux" else 6
    if loaded < least:
        raise SystemExit(f"check_wheel: {loaded} compiled modules found, at least {least} expected")
    return loaded


def aes() -> str:
    """Protect a packet with each implementation: the same bytes, which open again. What there is."""
    packet = importlib.import_module("tsq.dataplane.packet")
    first = packet.use_own_aes(True)
    own = packet.use_own_aes(True)
    for suite in packet.SUITES:
        size = 16 if suite == 0x1301 else 32
        sealed = set()
        for use in (own, False):
            packet.use_own_aes(use)
            keys = packet.PacketKeys(suite, bytes(range(size)), bytes(12), bytes(range(size, 2 * size)))
            one = keys.protect(HEADER, 7, PAYLOAD)
            sealed.add(one)
            opened = keys.open(one, len(HEADER) - 2, 7)
            if opened is None or opened[1] != 7 or PAYLOAD not in opened:
                raise SystemExit(f"check_wheel: a packet of suite {suite:#x} does not open")
        if len(sealed) != 1:
            raise SystemExit(f"check_wheel: two implementations of suite {suite:#x} differ")
    packet.use_own_aes(first)
    return "the processor's AES and libcrypto" if own else "libcrypto"


def libcrypto() -> str:
    """Which file of libcrypto the compiled modules use."""
    if not sys.platform.startswith("linux"):
        return "unknown"
    for line in Path("/proc/self/maps").read_text().splitlines():
        name = line.rpartition(" ")[2]
        if "libcrypto" in name and "tsq_time.libs" in name:
            return Path(name).name
    return "of the system"


def exchange() -> str:
    """A server and a client of what is installed; how far the exchanges came."""
    command = [sys.executable, "-m", "tsq"]
    with tempfile.TemporaryDirectory() as lab:
        serve = ["server", "--listen", "127.0.0.1:0", "--self-signed", f"{lab}/own", "--local-stratum", "1", "--workers", "1"]
        serve += ["--log-level", "error"]
        with subprocess.Popen([*command, *serve], stdout=subprocess.PIPE, text=True, cwd=lab) as server:
            try:
                said = server.stdout.readline() if server.stdout else ""
                if "listening on " not in said:
                    raise SystemExit(f"check_wheel: the server says {said!r}, its address expected")
                ask = ["client", said.split()[3], "--ca", f"{lab}/own/ca.pem", "--interval", "0"]
                done = subprocess.run([*command, *ask], stdout=subprocess.PIPE, text=True, timeout=_SECONDS, check=False, cwd=lab)
            finally:
                server.terminate()
    if done.returncode != 0 or " 3/3 " not in done.stdout:
        raise SystemExit(f"check_wheel: the client ended with {done.returncode}; 3 answers expected in:\n{done.stdout}")
    if server.returncode != 0:
        raise SystemExit(f"check_wheel: the server ended with {server.returncode}")
    return f"{platform.python_version()} on {os.uname().machine}: server and client, 3 of 3 answers"


def main() -> int:
    """Run the command."""
    count, found, library = compiled(), aes(), libcrypto()
    print(f"tsq {tsq.__version__}: {count} compiled modules; packets by {found}; libcrypto: {library}")
    if "--inside" in sys.argv[1:] and not library.startswith("libcrypto-"):
        print("check_wheel: a libcrypto inside the wheel expected", file=sys.stderr)
        return 1
    if "--exchange" in sys.argv[1:]:
        print(exchange())
    return 0


if __name__ == "__main__":
    sys.exit(main())
