"""On what a run was measured: machine, kernel, versions of everything that took part.

Comes in: nothing. Goes out: names and texts. It must never name a host or a user.
"""

import importlib.metadata
import json
import os
import platform
import re
import ssl
import subprocess
from pathlib import Path

from cryptography.hazmat.backends.openssl import backend

from benchmarks.processes import QUICHE, have

_PACKAGES = ("aioquic", "cryptography", "qh3", "pyopenssl")


def describe() -> dict[str, str]:
    """All that is known."""
    found = {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": _memory(),
        "kernel": f"{platform.system()} {re.findall(r'^[0-9.]+', platform.release())[0]}",
        "interpreter": f"{platform.python_implementation()} {platform.python_version()}",
        "its library": ssl.OPENSSL_VERSION,
        "cryptography's": backend.openssl_version_text(),
    }
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if have("chronyd"):
        found["chronyd"] = (re.findall(r"version (\S+)", _said("chronyd", "--version")) or ["unknown"])[0]
    if have("cc"):
        found["C compiler"] = _said("cc", "--version").splitlines()[0]
    if have("node"):
        found["node"] = _said("node", "--version").strip()
    package = QUICHE / "node_modules" / "@matrixai" / "quic" / "package.json"
    if package.exists():
        found["@matrixai/quic (quiche)"] = str(json.loads(package.read_text())["version"])
    return found | {"load before": load()}


def load() -> str:
    """The load average of the last minute."""
    return f"{os.getloadavg()[0]:.1f}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    virtual = any(line.startswith("flags") and " hypervisor" in line for line in lines)
    return (names[0] if names else "unknown") + (" (virtual)" if virtual else "")


def _memory() -> str:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return f"{int(lines[0].split()[1]) / 2**20:.0f} GiB"


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
