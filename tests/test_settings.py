"""Errors and log lines name a setting as their reader writes it: in a program, or on a command line."""

import ast
import re
import threading
from pathlib import Path

import pytest

import tsq
from tests.cli.peers import self_signed_leaf
from tsq.cli.client import main
from tsq.daemon.keys import BY_PATH
from tsq.errors import SelfSigned
from tsq.quic import tls
from tsq.settings import Setting, for_command_line, for_configuration_file
from tsq.timing.adjustment import ClockLimits

PACKAGE = Path(tsq.__file__).parent


def test_a_setting_is_named_as_its_reader_writes_it():
    assert f"trust it with {Setting.CA_FILE}" == "trust it with Trust(ca_file=...)"
    with for_command_line():
        assert f"trust it with {Setting.CA_FILE}" == "trust it with --ca FILE"
        with for_command_line():
            pass
        assert str(Setting.FORCE) == "--force"
    assert str(Setting.FORCE) == "ClockLimits(force=True)"


def test_a_command_that_fails_leaves_no_trace():
    @for_command_line()
    def fail() -> None:
        raise ValueError(str(Setting.SERVER_NAME))

    with pytest.raises(ValueError, match="--server-name"):
        fail()
    assert str(Setting.SERVER_NAME) == "ClientOptions(server_name=...)"


def test_a_command_in_one_thread_changes_no_error_of_another():
    with for_command_line():
        seen = []
        thread = threading.Thread(target=lambda: seen.append(str(Setting.CA_FILE)))
        thread.start()
        thread.join()
    assert seen == ["Trust(ca_file=...)"]


def test_two_commands_that_overlap_leave_no_trace():
    first_began, second_began = threading.Event(), threading.Event()
    first_ended = threading.Event()

    def first():
        with for_command_line():
            first_began.set()
            second_began.wait(60)
        first_ended.set()

    def second():
        first_began.wait(60)
        with for_command_line():
            second_began.set()
            first_ended.wait(60)

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert str(Setting.CA_FILE) == "Trust(ca_file=...)"


def test_hosts_that_are_asked_at_the_same_time_are_told_as_their_caller_is():
    seen = []
    with for_command_line():
        tsq.query_all(["127.0.0.1:1", "127.0.0.1:2"], tsq.ClientOptions(count=1, timeout=1),
                      on_change=lambda snapshot: seen.append((threading.current_thread().name, str(Setting.CA_FILE))))
    assert {name for name, _ in seen} >= {"127.0.0.1:1", "127.0.0.1:2"}
    assert {text for _, text in seen} == {"--ca FILE"}


@pytest.mark.parametrize("setting", Setting)
def test_what_a_program_is_advised_to_write_is_there(setting):
    known = {name: getattr(tsq, name) for name in tsq.__all__} | {"ClockLimits": ClockLimits}
    call = ast.parse(setting.value[0], mode="eval").body
    assert isinstance(call, ast.Call)
    assert {keyword.arg for keyword in call.keywords} <= set(known[call.func.id].__dataclass_fields__)


@pytest.mark.parametrize("setting", Setting)
def test_what_a_command_line_is_advised_to_give_is_an_option_of_a_command(setting):
    option = setting.value[1].split()[0]
    assert any(f'"{option}"' in path.read_text(encoding="utf-8") for path in (PACKAGE / "cli").glob("*.py"))


def test_a_configuration_file_has_keys():
    with for_command_line(), for_configuration_file():
        assert f"trust it with {Setting.CA_FILE}" == 'trust it with `ca = "FILE"`'
        # Nothing that a configuration file could set.
        assert str(Setting.MAX_CONNECTIONS) == "Limits(max_connections=...)"
    assert str(Setting.CA_FILE) == "Trust(ca_file=...)"


@pytest.mark.parametrize("setting", [setting for setting in Setting if setting.value[2]])
def test_what_a_configuration_file_is_advised_to_have_is_a_key(setting):
    name = re.search(r"`(\w+)", setting.value[2])[1]
    assert {f"source.{name}", f"clock.{name}"} & set(BY_PATH)


def test_a_program_is_told_of_trust_and_a_user_of_the_option(tmp_path, capsys):
    files = self_signed_leaf(tmp_path)
    judge = tls.client_configuration("localhost", tsq.Trust(ca_file=str(files.authority))).accept
    configuration = tls.server_configuration(str(files.certificate), str(files.key))
    error = judge([configuration.certificate])
    if error is None:
        judge = tls.client_configuration("localhost", tsq.Trust()).accept
        error = judge([configuration.certificate])
    assert isinstance(error, SelfSigned)
    assert "trust it with Trust(ca_file=...)" in str(error)
    with for_command_line():
        again = tls.client_configuration("localhost", tsq.Trust()).accept([configuration.certificate])
    assert "trust it with --ca FILE" in str(again)
    assert main.__wrapped__


def test_no_text_outside_the_command_line_names_an_option():
    option = re.compile(r"(?<![-\w])--[a-z][a-z-]+(?!\w*-----)")
    for path in sorted(PACKAGE.rglob("*.py")):
        # Only commands ask the daemon by its control socket.
        if path.parent.name == "cli" or path.name in ("settings.py", "control_client.py"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(node.body[0].value) for node in ast.walk(tree)
                      if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)}
        found = [node.value for node in ast.walk(tree)
                 if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings]
        # An option alone is no text: it is looked for on other programs' command lines.
        assert [text for text in found if option.search(text) and not option.fullmatch(text)] == [], path
