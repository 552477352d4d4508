"""What the sources say together: the interval that a majority agrees on, the prediction inside of it, and each source's mark.

Comes in: the sources and what is known about the oscillator. Goes out: proposals for an update of the clock, and the truth's limits
at any reading. It must never propose anything before the sources that were asked had time to answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

from tsq.discipline import jumps
from tsq.discipline.actions import Level
from tsq.discipline.bound import Rate, RawInterval
from tsq.discipline.choice import Choice, choose
from tsq.discipline.context import Context
from tsq.discipline.fusion import Fused, Vote, fuse
from tsq.discipline.oscillator import Oscillator
from tsq.discipline.source import TrackedSource
from tsq.discipline.source_table import SourceTable
from tsq.timing.intersection import majority
from tsq.timing.selection import Mark, Unused
from tsq.timing.weight import common_error, part_of, weighing_distance

_SECOND = 1_000_000_000
# The first update waits so long for a majority of the sources, and for the others: those that answer first may be wrong.
_WAIT_FOR_MAJORITY = 10 * _SECOND
_WAIT = 4 * _SECOND
_UNKNOWN_STRATUM, _LAST_STRATUM = 14, 15

NO_SELECT = "measured only (noselect)"
OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the clock may be updated by: a prediction, and where true time is."""

    fused: Fused
    interval: RawInterval
    best: TrackedSource | None


