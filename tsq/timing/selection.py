"""The selection: estimates of several sources -> one agreed offset, or the reason why there is none (RFC 5905 §11.2).

Comes in: one Source for each server, with its Estimate if it has one. Goes out: a Selection with a Verdict on each source. Must
never count a source twice, however many samples it has, and never give a bound that excludes the true offset while fewer than half
of the compared sources are falsetickers.
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
from tsq.timing.weight import common_error, counted_stratum, part_of, weighing_distance

# RFC 5905 §11.2.1: MAXDIST, the distance threshold, seconds.
MAX_DISTANCE = 1.5


class Mark(StrEnum):
    """How a source was used, with the marks of `chronyc sources`."""

    BEST = "*"
    COMBINED = "+"
    NOT_COMBINED = "-"
    FALSETICKER = "x"
    UNUSABLE = "?"


class Unused(StrEnum):
    """Why a source was not used."""

    NO_ESTIMATE = "gave no time"
    DUPLICATE = "is the same server as another one"
    UNSYNCHRONIZED = "says that its clock is not synchronized (stratum 0)"
    STATE_UNKNOWN = "did not report whether its clock is synchronized"
    STRATUM = "has a stratum over 15"
    LEAP_ALARM = "says that its clock is not synchronized (leap indicator 3)"
    ERROR_BEYOND = "its own error is more than it can report (65 ms or more)"
    DISTANCE = "root distance over the limit"
    SMEAR = "smears leap seconds unlike the majority"
    FALSETICKER = "its interval does not overlap what the majority agrees on"
    NO_MAJORITY = "no majority agrees on a time"
    TOO_FEW = "too few usable sources"
    OUTLIER = "farther from the others than their jitter explains"


class NoTime(StrEnum):
    """Why there is no agreed offset."""

    NO_SOURCE = "no source can be used"
    TOO_FEW = "fewer usable sources than required"
    TWO_DISAGREE = "the two sources contradict each other"
    NO_MAJORITY = "no majority of the sources agrees on a time"
    SMEAR = "no majority of the sources treats leap seconds alike"


@dataclass(frozen=True, slots=True)
class Criteria:
    """Requirements on the sources. max_distance: the largest root distance, seconds. min_sources: the least number of them."""

    max_distance: float = MAX_DISTANCE
    min_sources: int = 1

    def __post_init__(self) -> None:
        if self.min_sources < 1:
            raise ConfigError(f"a minimum of {self.min_sources} sources", expected="1 or more")
        # Not `<= 0`: that is false for NaN, which would then allow any distance.
        if not self.max_distance > 0:
            raise ConfigError(f"a limit of {self.max_distance:g} s for the root distance", expected="a number of seconds above 0")


@dataclass(frozen=True, slots=True)
class Source:
    """One server. identity: address and port, equal for the same server under two names; empty: unknown.

    state_unknown: the client asked for the state of the server's clock, and got no report.
    """

    name: str
    estimate: Estimate | None = None
    identity: str = ""
    detail: str = ""
    state_unknown: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one source was used. interval: its correctness interval at the selection's time; None without an estimate."""

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
    """The offset that the sources agree on, with its bound, seconds.

    interval: contains the true offset while fewer than half of the compared sources are falsetickers. compared: the number of
    usable sources. stratum: the best one that a majority of them reaches. leap: the leap indicator that a majority reports.
    server_errors_known: whether all sources behind the bound reported their own error.
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
        """How many of the compared sources may be falsetickers while the bound still holds."""
        return self.compared - majority(self.compared)


@dataclass(frozen=True, slots=True)
class Selection:
    """The result for all sources. verdicts: one for each source, in their order. at_ns: the local time that all of it holds for.
    compared: the number of usable sources.

    Exactly one of agreed and problem is None.
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
        """The verdicts with one of these marks."""
        return tuple(verdict for verdict in self.verdicts if verdict.mark in marks)

    @property
    def survivors(self) -> tuple[Verdict, ...]:
        """The sources whose offsets were combined."""
        return self.marked(Mark.BEST, Mark.COMBINED)

    @property
    def falsetickers(self) -> tuple[Verdict, ...]:
        """The sources whose intervals contradict the majority."""
        return self.marked(Mark.FALSETICKER)


def select(sources: Sequence[Source], at_ns: int | None = None, criteria: Criteria | None = None) -> Selection:
    """The selection among these sources at a local time; None: that of the newest estimate."""
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
    # Sources left out for leap smearing are no falsetickers, but still count for the majority: the others may hide falsetickers.
    common = agreed([_interval(verdicts[number]) for number in usable], everybody)
    if common is None:
        problem = NoTime.TWO_DISAGREE if len(usable) == 2 else NoTime.NO_MAJORITY
        out = _all_out(verdicts, usable, Mark.FALSETICKER, Unused.NO_MAJORITY)
        return Selection(out, at_ns, problem=problem, compared=len(usable))
    return _settle(verdicts, usable, common, at_ns, majority(everybody))


