"""The two planes together behave as aioquic alone does, whatever the traffic and the link.

TSQ_SEEDS in the environment: how many seeds, where it is to be more than the usual 40.
"""

import os

import pytest
from aioquic.tls import CipherSuite

from tests.dataplane.arena import Arena

SEEDS = range(int(os.environ.get("TSQ_SEEDS", "40")))
STEPS = 120
SUITES = (CipherSuite.AES_128_GCM_SHA256, CipherSuite.AES_256_GCM_SHA384, CipherSuite.CHACHA20_POLY1305_SHA256)


def run(arena: Arena, steps: int = STEPS) -> Arena:
    arena.establish()
    for _ in range(steps):
        arena.step()
    arena.settle()
    return arena


@pytest.mark.parametrize("seed", SEEDS)
def test_no_protocol_error_and_no_second_answer_on_a_link_that_misbehaves(certificates, seed):
    arena = run(Arena(seed, certificates, lossy=True))
    assert arena.answers


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("suite", SUITES)
def test_every_request_is_answered_where_nothing_is_lost(certificates, seed, suite):
    arena = run(Arena(seed, certificates, lossy=False, suite=suite))
    assert set(arena.answers) == arena.asked
    assert arena.counters.get("dropped", "unknown connection ID") == 0
    assert arena.done["stream answered"] == arena.done["stream"]


def test_the_data_plane_answers_most_of_it(certificates):
    arena = run(Arena(1, certificates, lossy=False), 400)
    assert arena.data_plane is not None
    assert arena.data_plane.answered > len(arena.asked) / 2


@pytest.mark.parametrize("seed", range(10))
def test_aioquic_alone_does_as_well(certificates, seed):
    arena = run(Arena(seed, certificates, lossy=False, data_plane=False))
    assert set(arena.answers) == arena.asked
