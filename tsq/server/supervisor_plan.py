"""What a supervisor of workers does, without I/O: which workers run, which get new clients, how one generation follows another.

Comes in: what happened, with the monotonic time. Goes out: actions, for the supervisor to perform in their order. Workers have
places, slots 0 to 2N-1: N of each generation. It must never give newcomers to a generation that is not ready as a whole, nor end
the generation that serves because a newer one fails.

    FIRST ──ready──▶ STEADY ──upgrade──▶ LOADING ──ready──▶ RELAYING ──6 s──▶ DRAINING ──all ended──▶ STEADY
      │                 ▲                   │                   │
    failed              └────── failed: the old generation goes on ──────┘
"""

import logging
from dataclasses import dataclass
from enum import Enum, auto

# A worker, or a generation's program, that is not ready by then has failed; seconds, as all times here.
_START_LIMIT = 60.0
# Longer than a handshake may take: when newcomers go to the new generation directly, the old one has no handshake under way.
_RELAY_TIME = 6.0
# A worker that lived so long is started anew at once. The others wait longer and longer.
_LONG_LIFE = 10.0
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 10.0
# How long a worker may take to close its connections when it is to end.
_CLOSE_LIMIT = 5.0


@dataclass(frozen=True, slots=True)
class Load:
    """Start the program of a generation, as it is on disk now, to the point where it can make workers."""

    generation: int


@dataclass(frozen=True, slots=True)
class Unload:
    """End the program that makes workers of a generation."""

    generation: int


@dataclass(frozen=True, slots=True)
class Start:
    """Make a worker."""

    slot: int


@dataclass(frozen=True, slots=True)
class Steer:
    """Give newcomers to this generation, and packets of connections to their workers. living: as `reuseport.steering`'s."""

    newcomers: int
    living: frozenset[int]


@dataclass(frozen=True, slots=True)
class Relay:
    """Let a worker of the old generation pass its newcomers to one of the new generation."""

    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Keep:
    """Let a worker of the old generation pass its newcomers to nobody any more: it keeps them."""

    slot: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Let a worker serve its connections to their end, or to the limit."""

    slot: int


@dataclass(frozen=True, slots=True)
class Close:
    """Let a worker close its connections, and end. drain: so many seconds to refuse new clients, and serve and close the others."""

    slot: int
    drain: float = 0.0


@dataclass(frozen=True, slots=True)
class Kill:
    """End a worker's process at once."""

    slot: int


@dataclass(frozen=True, slots=True)
class Say:
    """A line for the log."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Changed:
    """The first generation serves, or an upgrade has ended. trouble: why the old generation goes on; empty where all is well."""

    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing is left. trouble: why nothing could be served; empty after `stop`."""

    trouble: str = ""


Action = Load | Unload | Start | Steer | Relay | Keep | Drain | Close | Kill | Say | Changed | Ended


class Stage(Enum):
    """Where the generations are."""

    FIRST = auto()
    STEADY = auto()
    LOADING = auto()
    RELAYING = auto()
    DRAINING = auto()
    ENDING = auto()


class Phase(Enum):
    """Where a worker is. WAITING: it is started again at `due`. LEFT: it has no connections any more, and gets no packets."""

    EMPTY = auto()
    WAITING = auto()
    STARTING = auto()
    SERVING = auto()
    ENDING = auto()
    LEFT = auto()


@dataclass(slots=True)
class _Place:
    """A slot. due: when its phase has taken too long, or when to start. failures: deaths in quick succession."""

    phase: Phase = Phase.EMPTY
    since: float = 0.0
    due: float | None = None
    failures: int = 0


_SERVED = (Phase.STARTING, Phase.SERVING, Phase.ENDING)
_PRESENT = (*_SERVED, Phase.LEFT)


