"""Results as people and programs read them: text and JSON (docs/reference/cli.md).

Comes in: HostResults, the Selection among them, and the reading of the clock that it is for. Goes out: strings. Prints nothing. No
offset is given without its bound, no bound is rounded down, and text from the network is shown with its control characters escaped.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from math import ceil
from typing import Any

from tsq.client.result import HostResult
from tsq.report.plain import in_ascii
from tsq.timing.filter import Estimate
from tsq.timing.local_clock import ClockReading, Movement
from tsq.timing.sample import Sample
from tsq.timing.selection import Agreed, Mark, NoTime, Selection, Verdict

LEGEND = "offset: positive when this clock is behind; ±: root distance, its error bound"
FULL_LEGEND = (
    "offset: positive when this clock is behind; root distance, the bound of its error: ± to server and ± server's own together"
)
# The width of output that is not read on a terminal.
COLUMNS = 80
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_ROUNDS_UP = 0.9999995
_HEADER = (
    "M", "host", "stratum", "offset", "± to server", "± server's own", "delay", "jitter", "stamps", "samples", "mode"
)  # fmt: skip
_SHORT_HEADER = ("M", "host", "stratum", "offset", "±", "delay", "samples")
_TO_THE_LEFT = ("M", "host", "mode")
_FROM_ESTIMATE = _HEADER.index("stamps") + 1 - _HEADER.index("stratum")
_LEAST_HOST = 12
# What a bound is rounded up by at the least, so that binary fractions do not make it one step too large.
_SLACK = 1e-6
# How much of an error stands in a list of reasons; a server may put a lot into one.
_MOST_OF_A_REASON = 80


def duration(seconds: float, signed: bool = False) -> str:
    """A span with a unit that suits its size: '+12.345 µs', '0.012 µs', '1.234 s'. One with a sign is an offset, told to the
    microsecond at least: '+1.234567 s'.
    """
    # What rounds up to the next unit is written in it.
    scale, unit = next(((s, u) for s, u in _UNITS if abs(seconds) >= s * _ROUNDS_UP), _UNITS[-1])
    if signed and unit == "s":
        return f"{seconds:+.6f} s"
    return f"{seconds / scale:+.3f} {unit}" if signed else f"{seconds / scale:.3f} {unit}"


def bound(seconds: float) -> str:
    """A span that something lies within: as `duration`, but never less than it is."""
    scale, _ = next(((s, u) for s, u in _UNITS if abs(seconds) >= s * _ROUNDS_UP), _UNITS[-1])
    return duration(ceil(seconds / scale * 1000 - _SLACK) / 1000 * scale)


def within(offset: float, low: float, high: float) -> str:
    """An offset with its bound, in one unit: '+0.012 ± 10.103 ms'. What is written reaches from `low` to `high` at the least."""
    scale, unit, digits = _unit_of_both(max(abs(offset), high - offset, offset - low))
    steps = round(10**digits / scale)
    shown = _steps(offset, steps, 0)
    reach = max(_steps(high, steps, 1) - shown, shown - _steps(low, steps, -1))
    return f"{shown / 10**digits:+.{digits}f} ± {reach / 10**digits:.{digits}f} {unit}"


def _unit_of_both(seconds: float) -> tuple[float, str, int]:
    """(scale, unit, decimals) for numbers of which this is the largest."""
    scale, unit = next(((s, u) for s, u in _UNITS if seconds >= s * _ROUNDS_UP), _UNITS[-1])
    return scale, unit, 6 if unit == "s" else 3


def _rounding(offset: float) -> float:
    """How far a signed duration as it is written is from what it stands for, seconds."""
    number, unit = duration(offset, signed=True).split()
    return abs(float(number) * next(scale for scale, name in _UNITS if name == unit) - offset)


def table(
    results: Sequence[HostResult], chosen: Selection, columns: int = COLUMNS, *, full: bool = False, plain: bool = False
) -> str:
    """One line for each host, under a header; empty where none gave an estimate. M: the selection's mark.

    The short table, with host names cut to fit the columns; the full one where it fits them, or on request. plain: ASCII.
    """
    if all(verdict.interval is None for verdict in chosen.verdicts):
        return ""
    pairs = list(zip(results, chosen.verdicts, strict=True))
    wide = _laid_out(_HEADER, [_row(*pair) for pair in pairs], plain)
    if full or max(map(len, wide)) <= columns:
        return "\n".join(wide)
    rows = [_short_row(*pair) for pair in pairs]
    narrow = _laid_out(_SHORT_HEADER, rows, plain)
    excess = max(map(len, narrow)) - columns
    if excess > 0:
        most = max(_LEAST_HOST, max(len(row[1]) for row in rows) - excess)
        narrow = _laid_out(_SHORT_HEADER, [(row[0], _middle_cut(row[1], most), *row[2:]) for row in rows], plain)
    return "\n".join(narrow)


def is_full(table: str) -> bool:
    """Whether a table has all columns."""
    return "mode" in table.partition("\n")[0].split()


def _laid_out(header: Sequence[str], rows: Sequence[Sequence[str]], plain: bool) -> list[str]:
    """Lines with aligned columns."""
    lines = [[in_ascii(cell) if plain else cell for cell in line] for line in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return [
        "  ".join(
            cell.ljust(width) if name in _TO_THE_LEFT else cell.rjust(width)
            for name, cell, width in zip(header, line, widths, strict=True)
        ).rstrip()
        for line in lines
    ]


def _middle_cut(text: str, most: int) -> str:
    """At most so many characters of a name: its beginning, and its end, which has the port."""
    if len(text) <= most:
        return text
    rest = most - 2
    return f"{text[: rest - rest // 2]}..{text[len(text) - rest // 2 :]}"


def unused(chosen: Selection, *, failed: bool = False) -> list[str]:
    """Why sources are not used, one line each, with the mark in front. failed: also those that gave no time, in the first words of
    their errors.
    """
    return [
        f"{verdict.mark} {verdict.source.name}: {why_unused(verdict)}"
        for verdict in chosen.verdicts
        if verdict.unused is not None and (failed or verdict.interval is not None)
    ]


def why_unused(verdict: Verdict) -> str:
    """Why a source is not used, short and escaped; empty where it is used."""
    if verdict.unused is None:
        return ""
    return verdict.unused + (f": {shortened(escaped(verdict.detail), _MOST_OF_A_REASON)}" if verdict.detail else "")


def shortened(text: str, most: int, end: str = "…") -> str:
    """At most so many characters of a text; one that had more has this end."""
    return text if len(text) <= most else text[: most - len(end)] + end


def redundancy(chosen: Selection, assumed_error: float) -> str:
    """How far the agreed time can be trusted; empty where there is none."""
    found = chosen.agreed
    if found is None:
        return ""
    if found.compared == 1:
        text = "one source, no redundancy: nobody could contradict it"
    elif found.compared == 2:
        text = "both sources agree; were one of them wrong, nobody could tell which"
    else:
        agree = found.compared - len(chosen.falsetickers)
        liars = "1 liar" if found.tolerated == 1 else f"{found.tolerated} liars"
        text = f"{agree} of {found.compared} sources agree; ± holds with up to {liars} among them"
    if not found.server_errors_known:
        text += f"; server's own error unknown: {duration(assumed_error)} assumed"
    if found.leap in _LEAPS:
        text += f"; {_LEAPS[found.leap]}"
    return f"{text}; leap seconds are smeared" if found.smeared else text


_LEAPS = {1: "a leap second is to be inserted", 2: "a leap second is to be deleted"}


def verdict(chosen: Selection) -> str:
    """The last line, in the manner of `chronyd -Q`: the agreed offset ± root distance, or why there is none; may be empty."""
    if chosen.agreed is None:
        gave = any(verdict.interval is not None for verdict in chosen.verdicts)
        return f"No time: {chosen.problem}" if gave else ""
    return f"System clock wrong by {agreed_within(chosen.agreed)} (ignored)"


def agreed_within(found: Agreed) -> str:
    """The agreed offset ± root distance, such that the bound holds for the offset as it is written."""
    return within(found.offset, found.interval.low, found.interval.high)


def legend(chosen: Selection, table: str = "") -> list[str]:
    """What the table's numbers are, and the time that they and the result hold for, by the clock that was compared."""
    lines = [FULL_LEGEND if is_full(table) else LEGEND]
    if chosen.at_ns is not None:
        lines.append(f"holds at {moment(chosen.at_ns)}.{chosen.at_ns % 10**9 // 1000:06d} UTC by this machine's clock")
    return lines


