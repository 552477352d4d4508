"""Writes every event and its actions to a file, for `tsqd --replay` (docs/reference/recordings.md).

Comes in: events with their actions, in order. Goes out: lines of JSON, in files that are rotated by size. A thread writes, so that
a slow disk delays nothing. It must never raise, never make the daemon wait, and never hide that something was not written: where
events are missing, the next part says how many, and why.
"""

import logging
import os
import signal
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from secrets import token_hex

from tsq.discipline.actions import Action
from tsq.discipline.events import (
    Event,
    LeapKnown,
    Reading,
    Reconfigured,
    SetOnline,
    SourceAdded,
    SourceChanged,
    SourceRemoved,
    Started,
)
from tsq.discipline.recording import Part, Record, line
from tsq.host import files
from tsq.wording import counted

logger = logging.getLogger(__name__)

_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1}
# Events that wait for the disk, at most: an hour at one a second, some megabytes.
MOST_QUEUED = 4096
# How long after a failure to try again, seconds.
_RETRY = 10.0
# How long `close` waits for the disk, seconds.
_PATIENCE = 2.0
# What prepares a machine for the rest of a run.
_SETUP = (Started, Reconfigured, SourceAdded, SourceRemoved, SourceChanged, SetOnline, LeapKnown)


@dataclass(frozen=True, slots=True)
class _Item:
    """One event of a run. actions: None where it is not to be written: only the setup needs it."""

    run: str
    number: int
    event: Event
    actions: tuple[Action, ...] | None


