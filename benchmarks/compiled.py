"""The compiled load, `benchmarks._load`; built on the first import, and again after its source or TSQ's has changed.

It is no part of the installed package.
"""

import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


def _stale() -> bool:
    """Whether there is no build, or its sources are newer."""
    built = [path.stat().st_mtime for path in (_ROOT / "benchmarks").glob("_load.*.so")]
    made_from = [_ROOT / "setup.py", _ROOT / "benchmarks" / "_load.pyx", *(_ROOT / "tsq").rglob("*.pxd")]
    return not built or max(built) < max(path.stat().st_mtime for path in made_from)


if _stale():
    _command = [sys.executable, "-m", "benchmarks.build_load", "-q", "build_ext", "--inplace"]
    _done = subprocess.run(_command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if _done.returncode:
        raise ImportError(f"the compiled load of the benchmarks cannot be built:\n{_done.stdout}{_done.stderr}")

from benchmarks._load import Asker  # noqa: E402 - built above

__all__ = ["Asker"]
