"""What several sources say together, and which of them is not to be believed (RFC 5905 §11.2).

Comes in: one Source for each server, with its Estimate or without. Goes out: a Selection: the agreed offset with its bound, or why
there is none, and of every source how it was used or why not. It must never count a source twice, however many samples it has, and
never give a bound that could miss the truth while fewer than half of the sources it compares lie.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from tsq.errors import ConfigError
from tsq.timing.cluster import Candidate, cluster, combine
from tsq.timing.filter import Estimate
from tsq.timing.intersection import Interval, agreed, majority, with_bound
from tsq.timing.server_state import LEAP_ALARM, MAX_STRATUM

# RFC 5905 §11.2: MAXDIST, seconds. What is as vague as that helps nobody.
MAX_DISTANCE = 1.5


class Mark(StrEnum):
    """How a source was used, as chronyc marks it."""

    BEST = "*"
    COMBINED = "+"
    NOT_COMBINED = "-"
    FALSETICKER = "x"
    UNUSABLE = "?"


class Unused(StrEnum):
    """Why a source is not used."""

    NO_ESTIMATE = "gave no time"
    DUPLICATE = "is the same server as another one"
    UNSYNCHRONIZED = "says that its clock is not synchronized (stratum 0)"
    STATE_UNKNOWN = "did not answer the question whether its clock is synchronized"
    STRATUM = "has a stratum over 15"
    LEAP_ALARM = "says that its clock is not synchronized (leap indicator 3)"
    ERROR_BEYOND = "its own error is more than it can tell (65 ms and over)"
    DISTANCE = "root distance over the limit"
    SMEAR = "smears leap seconds unlike the majority"
    FALSETICKER = "its interval does not overlap what the majority agrees on"
    NO_MAJORITY = "no majority agrees on a time"
    TOO_FEW = "too few sources beside it"
    OUTLIER = "lies farther from the others than they scatter"


class NoTime(StrEnum):
    """Why there is no agreed offset."""

    NO_SOURCE = "no source can be used"
    TOO_FEW = "fewer sources can be used than are wanted"
    TWO_DISAGREE = "the two sources contradict each other"
    NO_MAJORITY = "no majority of the sources agrees on a time"
    SMEAR = "no majority of the sources treats leap seconds alike"


@dataclass(frozen=True, slots=True)
class Criteria:
    """What is wanted of sources. max_distance: seconds; min_sources: fewer that can be used give no time."""

    max_distance: float = MAX_DISTANCE
    min_sources: int = 1

    def __post_init__(self) -> None:
        if self.min_sources < 1:
            raise ConfigError(f"a minimum of {self.min_sources} sources", expected="1 or more")
        # Not the other way round: with NaN, any distance would do.
        if not self.max_distance > 0:
            raise ConfigError(f"a limit of {self.max_distance:g} s for the root distance", expected="a number of seconds above 0")


@dataclass(frozen=True, slots=True)
class Source:
    """One server. identity: what makes it the same server as another one (address and port); empty: unknown.

    state_unknown: it was asked about its own clock, and that question got no answer.
    """

    name: str
    estimate: Estimate | None = None
    identity: str = ""
    detail: str = ""
    state_unknown: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one source was used. interval: its correctness interval at the selection's time, None where there is no estimate."""

    source: Source
    mark: Mark
    unused: Unused | None = None
    detail: str = ""
    interval: Interval | None = None

    def to_dict(self) -> dict[str, Any]:
        """The verdict with the keys that it has in a host of `tsq-client --json` (docs/reference/cli.md)."""
        return {
            "mark": self.mark.value,
            "unused": None if self.unused is None else self.unused.name,
            "unused_because": None if self.unused is None else self.unused.value,
            "low": None if self.interval is None else self.interval.low,
            "high": None if self.interval is None else self.interval.high,
        }


@dataclass(frozen=True, slots=True)
class Agreed:
    """The offset that the sources agree on, and how far from it the truth may be, seconds.

    interval: where the truth is while fewer than half of the compared sources lie. compared: how many sources could be used;
    tolerated: how many of them may lie. stratum: the best that a majority of the compared sources reaches. leap: what a majority of
    them tells. server_errors_known: whether every source whose interval the bound rests on told its own error.
    """

    offset: float
    root_distance: float
    interval: Interval
    jitter: float
    compared: int
    survivors: int
    stratum: int | None = None
    leap: int | None = None
    smeared: bool | None = None
    server_errors_known: bool = False

    def __repr__(self) -> str:
        return f"<Agreed {with_bound(self.offset, self.root_distance)}, {self.survivors} of {self.compared} sources>"

    @property
    def tolerated(self) -> int:
        """How many of the compared sources may lie without harm."""
        return self.compared - majority(self.compared)


