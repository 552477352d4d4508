"""The control plane: UDP datagrams with timestamps <-> TSQ messages on QUIC connections. Never interprets a timestamp.

From the top, each using only what comes after it: `selfsigned`, `router`, `server_connection`, `client_connection`,
`connection`, `outcome`, `tls`, `aioquic`, `udp`, `tickets`, `initial`, `resets`, `frames`, `reassembly`, `budget`, `limits`,
`certificates`.
"""

import logging
import warnings

from cryptography.utils import CryptographyDeprecationWarning

# Odd numbers and long names in a server's certificate do not concern a user who asks for the time.
warnings.filterwarnings("ignore", "Parsed a serial number", CryptographyDeprecationWarning)
warnings.filterwarnings("ignore", "Attribute's length must be", UserWarning)
# aioquic reports what each peer does wrong. A program that configures logging gets that; one that does not is left in peace.
logging.getLogger("quic").addHandler(logging.NullHandler())
