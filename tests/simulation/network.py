"""Clocks, links and servers in virtual time, and the exchanges of one client with one server.

True time is integer ns. The client is the real Exchange, the server the real Responder, and the messages are real bytes. Only QUIC
is left out: it would carry the messages and drop second copies. Nothing sleeps, and all chance comes from a seeded generator.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from tsq._fast import ntp_from_ns
from tsq.client.exchange import Exchange, Rules
from tsq.server.responder import Draft, Responder
from tsq.timing.local_clock import ClockReading
from tsq.timing.sample import Reason, Sample, StampSource
from tsq.wire.message import ClockQuality, Mode, TimeSource, metadata_tlv
from tsq.wire.tlv import LEAP, ROOT_DELAY, ROOT_DISPERSION, SMEAR

START_NS = 1_800_000_000_000_000_000
MS = 1_000_000
SECOND = 1_000_000_000
PPM = 1e-6


@dataclass
class Clock:
    """A clock that is wrong by error_ns at START, with the frequency error rate (seconds per second).

    jumps: (true time, ns added from then on). slews: (from, to: true times, additional rate). frequency: the kernel's correction of
    the raw clock, included in `rate`. synchronized: the kernel's report; None: there is no raw clock to read. by_frequency: slews
    change the kernel's frequency, as chronyd does. denied: the kernel's state cannot be read.
    """

    error_ns: int = 0
    rate: float = 0.0
    jumps: list[tuple[int, int]] = field(default_factory=list)
    slews: list[tuple[int, int, float]] = field(default_factory=list)
    frequency: float = 0.0
    synchronized: bool | None = None
    by_frequency: bool = False
    denied: bool = False
    width_ns: int = 100

    def wrong_ns(self, true_ns: int) -> float:
        """How far the clock is ahead."""
        jumped = sum(jump for at, jump in self.jumps if true_ns >= at)
        slewed = sum(rate * (min(true_ns, end) - begin) for begin, end, rate in self.slews if true_ns > begin)
        return self.error_ns + self.rate * (true_ns - START_NS) + jumped + slewed

    def reading(self, true_ns: int, rng: Random) -> ClockReading | None:
        """A reading of the clock and the raw clock, with an error because two clocks cannot be read at the same instant."""
        if self.synchronized is None:
            return None
        at_ns = self.read(true_ns)
        raw_ns = int((true_ns - START_NS) * (1 + self.rate) / (1 + self.frequency))
        if self.denied:
            return ClockReading(at_ns, at_ns - raw_ns + rng.randint(-self.width_ns, self.width_ns), self.width_ns + 2)
        slewing = sum(rate for begin, end, rate in self.slews if begin <= true_ns < end) if self.by_frequency else 0.0
        difference_ns = at_ns - raw_ns + rng.randint(-self.width_ns, self.width_ns)
        return ClockReading(at_ns, difference_ns, self.width_ns + 2, self.frequency + slewing, 0, self.synchronized)

    def read(self, true_ns: int) -> int:
        """The clock's time, rounded down to a nanosecond."""
        return true_ns + int(self.wrong_ns(true_ns) // 1)

    def offset_at(self, local_ns: int) -> float:
        """The true offset, seconds, when the clock shows this time; for a clock without jumps."""
        passed = (local_ns - START_NS - self.error_ns) / (1 + self.rate)
        return -(self.error_ns + self.rate * passed) / 1e9


@dataclass
class Link:
    """A network path to a server: one-way delays, the mean queueing delay, and the chances of loss and duplication."""

    there_ns: int
    back_ns: int
    queue_ns: float = 0.0
    loss: float = 0.0
    doubling: float = 0.0

    def copies(self, rng: Random, there: bool) -> list[int]:
        """The delay of each copy that arrives, in any order."""
        count = 1 + (rng.random() < self.doubling)
        base = self.there_ns if there else self.back_ns
        arriving = sum(rng.random() >= self.loss for _ in range(count))
        return [base + (int(rng.expovariate(1 / self.queue_ns)) if self.queue_ns else 0) for _ in range(arriving)]


@dataclass
class Server:
    """A server with its clock and its report about that clock.

    reported: its answer to a Metadata Query; None: nothing. forge: (T2, T3) -> the false values that it sends. dies_ns: the true
    time from which it is silent. work_ns: between T2 and T3. early_ns: between T3 and the wire.
    """

    clock: Clock
    link: Link
    reported: "Reported | None" = None
    forge: Callable[[int, int], tuple[int, int]] | None = None
    dies_ns: int | None = None
    work_ns: int = 50_000
    early_ns: int = 10_000
    sends_exact: bool = True
    # (true time, the report from then on).
    later: list[tuple[int, "Reported"]] = field(default_factory=list)


@dataclass
class Reported:
    """A server's report: its error in seconds, in TLV 248 alone, or in_full: with the keys of R13."""

    error: float
    stratum: int = 2
    leap: int | None = 0
    smeared: bool | None = None
    in_full: bool = True

    def tlvs(self) -> tuple[tuple[int, bytes], ...]:
        quality = ClockQuality(3, max(1, -int(-self.error * 1e6 // 1)), 15000, "sim")
        pairs = {}
        if self.in_full:
            error_ns = -int(-self.error * 1e9 // 1)
            # A third of it is half the root delay.
            pairs = {ROOT_DELAY: str(2 * (error_ns // 3)), ROOT_DISPERSION: str(error_ns - error_ns // 3)}
        if self.leap is not None:
            pairs[LEAP] = str(self.leap)
        if self.smeared is not None:
            pairs[SMEAR] = str(int(self.smeared))
        return quality.tlv(), TimeSource(self.stratum, 3, "sim").tlv(), *([metadata_tlv(pairs)] if pairs else [])


@dataclass
class Plan:
    """The polling of a client. stamps_ns: the largest error of T1 and T4, each towards its safe side."""

    count: int = 4
    interval_ns: int = 100 * MS
    timeout_ns: int = SECOND
    stamps_ns: int = 2_000


class Client:
    """A client with its clock."""

    def __init__(self, clock: Clock, rng: Random) -> None:
        self.clock = clock
        self._rng = rng

    def ask(self, server: Server, plan: Plan, rules: Rules | None = None, begin_ns: int = START_NS) -> "Run":
        """All exchanges with one server."""
        return Run(self, server, plan, rules or Rules(precision_ns=1), self._rng, begin_ns)


class Run:
    """The exchanges of one client with one server; `samples`: the results."""

    def __init__(self, client: Client, server: Server, plan: Plan, rules: Rules, rng: Random, begin_ns: int) -> None:
        self.samples: list[Sample] = []
        # The true time at which each sample was made.
        self.came_ns: list[int] = []
        self.exchange = Exchange(rules, nonces=rng.randbytes)
        self.sent = 0
        self._clock = client.clock
        self._server = server
        self._plan = plan
        self._rng = rng
        self._responder = Responder(clock_info=server.reported.tlvs() if server.reported is not None else ())
        self._transmit_times: list[str] = []
        self._events: list[tuple[int, int, Callable[[int, bytes], None], bytes]] = []
        self._number = 0
        for number in range(plan.count):
            self._at(begin_ns + number * plan.interval_ns, self._request, b"")
        while self._events:
            at_ns, _, action, data = heapq.heappop(self._events)
            action(at_ns, data)

    def _at(self, at_ns: int, action: Callable[[int, bytes], None], data: bytes) -> None:
        self._number += 1
        heapq.heappush(self._events, (at_ns, self._number, action, data))

    def _request(self, now_ns: int, _: bytes) -> None:
        nonce, message = self.exchange.request(Mode.DATAGRAM, (now_ns - START_NS) / 1e9)
        self.sent += 1
        # The error of T1, which is always early.
        early_ns = int(self._rng.random() * self._plan.stamps_ns)
        reading = self._clock.reading(now_ns - early_ns, self._rng)
        self.exchange.sent(nonce, self._clock.read(now_ns - early_ns), StampSource.USER, reading)
        copies = self._server.link.copies(self._rng, there=True)
        if copies:
            # QUIC accepts each packet once.
            self._at(now_ns + min(copies), self._serve, message)
        self._at(now_ns + self._plan.timeout_ns, self._give_up, nonce)

    def _serve(self, now_ns: int, message: bytes) -> None:
        server = self._server
        if server.dies_ns is not None and now_ns >= server.dies_ns:
            return
        rng = self._rng
        # T2 is late and T3 is early, each by a part of the server's processing time.
        t2_ns = server.clock.read(now_ns + int(rng.random() * server.early_ns))
        left_ns = now_ns + server.early_ns + int(rng.random() * server.work_ns) + server.early_ns
        t3_ns = server.clock.read(left_ns - int(rng.random() * server.early_ns))
        if server.forge is not None:
            t2_ns, t3_ns = server.forge(t2_ns, t3_ns)
        for at_ns, reported in server.later:
            if now_ns >= at_ns:
                self._responder.clock_info = reported.tlvs()
        draft = self._responder.prepare(message, t2_ns, Mode.DATAGRAM)
        assert isinstance(draft, Draft)
        if draft.exact and server.sends_exact:
            nonce = draft.nonce
            if self._transmit_times:
                draft = draft.with_exact_t3(self._transmit_times.pop(0))
            transmit_ns = t3_ns if server.forge is not None else server.clock.read(left_ns)
            self._transmit_times = [*self._transmit_times[-3:], f"{nonce[:8].hex()}{ntp_from_ns(transmit_ns):016x}"]
        answer = draft.complete(t3_ns)
        if not isinstance(answer, bytes):
            return
        for delay_ns in server.link.copies(rng, there=False):
            self._at(left_ns + delay_ns, self._receive, answer)

    def _receive(self, now_ns: int, answer: bytes) -> None:
        late_ns = int(self._rng.random() * self._plan.stamps_ns)
        reading = self._clock.reading(now_ns + late_ns + self._plan.stamps_ns, self._rng)
        sample = self.exchange.answer(answer, self._clock.read(now_ns + late_ns), StampSource.KERNEL, reading=reading)
        if sample is not None:
            self.samples.append(sample)
            self.came_ns.append(now_ns + late_ns + self._plan.stamps_ns)
        if self.exchange.revised is not None:
            early, late = self.exchange.revised
            for place in range(len(self.samples) - 1, -1, -1):
                if self.samples[place] is early:
                    self.samples[place] = late
                    break

    def _give_up(self, now_ns: int, nonce: bytes) -> None:
        sample = self.exchange.give_up(nonce, Reason.NO_ANSWER)
        if sample is not None:
            self.samples.append(sample)
            self.came_ns.append(now_ns)
