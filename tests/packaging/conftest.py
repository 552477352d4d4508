"""The Debian package is built once for all tests."""

from pathlib import Path

import pytest

from tests.support import packages


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("deb")
    done = packages.build(out)
    if "expected: use an environment of" in done.stderr:
        pytest.skip("this environment has another Python than Debian has")
    assert done.returncode == 0, done.stderr
    (file,) = out.glob("tsq-time_*.deb")
    return file


@pytest.fixture(scope="session")
def newer(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packages.later(package, tmp_path_factory.mktemp("newer"))
