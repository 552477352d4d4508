"""The private names of aioquic that the hand-over to the data plane needs, and whether the installed aioquic has them.

Goes out: the names that are missing, with which the data plane is off. They are all that `offload`, `shared_connection` and
`transfer` touch: a test compares PRIVATE_NAMES with their source. It must never work around a missing one.
"""

from functools import cache
from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.recovery import QuicPacketSpace

PRIVATE_NAMES = {
    "connection": (
        "_close_at",
        "_close_pending",
        "_cryptos",
        "_handle_ack_frame",
        "_handshake_confirmed",
        "_host_cids",
        "_idle_timeout",
        "_initialize",
        "_local_initial_source_connection_id",
        "_loss",
        "_network_paths",
        "_packet_number",
        "_peer_cid",
        "_remote_ack_delay_exponent",
        "_replenish_connection_ids",
        "_spaces",
        "_spin_bit",
        "_spin_highest_pn",
        "_state",
        "_version",
        "_write_handshake_done_frame",
    ),
    "recovery": (
        "_cc",
        "_rtt_initial",
        "_rtt_initialized",
        "_rtt_latest",
        "_rtt_min",
        "_rtt_smoothed",
        "_rtt_variance",
    ),
    "congestion": ("_congestion_recovery_start_time",),
    "window": ("_lower", "_received"),
    "keys": ("_update_key_requested",),
}


def missing_names() -> list[str]:
    """The names in PRIVATE_NAMES that the installed aioquic lacks."""
    connection: Any = QuicConnection(configuration=QuicConfiguration())
    owners = {
        "connection": connection,
        "recovery": getattr(connection, "_loss", None),
        "congestion": getattr(getattr(connection, "_loss", None), "_cc", None),
        "window": QuicPacketSpace().received_packets,
        "keys": CryptoPair(),
    }
    return [f"{owner}.{name}" for owner, names in PRIVATE_NAMES.items() for name in names if not hasattr(owners[owner], name)]


@cache
def offload_is_possible() -> bool:
    """Whether the installed aioquic has all names that the data plane needs."""
    return not missing_names()
