"""The keys of tsqd's configuration: type, default, and the check of each value by itself (docs/reference/tsqd.md).

Comes in: a value as TOML has it. Goes out: the value of a field of `config.py`, or a ConfigError that says what was expected; and
back. It must never look at two keys together.
"""

import grp
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tsq.daemon.config import Config, SourceConfig
from tsq.daemon.toml_lines import shown
from tsq.discipline.settings import ClockSettings, ForeignStep, MakeStep, MaxChange, Mode, SourceSettings
from tsq.errors import ConfigError
from tsq.host.leap_table import ZONE, LeapTable
from tsq.options import ClientOptions, Precision, Target, parse_listen, parse_pin, parse_target
from tsq.quic.certificates.names import name_to_check
from tsq.timing.selection import Criteria

# In the order of importance.
LEVELS = ("debug", "info", "warning", "error")
# unix(7): sun_path, with its final zero.
MOST_SOCKET_PATH = 107
MOST_POOL = 16
MOST_SHM_UNIT = 255
LEAST_RECORD_BYTES = 64 * 1024
MOST_RECORD_FILES = 1000
_PPM = 1e6


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of values. name: as the documentation has it. read: from TOML, with the directory that relative paths are under; its
    ConfigError has `found` where that says more than the value, and no advice but the word that was probably meant.
    show: back to TOML; None is a value that cannot be written, the key is left out.
    """

    name: str
    read: Callable[[Any, str], Any]
    show: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True, slots=True)
class Key:
    """A key. path: as it is written, with its table; field: the fields that lead to its value, from Config or SourceConfig on."""

    path: str
    field: str
    kind: Kind

    @property
    def table(self) -> str:
        """The table that it stands in."""
        return self.path.rpartition(".")[0]

    @property
    def name(self) -> str:
        """Without its table."""
        return self.path.rpartition(".")[2]

    def of(self, config: Config | SourceConfig) -> Any:
        """This key's value in a configuration, as TOML has it; None if it is not set and cannot be written."""
        value: Any = config
        for part in self.field.split("."):
            # [feed.ntp] as a whole is absent by default.
            value = None if value is None else getattr(value, part)
        return self.kind.show(value)

    @property
    def default(self) -> Any:
        """As TOML has it; None if there is none."""
        if self.field == "target":
            return None
        return self.of(SourceConfig(Target("localhost")) if self.table == "source" else Config())


