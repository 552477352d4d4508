"""The status page: what a server does and how good its clock is, as HTML with pictures, or as JSON.

Comes in: a server, its history. Goes out: one page without scripts and without anything from elsewhere. It must never show a
client's address, nor text that is not escaped.
"""

import base64
import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from tsq.http import Request, Response
from tsq.server.observed import Observed
from tsq.server.web import units
from tsq.server.web.drawing import Chart, runs
from tsq.server.web.health import clock_trouble, is_ready
from tsq.server.web.history import History, Point
from tsq.wording import counted

_DAY = 86400.0
_HANDSHAKES = ("full", "resumed", "failed")
_DROPS = {"dropped": "datagram", "unanswered": "request", "unsent": "response"}
# Seconds between two loads of a page that stays open.
_REFRESH = "10"
_SCHEMA = 1


class Status:
    """The page and its JSON. version: of TSQ. started: Unix seconds."""

    def __init__(self, server: Observed, history: History, version: str) -> None:
        self._server = server
        self._history = history
        self._version = version
        self._template = Template(packaged("status.html"))

    def page(self, request: Request) -> Response:
        """HTML; JSON for a client that prefers it."""
        return self.document(request) if _prefers_json(request.headers.get("accept", "")) else self._html()

    def document(self, _: Request) -> Response:
        """JSON (docs/howto/http3.md)."""
        body = json.dumps(self.values(), ensure_ascii=False).encode("utf-8", "backslashreplace")
        return Response(200, body, "application/json", (("Cache-Control", "no-store"), ("Vary", "Accept")))

    def values(self) -> dict[str, Any]:
        """What the JSON contains."""
        server, history = self._server, self._history
        points = history.points
        last = points[-1] if points else None
        counters = server.counters
        return {
            "schema": _SCHEMA,
            "version": self._version,
            "ready": is_ready(server),
            "at": None if last is None else last.at,
            "uptime": None if last is None else last.uptime,
            "listening": [str(address) for address in server.addresses],
            "clock": _clock(server),
            "connections": server.connections,
            "rates": {name: history.rate(name) for name in ("requests", "answered", "handshakes", "dropped", "http")},
            "totals": {name: counters.get(name) for name in ("datagrams", "requests", "answered", "http requests")},
            "handshakes": {one: counters.get("handshakes", one) for one in _HANDSHAKES},
            "dropped": _dropped(counters.snapshot()),
            "certificate_expires": server.certificate_expiry,
            "history": [
                {"at": one.at, "error": one.error, "correction": one.correction, "connections": one.connections, **one.counts}
                for one in points
            ],
        }

    def _html(self) -> Response:
        values, points = self.values(), self._history.points
        trouble = clock_trouble(self._server)
        state = self._server.clock
        at = values["at"] or 0.0
        left = (values["certificate_expires"] - at) / _DAY
        if state is None:
            claim, mood = "this server asks no program about its clock", "plain"
        elif trouble:
            claim, mood = f"not trusted: {trouble}", "bad"
        else:
            claim, mood = f"right within {units.bound(state.error)}", "good"
        where = ", ".join(values["listening"]) or "nowhere"
        text = {
            "title": f"tsq-server {where}",
            "where": where,
            "claim": claim,
            "detail": _detail(values["clock"]),
            "ready": "ready for clients" if values["ready"] else "not ready: starting or draining",
            "version": f"version {self._version}" if self._version else "",
            "at": units.when(at),
            "uptime": units.span(values["uptime"] or 0.0),
            "connections": units.count(values["connections"]),
            "requests": units.rate(values["rates"]["requests"]),
            "handshakes": units.rate(values["rates"]["handshakes"]),
            "drops": units.rate(values["rates"]["dropped"]),
            "certificate": counted(round(left), "day") if left >= 0 else "expired",
            "expires": units.when(values["certificate_expires"], "%Y-%m-%d"),
        }
        pictures = {
            "mood": mood,
            "ready_mood": "good" if values["ready"] else "bad",
            "certificate_mood": "bad" if left < 7 else "warn" if left < 14 else "plain",
            "clock_chart": clock_chart(points),
            "rate_chart": rate_chart(points),
            "counters": _rows(values),
            "dropped": _dropped_rows(values["dropped"]),
        }
        html = self._template.substitute({name: escape(one) for name, one in text.items()}, **pictures)
        headers = (("Cache-Control", "no-store"), ("Vary", "Accept"), ("Refresh", _REFRESH))
        return Response(200, html.encode("utf-8", "backslashreplace"), "text/html; charset=utf-8", headers, policy(html))


def packaged(name: str) -> str:
    """The text of a file beside this module."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def policy(html: str, *more: str) -> str:
    """A Content-Security-Policy that permits a page's own style and script, by their hashes, and nothing else."""
    found = {tag: [_hash(one) for one in re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)] for tag in ("style", "script")}
    allowed = [f"{tag}-src {' '.join(hashes)}" for tag, hashes in found.items() if hashes]
    return "; ".join(["default-src 'none'", *allowed, *more, "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"])


