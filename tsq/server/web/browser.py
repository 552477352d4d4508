"""The clock page for browsers, and what it asks for: TSQ messages in WebTransport datagrams, or the time as JSON.

Comes in: requests, datagrams with the kernel's receive time. Goes out: the page, Drafts and bodies that the send time completes.
It must never give a T3 before its T2, and never read a clock.
"""

import json
import re
from collections.abc import Callable
from html import escape
from string import Template

from tsq.counters import Counters
from tsq.http import Request, Response
from tsq.server.observed import Observed
from tsq.server.responder import Draft, NoResponse, Responder, Unanswered
from tsq.server.web.status import packaged, policy
from tsq.wire.message import Mode

TIME_PATH = "/time"
_DONT_STORE = ("Cache-Control", "no-store")
# A page that shares its process with no other site gets the finer clock of the browser.
_ISOLATED = (("Cross-Origin-Opener-Policy", "same-origin"), ("Cross-Origin-Embedder-Policy", "require-corp"))
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?")


class ClockPage:
    """The page and the time. certificate: the SHA-256 of a certificate that browsers accept by its hash; "" for any other."""

    def __init__(self, server: Observed, responder: Responder, certificate: Callable[[], str]) -> None:
        self._server = server
        self._responder = responder
        self._certificate = certificate
        self._counters: Counters = server.counters
        self._template = Template(packaged("clock.html"))

    def page(self, request: Request) -> Response:
        """The page itself."""
        elsewhere = self._elsewhere(request)
        known = {"server": elsewhere, "certificate": self._certificate() if elsewhere else ""}
        html = self._template.substitute({name: escape(one) for name, one in known.items()})
        connect = f"connect-src 'self' https://{elsewhere}" if elsewhere else "connect-src 'self'"
        return Response(200, html.encode(), "text/html; charset=utf-8", (_DONT_STORE, *_ISOLATED), policy(html, connect))

    def time(self, request: Request) -> Response:
        """T2, T3 and the state of the clock as JSON."""
        received_ns = request.received_ns

        def complete(send_ns: int) -> bytes:
            # A clock that was stepped back between the two: a page must not use these.
            if send_ns < received_ns:
                self._counters.add("unanswered", NoResponse.CLOCK_WENT_BACK)
                return b"{}"
            self._counters.add("answered")
            return json.dumps({"t2": str(received_ns), "t3": str(send_ns)} | self._state()).encode()

        return Response(200, b"", "application/json", (_DONT_STORE,), complete=complete)

    def datagram(self, data: bytes, received_ns: int) -> Callable[[int], bytes | None] | None:
        """The answer to a TSQ request."""
        self._counters.add("requests", Mode.DATAGRAM)
        if self._responder.wants_signature(data):
            # Signatures have budgets for clients of TSQ, which these would bypass.
            self._counters.add("unanswered", NoResponse.SIGNATURE_QUOTA)
            return None
        draft = self._responder.prepare(data, received_ns, Mode.DATAGRAM)
        if isinstance(draft, Unanswered):
            self._counters.add("unanswered", draft.reason)
            return None
        return lambda send_ns: self._completed(draft, send_ns)

    def _completed(self, draft: Draft, send_ns: int) -> bytes | None:
        response = draft.complete(send_ns)
        if isinstance(response, Unanswered):
            self._counters.add("unanswered", response.reason)
            return None
        self._counters.add("answered")
        return response

    def _state(self) -> dict[str, object]:
        """The state of this machine's clock, seconds."""
        state = self._server.clock
        if state is None:
            return {}
        return {
            "stratum": state.stratum,
            "leap": state.leap,
            "root_delay": state.root_delay,
            "root_dispersion": state.root_dispersion,
        }

    def _elsewhere(self, request: Request) -> str:
        """Where this server answers over HTTP/3, for a page that came over TCP; "" for one that came from there."""
        host = _HOST.fullmatch(request.headers.get("host", ""))
        addresses = self._server.addresses
        if request.headers.get(":authority") or host is None or not addresses:
            return ""
        return f"{host[1]}:{addresses[0].port}"
