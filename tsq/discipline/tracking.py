"""The report about a clock at its newest reading, from all that the machine knows.

Comes in: the parts of the machine. Goes out: `Tracking`. It must never change anything.
"""

from tsq.discipline.agreement import Agreement
from tsq.discipline.context import Context
from tsq.discipline.control import KERNEL_MOST, Control
from tsq.discipline.oscillator import Oscillator
from tsq.discipline.status import Tracking


def tracking(context: Context, oscillator: Oscillator, agreement: Agreement, control: Control, foreign_moves: int) -> Tracking:
    """What is known at the newest reading."""
    now, fused, updates, limits, rate = context.now, agreement.fused, control.updates, control.limits, oscillator.rate
    offset, bound, running = *control.offset_and_bound(), control.running
    interval = agreement.limits_of_truth()
    # What is passed on is the true time, which may be well known where the system clock is far from it.
    error = None if interval is None or fused is None else interval.distance_from(fused.at(now.raw_ns))
    usable = error is not None and updates.count > 0 and error <= context.settings.criteria.max_distance
    best = agreement.best
    delay = best.last_raw.delay if best is not None and best.last_raw is not None else 0.0
    return Tracking(
        context.settings.mode,
        control.status(bound),
        now.real_ns,
        now.raw_ns,
        offset,
        None if fused is None else fused.sd_at(now.raw_ns),
        bound,
        control.bound_rate(running),
        oscillator.frequency,
        None if oscillator.frequency is None else oscillator.frequency_sd,
        running,
        stratum=agreement.stratum if usable else 0,
        leap=control.leap.leap if usable else 3,
        root_delay=delay if usable else 0.0,
        root_dispersion=max(0.0, error - delay / 2) if usable and error is not None else KERNEL_MOST,
        reference="" if best is None else best.name,
        reference_address="" if best is None else best.address,
        last_offset=updates.last_offset,
        rms_offset=updates.rms_offset,
        update_interval=updates.interval,
        updated_real_ns=updates.real_ns,
        updates=updates.count,
        steps=limits.steps,
        accumulated_steps=limits.accumulated,
        frozen=limits.frozen,
        foreign_moves=foreign_moves,
        earliest_ns=None if interval is None else now.raw_ns + interval.low_ns,
        latest_ns=None if interval is None else now.raw_ns + interval.high_ns,
        rate_low=rate.low,
        rate_high=rate.high,
        smeared=agreement.smeared if usable else None,
    )
