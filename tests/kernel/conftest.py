"""The guests of this directory run beside one another, and beside the other tests: each takes minutes, in which it mostly waits.

A module has RUNS: name -> what to do with a directory, until the guest has ended; its tests look at the results.
"""

import compileall
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.uml import ROOT

BUSY_SECONDS = 1200.0
# More of them on two processors disturb each other's clocks.
MOST_AT_ONCE = 5


class Guests:
    """The runs of all tests that were chosen, from the session's beginning on."""

    def __init__(self, runs: dict[tuple[str, str], Callable[[Path], object]]) -> None:
        # A guest cannot write compiled modules: its files are this machine's, read-only.
        compileall.compile_dir(ROOT / "tsq", quiet=2)
        self._directory = tempfile.TemporaryDirectory(prefix="tsq-guests-", ignore_cleanup_errors=True)
        self._pool = ThreadPoolExecutor(MOST_AT_ONCE)
        self._futures: dict[tuple[str, str], Future[object]] = {}
        for (module, name), run in runs.items():
            directory = Path(self._directory.name, f"{module.rpartition('.')[2]}-{name}")
            directory.mkdir()
            self._futures[module, name] = self._pool.submit(run, directory)

    def result(self, module: str, name: str) -> object:
        """What came of this run."""
        return self._futures[module, name].result(timeout=BUSY_SECONDS)

    def end(self) -> None:
        """Wait for those that run; begin no other."""
        self._pool.shutdown(cancel_futures=True)
        self._directory.cleanup()


_GUESTS = pytest.StashKey[Guests]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin at once, so that the other tests need not wait for the guests."""
    if session.config.option.collectonly:
        return
    chosen = {item.module.__name__: item.module for item in session.items if _has_runs(item)}
    runs = {(module, name): run for module in sorted(chosen) for name, run in chosen[module].RUNS.items()}
    if runs:
        session.config.stash[_GUESTS] = Guests(runs)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """No guest is left."""
    guests = session.config.stash.get(_GUESTS, None)
    if guests is not None:
        guests.end()


def _has_runs(item: pytest.Item) -> bool:
    skips = [mark for mark in item.iter_markers("skipif") if any(bool(condition) for condition in mark.args)]
    return isinstance(getattr(getattr(item, "module", None), "RUNS", None), dict) and not skips


@pytest.fixture(scope="session")
def guests(request: pytest.FixtureRequest) -> Callable[[str, str], object]:
    """guests(module, name): what came of this run."""
    return request.config.stash[_GUESTS].result
