"""Where the installed commands begin: loads what a command needs in as little time as can be, then runs it.

Comes in: nothing. Goes out: the command's exit status. The garbage collector pauses while modules are loaded, which makes no
garbage, and never walks over them again, at exit neither: that is a tenth of a one-shot client's time.
"""

import gc
import io
import signal
import sys
from importlib import import_module

# As `tsq.cli.common.EXIT_INTERRUPTED`, which is not loaded yet.
_INTERRUPTED = 130


def client() -> int:
    """tsq-client. Ends quietly when nobody reads on, as in `tsq-client --watch HOST | head`; it has nothing to put in order."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    return _run("tsq.cli.client")


def server() -> int:
    """tsq-server."""
    return _run("tsq.cli.server")


def adjtime() -> int:
    """tsq-adjtime."""
    return _run("tsq.cli.adjtime")


def _run(module: str) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As standard error does: what the terminal's encoding has not, such as "±", is written in another way.
        sys.stdout.reconfigure(errors="backslashreplace")
    gc.disable()
    try:
        main = import_module(module).main
    except KeyboardInterrupt:
        sys.stderr.write("interrupted before anything was done\n")
        return _INTERRUPTED
    finally:
        gc.freeze()
        gc.enable()
    status: int = main()
    gc.freeze()
    return status
