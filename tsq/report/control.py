"""What the daemon knows, as tables in the columns of chronyc (docs/reference/tsqctl.md).

Comes in: the daemon's status as JSON has it, of any content. Goes out: text in ASCII but for the names of sources. It must never
print, trust a type, or round a bound down. chronyc's offsets are positive where the clock is ahead; TSQ's where it is behind.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from math import ceil
from typing import Any

from tsq.report.claims import claims
from tsq.report.spans import cells, escaped, middle_cut, padded, shortened

COLUMNS = 80
SIGN = "offsets: positive when this clock is behind (chronyc: ahead); +/-: error bound"
_UNKNOWN = "unknown"
_NONE = "-"
# Not rounded up, so that binary fractions do not make a bound one step too large.
_SLACK = 1e-6
_LEAPS = ("Normal", "Insert second", "Delete second", "Not synchronised")
_DAYS = ("Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_UNITS = ((1e-9, "ns"), (1e-6, "us"), (1e-3, "ms"))
_LONG_UNITS = ((1.0, "s"), (60.0, "m"), (3600.0, "h"), (86400.0, "d"), (365 * 86400.0, "y"))
_LONGEST_REASON = 100
_IPV4_SIZE = 4
# Seconds: more than any clock, and safe to count in nanoseconds.
_MOST = 1e18

_SOURCES = "MS Name/IP address         Stratum Poll Reach LastRx Last sample"
_SOURCES_NAME = 27
_SOURCES_LEGEND = (
    "",
    "  .-- '^' = server",
    " / .- Source state '*' = best, '+' = combined, '-' = not combined,",
    "| /             'x' = contradicts the majority, '?' = cannot be used.",
    "||                                                 .- xxxx [ yyyy ] +/- zzzz",
    "||      Reachability register (octal) -.           |  xxxx = offset now,",
    "||      Log2(Polling interval) --.      |          |  yyyy = as last measured,",
    "||                                \\     |          |  zzzz = its error bound.",
    "||                                 |    |           \\",
)
_STATS = "Name/IP Address            NP  NR  Span  Frequency  Freq Skew  Offset  Std Dev"
_STATS_NAME = 25
_STATS_LEGEND = (
    "                             .- Number of samples.",
    "                            /    .- Not counted by TSQ.",
    "                           |    /    .- Time that the samples span.",
    "                           |   |    /      .- Against the clock's freq. (ppm).",
    "                           |   |   |      /           .- Its std dev. (ppm).",
    "                           |   |   |     |           /         .- Offset now.",
    "                           |   |   |     |          |          |   Jitter -.",
    "                           |   |   |     |          |          |   of them. \\",
    "                           |   |   |     |          |          |             |",
)


class Fields:
    """The values of one object, each of the type that is asked for; what is absent, or of another type, is unknown."""

    __slots__ = ("_values",)

    def __init__(self, values: object) -> None:
        self._values: Mapping[str, Any] = values if isinstance(values, Mapping) else {}

    def number(self, name: str) -> float | None:
        """A number, finite and not absurd."""
        value = self._values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        try:
            value = float(value)
        except OverflowError:
            return None
        return value if abs(value) <= _MOST else None

    def whole(self, name: str) -> int | None:
        """A whole number of at most 64 bits."""
        value = self._values.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63 else None

    def text(self, name: str) -> str:
        """A text that is safe for a terminal; empty where there is none."""
        value = self._values.get(name)
        return escaped(value) if isinstance(value, str) else ""

    def flag(self, name: str) -> bool:
        """Whether it is true."""
        return self._values.get(name) is True


def tracking_of(status: Mapping[str, Any]) -> Fields:
    """The tracking in a status."""
    return Fields(status.get("tracking"))


def sources_of(status: Mapping[str, Any]) -> list[Fields]:
    """The sources in a status."""
    found = status.get("sources")
    return [Fields(one) for one in found] if isinstance(found, list | tuple) else []


# ---------------------------------------------------------------------------------------------------------------- tracking


def tracking(status: Mapping[str, Any]) -> str:
    """One line for each value; the first thirteen have chronyc's names."""
    found = tracking_of(status)
    address, name = found.text("reference_address"), found.text("reference")
    frozen = found.text("frozen")
    steps, moves = found.whole("steps"), found.whole("foreign_moves")
    total = found.number("accumulated_steps")
    lines = [
        ("Reference ID", f"{reference_id(address)} ({name})"),
        ("Stratum", _count(found.whole("stratum"))),
        ("Ref time (UTC)", _date(found.whole("updated_real_ns"))),
        ("System time", _system_time(found.number("offset"))),
        ("Last offset", _seconds(found.number("last_offset"), signed=True)),
        ("RMS offset", _seconds(found.number("rms_offset"))),
        ("Frequency", _frequency(found.number("frequency"))),
        ("Residual freq", _ppm(_difference(found.number("frequency"), found.number("correction")), signed=True)),
        ("Skew", _ppm(found.number("frequency_sd"), up=True)),
        ("Root delay", _seconds(found.number("root_delay"), up=True)),
        ("Root dispersion", _seconds(found.number("root_dispersion"), up=True)),
        ("Update interval", _interval(found.number("update_interval"))),
        ("Leap status", _leap(found.whole("leap"))),
        ("Status", (found.text("status") or _UNKNOWN) + (f": {frozen}" if frozen else "")),
        ("Error bound", _bound(found)),
        ("Bound holds at", _moment(found.whole("real_ns"))),
        ("Mode", found.text("mode") or _UNKNOWN),
        ("Steps", f"{_count(steps)}, {_seconds(total)} in all"),
        ("Foreign moves", _count(moves)),
    ]
    return "\n".join(f"{label:<16}: {value}" for label, value in lines)


