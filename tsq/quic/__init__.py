"""UDP datagrams with timestamps <-> TSQ messages on QUIC connections. Never interprets a timestamp.

The only place that imports aioquic; and in it, only `internals`, `lean` and `offload` touch aioquic's private attributes.
"""

import logging
import warnings

from cryptography.utils import CryptographyDeprecationWarning

from tsq.quic.later import load_aioquic

load_aioquic()
# Odd numbers and long names in a server's certificate do not concern a user who asks for the time.
warnings.filterwarnings("ignore", "Parsed a serial number", CryptographyDeprecationWarning)
warnings.filterwarnings("ignore", "Attribute's length must be", UserWarning)
# aioquic reports what each peer does wrong. A program that configures logging gets that; one that does not is left in peace.
logging.getLogger("quic").addHandler(logging.NullHandler())
