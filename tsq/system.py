"""What is for Linux alone, and what is not: asking servers works on macOS and the BSDs, too.

Comes in: the name of a command or of a part of the library; an error of an import. Goes out: what to tell the user. It must never
import another part of TSQ, nor anything that a command does not need anyway: it is loaded first.
"""

import sys

_ADVICE = "run it on a Linux machine; tsq-client, tsq-conformance, tsq-audit, tsq-keygen and the library's queries work here"


def is_linux() -> bool:
    """Whether this is Linux: sockets with all kernel timestamps, and calls that keep a clock."""
    return sys.platform == "linux"


def needs_linux(what: str) -> str:
    """What to say about something that works on Linux only."""
    return f"{what} needs Linux, and this is {sys.platform}: {_ADVICE}"


def not_built(error: ImportError) -> str | None:
    """What to say if a module of TSQ cannot be loaded; None if the error is about another package."""
    if error.name is None or error.name.partition(".")[0] != "tsq":
        return None
    return (
        f"TSQ's compiled part cannot be loaded for this Python ({error}). Build it with `pip install .` in TSQ's source tree, or "
        "`make build` for a checkout; it needs a C compiler and the development files of Python and OpenSSL 3."
    )
