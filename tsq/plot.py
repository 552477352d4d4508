"""A picture of the sources' correctness intervals and of the one that they agree on. Needs matplotlib, an extra: `tsq[plot]`.

Comes in: a Selection. Goes out: a PNG file, or ConfigError that says what to do. It must never be needed for anything else, nor
open a window.
"""

from typing import TYPE_CHECKING, Any

from tsq import report
from tsq.errors import ConfigError
from tsq.timing.selection import Mark, Selection, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
# How far from the agreed interval a source may lie before the picture shows only where it went, in widths of that interval.
_FAR = 20.0


def check() -> None:
    """Raises ConfigError where the picture could not be drawn: better before the servers are asked than after."""
    _matplotlib()


def draw(chosen: Selection, path: str) -> None:
    """Write the picture of a selection to a file."""
    figure_type, canvas_type = _matplotlib()
    shown = [verdict for verdict in chosen.verdicts if verdict.interval is not None]
    if not shown:
        raise ConfigError("no source gave a time: there is nothing to draw")
    figure = figure_type(figsize=(9, 1.9 + 0.42 * len(shown)), dpi=110, layout="constrained")
    canvas_type(figure)
    axes = figure.add_subplot()
    low, high = _range(chosen, shown)
    scale, unit = next(((s, u) for s, u in _UNITS if max(abs(low), abs(high)) >= s), _UNITS[-1])
    _axes(axes, shown, unit)
    _agreed(axes, chosen, scale)
    for row, verdict in enumerate(shown):
        _source(axes, row, verdict, scale, (low, high))
    axes.set_xlim(low / scale, high / scale)
    _legend(figure, axes)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}", advice="name a file that can be written") from error


def _range(chosen: Selection, shown: list[Verdict]) -> tuple[float, float]:
    """The offsets that the picture reaches from and to."""
    intervals = [verdict.interval for verdict in shown if verdict.interval is not None]
    if chosen.agreed is not None:
        middle = chosen.agreed.interval
        far = _FAR * max(middle.high - middle.low, 1e-9)
        intervals = [one for one in intervals if one.low > middle.low - far and one.high < middle.high + far] + [middle]
    low, high = min(one.low for one in intervals), max(one.high for one in intervals)
    margin = 0.08 * (high - low) or 1e-9
    return low - margin, high + margin


def _axes(axes: "Axes", shown: list[Verdict], unit: str) -> None:
    axes.set_yticks(range(len(shown)), [_name(verdict) for verdict in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel(f"offset in {unit}; positive: this machine's clock is behind")
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _agreed(axes: "Axes", chosen: Selection, scale: float) -> None:
    found = chosen.agreed
    if found is None:
        axes.set_title(f"No time: {chosen.problem}", loc="left", fontsize="medium")
        return
    low, high = found.interval.low / scale, found.interval.high / scale
    axes.axvspan(low, high, color="#009e73", alpha=0.18, label="what the majority agrees on")
    axes.axvline(found.offset / scale, color="#009e73", linewidth=1.4, label="combined offset")
    text = f"Agreed: {report.duration(found.offset, signed=True)} ± {report.bound(found.root_distance)}"
    axes.set_title(text, loc="left", fontsize="medium")


def _source(axes: "Axes", row: int, verdict: Verdict, scale: float, shown: tuple[float, float]) -> None:
    interval, colour, form = verdict.interval, *_LOOKS[verdict.mark]
    if interval is None:
        return
    label = f"{verdict.mark} {_MEANINGS[verdict.mark]}"
    if label in axes.get_legend_handles_labels()[1]:
        label = "_" + label
    middle = (interval.low + interval.high) / 2
    if shown[0] <= middle <= shown[1]:
        reach = (interval.high - interval.low) / 2 / scale
        axes.errorbar(middle / scale, row, xerr=reach, fmt=form, color=colour, capsize=4, markersize=6, label=label)
        return
    # Far outside: an arrow at the edge, with the offset in words.
    right = middle > shown[1]
    edge = shown[1] if right else shown[0]
    axes.plot([edge / scale], [row], ">" if right else "<", color=colour, markersize=9, clip_on=False, label=label)
    axes.annotate(
        report.duration(middle, signed=True),
        (edge / scale, row),
        textcoords="offset points",
        xytext=(-9 if right else 9, 0),
        ha="right" if right else "left",
        va="center",
        fontsize="small",
        color=colour,
    )


def _legend(figure: Any, axes: "Axes") -> None:
    """What the marks that are there mean, in chronyc's order."""
    found = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    marks = [label for mark in Mark for label in found if label.startswith(f"{mark} ")]
    rest = [label for label in found if label not in marks]
    labels = [*rest, *marks]
    figure.legend([found[one] for one in labels], labels, loc="outside lower center", ncols=3, fontsize="small", frameon=False)


def _name(verdict: Verdict) -> str:
    name = verdict.source.name
    # "$" would begin a formula.
    return f"{name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + '…'}  {verdict.mark}".replace("$", r"\$")


def _matplotlib() -> tuple[Any, Any]:
    """(Figure, the canvas that draws it without a display)."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - an extra
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            f"a plot needs matplotlib, which cannot be loaded ({error})", advice="install it with `pip install 'tsq[plot]'`"
        ) from error
    return Figure, FigureCanvasAgg
