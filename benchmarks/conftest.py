"""Fixtures of the benchmarks, and the table at the end of a run.

The first test of a benchmark measures all its sides together, round by round (`measure.alternate`). Then `show` replays the figures
to pytest-benchmark: its timer is a clock that `show` advances by each measured time. So its tables and its JSON have these figures.
"""

from collections.abc import Callable, Generator, Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.measure import Comparison, Spread, machine, summary
from benchmarks.peers import Peers

Measure = Callable[[int], Comparison]
Show = Callable[[str, str, int, Measure], None]

_COMPARISONS = pytest.StashKey[dict[str, Comparison]]()


class ReplayClock:
    """The timer of pytest-benchmark, advanced only by replayed times."""

    __name__ = "interleaved rounds, replayed"

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


_CLOCK = ReplayClock()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_COMPARISONS] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "show" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.benchmark(timer=_CLOCK))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> Generator[None, None, None]:
    """The table, below pytest-benchmark's own."""
    yield
    comparisons = config.stash[_COMPARISONS]
    if comparisons:
        terminalreporter.section("TSQ and plain, interleaved in this run")
        for line in [machine(), "", *summary(comparisons)]:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    """The servers; each starts on its first use."""
    with Peers(tmp_path_factory.mktemp("benchmarks")) as running:
        yield running


@pytest.fixture
def show(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Show:
    """show(group, side, rounds, measure): measure the group once in a session, and replay this side to pytest-benchmark."""
    comparisons = request.config.stash[_COMPARISONS]

    def replay(group: str, side: str, rounds: int, measure: Measure) -> None:
        if group not in comparisons:
            # --benchmark-disable only checks that the benchmarks run.
            comparisons[group] = measure(2 if benchmark.disabled else rounds)
        comparison = comparisons[group]
        quantity = comparison.quantities[0]
        seconds = iter(values := comparison.values(side, quantity))

        def step() -> None:
            _CLOCK.now += next(seconds)

        benchmark.group = f"{group} ({quantity})"
        for other in comparison.quantities:
            spread = Spread.of(comparison.values(side, other) or [0.0])
            benchmark.extra_info[other] = {"median": spread.median, "q1": spread.q1, "q3": spread.q3, "p95": spread.p95}
        benchmark.pedantic(step, rounds=len(values))

    return replay
