"""tsq-server: serve the time of this machine's clock (docs/reference/cli.md)."""

import argparse
import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TextIO

import tsq
from tsq.cli.common import EXIT_FAILED, EXIT_OK, cannot_use, deliver, hold_back, key_log, start_log
from tsq.cli.server_options import server_parser as _parser
from tsq.cli.workers import (
    ENDING,
    PROGRAM,
    SIGNALS,
    close_groups,
    command,
    make_workers,
    supervise,
    worker_count,
    worker_groups,
)
from tsq.dataplane.loop import ServingLoop
from tsq.errors import ConfigError, TransportError, TSQError
from tsq.exposition import MOST_CONNECTIONS
from tsq.host import shortage
from tsq.host.keepers.sync_state import HostClock, Keeper
from tsq.host.key_files import load_signing_keys
from tsq.host.systemd import Notifier, listen_sockets
from tsq.options import (
    DEFAULT_PORT,
    LOOPBACK,
    LocalClock,
    Target,
    WebOptions,
    parse_listen,
)
from tsq.quic import tls
from tsq.quic.access import AccessList
from tsq.quic.connection_ids import ConnectionIds
from tsq.quic.quic_lb import QuicLb
from tsq.quic.router import Limits, RetryPolicy
from tsq.quic.secrets import Secrets
from tsq.quic.selfsigned import dns_name, self_signed
from tsq.server.confinement import GivingUp, Strictness
from tsq.server.driver import Server
from tsq.server.observed import Observed
from tsq.server.responder import Responder
from tsq.server.service import Service
from tsq.server.supervisor import Supervisor
from tsq.server.worker_forks import inherited
from tsq.server.worker_link import Link
from tsq.settings import for_command_line
from tsq.wire.annotations import annotations_tlv
from tsq.wording import counted

if TYPE_CHECKING:
    from tsq.server.web.site import WebSite

logger = logging.getLogger("tsq")
# A report that somebody asked for is printed at any --log-level.
_status_logger = logging.getLogger("tsq.status")
# Standard streams, the event loop, and what is open for a moment: certificates, who keeps the clock, chronyc.
_FILES_OF_ITS_OWN = 16
_FILES_AN_ADDRESS = 2
# A socket that listens, the connections, and one that is refused.
_FILES_FOR_METRICS = MOST_CONNECTIONS + 2
_ONE_PROCESS = "SIGUSR2 changes nothing: one process serves; with two workers or more, new ones take over from the old ones"
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


@for_command_line()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = _parser()
    values = parser.parse_args(arguments)
    given = (values.cert is not None, values.key is not None)
    if values.self_signed is not None and any(given):
        which = "--cert" if given[0] else "--key"
        parser.error(f"{which} together with --self-signed (expected --cert and --key, or --self-signed)")
    if values.self_signed is None and not all(given):
        found = {(True, False): "--cert without --key", (False, True): "--key without --cert"}
        parser.error(f"{found.get(given, 'no certificate')} (expected --cert and --key, or --self-signed)")
    if not values.http3 and (values.status_to or values.web_origin):
        parser.error(f"{'--status-to' if values.status_to else '--web-origin'} without --http3")
    if values.quic_lb_key is not None and values.quic_lb is None:
        parser.error("--quic-lb-key without --quic-lb (expected both, or neither)")
    try:
        host_clock = _host_clock(values)
        annotations_tlv(dict(values.metadata))
    except ConfigError as error:
        parser.error(str(error))
    link = inherited()
    if link is None:
        start_log(PROGRAM, values.log_level)
    # aioquic reports each peer's faults: a flood, on a public port.
    logging.getLogger("quic").setLevel(logging.DEBUG if values.log_level == "debug" else logging.CRITICAL)
    try:
        return _run(values, host_clock, link)
    except ConfigError as error:
        cannot_use(parser, error)
    except TSQError as error:
        logger.error("%s", error)
        return EXIT_FAILED


def _run(values: argparse.Namespace, host_clock: HostClock, link: Link | None) -> int:
    """Serve, in one process or as one of several; the exit status."""
    if link is not None:
        return _make_workers(values, host_clock, link)
    sockets = [one for named in listen_sockets().values() for one in named]
    listen: list[Target] = values.listen or ([] if sockets else [parse_listen(f"0.0.0.0:{DEFAULT_PORT}")])
    workers = worker_count(values.workers)
    _check_files(listen, sockets, workers, metrics=values.metrics is not None)
    groups = worker_groups(listen, sockets, workers, asked=values.workers is not None)
    if groups is not None:
        return _supervise(values, groups, workers)
    files = _certificate(values, [*listen, *_passed(sockets)])
    lb = _quic_lb(values)
    ids = None if lb is None else ConnectionIds(quic_lb=lb)
    server = _server(values, files, listen, sockets, host_clock, key_log(PROGRAM), _secrets(values), ids)
    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        runner.run(_serve(server, values.metrics, values.drain, _giving_up(values)))
    return EXIT_OK


