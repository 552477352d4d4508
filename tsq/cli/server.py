"""tsq-server: serve the time of this machine's clock (docs/reference/cli.md)."""

import argparse
import asyncio
import contextlib
import logging
import math
import os
import pwd
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TextIO

import tsq
from tsq.cli.common import EXIT_FAILED, EXIT_OK, cannot_use, checked, deliver, hold_back, key_log, start_log
from tsq.cli.numbers import number, whole_number
from tsq.cli.parsers import Parser
from tsq.cli.workers import (
    ENDING,
    MOST_WORKERS,
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
    SOURCES,
    LocalClock,
    Target,
    WebOptions,
    parse_listen,
    parse_network,
    parse_origin,
)
from tsq.quic import tls
from tsq.quic.access import AccessList, parse_prefix
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

if TYPE_CHECKING:
    from tsq.server.web.site import WebSite

logger = logging.getLogger("tsq")
# A report that somebody asked for is printed at any --log-level.
_status_logger = logging.getLogger("tsq.status")
_LOG_LEVELS = ("debug", "info", "warning", "error")
_DEFAULTS = Limits()
_ASKED = HostClock()
_CLAIMED = LocalClock(stratum=1)
# Standard streams, the event loop, and what is open for a moment: certificates, who keeps the clock, chronyc.
_FILES_OF_ITS_OWN = 16
_FILES_AN_ADDRESS = 2
_LONGEST_DRAIN = 3600
# A socket that listens, the connections, and one that is refused.
_FILES_FOR_METRICS = MOST_CONNECTIONS + 2
# An old generation's time: idle connections end in half a minute, and its end is no surge of handshakes.
_DRAIN_LIMIT = 60
_ONE_PROCESS = "SIGUSR2 changes nothing: one process serves; with two workers or more, new ones take over from the old ones"
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_EXAMPLES = (
    ("tsq-server --cert fullchain.pem --key key.pem", "serve on UDP port 443 of all IPv4 addresses"),
    ("tsq-server --listen 0.0.0.0:443 --listen [::]:443 --cert fullchain.pem --key key.pem", "the same, and IPv6"),
    ("tsq-server --listen 127.0.0.1:4433 --self-signed lab --local-stratum 1", "a lab; clients trust lab/ca.pem"),
)
_EPILOG = """signals: SIGTERM, SIGINT close all connections and exit with 0, after --drain; SIGHUP loads certificate, keys and
secrets anew; SIGUSR1 writes uptime, connections and counters to standard error; SIGUSR2 starts new workers from the program on
disk, which take over from the old ones without losing an answer.

Under systemd (Type=notify), it reports when it is ready, its status, and that it lives; UDP sockets of a socket unit are served in
place of the default of --listen.

exit status: 1 failure at run time, 2 usage or a file or address that cannot be used."""


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
        return _supervise(values, groups)
    files = _certificate(values, [*listen, *_passed(sockets)])
    lb = _quic_lb(values)
    ids = None if lb is None else ConnectionIds(quic_lb=lb)
    server = _server(values, files, listen, sockets, host_clock, key_log(PROGRAM), _secrets(values), ids)
    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        runner.run(_serve(server, values.metrics, values.drain, _giving_up(values)))
    return EXIT_OK


def _supervise(values: argparse.Namespace, groups: list[list[socket.socket]]) -> int:
    """Be the supervisor of workers on these sockets; the exit status."""
    try:
        # Before anything is started: what cannot be used is a mistake of usage.
        tls.server_configuration(*_certificate(values, _passed([group[0] for group in groups])))
        _secrets(values)
        load_signing_keys(values.sign_key)
        ConnectionIds(slots=len(groups[0]), quic_lb=_quic_lb(values))
    except ConfigError:
        close_groups(groups)
        raise

    def supervisor(after_change: Callable[[str], None]) -> Supervisor:
        own_secrets = values.secret_file is None
        return Supervisor(groups, command(), drain_limit=values.drain_limit, own_secrets=own_secrets, after_change=after_change)

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
            logger.info("draining %d connections, for %g s at most", server.connections, drain)
            stop.clear()
            # Once more ends it at once.
            await _first(server.drain(drain), stop.wait())
        hold_back(SIGNALS)
        service.end()
        logger.info("closing %d connections", server.connections)
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
    # A supervisor holds the sockets of two generations of workers.
    held = (2 * workers if workers > 1 else 1) * len(listen) + len(sockets)
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


