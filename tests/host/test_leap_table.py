"""Leap seconds from the files of tzdata, and from files that are made here."""

import contextlib
import os
import struct
from datetime import date
from pathlib import Path

import pytest

from tsq.errors import ConfigError
from tsq.host.leap_table import LeapTable

EPOCH = date(1970, 1, 1)
ZONES = Path("/usr/share/zoneinfo")
FILES = [path for path in (ZONES / "right/UTC", ZONES / "leap-seconds.list", ZONES / "leapseconds") if path.exists()]


def day(year: int, month: int, number: int) -> int:
    return (date(year, month, number) - EPOCH).days


def tzif(*records: tuple[int, int], version: bytes = b"2", cut: int = 0) -> bytes:
    """A TZif file with these leap records, and a local time type, in both blocks."""
    def block(wide: bool) -> bytes:
        leaps = b"".join(struct.pack(">qi" if wide else ">ii", when if wide else when % 2**31, total) for when, total in records)
        return struct.pack(">4sc15x6I", b"TZif", version, 1, 1, len(records), 0, 1, 4) + bytes(6) + b"UTC\0" + leaps + bytes(2)

    data = block(False) + (block(True) + b"\nUTC0\n" if version != b"\0" else b"")
    return data[: len(data) - cut]


def table(tmp_path: Path, content: bytes | str) -> LeapTable:
    file = tmp_path / "table"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return LeapTable(str(file))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_systems_tables_have_all_leap_seconds_of_history(path):
    found = LeapTable(str(path))
    assert found.leap_on(day(1972, 6, 30)) == found.leap_on(day(2012, 6, 30)) == found.leap_on(day(2016, 12, 31)) == 1
    assert [found.leap_on(day(2016, 12, 30)), found.leap_on(day(2017, 1, 1)), found.leap_on(day(2020, 6, 30))] == [0, 0, 0]
    assert len([number for number in found.days if number <= day(2016, 12, 31)]) == 27
    midnight = day(2017, 1, 1) * 86_400 * 10**9
    assert (found.leap_at(midnight - 1), found.leap_at(midnight)) == (1, 0)


@pytest.mark.skipif(len(FILES) < 2, reason="tzdata has a single table here")
def test_the_systems_tables_agree():
    assert len({tuple(sorted(LeapTable(str(path)).days.items())) for path in FILES}) == 1


# 1972-06-30 and 1972-12-31 with an inserted second each, then a deleted one on 1973-06-30.
INSERTED = (78_796_800, 1), (94_694_401, 2)
DELETED = (94_694_401 + 181 * 86_400, 1)
DAYS = {day(1972, 6, 30): 1, day(1972, 12, 31): 1}


@pytest.mark.parametrize("version", [b"\0", b"2", b"3"])
def test_a_zone_of_each_version(tmp_path, version):
    assert table(tmp_path, tzif(*INSERTED, version=version)).days == DAYS


@pytest.mark.parametrize("early", [0, 1])
def test_a_deleted_second_in_a_zone(tmp_path, early):
    """Its record has the time of what is skipped, or of what follows."""
    when, total = DELETED
    assert table(tmp_path, tzif(*INSERTED, (when - early, total))).days == DAYS | {day(1973, 6, 30): 2}


def test_a_zone_that_begins_late_and_ends_with_its_expiry(tmp_path):
    # TAI - UTC - 10 was 26 before the end of 2016.
    midnight = (day(2016, 12, 31) + 1) * 86_400
    expiry = (day(2026, 12, 28)) * 86_400
    found = table(tmp_path, tzif((1_435_708_800 + 25, 26), (midnight + 26, 27), (expiry + 27, 27), version=b"4"))
    assert found.days == {day(2016, 12, 31): 1}
    assert found.expires == expiry


LIST = """#\tcomment
#$\t3676924800
#@\t3991593600
2272060800 10 # 1 Jan 1972
2287785600\t11\t# 1 Jul 1972
2303683200 10
#h 1 2 3
"""


def test_a_list_of_the_iers_with_a_deleted_second_and_its_expiry(tmp_path):
    found = table(tmp_path, LIST)
    assert found.days == {day(1972, 6, 30): 1, day(1972, 12, 31): 2}
    assert found.expires == 3_991_593_600 - 2_208_988_800


