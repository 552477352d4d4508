"""A real tsqd through one round of the faults of `make endurance`: nothing that it says is false, and it is right again after each.

Without root, or where network namespaces cannot be made, the test is skipped with the reason.
"""

from collections import Counter

import pytest

from benchmarks.endurance import Endurance, Outcome, rig


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    with rig() as made:
        return Endurance(made, seed=3, short=True).run(seconds=0.0)


def test_49_nothing_that_the_daemon_says_is_false_and_it_is_right_again_after_each_fault(outcome):
    assert outcome.problems == []
    assert set(outcome.done.values()) == {1}, "each fault once"


def test_it_was_asked_and_coasted(outcome):
    statuses = Counter(look.status for look in outcome.looks)
    assert statuses["synchronized"] > len(outcome.looks) / 2
    assert {look.bounded for look in outcome.looks} >= {"synchronized"}
    assert outcome.flooded > 0
