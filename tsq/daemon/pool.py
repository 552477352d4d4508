"""A name with many addresses as a pool: some of them are used, bad ones are replaced, and it is looked up again and again.

Comes in: the addresses that a look-up found, how polls ended, monotonic seconds. Goes out: which address each place uses, when to
look the name up again. It must never do I/O, nor use an address twice, or one that another source uses.
"""

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Generic, TypeVar

AnyAddress = TypeVar("AnyAddress", bound=Hashable)

# So many bad polls in a row, as many as the reach register has: the server is replaced, if there is another one.
MOST_BAD = 8
# Seconds. Look up again: while places are free, doubled with each look-up that did not fill them; and when all are in use.
FIRST_PAUSE = 16.0
LONGEST_PAUSE = 1024.0
USUAL_PAUSE = 3600.0
# How long a replaced address is not used again, unless there is no other.
BAD_FOR = 86400.0
# How many addresses are kept for later: the names of large pools have other addresses each time.
_MOST_SPARE = 32


@dataclass(slots=True)
class _Place(Generic[AnyAddress]):
    address: AnyAddress | None = None
    bad: int = 0


class Pool(Generic[AnyAddress]):
    """The places of a pool, numbered from 0, and the addresses that they use."""

    def __init__(self, size: int) -> None:
        self._places: list[_Place[AnyAddress]] = [_Place() for _ in range(size)]
        self._spare: list[AnyAddress] = []
        self._bad: dict[AnyAddress, float] = {}
        self._pause = FIRST_PAUSE
        # At once.
        self.look_up_at = -inf

    @property
    def addresses(self) -> list[AnyAddress | None]:
        """The address of each place; None for one that is free."""
        return [place.address for place in self._places]

    @property
    def known(self) -> list[AnyAddress]:
        """All addresses that may be used."""
        return list(self._spare)

    def resize(self, size: int) -> None:
        """Have this many places; the last ones end, or free ones are added."""
        del self._places[size:]
        self._places += [_Place() for _ in range(size - len(self._places))]

    def resolved(self, found: Sequence[AnyAddress], taken: Collection[AnyAddress], now: float) -> list[int]:
        """The name has these addresses; `taken` are used by other sources. The places that have another address now.

        A server that answers stays in use when its address is not among them: names of large pools have other ones each time.
        """
        fresh = [one for one in dict.fromkeys(found) if one not in self._spare]
        self._spare = [*fresh, *self._spare][:_MOST_SPARE]
        self._bad = {one: until for one, until in self._bad.items() if until > now}
        changed = self._fill(taken)
        waits = any(place.address is None or place.bad >= MOST_BAD for place in self._places)
        self.look_up_at = now + (self._pause if waits else USUAL_PAUSE)
        self._pause = min(2 * self._pause, LONGEST_PAUSE) if waits else FIRST_PAUSE
        return changed

    def not_resolved(self, now: float) -> None:
        """The name could not be looked up."""
        self.look_up_at = now + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def polled(self, number: int, good: bool, taken: Collection[AnyAddress], now: float) -> bool:
        """A poll of this place ended. Whether the place has another address now.

        good: the server answered, and its clock is synchronized.
        """
        place = self._places[number]
        if place.address is None:
            return False
        place.bad = 0 if good else place.bad + 1
        return place.bad >= MOST_BAD and self._replace(place, taken, now)

    def replace(self, number: int, taken: Collection[AnyAddress], now: float) -> bool:
        """The server of this place is not to be used any more. Whether the place has another address now."""
        place = self._places[number]
        place.bad = MOST_BAD
        return self._replace(place, taken, now)

    def _replace(self, place: _Place[AnyAddress], taken: Collection[AnyAddress], now: float) -> bool:
        if place.address is not None:
            self._bad[place.address] = now + BAD_FOR
        other = self._choose(taken, bad=False)
        if other is None:
            # Better a bad server than none, until a look-up finds another one.
            self.look_up_at = min(self.look_up_at, now + self._pause)
            return False
        place.address, place.bad = other, 0
        return True

    def _fill(self, taken: Collection[AnyAddress]) -> list[int]:
        changed = []
        for number, place in enumerate(self._places):
            if place.address is not None and place.bad < MOST_BAD:
                continue
            other = self._choose(taken, bad=False)
            if other is None and place.address is None:
                other = self._choose(taken, bad=True)
            if other is not None:
                place.address, place.bad = other, 0
                changed.append(number)
        return changed

    def _choose(self, taken: Collection[AnyAddress], *, bad: bool) -> AnyAddress | None:
        """A spare address that nothing uses. bad: also one that was replaced."""
        used = {place.address for place in self._places}
        for one in self._spare:
            if one not in used and one not in taken and (bad or one not in self._bad):
                return one
        return None
