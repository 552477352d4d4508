"""Events and actions to and from JSON: what comes back is what was written, to the last bit; other lines are refused."""

import contextlib
import json
import struct
from dataclasses import MISSING, fields, is_dataclass, replace
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsq.discipline import recording
from tsq.discipline.actions import Action, Level, Log, Poll, SlewPhase, Steer, StepClock, WouldDo
from tsq.discipline.events import Event, MakeStepNow, Polled, Reading, Reconfigured, SavedDrift, Started, Tick
from tsq.discipline.recording import FORMAT, Part, Record, decode, decode_action, encode, line, parse
from tsq.discipline.settings import ClockSettings, MaxChange, Mode
from tsq.errors import ConfigError
from tsq.timing.sample import Reason, Sample, StampSource
from tsq.timing.server_state import ServerState

NAMES = {"ServerState": ServerState}
READING = Reading(1_795_399_200_123_456_789, 987_654_321_012, 45, 0, 1.25e-05, 0, True, 0, 0.1 + 0.2)


def strategy(hint: Any) -> st.SearchStrategy:
    """Values of a type, extreme ones included."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return st.one_of(*map(strategy, arguments))
    if origin is tuple:
        return st.lists(strategy(arguments[0]), max_size=4).map(tuple)
    if hint is NoneType:
        return st.none()
    if hint is int:
        return st.one_of(st.integers(-3, 12), st.integers(-(2**70), 2**70))
    if hint is float:
        return st.one_of(st.sampled_from([0.01, 1e-6, 2.0]), st.floats())
    if hint is bool:
        return st.booleans()
    if hint is str:
        return st.text(max_size=20)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(list(hint))
    assert is_dataclass(hint), hint
    return dataclasses_of(hint)


@st.composite
def dataclasses_of(draw, kind):
    hints = get_type_hints(kind, localns=NAMES)
    values = {}
    for field in fields(kind):
        if field.default is not MISSING and draw(st.booleans()):
            continue
        values[field.name] = draw(strategy(hints[field.name]))
    # Settings refuse many values: leave those out until they are accepted.
    optional = [field.name for field in fields(kind) if field.name in values and field.default is not MISSING]
    while True:
        try:
            return kind(**values)
        except ConfigError:
            del values[optional.pop(draw(st.integers(0, len(optional) - 1)))]


def bits(value: object) -> object:
    """A value as what it is made of, with types, floats by their bits; NaNs are all alike."""
    if isinstance(value, float):
        return "float", "nan" if value != value else struct.pack(">d", value)
    if isinstance(value, tuple):
        return [bits(item) for item in value]
    if is_dataclass(value):
        return type(value), [(field.name, bits(getattr(value, field.name))) for field in fields(value)]
    return type(value), value


@given(st.one_of(*map(dataclasses_of, get_args(Event))))
def test_an_event_comes_back_to_the_last_bit(event):
    assert bits(decode(json.loads(json.dumps(encode(event), allow_nan=False)))) == bits(event)


@given(st.one_of(*map(dataclasses_of, get_args(Action))))
def test_an_action_comes_back_to_the_last_bit(action):
    assert bits(decode_action(json.loads(json.dumps(encode(action), allow_nan=False)))) == bits(action)


@given(dataclasses_of(Polled), st.lists(st.one_of(*map(dataclasses_of, get_args(Action))), max_size=3))
def test_a_line_comes_back_and_is_one_line_of_ascii(event, actions):
    record = Record(event, tuple(actions))
    text = line(record)
    assert text.isascii()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert bits(parse(text)) == bits(record)
    assert bits(parse(text.encode())) == bits(record)


@given(dataclasses_of(Started), st.integers(0, 2**64), st.text(max_size=9))
def test_a_part_comes_back(started, first, why):
    part = Part("1.2.3", "f00f", first, 7, why, (started, Tick(READING)))
    assert bits(parse(line(part))) == bits(part)


def test_what_json_has_no_number_for_is_kept():
    settings = ClockSettings(maxchange=MaxChange(offset=float("inf")))
    assert decode(json.loads(json.dumps(encode(Reconfigured(settings))))) == Reconfigured(settings)
    assert "Infinity" not in line(Record(Reconfigured(settings)))
    assert bits(decode_action(encode(SlewPhase(-0.0)))) == bits(SlewPhase(-0.0))


def test_a_line_can_be_read_by_people():
    text = line(Record(Tick(READING), (Poll("a", True), WouldDo(StepClock(0.5, 1.0, 0.25, "off")))))
    assert json.loads(text) == {
        "event": {
            "type": "Tick",
            "reading": {
                "real_ns": 1795399200123456789, "raw_ns": 987654321012, "width_ns": 45, "asleep_ns": 0, "frequency": 1.25e-05,
                "pending_ns": 0, "synchronized": True, "leap": 0, "max_error": 0.30000000000000004,
            },
        },
        "actions": [
            {"type": "Poll", "name": "a", "burst": True},
            {
                "type": "WouldDo",
                "action": {"type": "StepClock", "offset": 0.5, "max_error": 1.0, "estimated_error": 0.25, "why": "off"},
            },
        ],
    }  # fmt: skip


def test_a_sample_is_kept_with_its_readings_and_the_servers_state():
    sample = Sample(
        1, 2, 3, 4, StampSource.KERNEL, StampSource.USER, 1e-9, 2e-4, 3e-6, True, Reason.NEGATIVE_DELAY, "x",
        ServerState(5, 1, 2, "GPS \ud800", 6, "t", 1e-6, False, 2e-5, 1, False), None, None, 5e-5,
    )  # fmt: skip
    polled = Polled("time.example", sample, READING, "192.0.2.1:443", True)
    assert parse(line(Record(polled))) == Record(polled)


def test_a_field_that_an_older_recording_lacks_has_its_default():
    data = encode(Tick(READING))
    del data["reading"]["max_error"]
    assert decode(data) == Tick(replace(READING, max_error=16.0))


def test_no_type_has_a_field_that_is_named_as_the_type_is():
    for kind in (*get_args(Event), *get_args(Action)):
        assert "type" not in {field.name for field in fields(kind)}


@pytest.mark.parametrize("kind", [*get_args(Event), *get_args(Action), Part], ids=lambda kind: kind.__name__)
def test_every_field_has_a_decoder(kind):
    assert recording._decoders(kind).keys() == {field.name for field in fields(kind)}


def without(data: dict[str, Any], *path: str) -> dict[str, Any]:
    inner = data
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return data


def changed(data: dict[str, Any], value: object, *path: str) -> dict[str, Any]:
    inner = data
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return data


TICK = Tick(READING)
STARTED = Started("1", ClockSettings(), READING, SavedDrift(1e-6, 1e-8, (0.5, 0.5)))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ([], "event: []"),
        ({}, "event: {}"),
        ({"type": 3}, "expected an object with a type"),
        ({"type": "Poll", "name": "a"}, "event of type 'Poll'"),
        (without(encode(TICK), "reading"), "Tick without reading"),
        (without(encode(TICK), "reading", "raw_ns"), "Tick.reading without raw_ns"),
        (changed(encode(TICK), 1, "reading", "colour"), "Tick.reading.'colour'"),
        (changed(encode(TICK), 1.0, "reading", "raw_ns"), "Tick.reading.raw_ns: 1.0 (expected a whole number"),
        (changed(encode(TICK), True, "reading", "raw_ns"), "expected a whole number"),
        (changed(encode(TICK), "Infinity", "reading", "max_error"), "expected a number"),
        (changed(encode(TICK), True, "reading", "max_error"), "expected a number"),
        (changed(encode(TICK), 1, "reading", "synchronized"), "expected true or false"),
        (changed(encode(TICK), None, "reading"), "Tick.reading: None (expected an object"),
        (changed(encode(STARTED), 1, "version"), "expected text"),
        (changed(encode(STARTED), "dance", "settings", "mode"), "expected steer, feed, observe"),
        (changed(encode(STARTED), "x", "saved", "weights"), "expected a list"),
        (changed(encode(STARTED), [1, "x"], "saved", "weights"), "Started.saved.weights[1]: 'x'"),
        (changed(encode(STARTED), -1, "settings", "panic"), "a panic limit of -1 s"),
        (changed(encode(STARTED), 10**400, "settings", "panic"), "Started.settings.panic: a number of 401 digits"),
    ],
)
def test_what_is_no_event_is_refused_with_the_place(data, found):
    with pytest.raises(ConfigError) as caught:
        decode(data)
    assert found in str(caught.value)


@pytest.mark.parametrize("level", [15, True, "20", 20.0, None])
def test_a_level_is_one_of_the_levels(level):
    with pytest.raises(ConfigError):
        decode_action(changed(encode(Log(Level.INFO, "k", "t")), level, "level"))


def test_only_an_action_that_touches_the_clock_would_have_been_done():
    with pytest.raises(ConfigError):
        decode_action({"type": "WouldDo", "action": encode(Poll("a"))})
    assert decode_action({"type": "WouldDo", "action": encode(Steer(1e-6, 1.0, 1.0, True))})


@pytest.mark.parametrize(
    "text",
    [
        "", "\n", "{", "[]", "1", "null", '"x"', "{}", '{"event": {}}', '{"event": {"type": "MakeStepNow"}, "actions": {}}',
        '{"event": {"type": "MakeStepNow"}, "actions": [], "more": 1}', '{"event": NaN, "actions": []}', "[" * 100_000,
        "9" * 5000, b"\xff\xfe", '{"tsq_recording": 1}', '{"tsq_recording": 2, "version": "", "run": ""}',
        '{"tsq_recording": 1, "version": "", "run": "", "first": -1}', '{"tsq_recording": 1, "version": "", "run": "", "setup": 1}',
        '{"tsq_recording": 1, "version": "", "run": "", "setup": [{"type": "MakeStepNow"}]}',
    ],
)  # fmt: skip
def test_other_lines_are_refused(text):
    with pytest.raises(ConfigError):
        parse(text)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
    | st.sampled_from([kind.__name__ for kind in (*get_args(Event), *get_args(Action))]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["type", "event", "actions", "reading", "settings", "name", "sample", "tsq_recording", "run", "version"]),
        inner, max_size=5,
    ),
))  # fmt: skip
def test_any_json_is_read_or_refused(data):
    with contextlib.suppress(ConfigError):
        parse(json.dumps(data))


def test_a_recording_of_another_format_says_so():
    with pytest.raises(ConfigError, match=f"format 2.*expected format {FORMAT}.*use the version"):
        parse('{"tsq_recording": 2}')


def test_an_event_without_fields():
    assert parse('{"event": {"type": "MakeStepNow"}, "actions": []}') == Record(MakeStepNow())
    assert encode(Reconfigured(ClockSettings(mode=Mode.OBSERVE)))["settings"]["mode"] == "observe"
