"""The raw clock is not what it was: after a suspension, or a jump that only the sources show, all is measured anew.

Comes in: a suspension of the machine, sources that contradict themselves. Goes out: sources that begin again, with the frequency
alone. It must never keep an interval of the time before.
"""

from tsq.discipline import jumps
from tsq.discipline.actions import Level
from tsq.discipline.agreement import Agreement
from tsq.discipline.context import Context
from tsq.discipline.control import Control
from tsq.discipline.moves import Move
from tsq.discipline.oscillator import Oscillator
from tsq.discipline.source import MOST_CONTRADICTIONS, TrackedSource
from tsq.discipline.source_table import SourceTable


class Restarts:
    """Begins anew when it is necessary."""

    def __init__(
        self, context: Context, sources: SourceTable, oscillator: Oscillator, agreement: Agreement, control: Control
    ) -> None:
        self._context, self._sources, self._oscillator = context, sources, oscillator
        self._agreement, self._control = agreement, control

    def suspended(self, move: Move) -> None:
        """The raw clock stood still, for a time that only a measurement can tell."""
        context, control, frequency = self._context, self._control, self._oscillator.frequency
        context.log(Level.INFO, "suspended", f"{move.kind} for {move.amount:.1f} s: the clock is measured anew")
        for source in self._sources:
            source.restart(context.now.raw_ns)
        self._measure_anew(trusting=True)
        if context.now.pending_ns:
            # A slew of this machine's own, which the sleep has interrupted.
            control.cancel_slew()
        if frequency is not None and not control.limits.frozen:
            control.run_freely(frequency)
            control.correction = frequency

    def look(self, source: TrackedSource) -> None:
        """A source that contradicts what it said before: perhaps the raw clock jumped."""
        now_ns = self._context.now.raw_ns
        if source.contradictions == 1:
            for other in self._sources:
                other.polling.soon(now_ns, 2)
        if source.contradictions and jumps.has_jumped(self._sources.voters, now_ns, self._oscillator.rate):
            self._jumped()
        elif source.contradictions > MOST_CONTRADICTIONS and not jumps.may_have_jumped(self._sources.voters, source):
            source.settle()

    def _jumped(self) -> None:
        context = self._context
        saying = jumps.changed(self._sources)
        moved = jumps.size(saying)
        text = f"the machine stood still or was moved: all sources agree that the time is {moved:+z.6f} s from what was expected"
        context.log(Level.WARNING, "jump", text)
        self._oscillator.distrust(context.settings.tolerance)
        for source in self._sources:
            source.restart(context.now.raw_ns, self._oscillator.learner())
            if source in saying:
                source.keep_last(self._oscillator.rate)
        self._measure_anew(trusting=len(saying) > 1)
        self._agreement.first_ns = context.now.raw_ns
        # The newest samples are kept: what is refused are older ones that come late.
        self._agreement.anew_ns = min(one.last_raw.begin_ns for one in saying if one.last_raw is not None)

    def _measure_anew(self, trusting: bool) -> None:
        """Nothing is known but the frequency: the next update is like the first one."""
        self._agreement.measure_anew()
        self._control.limits.anew(trusting)
