"""The options of tsq-server (docs/reference/cli.md).

Comes in: nothing. Goes out: a parser. It must never open a file or a socket.
"""

import argparse
import pwd
from ipaddress import ip_address
from typing import Any

import tsq
from tsq.cli.common import checked
from tsq.cli.numbers import number, whole_number
from tsq.cli.parsers import Parser
from tsq.cli.workers import MOST_WORKERS, PROGRAM
from tsq.errors import ConfigError
from tsq.host.keepers.sync_state import HostClock, Keeper
from tsq.options import (
    DEFAULT_PORT,
    SOURCES,
    LocalClock,
    Target,
    parse_listen,
    parse_network,
    parse_origin,
)
from tsq.quic.access import parse_prefix
from tsq.quic.quic_lb import QuicLb
from tsq.quic.router import Limits, RetryPolicy
from tsq.server.confinement import Strictness
from tsq.wire.annotations import parse_pair

_LOG_LEVELS = ("debug", "info", "warning", "error")
_DEFAULTS = Limits()
_ASKED = HostClock()
_CLAIMED = LocalClock(stratum=1)
_LONGEST_DRAIN = 3600
# An old generation's time: idle connections end in half a minute, and its end is no surge of handshakes.
_DRAIN_LIMIT = 60
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


class _Listen(argparse.Action):
    """Collects addresses; one that is given twice is an error, which binding it twice would not name."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: object) -> None:
        given: list[Target] = getattr(namespace, self.dest) or []
        if values.port and any((ip_address(values.host), values.port) == (ip_address(one.host), one.port) for one in given):
            raise argparse.ArgumentError(self, f"{values} is given twice")
        setattr(namespace, self.dest, [*given, values])


class _Metadata(argparse.Action):
    """Collects pairs; a key that is given twice is an error."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: object) -> None:
        given: list[tuple[str, str]] = getattr(namespace, self.dest)
        if values[0] in dict(given):
            raise argparse.ArgumentError(self, f"the key {values[0]!r} is given twice")
        setattr(namespace, self.dest, [*given, values])


def server_parser() -> Parser:
    """What `tsq-server` takes."""
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
        "--metadata",
        action=_Metadata,
        type=checked(parse_pair),
        default=[],
        metavar="KEY=VALUE",
        help="tell clients that ask something about this server, such as site=us-east; repeats, 255 bytes in all",
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
