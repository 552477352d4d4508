"""The documentation agrees with the program: commands and code in docs/ and README.md are run, tables are compared with the source.

Info strings of fenced blocks:

    console run           bash runs each `$ command`, in order, in a directory of the page; `> ` goes on with a command. Its output
                          must be the lines below it, except for numbers and the sources of T1 and T4. `...` matches any number of
                          lines, including none.
    console run server    one `$ command`, started before all others on the page and ended (SIGTERM) after them.
    console run daemon    one `$ command`, started at its place and ended (SIGTERM) after all others; its first lines are compared.
    python run            this Python runs it in the directory of the page; it must end with 0 and print no warning.
    hex request|response  a TSQ message; white space is ignored. `reported`, `reported too early`: the responses of R12.
    console, python, ...  not run.

Replacements: 4433 becomes the port of the page's own `server` block, or that of the `server_process` fixture. time.example.com
becomes the name of the same server, and SSL_CERT_FILE its authority, as if the system trusted it. `make demo` becomes the command
of the Makefile. The directory `lab` contains ca.pem, cert.pem and key.pem, as --self-signed makes them. `tsq-adjtime` runs on a
virtual clock (tests/support/adjtime.py), which is three minutes behind.
"""

import argparse
import ast
import dataclasses
import importlib
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import tsq
from benchmarks import error_budget, flood, worst
from tests.support.ports import free_port
from tests.support.processes import BIN, ServerProcess, run_client
from tests.support.tries import in_one_of_some
from tsq import errors
from tsq.cli import adjtime as adjtime_command
from tsq.cli import audit as audit_command
from tsq.cli import client as client_command
from tsq.cli import common
from tsq.cli import conformance as conformance_command
from tsq.cli import control as control_command
from tsq.cli import daemon as daemon_command
from tsq.cli import keygen as keygen_command
from tsq.cli import server as server_command
from tsq.cli import wait_sync as wait_command
from tsq.cli import workers as workers_command
from tsq.client import polling
from tsq.client.exchange import STATE_INTERVAL, Exchange, Rules
from tsq.daemon import control as control_server
from tsq.daemon import control_protocol
from tsq.dataplane.batches import DataPlane
from tsq.discipline import status
from tsq.quic.aioquic import offload_check
from tsq.quic.limits import CLIENT_LIMITS, MOST_KEPT, PeerLimits
from tsq.quic.router import EXCESSES, Drop
from tsq.quic.selfsigned import CertificateFiles
from tsq.report import text as report
from tsq.server.responder import NoResponse
from tsq.timing import filter as filter_module
from tsq.timing import local_clock
from tsq.timing.filter import DEFAULT_SERVER_ERROR
from tsq.timing.intersection import Interval, agreed, majority
from tsq.timing.sample import Reason
from tsq.timing.selection import MAX_DISTANCE, Mark, NoTime, Unused
from tsq.wire.message import ErrorReply, Request, Response, decode_request, decode_response
from tsq.wire.tlv import EXACT_T3, STATE_KEYS, TlvType

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
OUTER = [ROOT / file for file in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
VECTORS = ROOT / "tests" / "vectors" / "README.md"
PAGES = sorted([*OUTER, *DOCS.rglob("*.md"), VECTORS])
SOURCES = sorted(path for path in (ROOT / "tsq").rglob("*") if path.suffix in {".py", ".pyx", ".pyi", ".pxd", ".h"})
CLI = DOCS / "reference" / "cli.md"
ADJTIME = DOCS / "reference" / "tsq-adjtime.md"
AUDIT = DOCS / "reference" / "audit-log.md"
CONTROL = DOCS / "reference" / "tsqctl.md"
DAEMON = DOCS / "reference" / "tsqd.md"
API = DOCS / "reference" / "api.md"
PROTOCOL = DOCS / "reference" / "protocol.md"
ARCHITECTURE = DOCS / "reference" / "architecture.md"
FLOW = DOCS / "explanation" / "request-flow.md"
COMPATIBILITY = DOCS / "reference" / "compatibility.md"
PLANES = DOCS / "explanation" / "two-planes.md"
WORST = DOCS / "explanation" / "worst-packets.md"
BOUNDS = DOCS / "explanation" / "error-bounds.md"
PICTURES = [(PLANES, PLANES.parent / "microseconds.png"), (BOUNDS, BOUNDS.parent / "error-budget.png")]
ROUND_NUMBERS = {8: "The filter uses the newest eight"}
NEAR_NS = 1_795_399_200_000_000_000
RULINGS = {f"R{number}" for number in range(1, 16)}


@dataclasses.dataclass(frozen=True)
class Block:
    page: Path
    line: int
    info: str
    text: str


def blocks(page: Path, *infos: str) -> list[Block]:
    """Fenced blocks of a page with one of these info strings; all blocks if none is given."""
    found = []
    info, start, lines = None, 0, []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if not line.startswith("```"):
            lines.append(line)
        elif info is None:
            info, start, lines = line[3:].strip(), number, []
        else:
            found.append(Block(page, start, info, "\n".join(lines)))
            info = None
    assert info is None, f"{name(page)}:{start}: a block that does not end"
    return [block for block in found if not infos or block.info in infos]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def section(page: Path, heading: str) -> str:
    """The text under a heading, up to the next heading of the same or a higher level."""
    level = heading.partition(" ")[0]
    match = re.search(rf"^{re.escape(heading)}$(.*?)(?=^#{{1,{len(level)}}} |\Z)", page.read_text(), re.DOTALL | re.MULTILINE)
    assert match, f"{name(page)}: no heading {heading!r}"
    return match[1]


def rows(text: str) -> list[list[str]]:
    """Table rows with stripped cells, without headers and rulers."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    rulers = [at for at, row in enumerate(cells) if set("".join(row)) <= set("-: ") and "".join(row)]
    return [row for at, row in enumerate(cells) if at not in rulers and at + 1 not in rulers]


def code(text: str) -> list[str]:
    """The texts in back quotes."""
    return re.findall(r"`([^`]+)`", text)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


# ------------------------------------------------------------------------------------------------------ blocks that are run


@dataclasses.dataclass
class Stage:
    """The place where a page's blocks run."""

    directory: Path
    port: int

    def played(self, text: str) -> str:
        text = text.replace("time.example.com", f"localhost:{self.port}").replace("4433", str(self.port))
        return text.replace("make demo", f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'scripts' / 'demo.py'))}")

    def commands(self) -> Path:
        """A directory with a tsq-adjtime that runs on a virtual clock, not on the clock of this machine."""
        directory = self.directory / "commands"
        directory.mkdir(exist_ok=True)
        file = directory / "tsq-adjtime"
        python, root = shlex.quote(sys.executable), shlex.quote(str(ROOT))
        file.write_text(f"#!/bin/sh\nPYTHONPATH={root} exec {python} -m tests.support.adjtime \"$@\"\n")
        file.chmod(0o755)
        return directory

    def environment(self, text: str = "") -> dict[str, str]:
        names = {"PATH": os.pathsep.join([str(self.commands()), str(BIN), os.environ["PATH"]]), "PYTHONWARNINGS": "error"}
        names["TSQ_VIRTUAL_CLOCK"] = str(self.directory / "clock.json")
        if "time.example.com" in text:
            names["SSL_CERT_FILE"] = str(self.directory / "lab" / "ca.pem")
        # The pages assume a machine on which these are not set.
        usual = {key: value for key, value in os.environ.items() if key not in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
        return {**usual, **names}


@pytest.fixture
def stage(request: pytest.FixtureRequest, tmp_path: Path, certificates: CertificateFiles) -> Iterator[Stage]:
    page: Path = request.param
    servers = blocks(page, "console run server")
    assert len(servers) <= 1, f"{name(page)}: more than one server"
    if not servers:
        shutil.copytree(certificates.authority.parent, tmp_path / "lab")
        running: ServerProcess = request.getfixturevalue("server_process")
        yield Stage(tmp_path, running.target.port)
        return
    stage = Stage(tmp_path, free_port())
    (command, *expected) = servers[0].text.splitlines()
    process = subprocess.Popen(
        # As on a machine with one processor, whose server is one process: its lines come in a certain order.
        ["taskset", "-c", str(min(os.sched_getaffinity(0))), "bash", "-c", f"exec {stage.played(command.removeprefix('$ '))}"],
        cwd=tmp_path, env=stage.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    try:
        printed = [process.stdout.readline() for _ in expected]
        compare(servers[0], command, expected, "".join(printed), stage)
        yield stage
        process.send_signal(signal.SIGTERM)
        printed = process.communicate(timeout=60)[0]
        assert process.returncode == 0, printed
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def shape(line: str) -> str:
    """A line of output without the parts that differ from run to run: numbers, their signs and units, the sources of T1 and T4,
    temporary names, column widths. Exit statuses and counts of samples are kept.
    """
    line = re.sub(r"tsq-demo-\w+", "tsq-demo", line)
    line = re.sub(r"\b(kernel/user|kernel|user)\b", "stamp", line)
    number = r"[+-]?\d+(?:\.\d+)*(?:e-?\d+)?(?: (?:s|ms|µs)\b)?"
    line = re.sub(rf"(exit status \d+|\d+/\d+|0-RTT|exact T3|tsq/1|::1)|{number}", lambda match: match[1] or "0", line)
    return re.sub(r"\s+", " ", line).strip()


def is_as_expected(expected: list[str], printed: str, stage: Stage) -> bool:
    wanted = "".join(".*?" if line == "..." else re.escape(shape(stage.played(line)) + "\n") for line in expected)
    shown = "".join(shape(line) + "\n" for line in printed.splitlines())
    return re.fullmatch(wanted, shown, re.DOTALL) is not None


def compare(block: Block, command: str, expected: list[str], printed: str, stage: Stage) -> None:
    assert is_as_expected(expected, printed, stage), f"{name(block.page)}:{block.line}: {command}\nprints\n{printed}"


def page_id(page: Path) -> str:
    return "vectors" if page == VECTORS else page.stem


def with_blocks(*infos: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, *infos)]


@pytest.mark.parametrize("stage", with_blocks("console run", "console run server"), indirect=True, ids=page_id)
def test_commands_print_what_the_page_shows(stage: Stage, request: pytest.FixtureRequest) -> None:
    page: Path = request.node.callspec.params["stage"]
    with ExitStack() as daemons:
        for block in blocks(page, "console run", "console run daemon"):
            if block.info == "console run daemon":
                daemons.enter_context(daemon(block, stage))
            else:
                run_commands(block, stage)


@contextmanager
def daemon(block: Block, stage: Stage) -> Iterator[None]:
    """A command of a page that goes on."""
    (command, *expected) = block.text.splitlines()
    process = subprocess.Popen(
        ["bash", "-c", f"exec {stage.played(command.removeprefix('$ '))}"],
        cwd=stage.directory, env=stage.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    try:
        printed = [process.stdout.readline() for _ in expected]
        compare(block, command, expected, "".join(printed), stage)
        yield
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=60)[0]
        assert process.returncode == 0, rest
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def run_commands(block: Block, stage: Stage) -> None:
    """Run the commands of a block, and compare what they print."""
    steps = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert steps[0] == "", f"{name(block.page)}:{block.line}: output before a command"
    if steps[1].strip() == "make demo":
        # Lines of the demo's output begin with `$`, too.
        steps = ["", block.text.removeprefix("$ ")]
    for step in steps[1:]:
        command, *expected = step.rstrip("\n").split("\n")
        while expected and re.match(r">(?: |$)", expected[0]):
            # bash's second prompt: the command goes on.
            command += "\n" + expected.pop(0)[2:]

        def run(command: str = command) -> str:
            return subprocess.run(
                ["bash", "-c", stage.played(command)], cwd=stage.directory, env=stage.environment(command), timeout=60, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            ).stdout

        printed = run()
        # What only asks may be done again: where a process was kept waiting, a sample is not exact.
        if command.startswith("tsq-client ") and not is_as_expected(expected, printed, stage):
            printed = run()
        compare(block, command, expected, printed, stage)


@pytest.mark.parametrize("stage", with_blocks("python run"), indirect=True, ids=page_id)
def test_python_examples_run(stage: Stage, request: pytest.FixtureRequest) -> None:
    page: Path = request.node.callspec.params["stage"]
    for block in blocks(page, "python run"):
        done = subprocess.run(
            [sys.executable, "-c", stage.played(block.text)], cwd=stage.directory, env=stage.environment(block.text),
            timeout=60, check=False, capture_output=True, text=True,
        )
        assert done.returncode == 0, f"{name(page)}:{block.line}\n{done.stderr}"
        assert done.stderr == "", f"{name(page)}:{block.line}"


@pytest.mark.parametrize("page", with_blocks("python"), ids=page_id)
def test_other_python_examples_compile_and_use_names_that_exist(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "tsq":
                assert hasattr(tsq, node.attr), f"{name(page)}:{block.line}: tsq.{node.attr}"
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{name(page)}:{block.line}: {node.module}.{alias.name}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_that_are_not_run_have_options_and_targets_that_exist(page: Path) -> None:
    text = page.read_text()
    lines = [re.sub(r"^(?:[$#] |ExecStart=\S*/)", "", line) for block in blocks(page) for line in block.text.splitlines()]
    lines += [line.strip() for line in text.splitlines() if line.startswith("    ")]
    lines += [span for span in code(prose(page)) if span.startswith(("tsq-", "make "))]
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in lines:
        if line.startswith("make "):
            assert line.split()[1] in targets, f"{name(page)}: {line}"
        elif (match := re.match(r"tsq-(server|client|adjtime) ", line)) and "[options]" not in line:
            kind = {"server": server_command, "client": client_command, "adjtime": adjtime_command}[match[1]]
            arguments = shlex.split(re.split(r" [;|] ?|; ", line, maxsplit=1)[0])[1:]
            known = {text for action in kind._parser()._actions for text in action.option_strings}
            assert {text for text in arguments if re.match(r"--?[a-z46]", text)} <= known, f"{name(page)}: {line}"


def test_the_systemd_units_start_a_server_with_options_that_parse() -> None:
    units = blocks(DOCS / "howto" / "run-a-server.md", "ini")
    commands = [command for unit in units for command in re.findall(r"^ExecStart=(.+)$", unit.text, re.MULTILINE)]
    assert len(commands) == 2
    for command in commands:
        values = server_command._parser().parse_args(shlex.split(command)[1:])
        assert values.cert
        assert values.key


# -------------------------------------------------------------------------------------------------- reference: commands

COMMANDS = [
    (CLI, "## tsq-client", client_command), (CLI, "## tsq-server", server_command), (ADJTIME, "## Options", adjtime_command),
    (CONTROL, "## tsqctl", control_command), (CONTROL, "## tsq-wait-sync", wait_command),
    (DAEMON, "## Command line", daemon_command), (CLI, "## tsq-keygen", keygen_command),
    (AUDIT, "## tsq-audit", audit_command), (CLI, "## tsq-conformance", conformance_command),
]


def option_rows(page: Path, heading: str) -> dict[tuple[str, ...], list[str]]:
    found = {tuple(sorted(code(row[0]))): row for row in rows(section(page, heading)) if row[0].startswith("`-")}
    assert found
    return found


@pytest.mark.parametrize(
    ("page", "heading", "command"),
    COMMANDS,
    ids=["client", "server", "adjtime", "control", "wait-sync", "daemon", "keygen", "audit", "conformance"],
)
def test_documented_options_are_those_of_the_command(page, heading, command) -> None:
    parser: argparse.ArgumentParser = command._parser()
    actions = {tuple(sorted(action.option_strings)): action for action in parser._actions if action.option_strings}
    documented = option_rows(page, heading)
    assert documented.keys() == actions.keys()
    for options, action in actions.items():
        _, value, default, _ = documented[options]
        takes_value = action.nargs is None
        may_take_one = action.nargs == argparse.OPTIONAL
        assert bool(value) == (takes_value or may_take_one), options
        if may_take_one:
            assert value == f"[={action.metavar}]", options
        elif action.choices:
            assert value.split(", ") == list(action.choices), options
        elif takes_value:
            assert value == (action.metavar or action.dest.upper()), options
        if takes_value and action.default not in (None, []):
            assert default == f"`{action.default}`", options
        stated = re.search(r"\(default: ([^()%]+)\)", action.help or "")
        if stated:
            assert default.strip("`") == stated[1], options


@pytest.mark.parametrize(
    ("page", "heading", "modules", "absent"),
    [
        (CLI, "### Exit status of tsq-client", [common, client_command], set()),
        (CLI, "### Exit status of tsq-server", [common, server_command], set()),
        (ADJTIME, "## Exit status", [common, adjtime_command], set()),
        (CONTROL, "### Exit status of tsqctl", [common, control_command], set()),
        (CONTROL, "### Exit status of tsq-wait-sync", [common, wait_command], set()),
        (DAEMON, "### Exit status of tsqd", [common, daemon_command], set()),
        (CLI, "### Exit status of tsq-keygen", [common, keygen_command], set()),
        (AUDIT, "### Exit status of tsq-audit", [common, audit_command], set()),
        (CLI, "### Exit status of tsq-conformance", [common, conformance_command], set()),
    ],
)
def test_documented_exit_statuses_are_those_of_the_source(page, heading, modules, absent) -> None:
    source = {key: value for module in modules for key, value in vars(module).items() if key.startswith("EXIT_")}
    documented = {code(row[1])[0]: int(row[0]) for row in rows(section(page, heading))}
    assert documented == {key: value for key, value in source.items() if key not in absent}


def test_every_error_has_the_exit_status_that_is_documented() -> None:
    statuses = dict(client_command._STATUS)
    assert statuses[errors.CertificateError] == 4
    assert statuses[errors.NameNotFound] == 5
    assert {statuses[kind] for kind in (errors.NothingListens, errors.Unreachable, errors.HandshakeTimeout, errors.NoAnswer)} == {3}
    assert statuses[errors.RejectedSamples] == 6
    assert statuses[errors.AlpnRefused] == 7


def test_documented_keys_of_the_status_are_those_of_the_daemon() -> None:
    text = section(CONTROL, "### JSON")
    kinds = {"int": "integer", "str": "string", "float": "number", "bool": "boolean", "Mode": "string", "ClockStatus": "string"}
    for title, shape in (("`tracking`", status.Tracking), ("Each of `sources`", status.SourceStatus)):
        table = text.split(f"\n{title}:\n\n", 1)[1].split("\n\n", 1)[0]
        documented = [(code(row[0])[0], row[1]) for row in rows(table)]
        fields = dataclasses.fields(shape)
        types = [getattr(field.type, "__name__", str(field.type)).split(" | ") for field in fields]
        assert documented == [
            (field.name, " or ".join([kinds[names[0]], *(["null"] if "None" in names[1:] else [])]))
            for field, names in zip(fields, types, strict=True)
        ]


def test_the_documented_control_protocol_is_the_one_that_is_spoken() -> None:
    tables = section(CONTROL, "## The control protocol").split("\n\n")
    found = {table.splitlines()[0]: rows(table) for table in tables if table.startswith("|")}
    requests = {code(row[0])[0]: code(row[1]) for row in found["| request | arguments | result |"]}
    assert list(requests) == [*control_protocol.READING, *control_protocol.CHANGING]
    assert {name: names for name, names in requests.items() if names} == {
        name: list(names) for name, names in control_protocol.ARGUMENTS.items()
    }
    assert [code(row[0])[0] for row in found["| problem | meaning |"]] == [problem.value for problem in control_protocol.Problem]
    commands = [code(row[0])[0] for row in rows(section(CONTROL, "## tsqctl").split("\n\n")[2])]
    assert commands == list(control_command._COMMANDS)
    numbers = {
        str(number)
        for number in (
            control_protocol.MAX_REQUEST, control_protocol.MAX_REPLY, control_server._MOST_READERS, control_server._MOST_CHANGERS,
            control_server._MOST_OF_ONE_USER, f"{control_server._PATIENCE_S:g}", f"{control_server._ACCEPT_RATE:g}",
            f"{control_server._USER_RATE:g}", f"{control_server._USER_BURST:g}", 4,
        )
    }  # fmt: skip
    limits = next(part for part in tables if part.startswith("Limits: "))
    assert set(re.findall(r"\d+", limits)) == numbers


def test_documented_columns_are_those_of_the_table() -> None:
    documented = [code(row[0])[0] for row in rows(section(CLI, "### Output"))]
    short = report._SHORT_HEADER
    assert documented == [*short, *(column for column in report._HEADER if column not in short)]
    assert [code(row[0])[0] for row in rows((DOCS / "tutorial" / "first-exchange.md").read_text())] == documented


def test_documented_marks_and_reasons_are_those_of_the_selection() -> None:
    table = rows(section(CLI, "### The selection"))
    marks = {code(row[0])[0]: code(row[1])[0] for row in table if len(row) == 3}
    assert marks == {mark.name: mark.value for mark in Mark}
    words = {code(row[0])[0]: row[1].replace(f" ({MAX_DISTANCE:g} s)", "") for row in table if len(row) == 2}
    assert words == {reason.name: reason.value for reason in Unused}
    problems = next(row for row in rows(section(CLI, "### JSON")) if row[0] == "`problem`")
    assert code(problems[2]) == [problem.name for problem in NoTime]


def test_documented_signals_are_those_that_are_handled() -> None:
    documented = {text for row in rows(section(CLI, "### Signals")) for text in row[0].split(", ")}
    handled = set(re.findall(r"signal\.(SIG\w+)", inspect.getsource(server_command) + inspect.getsource(workers_command)))
    assert documented == handled


def test_documented_environment_is_read() -> None:
    documented = {text for row in rows(section(CLI, "## Environment")) for text in code(row[0])}
    read = set(re.findall(r"environ(?:ment)?(?:\.get\(|\[)\"(\w+)\"", "".join(path.read_text() for path in SOURCES)))
    assert read <= documented
    assert documented - read == {"SSL_CERT_FILE", "SSL_CERT_DIR"}, "read by OpenSSL"


TYPES = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "array of objects": list, "array of strings": list,
    "null": type(None), "object": dict,
}


def json_table(title: str) -> dict[str, tuple[str, ...]]:
    text = section(CLI, "### JSON").split(f"\n{title}:\n\n", 1)[1].split("\n\n", 1)[0]
    return {code(row[0])[0]: tuple(row[1].split(" or ")) for row in rows(text)}


def check_json(title: str, value: dict) -> None:
    table = json_table(title)
    assert list(value) == list(table), title
    for key, kinds in table.items():
        allowed = tuple(kind for text in kinds for kind in (TYPES[text] if isinstance(TYPES[text], tuple) else (TYPES[text],)))
        assert isinstance(value[key], allowed), f"{title}: {key} is {value[key]!r}, expected {kinds}"
        assert not isinstance(value[key], bool) or bool in allowed, key


def test_json_has_the_documented_keys_and_types(server_process: ServerProcess, certificates: CertificateFiles) -> None:
    done = run_client(str(server_process.target), "nowhere.invalid", "127.0.0.1:9", "--ca", certificates.authority, "--json")
    printed = json.loads(done.stdout)
    check_json("Top level", printed)
    check_json("`selection`", printed["selection"])
    good, nowhere, _ = printed["hosts"]
    for host in printed["hosts"]:
        check_json("Each host", host)
        for sample in host["samples"]:
            check_json("Each sample", sample)
    assert good["error"] is None
    assert good["samples"]
    assert nowhere["error_kind"] == "NameNotFound"
    assert nowhere["offset"] is None


def test_json_of_a_sample_without_an_answer_has_the_documented_types() -> None:
    lost = tsq.Sample(1, reason=Reason.NO_ANSWER).to_dict()
    check_json("Each sample", lost)
    nullable = {key for key, kinds in json_table("Each sample").items() if "null" in kinds}
    assert {key for key, value in lost.items() if value is None} == nullable - {"reason"}


def test_documented_counters_are_those_that_are_counted() -> None:
    table = {code(row[0])[0]: set(code(row[2])) for row in rows(section(CLI, "### The server's log"))}
    # The daemon has metrics of its own.
    text = "".join(path.read_text() for path in SOURCES if "daemon" not in path.parts)
    counted = set(re.findall(r"[cC]ounters\.add\(\s*\"([^\"]+)\"", text))
    assert table.keys() == counted
    reasons: dict[str, set[str]] = {"dropped": {drop.value for drop in Drop}, "unanswered": {reason.value for reason in NoResponse}}
    for kind, reason in re.findall(r"[cC]ounters\.add\(\s*\"(\w+)\", \"([^\"]+)\"", text):
        reasons.setdefault(kind, set()).add(reason)
    for kind in ("dropped", "unanswered", "unsent"):
        assert table[kind] == reasons[kind], kind
    assert table["requests"] == {"datagram", "stream"}
    assert table["handshakes"] == {"full", "resumed", "failed"}


def test_the_page_of_the_worst_packets_has_the_limits_of_the_source() -> None:
    table = {code(row[0])[0]: row[1] for row in rows(section(WORST, "## Limits"))}
    fields = {field.name: field.default for field in dataclasses.fields(PeerLimits)}
    assert table == {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in fields.items()}
    assert set(code(section(WORST, "## Limits"))) >= {reason.value for reason in EXCESSES}
    flat = " ".join(section(WORST, "## Limits").split())
    assert f"a server {CLIENT_LIMITS.crypto_bytes} bytes of TLS data in {CLIENT_LIMITS.crypto_gaps} pieces" in flat
    assert f"{CLIENT_LIMITS.crypto_later} bytes of it in 1-RTT packets" in flat
    assert f"{MOST_KEPT >> 20} MiB out of order" in flat
    strangers = " ".join(section(WORST, "## Strangers").split())
    defaults = tsq.Limits()
    assert f"At most {defaults.most_half_open} are kept" in strangers
    assert f"While more than {defaults.half_open} are under way, at most {defaults.newcomers:g} a second begin" in strangers


def test_the_page_of_the_worst_packets_has_the_kinds_that_are_measured(certificates: CertificateFiles) -> None:
    table = {row[0]: row for row in rows(section(WORST, "## What a packet costs"))}
    assert list(table) == list(worst.KINDS)
    for kind in worst.KINDS:
        cost = worst.measure(kind, certificates, 20)
        assert int(table[kind][1]) >= cost.size >= int(table[kind][1]) - 30, kind
        # Generous, for slow and busy machines: without the limits, the cost is a hundred times as high.
        assert cost.microseconds < 20_000, kind
        assert cost.kept < 200_000, kind


def test_the_page_of_the_worst_packets_has_the_floods_that_are_measured() -> None:
    assert [row[0] for row in rows(section(WORST, "### What a flood does to others"))] == list(flood.NAMES)
    assert [row[0] for row in rows(section(WORST, "## Strangers"))] == list(flood.STRANGERS)


def test_what_a_server_logs_when_it_ends_is_documented(tmp_path: Path) -> None:
    documented = {code(row[0])[0] for row in rows(section(CLI, "### The server's log"))}

    def answered() -> int:
        with ServerProcess(["--listen", "127.0.0.1:0", "--self-signed", tmp_path / "lab"]) as server:
            assert run_client(str(server.target), "--ca", tmp_path / "lab" / "ca.pem", "--count", "3").returncode == 0
            server.stop()
        found = re.findall(r"INFO: (\w[\w -]*?)(?:: .+)?: (\d+)$", server.errors, re.MULTILINE)
        logged = {name: int(count) for name, count in found}
        assert logged.keys() <= documented
        assert 3 <= logged["taken"] < logged["datagrams"]
        return logged["answered"]

    # aioquic answers the first request, at the end of the handshake; the client sends one more than --count.
    assert in_one_of_some(lambda: answered() == 3 + 1)


def test_the_client_s_one_request_more_is_what_the_page_says(server_process: ServerProcess, certificates: CertificateFiles) -> None:
    text = section(CLI, "### One request more")
    assert f"{polling.LAST_WAIT:g} s at\nmost" in text

    def exact() -> list[bool]:
        done = run_client(str(server_process.target), "--ca", certificates.authority, "--count", "2", "--json")
        (host,) = json.loads(done.stdout)["hosts"]
        return [sample["exact"] for sample in host["samples"]]

    assert in_one_of_some(lambda: exact() == [True, True])


# ------------------------------------------------------------------------------------------- reference: Python interface


def test_every_public_name_is_in_the_reference() -> None:
    text = API.read_text()
    for public in tsq.__all__:
        assert re.search(rf"(\b|tsq\.){re.escape(public)}\b", text), public


@pytest.mark.parametrize("heading", re.findall(r"^### (\w+)$", API.read_text(), re.MULTILINE))
def test_documented_fields_are_those_of_the_class(heading: str) -> None:
    kind = getattr(tsq, heading)
    text = section(API, f"### {heading}")
    properties = {key for key, value in inspect.getmembers(kind) if isinstance(value, property)}
    if dataclasses.is_dataclass(kind):
        table = {code(row[0])[0]: row[1].strip("`") for row in rows(text)}
        fields = {field.name: field for field in dataclasses.fields(kind)}
        assert table.keys() == fields.keys() | properties
        for key, field in fields.items():
            assert table[key] == shown_default(field), key
    elif issubclass(kind, str):
        assert {member.name for member in kind} <= set(code(text))
        for member in kind:
            assert member.value in text or heading == "RetryPolicy", member
    else:
        members = {key for key, value in vars(kind).items() if not key.startswith("_") and callable(value)} | properties
        documented = {
            re.match(r"(?:await )?(\w+)", span)[1] for row in rows(text) for span in code(row[0])
        }
        assert members <= documented
        instance_names = set(re.findall(r"self\.(\w+)(?::[^=]+)? = ", inspect.getsource(kind)))
        assert documented - members <= instance_names


def shown_default(field: dataclasses.Field) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return f"{field.default_factory.__name__}()"
    if field.default is dataclasses.MISSING:
        return ""
    if isinstance(field.default, tsq.StampSource):
        return field.default.name
    if isinstance(field.default, tsq.RetryPolicy | tsq.Keeper | tsq.Precision):
        return f"{type(field.default).__name__}.{field.default.name}"
    return repr(field.default).replace("''", '""')


@pytest.mark.parametrize("call", re.findall(r"^(?:\| )?`tsq\.(\w+\([^`]*\))`", API.read_text(), re.MULTILINE))
def test_documented_signatures_are_those_of_the_source(call: str) -> None:
    function, _, documented = call[:-1].partition("(")
    parameters = inspect.signature(getattr(tsq, function)).parameters.values()
    shown, keyword_only = [], False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            shown.append("*")
        empty = parameter.default is parameter.empty
        shown.append(parameter.name if empty else f"{parameter.name}={parameter.default!r}")
    assert documented == ", ".join(shown)


def test_the_error_tree_is_that_of_the_source() -> None:
    (tree,) = [block.text for block in blocks(API, "") if block.text.startswith("TSQError")]
    documented, path = {}, []
    for line in tree.splitlines():
        match = re.match(r"([│├└─ ]*)(\w+)", line)
        depth = len(match[1]) // 4
        path = [*path[:depth], match[2]]
        documented[match[2]] = path[-2] if depth else "Exception"
    kinds = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    source = {kind.__name__: kind.__mro__[1].__name__ for kind in kinds}
    assert documented == source


# -------------------------------------------------------------------------------------------------- reference: protocol


def test_every_ruling_has_a_heading_and_an_anchor() -> None:
    text = PROTOCOL.read_text()
    pairs = re.findall(r"^<a id=\"r(\d+)\"></a>\n### (R\d+): ", text, re.MULTILINE)
    assert [heading for _, heading in pairs] == [f"R{number}" for number in range(1, 16)]
    assert all(heading == f"R{anchor}" for anchor, heading in pairs)


def test_the_tlv_table_is_that_of_the_source() -> None:
    table = [row for row in rows(section(PROTOCOL, "## Messages")) if row[0].isdigit()]
    assert [int(row[0]) for row in table] == [int(kind) for kind in TlvType]


def test_every_hex_block_is_tested() -> None:
    kinds = {"hex request", "hex response", "hex response reported", "hex response reported too early"}
    assert {block.info for page in PAGES for block in blocks(page) if block.info.startswith("hex")} == kinds


@pytest.mark.parametrize("block", blocks(PROTOCOL, "hex request", "hex response"), ids=lambda block: f"line-{block.line}")
def test_the_messages_in_hex_are_what_they_are_said_to_be(block: Block) -> None:
    data = bytes.fromhex(block.text)
    if block.info == "hex request":
        assert isinstance(decode_request(data), Request)
        return
    response = decode_response(data)
    if isinstance(response, ErrorReply):
        assert (response.code, response.reason) == (1, "x")
        return
    assert isinstance(response, Response)
    t2, t3 = (tsq._fast.ns_from_ntp(ntp, NEAR_NS) for ntp in (response.receive_ntp, response.send_ntp))
    assert (t2, t3 - t2) == (NEAR_NS + 123_456_789, 250_000)


def r12_messages() -> dict[str, list[bytes]]:
    """The messages in the section of R12, by their info strings."""
    text = PROTOCOL.read_text()
    first, end = (text.partition(f'<a id="r{number}">')[0].count("\n") for number in (12, 13))
    found: dict[str, list[bytes]] = {}
    for block in blocks(PROTOCOL):
        if first < block.line < end and block.info.startswith("hex"):
            found.setdefault(block.info, []).append(bytes.fromhex(block.text))
    return found


def test_the_sizes_that_r12_names_are_those_of_its_examples() -> None:
    messages = r12_messages()
    assert [len(message) for message in messages["hex request"]] == [28, 28]
    assert [len(message) for message in messages["hex response"]] == [38]
    assert len(messages["hex response reported"][0]) == len(messages["hex response reported too early"][0]) == 80
    assert all(decode_request(message).metadata == {EXACT_T3: ""} for message in messages["hex request"])


def exchanged(last: bytes) -> tuple[Exchange, tsq.Sample, tsq.Sample]:
    """The two exchanges of R12 with this last response: (exchange, first sample, second sample)."""
    messages = r12_messages()
    nonces = [message[2:18] for message in messages["hex request"]]
    exchange = Exchange(Rules(state_interval=None), nonces=lambda _: nonces.pop(0))
    samples = []
    for wanted, answer, second in zip(messages["hex request"], (messages["hex response"][0], last), (123, 223), strict=True):
        nonce, request = exchange.request()
        assert request == wanted
        # The client has the server's clock, and a delay of 20 µs in each direction.
        exchange.sent(nonce, NEAR_NS + second * 1_000_000 + 436_789, tsq.StampSource.KERNEL)
        sample = exchange.answer(answer, NEAR_NS + second * 1_000_000 + 728_989, tsq.StampSource.KERNEL)
        assert sample is not None
        assert sample.valid
        samples.append(sample)
    return exchange, *samples


def test_the_report_in_r12_s_example_is_accepted_and_is_that_of_the_text() -> None:
    (reported,) = r12_messages()["hex response reported"]
    exchange, first, second = exchanged(reported)
    assert exchange.revised is not None
    early, late = exchange.revised
    assert early is first
    assert (late.exact, late.valid, second.exact) == (True, True, False)
    assert (early.t3_ns, late.t3_ns) == (NEAR_NS + 123_706_789, NEAR_NS + 123_708_989)
    text = section(PROTOCOL, "### R12: no new TLV types; exact T3")
    assert "02:00:00.123708989, 2.2 µs after" in text
    response = decode_response(reported)
    assert f"`{response.metadata[EXACT_T3][16:]}`" in text
    assert response.metadata[EXACT_T3][:16] == "0001020304050607"


def test_the_report_in_r12_s_other_example_is_rejected() -> None:
    (reported,) = r12_messages()["hex response reported too early"]
    exchange, first, _ = exchanged(reported)
    assert exchange.revised is None
    left = tsq._fast.ns_from_ntp(int(decode_response(reported).metadata[EXACT_T3][16:], 16), NEAR_NS)
    assert first.t3_ns - left == 1000


def test_r13_s_example_is_the_first_request_of_a_client() -> None:
    text = section(PROTOCOL, "### R13: the server's report about its clock")
    (request,) = (bytes.fromhex(block.text) for block in blocks(PROTOCOL) if f"```hex request\n{block.text}\n```" in text)
    exchange = Exchange(nonces=lambda _: bytes(range(16)))
    assert exchange.request()[1] == request
    assert {code(row[0])[0] for row in rows(text)} == set(STATE_KEYS)
    assert f"about every {STATE_INTERVAL:g} seconds" in text


# ---------------------------------------------------------------------------------------------- references


def anchors(page: Path) -> set[str]:
    """Possible targets of a link: explicit anchors, and headings with the ids that GitHub makes of them."""
    text = prose(page)
    found = set(re.findall(r"<a id=\"([^\"]+)\">", text))
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading).lower()
        kept = (c for c in plain if c in " -_" or unicodedata.category(c)[0] in "LN")
        found.add("".join(kept).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_have_a_target(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{name(page)}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{name(page)}: {link}"


@pytest.mark.parametrize("source", [*SOURCES, *PAGES], ids=name)
def test_references_to_the_documentation_name_files_and_rulings_that_exist(source: Path) -> None:
    text = source.read_text()
    for file in re.findall(r"\bdocs/[\w./-]+\.md", text):
        assert (ROOT / file).is_file(), file
    # "docs/reference/protocol.md R4, R6", "protocol R5", "Rulings R2, R4 to R7", "(R9)", "R12:".
    for ruling in re.findall(r"\bR\d+\b", text):
        assert ruling in RULINGS, ruling


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_files_that_are_named_exist(page: Path) -> None:
    for file in re.findall(r"`((?:tsq|tests|docs|scripts)/[\w./-]+\.\w+|tsq/\w+/)`", page.read_text()):
        assert (ROOT / file).exists(), f"{name(page)}: {file}"


@pytest.mark.parametrize(("page", "picture"), PICTURES, ids=["planes", "bounds"])
def test_the_picture_is_there_and_is_shown_with_the_program_that_makes_it(page: Path, picture: Path) -> None:
    text = page.read_text()
    assert re.search(rf"^!\[[^\]]{{20,}}\]\({re.escape(picture.name)}\)$", text, re.MULTILINE)
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG\r\n")
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    assert 600 <= width <= 2000
    assert 400 <= height <= 2000
    (program,) = re.findall(rf"`python -m ([\w.]+) {re.escape(name(picture))}`", text)
    source = (ROOT / f"{program.replace('.', '/')}.py").read_text()
    assert f"python -m {program}" in source
    assert "Needs matplotlib" in source


def test_the_picture_of_bounds_shows_what_the_page_says() -> None:
    chosen = error_budget.selection()
    assert "".join(verdict.mark for verdict in chosen.verdicts) == "*++-x"
    assert chosen.agreed is not None
    truth = error_budget._TRUTH
    assert chosen.agreed.interval.low <= truth <= chosen.agreed.interval.high
    for example, verdict in zip(error_budget._EXAMPLES, chosen.verdicts, strict=True):
        assert verdict.interval is not None
        assert (verdict.interval.low <= truth <= verdict.interval.high) == ("liar" not in example.name)
        parts = error_budget.parts(verdict.source.estimate)
        assert sum(parts) == pytest.approx((verdict.interval.high - verdict.interval.low) / 2)
        assert parts[1] < 1e-6


def test_the_page_on_bounds_has_the_numbers_of_the_source() -> None:
    text = " ".join(BOUNDS.read_text().split())
    assert f"takes {DEFAULT_SERVER_ERROR * 1000:g} ms for it" in text
    assert ROUND_NUMBERS[filter_module._STAGES] in text
    assert filter_module._WINDOW_NS == 10 * 10**9
    assert f"the newest {filter_module._MAX_SAMPLES} are taken" in text
    assert f"each of {filter_module._BLOCKS} blocks" in text
    assert (local_clock.TOLERANCE, local_clock.UNDISCIPLINED) == (15e-6, 100e-6)
    for row in rows(section(BOUNDS, "## Several servers")):
        assert int(row[1]) == int(row[0]) - majority(int(row[0]))
    assert agreed([Interval(0, 10), Interval(8, 20), Interval(9.5, 11)]) == Interval(8, 11)


def test_the_limits_of_the_data_plane_are_those_of_the_source() -> None:
    places = ("state.pxd", "recovery.pyx", "session.pxd", "frames.pxd", "answers.pyx", "stamps.pxd", "batches.pyx")
    source = "\n".join((ROOT / "tsq" / "dataplane" / place).read_text() for place in places)
    constants = dict(re.findall(r"^    (\w+) = (\d+)$", source, re.MULTILINE))
    table = {row[0]: row[1] for row in rows(section(PLANES, "## Limits"))}
    assert table["requests in one packet"] == constants["MAX_FRAMES"]
    assert table["packet numbers that are remembered"] == constants["C_WINDOW"]
    assert table["packets with answers that are not acknowledged yet"].startswith(constants["RING"])
    ranges = f"{constants['MAX_ACK_RANGES']}; {int(constants['SENT_ACK_RANGES']) + 1}"
    assert table["ranges in a received ACK; in a sent one"] == ranges
    assert table["transmit timestamps kept for a connection"] == constants["KNOWN_T3"]
    assert table["transmit timestamps under way for a socket"] == constants["STAMP_RING"]
    assert table["requests in an answering packet"] == constants["ANSWERED_AT_ONCE"]
    assert table["work of a packet for the control plane"].startswith(constants["MOST_WORK"])
    batches = f"{constants['SERVED_AT_ONCE']}; {constants['BATCHES']}."
    assert table["datagrams in a batch; batches before timers get their turn"].startswith(batches)
    data_plane = DataPlane()
    assert (data_plane.key_update_after, data_plane.failed_open_limit) == (1 << 22, 1 << 36)
    assert table["packets of a connection that are too much work"].startswith(str(data_plane.excessive_limit))
    names = sum(map(len, offload_check.PRIVATE_NAMES.values()))
    assert f"needs {names} private names" in PLANES.read_text()


def test_the_layout_names_every_module() -> None:
    documented = {code(row[0])[0] for row in rows(section(ARCHITECTURE, "## Layout"))}
    modules = {name(path) for path in SOURCES if path.suffix in {".py", ".pyx", ".h"} and path.name != "__init__.py"}
    # A .pxd without a .pyx.
    modules |= {name(path) for path in (ROOT / "tsq").rglob("*.pxd") if not path.with_suffix(".pyx").exists()}
    assert documented == modules


def test_the_compatibility_page_has_the_build_switches_and_versions_of_the_package() -> None:
    switches = {code(row[0])[0].partition("=")[0] for row in rows(section(COMPATIBILITY, "## Build switches"))}
    assert switches == set(re.findall(r"environ(?:ment)?(?:\.get\(|\[)\"(\w+)\"", (ROOT / "setup.py").read_text()))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = {row[0]: row[2] for row in rows(section(COMPATIBILITY, "## What is tested"))}
    assert project["requires-python"] == f">={allowed['Python'].split()[0]}"
    series = re.match(r"1\.(\d+)\.x", allowed["aioquic"])[1]
    assert f"aioquic>=1.{series},<1.{int(series) + 1}" in project["dependencies"]


def identifiers() -> set[str]:
    """All words in the source that can be names of Python or of the protocol."""
    return {word for path in SOURCES for word in re.findall(r"\w+(?:\.\w+)?", path.read_text())}


def test_the_names_of_the_table_are_in_the_source() -> None:
    table = rows(section(ARCHITECTURE, "## Names"))
    found = identifiers()
    found |= {part for word in found for part in word.split(".")}
    names = [span.rpartition(".")[2] if span[0].isupper() else span for row in table for span in code(row[1])]
    assert len(names) > 40
    assert [name for name in names if name not in found] == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_pages_are_reachable_from_the_index(page: Path) -> None:
    index = DOCS / "index.md"
    if page in OUTER:
        assert page == OUTER[0] or f"](../{page.name})" in index.read_text()
        assert page == OUTER[0] or f"]({page.name})" in OUTER[0].read_text()
    elif page != index:
        assert f"]({os.path.relpath(page, DOCS)})" in index.read_text()


# ------------------------------------------------------------------------------------------------ names in the flow


def defined(paths: list[Path] = SOURCES) -> tuple[dict[str, set[str]], set[str]]:
    """({class: its own and inherited names}, functions and classes) of these modules."""
    classes: dict[str, set[str]] = {}
    bases: dict[str, list[str]] = {}
    names: set[str] = set()
    for path in paths:
        if path.suffix == ".pyx":
            text = path.read_text()
            names |= set(re.findall(r"^(?:cdef|def) .*?(\w+)\(", text, re.MULTILINE))
            for found in re.finditer(r"^cdef class (\w+)(?:\((\w+)\))?:\n((?:(?: .*)?\n)+)", text, re.MULTILINE):
                bases[found[1]] = [found[2]] if found[2] else []
                classes[found[1]] = set(re.findall(r"^    (?:def|cdef .*?) ?(\w+)\(", found[3], re.MULTILINE))
        elif path.suffix == ".py":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
                    classes[node.name] = members(node)
                elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    names.add(node.name)
    for _ in classes:
        for kind, above in bases.items():
            for base in above:
                classes[kind] |= classes.get(base, set())
    return classes, names | classes.keys()


def members(node: ast.ClassDef) -> set[str]:
    found = {item.name for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}
    for item in ast.walk(node):
        if isinstance(item, ast.AnnAssign | ast.Assign):
            for target in [item.target] if isinstance(item, ast.AnnAssign) else item.targets:
                if isinstance(target, ast.Name):
                    found.add(target.id)
                elif isinstance(target, ast.Attribute):
                    found.add(target.attr)
    return found


def exists(identifier: str, classes: dict[str, set[str]], names: set[str]) -> bool:
    if identifier.startswith("aioquic."):
        module, kind, method = identifier.rsplit(".", 2)
        return hasattr(getattr(importlib.import_module(module), kind), method)
    owner, dot, member = identifier.rpartition(".")
    return member in classes.get(owner, set()) if dot else identifier in names


def test_every_name_in_the_flow_exists_in_the_source() -> None:
    classes, names = defined()
    spans = [span for span in code(prose(FLOW)) if not re.match(r"tsq-|tsq/|--|\$|aioquic\.$|os\.urandom", span)]
    (diagram,) = blocks(FLOW, "")
    in_diagram = re.findall(r"\b_?[A-Z]\w+\.\w+|\b[a-z]\w*_\w+\b", diagram.text)
    assert len(spans) > 80
    assert len(in_diagram) > 20
    unknown = [span for span in [*spans, *in_diagram] if not exists(span, classes, names)]
    assert not unknown
    assert set(in_diagram) <= {span for row in rows(prose(FLOW)) for span in code(row[2])} | set(spans)
    inventions = [
        "DataPlane.nothing", "Session.nothing", "nothing_at_all", "ClientConnection.route",
        "aioquic.quic.connection.QuicConnection.nothing",
    ]
    assert not any(exists(invention, classes, names) for invention in inventions)


STAGES = rows(section(FLOW, "# The request's flow").partition("\n## ")[0])


@pytest.mark.parametrize("row", STAGES, ids=lambda row: row[0].strip("*").replace("**", ""))
def test_each_stage_of_the_flow_names_functions_of_its_file(row: list[str]) -> None:
    (file,) = code(row[1])
    functions = code(row[2])
    assert functions
    # Methods that a class of the same package inherits are not in its file: the table names the file that holds the code.
    classes, names = defined([ROOT / file])
    assert not [function for function in functions if not exists(function, classes, names)], file


def test_the_stages_of_the_flow_are_in_the_prose() -> None:
    assert len(STAGES) >= 25
    flow = FLOW.read_text().partition("\n## ")[2]
    functions = [span for row in STAGES for span in code(row[2])]
    assert not [span for span in functions if f"`{span.rpartition('.')[2]}`" not in flow and f"`{span}`" not in flow]
