"""UDP datagrams with timestamps <-> TSQ messages on QUIC connections. Never interprets a timestamp.

The only place that imports aioquic; and in it, only `internals` touches aioquic's private attributes.
"""

import logging

# aioquic reports what each peer does wrong. A program that configures logging gets that; one that does not is left in peace.
logging.getLogger("quic").addHandler(logging.NullHandler())
