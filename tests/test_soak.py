"""The verdict of `make soak` on made-up runs: leaks, losses without a name, counters that go back, errors in the log."""

from collections import Counter
from dataclasses import replace
from itertools import islice
from random import Random

import pytest

from benchmarks.soak import counters, steps
from benchmarks.soak_verdict import BY_FLOOD, BY_KILL, FLOODS, KILL, KINDS, UPGRADE, Event, Found, Look, Loss, named, table, verdict

DEATH = "tsq-server: ERROR: worker 1 was ended by SIGKILL: another one starts at once"
DEATHS, ANSWERED, GOOD = "tsq_server_worker_deaths_total", "tsq_server_answered_total", "tsq_server_upgrades_total{result=good}"


def life(pid: int, role: str, begin: float, end: float, *, leak: float = 0.0, files: float = 0.0) -> list[Look]:
    """A look each three seconds. leak: KiB a second; files: descriptors a second. Sizes vary a little."""
    dice = Random(pid)
    return [
        Look(begin + age, pid, role, 0, 40_000 + round(leak * age) + dice.randrange(300), 9000, 20 + round(files * age), age / 100)
        for age in range(0, round(end - begin) + 1, 3)
    ]


def good() -> Found:
    """Ten minutes: a worker killed in the middle, a new generation, floods."""
    looks = [*life(1, "supervisor", 0, 600), *life(12, "worker", 0, 600)]
    looks += [*life(10, "worker", 0, 300), *life(11, "worker", 300, 600)]
    events = [Event(FLOODS[0], 100.0, 105.0, 20_000), Event(KILL, 300.0, 301.0), Event(UPGRADE, 400.0, 410.0)]
    losses = [Loss(299.9, 300.1, "client 1", "reset"), Loss(300.9, 302.0, "client 2", "reset")]
    losses += [Loss(300.0, 310.0, "newcomer 9", "late")]
    last = {DEATHS: 1.0, GOOD: 1.0, ANSWERED: 50_100.0}
    answered = Counter(client=40_000, newcomer=10_000)
    before = dict.fromkeys(last, 0.0)
    return Found(600.0, looks, losses, events, answered, [before, last], 0, f"tsq-server: INFO: certificate reloaded\n{DEATH}\n")


def test_a_good_run_has_no_problem():
    found = good()
    assert verdict(found) == []
    assert set(named(found).values()) == {BY_KILL}


@pytest.mark.parametrize("role", ["supervisor", "worker"])
@pytest.mark.parametrize(("how", "unit"), [({"leak": 20.0}, "KiB"), ({"files": 0.1}, "descriptors")])
def test_a_leak_is_found(role, how, unit):
    found = good()
    found.looks += life(99, role, 0, 600, **how)
    (problem,) = verdict(found)
    assert problem.startswith(f"{role} (process 99) grew from ")
    assert problem.endswith(unit)


def test_what_a_process_takes_at_first_is_no_leak():
    found = good()
    young = life(99, "worker", 0, 600)
    found.looks += [replace(look, rss=look.rss - 20_000) if look.at < 15 else look for look in young]
    assert verdict(found) == []


def test_workers_each_larger_than_the_one_before_are_found():
    found = good()
    for number in range(12):
        one = life(100 + number, "worker", 50.0 * number, 50.0 * number + 49)
        found.looks += [replace(look, rss=look.rss + 2000 * number) for look in one]
    assert any("later workers are larger" in problem for problem in verdict(found))


@pytest.mark.parametrize(
    "loss",
    [
        Loss(200.0, 210.0, "client 3", "no answer"),
        Loss(290.0, 299.0, "client 3", "over before the kill"),
        Loss(330.0, 331.0, "client 3", "long after the kill"),
        Loss(302.5, 303.0, "client 1", "the second one"),
        Loss(101.0, 104.0, "client 4", "in a flood, and all datagrams fitted"),
        Loss(402.0, 405.0, "newcomer 7", "while a new generation takes over"),
    ],
)
def test_a_loss_that_nothing_explains_is_found(loss):
    found = good()
    found.losses.append(loss)
    (problem,) = verdict(found)
    assert problem.startswith(f"lost without a name: {loss}")
    near = [event for event in found.events if event.end >= loss.began - 30 and event.begin <= loss.at]
    assert all(event.kind in problem for event in near)
    assert "1 requests were lost without a name." in "\n".join(table(found))


def test_a_flood_explains_as_many_losses_as_datagrams_did_not_fit():
    found = good()
    found.dropped = 2
    found.losses += [Loss(101.0 + number, 104.0, f"client {number}", "no answer") for number in range(3)]
    assert Counter(named(found).values()) == {BY_KILL: 3, BY_FLOOD: 2, "": 1}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (ANSWERED, 100.0, "the server counted 100 answers, clients got 50000"),
        (DEATHS, 2.0, "2 workers died, 1 were killed"),
        (GOOD, 0.0, "0 new generations served, 1 were asked for"),
    ],
)
def test_counters_that_do_not_agree_are_found(name, value, words):
    found = good()
    found.counters[-1][name] = value
    assert verdict(found) == [words]


def test_a_counter_that_goes_back_or_vanishes_is_found():
    found = good()
    for later in ({"some_total": 4.0}, {}):
        found.counters = [{"some_total": 5.0}, later | found.counters[-1] | later]
        found.counters[-1] = {name: value for name, value in found.counters[-1].items() if name in later or name != "some_total"}
        assert any(problem.startswith("the counter some_total went back from 5") for problem in verdict(found))


@pytest.mark.parametrize("line", ["tsq-server: ERROR: something", "Traceback (most recent call last):", DEATH])
def test_an_error_in_the_log_is_found(line):
    found = good()
    found.log += f"{line}\n"
    assert len(verdict(found)) == 1


def test_a_run_in_which_nothing_was_answered_or_counted_is_not_good():
    found = good()
    found.answered.clear()
    assert "there are no answers" in verdict(found)
    found.counters.clear()
    assert "there are no counters" in verdict(found)


def test_each_kind_comes_once_in_a_round_and_only_a_flood_beside_another_one():
    found = [steps(Random(seed)) for seed in range(20)]
    for schedule in found:
        kinds: list[str] = []
        while len(kinds) < 3 * len(KINDS):
            step = next(schedule)
            assert len(step) == 1 or (step[0] not in FLOODS and step[1] in FLOODS and len(step) == 2)
            kinds += step
        assert Counter(kinds) == dict.fromkeys(KINDS, 3)
    assert list(islice(steps(Random(5)), 50)) == list(islice(steps(Random(5)), 50)) != list(islice(steps(Random(6)), 50))


def test_workers_are_killed_and_replaced_more_rarely_in_a_long_run():
    kinds = Counter(kind for step in islice(steps(Random(1), 4), 200) for kind in step)
    assert 0 < kinds[KILL] < kinds[FLOODS[0]] / 3
    assert 0 < kinds[UPGRADE] < kinds[FLOODS[0]] / 3


def test_only_counters_are_read_from_metrics():
    text = "# TYPE a_total counter\na_total{x='1'} 5\n# TYPE b gauge\nb 7\n".replace("'", '"')
    assert counters(text) == {"a_total{x=1}": 5.0}


def test_the_table_has_what_was_done_lost_and_taken():
    text = "\n".join(table(good()))
    assert f"| {FLOODS[0]} | 1 | 20,000 datagrams |" in text
    assert f"| of clients that stay connected | 40,000 | 2: {BY_KILL} |" in text
    assert "| worker | 3 | " in text
