"""TSQ: time synchronization over QUIC.

    import tsq
    result = tsq.query("time.example.com")          # one call, blocking
    result = await tsq.aquery("time.example.com")   # the same in an asyncio program
    async with tsq.connect("time.example.com") as client: ...
    earliest, latest, status = tsq.now()            # the true time is between them, by a running tsqd
    async with tsq.Server(["0.0.0.0:443"], "cert.pem", "key.pem") as server: ...

Names are loaded when they are first used, so that a client does not load the server. See docs/reference/api.md.
"""

# Here and not in the distribution's metadata: to read that takes longer than an exchange, and 2 MB.
__version__ = "0.1.0"

# Not `typing`'s: to load that takes half as long as all else until a server lets signals wait (tsq/cli/start.py).
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tsq.client.async_query import aquery, aquery_all
    from tsq.client.asynchronous import Client, connect
    from tsq.client.blocking import query, query_all
    from tsq.client.exchange import Rules
    from tsq.client.result import HostResult, QueryResult, selection
    from tsq.errors import TSQError
    from tsq.host.clock import clock_reading
    from tsq.host.keepers.sync_state import HostClock, Keeper
    from tsq.host.segment import BoundedTime, TimeStatus, now
    from tsq.options import ClientOptions, LocalClock, Precision, Target, Trust, WebOptions, parse_target
    from tsq.quic.limits import Limits, RetryPolicy
    from tsq.server.driver import Server
    from tsq.timing.ageing import Drift
    from tsq.timing.filter import Estimate
    from tsq.timing.local_clock import ClockReading, Movement
    from tsq.timing.sample import Reason, Sample, StampSource
    from tsq.timing.selection import Agreed, Criteria, Selection, Verdict
    from tsq.timing.server_state import ServerState

# Where each name is defined; the imports above and `__all__` list the same names (tests/client/test_library.py).
_HOMES = {
    "aquery": "tsq.client.async_query",
    "aquery_all": "tsq.client.async_query",
    "Client": "tsq.client.asynchronous",
    "connect": "tsq.client.asynchronous",
    "query": "tsq.client.blocking",
    "query_all": "tsq.client.blocking",
    "Rules": "tsq.client.exchange",
    "HostResult": "tsq.client.result",
    "QueryResult": "tsq.client.result",
    "selection": "tsq.client.result",
    "TSQError": "tsq.errors",
    "clock_reading": "tsq.host.clock",
    "HostClock": "tsq.host.keepers.sync_state",
    "Keeper": "tsq.host.keepers.sync_state",
    "BoundedTime": "tsq.host.segment",
    "TimeStatus": "tsq.host.segment",
    "now": "tsq.host.segment",
    "ClientOptions": "tsq.options",
    "LocalClock": "tsq.options",
    "Precision": "tsq.options",
    "Target": "tsq.options",
    "Trust": "tsq.options",
    "WebOptions": "tsq.options",
    "parse_target": "tsq.options",
    "Limits": "tsq.quic.limits",
    "RetryPolicy": "tsq.quic.limits",
    "Server": "tsq.server.driver",
    "Drift": "tsq.timing.ageing",
    "Estimate": "tsq.timing.filter",
    "ClockReading": "tsq.timing.local_clock",
    "Movement": "tsq.timing.local_clock",
    "Reason": "tsq.timing.sample",
    "Sample": "tsq.timing.sample",
    "StampSource": "tsq.timing.sample",
    "Agreed": "tsq.timing.selection",
    "Criteria": "tsq.timing.selection",
    "Selection": "tsq.timing.selection",
    "Verdict": "tsq.timing.selection",
    "ServerState": "tsq.timing.server_state",
}

_NEED_LINUX = ("BoundedTime", "HostClock", "Keeper", "Server", "TimeStatus", "now")

__all__ = [
    "Agreed",
    "BoundedTime",
    "Client",
    "ClientOptions",
    "ClockReading",
    "Criteria",
    "Drift",
    "Estimate",
    "HostClock",
    "HostResult",
    "Keeper",
    "Limits",
    "LocalClock",
    "Movement",
    "Precision",
    "QueryResult",
    "Reason",
    "RetryPolicy",
    "Rules",
    "Sample",
    "Selection",
    "Server",
    "ServerState",
    "StampSource",
    "TSQError",
    "Target",
    "TimeStatus",
    "Trust",
    "Verdict",
    "WebOptions",
    "__version__",
    "aquery",
    "aquery_all",
    "clock_reading",
    "connect",
    "now",
    "parse_target",
    "query",
    "query_all",
    "selection",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> "Any":
    if name not in _HOMES:
        raise AttributeError(f"module 'tsq' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - as above

    from tsq import system  # noqa: PLC0415

    if name in _NEED_LINUX and not system.is_linux():
        raise ImportError(system.needs_linux(f"tsq.{name}"), name="tsq")
    try:
        value = getattr(import_module(_HOMES[name]), name)
    except ImportError as error:
        why = system.not_built(error)
        if why is None:
            raise
        raise ImportError(why, name=error.name) from error
    globals()[name] = value
    return value
