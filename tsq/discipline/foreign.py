"""Other programs that set this clock: what is done about their steps, slews and frequencies.

Comes in: moves that the machine did not ask for. Goes out: steps back, cancelled slews, log lines, a count. It must never undo
steps for ever: two programs that step one clock are stopped by an operator.
"""

from tsq.discipline.actions import Level
from tsq.discipline.agreement import Agreement
from tsq.discipline.context import Context
from tsq.discipline.control import Control
from tsq.discipline.moves import Kind, Move
from tsq.discipline.settings import ForeignStep

_SECOND = 1_000_000_000
# Moves of one kind are counted and logged once in this time.
_MOVE_INTERVAL = 10 * _SECOND


class ForeignMoves:
    """count: how often another program moved the clock."""

    def __init__(self, context: Context, agreement: Agreement, control: Control) -> None:
        self._context, self._agreement, self._control = context, agreement, control
        self.count = 0
        self._seen: dict[Kind, int] = {}

    def stepped(self, move: Move) -> None:
        """Another program stepped the clock."""
        self._note(move.kind)
        context, limits = self._context, self._control.limits
        text = f"another program steps this clock by {move.amount:+z.6f} s"
        known = self._agreement.fused is not None and limits.updates > 0
        if not context.steers or limits.frozen or not known or context.settings.foreign_step is ForeignStep.CORRECT:
            context.log(Level.WARNING if context.steers else Level.INFO, "foreign step", text)
        elif limits.undoes(context.now.raw_ns):
            context.log(Level.WARNING, "foreign step", f"{text}: it is stepped back")
            self._control.step_by(-move.amount, "another program stepped this clock", counts=False)
        else:
            context.log(Level.WARNING, "foreign step", text)
            self._control.freeze()

    def slewed(self, move: Move) -> None:
        """Another program slews the clock, or sets its frequency."""
        if not self._context.steers or self._agreement.fused is None or self._control.limits.frozen:
            return
        slews = move.kind is Kind.SLEWS
        if self._note(move.kind):
            amount = (
                f"slews this clock by {move.amount:+z.6f} s"
                if slews
                else f"sets its frequency off by {move.amount * 1e6:+z.3f} ppm"
            )
            self._context.log(Level.WARNING, "foreign slew", f"another program {amount}: it is corrected")
        if slews and self._context.now.pending_ns:
            self._control.cancel_slew()

    def _note(self, kind: Kind) -> bool:
        """Counts a move; whether it is a new one."""
        now_ns = self._context.now.raw_ns
        new = kind is Kind.STEPPED or now_ns - self._seen.get(kind, -_MOVE_INTERVAL) >= _MOVE_INTERVAL
        self._seen[kind] = now_ns
        self.count += new
        return new
