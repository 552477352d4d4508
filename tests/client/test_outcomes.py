"""The outcomes of a connection's requests: each is given once, and once more as an exact sample."""

from tsq.client.outcomes import REMEMBERED_BY_SERVER, Outcome, Outcomes
from tsq.timing.sample import Reason, Sample

T = 1_800_000_000_000_000_000


def sample(delay=0.002, *, exact=False):
    return Sample(T, delay=delay, exact=exact)


def test_an_exact_sample_takes_the_place_of_the_one_that_was_not_taken_yet():
    outcomes = Outcomes()
    early, late = sample(), sample(exact=True)
    outcomes.conclude(7, True, early)
    outcomes.conclude(8, True, sample())
    outcomes.revise(early, late)
    assert [(one.number, one.sample.exact) for one in outcomes.take()] == [(7, True), (8, False)]
    assert outcomes.take() == []


def test_an_exact_sample_of_one_that_was_taken_is_one_more_outcome_with_its_number():
    outcomes = Outcomes()
    early, late = sample(), sample(exact=True)
    outcomes.conclude(7, True, early)
    outcomes.take()
    outcomes.revise(early, late)
    assert outcomes.take() == [Outcome(7, late)]
    assert outcomes.ended == 1


def test_the_least_delay_is_that_of_the_exact_forms():
    outcomes = Outcomes()
    early = sample(0.001)
    outcomes.conclude(1, True, early)
    outcomes.conclude(2, True, sample(0.003))
    assert outcomes.least_delay == 0.001
    outcomes.revise(early, sample(0.002, exact=True))
    assert outcomes.least_delay == 0.002


def test_a_request_that_makes_no_sample_shows_only_a_wrong_answer():
    outcomes = Outcomes()
    for reason in (None, Reason.NO_ANSWER, Reason.NOT_SENT, Reason.CONNECTION_LOST):
        outcomes.conclude(1, False, Sample(T, reason=reason))
    assert outcomes.take() == []
    wrong = Sample(T, reason=Reason.SIGNATURE)
    outcomes.conclude(2, False, wrong)
    assert outcomes.take() == [Outcome(2, wrong, counted=False)]


def test_no_answer_can_help_where_all_that_the_server_remembers_are_exact():
    outcomes = Outcomes()
    assert outcomes.exact
    outcomes.conclude(0, True, sample())
    assert not outcomes.exact
    for number in range(REMEMBERED_BY_SERVER):
        outcomes.conclude(1 + number, True, sample(exact=True))
    assert outcomes.exact
