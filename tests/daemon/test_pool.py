"""A name with many addresses as a pool: which are used, which are replaced, when the name is looked up again."""

from random import Random

import pytest

from tsq.daemon.pool import BAD_FOR, FIRST_PAUSE, LONGEST_PAUSE, MOST_BAD, USUAL_PAUSE, Pool


def fail(pool: Pool[str], number: int, now: float, taken=()) -> bool:
    """So many bad polls that the place's server is replaced, if there is another one; whether it is."""
    changes = [pool.polled(number, False, taken, now) for _ in range(MOST_BAD)]
    assert not any(changes[:-1])
    return changes[-1]


def test_the_first_addresses_are_used():
    pool: Pool[str] = Pool(2)
    assert pool.look_up_at < 0
    assert pool.resolved(["a", "b", "c"], (), 0.0) == [0, 1]
    assert pool.addresses == ["a", "b"]
    assert pool.look_up_at == USUAL_PAUSE


def test_the_same_address_twice_is_one():
    pool: Pool[str] = Pool(3)
    assert pool.resolved(["a", "a", "b"], (), 0.0) == [0, 1]
    assert pool.addresses == ["a", "b", None]


def test_what_other_sources_use_is_not_used():
    pool: Pool[str] = Pool(2)
    assert pool.resolved(["a", "b"], {"a"}, 0.0) == [0]
    assert pool.addresses == ["b", None]
    assert not fail(pool, 0, 1.0, {"a"})
    assert pool.addresses == ["b", None]


def test_free_places_are_looked_up_for_soon_and_then_less_often():
    pool: Pool[str] = Pool(2)
    now, pauses = 0.0, []
    for _ in range(10):
        pool.resolved(["a"], (), now)
        pauses.append(pool.look_up_at - now)
        now = pool.look_up_at
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE
    assert pool.resolved(["a", "b"], (), now) == [1]
    assert pool.look_up_at - now == USUAL_PAUSE


def test_a_name_that_cannot_be_looked_up_is_looked_up_soon_and_then_less_often():
    pool: Pool[str] = Pool(1)
    now = 0.0
    for expected in (FIRST_PAUSE, 2 * FIRST_PAUSE):
        pool.not_resolved(now)
        assert pool.look_up_at - now == expected
        now = pool.look_up_at


def test_a_bad_server_is_replaced_by_one_that_is_known():
    pool: Pool[str] = Pool(2)
    pool.resolved(["a", "b", "c"], (), 0.0)
    assert fail(pool, 0, 100.0)
    assert pool.addresses == ["c", "b"]


def test_one_good_poll_in_between_keeps_a_server():
    pool: Pool[str] = Pool(1)
    pool.resolved(["a", "b"], (), 0.0)
    for _ in range(5):
        assert not any(pool.polled(0, False, (), 1.0) for _ in range(MOST_BAD - 1))
        assert not pool.polled(0, True, (), 1.0)
    assert pool.addresses == ["a"]


def test_a_bad_server_stays_until_a_look_up_finds_another_one():
    pool: Pool[str] = Pool(1)
    pool.resolved(["a"], (), 0.0)
    assert not fail(pool, 0, 1000.0)
    assert pool.addresses == ["a"]
    assert pool.look_up_at == 1000.0 + FIRST_PAUSE
    assert pool.resolved(["a"], (), 1016.0) == []
    # Each further failure must not bring the look-up forward for ever.
    before = pool.look_up_at
    pool.polled(0, False, (), 1020.0)
    assert pool.look_up_at == before
    assert pool.resolved(["a", "z"], (), 1050.0) == [0]
    assert pool.addresses == ["z"]


def test_a_bad_server_is_not_used_again_the_same_day_unless_there_is_no_other():
    pool: Pool[str] = Pool(2)
    pool.resolved(["a", "b"], (), 0.0)
    assert pool.resolved(["a", "b", "c"], (), 1.0) == []
    assert fail(pool, 0, 10.0)
    assert pool.addresses == ["c", "b"]
    assert not fail(pool, 0, 20.0)
    assert pool.resolved(["a", "b", "c"], (), 30.0) == []
    assert pool.resolved(["a", "b", "c"], (), 10.0 + BAD_FOR + 1) == [0]
    assert pool.addresses == ["a", "b"]


def test_servers_that_answer_stay_when_the_name_has_other_addresses():
    pool: Pool[str] = Pool(2)
    pool.resolved(["a", "b"], (), 0.0)
    assert pool.resolved(["c", "d"], (), 3600.0) == []
    assert pool.addresses == ["a", "b"]
    # The newest addresses are the first ones to be used.
    assert fail(pool, 1, 3700.0)
    assert pool.addresses == ["a", "c"]


def test_a_pool_has_more_or_fewer_places():
    pool: Pool[str] = Pool(1)
    pool.resolved(["a", "b", "c"], (), 0.0)
    pool.resize(3)
    assert pool.resolved(["a", "b", "c"], (), 1.0) == [1, 2]
    pool.resize(2)
    assert pool.addresses == ["a", "b"]


def test_a_server_is_replaced_on_request():
    pool: Pool[str] = Pool(1)
    pool.resolved(["a", "b"], (), 0.0)
    assert pool.replace(0, (), 1.0)
    assert pool.addresses == ["b"]
    assert not pool.replace(0, (), 2.0)
    assert pool.addresses == ["b"]


@pytest.mark.parametrize("seed", range(20))
def test_no_address_is_used_twice_whatever_happens(seed):
    random = Random(seed)
    pool: Pool[int] = Pool(4)
    now = 0.0
    for _ in range(500):
        now += random.random() * 1000
        taken = set(random.sample(range(30), 5)) - set(pool.addresses)
        before = pool.addresses
        if random.random() < 0.3:
            changed = pool.resolved(random.sample(range(30), random.randrange(8)), taken, now)
        else:
            number = random.randrange(4)
            changed = [number] if pool.polled(number, random.random() < 0.1, taken, now) else []
        used = [one for one in pool.addresses if one is not None]
        assert len(set(used)) == len(used)
        assert not {pool.addresses[number] for number in changed} & taken
        assert [number for number in range(4) if pool.addresses[number] != before[number]] == changed
        assert len(pool.known) <= 32
        assert pool.look_up_at <= now + USUAL_PAUSE
