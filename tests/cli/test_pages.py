"""Manual pages and shell completions: up to date, and fit for the programs that read them."""

import importlib
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tsq

SHARE = Path(__file__).parents[2] / "share"
MANUALS = sorted((SHARE / "man").rglob("*.[18]"))
COMMANDS = [
    "tsq-adjtime", "tsq-audit", "tsq-client", "tsq-conformance", "tsq-keygen", "tsq-server", "tsq-wait-sync", "tsqctl", "tsqd",
]  # fmt: skip
# By the name that `python -m tsq` takes.
NAMES = {
    "client": "tsq-client", "server": "tsq-server", "adjtime": "tsq-adjtime",
    "daemon": "tsqd", "control": "tsqctl", "wait-sync": "tsq-wait-sync",
    "audit": "tsq-audit", "keygen": "tsq-keygen", "conformance": "tsq-conformance",
}  # fmt: skip


def test_each_way_to_start_the_server_has_its_own_line():
    text = (SHARE / "man" / "man8" / "tsq-server.8").read_text()
    synopsis = text.partition(".SH SYNOPSIS\n")[2].partition(".SH ")[0]
    assert synopsis == (
        ".B tsq\\-server\n--cert FILE --key FILE [options]\n.br\n.B tsq\\-server\n--self-signed DIR [options]\n"
    )


def test_every_command_has_its_files():
    assert [path.stem for path in MANUALS] == [
        "tsq-audit", "tsq-client", "tsq-conformance", "tsq-keygen", "tsqctl", "tsq-adjtime", "tsq-server", "tsq-wait-sync", "tsqd",
    ]
    for name in COMMANDS:
        assert (SHARE / "bash-completion" / "completions" / name).exists()
        assert (SHARE / "zsh" / "site-functions" / f"_{name}").exists()
        assert (SHARE / "fish" / "vendor_completions.d" / f"{name}.fish").exists()


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the files were written by Python 3.11, and argparse's wording varies")
def test_they_are_up_to_date():
    pytest.importorskip("shtab")
    pytest.importorskip("argparse_manpage")
    done = subprocess.run(
        [sys.executable, "scripts/pages.py", "--check"], cwd=SHARE.parent, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is missing")
@pytest.mark.parametrize("page", MANUALS, ids=lambda page: page.name)
def test_a_manual_page_renders_without_warnings(page):
    command = ["groff", "-man", "-ww", "-z", "-Tutf8", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is missing")
@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("tsq-client --se", {"--server-name", "--session-file", "--server-error"}),
        ("tsq-adjtime --boot", {"--bootstrap"}),
        ("tsq-server --retry a", {"auto", "always"}),
        ("tsqctl source", {"sources", "sourcestats"}),
        ("tsqctl --ma", {"--max-error"}),
        ("tsqd --mode st", {"steer"}),
        ("tsq-wait-sync --t", {"--timeout"}),
    ],
)
def test_bash_completes_options_and_their_values(line, replies):
    words = line.split()
    script = f"""
    source {SHARE}/bash-completion/completions/{words[0]}
    COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; COMP_LINE="{line}"; COMP_POINT=${{#COMP_LINE}}
    function=$(complete -p {words[0]} | sed 's/.*-F \\([^ ]*\\).*/\\1/')
    $function {words[0]} {words[-1]} {words[-2]}
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert set(done.stdout.split()) == replies, done.stderr


@pytest.mark.parametrize(("name", "command"), list(NAMES.items()))
def test_python_m_tsq_runs_the_commands(name, command):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "tsq", *arguments]
        return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)

    expected = ", ".join(NAMES)
    done = run(name, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{command} ")
    assert f"{name}  " in run("--help").stdout
    assert f"{command}: " in run("--help").stdout
    assert run("--version").stdout == f"tsq {tsq.__version__}\n"
    assert run("--hepl").stderr == f"tsq: error: unknown option '--hepl' (expected {expected})\n"
    wrong = run(command)
    assert (wrong.returncode, wrong.stderr) == (2, f"tsq: error: unknown command '{command}' (expected {expected})\n")


def test_each_command_has_its_script():
    scripts = tomllib.loads((SHARE.parent / "pyproject.toml").read_text())["project"]["scripts"]
    assert sorted(scripts) == COMMANDS
    for place in scripts.values():
        module, _, function = place.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
