"""The secrets of a server or a whole fleet, from which keys for session tickets, address tokens and stateless resets are derived.

Comes in: master secrets, newest first, made at random or from a file that is watched. Goes out: derived keys (HKDF-SHA256, RFC
5869), the newest first: that one makes, all are accepted. A file that has become bad must never replace keys that work, and no
two purposes may ever share a key.
"""

import binascii
import logging
import os
import stat
from base64 import b64decode
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Self

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tsq.errors import ConfigError
from tsq.quic.certificates.reading import read_whole
from tsq.wording import counted

SECRET_SIZE = 32
KEY_SIZE = 32
# Old ones stay until what they made has expired: a handful at any rotation.
_MOST_SECRETS = 16
# Of random secrets: as long as a session ticket can be used.
_LIFETIME = 86400.0
# Nobody but the owner may change the file, and only its group may read it (a Kubernetes secret has mode 0440).
_FORBIDDEN = 0o037
_GROUP_READS = 0o040
_ADVICE = f"write one secret a line, newest first, each made by `openssl rand -hex {SECRET_SIZE}`"

logger = logging.getLogger(__name__)


class Purpose(Enum):
    """What a derived key is for. The value is HKDF's info."""

    TICKETS = b"tsq session tickets"
    TOKENS = b"tsq address tokens"
    RESETS = b"tsq stateless resets"


class Secrets:
    """Master secrets, newest first. version: changes with each change of them. stale: the file cannot be used, the old ones stay.

    The keys of one process alone (`random`) replace themselves when tickets made with them have expired.
    """

    def __init__(self, masters: Sequence[bytes]) -> None:
        self.version = 0
        self._masters = _checked(masters)
        self._derived: dict[Purpose, tuple[bytes, ...]] = {}
        self._path: str | None = None
        self._seen: tuple[int, ...] = ()
        self.stale = False
        self._replaced_at: float | None = None
        self._watchers: list[Callable[[], None]] = []

    @classmethod
    def random(cls) -> Self:
        """Secrets of this process alone, which end with it."""
        return cls([os.urandom(SECRET_SIZE)])

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """The secrets in this file. Raises ConfigError where it cannot be used."""
        name = os.fspath(path)
        masters, seen = _read(name)
        secrets = cls(masters)
        secrets._path, secrets._seen = name, seen
        return secrets

    @property
    def shared(self) -> bool:
        """Whether other processes may have the same secrets."""
        return self._path is not None

    def keys(self, purpose: Purpose) -> tuple[bytes, ...]:
        """The keys for this purpose, newest first: make with the first, accept all."""
        if purpose not in self._derived:
            self._derived[purpose] = tuple(_derive(master, purpose.value) for master in self._masters)
        return self._derived[purpose]

    def when_changed(self, watcher: Callable[[], None]) -> None:
        """Call this after each change."""
        self._watchers.append(watcher)

    def refresh(self, now: float) -> None:
        """Look whether the file has changed, or whether random secrets are due to be replaced. Call this about once a second.

        now: monotonic seconds.
        """
        if self._path is not None:
            if _look(self._path) != self._seen:
                self.reload()
        elif self._replaced_at is None:
            self._replaced_at = now
        elif now >= self._replaced_at + _LIFETIME:
            self._replaced_at = now
            self._use([os.urandom(SECRET_SIZE), self._masters[0]])

    def reload(self) -> bool:
        """Read the file again. If it cannot be used, log that once, and keep the old secrets. Whether all is well."""
        if self._path is None:
            return True
        # Before reading: a file that changes meanwhile is looked at again.
        self._seen = _look(self._path)
        try:
            masters, self._seen = _read(self._path)
            self.stale = False
        except ConfigError as error:
            self.stale = True
            logger.error("secrets not reloaded, the old ones stay: %s", error)
            return False
        if masters != self._masters:
            self._use(masters)
            logger.info("%s reloaded", counted(len(masters), "secret"))
        return True

    def _use(self, masters: Sequence[bytes]) -> None:
        self._masters = _checked(masters)
        self._derived.clear()
        self.version += 1
        for watcher in self._watchers:
            watcher()


def _derive(master: bytes, info: bytes) -> bytes:
    derived: bytes = HKDF(algorithm=SHA256(), length=KEY_SIZE, salt=None, info=info).derive(master)
    return derived


def _checked(masters: Sequence[bytes]) -> list[bytes]:
    """Raises ConfigError where these are no secrets."""
    if not masters or len(masters) > _MOST_SECRETS:
        raise ConfigError(f"{len(masters)} secrets", expected=f"1 to {_MOST_SECRETS}", advice=_ADVICE)
    for master in masters:
        if not isinstance(master, bytes) or len(master) != SECRET_SIZE:
            raise ConfigError("a secret of another size", expected=f"{SECRET_SIZE} bytes", advice=_ADVICE)
    return list(masters)


def _look(path: str) -> tuple[int, ...]:
    """What changes when the file is written or replaced, through symbolic links; empty where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode


def _read(path: str) -> tuple[list[bytes], tuple[int, ...]]:
    """The secrets in a file, and what it was. Raises ConfigError."""
    masters, found = read_secrets(path, "secret file", SECRET_SIZE, _ADVICE)
    if not 0 < len(masters) <= _MOST_SECRETS:
        raise ConfigError(f"secret file {path}: {len(masters)} secrets", expected=f"1 to {_MOST_SECRETS}", advice=_ADVICE)
    return masters, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode)


def read_secrets(path: str, what: str, size: int, advice: str) -> tuple[list[bytes], os.stat_result]:
    """The secrets of this size in a file that others cannot read, one a line, and what the file is.

    Raises ConfigError, which never quotes a secret.
    """
    try:
        data, found = read_whole(path)
    except OSError as error:
        raise ConfigError(f"{what} {path}: {error.strerror or error}", advice=advice) from error
    _check_mode(path, what, found)
    masters: dict[bytes, int] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        text = line.strip()
        if not text or text.startswith(b"#"):
            continue
        master = _secret(text, size)
        if master is None:
            form = f"{2 * size} hexadecimal digits, or the Base64 of {size} bytes"
            raise ConfigError(f"{what} {path}, line {number}: no secret", expected=form, advice=advice)
        if master in masters:
            raise ConfigError(f"{what} {path}, line {number}: the same secret as in line {masters[master]}", advice=advice)
        masters[master] = number
    return list(masters), found


def _check_mode(path: str, what: str, found: os.stat_result) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if mode & _FORBIDDEN:
        verb = "change" if mode & 0o022 else "read"
        raise ConfigError(
            f"{what} {path} has mode {mode:04o}: others can {verb} it",
            expected="0600 or 0440",
            advice=f"`chmod 600 {path}`, and replace secrets that somebody may have read",
        )
    if mode & _GROUP_READS and found.st_uid != 0:
        logger.warning("%s %s has mode %04o: its group can read it", what, path, mode)


def _secret(text: bytes, size: int) -> bytes | None:
    """So many bytes from their hexadecimal or Base64 form; None for anything else."""
    try:
        found = binascii.unhexlify(text) if len(text) == 2 * size else b64decode(text, validate=True)
    except ValueError:
        return None
    return found if len(found) == size else None
