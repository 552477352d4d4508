"""The picture of docs/explanation/error-bounds.md: the parts of a root distance, and the agreement of five sources.

`python -m benchmarks.error_budget FILE.png` draws it. Needs matplotlib. The numbers are examples; tsq.timing computes the results.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tsq.timing.filter import Estimate, estimate
from tsq.timing.intersection import Interval, majority
from tsq.timing.sample import make_sample
from tsq.timing.selection import Selection, Source, select
from tsq.timing.server_state import ServerState

_T = 1_800_000_000_000_000_000
_MS = 1_000_000
_TRUTH = 0.010
_PARTS = (
    ("δ / 2: the way there and back", "#0072b2"),
    ("ε: the clocks meanwhile (below 1 µs here)", "#56b4e9"),
    ("φ t: age, at 15 ppm", "#e69f00"),
    ("E: the server's own error", "#cc79a7"),
)
_AGREED = "#009e73"


class Example(NamedTuple):
    """A source: one-way delays in ms, the true and the reported error of its clock in ms, its age in seconds."""

    name: str
    there: float
    back: float
    wrong: float
    says: float
    age: float


_EXAMPLES = (
    Example("near", 1.0, 1.0, 0.2, 0.5, 60),
    Example("lopsided path", 9.0, 1.0, -0.3, 0.5, 40),
    Example("far", 12.0, 14.0, 0.5, 1.0, 0),
    Example("a liar inside", 1.5, 1.5, 6.0, 0.5, 20),
    Example("a liar outside", 1.5, 1.5, 25.0, 0.5, 20),
)


def _estimate(example: Example) -> Estimate:
    at_ns = _T - round(example.age * 1e9)
    there_ns, back_ns = round(example.there * _MS), round(example.back * _MS)
    server_ns = round(_TRUTH * 1e9 + example.wrong * _MS)
    t2_ns = at_ns - back_ns + server_ns
    found = estimate([
        make_sample(at_ns - back_ns - there_ns, t2_ns, t2_ns, at_ns, server=ServerState(at_ns, 2, error=example.says / 1e3))
    ])
    assert found is not None
    return found


def parts(found: Estimate) -> tuple[float, float, float, float]:
    """The parts of the root distance at the selection's time, seconds."""
    dispersion = found.best.dispersion or 0.0
    return found.delay / 2, dispersion, found.root_distance_at(_T) - found.root_distance, found.server_error


def selection() -> Selection:
    """The selection of the examples."""
    return select([Source(example.name, _estimate(example)) for example in _EXAMPLES], _T)


def draw(path: Path) -> None:
    """Write the picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - optional
    from matplotlib.figure import Figure  # noqa: PLC0415

    chosen = selection()
    assert chosen.agreed is not None
    figure = Figure(figsize=(9.5, 7.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    budget, offsets, depth = figure.subplots(3, 1, height_ratios=(4, 4, 2))
    _budget(budget)
    _offsets(offsets, chosen)
    _depth(depth, [v.interval for v in chosen.verdicts if v.interval is not None], chosen.agreed.interval)
    depth.sharex(offsets)
    for axes in (budget, offsets, depth):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.savefig(path)


def _names(axes, verdicts: Sequence[str]) -> None:
    axes.set_yticks(range(len(verdicts)), verdicts)
    axes.set_ylim(len(verdicts) - 0.4, -0.6)


def _budget(axes) -> None:
    for row, example in enumerate(_EXAMPLES):
        left = 0.0
        for (label, colour), part in zip(_PARTS, parts(_estimate(example)), strict=True):
            axes.barh(row, part * 1e3, left=left, color=colour, height=0.55, label=label if row == 0 else None)
            left += part * 1e3
        axes.annotate(f"± {left:.3g} ms", (left, row), xytext=(6, 0), textcoords="offset points", va="center")
    _names(axes, [example.name for example in _EXAMPLES])
    axes.set_xlabel("root distance Λ in ms")
    axes.set_title("What each ± is made of", loc="left")
    axes.set_xlim(right=17)
    axes.legend(frameon=False, loc="upper right")


def _offsets(axes, chosen: Selection) -> None:
    agreed = chosen.agreed
    axes.axvspan(agreed.interval.low * 1e3, agreed.interval.high * 1e3, color=_AGREED, alpha=0.18, label="agreed")
    axes.axvline(_TRUTH * 1e3, color="black", linestyle=":", label="the truth, which nobody knows")
    axes.axvline(agreed.offset * 1e3, color=_AGREED, label="combined offset")
    for row, verdict in enumerate(chosen.verdicts):
        low, high = verdict.interval.low * 1e3, verdict.interval.high * 1e3
        colour = "#d55e00" if verdict.mark == "x" else "#0072b2"
        axes.errorbar((low + high) / 2, row, xerr=(high - low) / 2, fmt="o", color=colour, capsize=4)
    _names(axes, [f"{verdict.source.name}  {verdict.mark}" for verdict in chosen.verdicts])
    axes.set_title("Offset ± Λ of each: the correctness intervals", loc="left")
    axes.legend(frameon=False, loc="upper right")


def _depth(axes, intervals: Sequence[Interval], agreed: Interval) -> None:
    edges = sorted([(each.low, 1) for each in intervals] + [(each.high, -1) for each in intervals])
    at, depth, count = [edges[0][0] * 1e3], [0], 0
    for edge, step in edges:
        count += step
        at.append(edge * 1e3)
        depth.append(count)
    axes.step(at, depth, where="post", color="#555555")
    axes.axvspan(agreed.low * 1e3, agreed.high * 1e3, color=_AGREED, alpha=0.18)
    axes.axhline(majority(len(intervals)), color=_AGREED, linewidth=1)
    axes.annotate("majority", (at[0], majority(len(intervals))), xytext=(0, 3), textcoords="offset points", color=_AGREED)
    axes.set_yticks(range(len(intervals) + 1))
    axes.set_ylabel("intervals\nthat meet")
    axes.set_xlabel("offset in ms")


def main() -> int:
    if len(sys.argv) != 2:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    draw(Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
