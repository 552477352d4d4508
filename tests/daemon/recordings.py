"""What recordings are made of in tests: readings, samples, and a small machine whose actions depend on all that it was given."""

from dataclasses import dataclass, field

from tsq.discipline.actions import Action, Level, Log, Poll, SaveDrift, Steer
from tsq.discipline.events import Event, Polled, Reading, Reconfigured, SourceAdded, Started, Tick
from tsq.discipline.settings import ClockSettings, Mode, SourceSettings
from tsq.discipline.status import ClockStatus, Status, Tracking
from tsq.timing.local_clock import ClockReading
from tsq.timing.sample import StampSource, make_sample
from tsq.timing.server_state import ServerState

START_NS = 1_795_399_200_000_000_000
RAW_NS = 5_000_000_000


def reading(second: float) -> Reading:
    elapsed_ns = round(second * 1e9)
    real_ns = START_NS + elapsed_ns + elapsed_ns // 100_000
    return Reading(real_ns, RAW_NS + elapsed_ns, 37, 0, 1e-05, 0, True, 0, 0.001 + second / 7e4)


def polled(name: str, second: float, offset_ns: int = 12_345) -> Polled:
    now = reading(second)
    t1_ns, t4_ns = now.real_ns - 400_000, now.real_ns - 3_000
    kernel = ClockReading(t1_ns, now.difference_ns, 40, 1e-05, 0, True)
    state = ServerState(t4_ns, 1, 2, "GPS", 6, "t", 1e-6, False, 2e-5, 0, False)
    sample = make_sample(
        t1_ns, t1_ns + 190_000 + offset_ns, t1_ns + 200_000 + offset_ns, t4_ns, t1_source=StampSource.KERNEL,
        t4_source=StampSource.KERNEL, server=state, sent=kernel, received=kernel, exact=True,
    )
    return Polled(name, sample, now, "192.0.2.1:443")


def events(seconds: int = 20) -> list[Event]:
    """A small run of a daemon."""
    start: list[Event] = [
        Started("1.2.3", ClockSettings(), reading(0)),
        SourceAdded("a", SourceSettings()),
        SourceAdded("b", SourceSettings(prefer=True), "192.0.2.2:443"),
    ]
    rest: list[Event] = []
    for second in range(1, seconds + 1):
        rest.append(Tick(reading(second)))
        if second % 4 == 0:
            rest.append(polled("a", second + 0.25, 9_000 + 100 * second))
    return start + rest


@dataclass
class Recursive:
    """A machine whose every action depends on all events before."""

    gain: float = 0.1
    mean: float = 0.0
    count: int = 0
    seen: list[Event] = field(default_factory=list)
    now: Reading | None = None
    mode: Mode = Mode.STEER

    def handle(self, event: Event) -> list[Action]:
        self.seen.append(event)
        self.now = getattr(event, "reading", self.now)
        match event:
            case Started():
                self.mode = event.settings.mode
                return [Log(Level.INFO, "start", f"version {event.version}")]
            case Reconfigured(settings):
                self.mode = settings.mode
                return []
            case Polled(name, sample) if sample.offset is not None:
                self.count += 1
                self.mean += self.gain * (sample.offset - self.mean)
                steer = Steer(self.mean / 16, abs(self.mean) + 1e-4, 1e-6, synchronized=True)
                return [steer, SaveDrift(self.mean / 16, 1e-9, (self.gain, 1 - self.gain)), Poll(name)]
            case Tick() if self.count:
                return [Steer(self.mean / 17, abs(self.mean), 1e-6, synchronized=True)]
            case _:
                return []

    def status(self) -> Status:
        now = self.now or reading(0)
        status = ClockStatus.SYNCHRONIZED if self.count else ClockStatus.UNSYNCHRONIZED
        return Status(Tracking(
            self.mode, status, now.real_ns, now.raw_ns, offset=self.mean if self.count else None,
            bound=abs(self.mean) + 1e-4 if self.count else None, updates=self.count, steps=1 if self.count else 0,
            accumulated_steps=0.5 if self.count else 0.0, frequency=1e-6,
        ))  # fmt: skip
