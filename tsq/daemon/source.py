"""One source: polls of one server over one connection, which is kept open or resumed, whichever costs less.

Comes in: calls to `poll`, the network's changes. Goes out: one `Polled` for every poll, within the source's time-out. It must never
raise, poll by itself, or leave a thread, a timer or a descriptor behind.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf

from tsq._fast import clock_ns
from tsq.client.exchange import Rules
from tsq.client.kept import KeptClient, LookUp
from tsq.client.network_errors import FAILURES, network_error
from tsq.client.resolving import Address
from tsq.daemon.network_state import local_address
from tsq.discipline.events import Polled, Reading
from tsq.errors import (
    CertificateError,
    ConfigError,
    ConnectionLost,
    HandshakeTimeout,
    NoAnswer,
    RejectedSamples,
    TSQError,
    Unreachable,
)
from tsq.options import ClientOptions, Precision, Target
from tsq.quic.budget import Throttle
from tsq.timing.sample import Reason, Sample

logger = logging.getLogger(__name__)

# Seconds. To keep a connection open takes a small request every KEEP_ALIVE seconds, because QUIC's idle time-out, and many a
# firewall, forget it after 30 s. To resume one takes a handshake. With polls further apart than OPEN_LIMIT, to resume costs less
# CPU time (docs/explanation/connections.md has the figures).
KEEP_ALIVE = 25.0
OPEN_LIMIT = 180.0
# Of the idle time-out, so that a lost request can be repeated.
_IDLE_PART = 5 / 6
# A poll may come somewhat later than the last one did.
_LATE = 1.25
# The server's session ticket comes one flight after the handshake.
_TICKET_WAIT = 0.5
_GRACE = 0.5
# Seconds between two log lines about certificates, and about other failures, of one source.
_SAME_AGAIN = 3600.0


class Upkeep:
    """Decides how long a connection is kept open after a poll. Without I/O; times are monotonic seconds."""

    def __init__(self) -> None:
        self._polled_at = -inf
        self._gap = 0.0
        self.keep_alive_at = inf
        self.close_at = inf

    def polled(self, now: float, *, burst: bool, tickets: bool, idle_timeout: float) -> None:
        """A poll is over. burst: another one follows soon. tickets: the ticket to resume the connection has come."""
        gap = now - self._polled_at
        self._gap = 0.0 if burst or gap == inf else gap
        self._polled_at = now
        self.touched(now, idle_timeout)
        # What costs is how often something is sent: a server may have a short idle time-out.
        limit = OPEN_LIMIT * (self.keep_alive_at - now) / KEEP_ALIVE
        # The next poll comes after about the same time. If that is too long to wait for, do not begin to wait.
        wait = 0.0 if tickets else _TICKET_WAIT
        self.close_at = now + (wait if self._gap > limit else limit * _LATE)

    def touched(self, now: float, idle_timeout: float) -> None:
        """A packet was sent just now."""
        self.keep_alive_at = now + min(KEEP_ALIVE, idle_timeout * _IDLE_PART)

    @property
    def due_at(self) -> float:
        """When the connection is to be closed, or something is to be sent on it."""
        return min(self.keep_alive_at, self.close_at)


class Source:
    """A server and how to reach it. name: as in events. address: of the server that answered last; empty before. rules: what is
    asked for, and what is believed.

    polled: called with the outcome of every poll. reading: reads the clock. look_up: finds the addresses to try; raises TSQError.
    """

    def __init__(
        self,
        name: str,
        target: Target,
        options: ClientOptions,
        rules: Rules | None = None,
        *,
        polled: Callable[[Polled], None],
        reading: Callable[[], Reading],
        look_up: LookUp,
    ) -> None:
        self.name = name
        self.address = ""
        # How many connections were closed.
        self.closed = 0
        self._polled = polled
        self._reading = reading
        # The name in the certificate is the one that was configured, whatever address is asked.
        self._options = replace(options, server_name=options.server_name or target.host)
        self._client = KeptClient(target, self._options, look_up, rules)
        self._entered = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._upkeep = Upkeep()
        self._ended = False
        self._interrupted = ""
        self._failures: dict[type[TSQError], Throttle] = {}
        self._imprecise = Throttle(_SAME_AGAIN)

    @property
    def busy(self) -> bool:
        """Whether a poll is under way."""
        return self._task is not None

    @property
    def connected(self) -> bool:
        """Whether there is a connection that seems to work."""
        return self._entered and self._client.connected

    def poll(self, *, burst: bool = False) -> None:
        """Begin a poll. Its outcome comes later, never before this returns."""
        if self._ended:
            return
        if self._task is not None:
            asyncio.get_running_loop().call_soon(self._give, [], "the poll before has not ended yet", Reason.NOT_SENT)
            return
        self._disarm()
        self._task = asyncio.create_task(self._run(burst))

    def refuse(self, why: str) -> None:
        """The outcome of a poll that cannot be made."""
        asyncio.get_running_loop().call_soon(self._give, [], why, Reason.NOT_SENT)

    @property
    def peer(self) -> Address | None:
        """The whole address of the server that was reached last."""
        return self._client.peer

    def network_changed(self) -> None:
        """Addresses or routes have changed: if packets would now leave from another address, go on from there."""
        peer = self.peer
        if peer is None or not self.connected:
            return
        local = local_address(peer)
        if local is None:
            self.renew()
        elif local != self._client.local_address:
            self._client.move()

    def renew(self) -> None:
        """Close the connection: it is not to be used any more. A poll that is under way goes on with another one."""
        if self.busy:
            self._client.lose("the network has changed")
        else:
            self._leave()

    def interrupt(self, why: str) -> None:
        """Close the connection. A poll that is under way fails at once."""
        if self._task is not None:
            self._interrupted = why
            # Not before its first step: a task that is cancelled earlier does not run at all.
            asyncio.get_running_loop().call_soon(self._task.cancel)
        else:
            self._leave()

    async def close(self) -> None:
        """Close everything. A poll that is under way has no outcome any more."""
        self._ended = True
        task = self._task
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._leave()

    async def _run(self, burst: bool) -> None:
        samples: Sequence[Sample] = ()
        failure: TSQError | None = None
        try:
            samples = await self._measure(self._now() + self._options.timeout)
        except asyncio.CancelledError:
            if not self._interrupted:
                raise
            failure = Unreachable(self._interrupted)
        except TimeoutError:
            failure = NoAnswer(f"no answer in {self._options.timeout:g} s")
        except TSQError as error:
            failure = error
        except Exception as error:
            failure = _explained(error)
        finally:
            self._task = None
        if self._ended:
            return
        if self._interrupted:
            self._interrupted = ""
            self._leave()
        self.address = self._client.address or self.address
        self._note(failure, samples)
        self._note_precision(samples)
        self._give(samples, "" if failure is None else failure.found, _reason(failure))
        self._after(burst)

    async def _measure(self, until: float) -> list[Sample]:
        if self._entered and not self._client.connected:
            # Better than to repair it: the first request of a new connection goes with the first flight.
            self._leave()
        if not self._entered:
            async with asyncio.timeout_at(until):
                await self._client.open()
            self._entered = True
        # It ends in time by itself, with what there is by then.
        async with asyncio.timeout_at(until + _GRACE):
            return await self._client.pair(until)

    def _give(self, samples: Sequence[Sample], why: str, reason: Reason) -> None:
        """The outcome of one poll: the best sample, or the reason why there is none."""
        if self._ended:
            return
        best = min((one for one in samples if one.valid), key=lambda one: one.root_distance or inf, default=None)
        if best is None:
            best = samples[-1] if samples else Sample(clock_ns(), reason=reason, detail=why)
        self._polled(Polled(self.name, best, self._reading(), self.address, self._client.state_unknown))

    def _note_precision(self, samples: Sequence[Sample]) -> None:
        """Log where a server does not answer in Precision Mode, now and then."""
        if self._options.precision is Precision.OFF or not any(one.valid and not one.precise for one in samples):
            return
        if self._imprecise.due(self._now()):
            logger.info("%s: the server does not answer in Precision Mode", self.name)

    def _note(self, failure: TSQError | None, samples: Sequence[Sample]) -> None:
        """Log why polls fail, once for each reason: it is the operator who can mend that."""
        if failure is None and not any(one.valid for one in samples):
            last = samples[-1]
            failure = RejectedSamples(f"{last.reason}: {last.detail}" if last.detail else f"{last.reason}")
        if failure is None:
            if self._failures:
                logger.info("%s: answers again", self.name)
            self._failures.clear()
            return
        throttle = self._failures.setdefault(type(failure), Throttle(_SAME_AGAIN))
        if throttle.due(self._now()):
            level = logging.WARNING if isinstance(failure, CertificateError | ConfigError) else logging.INFO
            logger.log(level, "%s: %s", self.name, failure)

    def _after(self, burst: bool) -> None:
        """Keep the connection open for the next poll, or close it."""
        # The outcome may have led to another poll at once.
        if self.busy or not self._entered:
            return
        if not self._client.connected:
            self._leave()
            return
        tickets = bool(self._client.tickets)
        self._upkeep.polled(self._now(), burst=burst, tickets=tickets, idle_timeout=self._client.idle_timeout)
        self._arm()

    def _arm(self) -> None:
        self._disarm()
        self._timer = asyncio.get_running_loop().call_at(self._upkeep.due_at, self._due)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        """Do what the connection needs between two polls."""
        self._timer = None
        now = self._now()
        if now >= self._upkeep.close_at or not self._client.connected:
            self._leave()
            return
        if now >= self._upkeep.keep_alive_at:
            self._client.keep_alive()
            self._upkeep.touched(now, self._client.idle_timeout)
        self._arm()

    def _leave(self) -> None:
        self._disarm()
        self._client.shut()
        self.closed += self._entered
        self._entered = False

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _explained(error: Exception) -> TSQError:
    """A shortage of the system's resources; anything else is a fault of this program, which must not end the source."""
    if isinstance(error, FAILURES):
        with contextlib.suppress(*FAILURES):
            return network_error(error)
    logger.error("a poll failed by a fault of the program: %r", error, exc_info=error)
    return TSQError(f"a fault of the program: {error!r}")


def _reason(failure: TSQError | None) -> Reason:
    if isinstance(failure, ConnectionLost):
        return Reason.CONNECTION_LOST
    return Reason.NO_ANSWER if isinstance(failure, NoAnswer | HandshakeTimeout) else Reason.NOT_SENT
