"""Keeps the workers of a server, as `supervisor_plan` decides.

Comes in: the sockets (`socket_groups`), the command that starts a generation (`programs`), what an operator asks for: an end, an
upgrade, a reload. Goes out: workers that serve, and what they report. It must never serve a client itself, and never end because a
worker does.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence

from tsq.exposition import Family, Kind, Point
from tsq.server.programs import Programs
from tsq.server.socket_groups import SocketGroups
from tsq.server.supervisor_plan import (
    Action,
    Changed,
    Close,
    Drain,
    Ended,
    Keep,
    Kill,
    Load,
    Plan,
    Relay,
    Say,
    Stage,
    Start,
    Steer,
    Unload,
)
from tsq.server.supervisor_totals import Totals
from tsq.server.whole import others
from tsq.server.worker_forks import Order, how_it_ended
from tsq.server.worker_link import PROTOCOL, Link, Message

logger = logging.getLogger(__name__)

_PING_INTERVAL = 1.0
# A worker that does not answer for so long does nothing else either.
_HUNG_AFTER = 30.0
# Between the end of a worker's link and the report of how its process ended, at most.
_REASON_WAIT = 1.0
_ANSWER_LIMIT = 1.0
_RELOAD_LIMIT = 20.0
# As long as a session ticket can be used (`Secrets`).
_SECRETS_LIFETIME = 86400.0
_MASTER_SIZE = 32


class _Worker:
    """A worker's process. answered_at: when it last reported. pages: whether it shows any, over HTTP/3."""

    def __init__(self, slot: int, link: Link, now: float) -> None:
        self.slot = slot
        self.link = link
        self.pid = 0
        self.answered_at = now
        self.ping = 0
        self.pages = False
        self.reloaded: bool | None = None
        self.over = False


