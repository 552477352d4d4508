"""The list of mutations: reads list.toml, and says what is wrong with it.

Comes in: the file, the source tree. Goes out: Mutants. It must never change a file.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("list.toml")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mutation. rule: what it breaks; old stands once in file, new takes its place; tests: pytest arguments that must fail."""

    rule: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def compiled(self) -> bool:
        """Whether extensions must be built anew for it."""
        return self.file.endswith((".pyx", ".pxd", ".h"))

    def faults(self, root: Path = ROOT) -> list[str]:
        """Why it cannot be applied to this tree, and why its tests cannot be run; empty where all is well."""
        path = root / self.file
        found = path.read_text(encoding="utf-8").count(self.old) if path.is_file() else 0
        faults = (
            [] if found == 1 else [f"{self.rule}: the old text stands {found} times in {self.file}, expected once: {self.old!r}"]
        )
        if self.old == self.new:
            faults.append(f"{self.rule}: nothing is changed")
        named = [argument for argument in self.tests if argument.startswith("tests/")]
        if not named:
            faults.append(f"{self.rule}: no test file is named")
        return faults + [f"{self.rule}: no file {one}" for one in named if not (root / one.partition("::")[0]).exists()]


def mutants(path: Path = LIST) -> list[Mutant]:
    """All mutations, in the order of the file."""
    with path.open("rb") as file:
        rows = tomllib.load(file)["mutant"]
    return [Mutant(row["rule"], row["file"], row["old"], row["new"], tuple(row["tests"])) for row in rows]
