"""A server's watch of its host's clock: asks how good it is, again and again, and has the answer told to clients.

Comes in: whom to ask. Goes out: what clients learn, and a log line at each change. It must never end while the server runs,
never let an old answer stand for the clock's present state, and never keep the server waiting for who is asked.

A state that was found holds for some seconds, with the drift of that time in it. Where no new one comes, because whoever is asked
hangs or the answer cannot be used, its error grows with its age; from _MOST_AGE on the clock is not synchronized. A server that was
stopped (SIGSTOP, a suspend) or whose clock was set forward says so with its first answer after it: what is told has its end.
"""

import asyncio
import logging
import signal
import threading
from collections.abc import Callable

from tsq.host.clock import now_ns
from tsq.host.keepers.sync_state import HostClock, SyncState, sync_state, unknown
from tsq.server.clock_info import about
from tsq.server.responder import Responder

logger = logging.getLogger(__name__)

# How often the host is asked; what was told holds for twice as long, should it be late with the next answer.
_INTERVAL = 2.0
_HOLDS = 2 * _INTERVAL
# How old a state may become while the next one is waited for.
_MOST_AGE = 10.0
# How long one look is waited for before what is known is given out with its age; the first one longer, as nothing is known yet.
_PATIENCE, _FIRST_PATIENCE = 1.0, 4.0
_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1}


class ClockWatch:
    """Asks about the host's clock, and tells a responder. state: how good the clock is; None where nobody is to be asked."""

    def __init__(self, host_clock: HostClock, responder: Responder) -> None:
        self.state: SyncState | None = None
        self._host_clock = host_clock
        self._responder = responder
        self._found_at = 0.0
        self._reported: SyncState | None = None
        self._task: asyncio.Task[None] | None = None
        self._look: asyncio.Future[SyncState | None] | None = None

    async def start(self) -> None:
        """Ask for the first time, and go on until `stop`."""
        await self._ask(_FIRST_PATIENCE)
        if self.state is not None:
            self._task = asyncio.create_task(self._go_on())

    def stop(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._look is not None:
            # Its answer is not needed any more.
            self._look.cancel()
            self._look = None

    async def _go_on(self) -> None:
        while True:
            self._report()
            await asyncio.sleep(_INTERVAL)
            await self._ask()

    async def _ask(self, patience: float = _PATIENCE) -> None:
        """Look once. Where the answer is late, what is known is used with its age, and the next call waits for the same look."""
        loop = asyncio.get_running_loop()
        if self._look is None:
            self._look = _in_a_thread(lambda: sync_state(self._host_clock))
        await asyncio.wait([self._look], timeout=patience)
        if not self._look.done():
            age = loop.time() - self._found_at
            if self.state is None or age > _MOST_AGE:
                self._tell(unknown(self._host_clock, "no answer"))
            else:
                self._tell(self.state, age)
            return
        look, self._look = self._look, None
        self._found_at = loop.time()
        try:
            state = look.result()
            if state is not None:
                self._tell(state)
        except Exception as error:
            # Whatever it was: what was given out before must not stand for ever.
            self._tell(unknown(self._host_clock, str(error) or type(error).__name__))

    def _tell(self, state: SyncState, age: float = 0.0) -> None:
        """From now on clients get this answer, for a while; after that, the answer that nothing is known."""
        told = about(state.lasting(age + _HOLDS))
        later = about(unknown(self._host_clock, "no answer"))
        self.state = state
        self._responder.tell(*told, until_ns=now_ns() + round(_HOLDS * 1e9), later=later)

    def _report(self) -> None:
        """Say in the log what has changed."""
        state = self.state
        if state is None or (self._reported is not None and not _differ(self._reported, state)):
            return
        self._reported = state
        if state.trouble:
            logger.warning("this machine's clock cannot be asked about: %s", state.trouble)
        if not state.synchronized:
            logger.warning(
                "this machine's clock is not synchronized (%s): clients are told so, and do not use it; in a lab, --local-stratum 1"
                " claims that it is right",
                state.keeper,
            )
        else:
            stratum, error = state.stratum, state.error
            logger.info("clock: stratum %d, error at most %.6f s, according to %s", stratum, error, state.keeper)


def _differ(one: SyncState, other: SyncState) -> bool:
    """Whether a change is worth a line in the log."""
    return (one.synchronized, one.keeper, one.trouble) != (other.synchronized, other.keeper, other.trouble)


def _in_a_thread(ask: Callable[[], SyncState | None]) -> "asyncio.Future[SyncState | None]":
    """What it gives, or raises, later. The thread ends with the process: one that hangs must not keep the server from ending."""
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
        # Signals are for the main thread, which may hold them back.
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
