"""Feeds of the daemon, and what they are given here: the status of a daemon whose clock is wrong by a known offset."""

from dataclasses import replace

from tsq.discipline.settings import Mode
from tsq.discipline.status import ClockStatus, Status, Tracking
from tsq.host._segment import clocks


def status(**changes) -> Status:
    """A synchronized status at this moment: the clock is 3 ms behind."""
    raw_ns, _, _, real_ns = clocks()
    limits = {"earliest_ns": real_ns - 2_000_000, "latest_ns": real_ns + 8_000_000, "rate_low": -15e-6, "rate_high": 15e-6}
    tracking = Tracking(
        Mode.FEED, ClockStatus.SYNCHRONIZED, real_ns, raw_ns, offset=0.003, offset_sd=20e-6, bound=0.005, frequency=0.0,
        frequency_sd=1e-8, correction=0.0, stratum=2, leap=0, root_delay=0.004, root_dispersion=0.001, updated_real_ns=real_ns,
        reference="time.example.com", reference_address="192.0.2.7", updates=1, **limits,
    )
    return Status(replace(tracking, **changes))
