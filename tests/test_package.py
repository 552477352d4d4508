"""The source distribution and the wheel are built from a clean tree, and the wheel works in an environment of its own."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

import tsq
from tests.support import roots

ROOT = Path(tsq.__file__).parent.parent
# An sdist holds the sources of the extension modules, a wheel holds the compiled ones.
COMPILED = [str(path.relative_to(ROOT / "tsq").with_suffix("")) for path in sorted((ROOT / "tsq").rglob("*.pyx"))]

# An hour in 2026, in which what is tested here seems to be built.
EPOCH = "1790000000"
# Compile quickly: speed does not matter here.
QUICKLY = {"TSQ_DEBUG": "", "CFLAGS": "-O0", "SOURCE_DATE_EPOCH": EPOCH}

# Files that may advise to install something.
ADVISING = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tsq/**/*.py")})


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    process = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=900, check=False, env={**os.environ, **environment}
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the repository in their present state, without anything that was built."""
    if not (ROOT / ".git").exists():
        pytest.skip("not in a git repository, so the list of its files is unknown")
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=ROOT).split("\0")
    directory = tmp_path_factory.mktemp("tree")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, directory / name)
    assert not list(directory.rglob("*.so"))
    assert not list((directory / "tsq").rglob("*.c"))
    return directory


@pytest.fixture(scope="module")
def sdist(tree: Path) -> Path:
    return built_sdist(tree)


def built_sdist(tree: Path) -> Path:
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", "dist", cwd=tree, SOURCE_DATE_EPOCH=EPOCH)
    (file,) = (tree / "dist").glob("tsq_time-*.tar.gz")
    return file


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, filter="data")
    (source,) = directory.iterdir()
    return source


