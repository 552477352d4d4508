"""What a soak of the server found, and whether that is right: no processes, no clock.

Comes in: looks at processes, losses, events, counters, the log. Goes out: a table and problems. A loss has a name only where an
event explains it: a killed worker costs each of its clients one request, a flood what the kernel says did not fit the sockets.
"""

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

KILL, UPGRADE, RELOAD = "worker killed", "new generation (SIGUSR2)", "reload (SIGHUP)"
KEYS, MOVE, REBIND = "key updates", "migration to another port", "NAT that forgets its ports"
FLOODS = tuple(f"flood of {what}" for what in ("valid Initials", "undecryptable Initials", "replayed Initials", "short headers"))
KINDS = (*FLOODS, KEYS, MOVE, REBIND, RELOAD, UPGRADE, KILL)
BY_KILL, BY_FLOOD = "its worker was killed", "did not fit the socket during a flood"
# Seconds. After a worker serves again, a client may still have to learn that its connection is gone, with its next request.
AFTERWARDS = 10.0
# A worker reports its counts once a second; a killed one takes the last ones with it.
_UNREPORTED = 3.0
# KiB, of one process and of all, from one quarter of the time to the last one; descriptors.
MOST_MORE_KIB = 4096
MOST_MORE_FILES = 4
# Seconds of a process's life: what it takes at first, and what tells something.
WARMING, LEAST_LIFE = 20.0, 60.0
_LEAST_LOOKS = 8
_LEVEL = re.compile(r"\b(ERROR|CRITICAL)\b")


@dataclass(frozen=True, slots=True)
class Look:
    """A process at one moment. role: supervisor, starter of workers, worker. rss, pss: KiB; cpu: seconds."""

    at: float
    pid: int
    role: str
    slot: int
    rss: int
    pss: int
    files: int
    cpu: float


@dataclass(frozen=True, slots=True)
class Loss:
    """A request without an answer, from when it was made to when it was given up."""

    began: float
    at: float
    who: str
    why: str


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was done to the server or the clients."""

    kind: str
    begin: float
    end: float
    count: int = 1

    def overlaps(self, loss: Loss, afterwards: float) -> bool:
        return loss.began <= self.end + afterwards and loss.at >= self.begin


@dataclass
class Found:
    """All of a run. counters: of each scrape, in order; dropped: datagrams that did not fit the server's sockets."""

    seconds: float = 0.0
    looks: list[Look] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    counters: list[dict[str, float]] = field(default_factory=list)
    dropped: int = 0
    log: str = ""
    problems: list[str] = field(default_factory=list)

    def done(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]


def named(found: Found) -> dict[Loss, str]:
    """Loss -> its name; empty where nothing explains it."""
    names: dict[Loss, str] = {}
    blamed: set[tuple[str, Event]] = set()
    room = found.dropped
    for loss in sorted(found.losses, key=lambda one: one.began):
        names[loss] = ""
        for event in found.done(KILL):
            if event.overlaps(loss, AFTERWARDS) and (loss.who, event) not in blamed:
                blamed.add((loss.who, event))
                names[loss] = BY_KILL
                break
        if not names[loss] and room and any(event.overlaps(loss, 1.0) for kind in FLOODS for event in found.done(kind)):
            room -= 1
            names[loss] = BY_FLOOD
    return names


def growth(looks: Sequence[Look], what: str) -> tuple[float, float]:
    """(median of the second quarter of the time, of the last quarter)."""
    begin, end = looks[0].at, looks[-1].at
    quarter = (end - begin) / 4
    early = [getattr(look, what) for look in looks if begin + quarter <= look.at <= begin + 2 * quarter]
    late = [getattr(look, what) for look in looks if look.at >= end - quarter]
    return (statistics.median(early), statistics.median(late)) if early and late else (0.0, 0.0)


def processes(looks: Sequence[Look]) -> dict[int, list[Look]]:
    """The looks at each process, in order."""
    by: dict[int, list[Look]] = defaultdict(list)
    for look in looks:
        by[look.pid].append(look)
    return dict(by)


def _grown(found: Found) -> Iterator[str]:
    """Processes that grow while they live; generations of workers that are larger than those before."""
    for pid, all_looks in processes(found.looks).items():
        looks = [look for look in all_looks if look.at >= all_looks[0].at + WARMING]
        if len(looks) < _LEAST_LOOKS or looks[-1].at - looks[0].at < LEAST_LIFE - WARMING:
            continue
        for what, most, unit in (("rss", MOST_MORE_KIB, "KiB"), ("files", MOST_MORE_FILES, "descriptors")):
            early, late = growth(looks, what)
            if late > early + most:
                yield f"{looks[0].role} (process {pid}) grew from {early:.0f} to {late:.0f} {unit}"
    lives = [looks for looks in processes(found.looks).values() if looks[0].role == "worker" and len(looks) >= _LEAST_LOOKS]
    third = len(lives) // 3
    if third >= 2:
        for what, most in (("rss", MOST_MORE_KIB), ("files", MOST_MORE_FILES)):
            sizes = [max(getattr(look, what) for look in looks) for looks in sorted(lives, key=lambda looks: looks[0].at)]
            early, late = statistics.median(sizes[:third]), statistics.median(sizes[-third:])
            if late > early + most:
                yield f"later workers are larger than the first ones: {what} {late:.0f}, not {early:.0f}"


