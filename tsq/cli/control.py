"""tsqctl: ask the daemon that keeps this machine's clock, and tell it what to do (docs/reference/tsqctl.md).

Comes in: a command line. Goes out: one command to the control socket, and its result as a table or JSON. It must never load an
event loop, TLS or what measures time: it is run often, and on small machines.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from tsq.cli import streams
from tsq.cli.common import EXIT_FAILED, EXIT_OK, checked
from tsq.cli.numbers import whole_number
from tsq.cli.parsers import Parser, add_version
from tsq.cli.wait_sync import DEFAULT_MAX_ERROR, Last, seconds, wait
from tsq.daemon.control_client import PATIENCE_S, ask
from tsq.daemon.control_protocol import ARGUMENTS, CHANGING, DEFAULT_BURST, DEFAULT_SOCKET, MAX_BURST, Problem, Refused
from tsq.errors import ConfigError, ControlError, NoDaemon, NotAllowed
from tsq.report import control as report
from tsq.report.plain import in_ascii
from tsq.report.spans import beginning, cells, escaped

PROGRAM = "tsqctl"
EXIT_NO_DAEMON = 3
EXIT_NOT_ALLOWED = 4
_COMMANDS = {
    "tracking": "the clock: its error, bound, frequency, reference",
    "sources": "the sources, and how each is used",
    "sourcestats": "each source's own estimate of offset and frequency",
    "activity": "how many sources are online, offline, answering, used",
    "waitsync": "wait until the clock is right (--max-error, --timeout)",
    "burst": "poll sources some times in quick succession (--count)",
    "online": "poll sources again",
    "offline": "do not poll sources",
    "makestep": "correct the whole offset by a step",
    "unfreeze": "let a clock that a limit froze be corrected again",
    "reload": "read the configuration again, as on SIGHUP",
    "dump": "all that is known, for a report on a problem",
    "metrics": "the metrics, as Prometheus reads them",
}
_WATCHED = ("tracking", "sources")
_LEAST_INTERVAL = 0.2
_EPILOG = """exit status: 0 done; 1 the daemon refused, or failed, or the clock was not right in time (waitsync); 2 usage;
3 no daemon answers at the socket; 4 this user may not give the command; 130 interrupted. Everybody may read; burst, online,
offline, makestep, unfreeze and reload are for root, the daemon's user and the members of its group ([control] group)."""
_EXAMPLES = (
    ("tsqctl tracking", "how good the clock is"),
    ("tsqctl --watch sources", "the sources, every second until Ctrl-C"),
    ("tsqctl waitsync --max-error 0.001 --timeout 60", "wait until the clock is right to a millisecond"),
    ("tsqctl burst time-a.example", "poll one source four times now"),
)


