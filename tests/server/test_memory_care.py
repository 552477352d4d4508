"""When a server gives memory back."""

from tsq.server.memory_care import MemoryCare


def test_memory_is_given_back_after_many_ends_and_not_again_for_the_same_ones():
    care = MemoryCare()
    assert not care.is_due(499, 0)
    assert care.is_due(500, 0)
    assert not care.is_due(500, 0)
    assert not care.is_due(999, 0)
    assert care.is_due(1000, 0)


def test_some_ends_are_enough_when_no_more_come():
    care = MemoryCare()
    assert not care.is_due(50, 0)
    assert not care.is_due(60, 0)
    assert care.is_due(60, 0)
    # These few keep little.
    assert not care.is_due(109, 0)
    assert not care.is_due(109, 0)


def test_memory_is_kept_while_many_handshakes_are_under_way():
    care = MemoryCare()
    assert not care.is_due(5000, 50)
    assert care.is_due(5000, 49)
