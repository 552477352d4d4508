"""Check that the compiled modules of other systems than Linux compile for them.

    python scripts/portable.py [SYSTEM...]

Comes in: names of TARGETS, by default all. Goes out: one line for each system, or the compiler's errors and a status of 1. It takes
the systems' headers from zig (`pip install ziglang`), those of OpenSSL and of Python from this machine: Python's configuration is
Linux's, so only 64-bit systems can be checked. It must never link or run anything: nothing here shows that a module works there.
"""

import os
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
# The compiler's name of each system, and zig's directories of its headers.
TARGETS = {
    "macOS arm64": ("aarch64-apple-macos13", ("any-darwin-any",)),
    "macOS x86-64": ("x86_64-apple-macos13", ("any-darwin-any",)),
    "FreeBSD x86-64": ("x86_64-unknown-freebsd14", ("x86_64-freebsd-none", "generic-freebsd")),
    "FreeBSD arm64": ("aarch64-unknown-freebsd14", ("aarch64-freebsd-none", "generic-freebsd")),
    "NetBSD x86-64": ("x86_64-unknown-netbsd10", ("x86_64-netbsd-none", "generic-netbsd")),
    "OpenBSD x86-64": ("x86_64-unknown-openbsd", ("x86_64-openbsd-none", "generic-openbsd")),
}
# What Cython writes has parameters and functions that it does not use.
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-Wno-unused-function")


def headers_of_openssl(directory: Path) -> None:
    """Links to OpenSSL's headers, which lie beside those of this machine's C library."""
    (directory / "openssl").mkdir()
    for place in (Path("/usr/include"), Path("/usr/include", sysconfig.get_config_var("MULTIARCH") or "")):
        for header in (place / "openssl").glob("*.h"):
            link = directory / "openssl" / header.name
            if not link.exists():
                link.symlink_to(header)


def translated(modules: tuple[str, ...] = ()) -> list[tuple[str, list[str]]]:
    """The C file of each module, by default of the portable ones, written where it is older than its source, and its macros."""
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    import setup  # noqa: PLC0415 - the project's own, from there

    found = []
    for extension in setup.cythonized(modules or setup.PORTABLE, quiet=True):
        macros = [f"-D{name}={value}" for name, value in extension.define_macros]
        found.append((extension.sources[0], macros))
    return found


def check(zig: Path, target: str, directories: tuple[str, ...], modules: list[tuple[str, list[str]]], openssl: Path) -> str:
    """The compiler's errors for one system; an empty string where there are none."""
    places = [zig / "lib" / "include", *(zig / "lib" / "libc" / "include" / name for name in directories)]
    system = ["-nostdinc", *(word for place in places for word in ("-isystem", str(place)))]
    own = [f"-I{openssl}", f"-I{sysconfig.get_path('include')}", "-Itsq/dataplane"]
    errors = ""
    for source, macros in modules:
        command = [sys.executable, "-m", "ziglang", "clang", f"--target={target}", "-fsyntax-only", *WARNINGS]
        done = subprocess.run([*command, *system, *own, *macros, source], capture_output=True, text=True, check=False)
        if done.returncode:
            errors += done.stdout + done.stderr
    return errors


def main() -> int:
    """Run the command."""
    unknown = [name for name in sys.argv[1:] if name not in TARGETS]
    spec = find_spec("ziglang")
    if unknown or spec is None or spec.origin is None:
        why = f"unknown system {unknown[0]!r} (expected {', '.join(TARGETS)})" if unknown else "zig is missing: pip install ziglang"
        print(f"portable: error: {why}", file=sys.stderr)
        return 2
    modules = translated()
    status = 0
    with TemporaryDirectory() as directory:
        headers_of_openssl(Path(directory))
        for name in sys.argv[1:] or TARGETS:
            errors = check(Path(spec.origin).parent, *TARGETS[name], modules, Path(directory))
            print(f"{name}: {len(modules)} modules compile" if not errors else f"{name}:\n{errors}")
            status = status or bool(errors)
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
