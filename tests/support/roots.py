"""A small Debian in a directory, without a compiler and without TSQ, and copies of it that tests may change."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "build" / "roots"
_INCLUDED = "python3,ca-certificates,systemd,adduser"
_SECONDS = 540


def missing() -> str:
    """Why such a root is not possible here; empty: it is."""
    if os.geteuid() != 0:
        return "a root directory of its own needs root"
    for program in ("debootstrap", "unshare", "ip"):
        if shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin") is None:
            return f"{program} is not installed; `make peers` installs it where it may"
    return ""


def suite() -> str:
    """This machine's Debian: the package is built for its Python."""
    lines = Path("/etc/os-release").read_text().splitlines()
    return next((line.partition("=")[2].strip('"') for line in lines if line.startswith("VERSION_CODENAME=")), "stable")


def mirror() -> list[str]:
    """From where this machine has its packages; nothing: where debootstrap looks by itself."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN) $(CODENAME) $(COMPONENT)", "Created-By: Packages"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout.splitlines()
    found = [line.split()[0] for line in lines if line.endswith(f" Debian {suite()} main")]
    return found[:1]


def base() -> Path:
    """The root that nothing changes, made once for a tree."""
    made = BASE / suite()
    if not made.exists():
        new = BASE / f"new-{os.getpid()}"
        shutil.rmtree(new, ignore_errors=True)
        BASE.mkdir(parents=True, exist_ok=True)
        command = ["debootstrap", "--variant=minbase", f"--include={_INCLUDED}", suite(), str(new), *mirror()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        if done.returncode != 0:
            shutil.rmtree(new, ignore_errors=True)
            raise RuntimeError(f"debootstrap: {done.stdout[-500:]}{done.stderr[-500:]}")
        new.rename(made)
    return made


@dataclass(frozen=True)
class Place:
    """A root that a test may change."""

    path: Path

    def command(self, *words: object, namespace: str = "", user: str = "") -> list[str]:
        """A command in it, in mount and process namespaces of its own. namespace: of the network."""
        # Without a namespace: a loopback of its own.
        alone = ["unshare", "--net", "sh", "-ec", 'ip link set lo up && exec "$@"', "sh"]
        enter = ["ip", "netns", "exec", namespace] if namespace else alone
        inner = 'mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && mount -t tmpfs tmpfs "$1/run" && shift && exec "$@"'
        who = [f"--userspec={user}"] if user else []
        return [
            *enter, "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", inner, "sh", str(self.path),
            "chroot", *who, str(self.path), "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/root",
            "DEBIAN_FRONTEND=noninteractive", *map(str, words),
        ]  # fmt: skip

    def run(self, *words: object, namespace: str = "", check: bool = True) -> str:
        """What a command prints."""
        command = self.command(*words, namespace=namespace)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
        assert not check or done.returncode == 0, (words, done.stdout[-3000:], done.stderr[-3000:])
        return done.stdout + done.stderr

    def listing(self, leave: Sequence[str]) -> set[str]:
        """All its files and directories, but those under some."""
        left = tuple(leave)
        names = (str(path.relative_to(self.path)) for path in self.path.rglob("*"))
        return {name for name in names if not name.startswith(left)}


@contextlib.contextmanager
def copy_of(root: Path, directory: Path) -> Iterator[Place]:
    """A copy that lies over the other, for the `with`."""
    for name in ("upper", "work", "merged"):
        (directory / name).mkdir(parents=True)
    options = f"lowerdir={root},upperdir={directory / 'upper'},workdir={directory / 'work'}"
    merged = directory / "merged"
    done = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        # Where one overlay may not lie over another: a real copy.
        subprocess.run(["cp", "-a", f"{root}/.", merged], check=True, timeout=300)
    try:
        yield Place(merged)
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "--lazy", merged], check=True, timeout=60)
