"""The outcomes of the requests on one connection, which later answers may make exact (docs/reference/protocol.md R12).

Comes in: the sample of each request that has ended, and the exact forms of samples. Goes out: outcomes, once each, and what is
known of the newest ones. It must never lose an outcome, or show one of a request that makes no sample, except for a wrong answer.
"""

from collections import deque
from dataclasses import dataclass

from tsq.timing.sample import Reason, Sample

# How many of its answers a server remembers (docs/reference/protocol.md R12).
REMEMBERED_BY_SERVER = 4
_RECENT = 64


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a request. number: from `Channel.ask`; an outcome with the same number again is the same sample with its exact T3.

    counted: False for a request that makes no sample, but got a wrong answer, which a user must see.
    """

    number: int
    sample: Sample
    counted: bool = True


class Outcomes:
    """Outcomes that were not taken yet, and the newest valid ones.

    least_delay: of the newest valid ones, seconds. ended: how many outcomes there were; any_exact: whether a later answer has made
    one of them exact.
    """

    def __init__(self) -> None:
        self.least_delay: float | None = None
        self.ended = 0
        self.any_exact = False
        self._waiting: list[Outcome] = []
        self._recent: deque[Outcome] = deque(maxlen=_RECENT)

    @property
    def samples(self) -> list[Sample]:
        """The samples of outcomes that were not taken yet."""
        return [outcome.sample for outcome in self._waiting]

    @property
    def any_valid(self) -> bool:
        """Whether there was a valid sample."""
        return bool(self._recent)

    @property
    def exact(self) -> bool:
        """Whether no later answer can make another sample exact: those that the server remembers are."""
        return all(outcome.sample.exact for outcome in list(self._recent)[-REMEMBERED_BY_SERVER:])

    def take(self) -> list[Outcome]:
        """The outcomes since the last call."""
        taken, self._waiting = self._waiting, []
        return taken

    def conclude(self, number: int, counted: bool, sample: Sample) -> None:
        """A request has ended. counted: whether it makes a sample."""
        harmless = sample.valid or sample.reason in (Reason.NO_ANSWER, Reason.NOT_SENT, Reason.CONNECTION_LOST)
        if not counted and harmless:
            # Else it is a server's fault that a user must see, whatever was asked for.
            return
        self.ended += 1
        outcome = Outcome(number, sample, counted)
        self._waiting.append(outcome)
        if sample.valid:
            oldest = self._recent[0] if len(self._recent) == _RECENT else None
            self._recent.append(outcome)
            self._note_delay(oldest, outcome)

    def revise(self, early: Sample, late: Sample) -> None:
        """A later answer has made a sample exact."""
        self.any_exact = True
        # It is one of the newest.
        for index in range(len(self._recent) - 1, -1, -1):
            outcome = self._recent[index]
            if outcome.sample is early:
                exact = Outcome(outcome.number, late)
                self._recent[index] = exact
                self._note_delay(outcome, exact)
                # In the place of one that was not taken yet.
                for place, waiting in enumerate(self._waiting):
                    if waiting is outcome:
                        self._waiting[place] = exact
                        return
                self._waiting.append(exact)
                return

    def _note_delay(self, gone: Outcome | None, new: Outcome) -> None:
        """One of the recent outcomes is replaced by a new one."""
        least, delay = self.least_delay, new.sample.delay
        if least is not None and delay is not None and delay <= least:
            self.least_delay = delay
        elif least is None or (gone is not None and gone.sample.delay == least):
            self.least_delay = min((one.sample.delay for one in self._recent if one.sample.delay is not None), default=None)
