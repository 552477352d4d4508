"""Copy the installed TSQ, and what it needs, into the file tree of the Debian package.

    python debian_tree.py DIRECTORY

Comes in: the Python that runs it, with TSQ installed. Goes out: DIRECTORY/usr/lib/tsq-time and the commands in DIRECTORY/usr/bin,
for Debian's own Python; the dependency on it goes to the package's substvars. It must never copy modules that Debian's Python
cannot load.
"""

import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "deploy" / "image"))

from tree import DISTRIBUTION, copy_distribution, distributions  # noqa: E402

DEBIAN = os.environ.get("DEBIAN_PYTHON", "/usr/bin/python3")
HOME = "/usr/lib/tsq-time"
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
# -I: neither the environment nor the user's directories choose modules.
COMMAND = """#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "{home}")

from {module} import {function}

sys.exit({function}())
"""
_SUFFIX = "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))"


def copy_packages(home: Path) -> None:
    """Copy the distributions with their licenses; without what only builds, tests or installs them."""
    home.mkdir(parents=True)
    for one in distributions(DISTRIBUTION):
        copy_distribution(one, home)
    for unused in [
        *home.rglob("tests"),
        *home.glob("*.libs"),
        *home.glob("__editable__*"),
        *home.glob("*.pth"),
        *home.rglob("*.c"),
    ]:
        shutil.rmtree(unused) if unused.is_dir() else unused.unlink()
    for unused in [
        path for path in home.glob("*.dist-info/*") if path.name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
    ]:
        unused.unlink()
    # Debian's list, which its administrators may add to.
    bundle = home / "certifi" / "cacert.pem"
    bundle.unlink()
    bundle.symlink_to(AUTHORITIES)
    for path in home.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)


def compile_modules(home: Path, tree: Path) -> None:
    """Compile all modules with Debian's Python, so that no later start writes files that dpkg does not know."""
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH.name.lower().replace("_", "-")
    command = [DEBIAN, "-I", "-m", "compileall", "-q", "-j", "0", "-s", tree, "--invalidation-mode", mode, home]
    if subprocess.run(command, check=False).returncode != 0:
        raise SystemExit("debian_tree: some modules cannot be compiled")


def main() -> int:
    """Run the command."""
    if len(sys.argv) != 2:
        print(__doc__.splitlines()[2].strip(), file=sys.stderr)
        return 2
    tree = Path(sys.argv[1]).resolve()
    theirs = subprocess.run([DEBIAN, "-I", "-c", _SUFFIX], capture_output=True, text=True, check=True).stdout.strip()
    if theirs != (ours := sysconfig.get_config_var("EXT_SUFFIX")):
        print(
            f"debian_tree: modules for {ours} found, {theirs} expected: use an environment of {DEBIAN}'s version", file=sys.stderr
        )
        return 1
    home = tree / HOME.lstrip("/")
    copy_packages(home)
    compile_modules(home, tree)
    commands = tree / "usr/bin"
    commands.mkdir(parents=True)
    for entry in distribution(DISTRIBUTION).entry_points.select(group="console_scripts"):
        command = commands / entry.name
        command.write_text(COMMAND.format(home=HOME, module=entry.module, function=entry.attr))
        command.chmod(0o755)
    major, minor = sys.version_info[:2]
    substvars = tree.parent / f"{tree.name}.substvars"
    with substvars.open("a") as file:
        file.write(f"python3:Depends=python3 (>= {major}.{minor}), python3 (<< {major}.{minor + 1})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
