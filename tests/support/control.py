"""The real control server on a socket of its own, in a thread, with a status that the test gives."""

import asyncio
import concurrent.futures
import threading
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from tsq.daemon.config import ControlConfig
from tsq.daemon.control import ControlServer
from tsq.discipline.events import Event
from tsq.discipline.settings import Mode
from tsq.discipline.status import ClockStatus, SourceStatus, Status, Tracking

TRACKING = Tracking(
    Mode.STEER, ClockStatus.SYNCHRONIZED, 1_795_399_200_123_456_789, 5_000_000_000,
    offset=0.000000123, offset_sd=2e-6, bound=0.0001234561, frequency=-12.3456e-6, frequency_sd=0.0121e-6,
    correction=-12.3e-6, stratum=2, leap=0, root_delay=0.0002000004, root_dispersion=0.0000234561,
    reference="time-a.example:443", reference_address="192.0.2.1", last_offset=-0.0000021, rms_offset=0.0000034,
    update_interval=16.04, updated_real_ns=1_795_399_190_000_000_000, updates=17, steps=1, accumulated_steps=0.5123,
)  # fmt: skip
SOURCES = (
    SourceStatus(
        "time-a.example:443", "192.0.2.1", "*", "", True, 4, 0o377, 1, 0, 0.0000001, 2e-6, -12.3456e-6, 0.02e-6, -5e-5, 5e-5,
        1.1e-4, 0.0002, 3.4e-6, 1e-5, 0.0000024, 0.0001000001, 7.9, 32, 40, 40, "", 496.0,
    ),
    SourceStatus(
        "time-b.example:443", "2001:db8::1", "x", "contradicts the majority", True, 10, 0o17, 2, 0, 0.25, 1e-3, -12.1e-6, 1e-6,
        0.2, 0.3, 0.05, 0.04, 1.5e-3, 0.01, 0.2501, 0.0501, 4000.0, 6, 9, 6, "", 6 * 1024.0,
    ),
    SourceStatus("a-very-long-name-of-a-server.in-a-long-domain.example:4433", unused="no sample yet", online=False, poll=6),
)  # fmt: skip
STATUS = Status(TRACKING, SOURCES)
UNKNOWN = Status(Tracking(Mode.OBSERVE, ClockStatus.UNSYNCHRONIZED, 0, 0))


class Handler:
    """What the daemon would be. events: what was submitted."""

    version = "1.2.3"

    def __init__(self, status: Status = STATUS) -> None:
        self.given = status
        self.events: list[Event] = []
        self.reloads: list[object] = []
        self.text = "tsq_up 1\n"

    def status(self) -> Status:
        return self.given

    def change(self, **values: object) -> None:
        """Other values in the tracking."""
        self.given = replace(self.given, tracking=replace(self.given.tracking, **values))

    def submit(self, event: Event) -> None:
        self.events.append(event)

    async def reload(self) -> str:
        outcome = self.reloads.pop(0) if self.reloads else "nothing changed"
        if isinstance(outcome, Exception):
            raise outcome
        return str(outcome)

    def metrics(self) -> str:
        return self.text

    def dump(self) -> str:
        return '{"samples": []}'


class ControlThread:
    """A control server until the end of the `with`."""

    def __init__(self, path: Path | str, handler: Handler | None = None, group: str = "", listening: object = None) -> None:
        self.path = str(path)
        self.handler = handler or Handler()
        self._config = ControlConfig(self.path, group)
        self._listening = listening
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()

    def run(self, coroutine_function):
        """Run something on the server's loop; its result."""
        return asyncio.run_coroutine_threadsafe(coroutine_function(), self.loop).result(20)

    def _main(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self.server = ControlServer(self._config, self.handler, self._listening)
        try:
            await self.server.start()
        except BaseException as error:
            self._started.set_exception(error)
            return
        self._started.set_result(None)
        await self._end.wait()
        await self.server.close()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()
        try:
            self._started.result(20)
        except BaseException:
            self._thread.join(20)
            raise
        return self

    def close(self) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._end.set)
            self._thread.join(20)
            assert not self._thread.is_alive()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
