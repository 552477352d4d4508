"""Results of asking hosts: the samples of each host, and the selection among the hosts.

Comes in: samples, and facts about the connection. Goes out: frozen HostResults and the Selection among them. It must never touch a
connection.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from ipaddress import IPv6Address
from typing import Any

from tsq.errors import ConfigError, NoAnswer, TSQError
from tsq.options import Target
from tsq.timing.filter import DEFAULT_SERVER_ERROR, Estimate, estimate
from tsq.timing.intersection import with_bound
from tsq.timing.local_clock import ClockReading
from tsq.timing.sample import Sample, newest
from tsq.timing.selection import Criteria, Selection, Source, Unused, Verdict, select

# Keys of an estimate, as they stand before and after the verdict on the host in `to_dict`.
_TIME = ("at_ns", "offset", "root_distance", "delay", "jitter")
_SERVER = (
    "server_error", "server_error_known", "stratum", "leap", "smeared", "source", "source_type", "clock_class", "clock_tag",
    "bad_values", "drift", "drift_error",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HostResult:
    """One host's answers. address: the one that answered; notices: what a user should know; error: why there is no estimate.

    assumed_error: the server's own error where the server does not report it, seconds. state_unknown: the server was asked about
    its own clock and did not answer that question: it may not be synchronized, and is not used. metadata: what the server's
    operator says about it, not escaped.
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
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __repr__(self) -> str:
        found = self.estimate
        text = repr(self.error) if found is None else with_bound(found.offset, found.root_distance)
        return f"<{type(self).__name__} {self.target} {text}, {self.good} of {len(self.samples)} samples>"

    def to_dict(self, verdict: Verdict | None = None) -> dict[str, Any]:
        """The host as `tsq-client --json` prints it (docs/reference/cli.md).

        verdict: how a selection used this host; its estimate is the one that is shown. None: select from this host alone.
        """
        verdict = verdict or selection([self]).verdicts[0]
        found = verdict.source.estimate
        values: dict[str, Any] = {"server_error_known": False} if found is None else found.to_dict()
        if self.good < 2:
            values["jitter"] = None
        return {
            "host": self.target.host,
            "address": self.address,
            "port": self.target.port,
            "mode": self.mode,
            "alpn": self.alpn,
            "zero_rtt": self.zero_rtt,
            **{key: values.get(key) for key in _TIME},
            "samples": [sample.to_dict() for sample in self.samples],
            "notices": list(self.notices),
            **({"error": None, "error_kind": None} if self.error is None else self.error.to_dict()),
            **verdict.to_dict(),
            **{key: values.get(key) for key in _SERVER},
            "metadata": dict(self.metadata),
        }

    @property
    def estimate(self) -> Estimate | None:
        """What the valid samples say together at the newest one's T4."""
        return estimate(self.samples, self.assumed_error)

    def estimate_at(self, at_ns: int, now: ClockReading | None = None) -> Estimate | None:
        """What they say together at a local time. now: a reading of the clock at that time."""
        return estimate(self.samples, self.assumed_error, at_ns, now=now)

    @property
    def unused(self) -> Unused | None:
        """Why the estimate must not be used, whatever other hosts say: for example, the server reports that its clock is not
        synchronized, or did not answer that question. None: it may be used.
        """
        return selection([self]).verdicts[0].unused

    @property
    def good(self) -> int:
        """How many samples are valid."""
        return sum(sample.valid for sample in self.samples)


@dataclass(frozen=True, slots=True, repr=False)
class QueryResult(HostResult):
    """A host's answers of which at least one is valid, so that there is an estimate."""

    def __post_init__(self) -> None:
        if self.error is not None:
            raise self.error
        if not self.good:
            raise NoAnswer(f"no valid sample of {self.target}")

    @classmethod
    def of(cls, result: HostResult) -> "QueryResult":
        """The same result; raises its error where there is no estimate."""
        return cls(**{one.name: getattr(result, one.name) for one in fields(result)})

    @property
    def estimate(self) -> Estimate:
        """What the valid samples say together at the newest one's T4."""
        found = estimate(self.samples, self.assumed_error)
        assert found is not None
        return found


def selection(
    results: Sequence[HostResult],
    at_ns: int | None = None,
    criteria: Criteria | None = None,
    *,
    now: ClockReading | None = None,
) -> Selection:
    """What these hosts say together at a local time. The verdicts are in the hosts' order.

    now: the time as a reading of the clock, which also shows whether the clock was slewed or stepped since the samples were taken.
    None: the reading of the newest valid sample; if at_ns is None, too, the time is that sample's T4.
    """
    if now is not None:
        if not isinstance(now, ClockReading):
            raise ConfigError(f"now {now!r}", expected="a tsq.ClockReading", advice="write now=tsq.clock_reading()")
        at_ns = now.at_ns
    else:
        last = newest(sample for result in results for sample in result.samples)
        now = None if last is None else last.received
        at_ns = last.t4_ns if at_ns is None and last is not None else at_ns
    return select([_source(result, at_ns, now) for result in results], at_ns, criteria)


def _source(result: HostResult, at_ns: int | None, now: ClockReading | None) -> Source:
    # One address and port is one server, whatever name was used for it.
    identity = "" if result.address is None else f"{_plain(result.address)} {result.target.port}"
    found = None if at_ns is None else result.estimate_at(at_ns, now)
    detail = "" if result.error is None else result.error.found
    return Source(str(result.target), found, identity, detail, result.state_unknown)


def _plain(address: str) -> str:
    """An address in one form: an IPv4-mapped IPv6 address (::ffff:192.0.2.1) as the IPv4 address."""
    if "::ffff:" not in address.lower():
        return address
    try:
        mapped = IPv6Address(address).ipv4_mapped
    except ValueError:
        return address
    return address if mapped is None else str(mapped)
