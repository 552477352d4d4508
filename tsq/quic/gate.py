"""What a server's router tells admission (tsq/dataplane/admission.pyx), and what else it decides about strangers.

Comes in: limits, secrets, how many connections there are, the time. Goes out: admission's settings and keys, stateless resets,
counts, a log line where the server is full. It must never know a connection.
"""

import logging

from tsq.counters import Counters
from tsq.dataplane.admission import MOST_TOKEN_KEYS, Admission
from tsq.quic.access import AccessList
from tsq.quic.budget import Throttle
from tsq.quic.connection_ids import ConnectionIds
from tsq.quic.drops import Drop
from tsq.quic.limits import Limits
from tsq.quic.resets import StatelessResets, reset_key
from tsq.quic.secrets import Purpose, Secrets
from tsq.settings import Setting
from tsq.wording import counted

# Seconds between two reports of a full server.
_REPORT_INTERVAL = 60.0
# So long new clients are refused after there was no memory.
_SHORT_OF_MEMORY = 10.0

logger = logging.getLogger(__name__)


class Gate:
    """Admission, with all that it has to know. key: the server's private key; the others as in `Router`.

    resets: those for packets that admission leaves to the control plane. draining: no new connections are taken.
    """

    def __init__(
        self,
        key: bytes,
        counters: Counters,
        limits: Limits,
        instance: bytes,
        secrets: Secrets,
        connection_ids: ConnectionIds,
        access: AccessList | None,
    ) -> None:
        self.admission = Admission()
        self.draining = False
        self._counters = counters
        self._secrets = secrets
        self._connection_ids = connection_ids
        self._instance = connection_ids.instance or instance
        # Made once: existing connections keep their tokens when the certificate is renewed.
        self.resets = StatelessResets(reset_key(key, self._instance))
        self._counted: dict[str, int] = {}
        self._short_until = 0.0
        self._full = Throttle(_REPORT_INTERVAL)
        self._refused_before = 0
        self.limits = limits
        if access is not None:
            self.admission.set_access(*access.compiled())
        self._share_keys()
        secrets.when_changed(self._share_keys)
        self._shape_retry_ids()
        counters.before_reading(self._count)

    @property
    def limits(self) -> Limits:
        """What strangers and clients may cost."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        self.admission.set_limits(
            retry=limits.retry.value,
            half_open=limits.half_open,
            newcomers=limits.newcomers,
            handshakes=limits.handshakes,
            arrivals=limits.arrivals,
            prefix_newcomers=limits.prefix_newcomers,
            prefix_handshakes=limits.prefix_handshakes,
            queue_delay=limits.queue_delay,
            memory=limits.memory,
            packets=limits.peer.packets,
            frames=limits.peer.frames,
            acks=limits.peer.acks,
            ack_ranges=limits.peer.ack_ranges,
            handshake_packets=limits.peer.handshake_packets,
        )

    def look_after(self, now: float) -> None:
        """Call this about once a second; then `tell`."""
        self.admission.rotate_keys(now)
        if now >= self._short_until:
            self._short_until = 0.0
        self.report_full(now)

    def is_short_of_memory(self, now: float) -> None:
        """Refuse new clients for a while: there was no memory."""
        self._short_until = now + _SHORT_OF_MEMORY

    def memory_is_short(self, now: float) -> bool:
        """Whether new clients are refused because there was no memory."""
        return now < self._short_until

    def tell(self, *, half_open: int, awake: int) -> None:
        """Keep what admission knows of the connections up to date. awake: how many are not at rest."""
        self.admission.half_open = half_open
        self.admission.draining = self.draining
        # Those at rest make room for others.
        full = awake >= self.limits.max_connections or awake >= self.limits.awake
        self.admission.full = full or bool(self._short_until)

    def report_full(self, now: float) -> None:
        """Log that new clients are refused, once in a while."""
        refused = self.admission.dropped()[Drop.TOO_MANY_CONNECTIONS]
        if refused == self._refused_before or not self._full.due(now):
            return
        logger.warning(
            "the limit of %s is reached: new clients are refused (%s since the last such line); %s allows more",
            counted(self.limits.max_connections, "connection"),
            counted(refused - self._refused_before, "attempt"),
            Setting.MAX_CONNECTIONS,
        )
        self._refused_before = refused

    def resets_for(self, data: bytes, connection_id: bytes, now: float) -> list[bytes]:
        """The stateless resets for a packet of an unknown connection, where any may be sent."""
        # Only where no other worker or server can have the connection.
        if not self._connection_ids.answers_for(connection_id):
            return []
        resets = self.resets.answer(data, connection_id, now)
        self._counters.add("stateless resets", amount=len(resets))
        return resets

    def _count(self) -> None:
        """Add admission's counts since the last call."""
        admission, before = self.admission, self._counted
        now = admission.dropped()
        self._counted = now | {"retries": admission.retries, "resets": admission.reset_count, "refused": admission.refused}
        for reason, count in now.items():
            self._counters.add("dropped", reason, count - before.get(reason, 0))
        self._counters.add("retries", amount=admission.retries - before.get("retries", 0))
        self._counters.add("stateless resets", amount=admission.reset_count - before.get("resets", 0))
        self._counters.add("refused", amount=admission.refused - before.get("refused", 0))

    def _share_keys(self) -> None:
        """Make address tokens with the secrets; resets only with shared ones: those of one process are of no use to the next."""
        if self._secrets.shared:
            self.resets.keys = tuple(reset_key(secret, self._instance) for secret in self._secrets.keys(Purpose.RESETS))
        # Workers of one server take each other's tokens, whether their secrets are from a file or not.
        self.admission.set_token_keys(self._secrets.keys(Purpose.TOKENS)[:MOST_TOKEN_KEYS])
        ids = self._connection_ids
        # Where it takes more than one key, or a look at the ID, `_unknown` answers.
        plain = len(self.resets.keys) == 1 and ids.slots == 1 and ids.quic_lb is None
        self.admission.set_reset_key(self.resets.keys[0], plain)

    def _shape_retry_ids(self) -> None:
        """Have the IDs of Retry packets lead the next Initial to this worker, as those of `ConnectionIds.transient`."""
        ids = self._connection_ids
        if ids.quic_lb is not None:
            # No balancer reads a server in it.
            self.admission.set_first_octet(0xFF, 0xE0 | ids.slot)
        elif ids.slots > 1:
            self.admission.set_first_octet(0x1F if ids.slots <= 0x20 else 0xFF, ids.slot)