@pytest.fixture(scope="module")
def wheel(unpacked: Path) -> Path:
    """Built from the source distribution, not from the repository: users have the former only."""
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", cwd=unpacked, **QUICKLY)
    (file,) = (unpacked / "dist").glob("tsq_time-*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of a new virtual environment with the wheel; its dependencies come from the running environment."""
    directory = tmp_path_factory.mktemp("venv")
    venv.create(directory, with_pip=False, symlinks=True)
    python = directory / "bin" / "python"
    run(
        sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install", "--no-deps", "--no-index", wheel,
        cwd=directory,
    )
    (packages,) = directory.glob("lib/python*/site-packages")
    # A plain path: Python does not read the .pth files there, so the editable install of this tree is not found.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return directory / "bin"


@pytest.fixture(scope="module")
def repaired(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as scripts/wheel.sh completes it, with this machine's libcrypto in place of that of scripts/openssl.sh."""
    if sys.platform != "linux" or not shutil.which("strip"):
        pytest.skip("auditwheel needs Linux and binutils")
    directory = tmp_path_factory.mktemp("repaired")
    raw = directory / wheel.name
    shutil.copy(wheel, raw)
    run(sys.executable, ROOT / "scripts/sbom.py", "wheel", raw, "--libcrypto", "3.0.0", cwd=directory)
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run(sys.executable, "-m", "auditwheel", "repair", "--strip", "--wheel-dir", "out", raw, cwd=directory, PATH=tools)
    (made,) = (directory / "out").iterdir()
    return made


def sdist_names(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def wheel_names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_distribution_is_not_named_like_the_foreign_package_on_the_index():
    """`pip install tsq` installs another project's code."""
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"] == "tsq-time"


@pytest.mark.parametrize("file", ADVISING, ids=lambda file: str(file.relative_to(ROOT)))
def test_advice_to_install_names_this_distribution(file):
    text = file.read_text(encoding="utf-8")
    assert not re.findall(r"(?:pip install|needs) ['\"]?tsq(?!-time)\b|\btsq\[", text)


def test_both_hold_the_whole_package(tree, sdist, wheel):
    wanted = {str(path.relative_to(tree)) for path in (tree / "tsq").rglob("*") if path.is_file()}
    assert {"tsq/py.typed", "tsq/_fast.pyx", "tsq/_fast.pyi", "tsq/cli/client.py"} <= wanted
    assert wanted <= sdist_names(sdist)
    assert wanted <= wheel_names(wheel)


def test_neither_holds_generated_c_nor_what_was_built_elsewhere(sdist, wheel):
    for names in (sdist_names(sdist), wheel_names(wheel)):
        assert not [name for name in names if name.startswith("tsq/") and name.endswith((".c", ".o", ".pyc"))]
        assert not [name for name in names if name.startswith(("build/", ".venv/"))]
    assert not [name for name in wheel_names(wheel) if name.startswith(("tests/", "benchmarks/"))]
    assert not [name for name in sdist_names(sdist) if name.endswith(".so")]


def test_the_wheel_holds_each_compiled_part_for_this_python_and_nothing_outside_the_package(wheel):
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    names = wheel_names(wheel)
    assert {f"tsq/{name}{suffix}" for name in COMPILED} <= names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"tsq", "tsq_time"}


def test_the_sdist_holds_every_file_but_those_of_the_repository_itself(tree, sdist):
    wanted = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
    left = {name for name in wanted - sdist_names(sdist) if not name.startswith(("build/", "dist/", "tsq_time.egg-info/"))}
    assert {name.partition("/")[0] for name in left} <= {".ci", ".github", ".gitignore"}


def test_two_builds_have_the_same_bytes(tree, sdist, tmp_path):
    """Of another directory, another hour, another umask."""
    other = tmp_path / "other"
    shutil.copytree(tree, other, ignore=shutil.ignore_patterns("build", "dist", "*.egg-info", "__pycache__"))
    for path in other.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
        os.utime(path, (1, 1))
    assert built_sdist(other).read_bytes() == sdist.read_bytes()
    with tarfile.open(sdist) as archive:
        assert {(member.uid, member.uname, member.mtime) for member in archive} == {(0, "", int(EPOCH))}


def test_its_tests_run_from_the_sdist(unpacked, wheel):
    """Some of them, with the modules that were compiled there for the wheel."""
    (built,) = (unpacked / "build").glob("lib.*")
    for file in built.rglob("*.so"):
        shutil.copy2(file, unpacked / file.relative_to(built))
    chosen = ["tests/wire", "tests/timing", "tests/dataplane/test_packet.py", "tests/dataplane/test_table.py"]
    where = "import tsq._fast, sys; sys.exit(not tsq._fast.__file__.startswith(sys.argv[1]))"
    run(sys.executable, "-c", where, unpacked, cwd=unpacked)
    shown = run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *chosen, cwd=unpacked)
    assert re.search(r"^\d{2,} passed", shown, re.MULTILINE), shown


def test_both_hold_manual_pages_and_completions(tree, sdist, wheel):
    wanted = {str(path.relative_to(tree)) for path in (tree / "share").rglob("*") if path.is_file()}
    assert {"share/man/man1/tsq-client.1", "share/man/man8/tsq-server.8", "share/zsh/site-functions/_tsq-adjtime"} <= wanted
    assert wanted <= sdist_names(sdist)
    assert wanted == {name.partition(".data/data/")[2] for name in wheel_names(wheel) if ".data/data/" in name}


def test_both_carry_licence_and_readme(sdist, wheel):
    assert {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "setup.py"} <= sdist_names(sdist)
    assert [name for name in wheel_names(wheel) if name.endswith("/LICENSE")]


def test_the_installed_wheel_is_not_this_tree(installed, tmp_path):
    shown = run(installed / "python", "-c", "import tsq, tsq._fast; print(tsq.__file__, tsq._fast.__file__)", cwd=tmp_path)
    assert all(Path(name).is_relative_to(installed.parent) for name in shown.split())


@pytest.mark.parametrize("program", ["tsq-client", "tsq-server"])
def test_installed_programs_tell_their_version(installed, tmp_path, program):
    version = tsq.__version__
    assert run(installed / program, "--version", cwd=tmp_path) == f"{program} {version}\n"


def test_installed_programs_exchange_time(installed, tmp_path):
    command = [installed / "tsq-server", "--listen", "127.0.0.1:0", "--self-signed", tmp_path / "lab"]
    command += ["--local-stratum", "1", "--log-level", "error"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as server:
        try:
            address = server.stdout.readline().split()[3]
            shown = run(installed / "tsq-client", address, "--ca", tmp_path / "lab" / "ca.pem", "--interval", "0", cwd=tmp_path)
        finally:
            server.terminate()
    assert " 3/3 " in shown
    assert "System clock wrong by" in shown
    assert server.returncode == 0


def test_the_completed_wheel_has_libcrypto_and_says_which(wheel, repaired, tmp_path):
    names = wheel_names(repaired)
    assert len([name for name in names if re.fullmatch(r"tsq_time\.libs/libcrypto-\w+\.so\.3", name)]) == 1
    assert re.search(r"-manylinux_2_\d+_", repaired.name)
    with zipfile.ZipFile(repaired) as archive:
        (bill,) = [json.loads(archive.read(name)) for name in names if name.endswith("/sboms/tsq.cdx.json")]
        record = archive.read(next(name for name in names if name.endswith(".dist-info/RECORD"))).decode()
        archive.extractall(tmp_path)
    recorded = {line.rpartition(",")[0].rpartition(",")[0] for line in record.splitlines()}
    assert {name for name in names if not name.endswith("/")} == recorded
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    assert [(one["name"], one["version"]) for one in bill["components"]] == [("openssl", "3.0.0")]
    # Nothing asks the system for a libcrypto any more.
    needed = run("readelf", "--dynamic", *tmp_path.rglob("*.so"), cwd=tmp_path)
    (inside,) = [name.partition("/")[2] for name in names if name.startswith("tsq_time.libs/lib")]
    assert set(re.findall(r"NEEDED.*\[(libcrypto.*)\]", needed)) == {inside}


def test_the_completed_wheel_works_in_a_debian_without_a_compiler(repaired, tmp_path):
    if reason := roots.missing():
        pytest.skip(reason)
    tree = runpy.run_path(str(ROOT / "deploy/image/tree.py"))
    with roots.copy_of(roots.base(), tmp_path) as place:
        there = place.path / "opt/tsq"
        there.mkdir(parents=True)
        for distribution in tree["distributions"]("tsq-time"):
            if distribution.metadata["Name"] != "tsq-time":
                tree["copy_distribution"](distribution, there)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-index", "--target", there]
        run(*pip, repaired, cwd=tmp_path)
        shutil.copy(ROOT / "scripts/check_wheel.py", place.path / "opt")
        version = place.run("python3", "-c", "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))").strip()
        if version != sysconfig.get_config_var("EXT_SUFFIX"):
            pytest.skip("this environment has another Python than Debian has")
        shown = place.run("env", "PYTHONPATH=/opt/tsq", "python3", "/opt/check_wheel.py", "--inside", "--exchange")
        assert re.search(r": 3\d compiled modules; packets by .*libcrypto; libcrypto: libcrypto-\w+\.so\.3$", shown, re.MULTILINE)
        assert "server and client, 3 of 3 answers" in shown


def test_each_module_declares_whether_it_needs_the_interpreter_lock():
    """As setup.py says, in the C code that was compiled; only modules without an object of their own need none."""
    setup = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")
    assert set(setup["MODULES"]) > setup["FREE_THREADED"]
    for module in setup["MODULES"]:
        source = ROOT / f"{module.replace('.', '/')}.pyx"
        if module in setup["FREE_THREADED"]:
            assert not re.search(r"^cdef class |^ +global ", source.read_text(), re.MULTILINE), module
        compiled = ROOT / "build/cython" / source.relative_to(ROOT).with_suffix(".c")
        if compiled.exists():
            declared = re.findall(r"^#define __Pyx_FREETHREADING_COMPATIBLE (\w+)", compiled.read_text(), re.MULTILINE)[-1]
            assert declared == ("Py_MOD_GIL_NOT_USED" if module in setup["FREE_THREADED"] else "Py_MOD_GIL_USED"), module