class _Parser(Parser):
    """Takes names of sources also after options."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        values, rest = super().parse_known_args(args, namespace)
        values.name = [*values.name, *(word for word in rest if not word.startswith("-"))]
        return values, [word for word in rest if word.startswith("-")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = _parser()
    values = parser.parse_args(arguments)
    try:
        _check(values)
    except ConfigError as error:
        parser.error(str(error))
    try:
        if values.command == "waitsync":
            return _wait(values)
        if values.watch:
            return _watch(values)
        print(_output(values))
    except NoDaemon as error:
        return _failed(error, EXIT_NO_DAEMON)
    except NotAllowed as error:
        return _failed(error, EXIT_NOT_ALLOWED)
    except (ControlError, ConfigError) as error:
        return _failed(error, EXIT_FAILED)
    return EXIT_OK


def _failed(error: Exception, status: int) -> int:
    # A configuration may have several mistakes, one a line.
    for line in str(error).splitlines():
        sys.stderr.write(f"{PROGRAM}: {escaped(line)}\n")
    return status


def _output(values: argparse.Namespace, columns: int | None = None) -> str:
    """What one command gives, as text or JSON."""
    if values.command in CHANGING:
        return _changed(values)
    patience = PATIENCE_S if values.timeout is None else values.timeout
    if values.command in ("dump", "metrics"):
        text = str(ask(values.socket, values.command, patience=patience).get("text", "")).rstrip("\n")
        return _json({"text": text}, values) if values.json else "\n".join(map(escaped, text.split("\n")))
    status = ask(values.socket, "status", patience=patience)
    if values.json:
        return _json(_document(values.command, status), values)
    columns = streams.columns() if columns is None else columns
    if values.command == "tracking":
        return report.tracking(status)
    if values.command == "activity":
        return report.activity(status)
    table = report.sources if values.command == "sources" else report.sourcestats
    return table(status, columns, verbose=values.verbose)


def _document(command: str, status: dict[str, Any]) -> Any:
    """The part of a status that a command is about."""
    if command == "tracking":
        return status.get("tracking")
    if command == "activity":
        return report.activity_counts(status)
    return {"tracking": status.get("tracking"), "sources": status.get("sources")}


def _json(document: Any, values: argparse.Namespace) -> str:
    # One line for each round of --watch.
    return json.dumps(document, indent=None if values.watch else 2)


def _changed(values: argparse.Namespace) -> str:
    """Give the command for each named source, or for all."""
    texts = []
    for name in values.name or [""]:
        arguments: dict[str, Any] = {"name": name} if "name" in ARGUMENTS.get(values.command, {}) and name else {}
        if values.count is not None:
            arguments["count"] = values.count
        patience = PATIENCE_S if values.timeout is None else values.timeout
        texts.append(str(ask(values.socket, values.command, arguments, patience).get("text", "")))
    return _json({"text": "\n".join(texts)}, values) if values.json else "\n".join(map(escaped, "\n".join(texts).split("\n")))


def _wait(values: argparse.Namespace) -> int:
    """As chronyc's waitsync: a line for each try."""

    def show(attempt: int, last: Last) -> None:
        if not values.json:
            line = f"try: {attempt}, {last.text}" if last.status is None else report.waiting(attempt, last.status)
            print(line, flush=True)

    max_error = DEFAULT_MAX_ERROR if values.max_error is None else values.max_error
    last = wait(values.socket, max_error, inf if values.timeout is None else values.timeout, show)
    if values.json:
        tracking = None if last.status is None else last.status.get("tracking")
        print(_json({"synchronized": last.synchronized, "text": last.text, "tracking": tracking}, values))
    return EXIT_OK if last.synchronized else EXIT_FAILED


def _watch(values: argparse.Namespace, sleep: Callable[[float], None] = time.sleep) -> int:
    """Show a table again and again until Ctrl-C. A daemon that is restarted is waited for."""
    live = streams.draws(sys.stdout) and not values.json
    drawn = 0
    text = _output(values, _width(live))
    try:
        while True:
            if live:
                lines = _fitting(text.split("\n"))
                # A line that wraps, or scrolls, could not be erased.
                sys.stdout.write((f"\033[{drawn}A\033[J" if drawn else "") + "\n".join(lines) + "\n")
                drawn = len(lines)
            else:
                sys.stdout.write(text + ("\n" if values.json else "\n\n"))
            if streams.lost_output() is not None:
                return EXIT_FAILED
            sys.stdout.flush()
            sleep(values.interval)
            text = _again(values, _width(live))
    except KeyboardInterrupt:
        # The usual end.
        return EXIT_OK


def _again(values: argparse.Namespace, columns: int | None) -> str:
    """The next view; where there is no daemon at the moment, that."""
    try:
        return _output(values, columns)
    except NotAllowed:
        raise
    except Refused as error:
        if error.problem is not Problem.BUSY:
            raise
        why = str(error)
    except ControlError as error:
        why = str(error)
    return json.dumps({"error": why}) if values.json else escaped(why)


def _width(live: bool) -> int | None:
    return max(report.COLUMNS, _size()[0]) if live else None


