"""`python -m tests.mutants`, `make mutants`: applies each mutation and runs its tests. Ends with 1 where a mutation survives."""

import argparse
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.mutants.table import ROOT, Mutant, mutants

# A mutation may make an endless loop of something: that is noticed, too.
_PATIENCE_S = 120
# So many mutations are tried at once, each in a copy of its own.
_AT_ONCE = min(4, os.cpu_count() or 1)
# What the copy does without: it is large, and no test that a mutation names needs it there. The roots of other systems in build/
# have devices, which no copy comes to the end of.
_LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "__pycache__", "node_modules", "*.egg-info", ".mypy_cache", ".ruff_cache", ".hypothesis", "roots", "ntpd-rs"
)


class Copy:
    """A copy of the checkout, with its own built extensions, that mutations are applied to."""

    def __init__(self, where: Path) -> None:
        self.root = where / "tsq"
        shutil.copytree(ROOT, self.root, ignore=_LEFT_OUT, symlinks=True)
        # The extensions of the source as it is.
        self._built: dict[Path, bytes] = {}

    def run(self, mutant: Mutant) -> tuple[str, str]:
        """(killed, survived or broken; the last lines of output) of one mutation. The copy is afterwards as it was."""
        path = self.root / mutant.file
        original = path.read_text(encoding="utf-8")
        path.write_text(original.replace(mutant.old, mutant.new), encoding="utf-8")
        try:
            if mutant.compiled and (problem := self.build()):
                return "broken", problem
            return self._test(mutant)
        finally:
            path.write_text(original, encoding="utf-8")
            for built, content in self._built.items():
                built.write_bytes(content)

    def prepare(self) -> str:
        """Build the source as it is, and keep the extensions; what the compiler said where that fails."""
        problem = self.build()
        self._built = {path: path.read_bytes() for path in (self.root / "tsq").rglob("*.so")}
        return problem

    def fails_unchanged(self, chosen: list[Mutant]) -> str:
        """What the named tests say of the source as it is, where they fail: they could not tell a mutation then."""
        files = sorted({argument for mutant in chosen for argument in mutant.tests if argument.startswith("tests/")})
        done = self._call([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files])
        return "" if done.returncode == 0 else done.stdout[-2000:]

    def build(self) -> str:
        """Build the extensions; what the compiler said where that fails."""
        done = self._call([sys.executable, "setup.py", "-q", "build_ext", "--inplace"])
        return "" if done.returncode == 0 else f"does not build: {done.stderr[-400:]}"

    def _test(self, mutant: Mutant) -> tuple[str, str]:
        try:
            done = self._call([sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutant.tests], _PATIENCE_S)
        except subprocess.TimeoutExpired:
            return "killed", f"no end within {_PATIENCE_S} s"
        tail = "\n".join(done.stdout.splitlines()[-3:])
        # 0: no test failed; 1: one did; below 0: a crash. Anything else (no such test, an error of pytest) is a fault of the list.
        outcome = "killed" if done.returncode < 0 else {0: "survived", 1: "killed"}.get(done.returncode, "broken")
        return outcome, tail

    def _call(self, command: list[str], patience: float | None = None) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1", "CI": ""}
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=patience, check=False
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--only", metavar="TEXT", default="", help="only mutations whose rule or file has this text in it")
    parser.add_argument("--python", action="store_true", help="only mutations of Python files, which need no compiler")
    values = parser.parse_args()
    chosen = [one for one in mutants() if values.only in f"{one.rule} {one.file}" and not (values.python and one.compiled)]
    faults = [fault for one in chosen for fault in one.faults()]
    if faults:
        print("\n".join(faults), file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="tsq-mutants-") as where:
        bad = _run([Copy(Path(where, str(number))) for number in range(_AT_ONCE)], chosen)
    print(f"{len(chosen) - len(bad)} of {len(chosen)} mutations were noticed by the tests")
    for one, outcome, output in bad:
        print(f"{outcome.upper()}: {one.rule} ({one.file}: {one.old!r} -> {one.new!r})\n{output}")
    return int(bool(bad))


def _run(copies: list[Copy], chosen: list[Mutant]) -> list[tuple[Mutant, str, str]]:
    """Each mutation in one of the copies, several at once; those that the tests did not notice."""
    if any(one.compiled for one in chosen):
        for copy in copies:
            if problem := copy.prepare():
                raise SystemExit(f"the source as it is {problem}")
    if problem := copies[0].fails_unchanged(chosen):
        raise SystemExit(f"tests fail without any mutation:\n{problem}")
    idle: queue.SimpleQueue[Copy] = queue.SimpleQueue()
    for copy in copies:
        idle.put(copy)

    def run(one: Mutant) -> tuple[Mutant, str, str, float]:
        copy = idle.get()
        started = time.monotonic()
        try:
            return one, *copy.run(one), time.monotonic() - started
        finally:
            idle.put(copy)

    bad = []
    with ThreadPoolExecutor(len(copies)) as pool:
        for number, done in enumerate(as_completed([pool.submit(run, one) for one in chosen]), 1):
            one, outcome, output, seconds = done.result()
            print(f"{number:3}/{len(chosen)}  {outcome:8}  {seconds:5.1f} s  {one.rule}", flush=True)
            if outcome != "killed":
                bad.append((one, outcome, output))
    return bad


if __name__ == "__main__":
    sys.exit(main())
