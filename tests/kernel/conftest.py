"""The guests of this directory run beside one another: each takes minutes, in which it mostly waits.

A module has RUNS: name -> what to do with a directory, until the guest has ended; its tests look at the results.
"""

import compileall
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.support.uml import ROOT

BUSY_SECONDS = 480.0
# More of them on two processors disturb each other's clocks.
MOST_AT_ONCE = 5


@pytest.fixture(scope="session")
def guests(request, tmp_path_factory) -> Iterator[Callable[[str, str], object]]:
    """guests(module, name): what came of this run."""
    with_runs = [item.module for item in request.session.items if hasattr(getattr(item, "module", None), "RUNS")]
    modules = {module.__name__: module for module in with_runs}
    runs = {(module, name): run for module in sorted(modules) for name, run in modules[module].RUNS.items()}
    # A guest cannot write compiled modules: its files are this machine's, read-only.
    compileall.compile_dir(ROOT / "tsq", quiet=2)
    with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
        futures: dict[tuple[str, str], Future] = {
            key: pool.submit(run, tmp_path_factory.mktemp(key[1])) for key, run in runs.items()
        }
        yield lambda module, name: futures[module, name].result(timeout=BUSY_SECONDS)
