"""Clock info: what a server reports of its clock (docs/reference/protocol.md R13).

Comes in: the host's SyncState. Goes out: the TLVs that answer a Metadata Query, and the metadata pairs for requests that ask for
them. It must never query the host, and never round an error down.
"""

from math import ceil

from tsq.host.keepers.sync_state import SyncState
from tsq.server.responder import ClockInfo
from tsq.wire.message import ClockQuality, TimeSource
from tsq.wire.tlv import LEAP, ROOT_DELAY, ROOT_DISPERSION, SMEAR

_MOST_DESCRIPTION = 64


def clock_info(state: SyncState) -> ClockInfo:
    """The answer to a Metadata Query. The least error is 1 µs: 0 would mean that the error is unknown."""
    description = " ".join(text for text in (state.keeper, state.reference) if text)[:_MOST_DESCRIPTION]
    quality = ClockQuality(state.clock_class, max(1, ceil(state.error * 1e6)), ceil(state.drift_ppm * 1e3))
    source = TimeSource(state.stratum, state.source, description)
    pairs = {
        LEAP: str(state.leap),
        ROOT_DELAY: str(ceil(state.root_delay * 1e9)),
        ROOT_DISPERSION: str(max(1, ceil(state.root_dispersion * 1e9))),
    }
    if state.smeared is not None:
        pairs[SMEAR] = str(int(state.smeared))
    return (quality.tlv(), source.tlv()), pairs
