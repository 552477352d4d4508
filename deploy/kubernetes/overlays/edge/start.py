"""Start tsq-server with a QUIC-LB server ID made from the node's address: its last three octets.

Comes in: NODE_ADDRESS and QUIC_LB_NUMBER from the environment, options on the command line. No two nodes may have addresses that
end in the same three octets.
"""

import ipaddress
import os
import sys

PROGRAM = "/usr/bin/tsq-server"


def options(environment: dict[str, str]) -> list[str]:
    """The options that this node's server has beside those of all."""
    address = ipaddress.ip_address(environment["NODE_ADDRESS"])
    number = environment.get("QUIC_LB_NUMBER", "0")
    return [f"--quic-lb={number}:{address.packed[-3:].hex()}", "--quic-lb-key=/etc/tsq/quic-lb/key"]


if __name__ == "__main__":
    os.execv(PROGRAM, [PROGRAM, *sys.argv[1:], *options(dict(os.environ))])
