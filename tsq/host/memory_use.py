"""How much of the memory that there is is in use: the machine's, or the container's where it has a limit.

Comes in: files of /proc and of the control group. Goes out: a share from 0 to 1. It must never raise: where nothing can be read,
nothing is known to be in use.
"""

from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def memory_share(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> float:
    """The larger share of the two."""
    return max(_machine(meminfo), _container(cgroup))


def _machine(meminfo: Path) -> float:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
        sizes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        return 1 - sizes["MemAvailable"] / sizes["MemTotal"]
    except (OSError, ValueError, KeyError, IndexError, ZeroDivisionError):
        return 0.0


def _container(cgroup: Path) -> float:
    """Of a control group with a limit (cgroup 2): without what the kernel can take back at once."""
    try:
        limit = int((cgroup / "memory.max").read_text(encoding="ascii"))
        used = int((cgroup / "memory.current").read_text(encoding="ascii"))
        lines = (cgroup / "memory.stat").read_text(encoding="ascii").splitlines()
        inactive = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
        return max(0, used - inactive) / limit
    except (OSError, ValueError, IndexError, ZeroDivisionError):
        # "max" is no number: there is no limit.
        return 0.0
