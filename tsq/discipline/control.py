"""The control of the clock: what is asked of the kernel so that the clock follows what the sources agree on.

Comes in: the agreement, readings, the limits. Goes out: actions on the clock, the offset and bound that remain. It must never ask
for anything while the clock is frozen, or in a mode that does not touch it.
"""

from math import hypot

from tsq.discipline import steering
from tsq.discipline.actions import Level, SlewPhase, Steer, StepClock, WouldDo
from tsq.discipline.agreement import Agreement
from tsq.discipline.context import Context
from tsq.discipline.events import Failed, Reading
from tsq.discipline.leap import LeapWatch
from tsq.discipline.limits import Limits
from tsq.discipline.moves import Watch
from tsq.discipline.oscillator import Oscillator
from tsq.discipline.source_table import SourceTable
from tsq.discipline.status import ClockStatus
from tsq.discipline.updates import Updates

_SECOND = 1_000_000_000
# For so long, seconds, the error that the kernel reports must hold by itself; from then on it grows by this, seconds per second.
_TICK = 1.0
_KERNEL_GROWTH = 500e-6
# The most that the kernel takes for an error, seconds.
KERNEL_MOST = 16.0


class Control:
    """watch, loop: what was asked of the kernel. correction: the frequency that it is set to. slews: whether what remains is for
    the kernel's loop.
    """

    def __init__(self, context: Context, sources: SourceTable, oscillator: Oscillator, agreement: Agreement) -> None:
        self._context, self._sources, self._oscillator, self._agreement = context, sources, oscillator, agreement
        self.watch, self.loop, self.leap, self.limits = Watch(), steering.KernelLoop(), LeapWatch(), Limits()
        self.updates = Updates()
        self._leap_counted = False
        self.correction: float | None = None
        self.constant = 2.0
        self.slews = False
        self._wait_ns = steering.LEAST_LOOK

    # What is known.

    def clock_ns(self, reading: Reading) -> int:
        """The clock minus the raw clock, with a step that this reading does not show yet."""
        return reading.difference_ns + self.watch.expected_step_ns

    def offset_and_bound(self) -> tuple[float | None, float | None]:
        """What is to be added to the clock, and how wrong the clock can be, seconds."""
        now, fused, common = self._context.now, self._agreement.fused, self._agreement.limits_of_truth()
        if fused is None or common is None:
            return None, None
        clock_ns = self.clock_ns(now)
        bound = common.distance_from(clock_ns) + now.width_ns / 1e9
        return (fused.at(now.raw_ns) - clock_ns) / 1e9, bound

    def bound_rate(self, correction: float | None) -> float:
        """How fast the bound grows when nothing is measured, nor steered."""
        rate = self._oscillator.rate
        runs = correction if correction is not None else self._context.now.frequency or 0.0
        return max(rate.high - runs, runs - rate.low)

    @property
    def running(self) -> float | None:
        """The frequency that the clock runs with: what was asked for, unless others may have changed it since."""
        asked = self.correction if self._context.steers and not self.limits.frozen else None
        return self._context.now.frequency if asked is None else asked

    def status(self, bound: float | None) -> ClockStatus:
        """How far the clock may be relied on, with this bound."""
        if self.limits.frozen:
            return ClockStatus.FROZEN
        if bound is None or not self.updates.count or bound > self._context.settings.criteria.max_distance:
            return ClockStatus.UNSYNCHRONIZED
        return ClockStatus.HOLDOVER if self._agreement.coasting else ClockStatus.SYNCHRONIZED

    # What is done.

    def do(self, action: Steer | SlewPhase | StepClock) -> None:
        """Let the driver do this, or say that it would be done; and remember what the kernel was asked for."""
        if not self._context.steers:
            self._context.out.append(WouldDo(action))
            return
        self._context.out.append(action)
        now_ns = self._context.now.raw_ns
        if isinstance(action, Steer):
            self.correction = action.frequency
            self.watch.will_steer(action.frequency, now_ns)
        elif isinstance(action, SlewPhase):
            self.loop.set(action.offset)
        else:
            self.watch.will_step(action.offset, now_ns)
            self.loop.stop()

    def run_freely(self, frequency: float) -> None:
        """Set the frequency; nothing is known about the offset."""
        self.do(Steer(frequency, KERNEL_MOST, KERNEL_MOST, False))

    def cancel_slew(self) -> None:
        """Let the kernel's loop end."""
        self.do(SlewPhase(0.0))

    def follow(self) -> None:
        """Correct what remains, by frequency or by the kernel's loop."""
        reading, fused = self._context.now, self._agreement.fused
        self.slews, self._wait_ns = False, steering.LONGEST_LOOK
        if fused is None or self.limits.frozen or not self.updates.count:
            return
        true_ns = reading.raw_ns + fused.at(reading.raw_ns)
        self._announce(true_ns)
        if self.leap.is_near(true_ns):
            self._wait_ns = steering.LEAST_LOOK
        if self.leap.is_quiet(true_ns):
            return
        # A leap second that the clock did not count has moved the truth.
        fused = self._agreement.fused or fused
        offset = (fused.at(reading.raw_ns) - self.clock_ns(reading)) / 1e9
        phase = steering.phase(offset, self.loop, reading.real_ns)
        self.slews = abs(offset) > steering.PHASE_LIMIT
        if phase is not None:
            self.do(SlewPhase(phase))
        frequency, sd = fused.frequency, fused.sd_at(reading.raw_ns)
        if self._context.steers:
            constant = steering.effective(self.constant, offset, sd)
            self._wait_ns = min(self._wait_ns, steering.until_next_correction(constant))
        if not self.loop.active and phase in (None, 0.0):
            most = self._context.settings.max_slew_rate * 1e-6
            frequency = steering.correction(frequency, offset, sd, self.constant, most)
        self.do(self.steer_action(frequency))

    def until_next_look(self) -> int:
        """How long the clock may run as it is, ns."""
        if self.loop.active or self.slews:
            return steering.until_next_look(self._context.now.real_ns)
        # The kernel's own bound grows by 500 ppm.
        ages_slowly = not self._context.steers or self.bound_rate(self.running) <= _KERNEL_GROWTH
        return self._wait_ns if ages_slowly else steering.LEAST_LOOK

    def steer_action(self, frequency: float) -> Steer:
        """This frequency, with the errors that the kernel reports until the next one."""
        now, fused, settings = self._context.now, self._agreement.fused, self._context.settings
        assert fused is not None
        offset, bound = self.offset_and_bound()
        estimated = hypot(offset or 0.0, fused.sd_at(now.raw_ns))
        most = KERNEL_MOST
        if bound is not None:
            # If nobody looks after it any more, the kernel's loop slews all that it was handed: past the truth, if that is more.
            past = max(0.0, abs((offset or 0.0) - self.loop.left) - abs(offset or 0.0))
            most = min(most, bound + past + self.bound_rate(frequency) * _TICK)
        synchronized = self.status(bound) in (ClockStatus.SYNCHRONIZED, ClockStatus.HOLDOVER)
        leap = self.leap.at(now.raw_ns + fused.at(now.raw_ns)) if settings.leap else 0
        return Steer(frequency, most, min(estimated, most), synchronized and settings.rtc_sync, leap)

    def step_by(self, offset: float, why: str, counts: bool = True) -> None:
        """Add this offset to the clock at once. counts: for the limit of all steps."""
        reading, fused, agreed = self._context.now, self._agreement.fused, self._agreement.interval
        distance = 0.0
        if agreed is not None and fused is not None:
            here = agreed.aged(reading.raw_ns, self._oscillator.rate)
            distance = here.distance_from(self.clock_ns(reading) + round(offset * 1e9))
        sd = fused.sd_at(reading.raw_ns) if fused is not None else 0.0
        self.do(StepClock(offset, min(distance + 1e-6, KERNEL_MOST), min(sd, KERNEL_MOST), why))
        if self._context.steers:
            self.limits.stepped(offset, counts)

    def freeze(self) -> None:
        """Stop touching the clock, in a state that lasts: no slew, and the frequency that is right."""
        self._context.log(Level.ERROR, "frozen", f"the clock is not touched until `tsqctl unfreeze`: {self.limits.frozen}")
        self.leave()
        self.watch.forget_frequency()

    def leave(self) -> None:
        """Let the clock run with the frequency that is right, and nothing else."""
        if self.loop.active:
            self.cancel_slew()
        if self._agreement.fused is not None:
            self.do(self.steer_action(self._agreement.fused.frequency))

    def failed(self, event: Failed) -> None:
        """The kernel refused an action."""
        self._context.log(Level.ERROR, "refused", f"the kernel refused {event.action}: {event.text}")
        if event.action == Steer.__name__:
            self.watch.forget_frequency()
            self.correction = None
        else:
            if event.action == StepClock.__name__:
                self.watch.forget_step()
                self.limits.not_stepped()
            # What the kernel was slewing goes on.
            self.loop.stop()
            self.loop.set((self._context.now.pending_ns or 0) / 1e9)
        was = self.limits.frozen
        self.limits.failed(event.action, event.text, self._context.now.raw_ns)
        if self.limits.frozen and not was:
            # What the kernel does not refuse must not go on for ever either.
            self.freeze()

    # Leap seconds.

    def _announce(self, true_ns: int) -> None:
        """Keep in step with what the sources announce."""
        choice, settings = self._agreement.choice, self._context.settings
        found = choice.agreed if choice is not None else None
        if found is not None:
            self.leap.announce(None if found.smeared else found.leap, true_ns)
        seconds = self.leap.seconds
        if seconds and not self.leap.at(true_ns):
            if not self._leap_counted:
                self._context.log(Level.WARNING, "leap", "a leap second has passed, and this clock did not count it")
                self.shift_truth(seconds)
            self._leap_counted = False
        armed = self._context.steers and settings.leap
        self.watch.will_leap(self.leap.seconds if armed or self._context.now.leap else 0)

    def leaped(self, seconds: int) -> None:
        """The kernel has set the clock by a leap second, and true time was set by the same one."""
        self._context.log(Level.INFO, "leap", f"a leap second was {'inserted' if seconds < 0 else 'deleted'}")
        self._leap_counted = True
        self.shift_truth(seconds)

    def shift_truth(self, seconds: int) -> None:
        """True time was set by a leap second: what is known about it moves along."""
        for source in self._sources:
            source.shift(seconds)
        self._agreement.shift(seconds)
