"""All that goes out of the daemon besides actions on the clock: feeds, control socket, metrics, recording, measurements log.

Comes in: the configuration and its changes, events with their actions, each status. Goes out: to those parts, each of which may be
replaced while the others go on. It must never let a fault of one of them end the daemon.
"""

import itertools
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from tsq.daemon.config import Config, ControlConfig, FeedConfig, LogConfig, MetricsConfig
from tsq.daemon.control import ControlServer, Handler
from tsq.daemon.feeds.opening import Feed, open_feeds
from tsq.daemon.measurements_log import MeasurementsLog
from tsq.daemon.recorder import Recorder, RunSetup
from tsq.daemon.reload import Changes
from tsq.discipline.actions import Action
from tsq.discipline.events import Event, Polled
from tsq.discipline.status import Status

if TYPE_CHECKING:
    from tsq.daemon.metrics import Metrics

logger = logging.getLogger("tsq.daemon")


class Shown(Handler, Protocol):
    """What the outlets ask the daemon for."""

    version: str

    def counts(self) -> dict[str, int]:
        """What it did."""
        ...


class Outlets:
    """The parts of one daemon. control: a control socket that systemd opened, in place of the configured path."""

    def __init__(self, daemon: Shown, control: socket.socket | None) -> None:
        self._daemon = daemon
        # Each with the part of the configuration that it was made from.
        self.feeds: dict[FeedConfig, list[Feed]] = {}
        self._control: ControlServer | None = None
        self._control_socket = control
        self._metrics: Metrics | None = None
        self._recorder: Recorder | None = None
        self._setup = RunSetup()
        self._measurements: MeasurementsLog | None = None
        # Parts of which a fault was logged.
        self._unfit: set[str] = set()

    async def open(self, config: Config) -> None:
        """Begin all but the log, which begins earlier. Raises ConfigError for what cannot work with this configuration."""
        await self.change_feeds(config.feed)
        await self._open_control(config.control)
        self._open_metrics(config.metrics)

    async def apply(self, found: Changes) -> None:
        """Replace what another configuration changes. Raises ConfigError."""
        config = found.config
        if found.feeds:
            await self.change_feeds(config.feed)
        if found.control is not None:
            if self._control is not None:
                await self._control.close()
            await self._open_control(config.control)
        if found.metrics is not None:
            if self._metrics is not None:
                self._metrics.close()
            self._open_metrics(config.metrics)
        if found.log is not None:
            self.begin_log(config.log)
        if self._recorder is not None:
            self._recorder.reopen()
        if self._measurements is not None:
            self._measurements.reopen()

    async def close(self) -> None:
        """End all."""
        if self._control is not None:
            await self._control.close()
        if self._metrics is not None:
            self._metrics.close()
        for feed in itertools.chain.from_iterable(self.feeds.values()):
            feed.close()
        if self._recorder is not None:
            self._recorder.close()

    def record(self, event: Event, actions: Sequence[Action], status: Callable[[], Status]) -> None:
        """Keep an event and what it led to, where that is configured."""
        if self._recorder is not None:
            self.guarded("the recording", self._recorder.event, event, actions)
        self._setup.note(event)
        if self._measurements is not None and isinstance(event, Polled):
            source = next((one for one in status().sources if one.name == event.name), None)
            self.guarded("the measurements log", self._measurements.add, event, source)

    def publish(self, status: Status) -> None:
        """Pass on what is known."""
        for feed in itertools.chain.from_iterable(self.feeds.values()):
            self.guarded(f"the feed {type(feed).__name__}", feed.publish, status)
        if self._metrics is not None:
            self.guarded("the metrics", self._metrics.note, status)

    def guarded(self, what: str, call: Callable[..., object], *arguments: object) -> None:
        """What shows or keeps something must not end the daemon. Its first fault is logged in full."""
        try:
            call(*arguments)
        except Exception:
            if what not in self._unfit:
                self._unfit.add(what)
                logger.exception("%s has a fault, and may miss something from now on", what)

    async def change_feeds(self, config: FeedConfig) -> None:
        """End the feeds that are not configured any more, begin the new ones, and do not touch the others."""
        parts = _parts(config)
        for part in [part for part in self.feeds if part not in parts]:
            for feed in self.feeds.pop(part):
                feed.close()
        for part in parts:
            if part not in self.feeds:
                self.feeds[part] = open_feeds(part)
                for feed in self.feeds[part]:
                    await feed.start()

    def begin_log(self, log: LogConfig) -> None:
        """Log, record and keep measurements as configured."""
        logging.getLogger("tsq").setLevel(log.level.upper())
        if self._recorder is not None and self._recorder.settings != (log.record, log.record_bytes, log.record_files):
            self._recorder.close()
            self._recorder = None
        if self._recorder is None and log.record:
            self._recorder = Recorder(log.record, log.record_bytes, log.record_files, setup=self._setup.events())
        self._measurements = MeasurementsLog(log.measurements) if log.measurements else None

    async def _open_control(self, config: ControlConfig) -> None:
        self._control = ControlServer(config, self._daemon, self._control_socket)
        await self._control.start()

    def _open_metrics(self, config: MetricsConfig) -> None:
        if config.listen is not None:
            self.exporter().start(config.listen)

    def exporter(self) -> "Metrics":
        """The metrics, whether or not anybody reads them over HTTP."""
        if self._metrics is None:
            # Its library takes some megabytes: only for those who ask.
            from tsq.daemon.metrics import Metrics  # noqa: PLC0415

            self._metrics = Metrics(self._daemon.status, self._daemon.counts, version=self._daemon.version)
        return self._metrics


def _parts(config: FeedConfig) -> list[FeedConfig]:
    """A configuration for each single feed."""
    nothing = FeedConfig(segment="")
    return [
        *([replace(nothing, segment=config.segment)] if config.segment else []),
        *([replace(nothing, clockbound=config.clockbound)] if config.clockbound else []),
        *(replace(nothing, sock=(path,)) for path in config.sock),
        *(replace(nothing, shm=(unit,)) for unit in config.shm),
        *([] if config.ntp is None else [replace(nothing, ntp=config.ntp)]),
    ]