class Recorder:
    """Records to this path. max_bytes: the size at which a file is rotated. keep: how many old files stay, as PATH.1, PATH.2.

    setup: `RunSetup.events()` of a run that has begun already, if the first event will not be `Started`.
    """

    def __init__(
        self,
        path: str,
        max_bytes: int = 64 * 1024 * 1024,
        keep: int = 4,
        *,
        setup: Sequence[Event] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = (path, max_bytes, keep)
        self._writer = RecordWriter(path, max_bytes, keep, clock)
        self._condition = threading.Condition()
        self._queue: deque[_Item] = deque()
        self._busy = False
        self._reopen = False
        self._ended = False
        self._thread: threading.Thread | None = None
        self._run = token_hex(8)
        # The events of a run are counted from 0. Of one that has begun already, all before are missing: as if they were one.
        self._number = 1
        for event in setup:
            self._queue.append(_Item(self._run, 0, event, None))

    def event(self, event: Event, actions: Sequence[Action]) -> None:
        """Record an event with its actions. It returns at once."""
        if isinstance(event, Started):
            self._run = token_hex(8)
            self._number = 0
        number, self._number = self._number, self._number + 1
        with self._condition:
            if self._ended:
                return
            full = len(self._queue) >= MOST_QUEUED
            if not full or isinstance(event, _SETUP):
                self._queue.append(_Item(self._run, number, event, None if full else tuple(actions)))
            self._condition.notify_all()
        self._start()

    def reopen(self) -> None:
        """Open the file anew before the next event: somebody has moved it."""
        with self._condition:
            self._reopen = True
            self._condition.notify_all()

    def flush(self, patience: float = _PATIENCE) -> bool:
        """Wait until all events are written, or cannot be; False where that takes longer than so many seconds."""
        with self._condition:
            return self._condition.wait_for(lambda: self._thread is None or not (self._queue or self._busy), patience)

    def close(self) -> None:
        """Write what waits, and end. A disk that does not answer makes nobody wait for long."""
        with self._condition:
            self._ended = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join(_PATIENCE)
            if self._thread.is_alive():
                logger.warning("%s: the last events are not recorded: the disk does not answer", self._writer.path)

    def _start(self) -> None:
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:
            logger.warning("nothing is recorded: %s", error)
            with self._condition:
                self._ended = True
                self._queue.clear()
            return
        self._thread = thread

    def _work(self) -> None:
        # The main thread handles signals.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        while True:
            with self._condition:
                self._busy = False
                self._condition.notify_all()
                self._condition.wait_for(lambda: self._queue or self._reopen or self._ended)
                if not self._queue and self._ended:
                    break
                items, self._queue = self._queue, deque()
                reopen, self._reopen = self._reopen, False
                self._busy = True
            if reopen:
                self._writer.close()
            for item in items:
                self._writer.write(item.run, item.number, item.event, item.actions)
        self._writer.close()


class RecordWriter:
    """The files of a recorder. It blocks as long as the disk does, and raises nothing."""

    def __init__(self, path: str, max_bytes: int, keep: int, clock: Callable[[], float]) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._clock = clock
        self._fd: int | None = None
        self._size = 0
        self._begun = False
        self._run = ""
        self._next = 0
        self._setup = RunSetup()
        # Why nothing can be written at present, and when to try again.
        self._why = ""
        self._retry_at = 0.0

    def write(self, run: str, number: int, event: Event, actions: tuple[Action, ...] | None) -> None:
        """Write an event, the so-many-th of its run. actions: None: only note what it sets up."""
        if run != self._run:
            self._run, self._next, self._begun, self._setup = run, 0, False, RunSetup()
        if actions is not None and not (self._why and self._clock() < self._retry_at):
            try:
                self._put(number, event, actions)
            except OSError as error:
                self._failed(files.why(error))
            except Exception as error:
                # A value that cannot be written must not end the recording of others.
                self._failed(f"{type(event).__name__} cannot be written: {error!r}")
        self._setup.note(event)

    def close(self) -> None:
        """Close the file; the next event opens it again."""
        fd, self._fd, self._begun = self._fd, None, False
        if fd is not None:
            try:
                os.close(fd)
            except OSError as error:
                # A network file system may report a full disk only here.
                logger.warning("%s: %s", self.path, files.why(error))

    def _put(self, number: int, event: Event, actions: tuple[Action, ...]) -> None:
        record = line(Record(event, actions)).encode()
        if self._fd is None:
            self._open()
        if self._size and self._size + len(record) > self._max_bytes:
            self._rotate()
        missed = number - self._next
        if not self._begun or missed:
            setup = self._setup.events() if number else ()
            why = "" if not missed else self._why or ("the disk was too slow" if self._next else "the recording began later")
            self._append(line(Part(self._setup.version(event), self._run, number, missed, why, setup)).encode())
            self._begun = True
        self._append(record)
        self._next = number + 1
        if self._why:
            logger.info("%s: recording again; %s missing", self.path, counted(missed, "event"))
            self._why = ""

    def _append(self, data: bytes) -> None:
        if self._fd is not None:
            files.write_all(self._fd, data)
            self._size += len(data)

    def _open(self) -> None:
        self._fd = files.open_log(self.path)
        status = os.fstat(self._fd)
        self._size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            raise files.FileRefused(f"it is {files.kind_of(status)}, not a regular file")
        if self._size:
            # What an earlier process wrote last may have no end.
            self._append(b"\n")

    def _rotate(self) -> None:
        """Begin a new file. Without the permission to do that, nothing is written: the file must not grow for ever."""
        self.close()
        if self._keep:
            for number in range(self._keep - 1, 0, -1):
                if os.path.lexists(f"{self.path}.{number}"):
                    os.replace(f"{self.path}.{number}", f"{self.path}.{number + 1}")
            os.replace(self.path, f"{self.path}.1")
        else:
            os.unlink(self.path)
        self._open()

    def _failed(self, why: str) -> None:
        if not self._why:
            logger.warning("cannot record to %s: %s; the daemon goes on, and tries again", self.path, why)
        self._why = why
        self._retry_at = self._clock() + _RETRY
        self.close()


class RunSetup:
    """The events that prepare a machine for the rest of a run."""

    def __init__(self) -> None:
        self._started: Started | None = None
        self._reading: Reading | None = None
        self._sources: dict[str, SourceAdded] = {}
        self._offline: set[str] = set()
        self._leap: tuple[Event, ...] = ()

    def version(self, event: Event) -> str:
        """The version of TSQ that runs."""
        started = event if isinstance(event, Started) else self._started
        return "" if started is None else started.version

    def note(self, event: Event) -> None:
        """Take over what this event changes."""
        reading = getattr(event, "reading", None)
        if isinstance(reading, Reading):
            self._reading = reading
        match event:
            case Started():
                self._started = event
            case Reconfigured(settings) if self._started is not None:
                self._started = replace(self._started, settings=settings)
            case SourceAdded(name):
                self._sources[name] = event
            case SourceChanged(name, settings, address):
                self._sources[name] = SourceAdded(name, settings, address)
            case SourceRemoved(name):
                self._sources.pop(name, None)
                self._offline.discard(name)
            case SetOnline(online, name):
                names = {name} if name else set(self._sources)
                self._offline = self._offline - names if online else self._offline | (names & self._sources.keys())
            case LeapKnown():
                self._leap = (event,)
            case _:
                pass

    def events(self) -> tuple[Event, ...]:
        """What a machine is given first that has seen nothing of the run."""
        if self._started is None or self._reading is None:
            return ()
        begin = replace(self._started, reading=self._reading)
        offline = [SetOnline(online=False, name=name) for name in sorted(self._offline)]
        return (begin, *self._sources.values(), *offline, *self._leap)