def reference_id(address: str) -> str:
    """The reference ID of a server as NTP has it, in hexadecimal (RFC 5905 §7.3): its IPv4 address, or the start of the MD5 of its
    IPv6 address; zeros where there is none.
    """
    packed = _packed(address)
    if len(packed) > _IPV4_SIZE:
        from hashlib import md5  # noqa: PLC0415 - loaded only where it is used

        packed = md5(packed, usedforsecurity=False).digest()[:_IPV4_SIZE]
    return packed.hex().upper() or "00000000"


def _packed(address: str) -> bytes:
    """An IP address, with or without a port, as bytes; none for anything else."""
    for host in (address, address.rpartition(":")[0].strip("[]")):
        with suppress(ValueError):
            return ip_address(host.partition("%")[0]).packed
    return b""


def waiting(attempt: int, status: Mapping[str, Any]) -> str:
    """A line of `waitsync`."""
    found = tracking_of(status)
    bound, skew = found.number("bound"), found.number("frequency_sd")
    return (
        f"try: {attempt}, refid: {reference_id(found.text('reference_address'))}, "
        f"correction: {_plain_seconds(found.number('offset'))}, skew: {_UNKNOWN if skew is None else f'{skew * 1e6:.3f}'}, "
        f"status: {found.text('status') or _UNKNOWN}, bound: {_UNKNOWN if bound is None else _rounded_up(bound)}"
    )


def state(status: Mapping[str, Any]) -> str:
    """The status with its bound, in one line."""
    found = tracking_of(status)
    words, bound = found.text("status") or "status unknown", found.number("bound")
    why = f" ({found.text('frozen')})" if found.text("frozen") else ""
    return f"{words}{why}, " + ("no bound" if bound is None else f"bound {_rounded_up(bound)} s")


def is_synchronized(status: Mapping[str, Any], max_error: float) -> bool:
    """Whether the daemon reports its clock as synchronized, with a bound of at most this many seconds."""
    found = tracking_of(status)
    bound = found.number("bound")
    return found.text("status") == "synchronized" and bound is not None and 0 <= bound <= max_error


def _system_time(offset: float | None) -> str:
    if offset is None:
        return _UNKNOWN
    return f"{abs(offset):.9f} seconds {'slow' if offset > 0 else 'fast'} of NTP time"


def _frequency(frequency: float | None) -> str:
    if frequency is None:
        return _UNKNOWN
    return f"{abs(frequency) * 1e6:.3f} ppm {'fast' if frequency < 0 else 'slow'}"


def _ppm(value: float | None, *, signed: bool = False, up: bool = False) -> str:
    if value is None:
        return _UNKNOWN
    ppm = ceil(value * 1e9 - _SLACK) / 1e3 if up else value * 1e6
    return f"{ppm + 0.0:+z.3f} ppm" if signed else f"{ppm:.3f} ppm"


def _seconds(value: float | None, *, signed: bool = False, up: bool = False) -> str:
    if value is None:
        return _UNKNOWN
    if up:
        return f"{_rounded_up(value)} seconds"
    return f"{value + 0.0:+z.9f} seconds" if signed else f"{value:.9f} seconds"