@dataclass(frozen=True, slots=True)
class Selection:
    """What all sources say together. verdicts: one for each source, in their order; at_ns: the local time that it all holds for;
    compared: how many sources could be used.

    One of agreed and problem is None.
    """

    verdicts: tuple[Verdict, ...]
    at_ns: int | None = None
    agreed: Agreed | None = None
    problem: NoTime | None = None
    compared: int = 0

    def __repr__(self) -> str:
        if self.agreed is None:
            return f"<Selection no time: {self.problem}>"
        found = self.agreed
        return f"<Selection {with_bound(found.offset, found.root_distance)}, {found.survivors} of {found.compared} sources>"

    def to_dict(self) -> dict[str, Any]:
        """The selection as `tsq-client --json` prints it (docs/reference/cli.md)."""
        found = self.agreed
        return {
            "offset": None if found is None else found.offset,
            "root_distance": None if found is None else found.root_distance,
            "low": None if found is None else found.interval.low,
            "high": None if found is None else found.interval.high,
            "jitter": None if found is None else found.jitter,
            "at_ns": None if all(verdict.interval is None for verdict in self.verdicts) else self.at_ns,
            "compared": self.compared,
            "survivors": 0 if found is None else found.survivors,
            "tolerated": 0 if found is None else found.tolerated,
            "server_errors_known": found is not None and found.server_errors_known,
            "stratum": None if found is None else found.stratum,
            "leap": None if found is None else found.leap,
            "smeared": None if found is None else found.smeared,
            "problem": None if self.problem is None else self.problem.name,
            "problem_because": None if self.problem is None else self.problem.value,
        }

    def marked(self, *marks: Mark) -> tuple[Verdict, ...]:
        """The sources that have one of these marks."""
        return tuple(verdict for verdict in self.verdicts if verdict.mark in marks)

    @property
    def survivors(self) -> tuple[Verdict, ...]:
        """The sources that the offset comes from."""
        return self.marked(Mark.BEST, Mark.COMBINED)

    @property
    def falsetickers(self) -> tuple[Verdict, ...]:
        """The sources that contradict the majority."""
        return self.marked(Mark.FALSETICKER)


def select(sources: Sequence[Source], at_ns: int | None = None, criteria: Criteria | None = None) -> Selection:
    """What these sources say together at a local time; None: that of the newest estimate."""
    criteria = criteria or Criteria()
    times = [source.estimate.at_ns for source in sources if source.estimate is not None]
    if not times:
        return Selection(tuple(_fit(sources, 0, criteria)), at_ns, problem=NoTime.NO_SOURCE)
    at_ns = max(times) if at_ns is None else at_ns
    fit = _fit(sources, at_ns, criteria)
    everybody = len(_usable(fit))
    verdicts, split = _alike(fit)
    usable = _usable(verdicts)
    if split or not usable:
        return Selection(tuple(verdicts), at_ns, problem=NoTime.SMEAR if split else NoTime.NO_SOURCE, compared=everybody)
    if len(usable) < criteria.min_sources:
        out = _all_out(verdicts, usable, Mark.UNUSABLE, Unused.TOO_FEW)
        return Selection(out, at_ns, problem=NoTime.TOO_FEW, compared=len(usable))
    # Those that treat leap seconds otherwise are no liars, but liars may be among the rest: all count for the majority.
    common = agreed([_interval(verdicts[number]) for number in usable], everybody)
    if common is None:
        problem = NoTime.TWO_DISAGREE if len(usable) == 2 else NoTime.NO_MAJORITY
        out = _all_out(verdicts, usable, Mark.FALSETICKER, Unused.NO_MAJORITY)
        return Selection(out, at_ns, problem=problem, compared=len(usable))
    return _settle(verdicts, usable, common, at_ns, majority(everybody))


def _fit(sources: Sequence[Source], at_ns: int, criteria: Criteria) -> list[Verdict]:
    """Every source with its interval, and why it cannot be used where it cannot."""
    verdicts = []
    seen: set[str] = set()
    for source in sources:
        found = source.estimate
        if found is None:
            verdicts.append(Verdict(source, Mark.UNUSABLE, Unused.NO_ESTIMATE, source.detail))
            continue
        interval = found.interval_at(at_ns)
        duplicate = source.identity and source.identity in seen
        unused = Unused.DUPLICATE if duplicate else _unfit(found, interval.reach(found.offset), criteria)
        if unused is None and source.state_unknown:
            unused = Unused.STATE_UNKNOWN
        seen.add(source.identity)
        verdicts.append(Verdict(source, Mark.UNUSABLE, unused, interval=interval))
    return verdicts


