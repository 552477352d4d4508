"""Side by side: TSQ against NTP, NTS, streams, other QUIC servers and a C echo, in one run; the table, the pictures and the page.

    python -m benchmarks.compare [--quick] [--out DIRECTORY]
    python -m benchmarks.compare --only PART --into docs/explanation/performance/run.json.gz --out docs/explanation
    python -m benchmarks.compare --again docs/explanation/performance/run.json.gz --out docs/explanation

Needs Linux, root (for network namespaces), iproute2, util-linux and a C compiler; chrony, node with the quiche package, qh3 and
matplotlib where they are there (make peers; pip install --group plots). What cannot run is a row that says so. In full it takes
about fifteen minutes, with --quick about three, of two cores that nobody else should use. It sends only over loopback and between
namespaces of its own, never touches the system clock, and ends what it started, also when it is interrupted. `--again` measures
nothing: it writes table, pictures and page from an earlier run's figures. `--into` measures some parts, puts them in the place of
those of an earlier run, and says so on the page.
"""

import argparse
import datetime
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.compare import (
    accuracy,
    delay,
    document,
    floods,
    handshake,
    machine,
    many,
    oneshot,
    pictures,
    record,
    rows,
    serving,
    table,
)
from benchmarks.compare.plan import PLANS, Plan
from benchmarks.processes import HOST, Programs, have
from tsq.quic.selfsigned import self_signed

_DEFAULT = Path("build") / "compare"
_PARTS = ("oneshot", "handshake", "delay", "accuracy", "serving", "flood", "many")


class Progress:
    """One line that changes on a terminal, a line for each step elsewhere."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def part(self, name: str) -> Callable[[str], None]:
        """What says the steps of a part."""
        return lambda step: self.say(f"{name}: {step}")

    def say(self, text: str) -> None:
        line = f"[{time.monotonic() - self._start:4.0f} s] {text}"
        end = "" if self._terminal else "\n"
        print(f"\r\x1b[K{line}" if self._terminal else line, end=end, file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._terminal:
            print(file=sys.stderr)


def without_namespaces() -> str | None:
    """Why there can be no network namespaces; None where they can be."""
    if os.geteuid():
        return "network namespaces need root"
    if not have("ip", "nsenter", "unshare"):
        return "network namespaces need iproute2 and util-linux (ip, nsenter, unshare)"
    return None


def measure(plan: Plan, directory: Path, parts: Sequence[str], wanted: Iterable[str], progress: Progress) -> record.Run:
    """All parts of a run."""
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    run = record.Run(started, plan.mode, machine.describe())
    left_out = {row: "not wanted" for row in rows.ROWS if row not in wanted}
    run.skipped |= {**rows.missing(), **left_out}
    begin = time.monotonic()
    files = self_signed(str(directory / "certificates"), ["localhost", HOST])
    programs = Programs(directory) if have("cc") else None
    why = without_namespaces()
    if why is not None:
        for part in ("oneshot", "accuracy"):
            run.notes.append(f"{record.COLUMNS[part]}: not measured: {why}")
    for row, reason in run.skipped.items():
        progress.say(f"skipped: {row}: {reason}")
    for part in parts:
        say = progress.part(part)
        if part in ("oneshot", "accuracy") and why is not None:
            progress.say(f"skipped: {part}: {why}")
        elif part == "oneshot":
            oneshot.Bench(run, plan, _place(directory, part), say).measure()
        elif part == "handshake":
            handshake.measure(run, plan, _place(directory, part), say)
        elif part == "delay":
            delay.measure(run, plan, files, _place(directory, part), programs, say)
        elif part == "flood":
            floods.measure(run, plan, files, _place(directory, part), say)
        elif part == "many":
            many.measure(run, plan, files, _place(directory, part), programs, say)
        elif part == "accuracy":
            accuracy.Bench(run, plan, _place(directory, part), say).measure()
        else:
            serving.Bench(run, plan, files, _place(directory, part), programs, say).measure()
    run.seconds = round(time.monotonic() - begin, 1)
    run.machine["load after"] = machine.load()
    return run


def _place(directory: Path, part: str) -> Path:
    place = directory / part
    place.mkdir()
    return place


def end_all() -> None:
    """End what is left of what was started here: after an interrupt."""
    for pid in reversed(rows.processes_of(os.getpid())[1:]):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


def write(run: record.Run, out: Path) -> list[str]:
    """Figures, pictures and the page; what to say of it."""
    place = out / "performance"
    place.mkdir(parents=True, exist_ok=True)
    record.write(run, place / "run.json.gz")
    drawn = pictures.draw(run, place)
    (out / "performance.md").write_text(document.page(run, drawn))
    said = [f"figures: {place / 'run.json.gz'}", f"page: {out / 'performance.md'}"]
    return [*said, f"pictures: {', '.join(drawn)}" if drawn else pictures.WITHOUT]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help="in about two minutes, with wider spreads")
    parser.add_argument("--smallest", action="store_true", help="each part once, in seconds: to see that it runs")
    parser.add_argument("--only", choices=_PARTS, nargs="+", default=list(_PARTS), metavar="PART", help=f"of {', '.join(_PARTS)}")
    parser.add_argument("--rows", choices=rows.ROWS, nargs="+", default=rows.ROWS, metavar="ROW", help=f"of {', '.join(rows.ROWS)}")
    parser.add_argument("--out", type=Path, default=_DEFAULT, metavar="DIRECTORY", help="where to write (default: %(default)s)")
    parser.add_argument("--again", type=Path, metavar="FILE", help="write from an earlier run's figures, measure nothing")
    parser.add_argument("--into", type=Path, metavar="FILE", help="put the parts that are measured into an earlier run's figures")
    values = parser.parse_args(arguments)
    if values.again is not None:
        try:
            run = record.read(values.again)
        except (OSError, ValueError) as error:
            parser.error(str(error))
    else:
        try:
            earlier = None if values.into is None else record.read(values.into)
            if earlier is not None:
                record.check_machine(earlier, machine.describe())
        except (OSError, ValueError) as error:
            parser.error(str(error))
        plan = PLANS["smallest" if values.smallest else "quick" if values.quick else "full"]
        found = _measured(plan, values.only, values.rows)
        if isinstance(found, int):
            return found
        run = found if earlier is None else record.merged(earlier, found, values.only)
    for line in [*table.glance(run), "", *write(run, values.out)]:
        print(line)
    return 0


def _measured(plan: Plan, parts: Sequence[str], wanted: Iterable[str]) -> record.Run | int:
    """The run; 130 where it was interrupted."""
    # So that everything ends that was started, when this is asked to end; also where a shell made SIGINT of no effect.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    progress = Progress()
    with tempfile.TemporaryDirectory(prefix="tsq-compare-", ignore_cleanup_errors=True) as directory:
        try:
            return measure(plan, Path(directory), parts, wanted, progress)
        except KeyboardInterrupt:
            progress.end()
            print("interrupted; everything that was started is ended", file=sys.stderr)
            return 130
        finally:
            # From here on only ending counts.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            end_all()
            progress.end()


if __name__ == "__main__":
    sys.exit(main())
