"""Steering: the frequency correction and the slew that bring a clock to the predicted time (docs/explanation/clock-discipline.md).

Comes in: the offset that remains, the frequency, their standard deviations, the state of the kernel's loop. Goes out: a frequency,
and an offset for that loop. It must never leave the kernel with a slew that ends farther off than it began.

    u = f + clamp(θ / τ, max_slew_rate)      τ = max(2 s, min(a σ_θ / σ_f, age / 4)), a = poll interval / 32 s, 1/2 to 2
"""

from dataclasses import dataclass

# An offset above this is slewed by the kernel's loop, until less than the second remains; below by frequency, seconds.
PHASE_LIMIT = 1e-3
PHASE_END = 100e-6
# The kernel's loop takes half a second at most, and no clock follows it faster than 11 %: what it cannot follow comes later.
MOST_PHASE = 0.4
_SECOND = 1_000_000_000
_LEAST_TIME_CONSTANT = 2.0
_LEAST_FREQUENCY_SD = 1e-12
_CALM_INTERVAL, _LEAST_CALM, _MOST_CALM = 32.0, 0.5, 2.0
_NOTABLE = 3.0
# The loop with time constant 0 corrects this part of the rest in each second.
_PART = 1 / 4
# Four times the rest: all of it is corrected in a second. Less where the clock would end farther off than at the beginning.
_MOST_AHEAD = 4.0
# After so many seconds nothing is left.
_SETTLED = 60
_NOTHING = 1e-9
# Without a slew, the clock is looked at this often, ns: a part of the time constant.
_LOOK_PART = 1 / 4
LEAST_LOOK, LONGEST_LOOK = _SECOND, 16 * _SECOND
# What a sum may leave out.
_LITTLE = 1e-7
# The kernel begins a second with its next tick, or when a processor wakes up: so far from the beginning, nothing is sure, ns.
_UNSURE = 50_000_000
_BEGUN = 5_000_000
_LEAST_WAIT = 1_000_000


def time_constant(sd: float, frequency_sd: float, age: float, interval: float) -> float:
    """τ: how slowly an offset is corrected by frequency, seconds: as slowly as its noise demands. age: since the first sample.

    interval: between polls. Where they are rare, the frequency is calm; where they are frequent, the offset is small.
    """
    calm = max(_LEAST_CALM, min(interval / _CALM_INTERVAL, _MOST_CALM))
    return max(_LEAST_TIME_CONSTANT, min(calm * sd / max(frequency_sd, _LEAST_FREQUENCY_SD), age / 4))


def effective(constant: float, offset: float, sd: float) -> float:
    """τ for this offset. One that is no noise is corrected faster: τ 3 σ_θ / |θ|."""
    if abs(offset) <= _NOTABLE * sd:
        return constant
    return max(_LEAST_TIME_CONSTANT, constant * _NOTABLE * sd / abs(offset))


def correction(frequency: float, offset: float, sd: float, constant: float, max_slew_rate: float) -> float:
    """u: the frequency correction, seconds per second."""
    return frequency + max(-max_slew_rate, min(offset / effective(constant, offset, sd), max_slew_rate))


@dataclass(slots=True)
class KernelLoop:
    """A model of the kernel's loop with time constant 0 (ADJ_OFFSET): what it has still to correct, seconds. began: the offset at
    the beginning of the present slew.

    At each second of the clock it takes a quarter of `pending`, and slews that much during the second: `current`.
    """

    pending: float = 0.0
    current: float = 0.0
    began: float = 0.0
    _real_ns: int = 0

    @property
    def active(self) -> bool:
        """Whether something is being slewed."""
        return self.pending != 0 or self.current != 0

    @property
    def unfinished(self) -> float:
        """What is still slewed in the present second, whatever is set now."""
        return _moved(self.current) * (1 - self._real_ns % _SECOND / _SECOND)

    @property
    def left(self) -> float:
        """How far the clock is still moved if nobody hands anything to the loop any more."""
        moved, pending = self.unfinished, self.pending
        while abs(pending) > _LITTLE:
            moved += _moved(pending * _PART)
            pending -= pending * _PART
        return moved

    def advance(self, real_ns: int) -> float:
        """The clock shows this time now. Returns how far the loop has moved it since the last call."""
        seconds = real_ns // _SECOND - self._real_ns // _SECOND
        before = self._real_ns % _SECOND / _SECOND
        self._real_ns = real_ns
        now = real_ns % _SECOND / _SECOND
        if not self.active:
            return 0.0
        if seconds <= 0:
            return _moved(self.current) * max(0.0, now - before)
        moved = _moved(self.current) * (1 - before)
        if seconds > _SETTLED:
            moved += self.pending
            self.pending = self.current = 0.0
            return moved
        for number in range(seconds):
            self.current = self.pending * _PART
            self.pending -= self.current
            moved += _moved(self.current) * (now if number == seconds - 1 else 1.0)
        if abs(self.pending) < _NOTHING:
            self.pending = self.current = 0.0
        return moved

    def set(self, offset: float) -> None:
        """Another offset was handed to the loop; what it does in the present second stays."""
        self.pending = offset

    def stop(self) -> None:
        """The clock was stepped: the kernel forgets the rest."""
        self.pending = self.current = 0.0


def _moved(part: float) -> float:
    """How far the clock is moved in one of its own seconds, which is longer when it runs slower."""
    return part / (1 + part)


def phase(offset: float, loop: KernelLoop, real_ns: int) -> float | None:
    """What to hand to the kernel's loop for this offset, seconds; 0: cancel; None: leave the loop alone. real_ns: the clock."""
    if abs(real_ns % _SECOND - _SECOND // 2) > _SECOND // 2 - _UNSURE:
        # The kernel may take its next part before or after it gets a new offset.
        return None
    rest = offset - loop.unfinished
    if abs(rest) <= (PHASE_END if loop.pending else PHASE_LIMIT):
        return 0.0 if loop.pending else None
    loop.began = max(loop.began, abs(rest)) if loop.active else abs(rest)
    ahead = min(1 + loop.began / abs(rest), _MOST_AHEAD)
    wanted = max(-MOST_PHASE, min(ahead * rest, MOST_PHASE))
    # Backwards the clock's seconds are longer, and it is moved farther.
    return wanted if wanted > 0 else wanted * (1 + wanted * _PART)


def until_next_correction(constant: float) -> int:
    """How long a correction by frequency may last with this τ, ns."""
    return max(LEAST_LOOK, min(round(constant * _LOOK_PART * _SECOND), LONGEST_LOOK))


def until_next_look(real_ns: int) -> int:
    """How long until the clock should be looked at while the loop slews, ns.

    In the middle of each second, and just after its beginning: a processor that sleeps begins the second when it wakes up.
    """
    here = real_ns % _SECOND
    return next(place - here for place in (_BEGUN, _SECOND // 2, _SECOND + _BEGUN) if place - here >= _LEAST_WAIT)
