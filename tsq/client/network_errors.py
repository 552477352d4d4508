"""TSQ's own errors for what sockets and the system report.

Comes in: an OSError, or an error that a shortage of memory or files causes. Goes out: a TransportError that says what to do. It
must never hide another error, which is a fault of the program.
"""

import errno
import os

from tsq.errors import NothingListens, TransportError, Unreachable
from tsq.host import shortage

_REFUSED = {errno.ECONNREFUSED}
_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM, errno.ENETDOWN, errno.EADDRNOTAVAIL}

# The errors that `network_error` takes.
FAILURES = (OSError, LookupError, ImportError, MemoryError)


def network_error(error: OSError | LookupError | ImportError | MemoryError) -> TransportError:
    """TSQ's error for a socket's error or a shortage. Raises any other error again."""
    missing = shortage.explained(error)
    if missing is not None:
        return TransportError(missing)
    if not isinstance(error, OSError):
        raise error
    if error.errno in _REFUSED:
        return NothingListens(
            "nothing listens on this UDP port (ICMP port unreachable)",
            advice="is the server running, and is the port right? A firewall may answer so, too",
        )
    if error.errno == errno.EINVAL:
        # What connect and send report for a blackhole route, and for an IPv6 link-local address without its interface.
        return Unreachable(
            "the address cannot be reached: this machine has no route to it",
            advice="is there a blackhole route to it, or does an fe80:: address lack its interface, as in fe80::1%eth0?",
        )
    if error.errno == errno.EAFNOSUPPORT:
        return Unreachable(
            "the address cannot be reached: there are no addresses of its kind on this machine",
            advice="is IPv6, or IPv4, off here or forbidden to this process?",
        )
    text = description(error)
    if error.errno in _UNREACHABLE:
        return Unreachable(f"the address cannot be reached: {text}", advice="check routes and firewalls")
    return TransportError(f"the socket failed: {text}")


def description(error: OSError) -> str:
    """The system's text for an error's number. The text of the error itself may name the call that failed."""
    return str(error) if error.errno is None else os.strerror(error.errno)