class Plan:
    """The decisions for `workers` workers a generation. drain_limit: how long an old generation may serve its connections."""

    def __init__(self, workers: int, drain_limit: float) -> None:
        self.workers = workers
        self.stage = Stage.FIRST
        self.newest = 0
        self.living: frozenset[int] = frozenset()
        self._drain_limit = drain_limit
        self._places = [_Place() for _ in range(2 * workers)]
        self._loaded = [False, False]
        # When a program is to be loaded, and when loading it has failed.
        self._load_due: list[float | None] = [None, None]
        self._load_limit: list[float | None] = [None, None]
        self._stage_due: float | None = None
        self._again = False

    @property
    def deadline(self) -> float | None:
        """When `tick` has something to do; None for never."""
        due = [self._stage_due, *self._load_due, *self._load_limit, *(place.due for place in self._places)]
        return min((one for one in due if one is not None), default=None)

    def serving(self, slot: int) -> bool:
        """Whether this worker takes part in serving: it must answer, or the service does not live."""
        return self._places[slot].phase is Phase.SERVING

    def answered(self, slot: int) -> frozenset[int]:
        """The slots whose unknown connections this worker ends by stateless resets: nobody else can have them."""
        other = (slot + self.workers) % (2 * self.workers)
        alone = slot // self.workers == self.newest and other not in self.living and self.stage is not Stage.RELAYING
        return frozenset({slot, other}) if alone else frozenset({slot})

    def begin(self, now: float) -> list[Action]:
        """Start the first generation."""
        return self._load(0, now)

    def loaded(self, generation: int, now: float) -> list[Action]:
        """A generation's program can make workers."""
        self._loaded[generation] = True
        self._load_limit[generation] = None
        if self.stage in (Stage.FIRST, Stage.LOADING) and generation == self._coming:
            return [action for slot in self._slots(generation) for action in self._start(slot, now)]
        return self.tick(now)

    def unloaded(self, generation: int, why: str, now: float) -> list[Action]:
        """A generation's program has ended."""
        self._loaded[generation] = False
        self._load_limit[generation] = None
        if self.stage in (Stage.FIRST, Stage.LOADING, Stage.RELAYING) and generation == self._coming:
            return self._abort(why, now)
        if generation == self.newest and self.stage is not Stage.ENDING:
            # Its workers go on; it is needed to start others.
            self._load_due[generation] = now + _FIRST_WAIT
            return [Say(logging.WARNING, f"what starts the workers ended ({why}): it is started anew")]
        return []

    def ready(self, slot: int, now: float) -> list[Action]:
        """A worker can serve."""
        place = self._places[slot]
        if place.phase is not Phase.STARTING:
            return []
        place.phase, place.since, place.due = Phase.SERVING, now, None
        if self.stage in (Stage.FIRST, Stage.LOADING):
            return self._all_ready(now) if all(map(self.serving, self._slots(self._coming))) else []
        again: list[Action] = [Say(logging.INFO, f"worker {slot} serves again")]
        other = self._counterpart(slot)
        if self.stage is Stage.RELAYING:
            # It is of the generation that is replaced.
            return [*again, Relay(slot, other)]
        draining = self.stage is Stage.DRAINING and self._places[other].phase in _PRESENT
        return [*again, Relay(other, slot)] if draining else again

    def ended(self, slot: int, why: str, now: float) -> list[Action]:
        """A worker's process is gone."""
        place = self._places[slot]
        before, generation = place.phase, slot // self.workers
        lived = now - place.since if before is Phase.SERVING else 0.0
        place.phase, place.due = Phase.EMPTY, None
        if before not in _PRESENT:
            return []
        if self.stage is Stage.ENDING:
            return self._check_end()
        if self.stage in (Stage.FIRST, Stage.LOADING, Stage.RELAYING) and generation == self._coming:
            return self._abort(f"worker {slot} {why}", now)
        if self.stage in (Stage.RELAYING, Stage.DRAINING) and generation != self._coming:
            return self._old_ended(slot, why, now, expected=before in (Phase.ENDING, Phase.LEFT))
        if generation != self.newest:
            return self._check_halves()
        place.failures = 0 if lived >= _LONG_LIFE else place.failures + 1
        wait = min(_FIRST_WAIT * 2 ** (place.failures - 2), _LONGEST_WAIT) if place.failures > 1 else 0.0
        place.phase, place.due = Phase.WAITING, now + wait
        when = f"in {wait:g} s" if wait else "at once"
        return [Say(logging.ERROR, f"worker {slot} {why}: another one starts {when}"), *self.tick(now)]

    def drained(self, slot: int) -> list[Action]:
        """A worker of the old generation has no connections any more."""
        place = self._places[slot]
        if self.stage is not Stage.DRAINING or place.phase is not Phase.ENDING:
            return []
        place.phase = Phase.LEFT
        # Its last packets go to the new generation before it ends.
        return [self._steer(self.newest), Close(slot)]

    def upgrade(self, now: float) -> list[Action]:
        """Start a new generation, by the program as it is on disk now."""
        if self.stage is not Stage.STEADY:
            if self.stage is not Stage.ENDING:
                self._again = True
                return [
                    Say(logging.INFO, "one generation of workers after the other: the next one starts when this one serves alone")
                ]
            return []
        self.stage = Stage.LOADING
        return [Say(logging.INFO, "a new generation of workers starts"), *self._load(self._coming, now)]

    def stop(self, now: float, drain: float = 0.0) -> list[Action]:
        """Close all connections, and end, after `drain` seconds at most. A second call ends it at once."""
        self.stage = Stage.ENDING
        self._load_due = [None, None]
        self._stage_due = now + drain + _CLOSE_LIMIT
        actions: list[Action] = []
        for slot, place in enumerate(self._places):
            if place.phase in _PRESENT:
                place.phase, place.due = Phase.ENDING, None
                actions.append(Close(slot, drain))
            else:
                place.phase, place.due = Phase.EMPTY, None
        return actions + self._check_end()

    def tick(self, now: float) -> list[Action]:
        """Do what is due."""
        actions: list[Action] = []
        for generation in (0, 1):
            actions += self._tick_program(generation, now)
        for slot, place in enumerate(self._places):
            if place.due is None or place.due > now:
                continue
            if place.phase is Phase.WAITING:
                if self._loaded[slot // self.workers]:
                    actions += self._start(slot, now)
                else:
                    # `loaded` comes back to it.
                    place.due = now + _LONGEST_WAIT
            else:
                place.due = None
                actions += [Say(logging.ERROR, f"worker {slot} takes too long: it is killed"), Kill(slot)]
        if self._stage_due is not None and self._stage_due <= now:
            actions += self._stage_over(now)
        return actions

    @property
    def _coming(self) -> int:
        """The generation that is to serve next; during DRAINING, the one that took over."""
        return 1 - self.newest if self.stage in (Stage.LOADING, Stage.STEADY, Stage.RELAYING) else self.newest

    def _slots(self, generation: int) -> range:
        return range(generation * self.workers, (generation + 1) * self.workers)

    def _counterpart(self, slot: int) -> int:
        """The same worker of the other generation."""
        return (slot + self.workers) % (2 * self.workers)

    def _load(self, generation: int, now: float) -> list[Action]:
        self._load_due[generation] = None
        self._load_limit[generation] = now + _START_LIMIT
        return [Load(generation)]

    def _start(self, slot: int, now: float) -> list[Action]:
        place = self._places[slot]
        place.phase, place.since, place.due = Phase.STARTING, now, now + _START_LIMIT
        return [Start(slot)]

    def _tick_program(self, generation: int, now: float) -> list[Action]:
        due, limit = self._load_due[generation], self._load_limit[generation]
        if due is not None and due <= now:
            return self._load(generation, now)
        if limit is not None and limit <= now:
            return [Unload(generation), *self.unloaded(generation, f"was not ready in {_START_LIMIT:g} s", now)]
        return []

    def _steer(self, newcomers: int) -> Steer:
        other = self._slots(1 - newcomers)
        self.living = frozenset(slot for slot in other if self._places[slot].phase in _SERVED)
        return Steer(newcomers, self.living)

    def _all_ready(self, now: float) -> list[Action]:
        """Every worker of the coming generation serves."""
        if self.stage is Stage.FIRST:
            self.stage = Stage.STEADY
            return [self._steer(0), Changed(), *self._next(now)]
        self.stage = Stage.RELAYING
        self._stage_due = now + _RELAY_TIME
        # First the way for packets of connections that the new generation opens, then its newcomers.
        actions: list[Action] = [self._steer(self.newest)]
        return actions + [Relay(old, self._counterpart(old)) for old in self._slots(self.newest) if self.serving(old)]

    def _stage_over(self, now: float) -> list[Action]:
        self._stage_due = None
        if self.stage is Stage.RELAYING:
            return self._switch(now)
        # DRAINING or ENDING: too late for what is still there.
        return [Kill(slot) for slot, place in enumerate(self._places) if place.phase in (Phase.ENDING, Phase.LEFT)]

    def _switch(self, now: float) -> list[Action]:
        """The new generation gets newcomers, the old one drains."""
        old = self.newest
        self.newest = self._coming
        self.stage = Stage.DRAINING
        self._stage_due = now + self._drain_limit + _CLOSE_LIMIT
        actions: list[Action] = []
        for slot in self._slots(old):
            place = self._places[slot]
            if place.phase in _PRESENT:
                place.phase, place.due = Phase.ENDING, None
                actions.append(Drain(slot))
            else:
                place.phase, place.due = Phase.EMPTY, None
        said = Say(logging.INFO, "the new generation of workers serves; the old one ends with its connections")
        return [self._steer(self.newest), *actions, said, Changed(), *self._check_drained(now)]

    def _old_ended(self, slot: int, why: str, now: float, *, expected: bool) -> list[Action]:
        """A worker of the generation that is replaced is gone."""
        said: list[Action] = [] if expected else [Say(logging.ERROR, f"worker {slot} of the old generation {why}")]
        if self.stage is Stage.RELAYING:
            # Nobody passes its newcomers on.
            return said + self._switch(now)
        return [*said, self._steer(self.newest), *self._check_drained(now)]

    def _check_drained(self, now: float) -> list[Action]:
        old = 1 - self.newest
        if any(self._places[slot].phase in _PRESENT for slot in self._slots(old)):
            return []
        self.stage = Stage.STEADY
        self._stage_due = None
        return [*self._unload(old), Say(logging.INFO, "the old generation of workers has ended"), *self._next(now)]

    def _next(self, now: float) -> list[Action]:
        """The upgrade that was asked for meanwhile."""
        if not self._again:
            return []
        self._again = False
        return self.upgrade(now)

    def _abort(self, why: str, now: float) -> list[Action]:
        """The coming generation has failed."""
        coming, relaying = self._coming, self.stage is Stage.RELAYING
        actions: list[Action] = []
        for slot in self._slots(coming):
            place = self._places[slot]
            if place.phase in _PRESENT:
                actions.append(Kill(slot))
            # Whatever happens to its process from now on has no meaning.
            place.phase, place.due, place.failures = Phase.EMPTY, None, 0
        actions += self._unload(coming)
        self._stage_due = None
        if self.stage is Stage.FIRST:
            self.stage = Stage.ENDING
            return [*actions, Ended(why)]
        self.stage = Stage.STEADY
        if relaying:
            # Whom the old workers pass their newcomers to is gone.
            actions += [self._steer(self.newest), *(Keep(slot) for slot in self._slots(self.newest) if self.serving(slot))]
        trouble = f"the new generation of workers failed, the old one goes on: {why}"
        return [*actions, Say(logging.ERROR, trouble), Changed(trouble), *self._next(now)]

    def _unload(self, generation: int) -> list[Action]:
        self._loaded[generation] = False
        self._load_due[generation] = self._load_limit[generation] = None
        return [Unload(generation)]

    def _check_halves(self) -> list[Action]:
        return [self._steer(self.newest)] if self.living else []

    def _check_end(self) -> list[Action]:
        if any(place.phase in _PRESENT for place in self._places):
            return []
        self._stage_due = None
        return [Ended()]
