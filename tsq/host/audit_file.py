"""An audit log: a file to which exchanges are appended, each at once.

Comes in: a path, records. Goes out: lines in that file (mode 0600 where it is new), or ConfigError. It must never change what is
there already, and never lose a record silently.
"""

import contextlib
import os
import threading

from tsq.audit.records import Record, read, write
from tsq.errors import ConfigError
from tsq.host import files

_MOST_BYTES = 256 << 20


class AuditFile:
    """Appends records. Raises ConfigError where the file cannot be used.

    count: records that are in the file. lost: why later ones are not; "" while all are.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.count = 0
        self.lost = ""
        # Several servers are asked in parallel.
        self._lock = threading.Lock()
        try:
            self._fd = files.open_log(path)
        except OSError as error:
            raise ConfigError(f"audit log {path}: {files.why(error)}", expected="a file of your own, or a new one") from error

    def add(self, record: Record) -> None:
        """Append one record. Never raises: `lost` says what is missing."""
        with self._lock:
            if self.lost:
                # The last line may be incomplete: another one behind it could not be read.
                return
            try:
                files.write_all(self._fd, write(record).encode("ascii"))
            except OSError as error:
                self.lost = files.why(error)
                return
            self.count += 1

    def close(self) -> None:
        """Close the file, with its records on disk."""
        with contextlib.suppress(OSError):
            os.fsync(self._fd)
        os.close(self._fd)


def read_audit(path: str) -> list[Record]:
    """All records of a log. Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"audit log {path}: {files.why(error)}", expected="an audit log") from error
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"audit log {path} has more than {_MOST_BYTES} bytes", advice="split it at the end of a line")
    return list(read(data.decode("utf-8", "replace").splitlines(), path))
