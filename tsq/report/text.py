"""Results as people read them: tables and sentences (docs/reference/cli.md).

Comes in: HostResults, the Selection among them, and the reading of the clock that it is for. Goes out: strings. It must never
print, nor give an offset without its bound.
"""

from collections.abc import Sequence
from math import ceil

from tsq.client.result import HostResult
from tsq.report.claims import claims
from tsq.report.plain import in_ascii
from tsq.report.spans import bound, cells, duration, escaped, middle_cut, moment, padded, rounding, shortened, within
from tsq.timing.filter import Estimate
from tsq.timing.local_clock import ClockReading, Movement
from tsq.timing.sample import Sample
from tsq.timing.selection import Agreed, Mark, NoTime, Selection, Verdict
from tsq.wording import counted

LEGEND = "offset: positive when this clock is behind; ±: root distance, its error bound"
FULL_LEGEND = (
    "offset: positive when this clock is behind; root distance, the bound of its error: ± to server and ± server's own together"
)
# How a = in a key is written.
EQUALS = "\\x3d"
# The width of output that is not read on a terminal.
COLUMNS = 80
_HEADER = (
    "M", "host", "stratum", "offset", "± to server", "± server's own", "delay", "jitter", "stamps", "samples", "mode"
)  # fmt: skip
_SHORT_HEADER = ("M", "host", "stratum", "offset", "±", "delay", "samples")
_TO_THE_LEFT = ("M", "host", "mode")
_FROM_ESTIMATE = _HEADER.index("stamps") + 1 - _HEADER.index("stratum")
_LEAST_HOST = 12
# How much of an error stands in a list of reasons; a server may put a lot into one.
_MOST_OF_A_REASON = 80


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
    if full or max(map(cells, wide)) <= columns:
        return "\n".join(wide)
    rows = [_short_row(*pair) for pair in pairs]
    narrow = _laid_out(_SHORT_HEADER, rows, plain)
    excess = max(map(cells, narrow)) - columns
    if excess > 0:
        most = max(_LEAST_HOST, max(cells(row[1]) for row in rows) - excess)
        narrow = _laid_out(_SHORT_HEADER, [(row[0], middle_cut(row[1], most), *row[2:]) for row in rows], plain)
    # Scripts look for the samples as a word between blanks, as in the full table.
    end = " " if max(map(cells, narrow)) < columns else ""
    return "\n".join(line + end for line in narrow)


def is_full(table: str) -> bool:
    """Whether a table has all columns."""
    return "mode" in table.partition("\n")[0].split()


def _laid_out(header: Sequence[str], rows: Sequence[Sequence[str]], plain: bool) -> list[str]:
    """Lines with aligned columns."""
    lines = [[in_ascii(cell) if plain else cell for cell in line] for line in (header, *rows)]
    widths = [max(cells(line[column]) for line in lines) for column in range(len(header))]
    return [
        "  ".join(
            padded(cell, width, left=name in _TO_THE_LEFT) for name, cell, width in zip(header, line, widths, strict=True)
        ).rstrip()
        for line in lines
    ]


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


def redundancy(chosen: Selection, assumed_error: float) -> str:
    """How far the agreed time can be trusted; empty if there is none."""
    found = chosen.agreed
    if found is None:
        return ""
    if found.compared == 1:
        text = "one source, no redundancy: no other source can contradict it"
    elif found.compared == 2:
        text = "both sources agree; if one of them is wrong, it is unknown which"
    else:
        agree = found.compared - len(chosen.falsetickers)
        liars = counted(found.tolerated, "liar")
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


