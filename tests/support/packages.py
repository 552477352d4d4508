"""The Debian package, and a later version of it, for tests that install it."""

import subprocess
from pathlib import Path

import tsq

ROOT = Path(__file__).resolve().parents[2]
NEWER = f"{tsq.__version__}+later"
# What dpkg and apt themselves keep, and what belongs to nobody: systemd's list of users changes with them.
KEPT = ("var/lib/dpkg/", "var/log/", "var/cache/", "var/lib/apt/", "proc/", "dev/", "run/", "tmp/", "var/lib/systemd/deb-systemd")
# Copies that the programs for users make, and the lock.
KEPT += ("etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "etc/.pwd.lock", "etc/subuid", "etc/subgid")


def build(out: Path) -> subprocess.CompletedProcess[str]:
    """Build the package in a directory, of what this environment has installed."""
    return subprocess.run(["sh", ROOT / "scripts/deb.sh", out], capture_output=True, text=True, timeout=500, check=False)


def later(package: Path, directory: Path) -> Path:
    """The same package as a later version."""
    subprocess.run(["dpkg-deb", "-R", package, directory / "tree"], check=True, timeout=120)
    control = directory / "tree/DEBIAN/control"
    control.write_text(control.read_text().replace(f"Version: {tsq.__version__}", f"Version: {NEWER}"))
    command = ["dpkg-deb", "--root-owner-group", "-Znone", "-b", directory / "tree", directory / "newer.deb"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return directory / "newer.deb"
