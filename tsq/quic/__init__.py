"""The control plane: UDP datagrams with timestamps <-> TSQ messages on QUIC connections. Never interprets a timestamp.

It holds the server's router, connections of both sides, TLS and certificates, connection IDs, secrets, tickets, the UDP socket, and
limits on what peers may cost.

From the top, each using only what comes after it: `selfsigned`, `router`, `visits`, `gate`, `access`, `handshake_log`, `http3`,
`server_connection`, `client_connection`, `connection`, `outcome`, `tls`, `aioquic`, `udp`, `connection_ids`, `quic_lb`,
`sealed_tickets`, `secrets`, `tickets`, `resets`, `frames`, `reassembly`, `budget`, `drops`, `limits`, `certificates`.
"""

import logging
import warnings

from cryptography.utils import CryptographyDeprecationWarning

# Warnings about serial numbers and long names in a server's certificate are of no use to a client's user.
warnings.filterwarnings("ignore", "Parsed a serial number", CryptographyDeprecationWarning)
warnings.filterwarnings("ignore", "Attribute's length must be", UserWarning)


def _printable(record: logging.LogRecord) -> bool:
    """Escape what a peer may have put into a line: control characters, and bytes that are no text."""
    if isinstance(record.args, tuple):
        record.args = tuple(repr(arg)[1:-1] if isinstance(arg, str) and not arg.isprintable() else arg for arg in record.args)
    return True


# aioquic logs what each peer does wrong. Programs that configure logging get these lines; other programs print nothing.
logging.getLogger("quic").addHandler(logging.NullHandler())
logging.getLogger("quic").addFilter(_printable)
