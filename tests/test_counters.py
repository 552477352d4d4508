"""Counters: what is counted is found again, by name and by reason."""

import random

from tsq.counters import Counters


def test_a_counter_that_was_never_added_to_is_zero():
    counters = Counters()
    assert counters.get("requests") == 0
    assert counters.get("requests", "datagram") == 0
    assert counters.snapshot() == {}


def test_counts_add_up_by_reason_and_by_name():
    source = random.Random(7)
    counters = Counters()
    wanted: dict[tuple[str, str], int] = {}
    for _ in range(500):
        key = source.choice(["requests", "dropped"]), source.choice(["", "one", "other"])
        amount = source.randrange(4)
        counters.add(*key, amount=amount)
        wanted[key] = wanted.get(key, 0) + amount
    for (name, reason), count in wanted.items():
        assert counters.get(name, reason) == count
    for name in ("requests", "dropped"):
        assert counters.get(name) == sum(count for (kind, _), count in wanted.items() if kind == name)


def test_a_count_never_goes_down():
    counters = Counters()
    counters.add("answered", amount=3)
    counters.add("answered", amount=-2)
    assert counters.get("answered") == 3


def test_the_empty_reason_is_one_of_its_own():
    counters = Counters()
    counters.add("datagrams")
    counters.add("datagrams", "late")
    assert (counters.get("datagrams", ""), counters.get("datagrams", "late"), counters.get("datagrams")) == (1, 1, 2)


def test_names_are_not_mixed_up_with_those_that_begin_alike():
    counters = Counters()
    counters.add("answered")
    counters.add("answered late")
    assert counters.get("answered") == 1


def test_a_snapshot_is_sorted_readable_and_a_copy():
    counters = Counters()
    counters.add("requests", "stream", 2)
    counters.add("answered")
    counters.add("requests", "datagram", 3)
    snapshot = counters.snapshot()
    assert list(snapshot.items()) == [("answered", 1), ("requests: datagram", 3), ("requests: stream", 2)]
    counters.add("answered")
    assert snapshot["answered"] == 1
