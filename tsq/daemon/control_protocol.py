"""The control protocol: one line of JSON to the daemon, one line back (docs/reference/tsqctl.md).

Comes in: requests, replies, lines from the other side. Goes out: lines, and values that are what they claim to be, or a
ControlError. It must never raise anything else for a line, however it was made, and never load more than it needs: `tsqctl` starts
with it.
"""

import json
from collections.abc import Mapping
from enum import StrEnum
from math import isfinite
from typing import Any

from tsq.errors import ControlError

VERSION = 1
# As `tsq.daemon.config.ControlConfig` has it.
DEFAULT_SOCKET = "/run/tsq/control"
# A request is a command and a name; a reply may be a dump of all samples.
MAX_REQUEST = 4096
MAX_REPLY = 4 * 1024 * 1024
MAX_BURST = 32
DEFAULT_BURST = 4

# Every user may give these.
READING = ("status", "metrics", "dump")
# Root, the daemon's own user and the configured group may give these.
CHANGING = ("burst", "online", "offline", "makestep", "unfreeze", "reload")
# The arguments of each command, with their types.
ARGUMENTS: Mapping[str, Mapping[str, type]] = {
    "burst": {"name": str, "count": int},
    "online": {"name": str},
    "offline": {"name": str},
}


class Problem(StrEnum):
    """Why a request was refused."""

    # The line is not a request.
    MALFORMED = "malformed"
    # A version that this daemon does not have.
    VERSION = "version"
    COMMAND = "command"
    ARGUMENT = "argument"
    # This user may only read.
    PERMISSION = "permission"
    # Too many connections.
    BUSY = "busy"
    # The request is right, but it cannot be done.
    FAILED = "failed"


class Refused(ControlError):
    """A request that was refused. problem: why, as a value."""

    def __init__(self, problem: Problem, found: str, *, expected: str = "", advice: str = "") -> None:
        super().__init__(found, expected=expected, advice=advice)
        self.problem = problem


def request(command: str, arguments: Mapping[str, Any] | None = None) -> bytes:
    """The line of a request."""
    document: dict[str, Any] = {"version": VERSION, "command": command}
    if arguments:
        document["arguments"] = dict(arguments)
    return line(document)


def read_request(data: bytes) -> tuple[str, dict[str, Any]]:
    """(command, arguments) of a line; raises Refused."""
    document = _object(data)
    if document is None:
        raise Refused(Problem.MALFORMED, "the request is not a JSON object", expected="one object in one line of UTF-8")
    version = document.pop("version", None)
    if version != VERSION or isinstance(version, bool):
        raise Refused(Problem.VERSION, f"version {_shown(version)} of the control protocol", expected=str(VERSION))
    command, arguments = document.pop("command", None), document.pop("arguments", {})
    if document:
        raise Refused(Problem.MALFORMED, f"key {_shown(min(document))}", expected="version, command, arguments")
    if not isinstance(command, str) or command not in (*READING, *CHANGING):
        raise Refused(Problem.COMMAND, f"command {_shown(command)}", expected=", ".join((*READING, *CHANGING)))
    if not isinstance(arguments, dict):
        raise Refused(Problem.ARGUMENT, f"arguments {_shown(arguments)}", expected="an object")
    return command, _checked(command, arguments)


def _checked(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
    allowed = ARGUMENTS.get(command, {})
    for name, value in arguments.items():
        if name not in allowed:
            words = f"for {command} {', '.join(allowed)}" if allowed else f"none for {command}"
            raise Refused(Problem.ARGUMENT, f"argument {_shown(name)}", expected=words)
        if type(value) is not allowed[name]:
            words = "a whole number" if allowed[name] is int else "text"
            raise Refused(Problem.ARGUMENT, f"argument {name} {_shown(value)}", expected=words)
    count = arguments.get("count", DEFAULT_BURST)
    if not 1 <= count <= MAX_BURST:
        raise Refused(Problem.ARGUMENT, f"argument count {_shown(count)}", expected=f"1 to {MAX_BURST}")
    return arguments


def result(daemon: str, value: Mapping[str, Any]) -> bytes:
    """The line of a reply. daemon: its version."""
    return line({"version": VERSION, "ok": True, "daemon": daemon, "result": finite(value)})


def refusal(daemon: str, problem: Problem, text: str) -> bytes:
    """The line of a reply that refuses."""
    return line({"version": VERSION, "ok": False, "daemon": daemon, "problem": problem.value, "error": text})


def read_reply(data: bytes) -> dict[str, Any]:
    """The result in a line from the daemon; raises Refused, or ControlError for a line that is no reply."""
    document = _object(data)
    if document is None or not isinstance(document.get("ok"), bool):
        raise ControlError(f"a reply that is none: {_shown(data[:40].decode('utf-8', 'replace'))}", expected="a reply of tsqd")
    if document.get("version") != VERSION:
        raise Refused(
            Problem.VERSION,
            f"a reply in version {_shown(document.get('version'))} of the control protocol",
            expected=str(VERSION),
            advice="use the tsqctl of the same release as the daemon",
        )
    if not document["ok"]:
        problem = document.get("problem")
        known = Problem(problem) if problem in tuple(Problem) else Problem.FAILED
        raise Refused(known, str(document.get("error") or "the daemon refused, and gave no reason"))
    value = document.get("result")
    if not isinstance(value, dict):
        raise ControlError("a reply without a result", expected="an object")
    return value


def line(document: Mapping[str, Any]) -> bytes:
    """A JSON object in one line."""
    return json.dumps(document, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"


def finite(value: Any) -> Any:
    """A value with null for every number that JSON does not have."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        # Not json.loads(bytes): that takes UTF-16 as well.
        found = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _shown(value: object) -> str:
    """A value from the other side, short, for an error."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
