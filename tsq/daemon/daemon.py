"""The driver of the daemon: reads the clock, gives events to the machine, and does what it wants, on an event loop.

Comes in: a configuration, the clock. Goes out: actions on the clock, and the status to all that show or pass it on: feeds, control
socket, metrics, the service manager. It must never decide anything about the clock, nor end because one of those fails.
"""

import asyncio
import json
import logging
import math
import signal
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from tsq.daemon.action_log import ActionLog
from tsq.daemon.config import ClockConfig, Config
from tsq.daemon.description import describe
from tsq.daemon.feeds.bounded import NOTABLE_FREQUENCY
from tsq.daemon.memory_care import MemoryCare
from tsq.daemon.outlets import Outlets
from tsq.daemon.reload import Changes, changes
from tsq.daemon.source_list import source_name
from tsq.daemon.sources import Sources
from tsq.discipline.actions import Action, Log, Poll, SaveDrift, SlewPhase, Steer, StepClock, WouldDo
from tsq.discipline.events import (
    Event,
    Failed,
    LeapKnown,
    Polled,
    Reconfigured,
    SavedDrift,
    SetOnline,
    Started,
    Stopping,
    Tick,
)
from tsq.discipline.machine import Discipline
from tsq.discipline.settings import Mode
from tsq.discipline.status import ClockStatus, Status
from tsq.errors import ClockError, ConfigError, TSQError
from tsq.host.clock import SystemClock
from tsq.host.clock_readings import ClockMark
from tsq.host.drift_file import DriftFile
from tsq.host.leap_table import LeapTable
from tsq.host.memory import release
from tsq.host.step_notice import StepNotice
from tsq.host.systemd import Notifier
from tsq.host.who_steers import who_steers
from tsq.wording import counted

logger = logging.getLogger("tsq.daemon")
# The longest time between two looks at the clock, seconds, whatever the machine wants.
_LONGEST_WAIT = 16.0
# Between two looks, a glance shows whether somebody touched the clock, which is a reason to look at once; seconds between two
# glances. Blind: without the kernel's notices that the clock was stepped.
_GLANCE, _BLIND_GLANCE = 4.0, 1.0
# Polls that end within this time, seconds, are looked at together.
_TOGETHER = 0.1
# What a program asks for is answered from a look that is not older than this, seconds.
_FRESH = 1.0
_SHORTEST_WAIT = 0.001
# How often the leap second table is asked, seconds.
_LEAP_INTERVAL = 3600.0
# How often the feeds get a status in which only time has passed, seconds: what they have stays true for longer.
_PUBLISH_INTERVAL = 16.0
# How often the service manager gets a new status text, seconds.
_STATUS_INTERVAL = 10.0
# The sources' connections get this time to close, seconds: the clock is slewed meanwhile.
_CLOSING = 2.0
_UNKNOWN_ERROR = 16.0
# Events that say when they came, or need not.
_COMPLETE = (Started, Tick, Polled, Failed, Stopping)
_DAY_NS = 86_400_000_000_000


@dataclass(slots=True)
class Counters:
    """What the driver did, for the metrics."""

    events: int = 0
    actions: int = 0
    failed_actions: int = 0
    reloads: int = 0
    failed_reloads: int = 0


