"""What changed between two configurations, so that a reload touches only that.

Comes in: the configuration that runs, and the one that was read. Goes out: `Changes`. It must never change anything itself, or pass
over a change that it cannot make without saying so.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tsq.daemon.config import (
    ClockConfig,
    Config,
    ControlConfig,
    FeedConfig,
    LogConfig,
    MetricsConfig,
    NtpServerConfig,
    SourceConfig,
)
from tsq.discipline.settings import ClockSettings
from tsq.options import Target

# ip(7): without CAP_NET_BIND_SERVICE, which the daemon gives up, no port below this can be bound.
_FIRST_FREE_PORT = 1024


@dataclass(frozen=True, slots=True)
class SourceChange:
    """A source that stays, with other settings. same_server: what was measured of it stays right."""

    old: SourceConfig
    new: SourceConfig

    @property
    def same_server(self) -> bool:
        """Whether it is still proved to be the same server."""
        return (self.old.proof, self.old.pool) == (self.new.proof, self.new.pool)


@dataclass(frozen=True, slots=True)
class FeedChanges:
    """Feeds that end, and that begin; one that is in neither is not touched. A feed with another place ends and begins."""

    sock_removed: tuple[str, ...] = ()
    sock_added: tuple[str, ...] = ()
    shm_removed: tuple[int, ...] = ()
    shm_added: tuple[int, ...] = ()
    ntp_removed: NtpServerConfig | None = None
    ntp_added: NtpServerConfig | None = None
    segment_removed: str = ""
    segment_added: str = ""
    clockbound_removed: str = ""
    clockbound_added: str = ""

    def __bool__(self) -> bool:
        return self != FeedChanges()


@dataclass(frozen=True, slots=True)
class Changes:
    """What a reload has to do. Each part is None, empty or false where nothing changed.

    config: what runs after it: the new configuration, with the old values of what cannot change at run time. refused: these, each
    in one sentence. removed, added, changed: sources, by host and port. settings: of the machine that keeps the clock. clock: the
    rest of [clock] (drift file, time zone of leap seconds). feeds: [feed]. control, metrics, log: these tables.
    """

    config: Config
    refused: tuple[str, ...] = ()
    removed: tuple[SourceConfig, ...] = ()
    added: tuple[SourceConfig, ...] = ()
    changed: tuple[SourceChange, ...] = ()
    settings: ClockSettings | None = None
    clock: ClockConfig | None = None
    feeds: FeedChanges = field(default_factory=FeedChanges)
    control: ControlConfig | None = None
    metrics: MetricsConfig | None = None
    log: LogConfig | None = None

    @property
    def sources(self) -> bool:
        """Whether any source was removed, added or changed."""
        return bool(self.removed or self.added or self.changed)

    def __bool__(self) -> bool:
        parts = (self.settings, self.clock, self.control, self.metrics, self.log)
        return self.sources or bool(self.feeds) or any(part is not None for part in parts)

    def __str__(self) -> str:
        """One line for the log: what a reload does, and what it does not."""
        return "; ".join([*self._done(), *self.refused]) or "nothing changed"

    def _done(self) -> Iterator[str]:
        hosts = {
            "removed": [str(source.target) for source in self.removed],
            "added": [str(source.target) for source in self.added],
            "changed": [str(change.new.target) for change in self.changed],
        }
        for what, names in hosts.items():
            if names:
                yield f"{what}: {', '.join(names)}"
        parts = {
            "[clock]": self.settings is not None or self.clock is not None,
            "[feed]": bool(self.feeds),
            "[control]": self.control is not None,
            "[metrics]": self.metrics is not None,
            "[log]": self.log is not None,
        }
        if tables := [name for name, is_changed in parts.items() if is_changed]:
            yield f"changed: {', '.join(tables)}"


def changes(old: Config, new: Config) -> Changes:
    """What has to be done so that the new configuration runs in place of the old one."""
    config, refused = _possible(old, new)
    before = {_identity(source): source for source in old.sources}
    after = {_identity(source): source for source in config.sources}
    return Changes(
        config,
        refused,
        removed=tuple(source for identity, source in before.items() if identity not in after),
        added=tuple(source for identity, source in after.items() if identity not in before),
        changed=tuple(
            SourceChange(before[identity], source)
            for identity, source in after.items()
            if identity in before and source != before[identity]
        ),
        settings=config.clock.settings if config.clock.settings != old.clock.settings else None,
        clock=config.clock if replace(config.clock, settings=old.clock.settings) != old.clock else None,
        feeds=_feeds(old.feed, config.feed),
        control=config.control if config.control != old.control else None,
        metrics=config.metrics if config.metrics != old.metrics else None,
        log=config.log if config.log != old.log else None,
    )


def _identity(source: SourceConfig) -> tuple[str, int]:
    """By this a source is the same one in both configurations."""
    return source.target.host, source.target.port


def _possible(old: Config, new: Config) -> tuple[Config, tuple[str, ...]]:
    """The new configuration with the old values of what cannot change at run time, and a sentence about each of these."""
    clock, feed, metrics = new.clock, new.feed, new.metrics
    refused = []
    was, wanted = old.clock.settings.mode, clock.settings.mode
    if was != wanted:
        # The privilege to set the clock and the lock on it are taken, or given up, at the start.
        refused.append(f"`clock.mode` stays {was} until a restart, which is necessary for {wanted}")
        clock = replace(clock, settings=replace(clock.settings, mode=was))
    if clock.bootstrap != old.clock.bootstrap:
        refused.append("`clock.bootstrap` is used at the next start: a clock that runs is not set by it")
        clock = replace(clock, bootstrap=old.clock.bootstrap)
    if clock.bootstrap_signed != old.clock.bootstrap_signed:
        refused.append("`clock.bootstrap_signed` is used at the next start: a clock that runs is not set by it")
        clock = replace(clock, bootstrap_signed=old.clock.bootstrap_signed)
    if feed.ntp != old.feed.ntp and feed.ntp is not None and not _may_bind(feed.ntp.listen):
        refused.append(f"`feed.ntp.listen` stays as it is: port {feed.ntp.listen.port} can be bound at the start only")
        feed = replace(feed, ntp=old.feed.ntp)
    if metrics != old.metrics and metrics.listen is not None and not _may_bind(metrics.listen):
        refused.append(f"`metrics.listen` stays as it is: port {metrics.listen.port} can be bound at the start only")
        metrics = old.metrics
    return replace(new, clock=clock, feed=feed, metrics=metrics), tuple(refused)


def _may_bind(listen: Target) -> bool:
    return listen.port == 0 or listen.port >= _FIRST_FREE_PORT


def _feeds(old: FeedConfig, new: FeedConfig) -> FeedChanges:
    ntp, segment, clockbound = old.ntp != new.ntp, old.segment != new.segment, old.clockbound != new.clockbound
    return FeedChanges(
        sock_removed=tuple(path for path in old.sock if path not in new.sock),
        sock_added=tuple(path for path in new.sock if path not in old.sock),
        shm_removed=tuple(unit for unit in old.shm if unit not in new.shm),
        shm_added=tuple(unit for unit in new.shm if unit not in old.shm),
        ntp_removed=old.ntp if ntp else None,
        ntp_added=new.ntp if ntp else None,
        segment_removed=old.segment if segment else "",
        segment_added=new.segment if segment else "",
        clockbound_removed=old.clockbound if clockbound else "",
        clockbound_added=new.clockbound if clockbound else "",
    )
