"""Whether the time may be passed on to programs that keep a clock by it.

Comes in: the tracking. Goes out: yes or no. It must never let a clock through whose sources an operator has to look at first.
"""

from tsq.discipline.status import ClockStatus, Tracking

MOST_STRATUM = 15
_MOST_LEAP = 2


def is_usable(tracking: Tracking, *, holdover: bool = False) -> bool:
    """holdover: for programs that learn how the error grows while no source is usable."""
    # Of a clock that is far from the truth it is said that it is unsynchronized: those who keep it need the time all the more.
    return (
        (
            tracking.status in (ClockStatus.SYNCHRONIZED, ClockStatus.UNSYNCHRONIZED)
            or (holdover and tracking.status is ClockStatus.HOLDOVER)
        )
        and tracking.offset is not None
        and 0 < tracking.stratum <= MOST_STRATUM
        and tracking.leap <= _MOST_LEAP
    )
