"""A time that the clock had when it was right, kept in a file: no right clock says less later.

Comes in: the file's name. Goes out: the time in Unix ns, or None with a warning. It must never fail a program: a file that cannot
be read or written costs the floor, nothing more.

The file holds one line, whole Unix seconds in decimal digits. A file that others than its owner could have changed is not read.
"""

from collections.abc import Callable

from tsq.host import files

_MOST_DIGITS = 18
_MOST_READ = 64
# No secret, but nobody else may change it.
_MODE = 0o644
Warn = Callable[[str], None]


def load(path: str, warn: Warn) -> int | None:
    """The time in the file, Unix ns; None where there is no file yet, or, with a warning, none that can be used."""
    try:
        text = files.read(path, _MOST_READ).decode("ascii").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        warn(f"saved time {path} cannot be read and is ignored: {files.why(error)}")
        return None
    except ValueError as error:
        warn(f"saved time {path} is damaged and is ignored: {error}")
        return None
    if not text.isdecimal() or len(text) > _MOST_DIGITS:
        warn(f"saved time {path} is damaged and is ignored: {text!r}, expected Unix seconds in digits")
        return None
    return int(text) * 1_000_000_000


def save(path: str, now_ns: int, warn: Warn) -> None:
    """Keep this time; with a warning where that fails. The old file stays whole until the new one is."""
    try:
        files.replace(path, f"{now_ns // 1_000_000_000}\n".encode("ascii"), _MODE)
    except (OSError, ValueError) as error:
        warn(f"the time was not saved to {path}: {files.why(error) if isinstance(error, OSError) else error}")
