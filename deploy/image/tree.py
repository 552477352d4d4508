"""Write the file tree of the container image: this Python, the package and what it depends on, the shared libraries of all.

    python tree.py DIRECTORY

Comes in: the Python that runs it, with TSQ installed. Goes out: a directory that is all that the image holds: no shell, no package
manager, no compiler. Everything is byte-compiled, because the image runs read-only. It must never write outside DIRECTORY.
"""

import compileall
import importlib.metadata
import importlib.util
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

DISTRIBUTION = "tsq-time"
USER = 65532
# Of the standard library, what no program of TSQ's imports.
_UNUSED = {
    "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages", "dist-packages", "sqlite3", "test", "tests", "tkinter",
    "turtledemo", "unittest", "venv", "wsgiref", "xmlrpc", "distutils", "curses", "dbm",
    "__pycache__",
}
_UNUSED_MODULES = re.compile(
    r"_(ctypes_test|curses|curses_panel|dbm|gdbm|sqlite3|test\w*|tkinter|xxtestfuzz|xxinterpchannels|xxsubinterpreters)|xxlimited\w*"
    r"|_codecs_(cn|hk|jp|kr|tw|iso2022)|_multibytecodec|audioop|nis|ossaudiodev|readline|spwd|_crypt"
)
# Sources and declarations that only a compiler or a type checker reads.
_UNUSED_SUFFIXES = (".pyx", ".pxd", ".pyi", ".h", ".c", ".typed", ".a")
_PASSWD = f"root:x:0:0:root:/:/nonexistent\ntsq:x:{USER}:{USER}:TSQ:/:/nonexistent\n"
_GROUP = f"root:x:0:\ntsq:x:{USER}:\n"
_COMMAND = "#!/usr/bin/python3 -I\nimport sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n"


def distributions(name: str) -> list[importlib.metadata.Distribution]:
    """A distribution and all that it requires, without what only its extras require."""
    found: dict[str, importlib.metadata.Distribution] = {}
    names = [name]
    while names:
        key = re.sub(r"[-_.]+", "-", names.pop()).lower()
        if key in found:
            continue
        try:
            found[key] = importlib.metadata.distribution(key)
        except importlib.metadata.PackageNotFoundError:
            if key == name:
                raise
            # Required under a condition that is not met here (PEP 508).
            continue
        for requirement in found[key].requires or []:
            wanted, _, condition = requirement.partition(";")
            if "extra" not in condition:
                names.append(re.match(r"[\w.-]+", wanted)[0])
    return list(found.values())


def copy_library(tree: Path) -> Path:
    """Copy the standard library; where it is now."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    there = tree / "usr/lib" / version
    source = Path(sysconfig.get_path("stdlib"))

    def unused(directory: str, names: list[str]) -> set[str]:
        left = {name for name in names if name in _UNUSED or name.startswith("config-") or name.endswith(_UNUSED_SUFFIXES)}
        if directory.endswith("lib-dynload"):
            left |= {name for name in names if _UNUSED_MODULES.fullmatch(name.partition(".")[0])}
        return left

    shutil.copytree(source, there, ignore=unused, symlinks=False)
    return there


def copy_distribution(distribution: importlib.metadata.Distribution, site: Path) -> None:
    """Copy a distribution's modules and metadata."""
    left = shutil.ignore_patterns("__pycache__", "tests", *(f"*{suffix}" for suffix in _UNUSED_SUFFIXES))
    tops = {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}
    for top in sorted(tops):
        source = Path(distribution.locate_file(top))
        if source.is_dir():
            shutil.copytree(source, site / top, ignore=left, dirs_exist_ok=True)
        elif source.suffix in (".py", ".so"):
            shutil.copy2(source, site / top)
    if distribution.metadata["Name"] == DISTRIBUTION and not (site / "tsq").exists():
        # Installed as editable: its files stand where they are edited.
        (location,) = importlib.util.find_spec("tsq").submodule_search_locations
        shutil.copytree(location, site / "tsq", ignore=left)


