"""tsq-server with several workers: how many, their sockets, the command that starts them, and the supervisor's signals and log.

Comes in: what the command line says. Goes out: the exit status of the supervisor, of a process that makes workers, of a worker. It
must never hold a rule of the protocol.
"""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import tsq
from tsq.cli.common import EXIT_FAILED, EXIT_OK, deliver, hold_back, start_log
from tsq.dataplane.loop import ServingLoop
from tsq.errors import ConfigError, TSQError
from tsq.host import reuseport
from tsq.host.cores import usable_cores
from tsq.host.systemd import Notifier
from tsq.options import Target
from tsq.quic.connection_ids import ConnectionIds
from tsq.quic.quic_lb import QuicLb
from tsq.quic.udp import FamilyMissing, UdpSocket
from tsq.server.driver import Server
from tsq.server.observed import Observed
from tsq.server.service import OLD_CERTIFICATE, Service
from tsq.server.supervisor import Supervisor
from tsq.server.worker import GivenSecrets, Worker
from tsq.server.worker_forks import Forks, Order
from tsq.server.worker_link import Link
from tsq.wording import counted

if TYPE_CHECKING:
    from tsq.server.web.site import WebSite

PROGRAM = "tsq-server"
MOST_WORKERS = 128
# A connection ID's first octet has so many values for the slot.
_MOST_DEFAULT = 16
ENDING = {signal.SIGTERM, signal.SIGINT}
SIGNALS = {*ENDING, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
# Errors of a kernel, or of a filter of system calls, that has no such groups of sockets.
_NOT_HERE = (errno.ENOPROTOOPT, errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
# What the workers of one generation have to say in the same way is said by the first one.
_SAID_ONCE = ("tsq.server.clock_watch", "tsq.server.driver", "tsq.server.endpoint", "tsq.server.confinement")

logger = logging.getLogger("tsq")

# Makes a server on these sockets: its connection IDs, its secrets, how many servers share the limit of connections.
MakeServer = Callable[[list[socket.socket], ConnectionIds, GivenSecrets | None, int], Server]
Report = Callable[[Observed, float], None]
MakeSite = Callable[[Supervisor], "WebSite"]


def worker_count(asked: int | None) -> int:
    """How many workers: as the user says, or one for each processor that the process may use."""
    return asked if asked is not None else min(usable_cores(), _MOST_DEFAULT)


def worker_groups(
    listen: Sequence[Target], passed: Sequence[socket.socket], workers: int, *, asked: bool
) -> list[list[socket.socket]] | None:
    """The sockets of each address, to be steered; None, and a line that says why, where one process has to serve.

    4 * `workers`, of which the second half is for newcomers; 2 * `workers` where they are passed. passed: of the service manager.
    asked: whether the user asked for so many. Raises ConfigError where an address cannot be used.
    """
    if workers == 1:
        return None
    groups, problem = _passed_groups(passed, 2 * workers)
    if problem:
        if asked:
            raise ConfigError(problem, expected="sockets of their own for all workers", advice=_ADVICE.format(count=2 * workers))
        logger.info("one worker: %s", problem)
        return None
    groups += _bound_groups(listen, 4 * workers, alone=not groups)
    missing = _cannot_steer(groups, workers)
    if not missing:
        return groups
    if passed:
        raise ConfigError(
            f"the kernel cannot steer packets to workers ({missing})", expected="one worker, and one socket an address"
        )
    close_groups(groups)
    logger.warning(
        "one worker, not %d: the kernel cannot steer packets to workers (SO_ATTACH_REUSEPORT_CBPF: %s)", workers, missing
    )
    return None


def _bound_groups(listen: Sequence[Target], size: int, *, alone: bool) -> list[list[socket.socket]]:
    """Sockets at these addresses. alone: there are no others, so that at least one address must be there."""
    groups: list[list[socket.socket]] = []
    absent: list[FamilyMissing] = []
    for target in listen:
        try:
            groups.append(UdpSocket.group(target.host, target.port, size))
        except FamilyMissing as error:
            absent.append(error)
        except ConfigError:
            close_groups(groups)
            raise
    if alone and not groups:
        raise absent[0]
    for missing in absent:
        logger.warning("%s; the other addresses are served", missing)
    return groups


def _cannot_steer(groups: Sequence[Sequence[socket.socket]], workers: int) -> str:
    """Why the kernel cannot give packets to the right workers; empty where it can."""
    try:
        for group in groups:
            reuseport.attach(group[0], reuseport.steering(workers, 0, divided=len(group) > 2 * workers))
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
        return error.strerror or str(error)
    return ""


_ADVICE = "let the socket unit name each address {count} times, with ReusePort=yes, or serve by one worker"


def _passed_groups(passed: Sequence[socket.socket], size: int) -> tuple[list[list[socket.socket]], str]:
    """(the service manager's sockets by address, what is wrong with them; empty where nothing is)."""
    groups: dict[object, list[socket.socket]] = {}
    for one in passed:
        groups.setdefault((one.family, one.getsockname()), []).append(one)
    for (_, name), members in ((key, value) for key, value in groups.items() if isinstance(key, tuple)):
        where = Target(*name[:2]) if isinstance(name, tuple) and len(name) in (2, 4) else name
        if len(members) != size:
            count = counted(len(members), "socket")
            return [], f"the service manager passed {count} for {where}, and {size // 2} workers need {size}"
        if not all(map(reuseport.may_share, members)):
            return [], f"the service manager passed sockets for {where} without ReusePort=yes"
    return list(groups.values()), ""


def close_groups(groups: Sequence[Sequence[socket.socket]]) -> None:
    """Close all sockets."""
    for group in groups:
        for one in group:
            one.close()


def command() -> list[str]:
    """What starts this program again, from the files as they are then."""
    if len(sys.orig_argv) > 1 and sys.orig_argv[1] == sys.argv[0] and os.access(sys.argv[0], os.X_OK):
        # A script, whose first line says which interpreter; after an upgrade it may be another one.
        return list(sys.argv)
    return [sys.executable, *sys.orig_argv[1:]]


def make_workers(
    link: Link, make_server: MakeServer, lb: QuicLb | None, log_level: str, *, own_secrets: bool, confine: Callable[[], None]
) -> int:
    """Be the process that makes workers; the exit status.

    lb: of connection IDs. own_secrets: the supervisor has them, no file. confine: what a worker calls when it serves.
    """

    def work(order: Order, own: Link, sockets: list[socket.socket]) -> int:
        start_log(PROGRAM, log_level)
        for handler in logging.getLogger().handlers:
            handler.addFilter(_OneOfMany(order))
        connection_ids = ConnectionIds(slot=order.slot, slots=order.slots, quic_lb=lb)
        connection_ids.answered = set(order.answered)
        secrets = GivenSecrets(order.masters) if own_secrets else None
        return _work(order, own, sockets, make_server, connection_ids, secrets, confine)

    return Forks(link, tsq.__version__, work).run()


class _OneOfMany(logging.Filter):
    """Marks a worker's lines. What all workers of a generation would say is said by the first one."""

    def __init__(self, order: Order) -> None:
        super().__init__()
        self._slot = order.slot
        self._first = order.slot % (order.slots // 2) == 0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name in _SAID_ONCE and record.levelno < logging.ERROR:
            return self._first
        record.msg = f"worker {self._slot}: {record.msg}"
        return True


def _work(
    order: Order,
    link: Link,
    sockets: list[socket.socket],
    make_server: MakeServer,
    connection_ids: ConnectionIds,
    secrets: GivenSecrets | None,
    confine: Callable[[], None],
) -> int:
    """Be a worker; the exit status."""
    try:
        server = make_server(sockets, connection_ids, secrets, order.slots // 2)
        with asyncio.Runner(loop_factory=ServingLoop) as runner:
            runner.run(Worker(server, link, connection_ids, secrets, confine).run())
    except TSQError as error:
        link.send({"failed": str(error)})
        return EXIT_FAILED
    return EXIT_OK


def supervise(
    supervisor: Callable[[Callable[[str], None]], Supervisor], site: MakeSite, metrics: Target | None, drain: float, report: Report
) -> int:
    """Be the supervisor; the exit status.

    supervisor: makes it, with what it calls after a change. site: makes its pages. metrics: where to serve them. drain: how long
    its end may take, seconds. report: logs its counters.
    """
    with asyncio.Runner() as runner:
        trouble = runner.run(_Supervising(supervisor, drain, report).run(site, metrics))
    if trouble:
        logger.error("%s", trouble)
        return EXIT_FAILED
    return EXIT_OK


class _Supervising:
    """A supervisor as a service: signals, status, metrics."""

    def __init__(self, supervisor: Callable[[Callable[[str], None]], Supervisor], drain: float, report: Report) -> None:
        self._drain = drain
        self._supervisor = supervisor(self._changed)
        self._service = Service(self._supervisor.totals, Notifier(), lambda: self._supervisor.alive)
        self._report = report
        self._started = 0.0
        self._serves = False
        self._site: WebSite | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, site: MakeSite, metrics: Target | None) -> str:
        """Serve until a signal ends it; what is wrong, empty where nothing is."""
        loop = asyncio.get_running_loop()
        self._started = loop.time()
        for number in ENDING:
            loop.add_signal_handler(number, self._end)
        if metrics is not None:
            # Its modules are loaded before the files on disk may change.

            self._site = site(self._supervisor)
            self._site.start(metrics)
        try:
            trouble = await self._supervisor.run()
        finally:
            if self._site is not None:
                self._site.close()
        self._report_end()
        return trouble

    def _changed(self, trouble: str) -> None:
        if self._serves:
            self._service.reloaded(trouble)
            return
        self._serves = True
        loop = asyncio.get_running_loop()
        for number, what in (
            (signal.SIGHUP, self._reload),
            (signal.SIGUSR1, self._report_now),
        ):
            loop.add_signal_handler(number, self._begin, what)
        loop.add_signal_handler(signal.SIGUSR2, self._upgrade)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            deliver(number)
        for address in self._supervisor.totals.addresses:
            print(f"{PROGRAM}: listening on {address} (UDP)", flush=True)
        if self._site is not None:
            print(f"{PROGRAM}: metrics at http://{self._site.address}/metrics", flush=True)
        logger.debug("workers that serve: %d", self._supervisor.workers)
        self._service.begin()

    def _begin(self, what: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.get_running_loop().create_task(what())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload(self) -> None:
        self._service.reloading()
        good = await self._supervisor.reload()
        self._service.reloaded("" if good else OLD_CERTIFICATE)

    async def _report_now(self) -> None:
        await self._supervisor.refresh()
        self._report(self._supervisor.totals, asyncio.get_running_loop().time() - self._started)

    def _upgrade(self) -> None:
        self._service.reloading()
        self._supervisor.upgrade()

    def _end(self) -> None:
        connections = self._supervisor.totals.connections
        if self._drain and self._serves:
            logger.info("draining %s, for %g s at most", counted(connections, "connection"), self._drain)
            # Once more ends it at once.
            seconds, self._drain = self._drain, 0.0
            self._supervisor.stop(seconds)
            return
        hold_back(SIGNALS)
        if self._serves:
            self._service.end()
        logger.info("closing %s", counted(connections, "connection"))
        self._supervisor.stop()

    def _report_end(self) -> None:
        with contextlib.suppress(OSError):
            for name, count in self._supervisor.totals.counters.snapshot().items():
                logger.info("%s: %d", name, count)
