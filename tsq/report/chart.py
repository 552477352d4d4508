"""A picture of the sources' correctness intervals and of the one that they agree on. Needs matplotlib, an extra: `tsq-time[plot]`.

Comes in: a Selection. Goes out: a PNG, SVG or PDF file, or ConfigError that says what to do. It must never be needed for anything
else, nor open a window, nor write over what is not a picture's own file: a link, a special file, another user's.

The axis shows the neighbourhood of the agreed interval, or where there is none, of the offsets at which most sources meet. A source
outside of it is an arrow at the edge; every source has its offset in words beside its row.
"""

import contextlib
import io
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsq.errors import ConfigError
from tsq.host import files
from tsq.report import text as report
from tsq.timing.intersection import Interval
from tsq.timing.selection import Agreed, Mark, Selection, Unused, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg", ".pdf")
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
# Colours that colour-blind people can tell apart (Okabe and Ito), and a form for each: the mark is written, too.
_LOOKS = {
    Mark.BEST: ("#0072b2", "o"),
    Mark.COMBINED: ("#56b4e9", "o"),
    Mark.NOT_COMBINED: ("#e69f00", "s"),
    Mark.FALSETICKER: ("#d55e00", "X"),
    Mark.UNUSABLE: ("#999999", "D"),
}
_MEANINGS = {
    Mark.BEST: "best survivor",
    Mark.COMBINED: "combined",
    Mark.NOT_COMBINED: "agrees, not combined",
    Mark.FALSETICKER: "contradicts the majority",
    Mark.UNUSABLE: "cannot be used",
}
_LONGEST_NAME = 40
_LONGEST_REASON = 70
# How far from the interval in the middle a source may lie before the picture shows only where it went, in widths of that interval.
_FAR = 20.0
_LEAST_WIDTH = 1e-9


def check(path: str) -> None:
    """Raises ConfigError where the picture could not be drawn or written: better before the servers are asked than after."""
    _format(path)
    _matplotlib()
    try:
        files.check_own(path)
    except OSError as error:
        raise _unwritable(path, error) from error


def draw(chosen: Selection, path: str) -> None:
    """Write the picture of a selection to a file."""
    figure_type, canvas_type = _matplotlib()
    shown = [verdict.interval for verdict in chosen.verdicts if verdict.interval is not None]
    if not shown:
        raise ConfigError("no source gave a time: there is nothing to draw")
    figure = figure_type(figsize=(10, 1.9 + 0.42 * len(chosen.verdicts)), dpi=110, layout="constrained")
    canvas_type(figure)
    axes = figure.add_subplot()
    view = _view(_middle(chosen, shown), shown)
    scale, unit = next(((s, u) for s, u in _UNITS if max(abs(view.low), abs(view.high)) >= s), _UNITS[-1])
    _axes(axes, chosen, unit)
    _agreed(axes, chosen, scale)
    for row, verdict in enumerate(chosen.verdicts):
        _source(axes, row, verdict, scale, view)
    axes.set_xlim(view.low / scale, view.high / scale)
    _legend(figure, axes)
    picture = io.BytesIO()
    figure.savefig(picture, format=_format(path))
    try:
        files.replace(path, picture.getvalue(), _mode(path), durable=False)
    except OSError as error:
        raise _unwritable(path, error) from error


def _mode(path: str) -> int:
    """The mode of a picture that is replaced; else what the umask leaves of 0666."""
    with contextlib.suppress(FileNotFoundError):
        return stat.S_IMODE(os.lstat(path).st_mode)
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask


def _middle(chosen: Selection, shown: list[Interval]) -> Interval:
    """The offsets that the picture is about: the agreed ones, or else those at which most sources meet, nearest to 0."""
    if chosen.agreed is not None:
        return chosen.agreed.interval
    # Most sources meet where an interval begins.
    met = [[one for one in shown if one.low <= begin.low <= one.high] for begin in shown]
    most = max(map(len, met))
    unions = [Interval(min(one.low for one in group), max(one.high for one in group)) for group in met if len(group) == most]
    return min(unions, key=lambda one: abs(one.clamp(0.0)))


def _view(middle: Interval, shown: list[Interval]) -> Interval:
    """The offsets that the picture reaches from and to."""
    far = _FAR * max(middle.high - middle.low, _LEAST_WIDTH)
    near = [one for one in shown if one.low > middle.low - far and one.high < middle.high + far] + [middle]
    low, high = min(one.low for one in near), max(one.high for one in near)
    margin = 0.08 * (high - low) or _LEAST_WIDTH
    return Interval(low - margin, high + margin)


