"""Recordings: events and actions as JSON, and the lines of a recording (docs/reference/recordings.md).

Comes in: events, actions, parts; or lines of a file that anybody may have written. Goes out: the same values again, exactly: floats
by their shortest decimal form, integers of any size. It must never raise anything but ConfigError for a line, and never lose a bit.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from tsq.discipline.actions import Action
from tsq.discipline.events import Event, Started
from tsq.errors import ConfigError
from tsq.timing.server_state import ServerState

# Of the lines. A new field with a default is no new format; what a reader does not know, it refuses.
FORMAT = 1
_TYPE = "type"
# JSON has no numbers for them.
_NOT_FINITE = {"inf", "-inf", "nan"}
_MOST = sys.float_info.max
# What an error message shows of a value.
_SHOWN = 40

_Decode = Callable[[Any, str], Any]


class TornLine(ConfigError):
    """A line that is no JSON: perhaps the writer was killed."""


@dataclass(frozen=True, slots=True)
class Part:
    """The beginning of a part of a recording: of a run of the daemon, of a file, or after a gap.

    run: differs between runs. first: the number of the next event in its run. missed: how many events before it were not written,
    and why. setup: events that prepare a machine for the rest of the run when
    those before are not there.
    """

    version: str
    run: str
    first: int = 0
    missed: int = 0
    why: str = ""
    setup: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """One event, and the actions that a machine gave for it."""

    event: Event
    actions: tuple[Action, ...] = ()


def encode(value: Event | Action) -> dict[str, Any]:
    """An event or an action as values of JSON; `decode` and `decode_action` give it back."""
    return {_TYPE: type(value).__name__, **_encode_fields(value)}


def decode(data: object) -> Event:
    """The event in this value of JSON. Raises ConfigError."""
    return cast(Event, _decode_tagged(_event_types(), data, "event"))


def decode_action(data: object) -> Action:
    """The action in this value of JSON. Raises ConfigError."""
    return cast(Action, _decode_tagged(_action_types(), data, "action"))


def line(value: Part | Record) -> str:
    """A line of a recording, with its end."""
    if isinstance(value, Part):
        content = {"tsq_recording": FORMAT, **_encode_fields(value), "setup": [encode(event) for event in value.setup]}
    else:
        content = {"event": encode(value.event), "actions": [encode(action) for action in value.actions]}
    return json.dumps(content, separators=(",", ":"), allow_nan=False) + "\n"


def parse(text: str | bytes) -> Part | Record:
    """What a line holds. Raises ConfigError."""
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise TornLine("not a line of JSON", expected="a line of a recording of tsqd") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{_shown(content)}", expected="an object of JSON with an event, or the beginning of a part")
    if "tsq_recording" in content:
        return _parse_part(content)
    if content.keys() != {"event", "actions"} or not isinstance(content["actions"], list):
        raise ConfigError(f"an object with {_shown(sorted(content))}", expected="an event and a list of actions")
    return Record(decode(content["event"]), tuple(decode_action(action) for action in content["actions"]))


def _parse_part(content: Mapping[str, Any]) -> Part:
    if content["tsq_recording"] != FORMAT:
        raise ConfigError(
            f"a recording of format {_shown(content['tsq_recording'])}",
            expected=f"format {FORMAT}",
            advice="use the version of TSQ that wrote it",
        )
    rest = {name: value for name, value in content.items() if name not in ("tsq_recording", "setup")}
    setup = content.get("setup", [])
    if not isinstance(setup, list):
        raise ConfigError(f"setup: {_shown(setup)}", expected="a list of events")
    part = cast(Part, _decode_dataclass(Part, rest, "part"))
    events = tuple(decode(event) for event in setup)
    if part.first < 0 or part.missed < 0:
        raise ConfigError(f"a part with event {part.first} after {part.missed} that are missing", expected="0 or more")
    if events and not isinstance(events[0], Started):
        raise ConfigError(f"a setup that begins with {type(events[0]).__name__}", expected="Started")
    return Part(part.version, part.run, part.first, part.missed, part.why, events)


# ------------------------------------------------------------------------------------------------------ values -> JSON


def _encode_fields(value: Any) -> dict[str, Any]:
    kind: type = type(value)
    tagged = _tagged_fields(kind)
    return {
        field.name: encode(content) if field.name in tagged else _encode_value(content)
        for field in fields(value)
        for content in (getattr(value, field.name),)
    }


def _encode_value(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return value if isfinite(value) else repr(float(value))
    if isinstance(value, int | str):
        return value
    if isinstance(value, tuple):
        return [_encode_value(item) for item in value]
    return _encode_fields(value)


# ------------------------------------------------------------------------------------------------------ JSON -> values


def _decode_tagged(types: Mapping[str, type], data: object, where: str) -> Any:
    if not isinstance(data, dict) or not isinstance(data.get(_TYPE), str):
        raise ConfigError(f"{where}: {_shown(data)}", expected=f"an object with a {_TYPE}")
    name = data[_TYPE]
    if name not in types:
        raise ConfigError(f"{where} of type {_shown(name)}", expected=", ".join(sorted(types)))
    return _decode_dataclass(types[name], {key: value for key, value in data.items() if key != _TYPE}, name)


def _decode_dataclass(kind: type, data: object, where: str) -> Any:
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: {_shown(data)}", expected="an object")
    decoders = _decoders(kind)
    unknown = data.keys() - decoders.keys()
    if unknown:
        raise ConfigError(
            f"{where}.{_shown(min(unknown))}", expected="a field that this version knows", advice="use the version that wrote it"
        )
    missing = _required(kind) - data.keys()
    if missing:
        raise ConfigError(f"{where} without {min(missing)}", expected="all fields that have no default")
    try:
        return kind(**{name: decoders[name](value, f"{where}.{name}") for name, value in data.items()})
    except ConfigError:
        raise
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(f"{where}: {error}", expected="values that belong together") from error


@cache
def _decoders(kind: type) -> dict[str, _Decode]:
    # `sample.py` knows this name for type checkers only.
    hints = get_type_hints(kind, localns={"ServerState": ServerState})
    return {field.name: _decoder(hints[field.name]) for field in fields(kind)}


@cache
def _required(kind: type) -> frozenset[str]:
    return frozenset(item.name for item in fields(kind) if item.default is MISSING and item.default_factory is MISSING)


def _decoder(hint: Any) -> _Decode:
    """What decodes a value of this type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        inner = [one for one in arguments if one is not NoneType]
        present = _decoder(inner[0]) if len(inner) == 1 else _tagged_decoder(tuple(inner))
        return _optional(present) if NoneType in arguments else present
    if origin is tuple and arguments[1:] == (...,):
        return _many(_decoder(arguments[0]))
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _enum(hint)
    if isinstance(hint, type) and is_dataclass(hint):
        return lambda value, where: _decode_dataclass(hint, value, where)
    raise TypeError(f"no recording of {hint}")


