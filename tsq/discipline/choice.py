"""The choice among the sources: the selection of `timing/selection.py`, with the options `prefer` and `trust` of chrony.

Comes in: sources as the selection takes them, and their options. Goes out: what is agreed, and each source's mark with its reason.
It must never let an option give an interval that the voters do not agree on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tsq.discipline.settings import SourceSettings
from tsq.timing.selection import Agreed, Criteria, Mark, NoTime, Selection, Source, Unused, Verdict, select

_TRUE = (Mark.BEST, Mark.COMBINED, Mark.NOT_COMBINED)
NOT_PREFERRED = "another source is preferred"


@dataclass(frozen=True, slots=True)
class Choice:
    """What the sources say together. marks: of each source, with the reason why it is not combined, in their order. best: the
    place of the best survivor. problem: why there is no agreement.
    """

    marks: tuple[tuple[Mark, str], ...]
    agreed: Agreed | None = None
    problem: NoTime | None = None
    best: int | None = None

    @property
    def survivors(self) -> tuple[int, ...]:
        """The places of the sources that are combined."""
        return tuple(place for place, (mark, _) in enumerate(self.marks) if mark in (Mark.BEST, Mark.COMBINED))


def choose(sources: Sequence[Source], settings: Sequence[SourceSettings], at_ns: int, criteria: Criteria) -> Choice:
    """The choice at a local time."""
    found = select(sources, at_ns, criteria)
    trusted = [place for place, one in enumerate(settings) if one.trust and _fit(found.verdicts[place])]
    if trusted and len(trusted) < len(sources):
        found = _by_trusted(sources, trusted, found, at_ns, criteria)
    verdicts = found.verdicts
    if found.agreed is None:
        return Choice(tuple(map(_mark, verdicts)), None, found.problem)
    preferred = [place for place, one in enumerate(verdicts) if settings[place].prefer and one.mark in _TRUE]
    if preferred:
        best = min(preferred, key=lambda place: (verdicts[place].mark is not Mark.BEST, verdicts[place].mark is not Mark.COMBINED))
        marks = tuple(_preferred(one, place in preferred, place == best) for place, one in enumerate(verdicts))
    else:
        marks = tuple(map(_mark, verdicts))
        best = next(place for place, one in enumerate(verdicts) if one.mark is Mark.BEST)
    return Choice(marks, found.agreed, None, best)


def _by_trusted(
    sources: Sequence[Source], trusted: Sequence[int], everybody: Selection, at_ns: int, criteria: Criteria
) -> Selection:
    """The trusted sources vote alone; the others are right where they overlap what these agree on."""
    few = select([sources[place] for place in trusted], at_ns, Criteria(criteria.max_distance))
    verdicts = list(everybody.verdicts)
    for place, verdict in zip(trusted, few.verdicts, strict=True):
        verdicts[place] = verdict
    others = [place for place, one in enumerate(verdicts) if place not in trusted and _fit(one)]
    right = 0
    for place in others:
        interval = verdicts[place].interval
        overlaps = few.agreed is not None and interval is not None and interval.overlaps(few.agreed.interval)
        right += overlaps
        mark, why = (Mark.COMBINED, None) if overlaps else (Mark.FALSETICKER, Unused.FALSETICKER)
        if few.agreed is None:
            mark, why = Mark.UNUSABLE, Unused.NO_MAJORITY
        verdicts[place] = replace(verdicts[place], mark=mark, unused=why)
    if few.agreed is not None and len(trusted) + right < criteria.min_sources:
        out = [replace(one, mark=Mark.UNUSABLE, unused=Unused.TOO_FEW) if one.mark in _TRUE else one for one in verdicts]
        return replace(everybody, verdicts=tuple(out), agreed=None, problem=NoTime.TOO_FEW)
    return replace(everybody, verdicts=tuple(verdicts), agreed=few.agreed, problem=few.problem)


def _fit(verdict: Verdict) -> bool:
    """Whether the source could vote, whatever the others say."""
    return verdict.unused in (None, Unused.FALSETICKER, Unused.NO_MAJORITY, Unused.TOO_FEW, Unused.OUTLIER, Unused.SMEAR) and (
        verdict.interval is not None
    )


def _mark(verdict: Verdict) -> tuple[Mark, str]:
    return verdict.mark, "" if verdict.unused is None else verdict.unused.value


def _preferred(verdict: Verdict, preferred: bool, best: bool) -> tuple[Mark, str]:
    if preferred:
        return (Mark.BEST if best else Mark.COMBINED), ""
    if verdict.mark in (Mark.BEST, Mark.COMBINED):
        return Mark.NOT_COMBINED, NOT_PREFERRED
    return _mark(verdict)
