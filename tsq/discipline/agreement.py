"""What the sources say together: the interval that a majority agrees on, the prediction inside of it, and each source's mark.

Comes in: the sources and what is known about the oscillator. Goes out: proposals for an update of the clock, and the truth's limits
at any reading. It must never propose anything before the sources that were asked had time to answer.
"""

from dataclasses import dataclass
from math import ceil, floor

from tsq.discipline import jumps
from tsq.discipline.actions import Level
from tsq.discipline.bound import RawInterval
from tsq.discipline.choice import Choice, choose
from tsq.discipline.context import Context
from tsq.discipline.fusion import Fused, Vote, fuse
from tsq.discipline.oscillator import Oscillator
from tsq.discipline.source import TrackedSource
from tsq.discipline.source_table import SourceTable
from tsq.timing.selection import Mark, Unused

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
        return jumps.hull(self._sources.voters, common.aged(now_ns, rate), rate)

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
        votes = []
        for place in choice.survivors:
            here = found[place]
            if here is not None:
                prediction = voters[place].predict(now_ns)
                votes.append(Vote(prediction, here[0].distance_from(here[0].clamp(prediction.difference_ns))))
        best = voters[choice.best] if choice.best is not None else None
        return Proposal(fuse(votes, common, oscillator.rate), common, best)

    def accept(self, proposal: Proposal) -> None:
        """The clock follows this from now on."""
        self.fused, self.best = proposal.fused, proposal.best
        self._oscillator.learn(proposal.fused, proposal.best, self._context.settings.tolerance)
        found = self.choice.agreed.stratum if self.choice is not None and self.choice.agreed is not None else None
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


def _why(source: TrackedSource) -> str:
    """Why a source has no vote."""
    if source.settings.no_select:
        return NO_SELECT
    if not source.online:
        return OFFLINE
    if source.server is not None and source.server.unusable:
        return Unused.UNSYNCHRONIZED.value
    return source.last_reason or Unused.NO_ESTIMATE.value
