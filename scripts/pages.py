"""Writes the manual pages and shell completions into share/, from the commands' parsers. The files are committed.

Comes in: nothing. Goes out: the files; with --check, exit status 1 and the names of those that are not up to date. Needs shtab and
argparse-manpage, the group `pages` of pyproject.toml.
"""

import argparse
import os
import re
import sys
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

from tsq.cli import adjtime, audit, client, conformance, control, daemon, keygen, server, wait_sync
from tsq.cli.parsers import Parser

SHARE = Path(__file__).resolve().parent.parent / "share"
COMMANDS = {
    "tsq-client": (client, 1),
    "tsqctl": (control, 1),
    "tsq-adjtime": (adjtime, 8),
    "tsq-server": (server, 8),
    "tsq-wait-sync": (wait_sync, 8),
    "tsq-keygen": (keygen, 1),
    "tsq-audit": (audit, 1),
    "tsq-conformance": (conformance, 1),
    "tsqd": (daemon, 8),
}
# Where each shell looks, and the name that it expects.
SHELLS = {
    "bash": "bash-completion/completions/{}",
    "zsh": "zsh/site-functions/_{}",
    "fish": "fish/vendor_completions.d/{}.fish",
}
PATHS = {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY}


def manual(parser: Parser, section: int) -> str:
    """A manual page, without a date."""
    others = ", ".join(rf".BR {name} ({number})" for name, (_, number) in COMMANDS.items() if name != parser.prog)
    summary = (parser.description or "").partition("\n\n")[0].rstrip(".")
    details = {"manual_section": str(section), "project_name": "TSQ", "manual_title": "TSQ commands"}
    details["description"] = summary[0].lower() + summary[1:]
    parser.epilog, epilog = None, parser.epilog or ""
    page = str(Manpage(parser, details, format="single-commands-section"))
    page = re.sub(r'^(\.TH \S+ \S+) "[^"]*"', r'\1 ""', page, flags=re.MULTILINE)
    # A usage of several lines: one line for each.
    page = re.sub(rf" {parser.prog} (?=.*\n\.SH DESCRIPTION)", lambda _: f"\n.br\n.B {_roff(parser.prog)}\n", page)
    status, _, examples = epilog.partition("\n\nexamples:\n")
    text = [page.rstrip("\n"), ".SH EXIT STATUS AND SIGNALS", _roff(status).replace("\n\n", "\n.PP\n")]
    text += [".SH EXAMPLES"]
    for line, what in re.findall(r"^  (\S.*)\n      (.*)$", examples, re.MULTILINE):
        text += [".TP", rf"\fB{_roff(line)}\fR", _roff(what)]
    return "\n".join([*text, ".SH SEE ALSO", *others.split(", "), ""])


def _roff(text: str) -> str:
    return text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")


def completion(parser: Parser, shell: str) -> str:
    """A completion script."""
    for action in parser._actions:
        if action.metavar in PATHS:
            action.complete = PATHS[action.metavar]  # type: ignore[attr-defined, index]
    return str(shtab.complete(parser, shell))


def pages() -> dict[Path, str]:
    """Each file below share/ with its content."""
    # Text is wrapped for a terminal of this width.
    os.environ["COLUMNS"] = "80"
    found = {}
    for name, (command, section) in COMMANDS.items():
        found[SHARE / f"man/man{section}/{name}.{section}"] = manual(command._parser(), section)
        for shell, place in SHELLS.items():
            found[SHARE / place.format(name)] = completion(command._parser(), shell)
    return found


def main() -> int:
    """Write the files, or check them."""
    parser = argparse.ArgumentParser(description="Write manual pages and shell completions.", allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a file is not up to date")
    check = parser.parse_args().check
    wanted = pages()
    old = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in old:
        if check:
            sys.stdout.write(f"{path.relative_to(SHARE.parent)} is not up to date: run scripts/pages.py\n")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8")
    return 1 if check and old else 0


if __name__ == "__main__":
    sys.exit(main())
