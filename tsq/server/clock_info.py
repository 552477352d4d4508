"""What a server tells about its clock, in the protocol's words (docs/reference/protocol.md R13).

Comes in: the host's SyncState. Goes out: the TLVs that answer a Metadata Query, and the metadata pairs for whoever asks for them.
It must never ask the host anything, and never round an error down.
"""

from collections.abc import Mapping
from math import ceil

from tsq.host.keepers.sync_state import SyncState
from tsq.wire.message import ClockQuality, TimeSource, Tlv
from tsq.wire.tlv import LEAP, ROOT_DELAY, ROOT_DISPERSION

_MOST_DESCRIPTION = 64


def about(state: SyncState) -> tuple[tuple[Tlv, ...], Mapping[str, str]]:
    """(TLVs, metadata pairs): the answer to a Metadata Query. An error of 0 would say that nothing is known: 1 µs is the least."""
    description = " ".join(text for text in (state.keeper, state.reference) if text)[:_MOST_DESCRIPTION]
    quality = ClockQuality(state.clock_class, max(1, ceil(state.error * 1e6)), ceil(state.drift_ppm * 1e3))
    source = TimeSource(state.stratum, state.source, description)
    pairs = {
        LEAP: str(state.leap),
        ROOT_DELAY: str(ceil(state.root_delay * 1e9)),
        ROOT_DISPERSION: str(max(1, ceil(state.root_dispersion * 1e9))),
    }
    return (quality.tlv(), source.tlv()), pairs