def test_a_list_of_tzdata(tmp_path):
    lines = (
        "# Leap YEAR",
        "Leap\t1972\tJun\t30\t23:59:60\t+\tS",
        "Leap 2035 Jun 30 23:59:59 - S",
        "#expires 1782604800 (2026-06-28)",
        "Expires 2026 Jun 28 00:00:00",
    )
    found = table(tmp_path, "\n".join(lines))
    assert found.days == {day(1972, 6, 30): 1, day(2035, 6, 30): 2}
    assert found.expires == 1_782_604_800


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "it has no leap seconds"),
        (b"\x7fELF" + bytes(100), "cannot be used"),
        (b"TZif", "cannot be used"),
        (tzif(), "it has no leap seconds"),
        (tzif(*INSERTED, cut=40), "cut off"),
        (tzif(*INSERTED, version=b"\0", cut=20), "cut off"),
        (tzif(*INSERTED)[:90], "cannot be used"),
        (tzif(*INSERTED)[:80] + bytes(60), "cannot be used"),
        (tzif((78_796_800, 1), (94_694_401, 5)), "a correction changes by 4 s"),
        ("2272060800 10\n2287785600 14\n", "changes by 4 s"),
        ("2272060800\n", "a line '2272060800'"),
        ("2272060800 ten\n", "'ten' in place of a number"),
        ("99999999999999999999 10\n", "in place of a number"),
        ("Leap 1972 Jun 31 23:59:60 + S\n", "cannot be used"),
        ("Leap 1972 Jun 30 23:59:60 * S\n", "a line 'Leap 1972"),
        ("Leap 1972\n", "a line 'Leap 1972'"),
        (b"#" * (2 << 20), "it has more than 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_table_is_an_error_that_says_what_is_expected(tmp_path, content, text):
    with pytest.raises(ConfigError) as caught:
        table(tmp_path, content)
    assert text in str(caught.value)
    assert "expected a zone with leap seconds such as right/UTC" in str(caught.value)


def test_no_cut_and_no_changed_byte_of_a_zone_raises_another_error(tmp_path):
    data = tzif(*INSERTED)
    for number in range(len(data)):
        for changed in (data[:number], data[:number] + b"\xff" + data[number + 1 :]):
            with contextlib.suppress(ConfigError):
                table(tmp_path, changed)


def test_a_zone_is_looked_up_where_zones_are(tmp_path, monkeypatch):
    monkeypatch.delenv("TZDIR", raising=False)
    (tmp_path / "one" / "right").mkdir(parents=True)
    (tmp_path / "two").mkdir()
    directories = [str(tmp_path / "one"), str(tmp_path / "two")]
    with pytest.raises(ConfigError, match=r"no zone 'right/UTC' in .*one, .*two"):
        LeapTable("right/UTC", directories)
    (tmp_path / "two" / "leap-seconds.list").write_text(LIST)
    assert LeapTable("right/UTC", directories).path.endswith("two/leap-seconds.list"), "a system without such zones"
    with pytest.raises(ConfigError, match="no zone"):
        LeapTable("UTC", directories)
    (tmp_path / "one" / "right" / "UTC").write_bytes(tzif(*INSERTED))
    assert LeapTable("right/UTC", directories).days == DAYS
    monkeypatch.setenv("TZDIR", str(tmp_path / "three"))
    (tmp_path / "three" / "right").mkdir(parents=True)
    os.link(tmp_path / "one" / "right" / "UTC", tmp_path / "three" / "right" / "UTC")
    assert LeapTable("right/UTC", directories).path.startswith(str(tmp_path / "three")), "zones are often links"


@pytest.mark.parametrize(
    "zone",
    [
        "", "../../etc/passwd", "right/../UTC", "./UTC", "right//UTC", "right/UTC/", "..", "right/.", "a b", "right/UTC\0",
        "/no/such/file", "/no/such\0/file",
    ],
)
def test_what_is_no_zone_is_an_error(zone, tmp_path):
    with pytest.raises(ConfigError):
        LeapTable(zone, [str(tmp_path)])


def test_a_file_that_has_changed_is_read_again_and_one_that_is_broken_or_gone_leaves_the_table_as_it_was(tmp_path):
    found = table(tmp_path, LIST)
    before = found.days
    found.renew()
    new = tmp_path / "new"
    new.write_text(LIST + "2335219200 11\n")
    new.rename(tmp_path / "table")
    found.renew()
    after = found.days
    assert after == before | {day(1973, 12, 31): 1}
    (tmp_path / "table").write_text("Leap 1972\n")
    with pytest.raises(ConfigError, match="a line 'Leap 1972'"):
        found.renew()
    # Said once.
    found.renew()
    (tmp_path / "table").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        found.renew()
    assert found.days == after


@pytest.mark.parametrize("kind", ["directory", "FIFO"])
def test_what_is_no_file_is_an_error(tmp_path, kind):
    place = tmp_path / "place"
    (os.mkdir if kind == "directory" else os.mkfifo)(place)
    with pytest.raises(ConfigError, match="cannot be read: "):
        LeapTable(str(place))
