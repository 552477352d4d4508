"""Metrics as text, and over HTTP, for Prometheus (docs/reference/metrics.md).

Comes in: families of metrics; requests of anybody who reaches the port. Goes out: their text, as the answer to GET /metrics. It
must never change a value.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from tsq.http import MOST_CONNECTIONS, Http1Server, Page, Pages, Request, Response

__all__ = ["MOST_CONNECTIONS", "ExpositionServer", "Family", "Kind", "Point", "metrics_page", "render"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PATH = "/metrics"
_PAGE = f"<html><body><a href='{PATH}'>Metrics</a></body></html>\n"


class Kind(StrEnum):
    """What a metric is."""

    GAUGE = "gauge"
    # Never goes down. Its name in the text ends with `_total`.
    COUNTER = "counter"
    # A sum and a number of observations: `_sum` and `_count`.
    SUMMARY = "summary"


@dataclass(frozen=True, slots=True)
class Point:
    """A value, with the values of the family's labels. count: of a summary, whose sum is `value`."""

    value: float
    labels: tuple[str, ...] = ()
    count: int = 0


@dataclass(frozen=True, slots=True)
class Family:
    """A metric. name: without the `_total` of a counter. points: none where nothing is known."""

    name: str
    kind: Kind
    meaning: str
    points: tuple[Point, ...] = ()
    labels: tuple[str, ...] = ()


def render(families: Iterable[Family]) -> str:
    """The families in Prometheus's text format, and the standard metrics of this process (`process_cpu_seconds_total`, ...)."""
    # Loaded late: a program whose metrics nobody reads does without the memory of these modules.
    from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest  # noqa: PLC0415

    class Once:
        def collect(self) -> Iterable[Metric]:
            for family in families:
                metric = Metric(family.name, family.meaning, family.kind)
                for point in family.points:
                    labels = dict(zip(family.labels, map(_encodable, point.labels), strict=True))
                    if family.kind is Kind.SUMMARY:
                        metric.add_sample(f"{family.name}_sum", labels, point.value)
                        metric.add_sample(f"{family.name}_count", labels, point.count)
                    else:
                        suffix = "_total" if family.kind is Kind.COUNTER else ""
                        metric.add_sample(f"{family.name}{suffix}", labels, point.value)
                yield metric

    registry = CollectorRegistry()
    registry.register(Once())
    ProcessCollector(registry=registry)
    return generate_latest(registry).decode()


class ExpositionServer(Http1Server):
    """Answers GET /metrics on one address, on the running event loop. text: the metrics, made for each request."""

    def __init__(self, text: Callable[[], str], patience: float = 10.0) -> None:
        pages = Pages({"/": _front, PATH: metrics_page(text)}, f"only {PATH}")
        super().__init__(pages.respond, "metrics", patience)


def metrics_page(text: Callable[[], str]) -> Page:
    """The page with these metrics."""

    def page(_: Request) -> Response:
        return Response(200, text().encode("utf-8", "backslashreplace"), CONTENT_TYPE, (("Cache-Control", "no-store"),))

    return page


def _front(_: Request) -> Response:
    return Response(200, _PAGE.encode(), "text/html; charset=utf-8")


def _encodable(text: str) -> str:
    """A text without surrogates, which UTF-8 does not have."""
    return text.encode("utf-8", "backslashreplace").decode()
