"""The portable compiled modules against the headers of macOS and FreeBSD (scripts/portable.py); nothing is linked or run."""

import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "portable.py"
NEEDS_ZIG = pytest.mark.skipif(find_spec("ziglang") is None, reason="zig is missing: pip install ziglang")


@NEEDS_ZIG
def test_the_portable_modules_compile_for_macos_and_freebsd():
    systems = ["macOS arm64", "FreeBSD x86-64"]
    done = subprocess.run([sys.executable, SCRIPT, *systems], capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout.splitlines() == [f"{system}: 6 modules compile" for system in systems], done.stdout + done.stderr
    assert done.returncode == 0


@NEEDS_ZIG
def test_a_module_that_is_linuxs_does_not_compile_for_them(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.chdir(ROOT)
    script = runpy.run_path(str(SCRIPT))
    zig = Path(find_spec("ziglang").origin).parent
    with TemporaryDirectory() as directory:
        script["headers_of_openssl"](Path(directory))
        modules = script["translated"](("tsq._sockets",))
        errors = script["check"](zig, *script["TARGETS"]["macOS arm64"], modules, Path(directory))
    assert "linux/errqueue.h" in errors


def test_an_unknown_system_is_an_error():
    done = subprocess.run([sys.executable, SCRIPT, "Plan 9"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "unknown system 'Plan 9' (expected macOS arm64, " in done.stderr
