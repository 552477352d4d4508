"""What asking hosts gave: the samples of each, and what they all say together.

Comes in: samples and the circumstances. Goes out: frozen HostResults, and the selection among them. Knows nothing of connections.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tsq.config import Target
from tsq.errors import TSQError
from tsq.timing.filter import DEFAULT_SERVER_ERROR, Estimate, estimate
from tsq.timing.sample import Sample
from tsq.timing.selection import Criteria, Selection, Source, select

# Samples come to an end in nearly the order of time: no more than so many can be under way.
_LATELY = 64


@dataclass(frozen=True, slots=True)
class HostResult:
    """One host's answers. address: the one that answered; notices: what a user should know; error: why there is no estimate.

    assumed_error: what the server's own error is taken for where it does not give it, seconds. state_unknown: the server was asked
    about its own clock, and that question got no answer: it may not be synchronized, and cannot be used.
    """

    target: Target
    address: str | None = None
    mode: str | None = None
    alpn: str | None = None
    zero_rtt: bool = False
    samples: tuple[Sample, ...] = ()
    notices: tuple[str, ...] = ()
    error: TSQError | None = None
    assumed_error: float = DEFAULT_SERVER_ERROR
    state_unknown: bool = False

    @property
    def estimate(self) -> Estimate | None:
        """What the valid samples say together."""
        return estimate(self.samples, self.assumed_error)

    @property
    def good(self) -> int:
        """How many samples are valid."""
        return sum(sample.valid for sample in self.samples)


def selection(results: Sequence[HostResult], at_ns: int | None = None, criteria: Criteria | None = None) -> Selection:
    """What these hosts say together at a local time; None: that of the newest estimate. The verdicts are in the hosts' order."""
    return select([_source(result) for result in results], at_ns, criteria)


def newest_ns(results: Sequence[HostResult]) -> int | None:
    """The local time of the newest sample of all, whether it is valid or not; None where there is none."""
    times = [sample.t4_ns or sample.t1_ns for result in results for sample in result.samples[-_LATELY:]]
    return max(times, default=None)


def _source(result: HostResult) -> Source:
    # Whoever answers at one address and port is one server, by whatever names it was asked.
    identity = "" if result.address is None else f"{result.address} {result.target.port}"
    return Source(
        str(result.target), result.estimate, identity, "" if result.error is None else result.error.found, result.state_unknown
    )
