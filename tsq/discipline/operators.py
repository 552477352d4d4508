"""What operators ask of a running machine: a step now, an end of a freeze, other settings.

Comes in: their events. Goes out: actions and log lines. It must never step a clock whose offset is not known.
"""

from tsq.discipline.actions import Level
from tsq.discipline.agreement import Agreement
from tsq.discipline.context import Context
from tsq.discipline.control import Control
from tsq.discipline.events import MakeStepNow, Reconfigured, Unfreeze
from tsq.discipline.settings import Mode


class Operators:
    """Does what they ask."""

    def __init__(self, context: Context, agreement: Agreement, control: Control) -> None:
        self._context, self._agreement, self._control = context, agreement, control

    def step_now(self, event: MakeStepNow) -> None:
        """Correct the whole offset by a step."""
        context, control, fused = self._context, self._control, self._agreement.fused
        if fused is None:
            context.log(Level.WARNING, "operator", "the clock cannot be stepped: its offset is not known")
            return
        if not context.steers:
            context.log(
                Level.WARNING, "operator", f"the clock is not stepped: nothing touches it in the mode `{context.settings.mode}`"
            )
            return
        if control.limits.frozen:
            self.unfreeze()
        offset = (fused.at(context.now.raw_ns) - control.clock_ns(context.now)) / 1e9
        context.log(Level.INFO, "operator", f"the clock is stepped by {offset:+z.6f} s, as asked")
        control.step_by(offset, "an operator asked for it", counts=False)

    def unfreeze(self, event: Unfreeze | None = None) -> None:
        """An operator has looked at what froze the clock."""
        limits = self._control.limits
        if limits.frozen:
            self._context.log(Level.INFO, "operator", f"the clock is kept again; it was frozen: {limits.frozen}")
        limits.unfreeze()

    def reconfigure(self, event: Reconfigured) -> None:
        """Other settings of the clock."""
        context, control = self._context, self._control
        if context.steers and event.settings.mode is not Mode.STEER:
            if control.loop.active:
                control.cancel_slew()
            control.watch.forget_frequency()
            control.loop.stop()
        context.settings = event.settings
