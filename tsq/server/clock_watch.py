"""Polls the state of the host's clock while the server runs, and passes it to the responder.

Comes in: a HostClock, which names the program to query. Goes out: clock info for clients, and a log line at each change. It must
never end while the server runs, never report an old state as the present one, and never make the server wait for that program.
A state is valid for some seconds, with the drift of that time included. Without a new one its error grows with its age; after
_MOST_AGE the clock counts as unsynchronized. Clock info expires, so a server that was suspended sends no old state either.
"""

import asyncio
import logging
import signal
import threading
from collections.abc import Callable

from tsq.host.clock import now_ns
from tsq.host.keepers.sync_state import HostClock, SyncState, sync_state, unknown
from tsq.server.clock_info import clock_info
from tsq.server.responder import Responder
from tsq.settings import Setting

logger = logging.getLogger(__name__)

# The poll interval. Clock info is valid for twice as long, in case the next state is late.
_INTERVAL = 2.0
_VALID = 2 * _INTERVAL
# The most age of a state while the next one is late.
_MOST_AGE = 10.0
# How long to wait for one poll before the last state is used with its age. The first poll gets longer: there is no last state.
_PATIENCE, _FIRST_PATIENCE = 1.0, 4.0
_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1}


class ClockWatch:
    """Polls the host's clock for a responder. state: the clock's quality; None if no program is to be queried."""

    def __init__(self, host_clock: HostClock, responder: Responder) -> None:
        self.state: SyncState | None = None
        self._host_clock = host_clock
        self._responder = responder
        self._polled_at = 0.0
        self._logged: SyncState | None = None
        self._task: asyncio.Task[None] | None = None
        self._poll: asyncio.Future[SyncState | None] | None = None

    async def start(self) -> None:
        """Poll once, and then again and again until `stop`."""
        await self._update(_FIRST_PATIENCE)
        if self.state is not None:
            self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Stop polling."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._poll is not None:
            # Nobody needs its result.
            self._poll.cancel()
            self._poll = None

    async def _run(self) -> None:
        while True:
            self._log_change()
            await asyncio.sleep(_INTERVAL)
            await self._update(_PATIENCE)

    async def _update(self, patience: float) -> None:
        """Poll once. If the result is late, use the last state with its age; the next call waits for the same poll."""
        loop = asyncio.get_running_loop()
        if self._poll is None:
            self._poll = _in_a_thread(lambda: sync_state(self._host_clock))
        await asyncio.wait([self._poll], timeout=patience)
        if not self._poll.done():
            age = loop.time() - self._polled_at
            if self.state is None or age > _MOST_AGE:
                self._publish(unknown(self._host_clock, "no answer"))
            else:
                self._publish(self.state, age)
            return
        poll, self._poll = self._poll, None
        self._polled_at = loop.time()
        try:
            state = poll.result()
            if state is not None:
                self._publish(state)
        except Exception as error:
            # Whatever the reason is, do not use the last state forever.
            self._publish(unknown(self._host_clock, str(error) or type(error).__name__))

    def _publish(self, state: SyncState, age: float = 0.0) -> None:
        """Give this state to clients while it is valid, and the state of an unknown clock after that."""
        info = clock_info(state.lasting(age + _VALID))
        expired = clock_info(unknown(self._host_clock, "no answer"))
        self.state = state
        self._responder.set_clock_info(info, until_ns=now_ns() + round(_VALID * 1e9), expired=expired)

    def _log_change(self) -> None:
        """Log a change of the state."""
        state = self.state
        if state is None or (self._logged is not None and not _differ(self._logged, state)):
            return
        self._logged = state
        if state.trouble:
            logger.warning("the state of this machine's clock is unknown: %s", state.trouble)
        if not state.synchronized:
            logger.warning(
                "this machine's clock is not synchronized (%s): clients learn this and do not use it; in a lab, %s"
                " declares it synchronized",
                state.keeper,
                Setting.LOCAL_STRATUM,
            )
        else:
            stratum, error = state.stratum, state.error
            logger.info("clock: stratum %d, error at most %.6f s, according to %s", stratum, error, state.keeper)


def _differ(one: SyncState, other: SyncState) -> bool:
    """Whether a change is worth a line in the log."""
    return (one.synchronized, one.keeper, one.trouble) != (other.synchronized, other.keeper, other.trouble)


def _in_a_thread(ask: Callable[[], SyncState | None]) -> "asyncio.Future[SyncState | None]":
    """The result of `ask`, or its exception. A daemon thread: if it hangs, the server can still end."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[SyncState | None] = loop.create_future()

    def settle(state: SyncState | None, error: Exception | None) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(state)
        else:
            future.set_exception(error)

    def work() -> None:
        state, failed = None, None
        # The main thread handles signals, and may block them.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            state = ask()
        except Exception as error:
            failed = error
        try:
            loop.call_soon_threadsafe(settle, state, failed)
        except RuntimeError:
            # The server has ended meanwhile.
            return

    try:
        threading.Thread(target=work, name="clock", daemon=True).start()
    except (RuntimeError, MemoryError) as error:
        settle(None, error)
    return future