class Daemon:
    """Keeps the clock of this machine: `await Daemon(...).run()`, until `stop`, SIGTERM or SIGINT.

    again: reads the configuration again, for a reload; raises ConfigError. clock: the system clock, or that of a simulation.
    version: of TSQ. control: a control socket that systemd opened, in place of the configured path.
    """

    def __init__(
        self,
        config: Config,
        clock: SystemClock,
        again: Callable[[], Config],
        *,
        version: str = "",
        notifier: Notifier | None = None,
        control: socket.socket | None = None,
    ) -> None:
        self.version = version
        self.config = config
        self.counters = Counters()
        self._clock = clock
        self._again = again
        self._notifier = notifier or Notifier()
        self._machine = Discipline()
        self._drift = _drift_file(config.clock)
        self._leap = _leap_table(config.clock)
        self._lines = ActionLog(logger)
        self._sources = Sources(self._deliver, clock.daemon_reading)
        self._outlets = Outlets(self, control)
        self._waiting: deque[Event] = deque()
        self._busy = False
        # The look at what is due now, after all events of this turn of the event loop; and the next one, by time.
        self._settling: asyncio.Handle | None = None
        self._tick: asyncio.TimerHandle | None = None
        # How the clock was left after the last look.
        self._mark: ClockMark | None = None
        self._glances = False
        self._look_at = 0.0
        self._notice: StepNotice | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        # A time that has certainly passed, Unix ns; 0: none is known.
        self._right_once_ns = 0
        self._reloading = asyncio.Lock()
        self._leap_at = self._shown_at = self._publish_at = self._looked_at = 0.0
        self._shown: ClockStatus | None = None
        # Whether something has happened that was not published; what the clock is steered by, and what it was steered by then.
        self._changed = False
        self._steered: Steer | None = None
        self._published: Steer | None = None
        self._memory = MemoryCare(clock.monotonic())
        # A fault of the program's own: the run ends by it.
        self._fault: Exception | None = None

    # What the control socket asks for.

    def status(self) -> Status:
        """What is known about the clock and its sources now."""
        if self._now() >= self._looked_at + _FRESH and not self._busy and not self._stop.is_set():
            self._deliver(Tick(self._clock.daemon_reading()))
        return self._machine.status()

    def submit(self, event: Event) -> None:
        """What an operator asks for."""
        if isinstance(event, SetOnline):
            self._sources.set_online(event.name, event.online)
        self._deliver(event)

    async def reload(self) -> str:
        """Read the configuration again and change what changed; what that was. Raises ConfigError; nothing is changed then.

        One reload after the other: the second one reads the configuration when the first one is done.
        """
        async with self._reloading:
            self._notifier.reloading()
            before = self.config
            try:
                found = changes(before, self._again())
                await self._apply(found)
            except Exception:
                # What was not done is done by the next reload.
                self.config = before
                self.counters.failed_reloads += 1
                raise
            finally:
                self._notifier.ready()
            self.counters.reloads += 1
            return str(found)

    def metrics(self) -> str:
        """The metrics as Prometheus reads them."""
        return self._outlets.exporter().text()

    def dump(self) -> str:
        """The configuration that is in effect and all that is known, for a report on a problem."""
        status = json.dumps(asdict(self._machine.status()), indent=1)
        return f"{describe(self.config)}\nstatus = {status}\ncounters = {json.dumps(self.counts())}\n"

    def counts(self) -> dict[str, int]:
        """What the driver did."""
        return asdict(self.counters)

    # The run.

    async def run(self, begun: Callable[[], None] = lambda: None) -> None:
        """Keep the clock until the end. Raises ConfigError for a part that cannot work with this configuration.

        begun: called when signals are handled.
        """
        loop = asyncio.get_running_loop()
        self._outlets.begin_log(self.config.log)
        self._open_notice()
        saved = None if self._drift is None else self._drift.load()
        self._right_once_ns = 0 if saved is None else saved.saved_ns
        self._deliver(Started(self.version, self.config.clock.settings, self._clock.daemon_reading(), saved))
        try:
            await self._outlets.open(self.config)
            await self._sources.start(self.config.sources)
            for name in (source_name(source) for source in self.config.sources if source.offline):
                self.submit(SetOnline(False, name))
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.stop)
            loop.add_signal_handler(signal.SIGHUP, self._reload_by_signal)
            loop.add_signal_handler(signal.SIGUSR1, self._report)
            begun()
            self._notifier.ready(summary(self._machine.status()))
            await self._stop.wait()
        finally:
            await self._close()
        if self._fault is not None:
            raise ClockError(f"a fault in tsqd: {self._fault!r}", advice="report it with the lines above it in the log")

    def stop(self) -> None:
        """End the run."""
        self._stop.set()

    async def _close(self) -> None:
        self._stop.set()
        self._notifier.stopping()
        self._disarm()
        self._close_notice()
        for task in self._tasks:
            task.cancel()
        try:
            async with asyncio.timeout(_CLOSING):
                await self._sources.close()
        except Exception:
            logger.exception("the sources were not closed")
        if self._fault is None:
            self._deliver(Tick(self._clock.daemon_reading()))
            self._deliver(Stopping())
            self._settle()
        if self._fault is not None:
            self._leave_clock()
        await self._outlets.close()

    def _leave_clock(self) -> None:
        """The machine cannot say any more how to leave the clock: no slew, the oscillator's frequency alone, no claim."""
        if self.config.clock.settings.mode is not Mode.STEER:
            return
        try:
            self._clock.slew_phase(0.0)
            frequency = self._machine.status().tracking.frequency
            if frequency is not None:
                self._clock.steer(frequency, max_error=_UNKNOWN_ERROR, estimated_error=_UNKNOWN_ERROR, synchronized=False)
            else:
                self._clock.mark_unsynchronized()
        except Exception:
            logger.exception("the clock may still be slewed")

    def _deliver(self, event: Event) -> None:
        """Give an event to the machine, after those that are being handled, and do what it wants."""
        if not isinstance(event, _COMPLETE) and self.counters.events and not self._busy:
            # The last look may be some seconds old: what is asked for is for the clock as it is now.
            self._waiting.append(Tick(self._clock.daemon_reading()))
        self._waiting.append(event)
        if not self._busy:
            self._guard_run(self._work)
            if not self._stop.is_set():
                self._settle_soon(waits=isinstance(event, Polled) and self._sources.busy)

    def _work(self) -> None:
        """Handle the events that wait, and those that come of them."""
        while self._waiting and self._fault is None:
            self._handle(self._waiting.popleft())

    def _settle_soon(self, waits: bool) -> None:
        """Settle after this turn of the event loop. waits: for the outcomes of other polls, if they come soon."""
        loop = asyncio.get_running_loop()
        if self._settling is None and waits:
            self._settling = loop.call_later(_TOGETHER, self._settle)
        elif not waits and (self._settling is None or isinstance(self._settling, asyncio.TimerHandle)):
            if self._settling is not None:
                self._settling.cancel()
            self._settling = loop.call_soon(self._settle)

    def _settle(self) -> None:
        """After the events of one moment, which may be the outcomes of several polls: steer, publish and wait."""
        self._disarm()
        self._guard_run(self._conclude)

    def _conclude(self) -> None:
        if not self._stop.is_set():
            reading = self._clock.daemon_reading()
            if self._machine.due_ns <= reading.raw_ns:
                self._waiting.append(Tick(reading))
                self._work()
        if self._fault is None:
            if self._changed or self._now() >= self._publish_at:
                self._publish()
            self._arm()

    def _guard_run(self, call: Callable[[], None]) -> None:
        """What the machine knows after a fault may be half of it: nothing is steered by that. The service manager starts the daemon
        again.
        """
        self._busy = True
        try:
            call()
        except Exception as error:
            logger.exception("a fault in tsqd: it ends")
            self._fault = error
            self.stop()
        finally:
            self._busy = False

    def _handle(self, event: Event) -> None:
        actions = self._machine.handle(event)
        if isinstance(event, Tick):
            self._looked_at = self._now()
        news = [self._is_news(action) for action in actions]
        self._changed = self._changed or not isinstance(event, Tick) or any(news)
        self.counters.events += 1
        self._outlets.record(event, actions, self._machine.status)
        for action in actions:
            self.counters.actions += 1
            self._perform(action)

    def _is_news(self, action: Action) -> bool:
        """Whether those that the status is passed on to need it anew after this action, when only time has passed."""
        match action:
            case Steer(frequency, _, _, synchronized, leap):
                before, self._steered = self._published, action
                same = before is not None and (synchronized, leap) == (before.synchronized, before.leap)
                return not same or before is None or abs(frequency - before.frequency) > NOTABLE_FREQUENCY
            case WouldDo():
                # Another program keeps the clock, perhaps with another frequency than before.
                return bool(self.config.feed.clockbound)
            case _:
                return not isinstance(action, Poll | SaveDrift)

    def _perform(self, action: Action) -> None:
        match action:
            case Poll():
                self._sources.poll(action.name, action.burst)
            case Log():
                self._lines.write(self._explained(action), self._now())
            case SaveDrift():
                if self._drift is not None:
                    # The next start takes no time before this one: a clock that may be ahead must not write it.
                    earliest_ns = self._machine.status().tracking.earliest_ns
                    if earliest_ns is not None:
                        self._right_once_ns = min(self._clock.now_ns(), earliest_ns)
                    saved = SavedDrift(action.frequency, action.uncertainty, action.weights, self._right_once_ns)
                    self._outlets.guarded("the drift file", self._drift.save, saved)
            case Steer() | SlewPhase() | StepClock():
                try:
                    self._set_clock(action)
                except ClockError as error:
                    self.counters.failed_actions += 1
                    self._waiting.append(Failed(type(action).__name__, str(error)))

    def _set_clock(self, action: Steer | SlewPhase | StepClock) -> None:
        clock = self._clock
        match action:
            case Steer(frequency, max_error, estimated_error, synchronized, leap):
                clock.steer(frequency, max_error=max_error, estimated_error=estimated_error, synchronized=synchronized, leap=leap)
            case SlewPhase(offset):
                clock.slew_phase(offset)
            case StepClock(offset, max_error, estimated_error):
                clock.step(offset, max_error=max_error, estimated_error=estimated_error)

    def _explained(self, line: Log) -> Log:
        """A line about another program's doing, with that program's name where it can be known."""
        if not line.kind.startswith("foreign"):
            return line
        who = who_steers()
        return replace(line, text=f"{line.text} (perhaps by {who})") if who else line

    def _publish(self) -> None:
        self._changed, self._published, self._publish_at = False, self._steered, self._now() + _PUBLISH_INTERVAL
        status = self._machine.status()
        self._sources.judged(status.sources)
        self._outlets.publish(status)
        now = self._now()
        if now >= self._shown_at or status.tracking.status is not self._shown:
            self._shown = status.tracking.status
            self._shown_at = now + _STATUS_INTERVAL
            self._lines.flush(now)
            self._notifier.status(summary(status))

    def _arm(self) -> None:
        """Look at the clock when the machine wants it, and glance at it meanwhile where somebody relies on what it shows."""
        if self._stop.is_set():
            return
        left = (self._machine.due_ns - self._clock.raw_ns()) / 1e9
        self._look_at = self._now() + min(max(left, _SHORTEST_WAIT), _LONGEST_WAIT)
        relied_on = self.config.clock.settings.mode is Mode.STEER or bool(self.config.feed.clockbound)
        self._glances = relied_on or self._notice is None
        self._mark = self._clock.mark() if self._glances else None
        self._wait()

    def _wait(self) -> None:
        left = max(self._look_at - self._now(), _SHORTEST_WAIT)
        glance = _GLANCE if self._notice is not None else _BLIND_GLANCE
        call, pause = (self._glance, glance) if self._glances and left > glance else (self._look, left)
        self._tick = asyncio.get_running_loop().call_later(pause, call)

    def _glance(self) -> None:
        """Whether somebody touched the clock. This is asked often, and takes little of the time that a look takes."""
        now = self._clock.mark()
        if self._mark is not None and now is not None and self._mark.explains(now):
            self._wait()
        else:
            self._look()

    def _disarm(self) -> None:
        for handle in (self._settling, self._tick):
            if handle is not None:
                handle.cancel()
        self._settling = self._tick = None

    def _open_notice(self) -> None:
        try:
            self._notice = StepNotice()
        except OSError as error:
            logger.info("the kernel gives no notice when the clock is set: %s", error.strerror)
            return
        asyncio.get_running_loop().add_reader(self._notice.fd, self._clock_set)

    def _clock_set(self) -> None:
        """Somebody has set the clock, perhaps this daemon itself."""
        if self._notice is None:
            return
        try:
            self._notice.arm()
        except OSError as error:
            logger.warning("no more notices when the clock is set: %s", error.strerror)
            self._close_notice()
        self._look()

    def _close_notice(self) -> None:
        if self._notice is not None:
            asyncio.get_running_loop().remove_reader(self._notice.fd)
            self._notice.close()
            self._notice = None

    def _look(self) -> None:
        self._notifier.watchdog()
        now = self._now()
        if self._leap is not None and now >= self._leap_at:
            self._leap_at = now + _LEAP_INTERVAL
            self._outlets.guarded("the table of leap seconds", self._ask_leap, self._leap)
        if not self._sources.busy and self._memory.is_due(now, self._sources.closed):
            release()
        self._deliver(Tick(self._clock.daemon_reading()))
        self._settle()

    def _ask_leap(self, table: LeapTable) -> None:
        try:
            table.renew()
        except ConfigError as error:
            logger.warning("the table of leap seconds stays as it was: %s", error)
        day = self._clock.now_ns() // _DAY_NS
        self._deliver(LeapKnown(table.leap_on(day), day))

    # Parts that a reload may replace.

    async def _apply(self, found: Changes) -> None:
        self.config = found.config
        if found.settings is not None:
            self._deliver(Reconfigured(found.settings))
        if found.clock is not None:
            self._drift, self._leap, self._leap_at = _drift_file(found.clock), _leap_table(found.clock), 0.0
        await self._outlets.apply(found)
        await self._sources.reconfigure(found.config.sources)

    def _reload_by_signal(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload_and_log())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload_and_log(self) -> None:
        try:
            logger.info("configuration read again: %s", await self.reload())
        except TSQError as error:
            # A mistake a line: an entry of the log has one line.
            for line in str(error).splitlines():
                logger.error("the configuration stays as it was: %s", line)
        except Exception:
            logger.exception("the configuration was not read again")

    def _report(self) -> None:
        logging.getLogger("tsq.status").info("status: %s", summary(self._machine.status()))

    def _now(self) -> float:
        return self._clock.monotonic()


def summary(status: Status) -> str:
    """The state of the clock in one line, for the service manager and the log."""
    found = status.tracking
    used = sum(source.mark in ("*", "+") for source in status.sources)
    sources = f"{used} of {counted(len(status.sources), 'source')} used"
    if found.offset is None or found.bound is None:
        return f"{found.status}; {sources}"
    text = f"{found.status}; offset {found.offset * 1e6:+z.1f} µs, at most {math.ceil(found.bound * 1e6)} µs; {sources}"
    return f"{text}; frozen: {found.frozen}" if found.frozen else text


def _drift_file(config: ClockConfig) -> DriftFile | None:
    return DriftFile(config.drift_file) if config.drift_file else None


def _leap_table(config: ClockConfig) -> LeapTable | None:
    return LeapTable(config.leapsectz) if config.leapsectz else None
