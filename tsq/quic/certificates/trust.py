"""The authorities that a client trusts.

Comes in: a Trust, the environment, files. Goes out: Authorities, or ConfigError. A file is read once for all queries with one
Trust, before any server is asked; so it may be a pipe. It must never replace the authorities that the user named by others.
"""

import hashlib
import os
import re
import stat
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING

from tsq.errors import ConfigError
from tsq.options import ClientOptions, Trust
from tsq.quic.certificates import pem
from tsq.quic.certificates.reading import read_whole
from tsq.settings import Setting

if TYPE_CHECKING:
    from ssl import DefaultVerifyPaths

DEFAULT_PATIENCE = ClientOptions().timeout
_HASHED_NAME = re.compile(r"[0-9a-f]{8}\.[0-9]+")
_EXPECTED = "certificates in PEM form, which begin with -----BEGIN CERTIFICATE-----"
_UNSET = "name what is there, or unset it to trust the system's authorities"
# Seconds.
_DESCRIBED_FOR = 3600.0
_descriptions: dict[str, tuple[tuple[int, ...] | None, float, bytes]] = {}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Authorities:
    """The trusted authorities. content: PEM files; directories: with certificates under hashed names, as OpenSSL looks them up.

    origin: where they come from, in words. kept_elsewhere: whether the user does not maintain the store: skip odd entries.
    """

    content: tuple[bytes, ...]
    directories: tuple[str, ...]
    origin: str
    kept_elsewhere: bool = False

    @property
    def identity(self) -> str:
        """Identifies the authorities by their content: another content of the same file is another trust."""
        digest = hashlib.sha256()
        for content in self.content:
            digest.update(_digest(content))
        for directory in self.directories:
            digest.update(_described(directory))
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Read:
    """The result of reading, and the state of the files at that time."""

    state: tuple[object, ...]
    found: Authorities | ConfigError


def authorities(trust: Trust) -> Authorities:
    """The authorities of this trust, as they were when they were read; read now where that has not been done.

    Raises ConfigError.
    """
    known = trust.read.get(_named(trust))
    if known is None:
        return read_again(trust)
    return _found(known)


def read_again(trust: Trust, patience: float = DEFAULT_PATIENCE) -> Authorities:
    """The same, read anew where a file has changed since. patience: how many seconds a pipe may take. Raises ConfigError."""
    named = _named(trust)
    with _lock:
        state = tuple(_state(path) for path in named)
        known = trust.read.get(named)
        if known is None or known.state != state:
            try:
                found: Authorities | ConfigError = (
                    _of_file(os.fspath(trust.ca_file), patience) if trust.ca_file is not None else _system(patience)
                )
            except ConfigError as error:
                found = error
            known = trust.read[named] = _Read(state, found)
    return _found(known)


def _found(known: _Read) -> Authorities:
    if isinstance(known.found, ConfigError):
        raise known.found
    return known.found


def _named(trust: Trust) -> tuple[str | None, ...]:
    """The files and directories that are read."""
    if trust.ca_file is not None:
        return (os.fspath(trust.ca_file),)
    paths = _default_paths()
    return (os.environ.get(paths.openssl_cafile_env), os.environ.get(paths.openssl_capath_env), paths.cafile, paths.capath)


def _default_paths() -> "DefaultVerifyPaths":
    # Imported only here: a daemon whose sources have their own CA files, or pins, saves 4 MiB without it.
    import ssl  # noqa: PLC0415

    return ssl.get_default_verify_paths()


