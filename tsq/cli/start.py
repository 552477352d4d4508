"""Entry points of the installed commands: say which signals wait or end the process, then load and run the command.

Goes out: the exit status. A signal that asks a server for something and comes before it can wait ends the server: so this must
never load anything that is not needed to say so.
"""

import signal
import sys

# Not `typing`'s, which takes milliseconds to load.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def client() -> int:
    """tsq-client. Ends by SIGPIPE when the reader of its output ends, as in `tsq-client --watch HOST | head`."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    return _run("tsq-client")


def server() -> int:
    """tsq-server."""
    # A signal that asks for a reload or for the counters waits until the server can handle it, and does not end the process.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})
    return _run("tsq-server")


def adjtime() -> int:
    """tsq-adjtime."""
    return _run("tsq-adjtime")


def daemon() -> int:
    """The daemon, tsqd."""
    # As for the server.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGUSR1})
    return _run("tsqd")


def control() -> int:
    """The command tsqctl. Ends by SIGPIPE when the reader of its output ends."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    return _run("tsqctl")


def wait_sync() -> int:
    """tsq-wait-sync."""
    return _run("tsq-wait-sync")


def keygen() -> int:
    """tsq-keygen."""
    return _run("tsq-keygen")


def audit() -> int:
    """tsq-audit."""
    return _run("tsq-audit")


def conformance() -> int:
    """tsq-conformance."""
    return _run("tsq-conformance")


def package(arguments: "Sequence[str]") -> int:
    """`python -m tsq`: one of the commands, by its name without "tsq-"."""
    name = arguments[0] if arguments else "--help"
    if name in _COMMANDS:
        run, what = _COMMANDS[name]
        sys.argv = [what.partition(":")[0], *arguments[1:]]
        return run()
    from tsq.cli import running  # noqa: PLC0415 - as in `_run`

    return running.explain(name, {name: what for name, (_, what) in _COMMANDS.items()})


_COMMANDS: "dict[str, tuple[Callable[[], int], str]]" = {
    "client": (client, "tsq-client: ask servers for the time, and print the clock's offset"),
    "server": (server, "tsq-server: serve the time of this machine's clock"),
    "adjtime": (adjtime, "tsq-adjtime: ask servers for the time, and set this machine's clock once"),
    "daemon": (daemon, "tsqd: keep this machine's clock, or feed the program that keeps it"),
    "control": (control, "tsqctl: ask the daemon, and tell it what to do"),
    "wait-sync": (wait_sync, "tsq-wait-sync: wait until the daemon's clock is right"),
    "audit": (audit, "tsq-audit: check signed answers that were kept, and what they prove"),
    "keygen": (keygen, "tsq-keygen: make a key with which a server signs its answers"),
    "conformance": (conformance, "tsq-conformance: test a server of any make against the draft"),
}


def _run(program: str) -> int:
    """Load the command and run it."""
    from tsq.cli import running  # noqa: PLC0415 - after the signals

    return running.run(program)