def libraries(files: list[Path]) -> tuple[set[Path], Path]:
    """The shared libraries that these files need, and the loader."""
    printed = subprocess.run(["ldd", *files], capture_output=True, text=True, check=False).stdout
    found = {Path(path) for path in re.findall(r"=> (/\S+) \(", printed)}
    loader = next(Path(path) for path in re.findall(r"^\s(/\S+) \(", printed, re.MULTILINE))
    return found, loader


def copy_libraries(tree: Path, files: list[Path]) -> None:
    """Copy shared libraries to the directory that the loader searches first, and the loader to where programs name it."""
    found, loader = libraries(files)
    inside = {path.resolve() for path in files}
    (home,) = {path.parent for path in found if path.name.startswith("libc.so")}
    there = tree / "usr" / str(home.resolve()).removeprefix("/usr").lstrip("/")
    there.mkdir(parents=True, exist_ok=True)
    for path in sorted(found):
        # A wheel brings some of its own, and finds them beside itself.
        if path.resolve() not in inside and not path.is_relative_to(tree):
            shutil.copy2(path.resolve(), there / path.name)
    named = tree / str(loader).lstrip("/")
    for top in {loader.parts[1], "lib"}:
        (tree / "usr" / top).mkdir(parents=True, exist_ok=True)
        (tree / top).symlink_to(f"usr/{top}")
    if not named.exists():
        shutil.copy2(loader.resolve(), named)


def write_commands(tree: Path) -> None:
    """Write TSQ's commands."""
    for entry in importlib.metadata.distribution(DISTRIBUTION).entry_points.select(group="console_scripts"):
        command = tree / "usr/bin" / entry.name
        command.write_text(_COMMAND.format(module=entry.module, function=entry.attr))
        command.chmod(0o755)


def build(tree: Path) -> None:
    """Write the tree."""
    (tree / "usr/bin").mkdir(parents=True)
    python = tree / "usr/bin/python3"
    shutil.copy2(os.path.realpath(sys.executable), python)
    library = copy_library(tree)
    # Debian's Python looks there; others are told to, and find both.
    site = library / "site-packages"
    site.mkdir()
    for distribution in distributions(DISTRIBUTION):
        copy_distribution(distribution, site)
    (tree / "usr/lib/python3").mkdir()
    (tree / "usr/lib/python3/dist-packages").symlink_to(f"../{library.name}/site-packages")
    originals = [Path(os.path.realpath(sys.executable)), *tree.rglob("*.so"), *tree.rglob("*.so.*")]
    copy_libraries(tree, originals)
    if shutil.which("strip"):
        subprocess.run(["strip", "--strip-unneeded", python, *tree.rglob("*.so"), *tree.rglob("*.so.*")], check=True)
    write_commands(tree)
    etc = tree / "etc"
    (etc / "tsq").mkdir(parents=True)
    (etc / "passwd").write_text(_PASSWD)
    (etc / "group").write_text(_GROUP)
    (etc / "nsswitch.conf").write_text("hosts: files dns\n")
    # Where an engine mounts what the kernel and the volumes give.
    for name in ("proc", "sys", "dev", "run", "tmp"):
        (tree / name).mkdir()
    (tree / "tmp").chmod(0o1777)
    # Read-only, nothing could be compiled later; and without their sources the modules take half the space.
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    if not compileall.compile_dir(library, quiet=1, legacy=True, workers=0, stripdir=str(tree), invalidation_mode=unchecked):
        raise SystemExit("tree: some modules cannot be compiled")
    for source in library.rglob("*.py"):
        source.unlink()


def main() -> int:
    """Run the command."""
    if len(sys.argv) != 2:
        print(__doc__.splitlines()[2].strip(), file=sys.stderr)
        return 2
    tree = Path(sys.argv[1]).resolve()
    if tree.exists():
        print(f"tree: {tree} exists (expected: a directory to be made)", file=sys.stderr)
        return 2
    build(tree)
    files = [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files) / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
