"""Where the installed commands begin: loads what a command needs in as little time as can be, then runs it.

Comes in: nothing. Goes out: the command's exit status. The garbage collector pauses while modules are loaded, which makes no
garbage, and never walks over them again, at exit neither: that is a tenth of a one-shot client's time.
"""

import gc
import signal
from importlib import import_module


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
    gc.disable()
    try:
        main = import_module(module).main
    finally:
        gc.freeze()
        gc.enable()
    status: int = main()
    gc.freeze()
    return status