def _unfit(found: Estimate, distance: float, criteria: Criteria) -> Unused | None:
    """Why an estimate cannot be used by itself."""
    server = found.server
    if server is not None:
        # A client never follows a server that follows nobody (RFC 5905 §11.2).
        if server.stratum == 0:
            return Unused.UNSYNCHRONIZED
        if server.stratum is not None and server.stratum > MAX_STRATUM:
            return Unused.STRATUM
        if server.leap == LEAP_ALARM:
            return Unused.LEAP_ALARM
        if server.beyond:
            return Unused.ERROR_BEYOND
    return Unused.DISTANCE if distance > criteria.max_distance else None


def _alike(verdicts: list[Verdict]) -> tuple[list[Verdict], bool]:
    """Leave out those that treat leap seconds unlike the majority; (all, whether there is no such majority).

    A server that does not say counts as one that does not smear.
    """
    usable = _usable(verdicts)
    smearing = [number for number in usable if _smears(verdicts[number])]
    plain = [number for number in usable if number not in smearing]
    if not smearing or not plain:
        return verdicts, False
    larger = max(smearing, plain, key=len)
    out = [number for number in usable if number not in larger] if len(larger) >= majority(len(usable)) else usable
    return list(_all_out(verdicts, out, Mark.UNUSABLE, Unused.SMEAR)), out is usable


def _settle(verdicts: Sequence[Verdict], usable: Sequence[int], common: Interval, at_ns: int, needed: int) -> Selection:
    """The agreed offset, and how each of the sources that could be used took part. needed: how many are a majority of all."""
    true = [number for number in usable if _interval(verdicts[number]).overlaps(common)]
    survivors = cluster([_candidate(number, verdicts[number]) for number in true])
    marks = {one.number: Mark.COMBINED for one in survivors} | {survivors[0].number: Mark.BEST}
    final = list(verdicts)
    for number in usable:
        if number in marks:
            final[number] = replace(verdicts[number], mark=marks[number])
        elif number in true:
            final[number] = replace(verdicts[number], mark=Mark.NOT_COMBINED, unused=Unused.OUTLIER)
        else:
            final[number] = replace(verdicts[number], mark=Mark.FALSETICKER, unused=Unused.FALSETICKER)
    combined, jitter = combine(survivors)
    # What the survivors say on the average may lie outside what the majority vouches for.
    offset = common.clamp(combined)
    # Not the survivors alone: liars that lie tight inside the others' intervals may be most of them.
    compared = [_estimate(verdicts[number]) for number in usable]
    agreement = Agreed(
        offset,
        common.reach(offset),
        common,
        jitter,
        compared=len(usable),
        survivors=len(survivors),
        stratum=_stratum(compared, needed),
        leap=_told([None if one.server is None else one.server.leap for one in compared], needed),
        smeared=_smeared(compared),
        server_errors_known=all(_estimate(verdicts[number]).server_error_known for number in true),
    )
    return Selection(tuple(final), at_ns, agreement, compared=len(usable))


def _usable(verdicts: Sequence[Verdict]) -> list[int]:
    return [number for number, verdict in enumerate(verdicts) if verdict.unused is None]


def _all_out(verdicts: Sequence[Verdict], numbers: Sequence[int], mark: Mark, why: Unused) -> tuple[Verdict, ...]:
    out = set(numbers)
    return tuple(replace(verdict, mark=mark, unused=why) if number in out else verdict for number, verdict in enumerate(verdicts))


def _told(told: Sequence[int | None], needed: int) -> int | None:
    """What so many of the sources tell; None where there is nothing of that kind."""
    return next((one for one in told if one is not None and told.count(one) >= needed), None)


def _smeared(compared: Sequence[Estimate]) -> bool | None:
    """Whether they smear leap seconds; they are alike, but for those that do not say."""
    told = [one.server.smeared for one in compared if one.server is not None and one.server.smeared is not None]
    return told[0] if told else None


def _stratum(compared: Sequence[Estimate], needed: int) -> int | None:
    """The best stratum that a majority reaches: no better than what some source claims that does not lie."""
    told = [None if one.server is None else one.server.stratum for one in compared]
    return next((one for one in sorted(one for one in told if one is not None) if _reaching(told, one) >= needed), None)


def _reaching(told: Sequence[int | None], stratum: int) -> int:
    return sum(one is not None and one <= stratum for one in told)


def _candidate(number: int, verdict: Verdict) -> Candidate:
    found, interval = _estimate(verdict), _interval(verdict)
    stratum = None if found.server is None else found.server.stratum
    return Candidate(number, found.offset, interval.reach(found.offset), found.jitter, stratum)


def _smears(verdict: Verdict) -> bool:
    server = _estimate(verdict).server
    return server is not None and bool(server.smeared)


def _estimate(verdict: Verdict) -> Estimate:
    assert verdict.source.estimate is not None
    return verdict.source.estimate


def _interval(verdict: Verdict) -> Interval:
    assert verdict.interval is not None
    return verdict.interval
