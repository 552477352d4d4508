"""Prometheus's text as tests look at it, and the tables of docs/reference/metrics.md."""

import re
import urllib.request
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tsq.options import Target

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "reference" / "metrics.md"
PROCESS = "## Of both: the process"


def parsed(text: str) -> dict[str, Metric]:
    """The metrics of a text, by the names that users see: a counter's with `_total`."""
    families = list(text_string_to_metric_families(text))
    found = {f"{one.name}_total" if one.type == "counter" else one.name: one for one in families}
    assert len(found) == len(families), "a metric comes twice"
    return found


def value(text: str, metric: str, /, **labels: str) -> float | None:
    """The value of a sample; None where there is none."""
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == metric and sample.labels == labels
    ]
    assert len(found) < 2, found
    return found[0] if found else None


def documented(*headings: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Metric -> (type, labels) of the tables under these headings of the page."""
    text = PAGE.read_text(encoding="utf-8")
    rows: dict[str, tuple[str, tuple[str, ...]]] = {}
    for heading in headings:
        part = text.partition(f"{heading}\n")[2].partition("\n## ")[0]
        assert part, heading
        for name, kind, labels in re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*)\| \S", part, re.MULTILINE):
            assert name not in rows, name
            rows[name] = (kind, tuple(re.findall(r"`(\w+)`", labels)))
    return rows


def scrape(address: Target) -> str:
    """What Prometheus would read there."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as response:
        assert response.status == 200
        return response.read().decode()
