"""What the parts of the machine share: the settings, the newest reading, and the actions for the present event.

Comes in: values, set by the machine. Goes out: the same values, and log lines among the actions. It must never decide anything.
"""

from dataclasses import dataclass, field

from tsq.discipline.actions import Action, Level, Log
from tsq.discipline.events import Reading
from tsq.discipline.settings import ClockSettings, Mode


@dataclass(slots=True)
class Context:
    """settings: of the clock. now: the newest reading. out: what is to be done, in this order."""

    settings: ClockSettings = field(default_factory=ClockSettings)
    now: Reading = field(default_factory=lambda: Reading(0, 0))
    out: list[Action] = field(default_factory=list)

    @property
    def steers(self) -> bool:
        """Whether the clock may be touched at all."""
        return self.settings.mode is Mode.STEER

    def log(self, level: Level, kind: str, text: str) -> None:
        """A line for the operator."""
        self.out.append(Log(level, kind, text))
