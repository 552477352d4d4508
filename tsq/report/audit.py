"""What an audit log proves, as people read it, and as a JSON document (docs/explanation/proofs.md).

Comes in: an Examination. Goes out: strings, a document. It must never say more than is proven, nor round a limit down.
"""

from collections.abc import Sequence
from typing import Any

from tsq.audit.examination import Examination, ServerReport
from tsq.audit.order import TRUTH, Limit
from tsq.report.spans import bound, cells, duration, escaped, moment, padded
from tsq.wording import counted

_MOST_FAULTS = 20


def lines(found: Examination) -> list[str]:
    """The whole report."""
    return [*_head(found), *_faults(found), "", *_servers(found), *_order(found), *_contradiction(found), "", verdict(found)]


def verdict(found: Examination) -> str:
    """One sentence: what is proven."""
    contradiction = found.findings.contradiction
    if contradiction:
        if found.findings.accused is not None:
            return f"{escaped(found.findings.accused)} contradicts the others: without it, all agree"
        names = _listed(sorted({node for limit in contradiction for node in (limit.earlier, limit.later)} - {TRUTH}))
        return f"{names} contradict each other; it is not proven which of them is wrong"
    if found.faults:
        return f"{counted(len(found.faults), 'record')} of {found.records} prove nothing; the others do not contradict each other"
    if not found.chained:
        return "all signatures are good; nothing is proven about the order of the answers, because they are not chained"
    return "all signatures are good, the order is proven, and no server contradicts another"


def document(found: Examination) -> dict[str, Any]:
    """The same for programs."""
    return {
        "records": found.records,
        "chains": found.chains,
        "chained": found.chained,
        "faults": [{"line": fault.line, "server": fault.server, "why": fault.why} for fault in found.faults],
        "servers": [
            {"server": one.server, "records": one.records, "keys": sorted(one.key_ids), "error": found.error_of(one.server),
             "error_known": one.error is not None}
            for one in found.servers
        ],
        "limits": [_limit_document(limit) for limit in found.findings.limits],
        "contradiction": [_limit_document(limit) for limit in found.findings.contradiction],
        "accused": found.findings.accused,
        "verdict": verdict(found),
    }  # fmt: skip


def _limit_document(limit: Limit) -> dict[str, Any]:
    return {
        "earlier": limit.earlier or None,
        "later": limit.later or None,
        "ahead_at_most": limit.at_most_ns / 1e9,
        "first_line": None if limit.first is None else limit.first.line,
        "second_line": None if limit.second is None else limit.second.line,
    }


def _head(found: Examination) -> list[str]:
    chained = f", {counted(found.chained, 'link')} in {counted(found.chains, 'chain')}" if found.chains else ""
    return [f"{counted(found.records, 'record')} of {counted(len(found.servers), 'server')}{chained}"]


def _faults(found: Examination) -> list[str]:
    shown = [f"line {fault.line}: {escaped(fault.server)}: {escaped(fault.why)}" for fault in found.faults[:_MOST_FAULTS]]
    more = len(found.faults) - len(shown)
    return [*shown, f"and {counted(more, 'record')} more"] if more else shown


def _servers(found: Examination) -> list[str]:
    rows = [("server", "records", "signed by key", "its own error"), *(_server_row(found, one) for one in found.servers)]
    return _table(rows) if found.servers else []


def _server_row(found: Examination, one: ServerReport) -> tuple[str, ...]:
    error = f"± {bound(found.error_of(one.server))}" + ("" if one.error is not None else " (assumed)")
    return escaped(one.server), str(one.records), _listed([str(number) for number in sorted(one.key_ids)]), error


def _order(found: Examination) -> list[str]:
    """What the order proves about each pair of clocks: the difference lies between two limits."""
    limits = {(limit.earlier, limit.later): limit.at_most_ns / 1e9 for limit in found.findings.limits}
    names = [one.server for one in found.servers]
    rows = []
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            most, least = limits.get((first, second)), limits.get((second, first))
            if most is not None or least is not None:
                low = "no limit" if least is None else duration(-least, signed=True)
                high = "no limit" if most is None else duration(most, signed=True)
                rows.append((escaped(second), "against", escaped(first), low, "to", high))
    return ["", "proven by the order alone: how far one clock is ahead of another", *_table(rows, header=False)] if rows else []


def _contradiction(found: Examination) -> list[str]:
    """The smallest proof, step by step."""
    steps = found.findings.contradiction
    if not steps:
        return []
    total = sum(limit.at_most_ns for limit in steps) / 1e9
    return [
        "",
        "contradiction:",
        *(f"  {_step(limit)}" for limit in steps),
        f"  together: {duration(total, signed=True)}, below zero",
    ]


def _step(limit: Limit) -> str:
    at_most = duration(limit.at_most_ns / 1e9, signed=True)
    if limit.first is None or limit.second is None:
        if limit.earlier == TRUTH:
            return f"{escaped(limit.later)} is ahead of true time by at most {at_most}: its own error"
        return f"true time is ahead of {escaped(limit.earlier)} by at most {at_most}: its own error"
    return (
        f"{escaped(limit.later)} is ahead of {escaped(limit.earlier)} by at most {at_most}: line {limit.first.line}, sent at "
        f"{_exact(limit.first.t3_ns)}, came before line {limit.second.line}, received at {_exact(limit.second.t2_ns)}"
    )


def _exact(at_ns: int) -> str:
    return f"{moment(at_ns)}.{at_ns % 10**9:09}"


def _table(rows: Sequence[tuple[str, ...]], *, header: bool = True) -> list[str]:
    widths = [max(cells(row[column]) for row in rows) for column in range(len(rows[0]))]
    indent = "" if header else "  "
    return [
        indent + "  ".join(padded(cell, width, left=True) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _listed(names: list[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(map(escaped, names[:-1]))} and {escaped(names[-1])}"
