"""All pages of a server, over HTTP/3 and over HTTP/1.1, and its WebTransport sessions.

Comes in: requests, datagrams of sessions, a server to tell about. Goes out: responses. Over HTTP/3, status and metrics are for
some networks only. It must never let a page that is made for one client hold up time for the others for longer than it takes.
"""

import asyncio
import time
from collections.abc import Callable, Iterable

from tsq.exposition import PATH as METRICS_PATH
from tsq.exposition import Family, metrics_page
from tsq.host.clock import now_ns
from tsq.http import Http1Server, Page, Pages, Request, Response, text
from tsq.options import Target, WebOptions
from tsq.server.metrics import ServerMetrics
from tsq.server.observed import Observed
from tsq.server.responder import Responder
from tsq.server.web import health
from tsq.server.web.access import Networks, Origins, Quota
from tsq.server.web.browser import TIME_PATH, ClockPage
from tsq.server.web.history import COUNTED, LEAST_INTERVAL, History, point
from tsq.server.web.status import Status

# Status and metrics cost as much as so many other requests.
_PRIVATE_COST = 20.0


class WebSite:
    """Implements `tsq.quic.http3.Site`. certificate: as in ClockPage. http3: the server speaks HTTP/3, so that browsers may ask.
    more: further metrics.
    """

    def __init__(
        self,
        server: Observed,
        responder: Responder,
        certificate: Callable[[], str],
        options: WebOptions,
        *,
        http3: bool,
        more: Callable[[], Iterable[Family]] = tuple,
    ) -> None:
        self._server = self._shown = server
        self._version = options.version
        self._networks = Networks(options.networks)
        self._origins = Origins(options.origins)
        self._quota = Quota()
        self._history = History()
        self._clock_page = ClockPage(server, responder, certificate)
        self._http: Http1Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._started = 0.0
        browsers: dict[str, Page] = {"/": self._clock_page.page, TIME_PATH: self._clock_page.time} if http3 else {"/": _front}
        self._open = {**browsers, **health.pages(server)}
        self.show(server, more)

    def show(self, server: Observed, more: Callable[[], Iterable[Family]]) -> None:
        """Let status and metrics be those of this server; more: its further metrics."""
        self._shown = server
        status = Status(server, self._history, self._version)
        metrics = ServerMetrics(server, version=self._version, more=more)
        private: dict[str, Page] = {
            METRICS_PATH: metrics_page(metrics.text),
            "/status": status.page,
            "/status.json": status.document,
        }
        self._near = Pages({**private, **self._open})
        self._far = Pages({**{path: self._guarded(page) for path, page in private.items()}, **self._open})

    @property
    def address(self) -> Target | None:
        """Where it listens over TCP; None for nowhere."""
        return None if self._http is None else self._http.address

    def start(self, listen: Target | None = None) -> None:
        """Begin to keep the history. listen: answer here, too, over HTTP/1.1. Raises ConfigError if it cannot be used."""
        if listen is not None:
            http = Http1Server(self._respond_near, "metrics", clock=now_ns)
            http.start(listen)
            self._http = http
        if self._timer is None:
            self._started = time.monotonic()
            self._note()

    def close(self) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        http, self._http = self._http, None
        if http is not None:
            http.close()

    def respond(self, request: Request) -> Response:
        """The response to a request over HTTP/3."""
        return self._counted(self._far.respond(request))

    def opens(self, request: Request) -> int:
        """The status for a client that opens a WebTransport session."""
        if request.path != TIME_PATH or not health.is_ready(self._server):
            return self._counted(Response(503 if request.path == TIME_PATH else 404)).status
        origin, authority = request.headers.get("origin"), request.headers.get(":authority", "")
        allowed = self._origins.admit(origin, authority) or self._is_own(origin)
        return self._counted(Response(200 if allowed else 403)).status

    def datagram(self, data: bytes, received_ns: int) -> Callable[[int], bytes | None] | None:
        """The answer to a session's datagram."""
        return self._clock_page.datagram(data, received_ns)

    def admits(self, peer: str, cost: float, now: float) -> bool:
        """Whether this client may ask for so much more."""
        admitted = self._quota.admits(peer, cost, now)
        if not admitted:
            self._server.counters.add("unanswered", "more than one client may ask over HTTP/3")
        return admitted

    def _respond_near(self, request: Request) -> Response:
        """The response to a request over HTTP/1.1, at an address that the operator has chosen for that."""
        response = self._near.respond(request)
        return response if response.complete is None else _completed(response)

    def _counted(self, response: Response) -> Response:
        self._server.counters.add("http requests", str(response.status))
        return response

    def _guarded(self, page: Page) -> Page:
        """The page, for some networks only, and not for a request that may be a replay from elsewhere."""

        def guarded(request: Request) -> Response:
            if request.early:
                return text(425, "ask again when the handshake is complete")
            if not self._networks.contain(request.peer):
                return text(403, "this page is not for your network")
            if not self._quota.admits(request.peer, _PRIVATE_COST, time.monotonic()):
                return text(429, "too many requests")
            return page(request)

        return guarded

    def _is_own(self, origin: str | None) -> bool:
        """Whether this is the origin of the same page over TCP, on this machine or reached by a numeric address of it."""
        address = self.address
        if origin is None or address is None:
            return False
        names: Iterable[str] = (str(address), f"localhost:{address.port}")
        return origin in {f"http://{name}" for name in names}

    def _note(self) -> None:
        """Note the present state in the history, now and every few seconds."""
        self._timer = asyncio.get_running_loop().call_later(LEAST_INTERVAL, self._note)
        server = self._shown
        counted = server.counters
        counts = {name: counted.get(counter) for name, counter in COUNTED.items()}
        self._history.add(point(time.time(), time.monotonic() - self._started, server.clock, counts, server.connections))


def _front(_: Request) -> Response:
    """Links to the pages of a server without HTTP/3."""
    links = "".join(f'<li><a href="{path}">{path}</a></li>' for path in ("/status", "/healthz", "/readyz", METRICS_PATH))
    return Response(200, f"<!doctype html><title>tsq-server</title><ul>{links}</ul>\n".encode(), "text/html; charset=utf-8")


def _completed(response: Response) -> Response:
    body = b"" if response.complete is None else response.complete(now_ns())
    return Response(response.status, body, response.kind, response.headers, response.policy)
