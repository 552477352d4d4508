"""What a replay of a recording showed, as text (docs/reference/recordings.md).

Comes in: a Report. Goes out: lines. It must never call a recording equal that was not compared as a whole without saying so.
"""

from tsq.daemon.replay import Difference, Figures, Report, Run
from tsq.report import spans
from tsq.wording import counted

# Actions of one event, at most, and characters of each.
_MOST_ACTIONS, _MOST_TEXT = 6, 200


def text(report: Report) -> str:
    """All runs, and a last line that says whether the actions are the recorded ones."""
    lines = [line for run in report.runs for line in _run(run)]
    return "\n".join([*lines, _verdict(report), ""])


def _verdict(report: Report) -> str:
    compared = sum(run.compared for run in report.runs)
    different = sum(run.different for run in report.runs)
    if different:
        return f"DIFFERENT: other actions for {different} of {compared} compared events"
    if not compared:
        return "NOT COMPARED: no run is recorded from its beginning"
    if not report.complete:
        return f"EQUAL as far as they were compared: the actions for {counted(compared, 'event')}; others are missing"
    return f"EQUAL: the actions for all {counted(compared, 'event')}"


def _run(run: Run) -> list[str]:
    name = spans.escaped(run.name)
    lines = [f"run {name}, recorded by version {spans.escaped(run.version) or 'unknown'}: {counted(run.events, 'event')}"]
    if run.missing:
        lines.append(f"  missing events: {run.missing} ({'; '.join(map(spans.escaped, run.reasons)) or 'unknown reason'})")
    if run.compared < run.events:
        lines.append(f"  compared: only the first {run.compared}; after that the replay has not all that the daemon had")
    lines += _figures(run.figures)
    return lines if run.first is None else [*lines, *_difference(run.first)]


def _figures(figures: Figures) -> list[str]:
    lines = [
        f"  time: {figures.seconds / 3600:.2f} h, polls: {figures.polls}, samples: {figures.samples}, updates: {figures.updates}"
    ]
    if figures.synchronized_after is not None:
        lines.append(f"  synchronized after: {spans.duration(figures.synchronized_after)}")
    if figures.rms_offset is not None and figures.max_offset is not None:
        lines.append(f"  offset at updates: RMS {spans.duration(figures.rms_offset)}, most {spans.bound(figures.max_offset)}")
    if figures.mean_bound is not None and figures.max_bound is not None:
        lines.append(f"  bound at updates: mean {spans.bound(figures.mean_bound)}, most {spans.bound(figures.max_bound)}")
    lines.append(
        f"  steps: {figures.steps} ({spans.duration(figures.accumulated_steps)} in all), moves by others: {figures.foreign_moves}"
    )
    frequency = "" if figures.frequency is None else f", frequency error: {figures.frequency * 1e6:+z.4f} ppm"
    lines.append(f"  at the end: {figures.status or 'unknown'}{frequency}")
    return [*lines, f"  frozen: {spans.escaped(figures.frozen)}"] if figures.frozen else lines


def _difference(first: Difference) -> list[str]:
    lines = [f"  first difference: {first.place}, event {first.number}, {first.event}"]
    for title, actions in (("recorded", first.recorded), ("now", first.replayed)):
        lines.append(f"    {title}:" if actions else f"    {title}: no action")
        lines += [f"      {spans.shortened(spans.escaped(action), _MOST_TEXT)}" for action in actions[:_MOST_ACTIONS]]
        if len(actions) > _MOST_ACTIONS:
            lines.append(f"      and {len(actions) - _MOST_ACTIONS} more")
    return lines
