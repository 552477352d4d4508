"""Invented runs for tests, with simple figures."""

from benchmarks.compare.accuracy import BASIC, EXACT, load_name
from benchmarks.compare.record import Run
from benchmarks.compare.rows import DATAGRAM, ECHO, NTS, QUICHE

MICRO = 1e-6


def small_run(ours: float = 3.0, theirs: float = 6.0) -> Run:
    """Serving, accuracy and memory of a few rows; ours, theirs: µs for a request."""
    run = Run("2030-01-01T00:00:00+00:00", "full", {"processor": "a processor", "cores": "2", "chronyd": "4.3"}, seconds=600.0)
    for row, value in ((ECHO, 2.0), (NTS, theirs), (DATAGRAM, ours)):
        for clients in ("1 client", "100 clients"):
            rounds = [[value * MICRO], [value * 1.1 * MICRO], [value * 0.9 * MICRO]]
            run.add("serving", row, clients, "server CPU", "s", rounds)
            run.add("serving", row, clients, "answers", "per second", [[1e6 / value]])
            run.add("serving", row, clients, "busy", "share", [[0.97]])
    for kind, value in ((BASIC, 4.0), (EXACT, 0.5)):
        for row in (NTS, DATAGRAM):
            run.add("accuracy", row, load_name(64, "idle"), f"|offset|, {kind}", "s", [[value * MICRO] * 5, [value * 2 * MICRO]])
    run.shapes[f"stamps of {DATAGRAM}, {EXACT}"] = "KKKK"
    run.add("memory", DATAGRAM, "1 client", "memory", "bytes", [[25 * 2.0**20]])
    run.add("memory", DATAGRAM, "1,000 clients", "memory for each client", "bytes", [[40 * 1024.0]])
    run.skipped[QUICHE] = "node is not installed"
    run.notes.append("a note on the run")
    return run
