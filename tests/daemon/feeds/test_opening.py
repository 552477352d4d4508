"""The feeds of a configuration, and how trouble is reported."""

import asyncio
import errno
import os

import pytest

from tests.daemon.feeds import status
from tsq.daemon.config import FeedConfig, NtpServerConfig
from tsq.daemon.feeds import open_feeds
from tsq.daemon.feeds.bounded import ClockBoundFeed, SegmentFeed
from tsq.daemon.feeds.ntp import NtpFeed
from tsq.daemon.feeds.shm import ShmFeed
from tsq.daemon.feeds.sock import SockFeed
from tsq.daemon.feeds.trouble import Trouble
from tsq.options import Target


def test_each_entry_of_the_table_is_a_feed():
    config = FeedConfig(
        sock=("/run/chrony.tsq.sock", "/run/other.sock"), shm=(2, 3), ntp=NtpServerConfig(Target("127.0.0.1", 0)),
        segment="/run/tsq/now", clockbound="/run/clockbound/shm0",
    )
    kinds = [type(feed) for feed in open_feeds(config)]
    assert kinds == [SegmentFeed, ClockBoundFeed, SockFeed, SockFeed, ShmFeed, ShmFeed, NtpFeed]
    assert [type(feed) for feed in open_feeds(FeedConfig())] == [SegmentFeed]
    assert open_feeds(FeedConfig(segment="")) == []


def test_all_feeds_start_publish_and_close(tmp_path):
    config = FeedConfig(
        sock=(str(tmp_path / "sock"),), ntp=NtpServerConfig(Target("127.0.0.1", 0)), segment=str(tmp_path / "now"),
        clockbound=str(tmp_path / "shm0"),
    )

    async def main() -> None:
        feeds = open_feeds(config)
        for feed in feeds:
            await feed.start()
        for updates in range(3):
            for feed in feeds:
                feed.publish(status(updates=updates))
        for feed in feeds:
            feed.close()

    asyncio.run(main())
    assert {path.name for path in tmp_path.iterdir()} == {"now", "shm0"}


class Hours:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def lines(caplog):
    caplog.set_level("INFO")
    return lambda: [f"{record.levelname} {record.getMessage()}" for record in caplog.records]


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_trouble_is_reported_when_it_begins_when_it_changes_once_an_hour_and_when_it_is_over(lines):
    clock = Hours()
    trouble = Trouble("thing", clock)
    trouble.over()
    for _ in range(100):
        trouble.failed(error(errno.ENOENT), "start it")
        clock.now += 35.9
    assert lines() == ["WARNING thing: No such file or directory: start it"]
    clock.now = 3600.0
    trouble.failed(error(errno.ENOENT), "start it")
    assert len(lines()) == 2
    trouble.failed(error(errno.EACCES))
    assert lines()[2] == "WARNING thing: Permission denied"
    for _ in range(2):
        trouble.over()
    assert lines()[3:] == ["INFO thing: works again"]
    trouble.failed(error(errno.EACCES))
    assert len(lines()) == 5