def moment(at_ns: int) -> str:
    """A local time to the second, in UTC."""
    try:
        return str(datetime.fromtimestamp(at_ns // 10**9, UTC).replace(tzinfo=None))
    except (ValueError, OverflowError):
        # A clock may say anything.
        return f"{at_ns // 10**9} s since 1970"


def clock_notices(chosen: Selection, now: ClockReading | None = None) -> list[str]:
    """What a user must know of this machine's clock: that it was slewed or stepped while it was measured, that it drifts."""
    notices = []
    found = [verdict for verdict in chosen.verdicts if verdict.source.estimate is not None]
    moved = max((_estimate(one).moved for one in found), key=lambda one: one.elapsed_ns, default=Movement())
    # A short slew in a long run counts where it is more than the bound.
    told = moved.notable or (chosen.agreed is not None and abs(moved.moved_ns) > chosen.agreed.root_distance * 1e9)
    if told and moved.stepped:
        span = duration(moved.moved_ns / 1e9, signed=True)
        notices.append(f"this clock was stepped by {span} while it was measured: earlier samples are worth less")
    elif told:
        span = duration(moved.moved_ns / 1e9, signed=True)
        notices.append(f"this clock was being slewed by {moved.rate * 1e6:+.0f} ppm while it was measured ({span} in all)")
    if now is not None and now.pending_ns and chosen.agreed is not None:
        rest = now.pending_ns / 1e9
        if abs(rest) > chosen.agreed.root_distance:
            notices.append(f"the kernel is still slewing this clock: {duration(rest, signed=True)} are left")
    return notices + _drifts(found, chosen)


def _drifts(found: Sequence[Verdict], chosen: Selection) -> list[str]:
    """What the samples show of the clock's frequency; the drift against a source that the others contradict shows nothing."""
    notices = [
        f"the samples of {one.source.name} contradict each other: this clock or the server's was set while it was measured"
        for one in found
        if _estimate(one).drift.set
    ]
    true = chosen.marked(Mark.BEST, Mark.COMBINED, Mark.NOT_COMBINED)
    drifting = [one for one in true if _estimate(one).drift.shown is not None]
    if drifting:
        best = min(drifting, key=lambda one: _estimate(one).drift.shown_error)
        drift = _estimate(best).drift
        rate, error = (drift.shown or 0.0) * 1e6, ceil(drift.shown_error * 1e6)
        runs = "fast" if rate > 0 else "slow"
        notices.append(f"this clock drifts by {abs(rate):.0f} ppm: it runs {runs} against {best.source.name} (± {error} ppm)")
    return notices


def _estimate(verdict: Verdict) -> Estimate:
    assert verdict.source.estimate is not None
    return verdict.source.estimate


def line(chosen: Selection, notices: Sequence[str] = ()) -> str:
    """All of it in one line: when, the agreed offset ± root distance, each source's mark, and what is to be known of the clock."""
    when = "-" if chosen.at_ns is None else moment(chosen.at_ns)
    marks = " ".join(f"{verdict.mark}{verdict.source.name}" for verdict in chosen.verdicts)
    marks += f"  ({'; '.join(notices)})" if notices else ""
    if chosen.agreed is None:
        reasons = [f"{verdict.source.name} {verdict.unused}" for verdict in chosen.verdicts if verdict.unused is not None]
        why = f" ({'; '.join(reasons)})" if chosen.problem is NoTime.NO_SOURCE else ""
        return f"{when}  no time: {chosen.problem}{why}  {marks}"
    return f"{when}  {agreed_within(chosen.agreed)}  {marks}"


def _steps(seconds: float, per_second: int, direction: int) -> int:
    """A number of steps, rounded to the nearest, or up (1) or down (-1) but for the slack."""
    # Integers: a float of some years is coarser than the bound may be.
    numerator, denominator = seconds.as_integer_ratio()
    # In millionths of a step.
    fine = (2 * numerator * per_second * 10**6 + denominator) // (2 * denominator)
    if direction:
        return direction * -((-direction * fine + round(_SLACK * 10**6)) // 10**6)
    return (fine + 500_000) // 10**6


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


def as_json(results: Sequence[HostResult], chosen: Selection, version: str, now: ClockReading | None = None) -> dict[str, Any]:
    """The object that `tsq-client --json` prints; its schema only grows (docs/reference/cli.md)."""
    hosts = [result.to_dict(verdict) for result, verdict in zip(results, chosen.verdicts, strict=True)]
    notices = clock_notices(chosen, now)
    return {"version": version, "hosts": hosts, "selection": chosen.to_dict(), "notices": notices}


def escaped(text: str) -> str:
    """Text that may come from the network, safe for a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _row(result: HostResult, verdict: Verdict) -> tuple[str, ...]:
    """A host's cells; what is not known is "-"."""
    where = str(result.target) if result.address in (None, result.target.host) else f"{result.target} ({result.address})"
    samples = f"{result.good}/{len(result.samples)}" if result.samples else "-"
    mode = "-" if result.mode is None else f"{result.mode} {result.alpn}" + (" 0-RTT" if result.zero_rtt else "")
    return (verdict.mark.value, where, *_estimate_cells(result, verdict.source.estimate), samples, mode)


def _short_row(result: HostResult, verdict: Verdict) -> tuple[str, ...]:
    """A host's cells in the short table."""
    stratum, offset, bounds, delay = ("-",) * 4
    estimate = verdict.source.estimate
    if estimate is not None:
        stratum = "-" if estimate.server is None or estimate.server.stratum is None else str(estimate.server.stratum)
        offset, delay = duration(estimate.offset, signed=True), duration(estimate.delay)
        # The bound holds for the offset as it is written.
        bounds = bound(estimate.root_distance + _rounding(estimate.offset))
    samples = f"{result.good}/{len(result.samples)}" if result.samples else "-"
    return (verdict.mark.value, str(result.target), stratum, offset, bounds, delay, samples)


def _estimate_cells(result: HostResult, estimate: Estimate | None) -> tuple[str, ...]:
    """The columns from stratum to stamps."""
    if estimate is None:
        return ("-",) * _FROM_ESTIMATE
    stratum = None if estimate.server is None else estimate.server.stratum
    shown = duration(estimate.offset, signed=True)
    return (
        "-" if stratum is None else str(stratum),
        shown,
        # The bound holds for the offset as it is written.
        f"± {bound(estimate.server_distance + _rounding(estimate.offset))}",
        f"± {bound(estimate.server_error)}" if estimate.server_error_known else "unknown",
        duration(estimate.delay),
        duration(estimate.jitter) if result.good > 1 else "-",
        estimate.stamps,
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
        reach = (sample.root_distance or 0.0) + _rounding(sample.offset)
        text += f"  offset {duration(sample.offset, signed=True)} ± {bound(reach)}"
        text += f"  delay {duration(sample.delay)}"
    return text + ("" if sample.valid else f"  NOT USED: {_reason(sample)}")


def _reason(sample: Sample) -> str:
    reason = "" if sample.reason is None else sample.reason.value
    return f"{reason} ({escaped(sample.detail)})" if sample.detail else reason


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)
