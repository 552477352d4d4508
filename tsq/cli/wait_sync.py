"""tsq-wait-sync: wait until the daemon's clock is right (docs/reference/tsqctl.md).

Comes in: the largest error, a time limit. Goes out: exit status 0 when the daemon reports its clock as synchronized and its error
bound as small enough, 1 where that does not happen in time. It must never ask the daemon more often than twice a second.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

from tsq.cli.common import EXIT_FAILED, EXIT_OK, checked
from tsq.cli.numbers import number
from tsq.cli.parsers import Parser, add_version
from tsq.daemon.control_client import PATIENCE_S, ask
from tsq.daemon.control_protocol import DEFAULT_SOCKET, Problem, Refused
from tsq.errors import ConfigError, ControlError, NotAllowed
from tsq.report.control import is_synchronized, state
from tsq.report.spans import escaped

PROGRAM = "tsq-wait-sync"
# As chrony-wait.service has it.
DEFAULT_MAX_ERROR = 0.1
_PERIOD_S = 0.5
_LEAST_PATIENCE_S = 0.05
_EPILOG = """exit status: 0 the clock is synchronized, and its error bound is small enough; 1 it was not in time, or the daemon
cannot be asked; 2 usage; 130 interrupted. A daemon that does not run yet is waited for."""
_EXAMPLES = (
    ("tsq-wait-sync", "wait for ever, as a unit before time-sync.target does"),
    ("tsq-wait-sync --max-error 0.001 --timeout 60", "within a minute, the clock must be right to a millisecond"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = _parser()
    values = parser.parse_args(arguments)
    try:
        last = wait(values.socket, values.max_error, inf if values.timeout is None else values.timeout)
    except (ControlError, ConfigError) as error:
        sys.stderr.write(f"{PROGRAM}: {escaped(str(error))}\n")
        return EXIT_FAILED
    if last.synchronized:
        print(last.text)
        return EXIT_OK
    wanted = f"expected synchronized, bound at most {values.max_error:g} s"
    sys.stderr.write(f"{PROGRAM}: not within {values.timeout:g} s: {last.text} ({wanted})\n")
    return EXIT_FAILED


class Last:
    """The last answer of the daemon. text: what it was, or why there was none."""

    def __init__(self, *, synchronized: bool, text: str, status: Mapping[str, Any] | None = None) -> None:
        self.synchronized = synchronized
        self.text = text
        self.status = status


def wait(
    socket: str,
    max_error: float,
    timeout: float,
    on_try: Callable[[int, Last], None] | None = None,
    *,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Last:
    """Ask until the clock is right, or until the time is over. Raises a ControlError where asking again is of no use."""
    end = now() + timeout
    attempt = 0
    while True:
        attempt += 1
        last = _asked(socket, max_error, min(PATIENCE_S, max(_LEAST_PATIENCE_S, end - now())))
        if on_try is not None:
            on_try(attempt, last)
        left = end - now()
        if last.synchronized or left <= 0:
            return last
        sleep(min(_PERIOD_S, left))


def _asked(socket: str, max_error: float, patience: float) -> Last:
    try:
        status = ask(socket, "status", patience=patience)
    except NotAllowed:
        raise
    except Refused as error:
        if error.problem is not Problem.BUSY:
            raise
        return Last(synchronized=False, text=escaped(str(error)))
    except ControlError as error:
        # It does not run yet, or is just restarted.
        return Last(synchronized=False, text=escaped(str(error)))
    return Last(synchronized=is_synchronized(status, max_error), text=state(status), status=status)


def seconds(text: str) -> float:
    """A span on the command line."""
    value = number(text)
    if not value >= 0:
        raise ConfigError(f"{text!r}", expected="seconds, 0 or more")
    return value


def _parser() -> Parser:
    parser = Parser(
        PROGRAM,
        ["[options]"],
        "Wait until this machine's clock, which tsqd keeps or observes, is right.",
        _EPILOG,
        _EXAMPLES,
    )
    add = parser.add_argument
    add(
        "--max-error",
        type=checked(seconds),
        default=DEFAULT_MAX_ERROR,
        metavar="S",
        help="the largest error bound, in seconds (default: %(default)s)",
    )
    add("--timeout", type=checked(seconds), metavar="S", help="give up after so many seconds (default: never)")
    add("--socket", default=DEFAULT_SOCKET, metavar="FILE", help="the daemon's control socket (default: %(default)s)")
    add_version(parser)
    return parser


if __name__ == "__main__":
    from tsq.cli import start

    sys.exit(start.wait_sync())
