"""Running tsqd for tests: a configuration file, and the command lines of the daemon and of tsqctl."""

from collections.abc import Sequence
from pathlib import Path

from tests.support.processes import BIN


def configuration(
    directory: Path,
    hosts: Sequence[str],
    *,
    ca: Path,
    where: Path | None = None,
    mode: str = "steer",
    polls: tuple[int, int] = (0, 0),
    clock: str = "",
    more: str = "",
) -> Path:
    """Write a configuration with these hosts, all certified by `ca`; its path. where: the daemon's own files, else in `directory`.

    polls: minpoll and maxpoll. clock: more lines of `[clock]`; more: further tables.
    """
    place = where or directory
    tables = [
        f'[clock]\nmode = "{mode}"\ndrift_file = "{place}/drift.json"\n{clock}',
        f'[control]\nsocket = "{place}/control"',
        f'[feed]\nsegment = "{place}/now"',
        more,
        *(f'[[source]]\nhost = "{host}"\nca = "{ca}"\nminpoll = {polls[0]}\nmaxpoll = {polls[1]}' for host in hosts),
    ]
    path = directory / "tsqd.toml"
    path.write_text("\n\n".join(tables) + "\n")
    return path


def tsqd(path: Path, *options: object) -> list[object]:
    """The daemon's command line."""
    return [BIN / "tsqd", "--config", path, *options]


def tsqctl(place: Path, *words: object) -> list[object]:
    """A command line of tsqctl, for the daemon whose own files are in this place."""
    return [BIN / "tsqctl", "--socket", place / "control", *words]
