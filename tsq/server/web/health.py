"""Health for probes: whether the process answers, is ready for clients, and has a clock to trust.

Comes in: a server. Goes out: status 200 or 503, with the reason in one line. It must never say that an unknown clock is right.
"""

from tsq.http import Page, Request, Response, text
from tsq.server.observed import Observed


def pages(server: Observed) -> dict[str, Page]:
    """The pages by path."""
    return {
        "/livez": lambda _: text(200, "ok"),
        "/readyz": lambda request: _ready(server, request),
        "/healthz": lambda request: _healthy(server, request),
    }


def clock_trouble(server: Observed) -> str:
    """Why the clock is not trusted; "" where it is, or where the operator has chosen to ask no program."""
    state = server.clock
    if state is None or state.synchronized:
        return ""
    return state.trouble or f"not synchronized, according to {state.keeper}"


def is_ready(server: Observed) -> bool:
    """Whether the server answers, and takes new clients. A supervisor has no certificate before a worker has."""
    return bool(server.addresses) and server.certificate_expiry > 0 and not server.draining


def _ready(server: Observed, _: Request) -> Response:
    return text(200, "ok") if is_ready(server) else text(503, "not ready: starting or draining")


def _healthy(server: Observed, request: Request) -> Response:
    trouble = clock_trouble(server)
    return text(503, f"the clock is not trusted: {trouble}") if trouble else _ready(server, request)
