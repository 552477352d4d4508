"""tsq-server: serve the time of this machine's clock (docs/reference/cli.md)."""

import argparse
import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_address
from typing import Any, TextIO

import tsq
from tsq.cli.common import EXIT_FAILED, EXIT_OK, cannot_use, checked, deliver, hold_back, key_log, start_log
from tsq.cli.numbers import number, whole_number
from tsq.cli.parsers import Parser
from tsq.dataplane.loop import ServingLoop
from tsq.errors import ConfigError, TransportError, TSQError
from tsq.exposition import MOST_CONNECTIONS
from tsq.host import shortage
from tsq.host.keepers.sync_state import HostClock, Keeper
from tsq.host.systemd import Notifier, listen_sockets
from tsq.options import DEFAULT_PORT, SOURCES, LocalClock, Target, parse_listen
from tsq.quic.router import Limits, RetryPolicy
from tsq.quic.selfsigned import dns_name, self_signed
from tsq.server.driver import Server
from tsq.server.metrics import ServerMetrics
from tsq.server.service import Service
from tsq.settings import for_command_line

PROGRAM = "tsq-server"
logger = logging.getLogger("tsq")
# A report that somebody asked for is printed at any --log-level.
_status_logger = logging.getLogger("tsq.status")
_ENDING = {signal.SIGTERM, signal.SIGINT}
_SIGNALS = {*_ENDING, signal.SIGHUP, signal.SIGUSR1}
_LOG_LEVELS = ("debug", "info", "warning", "error")
_DEFAULTS = Limits()
_ASKED = HostClock()
_CLAIMED = LocalClock(stratum=1)
# Standard streams, the event loop, and what is open for a moment: certificates, who keeps the clock, chronyc.
_FILES_OF_ITS_OWN = 16
_FILES_AN_ADDRESS = 2
# A socket that listens, the connections, and one that is refused.
_FILES_FOR_METRICS = MOST_CONNECTIONS + 2
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_EXAMPLES = (
    ("tsq-server --cert fullchain.pem --key key.pem", "serve on UDP port 443 of all IPv4 addresses"),
    ("tsq-server --listen 0.0.0.0:443 --listen [::]:443 --cert fullchain.pem --key key.pem", "the same, and IPv6"),
    ("tsq-server --listen 127.0.0.1:4433 --self-signed lab --local-stratum 1", "a lab; clients trust lab/ca.pem"),
)
_EPILOG = """signals: SIGTERM, SIGINT close all connections and exit with 0; SIGHUP loads certificate and key anew; SIGUSR1 writes
uptime, connections and counters to standard error.

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
    try:
        host_clock = _host_clock(values)
    except ConfigError as error:
        parser.error(str(error))
    start_log(PROGRAM, values.log_level)
    # aioquic reports each peer's faults: a flood, on a public port.
    logging.getLogger("quic").setLevel(logging.DEBUG if values.log_level == "debug" else logging.CRITICAL)
    try:
        sockets = [one for named in listen_sockets().values() for one in named]
        listen: list[Target] = values.listen or ([] if sockets else [parse_listen(f"0.0.0.0:{DEFAULT_PORT}")])
        _check_files(len(listen) + len(sockets), metrics=values.metrics is not None)
        server = _server(values, listen, sockets, host_clock, key_log(PROGRAM))
        with asyncio.Runner(loop_factory=ServingLoop) as runner:
            runner.run(_serve(server, values.metrics))
    except ConfigError as error:
        cannot_use(parser, error)
    except TSQError as error:
        logger.error("%s", error)
        return EXIT_FAILED
    return EXIT_OK


async def _serve(server: Server, metrics_address: Target | None) -> None:
    service = Service(server, Notifier())
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    async with server, _metrics(server, metrics_address) as metrics:
        started = loop.time()
        for number in _ENDING:
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, service.reload)
        loop.add_signal_handler(signal.SIGUSR1, lambda: _report(server, loop.time() - started))
        deliver(signal.SIGHUP)
        deliver(signal.SIGUSR1)
        for address in server.addresses:
            print(f"{PROGRAM}: listening on {address} (UDP)", flush=True)
        if metrics is not None:
            print(f"{PROGRAM}: metrics at http://{metrics}/metrics", flush=True)
        service.begin()
        await stop.wait()
        hold_back(_SIGNALS)
        service.end()
        logger.info("closing %d connections", server.connections)
    _log_counters(server, logger)


@contextlib.asynccontextmanager
async def _metrics(server: Server, listen: Target | None) -> AsyncIterator[Target | None]:
    """Serve metrics at this address; the address where they are."""
    if listen is None:
        yield None
        return
    metrics = ServerMetrics(server, version=tsq.__version__)
    metrics.start(listen)
    try:
        yield metrics.address
    finally:
        metrics.close()


def _report(server: Server, uptime: float) -> None:
    """What the server does now, and what it has done since it started."""
    _status_logger.info("status: up %s, connections now: %d", _duration(uptime), server.connections)
    _log_counters(server, _status_logger)


def _log_counters(server: Server, log: logging.Logger) -> None:
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
    listen: list[Target],
    sockets: list[socket.socket],
    host_clock: HostClock,
    secrets: TextIO | None,
) -> Server:
    certificate, key = values.cert, values.key
    if values.self_signed is not None:
        files = self_signed(values.self_signed, _names([*listen, *_passed(sockets)], values.name))
        certificate, key = str(files.certificate), str(files.key)
        logger.warning("self-signed certificate: clients need --ca %s", files.authority)
    limits = Limits(max_connections=values.max_connections, retry=RetryPolicy(values.retry))
    return Server(listen, certificate, key, limits=limits, key_log=secrets, host_clock=host_clock, sockets=sockets)


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
    return HostClock(keeper, address, values.chrony_socket, values.ntpd_rs, local)


def _check_files(addresses: int, *, metrics: bool) -> None:
    """Raises TransportError where so many addresses need more open files than there may be."""
    needed = _FILES_OF_ITS_OWN + _FILES_AN_ADDRESS * addresses + (_FILES_FOR_METRICS if metrics else 0)
    missing = shortage.too_few_files(
        needed, "listening at one address" if addresses == 1 else f"listening at {addresses} addresses"
    )
    if missing is not None:
        raise TransportError(missing)


def _names(listen: list[Target], extra: list[str]) -> list[str]:
    """Names and addresses that clients on this machine and its network may use for it."""
    names = [*extra]
    host = socket.gethostname()
    if dns_name(host) is None:
        logger.warning("this host's name %r cannot stand in a certificate: the certificate is for addresses and localhost", host)
    else:
        names.append(host)
    names += [*_LOOPBACK, *(target.host for target in listen if not ip_address(target.host).is_unspecified)]
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
        "--max-connections",
        type=checked(_count),
        default=_DEFAULTS.max_connections,
        metavar="N",
        help="more connections than these are not accepted (default: %(default)s)",
    )
    add(
        "--retry",
        choices=[policy.value for policy in RetryPolicy],
        default=_DEFAULTS.retry.value,
        help="when clients must prove their address first (Retry); auto: while many handshakes are open (default: %(default)s)",
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
        help="serve metrics for Prometheus at this numeric address and TCP port, over HTTP, to everybody who reaches it",
    )
    add("--log-level", choices=_LOG_LEVELS, default="info", help="how much goes to standard error (default: %(default)s)")
    add("--version", action="version", version=f"{PROGRAM} {tsq.__version__}", help="print the version and exit")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000_000:
        raise ConfigError(f"{text!r}", expected="a number from 1 to 10000000")
    return int(text)


if __name__ == "__main__":
    from tsq.cli import start

    sys.exit(start.server())
