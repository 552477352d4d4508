"""tsqd: keep this machine's clock, or feed the program that keeps it (docs/reference/tsqd.md).

Comes in: a command line. Goes out: the exit status of `tsq.daemon.daemon.run`. It must never hold a rule of time, nor a default of
the configuration.
"""

import argparse
import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import tsq
from tsq.cli.common import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, deliver, start_log
from tsq.cli.parsers import Parser, add_version
from tsq.daemon.config import Config
from tsq.daemon.config_file import load
from tsq.daemon.daemon import Daemon
from tsq.daemon.description import describe
from tsq.discipline.settings import Mode
from tsq.errors import ConfigError, NotPermitted, TSQError
from tsq.host.clock import SystemClock
from tsq.host.drift_file import DriftFile
from tsq.host.keepers.owner import kept_alone
from tsq.host.memory import release
from tsq.host.privileges import drop_privileges
from tsq.host.systemd import listen_sockets
from tsq.settings import for_configuration_file

logger = logging.getLogger("tsq.daemon")
PROGRAM = "tsqd"
DEFAULT_CONFIG = "/etc/tsq/tsqd.toml"
LEVELS = ("debug", "info", "warning", "error")
_EPILOG = """exit status: 0 ended as asked, or the configuration is right (--check-config), or the recording gives the same actions
(--replay); 1 a failure; 2 usage, or a configuration that cannot be used; 130 interrupted. SIGHUP reloads the configuration,
SIGUSR1 logs the status, SIGTERM ends the daemon: the clock runs on with the frequency that it has."""
_EXAMPLES = (
    ("tsqd --check-config", "only check the configuration"),
    ("tsqd --mode observe", "touch nothing: show beside another daemon what would be done"),
    ("tsqd --replay /var/lib/tsq/record.jsonl", "decide again on what was recorded, and compare"),
)


@for_configuration_file()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = _parser()
    values = parser.parse_args(arguments)
    try:
        if values.replay is not None:
            return _replay(values.replay)
        if values.check_config:
            return _check(values)
        return _run(_read(values), values)
    except ConfigError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"{PROGRAM}: error: {line}\n")
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except TSQError as error:
        sys.stderr.write(f"{PROGRAM}: error: {error}\n")
        return EXIT_FAILED
    except ImportError as error:
        if values.user is None:
            raise
        # Modules that are loaded late are loaded by that user.
        sys.stderr.write(
            f"{PROGRAM}: error: the user {values.user} cannot load all of TSQ or Python ({error}): install both where all users "
            "may read, not in a home directory\n"
        )
        return EXIT_FAILED


def _read(values: argparse.Namespace) -> Config:
    """The configuration, with what the command line says in place of it."""
    mode = None if values.mode is None else Mode(values.mode)
    config = load(values.config, mode=mode)
    return config if values.log_level is None else replace(config, log=replace(config.log, level=values.log_level))


def _check(values: argparse.Namespace) -> int:
    mode = None if values.mode is None else Mode(values.mode)
    sys.stdout.write(describe(load(values.config, mode=mode, most=None)))
    return EXIT_OK


def _replay(path: str) -> int:
    from tsq.daemon.replay import replay, series  # noqa: PLC0415
    from tsq.discipline.machine import Discipline  # noqa: PLC0415
    from tsq.report.replay import text  # noqa: PLC0415

    report = replay(series(path), Discipline)
    sys.stdout.write(text(report))
    return EXIT_OK if report.equal else EXIT_FAILED


def _run(config: Config, values: argparse.Namespace) -> int:
    """Keep the clock, or watch it, until the end."""
    steers = config.clock.settings.mode is Mode.STEER
    start_log(PROGRAM, config.log.level)
    # aioquic reports each fault of a peer; the sources report what matters.
    logging.getLogger("quic").setLevel(logging.DEBUG if config.log.level == "debug" else logging.CRITICAL)
    clock = SystemClock()
    with kept_alone(clock) if steers else nullcontext("") as warning:
        if warning:
            logger.warning("%s", warning)
        drop_privileges(keep_clock=steers, user=values.user or "", groups=[config.control.group] if config.control.group else [])
        if steers and not clock.may_set:
            raise NotPermitted(
                "not permitted to set the clock",
                expected="CAP_SYS_TIME, as root has it",
                advice='start it as root or by its systemd unit, or set mode = "observe" in [clock]',
            )
        if steers and config.clock.bootstrap and not clock.state().synchronized:
            # What sets a clock once takes some megabytes: only for those who need it.
            from tsq.daemon.boot import set_at_start  # noqa: PLC0415

            saved = DriftFile(config.clock.drift_file).load() if config.clock.drift_file else None
            say = partial(logger.info, "%s")
            saved_ns, signed = 0 if saved is None else saved.saved_ns, config.clock.bootstrap_signed
            logger.info("%s", set_at_start(config.sources, clock, saved_ns, say, signed=signed))
        daemon = Daemon(config, clock, partial(_read, values), version=tsq.__version__, control=_control_socket())
        release_memory()
        asyncio.run(daemon.run(_signals_are_handled))
    return EXIT_OK


def release_memory() -> None:
    """Give back what only the start needed. What is left stays for good, and the garbage collector need not look at it again."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    release()


def _control_socket() -> socket.socket | None:
    """The socket that a socket unit opened. Raises ConfigError where it opened several."""
    passed = [one for named in listen_sockets().values() for one in named]
    if len(passed) > 1:
        raise ConfigError(f"{len(passed)} sockets that the service manager passed", expected="one, the control socket")
    return passed[0] if passed else None


def _signals_are_handled() -> None:
    for number in (signal.SIGHUP, signal.SIGUSR1):
        deliver(number)


def _parser() -> Parser:
    parser = Parser(
        PROGRAM,
        ["[options]"],
        "Keep this machine's clock by servers' time over QUIC (TSQ), or feed the program that keeps it.",
        _EPILOG,
        _EXAMPLES,
    )
    add = parser.add_argument
    add("--config", default=DEFAULT_CONFIG, metavar="FILE", help="the configuration (default: %(default)s)")
    once = parser.add_mutually_exclusive_group()
    once.add_argument(
        "--check-config", action="store_true", help="check the configuration, print all of it with its defaults, and end"
    )
    once.add_argument(
        "--replay", metavar="FILE", help="decide again on recorded events, compare with the recorded actions, and end"
    )
    add("--mode", choices=[mode.value for mode in Mode], help="what to do with the clock, in place of [clock] mode")
    add("--log-level", choices=LEVELS, help="how much to log, in place of [log] level")
    add("--user", metavar="NAME", help="started as root, run as this user, with the right to set the clock and no other")
    add_version(parser)
    return parser


if __name__ == "__main__":
    from tsq.cli import start

    sys.exit(start.daemon())
