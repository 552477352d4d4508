"""Entry points of the installed commands: load what a command needs as fast as possible, then run it.

Goes out: the exit status. Problems of the environment (standard streams, too few descriptors, too little memory) end in one line,
never in a traceback. The garbage collector is off while modules are loaded and never scans them later, also not at exit: that saves
a tenth of a one-shot client's time.
"""

import gc
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from tsq import __version__
from tsq.cli import streams
from tsq.cli.lazy_imports import load_aioquic, load_asyncio, load_checks
from tsq.host import shortage

# As in `tsq.cli.common`, which is not loaded yet.
_FAILED = 1
_USAGE = 2
_INTERRUPTED = 130
# What a command needs to load its modules, to read a file or two, and to ask one host or listen at one address.
_LEAST_FILES = 16


def client() -> int:
    """tsq-client. Ends by SIGPIPE when the reader of its output ends, as in `tsq-client --watch HOST | head`."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    status = _run("tsq-client", "tsq.cli.client", load_aioquic)
    # A client whose output is lost has failed.
    return _FAILED if streams.lost_output() is not None else status


def server() -> int:
    """tsq-server."""
    # A signal that asks for a reload or for the counters waits until the server can handle it, and does not end the process.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})
    return _run("tsq-server", "tsq.cli.server", load_aioquic)


def adjtime() -> int:
    """tsq-adjtime."""
    return _run("tsq-adjtime", "tsq.cli.adjtime", load_aioquic)


def daemon() -> int:
    """The daemon, tsqd."""
    # As for the server.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGUSR1})
    return _run("tsqd", "tsq.cli.daemon", load_asyncio, load_aioquic, load_checks)


def control() -> int:
    """The command tsqctl. Ends by SIGPIPE when the reader of its output ends."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    status = _run("tsqctl", "tsq.cli.control")
    return _FAILED if streams.lost_output() is not None else status


def wait_sync() -> int:
    """tsq-wait-sync."""
    return _run("tsq-wait-sync", "tsq.cli.wait_sync")


def keygen() -> int:
    """tsq-keygen."""
    return _run("tsq-keygen", "tsq.cli.keygen")


def audit() -> int:
    """tsq-audit."""
    return _run("tsq-audit", "tsq.cli.audit")


def conformance() -> int:
    """tsq-conformance."""
    return _run("tsq-conformance", "tsq.cli.conformance", load_aioquic)


def package(arguments: Sequence[str]) -> int:
    """`python -m tsq`: one of the commands, by its name without "tsq-"."""
    name = arguments[0] if arguments else "--help"
    if name in _COMMANDS:
        run, what = _COMMANDS[name]
        sys.argv = [what.partition(":")[0], *arguments[1:]]
        return run()
    streams.secure("tsq")
    if name == "--version":
        sys.stdout.write(f"tsq {__version__}\n")
        return _FAILED if streams.lost_output() is not None else 0
    if name in ("-h", "--help"):
        rows = "".join(f"  {name:<11}  {what}\n" for name, (_, what) in _COMMANDS.items())
        sys.stdout.write(f"usage: python -m tsq COMMAND [options]\n\ncommands:\n{rows}\nexamples:\n  python -m tsq client --help\n")
        return _FAILED if streams.lost_output() is not None else 0
    what = "option" if name.startswith("-") else "command"
    sys.stderr.write(f"tsq: error: unknown {what} {name!r} (expected {', '.join(_COMMANDS)})\n")
    return _USAGE


_COMMANDS: dict[str, tuple[Callable[[], int], str]] = {
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


def _run(program: str, module: str, *loads: Callable[[], None]) -> int:
    """Run a command. loads: what loads its libraries without what it does not need."""
    streams.secure(program)
    missing = shortage.too_few_files(_LEAST_FILES, program)
    if missing is not None:
        sys.stderr.write(f"{program}: error: {missing}\n")
        return _FAILED
    gc.disable()
    try:
        for load in loads:
            load()
        main = import_module(module).main
    except KeyboardInterrupt:
        sys.stderr.write("interrupted before anything was done\n")
        return _INTERRUPTED
    except (OSError, ImportError, MemoryError) as error:
        return _short_of(error, program)
    finally:
        gc.freeze()
        gc.enable()
    try:
        status: int = main()
    except SystemExit as end:
        # argparse's end: help, version, usage.
        status = end.code if isinstance(end.code, int) else _FAILED
        if status == 0 and streams.lost_output() is not None:
            status = _FAILED
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: interrupted\n")
        return _INTERRUPTED
    except (OSError, RuntimeError, LookupError, ImportError, MemoryError) as error:
        return _short_of(error, program)
    gc.freeze()
    return status


def _short_of(error: Exception, program: str) -> int:
    """Report which resource is short; the exit status. Raises any other error again."""
    why = shortage.explained(error)
    if why is None:
        raise error
    sys.stderr.write(f"{program}: error: {why}\n")
    return _FAILED