def clock_chart(points: Sequence[Point]) -> str:
    """The clock's error: where it is as reported, and how far from that it may be."""
    known = [_interval(one) for one in points]
    found = [one for one in known if one is not None]
    if not found:
        return '<p class="none">Nothing is known of the clock in this time.</p>'
    name, size = units.unit_for(max(abs(middle) + width for _, middle, width in found))
    scaled = [None if one is None else (one[0], one[1] / size, one[2] / size) for one in known]
    limit = max(abs(one[1]) + one[2] for one in scaled if one is not None)
    chart = Chart("the clock's error over time", (points[0].at, points[-1].at), -limit, limit)
    bands = [[(x, middle - width, middle + width) for x, middle, width in run] for run in runs(scaled)]
    chart.band(bands, "band")
    chart.line([[(x, middle) for x, middle, _ in run] for run in runs(scaled)], "curve")
    return chart.svg([f"{_number(tick)} {name}" for tick in chart.ticks], *_ends(points))


def _interval(one: Point) -> tuple[float, float, float] | None:
    """(time, where the clock's error is as reported, how far from that it may be); None where nothing is known."""
    if one.error is None:
        return None
    correction = one.correction or 0.0
    return one.at, -correction, max(0.0, one.error - abs(correction))


def rate_chart(points: Sequence[Point]) -> str:
    """Answers a second over time."""
    rates = [
        (two.at, (two.counts["answered"] - one.counts["answered"]) / (two.uptime - one.uptime))
        for one, two in itertools.pairwise(points)
        if two.uptime > one.uptime
    ]
    if not rates:
        return '<p class="none">Nothing is known yet.</p>'
    chart = Chart("answers a second over time", (rates[0][0], rates[-1][0]), 0.0, max(1.0, *(rate for _, rate in rates)))
    chart.line([rates], "curve")
    return chart.svg([_number(tick) for tick in chart.ticks], *_ends(points))


def _ends(points: Sequence[Point]) -> tuple[str, str]:
    form = "%H:%M:%S" if points[-1].at - points[0].at < 600 else "%H:%M" if points[-1].at - points[0].at < _DAY else "%m-%d %H:%M"
    return units.when(points[0].at, form), f"{units.when(points[-1].at, form)} UTC"


def _number(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")


def _clock(server: Observed) -> dict[str, Any] | None:
    state = server.clock
    if state is None:
        return None
    return {
        "synchronized": state.synchronized,
        "keeper": state.keeper,
        "reference": state.reference,
        "stratum": state.stratum,
        "leap": state.leap,
        "error": state.error if state.synchronized else None,
        "correction": state.correction,
        "trouble": state.trouble,
    }


def _detail(clock: Mapping[str, Any] | None) -> str:
    """Who says so, and what the clock follows."""
    if clock is None:
        return "clients learn nothing about it"
    parts = [f"according to {clock['keeper']}"]
    if clock["synchronized"]:
        parts.append(f"stratum {clock['stratum']}")
        parts += [f"follows {clock['reference']}"] if clock["reference"] else []
        parts += [f"still to be corrected by {units.offset(clock['correction'])}"] if clock["correction"] else []
    return ", ".join(parts)


def _dropped(snapshot: Mapping[str, int]) -> list[dict[str, Any]]:
    """What went no further, by reason, the most first."""
    found = []
    for key, number in snapshot.items():
        name, colon, reason = key.partition(": ")
        if colon and name in _DROPS and number:
            found.append({"what": _DROPS[name], "reason": reason, "count": number})
    return sorted(found, key=lambda one: -one["count"])


def _dropped_rows(dropped: Sequence[Mapping[str, Any]]) -> str:
    if not dropped:
        return '<tr><td colspan="3" class="none">nothing</td></tr>'
    return "".join(
        f"<tr><td>{escape(one['reason'])}</td><td>{escape(one['what'])}</td><td class='n'>{units.count(one['count'])}</td></tr>"
        for one in dropped
    )


def _rows(values: Mapping[str, Any]) -> str:
    totals, handshakes = values["totals"], values["handshakes"]
    rows = {
        "datagrams received": totals["datagrams"],
        "requests": totals["requests"],
        "answered": totals["answered"],
        "handshakes": handshakes["full"],
        "handshakes with a ticket": handshakes["resumed"],
        "handshakes that failed": handshakes["failed"],
        "pages over HTTP/3": totals["http requests"],
    }
    return "".join(f"<tr><td>{escape(name)}</td><td class='n'>{units.count(one)}</td></tr>" for name, one in rows.items())


def _prefers_json(accept: str) -> bool:
    """Whether a client names JSON, and not HTML."""
    kinds = {one.partition(";")[0].strip().lower() for one in accept.split(",")}
    return "application/json" in kinds and "text/html" not in kinds


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
