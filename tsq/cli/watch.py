"""The live view of tsq-client --watch.

Comes in: what there is so far, whenever a sample came or a host failed. Goes out: a view that is drawn anew on a terminal, lines
elsewhere, and on a terminal without escape sequences (TERM=dumb). What is shown holds for the moment at which it is shown. Holds
no logic of its own: `tsq.report.text` words it.
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
from tsq.report import text as report
from tsq.report.plain import in_ascii
from tsq.timing.local_clock import ClockReading

_LEAST_PERIOD = 0.2


class Watch:
    """Shows results as they come. Called from the threads that ask. read: reads this machine's clock."""

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
        """Something came, or failed: show it, but not too often."""
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
                # Why a host that gave the time gives none now.
                absent = [
                    f"{result.target}: {report.escaped(notice)}"
                    for result in results
                    for notice in result.notices
                    if notice.startswith(NO_CONNECTION)
                ]
                print(report.line(chosen, [*report.clock_notices(chosen, reading), *absent]), flush=True)
            self._taken = taken

    def clear(self) -> None:
        """Take the view off the terminal, so that the final table can stand in its place."""
        with self._lock:
            self._next = float("inf")
            sys.stdout.write(self._erase())
            sys.stdout.flush()

    def _draw(self, results: list[HostResult]) -> None:
        reading = self._read()
        chosen = selection(results, now=reading)
        size, plain = shutil.get_terminal_size(), streams.is_plain(sys.stdout)
        text = [*report.table(results, chosen, size.columns - 1, plain=plain).splitlines(), *report.unused(chosen, failed=True)]
        text += [f"{result.target}: {report.escaped(notice)}" for result in results for notice in result.notices]
        text += report.clock_notices(chosen, reading)
        if chosen.agreed is not None:
            text.append(f"at {report.moment(reading.at_ns)} UTC by this machine's clock:")
        text += [report.redundancy(chosen, self._assumed), report.verdict(chosen), "Ctrl-C ends"]
        # A line that wraps, or one too many, could not be taken back.
        most = size.columns - 1
        text = [in_ascii(one) if plain else one for one in text if one]
        lines = [report.shortened(one, most, "~" if plain else "…") for one in text][: size.lines - 1]
        view = self._erase() + "\n".join(lines) + "\n"
        # Before it is drawn: Ctrl-C may come in the next moment, and `clear` must know of it.
        self._drawn = len(lines)
        sys.stdout.write(view)
        sys.stdout.flush()

    def _erase(self) -> str:
        return f"\033[{self._drawn}A\033[J" if self._drawn else ""