def _number(owner: Callable[..., Any], field: str, scale: float = 1.0) -> Kind:
    """A number that its owner checks."""

    def read(value: Any, _: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError("", expected="a number")
        try:
            number = float(value) / scale
        except OverflowError:
            raise ConfigError("", expected="a smaller number") from None
        owner(**{field: number})
        return number

    # Ten digits: 15e-6 × 1e6 is 15.000000000000002.
    return Kind("number", read, lambda value: value if scale == 1 else float(f"{value * scale:.10g}"))


def _whole(least: int, most: int, among: tuple[int, ...] = ()) -> Kind:
    """A whole number in a range, or one of a few."""

    def read(value: Any, _: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most or (among and value not in among):
            raise ConfigError("", expected=_either(among) if among else f"a whole number from {least} to {most}")
        return value

    return Kind("whole number", read)


def _either(among: tuple[Any, ...]) -> str:
    return f"{', '.join(map(str, among[:-1]))} or {among[-1]}"


def _read_boolean(value: Any, _: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError("", expected="true or false")
    return value


def _choice(names: type[StrEnum] | tuple[str, ...]) -> Kind:
    """One of a few words."""
    words = tuple(str(name) for name in names)

    def read(value: Any, _: str) -> str:
        if not isinstance(value, str) or value not in words:
            raise ConfigError(
                "",
                expected=_either(tuple(f'"{word}"' for word in words)),
                advice=f'"{meant}"' if (meant := near(value, words)) else "",
            )
        return value if isinstance(names, tuple) else names(value)

    return Kind(" or ".join(f'"{word}"' for word in words), read, str)


def near(value: Any, words: tuple[str, ...], cutoff: float = 0.6) -> str:
    """The word that was probably meant; empty if none."""
    from difflib import get_close_matches  # noqa: PLC0415 - loaded only where it is used

    return next(iter(get_close_matches(value, words, 1, cutoff)), "") if isinstance(value, str) and len(value) < 100 else ""


def _text(value: Any, what: str) -> str:
    """Text that names something: no control characters."""
    if not isinstance(value, str) or not all(c.isprintable() for c in value):
        raise ConfigError("", expected=what)
    return value


def _path(value: Any, base: str, *, empty: bool = True, most: int = os.pathconf("/", "PC_PATH_MAX") - 1) -> str:
    """A file's absolute name. empty: may be empty, for none. base: what relative names are under."""
    what = "a file's name" + (', or "" for none' if empty else "")
    if not _text(value, what):
        if not empty:
            raise ConfigError("", expected=what)
        return ""
    path = os.path.abspath(os.path.join(base, value))
    if len(os.fsencode(path)) > most or value.endswith("/"):
        raise ConfigError("", expected=f"{what}, of at most {most} bytes")
    return path


def _read_ca(value: Any, base: str) -> str:
    return _path(value, base, empty=False)


def _read_key_file(value: Any, base: str) -> str:
    if not isinstance(value, str):
        raise ConfigError("", expected="files of keys: an array of texts")
    return _path(value, base, empty=False)


def _read_session_file(value: Any, base: str) -> str | None:
    return _path(value, base) or None


def _read_socket(value: Any, base: str) -> str:
    return _path(value, base, most=MOST_SOCKET_PATH)


def _list_of(read: Callable[[Any, str], Any], what: str, *, alone: type) -> Callable[[Any, str], tuple[Any, ...]]:
    """Values of one kind in an array, or one of them alone."""

    def read_all(value: Any, base: str) -> tuple[Any, ...]:
        if isinstance(value, alone) and not isinstance(value, bool):
            value = [value]
        if not isinstance(value, list):
            raise ConfigError("", expected=what)
        found = []
        for one in value:
            try:
                found.append(read(one, base))
            except ConfigError as error:
                raise ConfigError(error.found or shown(one), expected=error.expected) from None
        if len(set(found)) < len(found):
            raise ConfigError("", expected=f"{what}, each of them once")
        return tuple(found)

    return read_all


def _read_feed_socket(value: Any, base: str) -> str:
    if not isinstance(value, str):
        raise ConfigError("", expected="paths of sockets: an array of texts")
    return _path(value, base, empty=False, most=MOST_SOCKET_PATH)


def _read_unit(value: Any, base: str) -> int:
    try:
        return int(_whole(0, MOST_SHM_UNIT).read(value, base))
    except ConfigError:
        raise ConfigError("", expected=f"units: an array of whole numbers from 0 to {MOST_SHM_UNIT}") from None


def _read_pin(value: Any, _: str) -> str:
    if not isinstance(value, str):
        raise ConfigError("", expected='pinned keys: an array of texts such as "sha256//…"')
    return parse_pin(value)


def _read_host(value: Any, _: str) -> Target:
    if not isinstance(value, str):
        raise ConfigError("", expected='a server: text such as "time.example" or "time.example:443"')
    target = parse_target(value)
    # The name is what its certificate is checked for, unless another one is given.
    name_to_check(target.host)
    return target


def _read_server_name(value: Any, _: str) -> str:
    what = "the name or address that the certificate must have"
    name = _text(value, what)
    if not name.strip("."):
        raise ConfigError("", expected=what)
    name_to_check(name)
    return name


def _read_listen(value: Any, _: str) -> Target | None:
    if not isinstance(value, str):
        raise ConfigError("", expected='ADDRESS:PORT as text, such as "127.0.0.1:9975", or "" for nowhere')
    try:
        return parse_listen(value) if value else None
    except ConfigError as error:
        raise ConfigError(error.found, expected=error.expected) from None


def _show_listen(value: Target | None) -> str:
    return "" if value is None else str(value)


def _read_zone(value: Any, _: str) -> str:
    what = 'a time zone with leap seconds, such as "right/UTC", or the absolute path of its file or of a leap-seconds.list'
    zone = _text(value, f'{what}, or "" for none')
    # A name becomes a part of a path.
    if zone and not os.path.isabs(zone) and not ZONE.fullmatch(zone):
        raise ConfigError("", expected=f'{what}, or "" for none')
    if zone:
        # To find out before the daemon runs; it reads the file itself, and again when that has changed.
        LeapTable(zone)
    return zone


def _read_group(value: Any, _: str) -> str:
    name = _text(value, 'a group of this system, or "" for root alone')
    try:
        if name:
            grp.getgrnam(name)
    except (KeyError, OSError):
        raise ConfigError("", expected="a group that exists on this system") from None
    return name


def _plain_numbers(value: Any, count: int, what: str) -> list[float]:
    """An array of exactly so many numbers, the first of any kind and the others whole."""
    if not isinstance(value, list) or len(value) != count:
        raise ConfigError("", expected=what)
    if any(isinstance(one, bool) or not isinstance(one, int | float) for one in value):
        raise ConfigError("", expected=what)
    if not all(isinstance(one, int) and abs(one) < 1 << 31 for one in value[1:]):
        raise ConfigError("", expected=what)
    return [_first(value[0], what), *value[1:]]


def _first(value: float, what: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ConfigError("", expected=what) from None


def _read_precision(value: Any, _: str) -> Precision:
    if not isinstance(value, bool) and value != "require":
        raise ConfigError("", expected='true, false or "require"')
    return Precision.REQUIRE if value == "require" else Precision.ASK if value else Precision.OFF


def _show_precision(value: Precision) -> Any:
    return "require" if value is Precision.REQUIRE else value is Precision.ASK


def _read_makestep(value: Any, _: str) -> MakeStep | None:
    if value is False:
        return None
    threshold, updates = _plain_numbers(value, 2, "[SECONDS, UPDATES], such as [1.0, 3], or false for no steps")
    return MakeStep(threshold, int(updates))


def _show_makestep(value: MakeStep | None) -> Any:
    return False if value is None else [value.threshold, value.updates]


def _read_maxchange(value: Any, _: str) -> MaxChange | None:
    if value is False:
        return None
    offset, start, ignore = _plain_numbers(value, 3, "[SECONDS, START, IGNORE], such as [1000.0, 1, 2], or false for no limit")
    return MaxChange(offset, int(start), int(ignore))


def _show_maxchange(value: MaxChange | None) -> Any:
    return False if value is None else [value.offset, value.start, value.ignore]


BOOLEAN = Kind("true or false", _read_boolean)
_FILE = Kind("file", _path)
_LISTEN = Kind("address and port", _read_listen, _show_listen)
_POLL = _whole(0, 10)

KEYS = (
    Key("clock.mode", "clock.settings.mode", _choice(Mode)),
    Key("clock.makestep", "clock.settings.makestep", Kind("[seconds, updates] or false", _read_makestep, _show_makestep)),
    Key("clock.maxchange", "clock.settings.maxchange", Kind("[seconds, start, ignore] or false", _read_maxchange, _show_maxchange)),
    Key("clock.panic", "clock.settings.panic", _number(ClockSettings, "panic")),
    Key("clock.step_budget", "clock.settings.step_budget", _number(ClockSettings, "step_budget")),
    Key("clock.max_slew_rate", "clock.settings.max_slew_rate", _number(ClockSettings, "max_slew_rate")),
    Key("clock.foreign_step", "clock.settings.foreign_step", _choice(ForeignStep)),
    Key("clock.tolerance", "clock.settings.tolerance", _number(ClockSettings, "tolerance", _PPM)),
    Key("clock.leap", "clock.settings.leap", BOOLEAN),
    Key("clock.leapsectz", "clock.leapsectz", Kind("time zone or file", _read_zone)),
    Key("clock.rtcsync", "clock.settings.rtc_sync", BOOLEAN),
    Key("clock.drift_file", "clock.drift_file", _FILE),
    Key("clock.bootstrap", "clock.bootstrap", BOOLEAN),
    Key("clock.bootstrap_signed", "clock.bootstrap_signed", BOOLEAN),
    Key("clock.min_sources", "clock.settings.criteria.min_sources", _whole(1, 1000)),
    Key("clock.max_distance", "clock.settings.criteria.max_distance", _number(Criteria, "max_distance")),
    Key("clock.allow_insecure", "clock.allow_insecure", BOOLEAN),
    Key("source.host", "target", Kind("name or address, and port", _read_host, str)),
    Key("source.ca", "client.trust.ca_file", Kind("file", _read_ca)),
    Key("source.pins", "client.trust.pins", Kind("array of texts", _list_of(_read_pin, "an array of texts", alone=str), list)),
    Key("source.insecure", "client.trust.insecure", BOOLEAN),
    Key("source.require_signature", "require_signature", BOOLEAN),
    Key("source.verify_key", "verify_keys", Kind("array of files", _list_of(_read_key_file, "files of keys", alone=str), list)),
    Key("source.server_name", "client.server_name", Kind("name or address", _read_server_name)),
    Key("source.minpoll", "settings.min_poll", _POLL),
    Key("source.maxpoll", "settings.max_poll", _POLL),
    Key("source.prefer", "settings.prefer", BOOLEAN),
    Key("source.trust", "settings.trust", BOOLEAN),
    Key("source.noselect", "settings.no_select", BOOLEAN),
    Key("source.pool", "pool", _whole(0, MOST_POOL)),
    Key("source.offline", "offline", BOOLEAN),
    Key("source.family", "client.family", _whole(0, 6, (0, 4, 6))),
    Key("source.timeout", "client.timeout", _number(ClientOptions, "timeout")),
    Key("source.stream", "client.stream", BOOLEAN),
    Key("source.precision", "client.precision", Kind('true, false or "require"', _read_precision, _show_precision)),
    Key("source.session_file", "client.session_file", Kind("file", _read_session_file)),
    Key("source.server_error", "settings.server_error", _number(SourceSettings, "server_error")),
    Key("feed.sock", "feed.sock", Kind("array of files", _list_of(_read_feed_socket, "paths of sockets", alone=str), list)),
    Key("feed.shm", "feed.shm", Kind("array of whole numbers", _list_of(_read_unit, "units of NTP SHM", alone=int), list)),
    Key("feed.segment", "feed.segment", _FILE),
    Key("feed.clockbound", "feed.clockbound", _FILE),
    Key("feed.ntp.listen", "feed.ntp.listen", _LISTEN),
    Key("control.socket", "control.socket", Kind("file", _read_socket)),
    Key("control.group", "control.group", Kind("group", _read_group)),
    Key("metrics.listen", "metrics.listen", _LISTEN),
    Key("log.level", "log.level", _choice(LEVELS)),
    Key("log.measurements", "log.measurements", _FILE),
    Key("log.record", "log.record", _FILE),
    Key("log.record_bytes", "log.record_bytes", _whole(LEAST_RECORD_BYTES, 1 << 40)),
    Key("log.record_files", "log.record_files", _whole(0, MOST_RECORD_FILES)),
)
BY_PATH = {key.path: key for key in KEYS}
# Those with keys, in the order of the table; [[source]] is an array of tables.
TABLES = tuple(dict.fromkeys(key.table for key in KEYS))
