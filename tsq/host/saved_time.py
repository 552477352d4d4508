"""Saves a correct time in a file. A later time can never be less, so it is a lower limit.

Comes in: the file's name. Goes out: the time in Unix ns, or None with a warning. It must never make a program fail: without a
file that can be read, there is no lower limit from it.

The file contains one line, Unix seconds in decimal digits. Do not read a file that users other than its owner can change.
"""

from collections.abc import Callable

from tsq.host import files

_MOST_DIGITS = 18
_MOST_READ = 64
# The content is not secret, but other users must not change it.
_MODE = 0o644
Warn = Callable[[str], None]


def load(path: str, warn: Warn) -> int | None:
    """The time in the file, Unix ns. None if there is no file yet, or, with a warning, if it cannot be used."""
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
    """Save this time. If that fails, warn; the old file stays complete."""
    try:
        files.replace(path, f"{now_ns // 1_000_000_000}\n".encode("ascii"), _MODE)
    except (OSError, ValueError) as error:
        warn(f"the time was not saved to {path}: {files.why(error) if isinstance(error, OSError) else error}")