def _supervise(values: argparse.Namespace, groups: list[list[socket.socket]], workers: int) -> int:
    """Be the supervisor of workers on these sockets; the exit status."""
    try:
        # Before anything is started: what cannot be used is a mistake of usage.
        tls.server_configuration(*_certificate(values, _passed([group[0] for group in groups])))
        _secrets(values)
        load_signing_keys(values.sign_key)
        ConnectionIds(slots=2 * workers, quic_lb=_quic_lb(values))
    except ConfigError:
        close_groups(groups)
        raise

    def supervisor(after_change: Callable[[str], None]) -> Supervisor:
        own_secrets = values.secret_file is None
        return Supervisor(
            groups,
            command(),
            drain_limit=values.drain_limit,
            own_secrets=own_secrets,
            after_change=after_change,
            workers=workers,
        )

    def site(running: Supervisor) -> "WebSite":
        # Imported only here: a supervisor without pages does without the memory of these modules.
        from tsq.server.web.site import WebSite  # noqa: PLC0415

        return WebSite(running.totals, Responder(), certificate, _web(values), http3=values.http3, more=running.families)

    def certificate() -> str:
        files = _certificate(values, _passed([group[0] for group in groups]), quiet=True)
        return tls.browser_hash(tls.server_configuration(*files))

    return supervise(supervisor, site, values.metrics, values.drain, _report)


def _make_workers(values: argparse.Namespace, host_clock: HostClock, link: Link) -> int:
    """Make workers for the supervisor; the exit status."""
    keys, lb = key_log(PROGRAM), _quic_lb(values, quiet=True)

    def server(sockets: list[socket.socket], connection_ids: ConnectionIds, given: Secrets | None, share: int) -> Server:
        # The supervisor has made a self-signed certificate: it is there.
        files = _certificate(values, _passed(sockets), quiet=True)
        secrets = _secrets(values) if given is None else given
        return _server(values, files, [], sockets, host_clock, keys, secrets, connection_ids, share)

    own_secrets = values.secret_file is None
    return make_workers(link, server, lb, values.log_level, own_secrets=own_secrets, confine=_giving_up(values).enter)


async def _serve(server: Server, metrics_address: Target | None, drain: float, giving_up: GivingUp) -> None:
    service = Service(server, Notifier())
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    async with server, _metrics(server, metrics_address) as metrics:
        # All sockets are open now, and all keys are read.
        giving_up.enter()
        started = loop.time()
        for number in ENDING:
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, service.reload, server.reload)
        loop.add_signal_handler(signal.SIGUSR1, lambda: _report(server, loop.time() - started))
        loop.add_signal_handler(signal.SIGUSR2, logger.warning, _ONE_PROCESS)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            deliver(number)
        for address in server.addresses:
            print(f"{PROGRAM}: listening on {address} (UDP)", flush=True)
        if metrics is not None:
            print(f"{PROGRAM}: metrics at http://{metrics}/metrics", flush=True)
        service.begin()
        await stop.wait()
        if drain:
            logger.info("draining %s, for %g s at most", counted(server.connections, "connection"), drain)
            stop.clear()
            # Once more ends it at once.
            await _first(server.drain(drain), stop.wait())
        hold_back(SIGNALS)
        service.end()
        logger.info("closing %s", counted(server.connections, "connection"))
    _log_counters(server, logger)


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait until one of these is over; the others are cancelled."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.gather(*(task for task in tasks if task.done()))
    finally:
        for task in tasks:
            task.cancel()


@contextlib.asynccontextmanager
async def _metrics(server: Server, listen: Target | None) -> AsyncIterator[Target | None]:
    """Serve metrics at this address; the address where they are."""
    if listen is None:
        yield None
        return
    server.site.start(listen)
    yield server.site.address


def _report(server: Observed, uptime: float) -> None:
    """What the server does now, and what it has done since it started."""
    _status_logger.info("status: up %s, connections now: %d", _duration(uptime), server.connections)
    _log_counters(server, _status_logger)


def _log_counters(server: Observed, log: logging.Logger) -> None:
    for name, count in server.counters.snapshot().items():
        log.info("%s: %d", name, count)


