"""Lazy imports: load the modules that check certificates when one is checked. That saves 30 ms, a fifth of a one-shot run.

Comes in: the start of a command. Goes out: `aioquic.tls`, loaded. aioquic's modules for its own check, which TSQ does not use, are
loaded at their first use; `tsq.quic.certificates.chain` is loaded for TSQ's check, and where it cannot be, the handshake fails. It
must never stand in for a module that is loaded already, nor be used by the library: that is for a program of our own.
"""

import sys
from importlib import import_module
from types import ModuleType

_NAMES = ("service_identity", "OpenSSL", "OpenSSL.crypto", "certifi")


class _Later(ModuleType):
    """Stands in for a module, and loads it at the first use."""

    def __getattr__(self, name: str) -> object:
        _withdraw()
        value = getattr(import_module(self.__name__), name)
        setattr(self, name, value)
        return value


def _withdraw() -> None:
    for name in _NAMES:
        if isinstance(sys.modules.get(name), _Later):
            del sys.modules[name]


def load_aioquic() -> None:
    """Load `aioquic.tls`, unless it is there already, without what only a check needs."""
    if "aioquic.tls" in sys.modules:
        return
    try:
        for name in _NAMES:
            parent, _, child = name.rpartition(".")
            if name in sys.modules or (parent and not isinstance(sys.modules[parent], _Later)):
                continue
            sys.modules[name] = _Later(name)
            if parent:
                # What `from parent import child` looks at.
                sys.modules[parent].__path__ = []
                setattr(sys.modules[parent], child, sys.modules[name])
        import_module("aioquic.tls")
    finally:
        _withdraw()
