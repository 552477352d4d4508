"""What a server says about its clock, in words (docs/reference/protocol.md, R13).

Comes in: numbers and text from the network. Goes out: a line that is safe for a terminal. It must never call a claim a fact.
"""

from tsq.report.spans import escaped

_SOURCES = {1: "GPS", 2: "PTP", 3: "NTP", 4: "set by hand", 5: "unknown source"}
_CLASSES = {0: "unknown class", 1: "GNSS", 2: "PTP grandmaster", 3: "NTP-synchronized", 4: "local OCXO", 5: "holdover"}


def claims(stratum: int | None, source_type: int | None, source: str, clock_class: int | None, tag: str) -> str:
    """Stratum, kind of source, class and texts; empty where nothing is known."""
    parts = []
    if stratum is not None:
        parts.append(f"stratum {stratum}")
    if source_type is not None or source:
        kind = "" if source_type is None else _SOURCES.get(source_type, f"source type {source_type}")
        parts.append(" ".join(part for part in (kind, f"({escaped(source)})" if source else "") if part))
    if clock_class is not None:
        parts.append(_CLASSES.get(clock_class, f"class {clock_class}"))
    if tag:
        parts.append(f"tag {escaped(tag)}")
    return ", ".join(parts)
