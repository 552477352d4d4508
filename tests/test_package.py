"""The source distribution and the wheel are built from a clean tree, and the wheel works in an environment of its own."""

import os
import re
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

import tsq

ROOT = Path(tsq.__file__).parent.parent
# An sdist holds the sources of the extension modules, a wheel holds the compiled ones.
COMPILED = [str(path.relative_to(ROOT / "tsq").with_suffix("")) for path in sorted((ROOT / "tsq").rglob("*.pyx"))]

# Files that may advise to install something.
ADVISING = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tsq/**/*.py")})


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    process = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **environment}
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
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", "dist", cwd=tree)
    (file,) = (tree / "dist").glob("tsq_time-*.tar.gz")
    return file


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, not from the repository: users have the former only."""
    directory = tmp_path_factory.mktemp("sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, filter="data")
    (source,) = directory.iterdir()
    # Compile quickly: speed does not matter here.
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", cwd=source, TSQ_DEBUG="", CFLAGS="-O0")
    (file,) = (source / "dist").glob("tsq_time-*.whl")
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


def test_neither_holds_generated_c_nor_tests_nor_what_was_built_elsewhere(sdist, wheel):
    for names in (sdist_names(sdist), wheel_names(wheel)):
        assert not [name for name in names if name.endswith((".c", ".o", ".pyc"))]
        assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "build/", ".venv/"))]
    assert not [name for name in sdist_names(sdist) if name.endswith(".so")]


def test_the_wheel_holds_each_compiled_part_for_this_python_and_nothing_outside_the_package(wheel):
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    names = wheel_names(wheel)
    assert {f"tsq/{name}{suffix}" for name in COMPILED} <= names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"tsq", "tsq_time"}


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
