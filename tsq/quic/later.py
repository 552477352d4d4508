"""Loads what checks a certificate when one is checked: some 30 ms, a fifth of a one-shot client's time.

Comes in: the first import of `tsq.quic`. Goes out: `aioquic.tls`, loaded. aioquic's modules for its own check, which TSQ does not
use, are found when somebody first uses them. Where `tsq.quic.chain`, which TSQ uses, cannot be loaded, the check fails and with it
the handshake. It must never stand in for a module that is loaded already, nor be found by anybody else once aioquic is loaded.
"""

import sys
from importlib import import_module
from types import ModuleType

_NAMES = ("service_identity", "OpenSSL", "OpenSSL.crypto", "certifi")


class _Later(ModuleType):
    """Stands for a module, and becomes it at the first use."""

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


def load_rest() -> None:
    """Load what checks a certificate now: for a program that will check one, and has nothing else to do at the moment."""
    import_module("tsq.quic.chain")
