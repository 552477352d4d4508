"""A build with `TSQ_OWN_AES=0` has no code of its own for AES, and passes the tests of packet protection (setup.py)."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LEFT_OUT = shutil.ignore_patterns(".*", "build", "docs", "scripts", "__pycache__", "packet.*.so")
BUILD = "import sys; sys.argv[0] = 'setup.py'; from setup import build; build(['tsq.dataplane.packet'])"
USE = "from tsq.dataplane.packet import use_own_aes as use; use(True); print(use(True))"
# What an x86-64 compiler makes of an AES round, whatever its form.
INSTRUCTION = "aesenc"


def run(tree: Path, arguments: Sequence[str], **environment: str) -> str:
    """Run Python with the copied tree; its standard output."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments], cwd=tree, env={**os.environ, "PYTHONPATH": str(tree), **environment},
        capture_output=True, text=True, timeout=300, check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this tree whose packet protection leaves AES to libcrypto."""
    pytest.importorskip("Cython")
    tree = tmp_path_factory.mktemp("libcrypto") / "tree"
    tree.mkdir()
    # Only what is needed: the directory for temporary files may lie in the tree.
    for name in ("tsq", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=LEFT_OUT)
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tree)
    run(tree, ["-c", BUILD, "-q", "build_ext", "--inplace"], TSQ_OWN_AES="0")
    return tree


def test_the_build_without_own_aes_says_that_it_has_none(built):
    assert run(built, ["-c", USE]).strip() == "False"


def test_the_build_without_own_aes_has_no_aes_instructions(built):
    if shutil.which("objdump") is None:
        pytest.skip("no objdump here")
    [without] = (built / "tsq" / "dataplane").glob("packet.*.so")
    [with_own] = (ROOT / "tsq" / "dataplane").glob("packet.*.so")
    code = [subprocess.check_output(["objdump", "-d", str(library)], text=True) for library in (without, with_own)]
    assert [INSTRUCTION in text for text in code] == [False, platform.machine() == "x86_64"]


def test_the_build_without_own_aes_protects_packets_as_libcrypto_does(built):
    run(built, ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/dataplane/test_packet.py"])
