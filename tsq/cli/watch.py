"""The live view of tsq-client --watch.

Comes in: the results so far, whenever a sample came or a host failed. Goes out: a view that is redrawn on a terminal; lines
elsewhere, and on a terminal without escape sequences (TERM=dumb). Results are for the time of display. The texts are those of
`tsq.report.text`.
"""

import shutil
import sys
import threading
import time
from collections.abc import Callable

from tsq.cli import streams
from tsq.client.polling import NO_CONNECTION
from tsq.client.result import HostResult, selection
from tsq.host.clock import clock_reading
from tsq.report import spans, text
from tsq.report.plain import in_ascii
from tsq.timing.local_clock import ClockReading

_LEAST_PERIOD = 0.2


class Watch:
    """Shows results as they come. Called from the threads of the exchanges. read: reads this machine's clock."""

    def __init__(self, interval: float, assumed_error: float, read: Callable[[], ClockReading] = clock_reading) -> None:
        self._read = read
        self._period = max(_LEAST_PERIOD, interval)
        self._assumed = assumed_error
        self._live = streams.draws(sys.stdout)
        self._lock = threading.Lock()
        self._next = 0.0
        self._taken = 0
        self._drawn = 0

    def changed(self, snapshot: Callable[[], list[HostResult]]) -> None:
        """Show new results, but not too often."""
        with self._lock:
            now = time.monotonic()
            # On a terminal as soon as may be; elsewhere a line for each round.
            if now < self._next:
                return
            results = snapshot()
            # Their number, not their times: the clock may have been set back.
            taken = sum(len(result.samples) for result in results)
            if taken:
                self._next = now + (_LEAST_PERIOD if self._live else self._period)
            if self._live:
                self._draw(results)
            elif taken != self._taken:
                # A line for each sample, with what holds now.
                reading = self._read()
                chosen = selection(results, now=reading)
                # Why a host that gave the time before gives none at present.
                absent = [
                    f"{result.target}: {spans.escaped(notice)}"
                    for result in results
                    for notice in result.notices
                    if notice.startswith(NO_CONNECTION)
                ]
                print(text.line(chosen, [*text.clock_notices(chosen, reading), *absent]), flush=True)
            self._taken = taken

    def clear(self) -> None:
        """Erase the view, so that the final table takes its place."""
        with self._lock:
            self._next = float("inf")
            sys.stdout.write(self._erase())
            sys.stdout.flush()

    def _draw(self, results: list[HostResult]) -> None:
        reading = self._read()
        chosen = selection(results, now=reading)
        size, plain = shutil.get_terminal_size(), streams.is_plain(sys.stdout)
        shown = [*text.table(results, chosen, size.columns - 1, plain=plain).splitlines(), *text.unused(chosen, failed=True)]
        shown += [f"{result.target}: {spans.escaped(notice)}" for result in results for notice in result.notices]
        shown += text.clock_notices(chosen, reading)
        if chosen.agreed is not None:
            shown.append(f"at {spans.moment(reading.at_ns)} UTC by this machine's clock:")
        shown += [text.redundancy(chosen, self._assumed), text.verdict(chosen), "Ctrl-C ends"]
        # A line that wraps, or scrolls, could not be erased.
        most = size.columns - 1
        shown = [in_ascii(one) if plain else one for one in shown if one]
        lines = [spans.shortened(one, most, "~" if plain else "…") for one in shown][: size.lines - 1]
        view = self._erase() + "\n".join(lines) + "\n"
        # Set this before drawing: Ctrl-C may come in between, and `clear` needs the number.
        self._drawn = len(lines)
        sys.stdout.write(view)
        sys.stdout.flush()

    def _erase(self) -> str:
        return f"\033[{self._drawn}A\033[J" if self._drawn else ""
