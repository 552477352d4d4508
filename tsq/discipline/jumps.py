"""Jumps of the raw clock that nothing but the sources shows: a virtual machine that was paused, or moved to another host.

Comes in: the sources, of which one contradicts what it said before. Goes out: whether the raw clock jumped, may have jumped, and by
how much. It must never believe a minority.
"""

from collections.abc import Iterable

from tsq.discipline.bound import Rate, RawInterval
from tsq.discipline.source import TrackedSource
from tsq.timing.intersection import Interval, agreed, majority


def changed(sources: Iterable[TrackedSource]) -> list[TrackedSource]:
    """Those that contradict what they said before."""
    return [one for one in sources if one.contradictions]


def has_jumped(voters: list[TrackedSource], now_ns: int, rate: Rate) -> bool:
    """Whether a majority of the sources says that the raw clock stood still or jumped, and agrees by how much."""
    # A single source must say so twice.
    wanted = 1 if len(voters) > 1 else 2
    saying = [one for one in voters if one.contradictions >= wanted]
    if len(saying) < majority(len(voters)):
        return False
    found = [one.last_interval.aged(now_ns, rate) for one in saying]
    base = found[0].low_ns
    intervals = [Interval.of_ns(one.low_ns - base, one.high_ns - base) for one in found]
    return agreed(intervals, len(voters)) is not None


def may_have_jumped(voters: list[TrackedSource], source: TrackedSource) -> bool:
    """Whether a source that contradicts itself may be right, and the raw clock wrong: too few others have answered since."""
    if source.was_false or source not in voters:
        return False
    others = [one for one in voters if not one.contradictions and one.last_interval.at_ns > source.contradicted_ns]
    return len(others) < majority(len(voters))


def hull(voters: list[TrackedSource], common: RawInterval, rate: Rate) -> RawInterval:
    """The agreed interval, with all that is possible if the raw clock has jumped."""
    for source in changed(voters):
        if may_have_jumped(voters, source):
            common = common.hull(source.last_interval.aged(common.at_ns, rate))
    return common


def size(saying: list[TrackedSource]) -> float:
    """How far true time is from what was expected, in the middle of those that contradict themselves, seconds."""
    return sorted(one.jumped_ns for one in saying)[len(saying) // 2] / 1e9
