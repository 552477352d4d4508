"""Whether a clock moves as its kernel says while the kernel's loop slews it. Without I/O.

Comes in: what was asked for, then readings of the clock and the kernel's state, look by look. Goes out: what is wrong. It must
never take what the kernel misses, where its machine is kept waiting, for another program's work.

    taken = offset - pending      moved = CLOCK_REALTIME against CLOCK_MONOTONIC_RAW, beyond the steady rate

The kernel takes 2^-(2 + time constant) of the rest at the beginning of each second, and moves the clock by that during the second.
If it does not run for some seconds (a virtual machine that its host does not run), it takes a part for each of them at once, while
the clock has gone on as in the first one.
"""

from tsq.host.clock_readings import ClockState, Displacement, TripleReading

# A movement of the clock that is no cause for suspicion, seconds: the least error of a slew, and the least step.
LEAST_ERROR = 50e-6
# How steadily a clock runs beside CLOCK_MONOTONIC_RAW while nothing is slewed, seconds a second.
STEADY = 5e-6
# The error of the kernel's slew, as a part of it: 1 to 2 % were seen. The remaining offset is measured and corrected afterwards.
_SLEW_ERROR = 0.05
_SAME_RATE = 1e-9
# A look that comes so much later than it was due, seconds: the kernel may have missed the end of a second.
_LATE = 0.55


class SlewCheck:
    """One slew. offset: the whole of it; constant: the loop's time constant now; left: pending at the last look; seconds."""

    def __init__(self, offset: float, constant: int, rate: float, start: TripleReading) -> None:
        """rate: how much faster than the raw clock the clock runs without the slew; start: before it."""
        self.offset = self.left = offset
        self.constant = constant
        self._rate = rate
        self._start = self._seen = start
        # What the kernel may have counted as slewed, or slewed too far, while it did not run.
        self._missed = 0.0

    def look(self, before: TripleReading, state: ClockState, after: TripleReading, paused: float) -> str:
        """What is wrong; empty where all is well. before, after: readings around that of the state; paused: seconds since the last
        look, as far as it was meant.
        """
        seconds = after.since(self._seen).seconds
        if seconds > paused + _LATE:
            self._missed += seconds * abs(self.left) / 2.0 ** (2 + self.constant)
        self._seen, self.left = after, state.pending
        return self._trouble(state, before.since(self._start), after.since(self._start))

    def _trouble(self, state: ClockState, earlier: Displacement, later: Displacement) -> str:
        turned, done = state.rate - self._rate, later.beyond(self._rate)
        taken, direction = self.offset - state.pending, 1 if self.offset >= 0 else -1
        inexact = LEAST_ERROR + _SLEW_ERROR * abs(taken) + later.width + STEADY * later.seconds + self._missed
        # What the kernel has taken at the beginning of this second.
        second = abs(state.pending) / (2.0 ** (2 + self.constant) - 1)
        if abs(later.stepped) > LEAST_ERROR + later.width:
            return f"another program stepped the clock by {later.stepped:+z.6f} s while it was slewed"
        if abs(turned) > _SAME_RATE:
            return f"another program changed the clock's frequency by {turned * 1e6:+z.3f} ppm while it was slewed"
        ahead, behind = direction * (earlier.beyond(self._rate) - taken), direction * (taken - done)
        if ahead > inexact or behind > inexact + second:
            return f"the clock moved by {done:+z.6f} s while it was slewed, where {taken:+z.6f} s were expected"
        return ""
