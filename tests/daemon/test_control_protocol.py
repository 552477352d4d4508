"""The lines of the control protocol: what is written is read, and no line raises anything but our errors."""

import json
import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsq.daemon import control_protocol as protocol
from tsq.daemon.config import ControlConfig
from tsq.daemon.control_protocol import Problem, Refused
from tsq.errors import ControlError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def read(document) -> tuple[str, dict]:
    return protocol.read_request(json.dumps(document).encode() + b"\n")


@pytest.mark.parametrize("command", [*protocol.READING, *protocol.CHANGING])
def test_a_request_that_is_written_is_read(command):
    assert protocol.read_request(protocol.request(command)) == (command, {})


def test_a_request_has_its_arguments():
    arguments = {"name": "time-a.example:443", "count": 7}
    assert protocol.read_request(protocol.request("burst", arguments)) == ("burst", arguments)


@pytest.mark.parametrize(
    ("document", "problem", "words"),
    [
        ([], Problem.MALFORMED, "one object in one line"),
        ("status", Problem.MALFORMED, "one object in one line"),
        ({}, Problem.VERSION, "version None"),
        ({"version": 2, "command": "status"}, Problem.VERSION, r"version 2 of the control protocol \(expected 1\)"),
        ({"version": True, "command": "status"}, Problem.VERSION, "version True"),
        ({"version": 1}, Problem.COMMAND, "command None"),
        ({"version": 1, "command": "stat"}, Problem.COMMAND, "command 'stat' .expected status, "),
        ({"version": 1, "command": ["status"]}, Problem.COMMAND, "command "),
        ({"version": 1, "command": "x" * 2000}, Problem.COMMAND, r"command 'x{56}\.\.\. "),
        ({"version": 1, "command": "status", "argument": {}}, Problem.MALFORMED, "key 'argument'"),
        ({"version": 1, "command": "status", "arguments": []}, Problem.ARGUMENT, r"arguments \[\]"),
        ({"version": 1, "command": "status", "arguments": {"name": "a"}}, Problem.ARGUMENT, "expected none for status"),
        ({"version": 1, "command": "online", "arguments": {"count": 1}}, Problem.ARGUMENT, "expected for online name"),
        ({"version": 1, "command": "online", "arguments": {"name": 1}}, Problem.ARGUMENT, "argument name 1 .expected text"),
        ({"version": 1, "command": "burst", "arguments": {"count": 1.5}}, Problem.ARGUMENT, "count 1.5 .expected a whole number"),
        ({"version": 1, "command": "burst", "arguments": {"count": True}}, Problem.ARGUMENT, "count True .expected a whole number"),
        ({"version": 1, "command": "burst", "arguments": {"count": 0}}, Problem.ARGUMENT, "count 0 .expected 1 to 32"),
        ({"version": 1, "command": "burst", "arguments": {"count": 33}}, Problem.ARGUMENT, "count 33 .expected 1 to 32"),
    ],
)
def test_a_wrong_request_is_refused_with_what_was_expected(document, problem, words):
    with pytest.raises(Refused, match=words) as caught:
        read(document)
    assert caught.value.problem is problem


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"\xff\xfe\n", b"[" * 4096, b"{" * 2000, b'{"version": 1', json.dumps({"version": 1}).encode("utf-16"), b"NaN"],
)  # fmt: skip
def test_a_line_that_is_no_object_is_malformed(data):
    with pytest.raises(Refused) as caught:
        protocol.read_request(data)
    assert caught.value.problem is Problem.MALFORMED


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_line_raises_another_error(data):
    for read_line in (protocol.read_request, protocol.read_reply):
        with suppress(ControlError):
            read_line(data)


@given(st.fixed_dictionaries({"version": st.just(1), "ok": JSON}, optional={"result": JSON, "problem": JSON, "error": JSON}))
def test_no_reply_raises_another_error(document):
    try:
        value = protocol.read_reply(json.dumps(document).encode())
    except ControlError:
        return
    assert isinstance(value, dict)


def test_a_result_that_is_written_is_read_and_numbers_that_json_lacks_are_null():
    data = protocol.result("1.2.3", {"a": [1.5, math.inf, -math.inf, math.nan], "b": {"c": (True, None, "µ")}})
    assert data.count(b"\n") == 1
    assert protocol.read_reply(data) == {"a": [1.5, None, None, None], "b": {"c": [True, None, "µ"]}}
    assert json.loads(data)["daemon"] == "1.2.3"


@pytest.mark.parametrize("problem", Problem)
def test_a_refusal_that_is_written_is_raised(problem):
    with pytest.raises(Refused, match="why it was") as caught:
        protocol.read_reply(protocol.refusal("1.2.3", problem, "why it was"))
    assert caught.value.problem is problem


def test_a_reply_of_another_version_says_what_to_do():
    with pytest.raises(Refused, match="of the same release") as caught:
        protocol.read_reply(b'{"version": 2, "ok": true, "result": {}}\n')
    assert caught.value.problem is Problem.VERSION


def test_the_default_socket_is_the_daemons():
    assert ControlConfig().socket == protocol.DEFAULT_SOCKET