def _size() -> tuple[int, int]:
    # Not at the top: it loads the modules of all compressions.
    import shutil  # noqa: PLC0415

    size = shutil.get_terminal_size()
    return size.columns, size.lines


def _fitting(lines: list[str]) -> list[str]:
    """What the terminal has room for."""
    columns, rows = _size()
    plain = streams.is_plain(sys.stdout)
    shown = [in_ascii(line) if plain else line for line in [*lines, "Ctrl-C ends"]]
    return [line if cells(line) < columns else beginning(line, columns - 1) for line in shown][: max(1, rows - 1)]


def _check(values: argparse.Namespace) -> None:
    """Refuse options that do not belong to the command."""
    command = values.command
    if command is None:
        raise ConfigError("no command", expected=", ".join(_COMMANDS), advice=f"see {PROGRAM} --help")
    of = {
        "--watch": (values.watch, _WATCHED),
        "--interval": (values.interval != 1.0, _WATCHED),
        "--count": (values.count is not None, ("burst",)),
        "--max-error": (values.max_error is not None, ("waitsync",)),
        "-v": (values.verbose, ("sources", "sourcestats")),
    }
    for option, (given, commands) in of.items():
        if given and command not in commands:
            raise ConfigError(f"{option} together with {command}", expected=f"it with {' or '.join(commands)}")
    if values.name and "name" not in ARGUMENTS.get(command, {}):
        raise ConfigError(f"{command} {values.name[0]!r}", expected=f"{command} without a name")
    if values.count is not None and not 1 <= values.count <= MAX_BURST:
        raise ConfigError(f"--count {values.count}", expected=f"1 to {MAX_BURST}")
    if values.interval < _LEAST_INTERVAL:
        raise ConfigError(f"--interval {values.interval:g}", expected=f"{_LEAST_INTERVAL} seconds or more")


def _command(text: str) -> str:
    if text in _COMMANDS:
        return text
    from difflib import get_close_matches  # noqa: PLC0415 - loaded only where it is used

    near = get_close_matches(text, _COMMANDS, 1)
    raise ConfigError(
        f"unknown command {text!r}",
        expected="" if near else ", ".join(_COMMANDS),
        advice=f"did you mean {near[0]}?" if near else "",
    )


def _parser() -> Parser:
    commands = "\n".join(f"  {name:<12}{what}" for name, what in _COMMANDS.items())
    parser = _Parser(
        PROGRAM,
        ["[options] COMMAND [NAME ...]"],
        f"Ask tsqd, the daemon that keeps this machine's clock, and tell it what to do.\n\ncommands:\n{commands}",
        _EPILOG,
        _EXAMPLES,
    )
    add, positive = parser.add_argument, checked(seconds)
    add("command", nargs="?", type=checked(_command), choices=list(_COMMANDS), metavar="COMMAND", help="what to do")
    add("name", nargs="*", metavar="NAME", help="with burst, online, offline: these sources (default: all)")
    add("--json", action="store_true", help="print JSON")
    add("--watch", action="store_true", help="tracking, sources: show it again and again until Ctrl-C")
    add("--interval", type=positive, default=1.0, metavar="S", help="seconds between two views of --watch (default: %(default)s)")
    add("-v", "--verbose", action="store_true", help="sources, sourcestats: explain the columns; sources: whole reasons")
    add("--count", type=checked(whole_number), metavar="N", help=f"burst: so many polls (default: {DEFAULT_BURST})")
    add(
        "--max-error",
        type=positive,
        metavar="S",
        help=f"waitsync: the largest error bound, in seconds (default: {DEFAULT_MAX_ERROR})",
    )
    add(
        "--timeout",
        type=positive,
        metavar="S",
        help=f"seconds to wait for the reply (default: {PATIENCE_S:g}); waitsync: for the clock (default: for ever)",
    )
    add("--socket", default=DEFAULT_SOCKET, metavar="FILE", help="the daemon's control socket (default: %(default)s)")
    add_version(parser)
    return parser


if __name__ == "__main__":
    from tsq.cli import start

    sys.exit(start.control())
