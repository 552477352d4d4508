"""Results as people and programs read them: text and JSON (docs/reference/cli.md).

Comes in: HostResults. Goes out: strings. Prints nothing. No offset is given without its root distance, and text from the network is
shown with its control characters escaped.
"""

from collections.abc import Sequence
from typing import Any

from tsq.result import HostResult
from tsq.timing.sample import Sample

LEGEND = (
    "offset: positive when this machine's clock is behind; ±: root distance, the offset's error but for the server's own, "
    "which is unknown"
)
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_ROUNDS_UP = 0.9999995
_HEADER = ("host", "offset", "± root distance", "delay", "jitter", "stamps", "samples", "mode")


def duration(seconds: float, signed: bool = False) -> str:
    """A span with a unit that suits its size: '+12.345 µs', '0.012 µs', '1.234 s'."""
    # What rounds up to the next unit is written in it.
    scale, unit = next(((s, u) for s, u in _UNITS if abs(seconds) >= s * _ROUNDS_UP), _UNITS[-1])
    return f"{seconds / scale:+.3f} {unit}" if signed else f"{seconds / scale:.3f} {unit}"


def table(results: Sequence[HostResult]) -> str:
    """One line for each host that gave an estimate, under a header; empty where none did."""
    rows = [row for row in map(_row, results) if row is not None]
    if not rows:
        return ""
    lines = [_HEADER, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADER))]
    last = len(_HEADER) - 1
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in (0, last) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def verdict(results: Sequence[HostResult]) -> str:
    """The last line, in the manner of `chronyd -Q`: from the host whose root distance is least; empty where there is none."""
    estimates = [result.estimate for result in results]
    known = [estimate for estimate in estimates if estimate is not None]
    if not known:
        return ""
    best = min(known, key=lambda estimate: estimate.root_distance)
    return f"System clock wrong by {best.offset:+.6f} ± {best.root_distance:.6f} seconds (ignored)"


def sample_lines(result: HostResult) -> list[str]:
    """Each sample of a host with its four timestamps and their sources."""
    return [f"  sample {number}: {_sample(sample)}" for number, sample in enumerate(result.samples, 1)]


def rejections(result: HostResult) -> list[str]:
    """Why samples of a host are not used, one line each."""
    return [
        f"sample {number} of {result.target} not used: {_reason(sample)}"
        for number, sample in enumerate(result.samples, 1)
        if not sample.valid
    ]


def as_json(results: Sequence[HostResult], version: str) -> dict[str, Any]:
    """The object that `tsq-client --json` prints; its schema only grows (docs/reference/cli.md)."""
    return {"version": version, "hosts": [_host_json(result) for result in results]}


def escaped(text: str) -> str:
    """Text that may come from the network, safe for a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _row(result: HostResult) -> tuple[str, ...] | None:
    estimate = result.estimate
    if estimate is None:
        return None
    where = str(result.target) if result.address in (None, result.target.host) else f"{result.target} ({result.address})"
    return (
        where,
        duration(estimate.offset, signed=True),
        f"± {duration(estimate.root_distance)}",
        duration(estimate.delay),
        duration(estimate.jitter) if result.good > 1 else "-",
        estimate.stamps,
        f"{result.good}/{len(result.samples)}",
        f"{result.mode} {result.alpn}" + (" 0-RTT" if result.zero_rtt else ""),
    )


def _sample(sample: Sample) -> str:
    stamps = (
        f"T1 {sample.t1_ns} ({sample.t1_source})",
        f"T2 {_number(sample.t2_ns)}",
        f"T3 {_number(sample.t3_ns)}" + (" (exact)" if sample.exact else ""),
        f"T4 {_number(sample.t4_ns)}" + (f" ({sample.t4_source})" if sample.t4_source else ""),
    )
    text = "  ".join(stamps)
    if sample.offset is not None and sample.delay is not None:
        text += f"  offset {duration(sample.offset, signed=True)} ± {duration(sample.root_distance or 0.0)}"
        text += f"  delay {duration(sample.delay)}"
    return text + ("" if sample.valid else f"  NOT USED: {_reason(sample)}")


def _reason(sample: Sample) -> str:
    reason = "" if sample.reason is None else sample.reason.value
    return f"{reason} ({escaped(sample.detail)})" if sample.detail else reason


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _host_json(result: HostResult) -> dict[str, Any]:
    estimate = result.estimate
    return {
        "host": result.target.host,
        "address": result.address,
        "port": result.target.port,
        "mode": result.mode,
        "alpn": result.alpn,
        "zero_rtt": result.zero_rtt,
        "offset": None if estimate is None else estimate.offset,
        "root_distance": None if estimate is None else estimate.root_distance,
        "delay": None if estimate is None else estimate.delay,
        "jitter": None if estimate is None or result.good < 2 else estimate.jitter,
        "samples": [_sample_json(sample) for sample in result.samples],
        "notices": list(result.notices),
        "error": None if result.error is None else str(result.error),
        "error_kind": None if result.error is None else type(result.error).__name__,
    }


def _sample_json(sample: Sample) -> dict[str, Any]:
    return {
        "t1_ns": sample.t1_ns,
        "t2_ns": sample.t2_ns,
        "t3_ns": sample.t3_ns,
        "t4_ns": sample.t4_ns,
        "t1_source": sample.t1_source.value,
        "t4_source": None if sample.t4_source is None else sample.t4_source.value,
        "offset": sample.offset,
        "delay": sample.delay,
        "dispersion": sample.dispersion,
        "root_distance": sample.root_distance,
        "exact": sample.exact,
        "valid": sample.valid,
        "reason": None if sample.reason is None else sample.reason.value,
        "detail": sample.detail or None,
    }