def _axes(axes: "Axes", chosen: Selection, unit: str) -> None:
    rows = range(len(chosen.verdicts))
    axes.set_yticks(rows, [_name(verdict) for verdict in chosen.verdicts])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    when = report.moment(chosen.at_ns) if chosen.at_ns is not None else "an unknown time"
    axes.set_xlabel(f"offset in {unit} at {when} UTC; positive: this machine's clock is behind")
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    # Clear of the arrows.
    axes.tick_params(axis="y", length=0, pad=10)
    said = axes.secondary_yaxis("right")
    said.set_yticks(rows, [_offset(verdict) for verdict in chosen.verdicts], fontsize="small")
    said.spines["right"].set_visible(False)
    said.tick_params(axis="y", length=0, pad=10)


def _agreed(axes: "Axes", chosen: Selection, scale: float) -> None:
    found = chosen.agreed
    if found is None:
        axes.set_title(f"No time: {chosen.problem}", loc="left", fontsize="medium")
        return
    low, high = found.interval.low / scale, found.interval.high / scale
    axes.axvspan(low, high, color="#009e73", alpha=0.18, label="agreed interval")
    axes.axvline(found.offset / scale, color="#009e73", linewidth=1.4, label="agreed offset")
    axes.set_title(_title(chosen, found), loc="left", fontsize="medium")


def _title(chosen: Selection, found: Agreed) -> str:
    agree = found.compared - len(chosen.falsetickers)
    who = "One source, no redundancy" if found.compared == 1 else f"{agree} of {found.compared} sources agree"
    return f"{who}: clock wrong by {report.agreed_within(found)}"


def _source(axes: "Axes", row: int, verdict: Verdict, scale: float, view: Interval) -> None:
    """One row: the source's interval as far as the picture reaches, an arrow where the offset lies outside; or why it has none."""
    interval, colour, form = verdict.interval, *_LOOKS[verdict.mark]
    if interval is None:
        text = f"no time: {report.shortened(report.escaped(verdict.detail), _LONGEST_REASON)}" if verdict.detail else "no time"
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axes.text(
            0.01,
            row,
            _plain(text),
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize="small",
            color="#555555",
            bbox=paper,
        )
        return
    label = _label(verdict)
    if label in axes.get_legend_handles_labels()[1]:
        label = "_" + label
    middle = (interval.low + interval.high) / 2
    if view.low <= middle <= view.high:
        reach = (interval.high - interval.low) / 2 / scale
        axes.errorbar(middle / scale, row, xerr=reach, fmt=form, color=colour, capsize=4, markersize=6, label=label)
        return
    right = middle > view.high
    edge, arrow = (view.high, ">") if right else (view.low, "<")
    axes.plot([edge / scale], [row], arrow, color=colour, markersize=9, clip_on=False, label=label)
    if interval.overlaps(view):
        axes.plot([view.clamp(interval.low) / scale, view.clamp(interval.high) / scale], [row, row], color=colour)


def _label(verdict: Verdict) -> str:
    """What a source's mark means, for the legend."""
    meaning = "no majority: nobody knows whether it is right" if verdict.unused is Unused.NO_MAJORITY else _MEANINGS[verdict.mark]
    return f"{verdict.mark} {meaning}"


def _legend(figure: Any, axes: "Axes") -> None:
    """What the marks that are there mean, in chronyc's order."""
    found = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    marks = [label for mark in Mark for label in found if label.startswith(f"{mark} ")]
    rest = [label for label in found if label not in marks]
    labels = [*rest, *marks]
    figure.legend([found[one] for one in labels], labels, loc="outside lower center", ncols=3, fontsize="small", frameon=False)


def _name(verdict: Verdict) -> str:
    return f"{_plain(report.shortened(verdict.source.name, _LONGEST_NAME))}  {verdict.mark}"


def _offset(verdict: Verdict) -> str:
    """A source's interval in words."""
    if verdict.interval is None:
        return ""
    low, high = verdict.interval.low, verdict.interval.high
    return f"{report.duration((low + high) / 2, signed=True)} ± {report.bound((high - low) / 2)}"


def _plain(text: str) -> str:
    # "$" would begin a formula.
    return text.replace("$", r"\$")


def _format(path: str) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        found = f"ends in {suffix}" if suffix else "has no suffix"
        raise ConfigError(f"plot file {path} {found}", expected=f"a name that ends in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    return suffix[1:]


def _unwritable(path: str, error: OSError) -> ConfigError:
    return ConfigError(f"plot file {path}: {error.strerror or error}", advice="name a file that can be written")


def _matplotlib() -> tuple[Any, Any]:
    """(Figure, the canvas that draws it without a display)."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - an extra
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            f"a plot needs matplotlib, which cannot be loaded ({error})", advice="install it with `pip install 'tsq-time[plot]'`"
        ) from error
    return Figure, FigureCanvasAgg
