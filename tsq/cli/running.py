"""Running a command: load what it needs as fast as possible, then run it.

Comes in: a command's name. Goes out: the exit status. Problems of the environment (standard streams, too few descriptors, too
little memory, a system that lacks a part of TSQ) end in one line, never in a traceback. The garbage collector is off while modules
are loaded and never scans them later, also not at exit: that saves a tenth of a one-shot client's time.
"""

import gc
import sys
from collections.abc import Callable, Mapping
from importlib import import_module

from tsq import __version__, system
from tsq.cli import streams
from tsq.cli.lazy_imports import load_aioquic, load_asyncio, load_checks
from tsq.host import shortage

# As in `tsq.cli.common`, which is not loaded yet.
_FAILED = 1
_USAGE = 2
_INTERRUPTED = 130
# What a command needs to load its modules, to read a file or two, and to ask one host or listen at one address.
_LEAST_FILES = 16


class _Command:
    """How to run a command. loads: what loads its libraries without what it does not need. linux: whether it needs Linux.

    output: whether it has failed when its output is lost.
    """

    def __init__(self, module: str, *loads: Callable[[], None], linux: bool = True, output: bool = False) -> None:
        self.module = module
        self.loads = loads
        self.linux = linux
        self.output = output


_COMMANDS = {
    "tsq-client": _Command("tsq.cli.client", load_aioquic, linux=False, output=True),
    "tsq-server": _Command("tsq.cli.server", load_aioquic),
    "tsq-adjtime": _Command("tsq.cli.adjtime", load_aioquic),
    "tsqd": _Command("tsq.cli.daemon", load_asyncio, load_aioquic, load_checks),
    "tsqctl": _Command("tsq.cli.control", output=True),
    "tsq-wait-sync": _Command("tsq.cli.wait_sync"),
    "tsq-audit": _Command("tsq.cli.audit", linux=False),
    "tsq-keygen": _Command("tsq.cli.keygen", linux=False),
    "tsq-conformance": _Command("tsq.cli.conformance", load_aioquic, linux=False),
}


def run(program: str) -> int:
    """Run a command by its name."""
    command = _COMMANDS[program]
    status = _run(program, command)
    return _FAILED if command.output and streams.lost_output() is not None else status


def explain(name: str, commands: Mapping[str, str]) -> int:
    """What `python -m tsq` says where its argument is no command. commands: for each, its name and what it does."""
    streams.secure("tsq")
    if name == "--version":
        sys.stdout.write(f"tsq {__version__}\n")
        return _FAILED if streams.lost_output() is not None else 0
    if name in ("-h", "--help"):
        rows = "".join(f"  {name:<11}  {what}\n" for name, what in commands.items())
        sys.stdout.write(f"usage: python -m tsq COMMAND [options]\n\ncommands:\n{rows}\nexamples:\n  python -m tsq client --help\n")
        return _FAILED if streams.lost_output() is not None else 0
    what = "option" if name.startswith("-") else "command"
    sys.stderr.write(f"tsq: error: unknown {what} {name!r} (expected {', '.join(commands)})\n")
    return _USAGE


def _run(program: str, command: _Command) -> int:
    streams.secure(program)
    if command.linux and not system.is_linux():
        sys.stderr.write(f"{program}: error: {system.needs_linux(program)}\n")
        return _USAGE
    missing = shortage.too_few_files(_LEAST_FILES, program)
    if missing is not None:
        sys.stderr.write(f"{program}: error: {missing}\n")
        return _FAILED
    gc.disable()
    try:
        for load in command.loads:
            load()
        main = import_module(command.module).main
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
    """Report which resource is short, or that TSQ is not built; the exit status. Raises any other error again."""
    why = shortage.explained(error)
    if why is None and isinstance(error, ImportError):
        why = system.not_built(error)
    if why is None:
        raise error
    sys.stderr.write(f"{program}: error: {why}\n")
    return _FAILED