def _duration(seconds: float) -> str:
    """A time span, such as 3 d 04:05:06."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{f'{days} d ' if days else ''}{hour:02}:{minute:02}:{second:02}"


def _server(
    values: argparse.Namespace,
    files: tuple[str, str],
    listen: list[Target],
    sockets: list[socket.socket],
    host_clock: HostClock,
    keys: TextIO | None,
    secrets: Secrets | None,
    connection_ids: ConnectionIds | None,
    share: int = 1,
) -> Server:
    """share: how many workers have the connections together."""
    most = math.ceil(values.max_connections / share)
    return Server(
        listen,
        *files,
        limits=Limits(max_connections=most, retry=RetryPolicy(values.retry)),
        sign_keys=values.sign_key,
        key_log=keys,
        host_clock=host_clock,
        sockets=sockets,
        secrets=secrets,
        connection_ids=connection_ids,
        http3=values.http3,
        web=_web(values),
        access=AccessList(tuple(values.allow), tuple(values.deny)),
        metadata=dict(values.metadata),
    )


def _giving_up(values: argparse.Namespace) -> GivingUp:
    """What the process that serves gives up."""
    own = [values.cert, values.key] if values.self_signed is None else [os.path.join(values.self_signed, "cert.pem")]
    readable = [*own, values.secret_file, *values.sign_key]
    return GivingUp(values.user or "", Strictness(values.sandbox), tuple(path for path in readable if path is not None))


def _certificate(values: argparse.Namespace, addresses: list[Target], *, quiet: bool = False) -> tuple[str, str]:
    """The files of certificate and key."""
    if values.self_signed is None:
        return values.cert, values.key
    files = self_signed(values.self_signed, _names(addresses, values.name))
    if not quiet:
        logger.warning("self-signed certificate: clients need --ca %s", files.authority)
    return str(files.certificate), str(files.key)


def _secrets(values: argparse.Namespace) -> Secrets | None:
    """The secrets that a file holds; None where there is no file."""
    return None if values.secret_file is None else Secrets.from_file(values.secret_file)


def _quic_lb(values: argparse.Namespace, *, quiet: bool = False) -> QuicLb | None:
    """How connection IDs name this server to a balancer; None where they do not."""
    if values.quic_lb is None:
        return None
    lb: QuicLb = values.quic_lb if values.quic_lb_key is None else values.quic_lb.with_key(values.quic_lb_key)
    if lb.key is None and not quiet:
        logger.warning("QUIC-LB without a key: everybody on the way can read in a connection ID which server has it")
    return lb


def _passed(sockets: list[socket.socket]) -> list[Target]:
    """The addresses of UDP sockets that a service manager passed."""
    return [Target(*one.getsockname()[:2]) for one in sockets if one.family in (socket.AF_INET, socket.AF_INET6)]


def _host_clock(values: argparse.Namespace) -> HostClock:
    """Where to ask how good the clock is."""
    told = {"source": values.local_source, "error": values.local_error}
    given = {name: value for name, value in told.items() if value is not None}
    if given and values.local_stratum is None:
        options = " and ".join(f"--local-{name}" for name in given)
        raise ConfigError(f"{options} without --local-stratum", advice="say which stratum the clock has with --local-stratum N")
    local = None if values.local_stratum is None else LocalClock(values.local_stratum, **given)
    address = (values.chrony.host, values.chrony.port)
    keeper = Keeper(values.clock_state)
    return HostClock(keeper, address, values.chrony_socket, values.ntpd_rs, local, values.tsqd)


def _check_files(listen: list[Target], sockets: list[socket.socket], workers: int, *, metrics: bool) -> None:
    """Raises TransportError where so many addresses need more open files than there may be."""
    addresses = len(listen) + len(sockets)
    # A supervisor holds the sockets of two generations of workers, and of each as many again, for newcomers.
    held = (4 * workers if workers > 1 else 2) * len(listen) + len(sockets)
    needed = _FILES_OF_ITS_OWN + _FILES_AN_ADDRESS * held + (_FILES_FOR_METRICS if metrics else 0)
    what = "listening at one address" if addresses == 1 else f"listening at {addresses} addresses"
    missing = shortage.too_few_files(needed, f"{what} with {workers} workers" if workers > 1 else what)
    if missing is not None:
        raise TransportError(missing)


def _web(values: argparse.Namespace) -> WebOptions:
    """Who may see what over HTTP/3. The clock page over HTTP/1.1 is the server's own, too, also where another process serves it."""
    own = [] if values.metrics is None else [f"http://{values.metrics}", f"http://localhost:{values.metrics.port}"]
    origins = [*(values.web_origin or []), *(own if own and values.metrics.port else [])]
    return WebOptions(tuple(values.status_to or LOOPBACK), tuple(origins), tsq.__version__)


def _names(listen: list[Target], extra: list[str]) -> list[str]:
    """Names and addresses that clients on this machine and its network may use for it."""
    names = [*extra]
    host = socket.gethostname()
    if dns_name(host) is None:
        logger.warning("this host's name %r cannot stand in a certificate: the certificate is for addresses and localhost", host)
    else:
        names.append(host)
    names += [*_LOCAL_NAMES, *(target.host for target in listen if not ip_address(target.host).is_unspecified)]
    try:
        names += [str(item[4][0]).partition("%")[0] for item in socket.getaddrinfo(host, None)]
    except (OSError, UnicodeError):
        logger.debug("this host's own name has no address")
    return list(dict.fromkeys(names))


if __name__ == "__main__":
    from tsq.cli import start

    sys.exit(start.server())