def _int(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{where}: {_shown(value)}", expected="a whole number")
    return value


def _float(value: object, where: str) -> float:
    if isinstance(value, str) and value in _NOT_FINITE:
        return float(value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ConfigError(f"{where}: {_shown(value)}", expected="a number")
    if abs(value) > _MOST:
        raise ConfigError(f"{where}: a number of {len(str(value))} digits", expected="a number that a float can hold")
    # A whole number stays one: the machine was given it so.
    return value


def _bool(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{where}: {_shown(value)}", expected="true or false")
    return value


def _str(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{where}: {_shown(value)}", expected="text")
    return value


_SIMPLE: dict[Any, _Decode] = {int: _int, float: _float, bool: _bool, str: _str}


def _optional(inner: _Decode) -> _Decode:
    return lambda value, where: None if value is None else inner(value, where)


def _many(inner: _Decode) -> _Decode:
    def decoder(value: object, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ConfigError(f"{where}: {_shown(value)}", expected="a list")
        return tuple(inner(item, f"{where}[{number}]") for number, item in enumerate(value))

    return decoder


def _enum(kind: type[Enum]) -> _Decode:
    def decoder(value: object, where: str) -> Enum:
        for member in kind:
            if member.value == value and type(member.value) is type(value):
                return member
        raise ConfigError(f"{where}: {_shown(value)}", expected=", ".join(str(member.value) for member in kind))

    return decoder


def _tagged_decoder(kinds: tuple[type, ...]) -> _Decode:
    types = {kind.__name__: kind for kind in kinds}
    return lambda value, where: _decode_tagged(types, value, where)


@cache
def _tagged_fields(kind: type) -> frozenset[str]:
    """The fields of a dataclass that hold one of several dataclasses, and so need the name of the type."""
    hints = get_type_hints(kind, localns={"ServerState": ServerState})
    return frozenset(
        name
        for name, hint in hints.items()
        if get_origin(hint) in (Union, UnionType) and len([one for one in get_args(hint) if is_dataclass(one)]) > 1
    )


@cache
def _event_types() -> dict[str, type]:
    return {kind.__name__: kind for kind in get_args(Event)}


@cache
def _action_types() -> dict[str, type]:
    return {kind.__name__: kind for kind in get_args(Action)}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