class _Listen(argparse.Action):
    """Collects addresses; one that is given twice is an error, which binding it twice would not name."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: object) -> None:
        given: list[Target] = getattr(namespace, self.dest) or []
        if values.port and any((ip_address(values.host), values.port) == (ip_address(one.host), one.port) for one in given):
            raise argparse.ArgumentError(self, f"{values} is given twice")
        setattr(namespace, self.dest, [*given, values])


def _parser() -> Parser:
    parser = Parser(
        PROGRAM,
        ["--cert FILE --key FILE [options]", "--self-signed DIR [options]"],
        "Serve the time of this machine's clock over QUIC (TSQ).",
        _EPILOG,
        _EXAMPLES,
    )
    add = parser.add_argument
    add(
        "--listen",
        action=_Listen,
        type=checked(parse_listen),
        metavar="ADDRESS:PORT",
        help=f"numeric address and UDP port, IPv6 in brackets, port 0 for any free one; repeats (default: 0.0.0.0:{DEFAULT_PORT})",
    )
    add("--cert", metavar="FILE", help="certificate chain in PEM form")
    add("--key", metavar="FILE", help="its private key in PEM form")
    add(
        "--self-signed",
        metavar="DIR",
        help="make a throw-away CA and certificate in DIR, or use those there (for labs; clients trust DIR/ca.pem)",
    )
    add("--name", action="append", default=[], metavar="NAME", help="one more name for the self-signed certificate; repeats")
    add(
        "--sign-key",
        action="append",
        default=[],
        metavar="FILE",
        help="sign answers, for clients that ask for it, with the key in FILE (from tsq-keygen); repeats: the first one signs",
    )
    add(
        "--max-connections",
        type=checked(_count),
        default=_DEFAULTS.max_connections,
        metavar="N",
        help="beyond these connections, the idlest one makes room, or clients are refused (default: %(default)s)",
    )
    add(
        "--workers",
        type=checked(_workers),
        metavar="N",
        help="how many processes serve and share the connections; 1: this process alone (default: one for each usable processor)",
    )
    add(
        "--drain-limit",
        type=checked(_seconds),
        default=_DRAIN_LIMIT,
        metavar="S",
        help="after SIGUSR2, how long the old workers serve the connections that they have, in seconds (default: %(default)g)",
    )
    add(
        "--retry",
        choices=[policy.value for policy in RetryPolicy],
        default=_DEFAULTS.retry.value,
        help="when clients must prove their address first (Retry); auto: while many handshakes are open (default: %(default)s)",
    )
    add(
        "--allow",
        action="append",
        type=checked(_prefix),
        default=[],
        metavar="PREFIX",
        help="serve clients of this address or prefix, such as 192.0.2.0/24 or all, and no others; repeats (default: everybody)",
    )
    add(
        "--deny",
        action="append",
        type=checked(_prefix),
        default=[],
        metavar="PREFIX",
        help="do not serve these; of several rules for a client, the most specific one decides; repeats",
    )
    add(
        "--secret-file",
        metavar="FILE",
        help="secrets that the servers of a fleet share, newest first, one a line (`openssl rand -hex 32`), mode 0600; watched",
    )
    add(
        "--quic-lb",
        type=checked(QuicLb.parse),
        metavar="NUMBER:SERVER-ID",
        help="make connection IDs that name this server to a QUIC-LB balancer (an expired draft), such as 0:0a0b0c",
    )
    add(
        "--quic-lb-key",
        metavar="FILE",
        help="with --quic-lb: encrypt them with the key in FILE (`openssl rand -hex 16`), mode 0600",
    )
    add(
        "--drain",
        type=checked(_seconds),
        default=0.0,
        metavar="S",
        help="when told to end: refuse new clients at once, and part from the others within S seconds (default: %(default)s)",
    )
    add(
        "--clock-state",
        choices=[keeper.value for keeper in Keeper],
        default=_ASKED.keeper.value,
        help="whom to ask for the clock's stratum and error, for clients; auto: the first that answers (default: %(default)s)",
    )
    add(
        "--chrony",
        type=checked(parse_listen),
        default="{}:{}".format(*_ASKED.chrony),
        metavar="ADDRESS:PORT",
        help="chronyd's command port (default: %(default)s)",
    )
    add("--chrony-socket", default=_ASKED.chrony_socket, metavar="FILE", help="chronyd's command socket (default: %(default)s)")
    add("--tsqd", default=_ASKED.tsqd, metavar="FILE", help="tsqd's control socket (default: %(default)s)")
    add("--ntpd-rs", default=_ASKED.ntpd_rs, metavar="FILE", help="ntpd-rs's observation socket (default: %(default)s)")
    add(
        "--local-stratum",
        type=checked(whole_number),
        metavar="N",
        help="stratum to claim while no program reports that the clock is synchronized, 1 to 15; without it: unsynchronized",
    )
    add(
        "--local-source",
        choices=SOURCES,
        help=f"with --local-stratum: what the clock is set by (default: {_CLAIMED.source})",
    )
    add(
        "--local-error",
        type=checked(number),
        metavar="S",
        help=f"with --local-stratum: bound of the clock's error in seconds (default: {_CLAIMED.error})",
    )
    add(
        "--metrics",
        type=checked(parse_listen),
        metavar="ADDRESS:PORT",
        help="serve metrics for Prometheus, health and status at this numeric address and TCP port, over HTTP, to everybody who "
        "reaches it",
    )
    add(
        "--http3",
        action="store_true",
        help="speak HTTP/3 on the same port, too: health, status, metrics, and a page that compares a browser's clock with it",
    )
    add(
        "--status-to",
        action="append",
        type=checked(parse_network),
        metavar="NETWORK",
        help="with --http3: a network that may see status and metrics, such as 192.0.2.0/24; repeats (default: this machine)",
    )
    add(
        "--web-origin",
        action="append",
        type=checked(parse_origin),
        metavar="ORIGIN",
        help="with --http3: a web site whose pages may ask for the time, such as https://example.org, * for all; repeats",
    )
    add("--user", type=checked(_user), metavar="NAME", help="when all is open and read, become this user, as root")
    add(
        "--sandbox",
        choices=[one.value for one in Strictness],
        default=Strictness.ON.value,
        help="forbid system calls and files that are not needed; strict: such a call ends the process (default: %(default)s)",
    )
    add("--log-level", choices=_LOG_LEVELS, default="info", help="how much goes to standard error (default: %(default)s)")
    add("--version", action="version", version=f"{PROGRAM} {tsq.__version__}", help="print the version and exit")
    return parser


def _prefix(text: str) -> str:
    parse_prefix(text)
    return text


def _workers(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_WORKERS:
        raise ConfigError(f"{text!r}", expected=f"a number from 1 to {MOST_WORKERS}")
    return int(text)


def _seconds(text: str) -> float:
    seconds = number(text)
    if not 0 <= seconds <= _LONGEST_DRAIN:
        raise ConfigError(f"{text!r}", expected=f"0 to {_LONGEST_DRAIN} seconds")
    return seconds


def _user(text: str) -> str:
    try:
        pwd.getpwnam(text)
    except KeyError:
        raise ConfigError(f"no user {text!r} on this machine", expected="the name of a user") from None
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000_000:
        raise ConfigError(f"{text!r}", expected="a number from 1 to 10000000")
    return int(text)


if __name__ == "__main__":
    from tsq.cli import start

    sys.exit(start.server())
