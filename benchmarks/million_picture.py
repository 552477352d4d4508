"""The picture of `benchmarks.million`: memory and CPU time from one client to a million.

Comes in: figures of one run. Goes out: a file. Needs matplotlib (pip install --group plots).
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_GREEN, _BLUE, _GREY = "#0b7a3b", "#1f4e9c", "#7f7f7f"


def draw(costs: Sequence[tuple[int, float, float]], awake: float, place: Path) -> None:
    """costs: (clients, bytes of each, µs of CPU a request); awake: that of a thousand sessions that never rest."""
    if importlib.util.find_spec("matplotlib") is None:
        print("no picture: matplotlib is not installed (pip install --group plots)", file=sys.stderr)
        return
    importlib.import_module("matplotlib").use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    pyplot.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none"})
    figure, (memory, request) = pyplot.subplots(1, 2, figsize=(10, 4))
    clients = [cost[0] for cost in costs]
    memory.loglog(clients, [size * count / 2**20 for count, size, _ in costs], "o-", color=_GREEN, label="measured")
    memory.loglog(clients, [count / 1024 for count in clients], ":", color=_GREY, label="1 KiB a client")
    memory.set(xlabel="clients at rest", ylabel="memory, MiB", title="Memory")
    memory.legend(frameon=False)
    request.semilogx(clients, [cost[2] for cost in costs], "o-", color=_BLUE, label="at rest")
    request.axhline(awake, color=_GREY, linestyle=":", label="1,000 that never rest")
    request.set(xlabel="clients, each polling once before any polls again", ylabel="CPU µs a request", title="A request")
    request.set_ylim(bottom=0)
    request.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(place, dpi=110)
    pyplot.close(figure)
