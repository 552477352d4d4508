"""The daemon's configuration as values, with their defaults (docs/reference/tsqd.md has every key).

Comes in: nothing. Goes out: frozen values. `config_file.py` reads them from TOML. It must never read a file.
"""

from dataclasses import dataclass, field

from tsq.client.exchange import Checks
from tsq.discipline.settings import ClockSettings, SourceSettings
from tsq.options import ClientOptions, Target

RUN_DIRECTORY = "/run/tsq"
STATE_DIRECTORY = "/var/lib/tsq"


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """A `[[source]]` table. client: how to reach it (trust, server name, ticket file). pool: how many of the name's addresses to
    use as sources of their own; 0: the name is one server. offline: begin offline. authorities: identifies what the files of the
    trust contained when they were read, so that another content is another configuration; empty: not read. require_signature: use
    signed answers only; verifier: what checks them, with the keys in the files verify_keys; signers: identifies these keys.
    """

    target: Target
    client: ClientOptions = field(default_factory=ClientOptions)
    settings: SourceSettings = field(default_factory=SourceSettings)
    pool: int = 0
    offline: bool = False
    authorities: str = ""
    require_signature: bool = False
    verify_keys: tuple[str, ...] = ()
    signers: str = ""
    verifier: Checks | None = field(default=None, compare=False, repr=False)

    @property
    def votes_at_start(self) -> bool:
        """Whether it counts for the majority that sets a clock that is wrong by years: sources that prove nothing do not."""
        return not self.settings.no_select and not self.client.trust.insecure

    @property
    def proof(self) -> tuple[object, ...]:
        """What decides which server may answer: with another one, what was measured may be of another server."""
        client = self.client
        return self.authorities, self.signers, self.require_signature, client.trust, client.server_name, client.family


@dataclass(frozen=True, slots=True)
class ClockConfig:
    """The `[clock]` table. drift_file: empty for none. leapsectz: a zone such as "right/UTC" with leap seconds, or a file of them.
    bootstrap: set a clock that is wrong by years from a majority of sources before certificates can be checked. bootstrap_signed:
    only those count for it whose answers are signed. allow_insecure: let sources whose certificates are not checked set the clock.
    """

    settings: ClockSettings = field(default_factory=ClockSettings)
    drift_file: str = f"{STATE_DIRECTORY}/drift.json"
    leapsectz: str = ""
    bootstrap: bool = False
    bootstrap_signed: bool = False
    allow_insecure: bool = False


@dataclass(frozen=True, slots=True)
class NtpServerConfig:
    """`[feed.ntp]`: an NTP server for programs on this machine. listen: ADDRESS:PORT; loopback only unless the address says so."""

    listen: Target


@dataclass(frozen=True, slots=True)
class FeedConfig:
    """The `[feed]` table. sock: chrony's or ntpd-rs's SOCK sockets. shm: units of NTP SHM (driver 28). ntp: an NTP server.
    segment: the file that `tsq.now()` reads; clockbound: the file that ClockBound's clients read; empty for none.
    """

    sock: tuple[str, ...] = ()
    shm: tuple[int, ...] = ()
    ntp: NtpServerConfig | None = None
    segment: str = f"{RUN_DIRECTORY}/now"
    clockbound: str = ""


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """The `[control]` table. socket: empty for none. group: may change things as root may; empty for root alone."""

    socket: str = f"{RUN_DIRECTORY}/control"
    group: str = ""


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """The `[metrics]` table. listen: where Prometheus reads; None for nowhere."""

    listen: Target | None = None


@dataclass(frozen=True, slots=True)
class LogConfig:
    """The `[log]` table. measurements: a file of measurements in chrony's columns; empty for none. record: a file of all events and
    actions for `tsqd --replay`; record_bytes: its size at which it is rotated; record_files: how many old ones are kept.
    """

    level: str = "info"
    measurements: str = ""
    record: str = ""
    record_bytes: int = 64 * 1024 * 1024
    record_files: int = 4


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration. files: those that it was read from. origins: where in them a key has its value from, and a source
    (by its target) its host, as FILE:LINE.
    """

    sources: tuple[SourceConfig, ...] = ()
    clock: ClockConfig = field(default_factory=ClockConfig)
    feed: FeedConfig = field(default_factory=FeedConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    log: LogConfig = field(default_factory=LogConfig)
    files: tuple[str, ...] = ()
    origins: tuple[tuple[str, str], ...] = field(default=(), compare=False, repr=False)
