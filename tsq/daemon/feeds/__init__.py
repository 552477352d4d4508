"""What the daemon passes on: to programs that keep the clock, and to programs that need bounded time.

From the top: `opening`, `ntp`, `sock`, `shm`, `bounded`, `served_time`, `usable`, `trouble`.
"""

from tsq.daemon.feeds.opening import Feed, open_feeds

__all__ = ["Feed", "open_feeds"]
