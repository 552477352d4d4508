"""The virtual world: an exchange in it measures the configured offset and delay."""

import pytest

from tests.support.world import World


@pytest.mark.parametrize("stream", [False, True])
def test_an_exchange_in_virtual_time_measures_the_configured_offset(certificates, stream):
    world = World(certificates)
    world.server_offset_ns = 250_000_000
    session = world.channel(stream=stream)
    world.run(0.5)
    assert session.established
    for _ in range(3):
        world.exchange(session)
    assert [round(sample.offset, 9) for sample in session.samples] == [0.25] * 3
    assert [round(sample.delay, 9) for sample in session.samples] == [0.002] * 3
    assert all(sample.valid for sample in session.samples)
