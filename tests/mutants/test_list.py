"""The list of mutations fits the source that it is about: `make mutants` runs it."""

import pytest

from tests.mutants.__main__ import _LEFT_OUT
from tests.mutants.table import mutants

MUTANTS = mutants()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.rule)
def test_each_mutation_can_be_applied_and_names_tests_that_are_there(mutant):
    assert mutant.faults() == []


def test_there_is_a_mutation_for_each_rule_and_no_rule_stands_twice():
    rules = [mutant.rule for mutant in MUTANTS]
    assert len(rules) >= 60
    assert len(set(rules)) == len(rules)


def test_the_copy_that_is_mutated_has_no_device_of_another_system_s_root():
    assert _LEFT_OUT("build", ["cython", "roots", "ntpd-rs"]) == {"roots", "ntpd-rs"}
