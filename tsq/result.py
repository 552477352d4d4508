"""What asking one host gave: its samples, and what they say together.

Comes in: samples and the circumstances. Goes out: a frozen HostResult. Knows nothing of connections.
"""

from dataclasses import dataclass

from tsq.config import Target
from tsq.errors import TSQError
from tsq.timing.filter import Estimate, estimate
from tsq.timing.sample import Sample


@dataclass(frozen=True, slots=True)
class HostResult:
    """One host's answers. address: the one that answered; notices: what a user should know; error: why there is no estimate."""

    target: Target
    address: str | None = None
    mode: str | None = None
    alpn: str | None = None
    zero_rtt: bool = False
    samples: tuple[Sample, ...] = ()
    notices: tuple[str, ...] = ()
    error: TSQError | None = None

    @property
    def estimate(self) -> Estimate | None:
        """What the valid samples say together."""
        return estimate(self.samples)

    @property
    def good(self) -> int:
        """How many samples are valid."""
        return sum(sample.valid for sample in self.samples)
