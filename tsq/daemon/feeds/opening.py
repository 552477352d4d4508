"""The feeds of a configuration.

Comes in: the `[feed]` table. Goes out: feeds, which are given each new status. It must never open a file or a socket.
"""

from typing import Protocol

from tsq.daemon.config import FeedConfig
from tsq.daemon.feeds.bounded import ClockBoundFeed, SegmentFeed
from tsq.daemon.feeds.ntp import NtpFeed
from tsq.daemon.feeds.shm import ShmFeed
from tsq.daemon.feeds.sock import SockFeed
from tsq.discipline.status import Status


class Feed(Protocol):
    """One way to pass the time on."""

    async def start(self) -> None:
        """Begin. Raises ConfigError for what cannot work with this configuration."""

    def publish(self, status: Status) -> None:
        """Pass a status on, after every event that was handled. Raises nothing: what does not work now is tried again later."""

    def close(self) -> None:
        """End."""


def open_feeds(config: FeedConfig) -> list[Feed]:
    """The feeds that are configured; none of them has started."""
    feeds: list[Feed] = []
    if config.segment:
        feeds.append(SegmentFeed(config.segment))
    if config.clockbound:
        feeds.append(ClockBoundFeed(config.clockbound))
    feeds += [SockFeed(path) for path in config.sock]
    feeds += [ShmFeed(unit) for unit in config.shm]
    if config.ntp is not None:
        feeds.append(NtpFeed(config.ntp.listen))
    return feeds
