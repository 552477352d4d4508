"""Bounded time: `tsq.now()`, and the system clock alone."""

import time
from pathlib import Path

import pytest

import tsq
from benchmarks.conftest import Show
from benchmarks.measure import SIDES, calls
from tests.daemon.feeds import status
from tsq.daemon.feeds.bounded import SegmentFeed
from tsq.host.segment import TimeStatus

ROUNDS = 40


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("now") / "now"
    SegmentFeed(str(path)).publish(status())
    return str(path)


@pytest.mark.parametrize("side", SIDES)
def test_now(side: str, show: Show, segment: str) -> None:
    assert tsq.now(segment).status in (TimeStatus.SYNCHRONIZED, TimeStatus.HOLDOVER)
    show("bounded time: tsq.now(), and time.time_ns()", side, ROUNDS, calls(tsq=(tsq.now, segment), plain=(time.time_ns,)))
