"""Mutation tests: small changes of meaning in the source, each of which the tests that concern it must notice.

`list.toml` holds the mutations, one for each rule. `python -m tests.mutants` applies them one after another in a copy of the
checkout, and runs the tests that each of them names. It must never change the checkout itself.
"""
