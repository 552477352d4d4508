"""What proven order says about servers' clocks: constraints on their offsets, and the smallest contradiction among them.

Comes in: for each server, when it signed and received, in the proven order; how far off each server's clock may be. Goes out:
limits on the offset of one clock to another, contradictions as short cycles of limits, and the one server without which there is
none. It must never accuse a server that right clocks everywhere and delays of any length could explain.

If A's answer was sent before B received its request, then (T2 of B) - (offset of B) is later than (T3 of A) - (offset of A), so
(offset of B) - (offset of A) <= (T2 of B) - (T3 of A). Delays make that limit larger, never smaller. A cycle of limits whose sum is
below zero contradicts itself (Bellman, Ford).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# In place of a server: true time, whose offset is 0.
TRUTH = ""


@dataclass(frozen=True, slots=True)
class Event:
    """One exchange: the server received at T2 and signed at T3, by its own clock (Unix ns). line: of the record."""

    server: str
    t2_ns: int
    t3_ns: int
    line: int


@dataclass(frozen=True, slots=True)
class Limit:
    """The clock of `later` is ahead of that of `earlier` by at most so much. first, second: the records that prove it; None: what a
    server claims about its own clock.
    """

    earlier: str
    later: str
    at_most_ns: int
    first: Event | None = None
    second: Event | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """limits: the lowest proven one for each pair. contradiction: the shortest cycle that contradicts itself; empty: there is none.
    accused: the one server without which there is no contradiction; None where there is none, or where it is not one alone.
    """

    limits: tuple[Limit, ...]
    contradiction: tuple[Limit, ...]
    accused: str | None


def examine(chains: Iterable[Sequence[Event]], errors_ns: Mapping[str, int]) -> Findings:
    """Findings about these chains, each in its proven order. errors_ns: how far each server's clock may be from true time."""
    proven = _proven(chains)
    claimed = [limit for server, error in errors_ns.items() for limit in (
        Limit(TRUTH, server, error), Limit(server, TRUTH, error)
    )]  # fmt: skip
    everything = [*proven.values(), *claimed]
    contradiction = _shortest_contradiction(everything)
    accused = _accused(everything, list(errors_ns)) if contradiction else None
    return Findings(tuple(proven.values()), tuple(contradiction), accused)


def _proven(chains: Iterable[Sequence[Event]]) -> dict[tuple[str, str], Limit]:
    """The lowest limit for each pair of servers, also for a server and itself."""
    lowest: dict[tuple[str, str], Limit] = {}
    for chain in chains:
        # Of each server, the answer with the latest time so far: it gives the lowest limit.
        latest: dict[str, Event] = {}
        for event in chain:
            for server, before in latest.items():
                limit = Limit(server, event.server, event.t2_ns - before.t3_ns, before, event)
                known = lowest.get((server, event.server))
                if known is None or limit.at_most_ns < known.at_most_ns:
                    lowest[server, event.server] = limit
            if event.server not in latest or event.t3_ns > latest[event.server].t3_ns:
                latest[event.server] = event
    return lowest


def _accused(limits: list[Limit], servers: list[str]) -> str | None:
    """The one server without which the others agree."""
    alone = [
        server
        for server in servers
        if not _shortest_contradiction([limit for limit in limits if server not in (limit.earlier, limit.later)])
    ]
    return alone[0] if len(alone) == 1 else None


def _shortest_contradiction(limits: list[Limit]) -> list[Limit]:
    """A cycle of as few limits as possible whose sum is below zero; empty where there is none."""
    nodes = list(dict.fromkeys(node for limit in limits for node in (limit.earlier, limit.later)))
    # paths[a][b]: the lowest sum from a to b with exactly so many limits, and the limits.
    paths: dict[tuple[str, str], tuple[int, tuple[Limit, ...]]] = {}
    for limit in limits:
        key = limit.earlier, limit.later
        if key not in paths or limit.at_most_ns < paths[key][0]:
            paths[key] = limit.at_most_ns, (limit,)
    edges = dict(paths)
    for _ in nodes:
        for node in nodes:
            total, cycle = paths.get((node, node), (0, ()))
            if total < 0:
                return list(cycle)
        longer: dict[tuple[str, str], tuple[int, tuple[Limit, ...]]] = {}
        for (start, middle), (total, way) in paths.items():
            for end in nodes:
                edge = edges.get((middle, end))
                if edge is None or middle == end:
                    continue
                sum_ns = total + edge[0]
                if (start, end) not in longer or sum_ns < longer[start, end][0]:
                    longer[start, end] = sum_ns, (*way, *edge[1])
        paths = longer
    return []