class Supervisor:
    """N workers, and while one generation follows another, 2N.

    groups, workers: see `SocketGroups`; command: see `Programs`. drain_limit: seconds that an old generation may serve its
    connections. own_secrets: whether the workers need secrets, as they have none from a file. after_change: called when the first
    generation serves, and after an upgrade, with what is wrong. Log lines of status are the caller's.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[socket.socket]],
        command: Sequence[str],
        *,
        drain_limit: float,
        own_secrets: bool,
        after_change: Callable[[str], None],
        workers: int | None = None,
    ) -> None:
        self._groups = SocketGroups(groups, workers)
        self._programs = Programs(command, self._from_program)
        self._after_change = after_change
        self._masters = [os.urandom(_MASTER_SIZE)] if own_secrets else []
        self._plan = Plan(self._groups.workers, drain_limit)
        self._drain_limit = drain_limit
        self.totals = Totals(self._groups.addresses)
        self._workers: dict[int, _Worker] = {}
        self._pings = 0
        self._deaths = 0
        self._upgrades = {"good": 0, "failed": 0}
        self._began = False
        self._timer: asyncio.TimerHandle | None = None
        self._trouble = ""
        self._ended: asyncio.Event | None = None

    @property
    def workers(self) -> int:
        """How many workers serve at present."""
        return sum(map(self._plan.serving, self._workers))

    @property
    def alive(self) -> bool:
        """Whether each worker that serves has answered within the last seconds."""
        now = asyncio.get_running_loop().time()
        return all(now - worker.answered_at < 5 * _PING_INTERVAL for worker in self._serving())

    async def run(self) -> str:
        """Serve until `stop`; why that is over, empty where it was asked for."""
        loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        tasks = [loop.create_task(self._watch()), loop.create_task(self._renew_secrets())]
        try:
            self._perform(self._plan.begin(loop.time()))
            await self._ended.wait()
        finally:
            for task in tasks:
                task.cancel()
            if self._timer is not None:
                self._timer.cancel()
            self._end_all()
            loop.remove_signal_handler(signal.SIGCHLD)
        return self._trouble

    def stop(self, drain: float = 0.0) -> None:
        """Close all connections, and end. drain: so many seconds to refuse new clients, and serve and close the others."""
        self.totals.draining = self.totals.draining or drain > 0
        self._perform(self._plan.stop(self._now(), drain))

    def upgrade(self) -> bool:
        """Start a new generation of workers from the program on disk; whether it starts now."""
        before = self._plan.stage
        self._perform(self._plan.upgrade(self._now()))
        return before is Stage.STEADY and self._plan.stage is not Stage.STEADY

    async def reload(self) -> bool:
        """Let all workers load certificate and key again; whether all could."""
        workers = list(self._workers.values())
        for worker in workers:
            worker.reloaded = None
            worker.link.send({"reload": True})
        await self._until(lambda: all(worker.reloaded is not None or worker.over for worker in workers), _RELOAD_LIMIT)
        return all(worker.reloaded or worker.over for worker in workers)

    async def refresh(self) -> None:
        """Get the workers' latest reports, as far as they come at once."""
        number = self._ping()
        workers = list(self._workers.values())
        await self._until(lambda: all(worker.ping >= number or worker.over for worker in workers), _ANSWER_LIMIT)

    def families(self) -> Iterator[Family]:
        """Metrics of the workers themselves."""
        serving = {worker.slot for worker in self._serving()}
        counts = (Point(len(serving), ("serving",)), Point(len(self._workers) - len(serving), ("starting or ending",)))
        yield Family("tsq_server_workers", Kind.GAUGE, "Worker processes", counts, ("state",))
        yield Family("tsq_server_worker_deaths", Kind.COUNTER, "Workers that ended unasked", (Point(self._deaths),))
        cpu = (Point(self.totals.cpu),)
        yield Family("tsq_server_workers_cpu_seconds", Kind.COUNTER, "Processor time of all workers", cpu)
        upgrades = tuple(Point(count, (result,)) for result, count in self._upgrades.items())
        yield Family("tsq_server_upgrades", Kind.COUNTER, "New generations of workers", upgrades, ("result",))
        each = {worker.slot: self.totals.connections_each.get(worker, 0) for worker in self._workers.values()}
        points = tuple(Point(count, (str(slot),)) for slot, count in sorted(each.items()))
        yield Family("tsq_server_worker_connections", Kind.GAUGE, "Open connections of one worker", points, ("worker",))

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _serving(self) -> list[_Worker]:
        return [worker for slot, worker in self._workers.items() if self._plan.serving(slot)]

    def _perform(self, actions: Sequence[Action]) -> None:
        """Do this, and whatever follows from it."""
        waiting = list(actions)
        while waiting:
            waiting += self._do(waiting.pop(0))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._plan.deadline
        if deadline is not None:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._due)

    def _due(self) -> None:
        self._perform(self._plan.tick(self._now()))

    def _do(self, action: Action) -> Sequence[Action]:
        """Do one thing; what the plan says to its outcome."""
        match action:
            case Load(generation):
                return self._load(generation)
            case Start(slot):
                return self._start(slot)
            case Unload(generation):
                self._programs.unload(generation)
            case Steer(newcomers, living):
                self._steer(newcomers, living)
            case Relay(source, target):
                self._connect(source, target)
            case Keep(slot):
                self._send(slot, {"keep": True})
            case Kill(slot):
                self._kill(slot)
            case Drain(slot):
                self._send(slot, {"drain": self._drain_limit})
            case Close(slot, drain):
                self._send(slot, {"close": drain})
            case _:
                self._tell(action)
        return []

    def _tell(self, action: Changed | Ended | Say) -> None:
        """What others are told."""
        match action:
            case Say(level, text):
                logger.log(level, "%s", text)
            case Changed(trouble):
                self._changed(trouble)
            case Ended(trouble):
                self._trouble = trouble
                if self._ended is not None:
                    self._ended.set()

    def _load(self, generation: int) -> Sequence[Action]:
        why = self._programs.load(generation)
        return self._plan.unloaded(generation, why, self._now()) if why else []

    def _from_program(self, generation: int, message: Message) -> None:
        if "loaded" in message:
            self._perform(self._loaded(generation, message))
        worker = next((self._workers.get(int(message[key])) for key in ("made", "unmade", "ended") if key in message), None)
        if worker is None:
            return
        if "made" in message:
            worker.pid = int(message["pid"])
        elif "unmade" in message:
            self._over(worker, f"could not be started: {message['why']}")
        elif message.get("pid") == worker.pid:
            self._over(worker, str(message["why"]))

    def _loaded(self, generation: int, message: Message) -> Sequence[Action]:
        if message["loaded"] != PROTOCOL:
            self._programs.unload(generation)
            why = f"version {message.get('version')} needs a restart of the server to take over from this one"
            return self._plan.unloaded(generation, why, self._now())
        logger.log(logging.INFO if self._began else logging.DEBUG, "version %s is loaded", message.get("version"))
        return self._plan.loaded(generation, self._now())

    def _start(self, slot: int) -> Sequence[Action]:
        link, other = Link.pair()
        worker = _Worker(slot, link, self._now())
        order = Order(slot, 2 * self._plan.workers, self._plan.answered(slot), tuple(self._masters))
        fds = [other.fileno(), *self._groups.descriptors(slot)]
        sent = self._programs.send(slot // self._plan.workers, {"start": order.message()}, fds)
        other.close()
        if not sent:
            link.close()
            return self._plan.ended(slot, "could not be started", self._now())
        self._workers[slot] = worker
        asyncio.get_running_loop().add_reader(link.fileno(), self._from_worker, worker)
        return []

    def _from_worker(self, worker: _Worker) -> None:
        received = worker.link.receive()
        if received is None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(worker.link.fileno())
            # Its program reports in a moment how it ended.
            loop.call_later(_REASON_WAIT, self._over, worker, "ended")
            return
        message, fds = received
        for fd in fds:
            os.close(fd)
        now = self._now()
        if "report" in message:
            worker.answered_at = now
            self.totals.add(worker, message["report"])
        worker.ping = max(worker.ping, int(message.get("ping", 0)))
        if "reloaded" in message:
            worker.reloaded = bool(message["good"])
        if "ready" in message:
            worker.pages = bool(message.get("pages"))
            worker.link.send(self._others(worker))
            self._perform(self._plan.ready(worker.slot, now))
        if "failed" in message:
            self._over(worker, f"failed: {message['failed']}")
        if "drained" in message:
            self._perform(self._plan.drained(worker.slot))

    def _over(self, worker: _Worker, why: str) -> None:
        """A worker has ended."""
        if worker.over:
            return
        worker.over = True
        # What it sent before its end.
        self._read_last(worker)
        asyncio.get_running_loop().remove_reader(worker.link.fileno())
        worker.link.close()
        self.totals.forget(worker)
        if self._workers.get(worker.slot) is not worker:
            return
        del self._workers[worker.slot]
        actions = self._plan.ended(worker.slot, why, self._now())
        self._deaths += any(isinstance(action, Say) and action.level >= logging.ERROR for action in actions)
        self._perform(actions)

    def _read_last(self, worker: _Worker) -> None:
        while (received := worker.link.receive()) and received[0]:
            if "report" in received[0]:
                self.totals.add(worker, received[0]["report"])

    def _steer(self, newcomers: int, living: frozenset[int]) -> None:
        self._groups.divide(newcomers, living)
        for slot in self._workers:
            self._send(slot, {"answered": sorted(self._plan.answered(slot))})

    def _connect(self, source: int, target: int) -> None:
        """A way for newcomers from a worker of the old generation to one of the new."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with one, other:
            self._send(target, {"relay": "in"}, [other.fileno()])
            self._send(source, {"relay": "out"}, [one.fileno()])

    def _send(self, slot: int, message: Message, fds: Sequence[int] = ()) -> None:
        worker = self._workers.get(slot)
        if worker is not None:
            worker.link.send(message, fds)

    def _kill(self, slot: int) -> None:
        worker = self._workers.get(slot)
        if worker is None:
            return
        if worker.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
        else:
            self._over(worker, "was not started in time")

    def _changed(self, trouble: str) -> None:
        if self._began:
            self._upgrades["failed" if trouble else "good"] += 1
        self._began = True
        self._after_change(trouble)

    def _ping(self) -> int:
        self._pings += 1
        for worker in self._workers.values():
            worker.link.send({"ping": self._pings} | self._others(worker))
        return self._pings

    def _others(self, worker: _Worker) -> Message:
        """For a worker that shows pages: what the others did."""
        return {"others": others(self.totals, self.totals.last(worker), self.families())} if worker.pages else {}

    async def _watch(self) -> None:
        """Ask all workers for their reports again and again. One that does not answer is ended."""
        while True:
            await asyncio.sleep(_PING_INTERVAL)
            self._ping()
            now = self._now()
            for worker in self._serving():
                if now - worker.answered_at > _HUNG_AFTER:
                    logger.error("worker %d has not answered for %.0f s: it is killed", worker.slot, now - worker.answered_at)
                    worker.answered_at = now
                    self._kill(worker.slot)

    async def _renew_secrets(self) -> None:
        while self._masters:
            await asyncio.sleep(_SECRETS_LIFETIME)
            self._masters = [os.urandom(_MASTER_SIZE), self._masters[0]]
            for slot in self._workers:
                self._send(slot, {"masters": [one.hex() for one in self._masters]})

    async def _until(self, done: Callable[[], bool], limit: float) -> None:
        ends = self._now() + limit
        while not done() and self._now() < ends:
            await asyncio.sleep(0.01)

    def _reap(self) -> None:
        """Processes of this one have ended."""
        for generation, why in self._programs.reap():
            self._perform(self._plan.unloaded(generation, f"its program {why}", self._now()))
        for worker in list(self._workers.values()):
            # Of a program that has ended, workers may have come to this process.
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(worker.pid, os.WNOHANG) if worker.pid else (0, 0)
                if pid:
                    self._over(worker, how_it_ended(status))

    def _end_all(self) -> None:
        """End what is still there."""
        for worker in list(self._workers.values()):
            self._kill(worker.slot)
            asyncio.get_running_loop().remove_reader(worker.link.fileno())
            worker.link.close()
        self._programs.end()
        self._groups.close()
