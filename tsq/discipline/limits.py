"""Limits on what the machine may do to the clock: which offset is stepped, refused, or freezes the clock.

Comes in: offsets of updates, steps, moves by other programs. Goes out: a ruling. It must never let a limit end the program, nor
forget why the clock is frozen before an operator has looked.
"""

from dataclasses import dataclass, field
from enum import Enum, auto

from tsq.discipline.settings import ClockSettings

_SECOND = 1_000_000_000
# So many foreign steps are undone in this time; one more freezes the clock.
_MOST_UNDONE = 4
_UNDONE_WITHIN = 300 * _SECOND
# So many refusals of one action by the kernel in this time freeze the clock.
_MOST_FAILED = 3
_FAILED_WITHIN = 300 * _SECOND
# An offset that is being slewed already may look a little larger at the next update: a part of it, and seconds.
_LARGER, _LARGER_LEAST = 1.02, 2e-3


class Ruling(Enum):
    """What to do with an update."""

    SLEW = auto()
    STEP = auto()
    IGNORE = auto()
    FREEZE = auto()


@dataclass(slots=True)
class Limits:
    """What was done so far. updates: since the start, or since the clock had to be measured anew. frozen: why; empty: it is not.

    steps, accumulated: by the machine. trusting: whether the next first update may have any offset.
    """

    updates: int = 0
    steps: int = 0
    accumulated: float = 0.0
    frozen: str = ""
    trusting: bool = True
    _spent: float = 0.0
    _ignored: int = 0
    _allowance: float = 0.0
    _free: bool = True
    _before_step: tuple[int, float, float, float, bool] | None = None
    _undone: tuple[int, ...] = ()
    _failed: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def judge(self, offset: float, settings: ClockSettings, counts: bool) -> Ruling:
        """What to do with an update of this offset, seconds. counts: whether an offset that is ignored counts."""
        size = abs(offset)
        # What was accepted before, and is still being corrected, is not judged again.
        new = size > self._allowance * _LARGER + _LARGER_LEAST
        if new and (self.updates or not self.trusting) and size > settings.panic:
            self.frozen = f"an offset of {offset:+z.6f} s is over the panic limit of {settings.panic:g} s"
            return Ruling.FREEZE
        change = settings.maxchange
        if new and change is not None and self.updates >= change.start and size > change.offset:
            self._ignored += counts
            if change.ignore < 0 or self._ignored <= change.ignore:
                return Ruling.IGNORE
            self.frozen = f"an offset of {offset:+z.6f} s is over the largest change of {change.offset:g} s, {self._ignored} times"
            return Ruling.FREEZE
        rule = settings.makestep
        if rule is None or size <= rule.threshold or not (rule.updates < 0 or self.updates < rule.updates):
            return Ruling.SLEW
        if not self._free and self._spent + size > settings.step_budget:
            total = self._spent + size
            self.frozen = f"steps of {total:.6f} s in all would be over the limit of {settings.step_budget:g} s"
            return Ruling.FREEZE
        return Ruling.STEP

    def accepted(self, offset: float) -> None:
        """An update was used; its offset is corrected from now on."""
        self.updates += 1
        self._allowance = abs(offset)

    def stepped(self, offset: float, counts: bool = True) -> None:
        """The machine stepped the clock. Neither a first step counts for the limit of all steps, nor one that undoes."""
        self._before_step = self.steps, self.accumulated, self._spent, self._allowance, self._free
        if counts and not self._free:
            self._spent += abs(offset)
        self._free = self._free and not counts
        self.steps += 1
        self.accumulated += abs(offset)
        self._allowance = 0.0

    def not_stepped(self) -> None:
        """The kernel refused the last step: it does not count."""
        if self._before_step is not None:
            self.steps, self.accumulated, self._spent, self._allowance, self._free = self._before_step
            self._before_step = None

    def undoes(self, now_ns: int) -> bool:
        """Whether another program's step may be undone once more; if not, the clock is frozen."""
        recent = tuple(one for one in self._undone if now_ns - one < _UNDONE_WITHIN)
        self._undone = (*recent, now_ns)
        if len(self._undone) <= _MOST_UNDONE:
            return True
        self.frozen = f"another program steps this clock: {len(self._undone)} times in {_UNDONE_WITHIN // _SECOND} s"
        return False

    def failed(self, action: str, text: str, now_ns: int) -> None:
        """The kernel refused an action."""
        recent = tuple(one for one in self._failed.get(action, ()) if now_ns - one < _FAILED_WITHIN)
        self._failed[action] = (*recent, now_ns)[-_MOST_FAILED:]
        if len(self._failed[action]) >= _MOST_FAILED and not self.frozen:
            self.frozen = f"the kernel refuses {action}: {text}"

    def anew(self, trusting: bool) -> None:
        """The clock has to be measured anew: the next update is a first one."""
        self.updates, self._allowance, self.trusting = 0, 0.0, trusting
        self._free = self._free or trusting

    def unfreeze(self) -> None:
        """An operator has looked: the next update is a first one, and may have any offset."""
        self.frozen, self._undone, self._ignored, self._spent = "", (), 0, 0.0
        self._failed.clear()
        self.anew(trusting=True)
