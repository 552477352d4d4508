"""How many of this machine's processors the process may use at the same time.

Comes in: the process's affinity, and the quota of its control groups (cgroups(7)). Goes out: a number, at least 1. It must never
fail: what cannot be read does not limit.
"""

import math
import os
from pathlib import Path, PurePosixPath

_GROUPS = Path("/sys/fs/cgroup")
_MINE = Path("/proc/self/cgroup")


def usable_cores(mine: Path = _MINE, groups: Path = _GROUPS) -> int:
    """The processors of the affinity, and no more than the quota of each control group above this process allows."""
    cores = len(os.sched_getaffinity(0))
    for place in _places(mine, groups):
        for quota in (_quota(place / "cpu.max"), _quota_1(place)):
            if quota is not None:
                # Half a processor more is worth a worker.
                cores = min(cores, max(1, math.ceil(quota)))
    return max(1, cores)


def _places(mine: Path, groups: Path) -> list[Path]:
    """The directories of this process's groups and of all above them: version 2 (`0::/path`), and `cpu` of version 1."""
    found: list[Path] = []
    for line in _text(mine).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = groups / controllers if controllers else groups
        inner = PurePosixPath(path.lstrip("/"))
        if ".." not in inner.parts:
            found += [top / one for one in (inner, *inner.parents)]
    # In a container, what /proc names may lie above what is mounted.
    return [*found, groups, groups / "cpu"]


def _quota(file: Path) -> float | None:
    """Processors by a `cpu.max`: "max 100000" or "150000 100000"."""
    words = _text(file).split()
    return _ratio(*words) if len(words) == 2 else None


def _quota_1(place: Path) -> float | None:
    return _ratio(_text(place / "cpu.cfs_quota_us").strip(), _text(place / "cpu.cfs_period_us").strip())


def _ratio(quota: str, period: str) -> float | None:
    if not (quota.isascii() and quota.isdecimal() and period.isascii() and period.isdecimal()) or int(period) == 0:
        return None
    return int(quota) / int(period)


def _text(file: Path) -> str:
    try:
        return file.read_text("ascii", "replace")
    except OSError:
        return ""