def _state(path: str | None) -> object:
    """What shows that a regular file has changed. Anything else can be read only once."""
    try:
        found = os.stat(path or "")
    except (OSError, ValueError):
        return None
    same = (found.st_dev, found.st_ino, found.st_mode)
    return (*same, found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else same


def _of_file(name: str, patience: float) -> Authorities:
    """The authorities in a file that the user named."""
    what = f"CA file {name}"
    try:
        content, _ = read_whole(name, patience)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{what}: {_why(error)}", expected="certificates in PEM form") from error
    try:
        found = pem.certificates(content)
    except pem.Damaged as error:
        raise ConfigError(
            f"{what} holds a damaged certificate", expected=_EXPECTED, advice=f"{error}: get the file anew"
        ) from error
    if not found:
        raise ConfigError(f"{what} holds no certificate", expected=_EXPECTED, advice=pem.what_else(content))
    return Authorities((content,), (), what)


def _system(patience: float) -> Authorities:
    """The authorities that the environment names, or the system's own; without any of these, certifi's."""
    paths = _default_paths()
    named_file, named_directories = os.environ.get(paths.openssl_cafile_env), os.environ.get(paths.openssl_capath_env)
    if named_file is None and named_directories is None:
        return _without_variables(paths)
    content, file_problem = b"", ""
    if named_file:
        content, file_problem = _content_of(named_file, patience)
    elif named_file is None and os.path.isfile(paths.openssl_cafile):
        content, _ = _content_of(paths.openssl_cafile, patience)
    directories, directory_problem = _existing(named_directories or "")
    if named_directories is None and os.path.isdir(paths.openssl_capath):
        directories, directory_problem = (paths.openssl_capath,), ""
    notes: list[str] = []
    for variable, named, problem, other_named, other_good in (
        (paths.openssl_cafile_env, named_file, file_problem, named_directories, bool(directories)),
        (paths.openssl_capath_env, named_directories, directory_problem, named_file, bool(content)),
    ):
        # Use only the other variable instead, never the default: it trusts more authorities.
        if problem and not (other_named and other_good):
            raise ConfigError(f"{variable} names {named}, which {problem}", advice=_UNSET)
        if problem:
            notes.append(f"; {variable} names {named}, which {problem}")
    if not content and not directories:
        raise ConfigError(f"{paths.openssl_cafile_env} and {paths.openssl_capath_env} name no authority", advice=_UNSET)
    parts = [
        f"{paths.openssl_cafile_env} ({named_file})" if named_file and content else "",
        f"{paths.openssl_capath_env} ({named_directories})" if named_directories and directories else "",
        "the system's" if (named_file is None and content) or (named_directories is None and directories) else "",
    ]
    return Authorities(
        (content,) if content else (), directories, " and ".join(filter(None, parts)) + "".join(notes), kept_elsewhere=True
    )


def _without_variables(paths: "DefaultVerifyPaths") -> Authorities:
    """The system's store; where it has none, certifi's."""
    content = b""
    if paths.cafile is not None:
        content, _ = _content_of(paths.cafile, DEFAULT_PATIENCE)
    directories = () if paths.capath is None else (paths.capath,)
    if content or directories:
        return Authorities((content,) if content else (), directories, "the system's authorities", kept_elsewhere=True)
    certifi = import_module("certifi")
    content, problem = _content_of(certifi.where(), DEFAULT_PATIENCE)
    if problem:
        raise ConfigError(f"this system has no trusted authorities, and certifi's file {problem}", advice=f"give {Setting.CA_FILE}")
    return Authorities((content,), (), "certifi's authorities, as this system has none", kept_elsewhere=True)


def _content_of(name: str, patience: float) -> tuple[bytes, str]:
    """(content of a file with certificates, what is wrong with it)."""
    try:
        content, _ = read_whole(name, patience)
    except (OSError, ValueError) as error:
        why = _why(error)
        return b"", why if why.startswith(("is ", "has ")) else f"cannot be read ({why})"
    if b"-----BEGIN" not in content or not any(map(pem.is_certificate, _blocks(content))):
        return b"", "holds no certificate in PEM form"
    return content, ""


def _blocks(content: bytes) -> list[pem.Block]:
    try:
        return pem.blocks(content)
    except pem.Damaged:
        return []


def _existing(named: str) -> tuple[tuple[str, ...], str]:
    """(the directories of a list that hold certificates under hashed names, what is wrong where none does)."""
    there = [name for name in named.split(os.pathsep) if name and os.path.isdir(name)]
    usable = tuple(name for name in there if any(map(_HASHED_NAME.fullmatch, _names_in(name))))
    if usable or not named:
        return usable, ""
    if not there:
        return (), "is no directory"
    return (), "holds no certificate under a hashed name (`openssl rehash` makes them)"


def _names_in(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


@lru_cache(maxsize=8)
def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _described(directory: str) -> bytes:
    """A directory's files by name, size and time. It may hold hundreds of them: look again only where it has changed, or now and
    then, in case that a file was written anew in its place.
    """
    try:
        status = os.stat(directory)
        state: tuple[int, ...] | None = (status.st_dev, status.st_ino, status.st_mtime_ns)
    except (OSError, ValueError):
        state = None
    known = _descriptions.get(directory)
    now = time.monotonic()
    if known is None or known[0] != state or now >= known[1] + _DESCRIBED_FOR:
        known = _descriptions[directory] = (state, now, _listed(directory))
    return known[2]


def _listed(directory: str) -> bytes:
    digest = hashlib.sha256(directory.encode(errors="surrogateescape"))
    try:
        with os.scandir(directory) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                status = entry.stat()
                digest.update(f"{entry.name} {status.st_ino} {status.st_size} {status.st_mtime_ns}\n".encode(errors="replace"))
    except OSError:
        # One that cannot be read holds no authority for TLS either.
        pass
    return digest.digest()


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