def _fit(sources: Sequence[Source], at_ns: int, criteria: Criteria) -> list[Verdict]:
    """A verdict on each source by itself: its interval, and the reason why it cannot be used, if any."""
    verdicts = []
    seen: set[str] = set()
    for source in sources:
        found = source.estimate
        if found is None:
            verdicts.append(Verdict(source, Mark.UNUSABLE, Unused.NO_ESTIMATE, source.detail))
            continue
        interval = found.interval_at(at_ns)
        duplicate = source.identity and source.identity in seen
        unused = Unused.DUPLICATE if duplicate else _unfit(found, interval.distance_from(found.offset), criteria)
        if unused is None and source.state_unknown:
            unused = Unused.STATE_UNKNOWN
        seen.add(source.identity)
        verdicts.append(Verdict(source, Mark.UNUSABLE, unused, interval=interval))
    return verdicts


def _unfit(found: Estimate, distance: float, criteria: Criteria) -> Unused | None:
    """Why this estimate cannot be used, whatever the others are."""
    server = found.server
    if server is not None:
        # RFC 5905 §11.2: an unsynchronized server is not acceptable.
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
    """(verdicts, whether there is no majority): mark sources as unusable that smear leap seconds unlike the majority.

    A server that reports nothing about smearing counts as one that does not smear.
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
    """The agreed offset, and the final verdict on each usable source. needed: the majority of all sources."""
    true = [number for number in usable if _interval(verdicts[number]).overlaps(common)]
    # Not the survivors alone: falsetickers close together inside the others' intervals may be most of them.
    compared = [_estimate(verdicts[number]) for number in usable]
    stratum, error = _stratum(compared, needed), common_error([one.server_error for one in compared], needed)
    survivors = cluster([_candidate(number, verdicts[number], stratum, error) for number in true])
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
    # The survivors' mean may lie outside of the agreed interval.
    offset = common.clamp(combined)
    agreement = Agreed(
        offset,
        common.distance_from(offset),
        common,
        jitter,
        compared=len(usable),
        survivors=len(survivors),
        stratum=stratum,
        leap=_majority_value([None if one.server is None else one.server.leap for one in compared], needed),
        smeared=_smeared(compared),
        server_errors_known=all(_estimate(verdicts[number]).server_error_known for number in true),
    )
    return Selection(tuple(final), at_ns, agreement, compared=len(usable))


def _usable(verdicts: Sequence[Verdict]) -> list[int]:
    return [number for number, verdict in enumerate(verdicts) if verdict.unused is None]


def _all_out(verdicts: Sequence[Verdict], numbers: Sequence[int], mark: Mark, why: Unused) -> tuple[Verdict, ...]:
    out = set(numbers)
    return tuple(replace(verdict, mark=mark, unused=why) if number in out else verdict for number, verdict in enumerate(verdicts))


def _majority_value(reported: Sequence[int | None], needed: int) -> int | None:
    """The value that the needed number of sources report; None where there is none."""
    return next((one for one in reported if one is not None and reported.count(one) >= needed), None)


def _smeared(compared: Sequence[Estimate]) -> bool | None:
    """Whether the compared sources smear leap seconds: all that report it report the same. None: no source reports it."""
    reported = [one.server.smeared for one in compared if one.server is not None and one.server.smeared is not None]
    return reported[0] if reported else None


def _stratum(compared: Sequence[Estimate], needed: int) -> int | None:
    """The best stratum that a majority reaches: a majority contains a truechimer, so it is no better than that one's report."""
    strata = sorted(one.server.stratum for one in compared if one.server is not None and one.server.stratum is not None)
    return strata[needed - 1] if len(strata) >= needed else None


def _candidate(number: int, verdict: Verdict, common_stratum: int | None, error: float) -> Candidate:
    found, interval = _estimate(verdict), _interval(verdict)
    distance = weighing_distance(interval.distance_from(found.offset), found.server_error, error)
    stratum = counted_stratum(None if found.server is None else found.server.stratum, common_stratum)
    return Candidate(number, found.offset, distance, found.jitter, stratum, part_of(found.server))


def _smears(verdict: Verdict) -> bool:
    server = _estimate(verdict).server
    return server is not None and bool(server.smeared)


def _estimate(verdict: Verdict) -> Estimate:
    assert verdict.source.estimate is not None
    return verdict.source.estimate


def _interval(verdict: Verdict) -> Interval:
    assert verdict.interval is not None
    return verdict.interval