class Agreement:
    """fused: what the clock follows; None: nothing is known. interval: where the majority says that true time is. coasting: no
    source is usable at present.
    """

    def __init__(self, context: Context, sources: SourceTable, oscillator: Oscillator) -> None:
        self._context, self._sources, self._oscillator = context, sources, oscillator
        self.fused: Fused | None = None
        self.interval: RawInterval | None = None
        self.choice: Choice | None = None
        self.best: TrackedSource | None = None
        self.stratum = 0
        self.smeared: bool | None = None
        self.coasting = True
        self.selected_ns = 0
        # Whether there was an agreement already, of too few.
        self._held_back = False
        # When the first sample was taken, since the start or since everything is measured anew; older ones are not used then.
        self.first_ns: int | None = None
        self.anew_ns: int | None = None

    @property
    def waits(self) -> bool:
        """Whether there is a sample, and others are waited for."""
        return self.fused is None and self.first_ns is not None

    def has_waited(self, now_ns: int) -> bool:
        """Whether the time for other sources is over just now."""
        return self._held_back and self._is_ready(now_ns)

    def measure_anew(self) -> None:
        """Nothing is known but the frequency."""
        self.anew_ns = self._context.now.raw_ns
        self.fused = self.interval = self.choice = self.best = self.first_ns = None

    def shift(self, seconds: int) -> None:
        """True time was set by a leap second."""
        if self.fused is not None:
            self.fused = self.fused.shifted(seconds)
        if self.interval is not None:
            self.interval = self.interval.shifted(seconds * _SECOND)

    def age(self, now_ns: int) -> float:
        """Seconds since the first sample."""
        return 0.0 if self.first_ns is None else (now_ns - self.first_ns) / 1e9

    def limits_of_truth(self) -> RawInterval | None:
        """Where true time minus the raw clock can be now."""
        common, now_ns, rate = self.interval, self._context.now.raw_ns, self._oscillator.rate
        if self.fused is None or common is None:
            return None
        aged = common.aged(now_ns, rate)
        return jumps.hull(self._sources.voters, aged, rate) if jumps.changed(self._sources) else aged

    def ask(self, begun: bool) -> Proposal | None:
        """Ask the sources. begun: whether the clock was updated before."""
        reading, oscillator = self._context.now, self._oscillator
        self.selected_ns = now_ns = reading.raw_ns
        voters = self._sources.voters
        found = [one.history.at(now_ns, oscillator.rate_of(one)) for one in voters]
        choice = choose(
            [one.as_source(reading, interval) for one, interval in zip(voters, found, strict=True)],
            [one.settings for one in voters],
            reading.real_ns,
            self._context.settings.criteria,
        )
        ready = begun or self._is_ready(now_ns)
        self._mark(voters, choice, ready)
        self.choice = choice
        self.coasting = choice.agreed is None
        self._held_back = choice.agreed is not None and not ready
        if choice.agreed is None or not ready:
            return None
        oscillator.agree(voters, found, self._context.settings.tolerance)
        interval = choice.agreed.interval
        base = reading.difference_ns
        common = RawInterval(now_ns, base + floor(interval.low * 1e9), base + ceil(interval.high * 1e9))
        votes = _votes(voters, found, choice, now_ns)
        best = voters[choice.best] if choice.best is not None else None
        return Proposal(fuse(votes, common, oscillator.rate), common, best)

    def accept(self, proposal: Proposal) -> None:
        """The clock follows this from now on."""
        self.fused, self.best = proposal.fused, proposal.best
        self._oscillator.learn(proposal.fused, proposal.best, self._context.settings.tolerance)
        agreed = None if self.choice is None else self.choice.agreed
        found, self.smeared = (None, None) if agreed is None else (agreed.stratum, agreed.smeared)
        if found is None and self.best is not None:
            found = self.best.stratum
        self.stratum = min(_LAST_STRATUM, (_UNKNOWN_STRATUM if found is None else found) + 1)

    def _is_ready(self, now_ns: int) -> bool:
        """The first update waits for a majority, and until all have said something: the first one to answer may be wrong."""
        if self.fused is not None:
            return True
        waited_ns = 0 if self.first_ns is None else now_ns - self.first_ns
        if not self._sources.majority_measured:
            return waited_ns >= _WAIT_FOR_MAJORITY
        return not self._sources.waited_for or waited_ns >= _WAIT

    def _mark(self, voters: list[TrackedSource], choice: Choice, ready: bool) -> None:
        """Each source's mark, and a line for each that changed for good or ill."""
        log = self._context.log
        marks = {one.name: mark for one, mark in zip(voters, choice.marks, strict=True)}
        for source in self._sources:
            mark, why = marks.get(source.name, (Mark.UNUSABLE, _why(source)))
            source.mark, source.unused = mark.value, why
            is_false = mark is Mark.FALSETICKER and choice.agreed is not None
            if not ready or is_false == source.is_false or (source.is_false and choice.agreed is None):
                continue
            source.is_false = is_false
            if is_false:
                log(Level.WARNING, f"false {source.name}", f"{source.name} is not used: {why}")
            else:
                log(Level.INFO, f"false {source.name}", f"{source.name} is not a falseticker any more")
        before = None if self.choice is None else self.choice.problem
        if ready and choice.problem is not None and voters and choice.problem is not before:
            log(Level.WARNING, "no majority", f"the sources give no time: {choice.problem.value}")


def _votes(
    voters: Sequence[TrackedSource], found: Sequence[tuple[RawInterval, Rate] | None], choice: Choice, now_ns: int
) -> list[Vote]:
    """What the survivors say, each with the weight that its claims leave it; those of a trusted source are taken as they are."""
    compared = [one.own_error for one, (mark, _) in zip(voters, choice.marks, strict=True) if mark is not Mark.UNUSABLE]
    common = common_error(compared, majority(len(compared)))
    votes = []
    for place in choice.survivors:
        one, here = voters[place], found[place]
        if here is None:
            continue
        prediction = one.predict(now_ns)
        distance, part = here[0].distance_from(here[0].clamp(prediction.difference_ns)), 1.0
        if not one.settings.trust:
            distance, part = weighing_distance(distance, min(one.own_error, distance), common), part_of(one.server)
        votes.append(Vote(prediction, distance, part))
    return votes


def _why(source: TrackedSource) -> str:
    """Why a source has no vote."""
    if source.settings.no_select:
        return NO_SELECT
    if not source.online:
        return OFFLINE
    if source.server is not None and source.server.unusable:
        return Unused.UNSYNCHRONIZED.value
    return source.last_reason or Unused.NO_ESTIMATE.value