def _counted(found: Found) -> Iterator[str]:
    """Counters that went back, or do not agree with what was done."""
    for earlier, later in zip(found.counters, found.counters[1:], strict=False):
        for name, value in earlier.items():
            if later.get(name, 0.0) < value:
                yield f"the counter {name} went back from {value:g} to {later.get(name, 0.0):g}"
    if not found.counters:
        yield "there are no counters"
        return
    last, kills, upgrades = found.counters[-1], len(found.done(KILL)), len(found.done(UPGRADE))
    deaths = last.get("tsq_server_worker_deaths_total", 0.0)
    if deaths != kills:
        yield f"{deaths:g} workers died, {kills} were killed"
    good = last.get("tsq_server_upgrades_total{result=good}", 0.0)
    if good != upgrades:
        yield f"{good:g} new generations served, {upgrades} were asked for"
    counted, answered = last.get("tsq_server_answered_total", 0.0), found.answered.total()
    spare = _UNREPORTED * kills * answered / max(found.seconds, 1.0)
    if counted + spare < answered:
        yield f"the server counted {counted:g} answers, clients got {answered}"


def _logged(found: Found) -> Iterator[str]:
    """What should not be in the log. Each killed worker is one error there."""
    lines = found.log.splitlines()
    for word in ("Traceback", "Task exception", "never awaited"):
        yield from (f"the log has {word!r}: {' / '.join(lines[at : at + 12])}" for at, line in enumerate(lines) if word in line)
    errors = [line for line in lines if _LEVEL.search(line)]
    deaths = [line for line in errors if "SIGKILL" in line]
    yield from (f"an error in the log: {line}" for line in errors if line not in deaths)
    if len(deaths) > len(found.done(KILL)):
        yield f"the log has {len(deaths)} workers ended by SIGKILL, {len(found.done(KILL))} were killed"


def _around(found: Found, loss: Loss) -> str:
    """What was done from half a minute before a loss, in seconds from when its request was made."""
    near = [event for event in found.events if event.end >= loss.began - 30 and event.begin <= loss.at]
    told = [f"{event.kind} {event.begin - loss.began:+.1f} to {event.end - loss.began:+.1f}" for event in near]
    return f"; before and during it: {', '.join(told)}" if told else ""


def verdict(found: Found) -> list[str]:
    """All that is wrong."""
    lost = [f"lost without a name: {loss}{_around(found, loss)}" for loss, name in named(found).items() if not name]
    if not found.answered.total():
        lost.append("there are no answers")
    return [*found.problems, *lost, *_grown(found), *_counted(found), *_logged(found)]


def table(found: Found) -> Iterator[str]:
    """The lines to print: Markdown."""
    names, clients = Counter(named(found).values()), found.answered
    yield f"{found.seconds / 60:.1f} minutes; {len(found.looks)} looks at {len(processes(found.looks))} processes."
    yield ""
    yield "| what was done | times | how much |"
    yield "|---|---|---|"
    for kind in KINDS:
        events = found.done(kind)
        unit = "datagrams" if kind in FLOODS else "connections" if kind in (KEYS, MOVE, REBIND) else ""
        yield f"| {kind} | {len(events)} | {f'{sum(event.count for event in events):,} {unit}' if unit else ''} |"
    yield ""
    yield "| requests | answered | lost |"
    yield "|---|---|---|"
    for who, text in (("client", "of clients that stay connected"), ("newcomer", "of new connections, one each")):
        lost = [name or "without a name" for loss, name in named(found).items() if loss.who.startswith(who)]
        told = "; ".join(f"{count}: {name}" for name, count in Counter(lost).items())
        yield f"| {text} | {clients[who]:,} | {told or '0'} |"
    yield f"| datagrams of floods that did not fit the server's sockets | | {found.dropped:,} |"
    yield ""
    yield "| process | how many | RSS, MB: first, median, last | PSS, MB: the same | descriptors: first, most, last | CPU, s |"
    yield "|---|---|---|---|---|---|"
    for role in dict.fromkeys(look.role for look in found.looks):
        looks = [look for look in found.looks if look.role == role]
        by = processes(looks)
        cells = []
        for what in ("rss", "pss"):
            values = [getattr(look, what) / 1024 for look in looks]
            cells.append(f"{values[0]:.1f}, {statistics.median(values):.1f}, {values[-1]:.1f}")
        files = [look.files for look in looks]
        cells.append(f"{files[0]}, {max(files)}, {files[-1]}")
        cells.append(f"{sum(one[-1].cpu for one in by.values()):.1f}")
        yield f"| {role} | {len(by)} | {' | '.join(cells)} |"
    if names[""]:
        yield f"\n{names['']} requests were lost without a name."
