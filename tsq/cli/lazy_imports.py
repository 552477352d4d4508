"""Lazy imports: what a command loads of its libraries. That saves 30 ms, a fifth of a one-shot run, and 2 MB of a daemon.

Comes in: the start of a command. Goes out: `aioquic.tls`, `asyncio`, TSQ's check of certificates, loaded. What they import and TSQ
does not use is loaded at its first use: aioquic's own check, `ssl`, pyOpenSSL's connections. `asyncio` has no TLS then. It must
never stand in for a module that is loaded already, nor be used by the library: that is for a program of our own.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

_OF_AIOQUIC = ("service_identity", "OpenSSL", "OpenSSL.crypto", "certifi", "ssl")
# What is used without the module: aioquic compares with these.
_KNOWN = {"ssl": {"CERT_NONE": 0, "CERT_OPTIONAL": 1, "CERT_REQUIRED": 2}}


class _Later(ModuleType):
    """Stands in for a module, and loads it at the first use."""

    def __getattr__(self, name: str) -> object:
        _withdraw([self.__name__])
        value = getattr(import_module(self.__name__), name)
        setattr(self, name, value)
        return value


def _withdraw(names: Sequence[str]) -> None:
    for name in (*names, *_OF_AIOQUIC):
        if isinstance(sys.modules.get(name), _Later):
            del sys.modules[name]


@contextmanager
def _standing_in(names: Sequence[str]) -> Iterator[None]:
    """Other modules that import these get what stands in for them."""
    try:
        for name in names:
            parent, _, child = name.rpartition(".")
            within = sys.modules.get(parent)
            if name in sys.modules or (within is not None and not isinstance(within, _Later)):
                continue
            sys.modules[name] = _Later(name)
            vars(sys.modules[name]).update(_KNOWN.get(name, {}))
            if within is not None:
                # What `from parent import child` looks at.
                within.__path__ = []
                setattr(within, child, sys.modules[name])
        yield
    finally:
        _withdraw(names)


def load_aioquic() -> None:
    """Load `aioquic.tls`, unless it is there already, without what only a check needs."""
    if "aioquic.tls" not in sys.modules:
        with _standing_in(_OF_AIOQUIC):
            import_module("aioquic.tls")


def load_checks() -> None:
    """Load the check of certificates, unless it is there already, without pyOpenSSL's connections."""
    with _standing_in(["OpenSSL.SSL"]):
        import_module("tsq.quic.certificates.chain")


def load_asyncio() -> None:
    """Load `asyncio`, unless it is there already, without TLS over TCP, as on a system that has none."""
    if "asyncio" in sys.modules or "ssl" in sys.modules:
        return
    sys.modules["ssl"] = None  # type: ignore[assignment]  # this is how Python marks a module that cannot be imported
    try:
        import_module("asyncio")
    finally:
        del sys.modules["ssl"]
