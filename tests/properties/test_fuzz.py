"""The fuzz target itself: it finds nothing in the code, and would find something that is there."""

import pytest

from tests import fuzz
from tests.support import messages, oracle


def test_some_thousand_inputs_are_treated_as_the_oracle_says(capsys):
    assert fuzz.main(["--inputs", "4000", "--seed", "1"]) == 0
    assert "4000 inputs" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_inputs():
    assert fuzz.run(7, count=50) == fuzz.run(7, count=50) == (50, None)


def test_mutation_gives_both_good_and_malformed_messages():
    rng = fuzz.random.Random(1)
    verdicts = [oracle.unpack_message(messages.mutated(rng)) is not None for _ in range(500)]
    assert 50 < sum(verdicts) < 450


@pytest.mark.parametrize("wrong", ["unpack_message", "request_good", "response_good", "ns_from_ntp", "ntp_from_ns"])
def test_a_difference_is_shown_with_its_input(wrong, monkeypatch, capsys):
    # The oracle is made to lie, so that the code differs from it.
    right = getattr(oracle, wrong)
    lies = {"ns_from_ntp": lambda *a: right(*a) + 1, "ntp_from_ns": lambda ns: right(ns) ^ 1}
    monkeypatch.setattr(oracle, wrong, lies.get(wrong, lambda data: not right(data)))
    assert fuzz.main(["--inputs", "2000", "--seed", "1"]) == 1
    shown = capsys.readouterr().out
    assert "expected" in shown
    assert "seed 1, input" in shown


def test_another_exception_is_a_difference(monkeypatch):
    def broken(data):
        raise IndexError(len(data))

    monkeypatch.setattr(fuzz, "decode_request", broken)
    _, difference = fuzz.run(1, count=100)
    assert difference.target == "decode_request"
    assert "IndexError" in difference.found
    bytes.fromhex(difference.given)
