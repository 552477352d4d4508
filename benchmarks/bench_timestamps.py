"""Timestamps: TSQ's compiled conversions, and integer arithmetic in plain Python (docs/reference/protocol.md R9)."""

import pytest

from benchmarks import plain
from benchmarks.conftest import Show
from benchmarks.measure import SIDES, calls
from tsq import _fast

ROUNDS = 40
UNIX_NS = 1_800_000_000_123_456_789
NTP = _fast.ntp_from_ns(UNIX_NS)
# In the era after 2036-02-07 06:28:16 UTC.
NEXT_ERA_NS = 2_100_000_000_123_456_789
NEXT_ERA_NTP = _fast.ntp_from_ns(NEXT_ERA_NS)


@pytest.mark.parametrize("side", SIDES)
def test_ntp_from_ns(side: str, show: Show) -> None:
    assert plain.ntp_from_ns(UNIX_NS) == NTP
    show("timestamps: ntp_from_ns", side, ROUNDS, calls(tsq=(_fast.ntp_from_ns, UNIX_NS), plain=(plain.ntp_from_ns, UNIX_NS)))


@pytest.mark.parametrize("side", SIDES)
def test_ns_from_ntp(side: str, show: Show) -> None:
    call = calls(tsq=(_fast.ns_from_ntp, NTP, UNIX_NS), plain=(plain.ns_from_ntp, NTP, UNIX_NS))
    show("timestamps: ns_from_ntp", side, ROUNDS, call)


@pytest.mark.parametrize("side", SIDES)
def test_ns_from_ntp_of_the_next_era(side: str, show: Show) -> None:
    assert plain.ns_from_ntp(NEXT_ERA_NTP, UNIX_NS) == _fast.ns_from_ntp(NEXT_ERA_NTP, UNIX_NS) == NEXT_ERA_NS
    call = calls(tsq=(_fast.ns_from_ntp, NEXT_ERA_NTP, UNIX_NS), plain=(plain.ns_from_ntp, NEXT_ERA_NTP, UNIX_NS))
    show("timestamps: ns_from_ntp, next era", side, ROUNDS, call)