def clock_notices(chosen: Selection, now: ClockReading | None = None) -> list[str]:
    """Notices on this machine's clock: it was slewed or stepped while it was measured, or it drifts."""
    notices = []
    found = [verdict for verdict in chosen.verdicts if verdict.source.estimate is not None]
    moved = max((_estimate(one).moved for one in found), key=lambda one: one.elapsed_ns, default=Movement())
    # A short slew in a long run counts if it is more than the bound.
    notable = moved.notable or (chosen.agreed is not None and abs(moved.moved_ns) > chosen.agreed.root_distance * 1e9)
    if notable and moved.stepped:
        span = duration(moved.moved_ns / 1e9, signed=True)
        notices.append(f"this clock was stepped by {span} while it was measured: earlier samples have wider bounds")
    elif notable:
        span = duration(moved.moved_ns / 1e9, signed=True)
        notices.append(f"this clock was being slewed by {moved.rate * 1e6:+z.0f} ppm while it was measured ({span} in all)")
    if now is not None and now.pending_ns and chosen.agreed is not None:
        rest = now.pending_ns / 1e9
        if abs(rest) > chosen.agreed.root_distance:
            notices.append(f"the kernel is still slewing this clock: {duration(rest, signed=True)} are left")
    return notices + _drifts(found, chosen)


def _drifts(found: Sequence[Verdict], chosen: Selection) -> list[str]:
    """Notices on the clock's frequency. Ignore the drift against a falseticker."""
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
    """One line with the time, the agreed offset ± root distance, each source's mark, and the notices on the clock."""
    when = "-" if chosen.at_ns is None else moment(chosen.at_ns)
    marks = " ".join(f"{verdict.mark}{verdict.source.name}" for verdict in chosen.verdicts)
    marks += f"  ({'; '.join(notices)})" if notices else ""
    if chosen.agreed is None:
        reasons = [f"{verdict.source.name} {verdict.unused}" for verdict in chosen.verdicts if verdict.unused is not None]
        why = f" ({'; '.join(reasons)})" if chosen.problem is NoTime.NO_SOURCE else ""
        return f"{when}  no time: {chosen.problem}{why}  {marks}"
    return f"{when}  {agreed_within(chosen.agreed)}  {marks}"


def sample_lines(result: HostResult) -> list[str]:
    """Each sample of a host with its four timestamps and their sources."""
    return [f"  sample {number}: {_sample(sample)}" for number, sample in enumerate(result.samples, 1)]


def claims_line(verdict: Verdict) -> str:
    """What the server says about its clock; empty where it says nothing."""
    found = verdict.source.estimate
    if found is None or found.server is None:
        return ""
    one = found.server
    line = claims(one.stratum, one.source_type, one.source, one.clock_class, one.tag)
    bad = f"{one.ignored} value{'s' if one.ignored > 1 else ''} in another format, not used" if one.ignored else ""
    said = "; ".join(part for part in (line, bad) if part)
    return f"  says of its clock: {said}" if said else ""


def metadata_lines(result: HostResult) -> list[str]:
    """What the server's operator says about it, one line for each pair."""
    # A key of another program may have a = in it, too.
    pairs = [f"{escaped(key).replace('=', EQUALS)}={escaped(value)}" for key, value in sorted(result.metadata.items())]
    return [f"metadata of {result.target}: {pair}" for pair in pairs or ["none"]]


def rejections(result: HostResult) -> list[str]:
    """Why samples of a host are not used, one line each."""
    return [
        f"sample {number} of {result.target} not used: {_reason(sample)}"
        for number, sample in enumerate(result.samples, 1)
        if not sample.valid
    ]


def _row(result: HostResult, verdict: Verdict) -> tuple[str, ...]:
    """A host's cells; "-" for what is unknown."""
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
        bounds = bound(estimate.root_distance + rounding(estimate.offset))
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
        f"± {bound(estimate.server_distance + rounding(estimate.offset))}",
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
        reach = (sample.root_distance or 0.0) + rounding(sample.offset)
        text += f"  offset {duration(sample.offset, signed=True)} ± {bound(reach)}"
        text += f"  delay {duration(sample.delay)}" + ("  Precision Mode" if sample.precise else "")
    return text + ("" if sample.valid else f"  NOT USED: {_reason(sample)}")


def _reason(sample: Sample) -> str:
    reason = "" if sample.reason is None else sample.reason.value
    return f"{reason} ({escaped(sample.detail)})" if sample.detail else reason


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)
