"""Files with keys for Signature Blocks (`tsq.wire.keys`).

Comes in: paths. Goes out: keys, or ConfigError. It must never write over a file, and never read a secret that other users can read.
"""

import os
from collections.abc import Iterable, Sequence
from hashlib import sha256

from tsq.errors import ConfigError
from tsq.host import files
from tsq.wire.keys import SigningKey, key_bytes, parse_signing_keys, parse_verify_keys, signing_line, verifier_of, verify_line
from tsq.wire.signature import Verifier

_MOST_BYTES = 64 << 10
PUBLIC_SUFFIX = ".pub"


def load_signing_keys(paths: Iterable[str]) -> list[SigningKey]:
    """All signing keys of these files, in order; the first one is the current one. Raises ConfigError."""
    keys: list[SigningKey] = []
    for path in paths:
        for key in parse_signing_keys(_read(path, private=True), path):
            if any(key.key_id == other.key_id for other in keys):
                raise ConfigError(f"{path}: key id {key.key_id} again", expected="each id once")
            keys.append(key)
    return keys


def load_verifier(paths: Sequence[str]) -> Verifier:
    """A verifier that trusts the keys in these files. Raises ConfigError."""
    return verifier_of(*(parse_verify_keys(_read(path, private=False), path) for path in paths))


def verifier_identity(verifier: Verifier) -> str:
    """Identifies the keys that it trusts, by their content."""
    lines = sorted(f"{key_id} {type(key).__name__} {key_bytes(key).hex()}" for key_id, key in verifier.keys.items())
    return sha256("\n".join(lines).encode()).hexdigest()


def write_key(path: str, key: SigningKey) -> str:
    """Write a new key to this new file, mode 0600, and what clients need beside it; that file's name. Raises ConfigError.

    The clients' file of an HMAC key has the secret, and the mode 0600 as well.
    """
    public = path + PUBLIC_SUFFIX
    shared = verify_line(key).split()[-1] == signing_line(key).split()[-1]
    _create(path, signing_line(key), 0o600)
    _create(public, verify_line(key), 0o600 if shared else 0o644)
    return public


def _read(path: str, *, private: bool) -> str:
    try:
        return files.read(path, _MOST_BYTES, private=private).decode("utf-8", "replace")
    except OSError as error:
        raise ConfigError(f"key file {path}: {files.why(error)}", expected="a file that tsq-keygen wrote") from error


def _create(path: str, text: str, mode: int) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except OSError as error:
        raise ConfigError(f"{path}: {files.why(error)}", advice="give a file that does not exist yet") from error
    try:
        # Whatever the umask is: the mode is a promise.
        os.fchmod(fd, mode)
        files.write_all(fd, text.encode("ascii"))
        os.fsync(fd)
    except OSError as error:
        raise ConfigError(f"{path}: {files.why(error)}") from error
    finally:
        os.close(fd)
