"""How much a server counts that says something about its own clock (docs/explanation/error-bounds.md, "What claims weigh").

Comes in: root distances, reported errors, a ServerState. Goes out: distances and parts for weights. A claim may lower the weight of
the server that makes it; it must never raise that weight above what the others' claims give it.

    weight w_i = part_i / (Λ_i + max(0, E* - E_i))      E*: the error that a majority claims at most, part_i: 1 or 1/2
"""

from collections.abc import Sequence

from tsq.timing.server_state import ServerState
from tsq.wire.tlv import ClockClass, SourceType

# A server in holdover, or whose clock was set by hand, reports an error that nothing measures any more.
_UNMEASURED_PART = 0.5


def common_error(errors: Sequence[float], needed: int) -> float:
    """E*: the least error that covers the claims of so many servers, a majority. At least one of these is no liar."""
    return sorted(errors)[min(needed, len(errors)) - 1]


def weighing_distance(root_distance: float, own_error: float, common: float) -> float:
    """The root distance for the weight: no server's own error counts as less than the common one."""
    return root_distance + max(0.0, common - own_error)


def part_of(state: ServerState | None) -> float:
    """The part of its weight that a server has left, by what it says of its clock."""
    if state is None:
        return 1.0
    unmeasured = state.clock_class == ClockClass.HOLDOVER or state.source_type == SourceType.MANUAL
    return _UNMEASURED_PART if unmeasured else 1.0


def counted_stratum(reported: int | None, common: int | None) -> int | None:
    """The stratum for the order of the servers: none is better than the one that a majority reaches."""
    return reported if reported is None or common is None else max(reported, common)
