"""Which connections may rest: the longest quiet first, and early only those whose clients have done nothing but connect."""

from dataclasses import dataclass

from tests.support.foreign import ForeignClient, path
from tests.support.messages import PLAIN_REQUEST
from tests.support.world import World
from tsq.quic.router import Limits
from tsq.quic.visits import Visits

LIMITS = Limits(rest_after=2.0, early_rest=0.5)
MANY = 101


@dataclass(eq=False)
class Connected:
    """What is asked of a connection here."""

    created: float
    rebuilt: bool = False
    leaving: str = ""


def noted(count: int, *, created: float = 0.0, at: float = 0.0, **options) -> tuple[Visits, list[Connected]]:
    visits, connections = Visits(), [Connected(created, **options) for _ in range(count)]
    for connection in connections:
        visits.note(connection, at)
    return visits, connections


def test_a_connection_may_rest_after_the_time_of_the_limits_and_no_more_than_asked_for():
    visits, connections = noted(3)
    assert visits.quiet(1.99, LIMITS, 10) == []
    assert visits.quiet(2.0, LIMITS, 10) == connections
    assert visits.quiet(2.0, LIMITS, 2) == connections[:2]


def test_work_on_a_connection_puts_it_off():
    visits, (first, second) = noted(2)
    visits.note(first, 0.5)
    visits.note(second, 1.5)
    assert visits.quiet(2.5, LIMITS, 10) == [first]
    assert visits.quiet(3.5, LIMITS, 10) == [second, first]


def test_what_is_forgotten_or_to_be_closed_does_not_rest():
    visits, (first, second, third) = noted(3)
    visits.forget(first)
    visits.forget(first)
    second.leaving = "the server ends"
    assert len(visits) == 2
    assert visits.quiet(9.0, LIMITS, 10) == [third]


def test_where_few_are_awake_none_rests_early():
    visits, _ = noted(MANY - 1)
    assert visits.early(1.0, LIMITS, 4) == []


def test_where_many_are_awake_those_that_only_connected_rest_early():
    visits, connections = noted(MANY)
    assert visits.early(0.49, LIMITS, 4) == []
    assert visits.early(0.5, LIMITS, 4) == connections[:4]


def test_a_client_that_went_on_to_need_the_control_plane_does_not_rest_early():
    visits, connections = noted(MANY, at=1.0)
    assert visits.early(1.9, LIMITS, MANY) == []
    assert visits.quiet(3.0, LIMITS, MANY) == connections


def test_a_connection_that_was_at_rest_before_does_not_rest_early_again():
    visits, _ = noted(MANY, rebuilt=True)
    assert visits.early(1.9, LIMITS, MANY) == []


def test_many_newcomers_let_those_before_them_rest_at_once_and_each_is_still_answered(certificates):
    # In this world the usual time to rest never comes.
    limits = Limits(early_rest=0.5, newcomers=1e6, arrivals=10_000, half_open=10_000, prefix_newcomers=1e6)
    world = World(certificates, data_plane=True, limits=limits)
    clients = [ForeignClient(world, where=path(number)) for number in range(MANY)]
    assert (world.router.count, world.counters.get("rested")) == (MANY, 0)
    later = [ForeignClient(world, where=path(MANY + number)) for number in range(10)]
    assert world.counters.get("rested") == 4 * 3
    assert len(world.router.connections) == MANY + 10 - 12
    for client in [*clients, *later]:
        assert len(client.ask(PLAIN_REQUEST)) == 1
    assert world.counters.get("rebuilt") == 0
