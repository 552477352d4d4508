"""The hand-over between the planes: a connection moves as the table in offload.py says, and in no other way."""

import re
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

import tsq
from tests.dataplane.peer import Peer
from tests.support.world import CLIENT, World
from tsq.dataplane.batches import DataPlane
from tsq.quic.aioquic.offload import TRANSITIONS, Event, HandOver, Holder
from tsq.quic.selfsigned import CertificateFiles

SOURCES = Path(tsq.__file__).parent
PLANES = SOURCES.parent / "docs" / "explanation" / "two-planes.md"


def wake(hand_over: HandOver) -> None:
    """With the session of another connection, as the data plane gives it back."""
    if hand_over.holder is Holder.AIOQUIC:
        hand_over._quic.session = Peer().session
    hand_over.wake()


# What to call for an event.
CALLS: dict[Event, Callable[[HandOver, float], object]] = {
    Event.SHARE: lambda hand_over, now: hand_over.stamped(CLIENT, (bytes(16), 1)),
    Event.HAND_OVER: lambda hand_over, now: hand_over.hand_over(now),
    Event.TAKE_BACK: lambda hand_over, now: hand_over.take_back(),
    Event.REST: lambda hand_over, now: hand_over.rest((hand_over._quic.host_cid,), b"", 60.0, now),
    Event.WAKE: lambda hand_over, now: wake(hand_over),
    Event.DROP: lambda hand_over, now: hand_over.drop(),
}
WAY: dict[Holder, list[Event]] = {
    Holder.AIOQUIC: [],
    Holder.CONTROL: [Event.SHARE],
    Holder.DATA: [Event.SHARE, Event.HAND_OVER],
    Holder.ENDED: [Event.DROP],
}


@pytest.fixture
def world(certificates: CertificateFiles) -> World:
    return World(certificates)


class Recorded(HandOver):
    """A connection that is fit for the data plane and that aioquic holds; `moves`: what moved it."""

    def __init__(self, world: World) -> None:
        world.channel()
        world.run(1.0)
        [connection] = world.router.connections
        self.moves: list[tuple[Holder, Event]] = []
        super().__init__(DataPlane(), connection.quic)

    def _move(self, event: Event) -> None:
        self.moves.append((self.holder, event))
        super()._move(event)


def expected_moves(holder: Holder, event: Event) -> list[tuple[Holder, Event]]:
    """The first hand-over makes the session, too."""
    if (holder, event) in TRANSITIONS:
        return [(holder, event)]
    if (holder, event) == (Holder.AIOQUIC, Event.HAND_OVER):
        return [(Holder.AIOQUIC, Event.SHARE), (Holder.CONTROL, Event.HAND_OVER)]
    return []


@pytest.mark.parametrize(("holder", "event"), [*product(Holder, Event)], ids=lambda value: value.name)
def test_a_connection_moves_as_the_table_says_and_in_no_other_way(world, holder, event):
    connection = Recorded(world)
    for step in WAY[holder]:
        CALLS[step](connection, world.now)
    assert connection.holder is holder
    connection.moves.clear()
    CALLS[event](connection, world.now)
    assert connection.moves == expected_moves(holder, event)
    assert connection.holder is (TRANSITIONS[connection.moves[-1]] if connection.moves else holder)
    assert connection.active == (connection.holder is Holder.DATA)
    assert connection.session is None or connection.session.active == connection.active


def test_every_holder_can_be_reached_and_only_the_last_one_is_an_end():
    assert set(WAY) == set(Holder)
    assert {*TRANSITIONS.values(), Holder.AIOQUIC} == set(Holder)
    assert set(Holder) - {holder for holder, _ in TRANSITIONS} == {Holder.ENDED}


def test_a_connection_that_is_not_fit_stays_where_it_is(world):
    connection = Recorded(world)
    connection._quic._handshake_confirmed = False
    connection.hand_over(world.now)
    assert (connection.holder, connection.session) == (Holder.AIOQUIC, None)
    CALLS[Event.SHARE](connection, world.now)
    connection.hand_over(world.now)
    assert connection.holder is Holder.CONTROL


def test_packet_numbers_never_go_back_on_any_way(world):
    """One number used twice under a key would give the key away."""
    connection = Recorded(world)
    numbers = [connection._quic._packet_number]
    for event in (Event.SHARE, Event.HAND_OVER, Event.TAKE_BACK, Event.HAND_OVER, Event.DROP):
        CALLS[event](connection, world.now)
        if connection.active:
            assert connection.probe(world.now) is not None
        numbers.append(connection._quic._packet_number)
    assert numbers == sorted(numbers)
    assert numbers[-1] == numbers[0] + 2


def test_nothing_but_a_move_starts_or_stops_the_data_plane():
    """A session is active where the table says that the data plane holds its connection."""
    found = [
        (path.name, line.strip())
        for path in SOURCES.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"(?<!self)\.active = ", line)
    ]
    assert found == [("offload.py", "self._quic.session.active = self.holder is Holder.DATA")]


def test_the_page_on_the_planes_shows_the_table():
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| `(\w+)` \|", PLANES.read_text(encoding="utf-8"), re.MULTILINE)
    assert {(Holder[a], Event[b]): Holder[c] for a, b, c in rows} == TRANSITIONS
    assert len(rows) == len(TRANSITIONS)
