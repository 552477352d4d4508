"""Options have one spelling each: a part of a name is not taken for the whole one."""

import ast
import shlex
import subprocess
from pathlib import Path

import pytest

from tsq.cli import adjtime, client, server

ROOT = Path(__file__).parents[2]
TRACKED = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
SOURCES = [ROOT / name for name in TRACKED.stdout.split()] or sorted((ROOT / "tsq").rglob("*.py"))
COMMANDS = {"tsq-client": client, "tsq-server": server, "tsq-adjtime": adjtime}
# What each command needs beside its options.
REST = {"tsq-client": ["127.0.0.1:1"], "tsq-server": ["--cert", "c", "--key", "k"], "tsq-adjtime": ["127.0.0.1:1"]}


def parsers(path: Path) -> list[ast.Call]:
    """Where a module makes a parser of command lines."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return [node for node in calls if ast.unparse(node.func).rpartition(".")[2] in ("ArgumentParser", "add_parser")]


def test_no_parser_of_the_project_takes_abbreviations():
    found = 0
    for path in SOURCES:
        for call in parsers(path):
            found += 1
            said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert said.get("allow_abbrev") == "False", f"{path.relative_to(ROOT)}:{call.lineno}"
    assert found
    assert all(command._parser().allow_abbrev is False for command in COMMANDS.values())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_examples_that_parse(name, capsys):
    command = COMMANDS[name]
    examples = command._parser().examples
    assert len(examples) >= 3
    for example in examples:
        program, *arguments = shlex.split(example)
        assert program == name
        values = command._parser().parse_args(arguments)
        assert getattr(values, "host", None) != []
    with pytest.raises(SystemExit) as caught:
        command.main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {example}\n" in shown for example in examples)
    assert shown.index("exit status") < shown.index("\nexamples:\n") < shown.index(examples[0])
    assert shown.splitlines()[-1].startswith("      ")


@pytest.mark.parametrize("name", COMMANDS)
def test_an_error_of_usage_is_one_line(name, capsys):
    with pytest.raises(SystemExit) as caught:
        COMMANDS[name].main(["--hepl"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"{name}: error: unknown option --hepl: did you mean --help?\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_no_part_of_an_options_name_means_the_option(name, capsys):
    command = COMMANDS[name]
    actions = command._parser()._actions
    whole = {option for action in actions for option in action.option_strings if option.startswith("--")}
    assert len(whole) > 10
    for option in sorted(whole):
        for short in (option[:5], option[:-1]):
            if short in whole or len(short) < 4:
                continue
            with pytest.raises(SystemExit) as caught:
                command.main([short, "1", *REST[name]])
            assert caught.value.code == 2
            assert f"unknown option {short}" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "short"), [("tsq-client", "--ins"), ("tsq-adjtime", "--fo"), ("tsq-adjtime", "--boot")])
def test_a_dangerous_option_is_written_out(name, short, capsys):
    with pytest.raises(SystemExit) as caught:
        COMMANDS[name].main([short, *REST[name]])
    assert caught.value.code == 2
    assert f"unknown option {short}" in capsys.readouterr().err