def _plain_seconds(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{abs(value):.9f}"


def _rounded_up(seconds: float) -> str:
    """Nine decimals, never less than the value."""
    return f"{ceil(seconds * 1e9 - _SLACK) / 1e9:.9f}" if abs(seconds) < 1e6 else f"{ceil(seconds)}"


def _bound(found: Fields) -> str:
    bound, rate = found.number("bound"), found.number("bound_rate")
    if bound is None:
        return _UNKNOWN
    return f"{_rounded_up(bound)} seconds" + ("" if rate is None else f", growing by {_ppm(rate, up=True)}")


def _interval(seconds: float | None) -> str:
    return _UNKNOWN if seconds is None else f"{seconds:.1f} seconds"


def _count(value: int | None) -> str:
    return _UNKNOWN if value is None else str(value)


def _leap(leap: int | None) -> str:
    return _LEAPS[leap] if leap is not None and 0 <= leap < len(_LEAPS) else _UNKNOWN


def _difference(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _date(at_ns: int | None) -> str:
    """A Unix time as chronyc writes it; "never" for 0."""
    if at_ns is None:
        return _UNKNOWN
    if at_ns == 0:
        return "never"
    parts = _calendar(at_ns)
    if parts is None:
        return _moment(at_ns)
    year, month, day, clock = parts
    return f"{_DAYS[at_ns // 86_400_000_000_000 % 7]} {_MONTHS[month - 1]} {day:02} {clock} {year}"


def _moment(at_ns: int | None) -> str:
    """A Unix time to the microsecond."""
    if at_ns is None:
        return _UNKNOWN
    parts = _calendar(at_ns)
    if parts is None:
        return f"{at_ns // 10**9} s since 1970"
    year, month, day, clock = parts
    return f"{year}-{month:02}-{day:02} {clock}.{at_ns % 10**9 // 1000:06} UTC"


def _calendar(at_ns: int) -> tuple[int, int, int, str] | None:
    from time import gmtime  # noqa: PLC0415 - converts; reads no clock

    try:
        found = gmtime(at_ns // 10**9)
    except (ValueError, OverflowError, OSError):
        return None
    return found.tm_year, found.tm_mon, found.tm_mday, f"{found.tm_hour:02}:{found.tm_min:02}:{found.tm_sec:02}"


# ----------------------------------------------------------------------------------------------------------------- sources


def sources(status: Mapping[str, Any], columns: int = COLUMNS, *, verbose: bool = False) -> str:
    """One line for each source, in chronyc's columns, and one for each that is not used. verbose: with a legend, whole reasons."""
    found = sources_of(status)
    names = [one.text("name") for one in found]
    width = _name_width(names, _SOURCES_NAME, columns)
    wider = width - _SOURCES_NAME
    lines = _moved(_SOURCES_LEGEND, wider) if verbose else []
    header = _SOURCES[:21] + " " * wider + _SOURCES[21:]
    lines += [header, "=" * (79 + wider)]
    lines += [_source_line(one, name, width) for one, name in zip(found, names, strict=True)]
    lines += [
        f"{_mark(one)} {name}: {one.text('unused') if verbose else shortened(one.text('unused'), _LONGEST_REASON, '...')}"
        for one, name in zip(found, names, strict=True)
        if one.text("unused")
    ]
    if verbose:
        lines += [
            f"{_mark(one)} {name} says of its clock: {said}"
            for one, name in zip(found, names, strict=True)
            if (said := _claims(one))
        ]
    return "\n".join([*lines, SIGN] if found else lines)


def _claims(one: Fields) -> str:
    # The stratum has a column.
    said = claims(None, one.whole("source_type"), one.text("source"), one.whole("clock_class"), one.text("clock_tag"))
    bad = one.whole("bad_values")
    return said + (f"; {bad} values in another format so far, not used" if bad else "")


def _source_line(one: Fields, name: str, width: int) -> str:
    measured, distance = one.number("last_offset"), one.number("last_root_distance")
    shown = _signed_span(measured)
    # The bound holds for the offset as it is written.
    bound = None if distance is None or measured is None else distance + abs(_value(shown) - measured)
    now = _signed_span(one.number("offset"))
    poll, reach = one.whole("poll"), one.whole("reach")
    parts = (
        f"^{_mark(one)} {_named(name, width)}",
        f"  {_cell(one.whole('stratum')):>2}",
        f"  {_cell(poll):>2}",
        f"   {_NONE if reach is None else format(reach & 0xFF, 'o'):>3}",
        f"  {_age(one.number('age')):>4}",
        f"  {now:>7}[{shown:>7}] +/- {_span_up(bound):>6}",
    )
    return "".join(parts)


def sourcestats(status: Mapping[str, Any], columns: int = COLUMNS, *, verbose: bool = False) -> str:
    """One line for each source, in chronyc's columns: its estimate of offset and frequency."""
    found = sources_of(status)
    names = [one.text("name") for one in found]
    width = _name_width(names, _STATS_NAME, columns)
    wider = width - _STATS_NAME
    frequency = tracking_of(status).number("frequency")
    lines = _moved(_STATS_LEGEND, wider) if verbose else []
    lines += [_STATS[:20] + " " * wider + _STATS[20:], "=" * (78 + wider)]
    for one, name in zip(found, names, strict=True):
        own, deviation = _difference(one.number("frequency"), frequency), one.number("frequency_sd")
        lines.append(
            f"{_named(name, width)} {_cell(one.whole('samples')):>3} {_NONE:>3}  {_age(one.number('span')):>4} "
            f"{_NONE if own is None else format(own * 1e6, '+.3f'):>10} "
            f"{_NONE if deviation is None else format(ceil(deviation * 1e9 - _SLACK) / 1e3, '.3f'):>10}"
            f"  {_signed_span(one.number('offset')):>7}  {_span_up(one.number('jitter')):>6}"
        )
    return "\n".join([*lines, "offsets: positive when this clock is behind (chronyc: ahead)"] if found else lines)


def activity_counts(status: Mapping[str, Any]) -> dict[str, int]:
    """How many sources there are of each kind."""
    found = sources_of(status)
    return {
        "online": sum(one.flag("online") for one in found),
        "offline": sum(not one.flag("online") for one in found),
        "unknown_address": sum(not one.text("address") for one in found),
        "answering": sum(bool(one.whole("reach")) for one in found),
        "used": sum(_mark(one) in "*+" for one in found),
    }


def activity(status: Mapping[str, Any]) -> str:
    """The same as text, one line for each."""
    words = ("sources online", "sources offline", "sources with unknown address", "sources answering", "sources used")
    return "\n".join(f"{count} {what}" for count, what in zip(activity_counts(status).values(), words, strict=True))


def _moved(legend: Sequence[str], wider: int) -> list[str]:
    """A legend, moved as the columns are."""
    return [line[:2] + " " * wider + line[2:] if line[2:8] == " " * 6 else line for line in legend]


def _mark(one: Fields) -> str:
    return (one.text("mark") or "?")[0]


def _name_width(names: Sequence[str], least: int, columns: int) -> int:
    """The width of the names: as wide as the longest, where the screen has room for it."""
    longest = max(map(cells, names), default=0)
    return max(least, min(longest, least + columns - COLUMNS))


def _named(name: str, width: int) -> str:
    return padded(middle_cut(name, width), width, left=True)


def _cell(value: int | None) -> str:
    return _NONE if value is None else str(value)


def _age(seconds: float | None) -> str:
    """Seconds in four columns, as chronyc writes them."""
    if seconds is None or seconds < 0:
        return _NONE
    whole = int(seconds)
    if whole <= 1024:
        return str(whole)
    for least, scale, unit in ((36_000, 60, "m"), (345_600, 3600, "h"), (86_400_000, 86_400, "d")):
        if whole < least:
            return f"{whole // scale}{unit}"
    return f"{whole // (365 * 86_400)}y"


def _signed_span(seconds: float | None) -> str:
    """A span with a sign in up to seven columns, as chronyc writes it."""
    if seconds is None:
        return _NONE
    for scale, unit in _UNITS:
        if abs(seconds) < 9999.5 * scale:
            return f"{round(seconds / scale) + 0:+d}{unit}"
    if abs(seconds) < 999.5:
        return f"{seconds:+z.1f}s"
    scale, unit = _long_unit(abs(seconds))
    return f"{round(seconds / scale):+d}{unit}"


def _span_up(seconds: float | None) -> str:
    """A span in up to six columns, rounded up."""
    if seconds is None:
        return _NONE
    for scale, unit in _UNITS:
        if (count := ceil(seconds / scale - _SLACK)) <= 9999:
            return f"{count}{unit}"
    if (tenths := ceil(seconds * 10 - _SLACK)) < 9995:
        return f"{tenths / 10:.1f}s"
    scale, unit = _long_unit(seconds)
    return f"{ceil(seconds / scale)}{unit}"


def _long_unit(seconds: float) -> tuple[float, str]:
    return next(((scale, unit) for scale, unit in _LONG_UNITS if seconds < 99_998 * scale), _LONG_UNITS[-1])


def _value(shown: str) -> float:
    """The seconds that a signed span was written for."""
    if shown == _NONE:
        return 0.0
    unit = shown.lstrip("+-0123456789.")
    return float(shown.removesuffix(unit)) * next(scale for scale, name in (*_UNITS, *_LONG_UNITS) if name == unit)
