"""A server's metrics for Prometheus (docs/reference/metrics.md has each with its meaning and unit).

Comes in: a server. Goes out: text of Prometheus's format, over HTTP or to whoever asks for it. It must never change a count.
"""

from collections.abc import Callable, Iterable, Iterator

from tsq.exposition import ExpositionServer, Family, Kind, Point, render
from tsq.options import Target
from tsq.quic.router import Drop
from tsq.server.observed import Observed
from tsq.server.responder import NoResponse
from tsq.wire.message import Mode

# What is dropped: a received datagram, a request, or a datagram that was to be sent; the counter of each.
_DROPPED = {"datagram": "dropped", "request": "unanswered", "response": "unsent"}
_HANDSHAKES = ("full", "resumed", "failed")
# Read 0 until they happen, so that the first one is an increase.
_KNOWN = [("datagram", one.value) for one in Drop] + [("request", one.value) for one in NoResponse]
# (metric, counter, meaning)
_COUNTERS = (
    ("tsq_server_received", "datagrams", "UDP datagrams received"),
    ("tsq_server_taken", "taken", "Datagrams that the data plane took"),
    ("tsq_server_unstamped", "user-space receive times", "Datagrams for which the kernel gave no receive time"),
    ("tsq_server_answered", "answered", "Responses with the time"),
    ("tsq_server_shortened", "shortened", "Responses that would have been too large for the client or the path"),
    ("tsq_server_retries", "retries", "Retry packets sent"),
    ("tsq_server_refused", "refused", "Clients refused because all connections are in use, or the server drains"),
    ("tsq_server_stateless_resets", "stateless resets", "Stateless resets sent"),
)


class ServerMetrics:
    """The metrics of a server. version: of TSQ. more: further metrics."""

    def __init__(self, server: Observed, *, version: str = "", more: Callable[[], Iterable[Family]] = tuple) -> None:
        self._observed = server
        self._more = more
        self._version = version
        self._http: ExpositionServer | None = None

    @property
    def address(self) -> Target | None:
        """Where it listens; None for nowhere."""
        return None if self._http is None else self._http.address

    def text(self) -> str:
        """All metrics in Prometheus's text format."""
        return render(self.families())

    def start(self, listen: Target) -> None:
        """Answer at this address, on the running event loop. Raises ConfigError if it cannot be used."""
        http = ExpositionServer(self.text)
        http.start(listen)
        self._http = http

    def close(self) -> None:
        """Stop answering."""
        http, self._http = self._http, None
        if http is not None:
            http.close()

    def families(self) -> Iterator[Family]:
        """All metrics."""
        server = self._observed
        counters = server.counters
        version = (Point(1.0, (self._version,)),)
        yield Family("tsq_server_info", Kind.GAUGE, "Always 1; the version of the server", version, ("version",))
        for metric, name, meaning in _COUNTERS:
            yield Family(metric, Kind.COUNTER, meaning, (Point(counters.get(name)),))
        requests = tuple(Point(counters.get("requests", mode), (mode.value,)) for mode in Mode)
        yield Family("tsq_server_requests", Kind.COUNTER, "Requests received", requests, ("mode",))
        yield Family("tsq_server_dropped", Kind.COUNTER, "What went no further", self._dropped(), ("what", "reason"))
        handshakes = tuple(Point(counters.get("handshakes", result), (result,)) for result in _HANDSHAKES)
        yield Family("tsq_server_handshakes", Kind.COUNTER, "Handshakes that ended", handshakes, ("result",))
        statuses = self._statuses()
        if statuses:
            yield Family("tsq_server_http_requests", Kind.COUNTER, "Requests over HTTP/3", statuses, ("status",))
        yield Family("tsq_server_connections", Kind.GAUGE, "Open connections", (Point(server.connections),))
        delay, count = server.send_delay
        yield Family(
            "tsq_server_authdelay_seconds",
            Kind.SUMMARY,
            "Time from T3, before a response is sealed, to its transmit timestamp; of responses whose exact T3 was asked for",
            (Point(delay, count=count),),
        )
        expiry = Point(server.certificate_expiry)
        yield Family("tsq_server_certificate_expiry_seconds", Kind.GAUGE, "Unix time at which the certificate expires", (expiry,))
        draining = Point(int(server.draining))
        yield Family("tsq_server_draining", Kind.GAUGE, "Whether it takes no new clients because it is about to go", (draining,))
        stale = Point(int(server.secrets_stale))
        yield Family(
            "tsq_server_secrets_stale", Kind.GAUGE, "Whether the file of secrets cannot be used, the old ones stay", (stale,)
        )
        yield from self._clock()
        yield from self._more()

    def _dropped(self) -> tuple[Point, ...]:
        counts = dict.fromkeys(_KNOWN, 0)
        snapshot = self._observed.counters.snapshot()
        for what, name in _DROPPED.items():
            for key, count in snapshot.items():
                if key.startswith(f"{name}: "):
                    counts[what, key.removeprefix(f"{name}: ")] = count
        return tuple(Point(count, key) for key, count in counts.items())

    def _statuses(self) -> tuple[Point, ...]:
        """How many requests over HTTP/3 by status; none for a server without them."""
        snapshot = self._observed.counters.snapshot()
        found = {key.removeprefix("http requests: "): count for key, count in snapshot.items() if key.startswith("http requests: ")}
        return tuple(Point(count, (status,)) for status, count in found.items())

    def _clock(self) -> Iterator[Family]:
        """What clients learn about this machine's clock; nothing where no program is asked."""
        state = self._observed.clock
        stratum = () if state is None else (Point(state.stratum),)
        error = () if state is None or not state.synchronized else (Point(state.error),)
        yield Family("tsq_server_stratum", Kind.GAUGE, "Stratum of this machine's clock; 0: unsynchronized", stratum)
        yield Family("tsq_server_clock_error_seconds", Kind.GAUGE, "Bound of the error of this machine's clock", error)
