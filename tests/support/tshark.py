"""tshark: where it is, and whether it loads files of Lua for this user."""

import os
import re
import shutil
import subprocess
from functools import cache

import pytest

PROGRAM = shutil.which("tshark")
needs_tshark = pytest.mark.skipif(PROGRAM is None, reason="tshark is not installed (scripts/prerequisites.sh peers)")


@cache
def version() -> tuple[int, int]:
    """The version of tshark."""
    done = subprocess.run([str(PROGRAM), "--version"], capture_output=True, text=True, timeout=60, check=True)
    found = re.search(r"(\d+)\.(\d+)\.\d+", done.stdout)
    assert found, done.stdout
    return int(found[1]), int(found[2])


def need_lua() -> None:
    """Skip a test where tshark loads no Lua files."""
    if os.geteuid() == 0 and version() >= (4, 4):
        pytest.skip("tshark 4.4 and newer load no Lua files as root")
