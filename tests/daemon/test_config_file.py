"""The configuration file: what each key becomes, what each mistake says, and that nothing but a ConfigError comes out."""

import math
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsq.daemon.config import Config, NtpServerConfig, SourceConfig
from tsq.daemon.config_file import MOST_SHOWN, load, read
from tsq.daemon.description import describe, toml
from tsq.daemon.keys import KEYS, TABLES
from tsq.discipline.settings import ForeignStep, MakeStep, MaxChange, Mode, SourceSettings
from tsq.errors import ConfigError
from tsq.options import Precision, Target, Trust

PIN = "sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
SOURCE = '[[source]]\nhost = "a.example"\n'


@pytest.fixture
def written(tmp_path):
    """Writes a file `tsqd.toml`, and drop-ins by name; its path."""

    def write(text: str, **drop_ins: str) -> str:
        (tmp_path / "tsqd.toml").write_text(text, encoding="utf-8")
        if drop_ins:
            (tmp_path / "conf.d").mkdir(exist_ok=True)
        for name, content in drop_ins.items():
            (tmp_path / "conf.d" / f"{name}.toml").write_text(content, encoding="utf-8")
        return str(tmp_path / "tsqd.toml")

    return write


def problems(path: str) -> list[str]:
    """All problems, without the directory."""
    config, found = read(path)
    assert (config is None) == bool(found)
    return [str(problem).replace(f"{os.path.dirname(path)}/", "") for problem in found]


def test_the_least_configuration_is_one_source_and_the_defaults(written):
    path = written(SOURCE)
    config = load(path)
    (source,) = config.sources
    assert source.target == Target("a.example", 443)
    assert replace(source, authorities="") == SourceConfig(source.target)
    assert replace(config, sources=(), files=()) == Config()
    assert config.files == (path,)


ALL = f"""
[clock]
mode = "observe"
makestep = [0.5, -1]
maxchange = [100, 2, 3]
panic = inf
step_budget = 60
max_slew_rate = 100
foreign_step = "correct"
tolerance = 1.5
leap = false
leapsectz = "right/UTC"
rtcsync = false
drift_file = "drift"
bootstrap = true
bootstrap_signed = false
min_sources = 2
max_distance = 0.25
allow_insecure = true

[[source]]
host = "a.example:4443"
pins = ["{PIN}"]
require_signature = false
verify_key = []
server_name = "b.example"
minpoll = 0
maxpoll = 6
prefer = true
trust = true
noselect = true
pool = 4
offline = true
family = 6
timeout = 0.5
stream = true
precision = "require"
session_file = "tickets/a"
server_error = 0.001

[[source]]
host = "[2001:db8::1]:123"
insecure = true

[[source]]
host = "192.0.2.1"
pins = "{PIN}"

[[source]]
host = "192.0.2.2"
pins = "{PIN}"

[[source]]
host = "192.0.2.3"
pins = "{PIN}"

[feed]
sock = "/run/chrony.tsq.sock"
shm = [0, 2]
segment = ""
clockbound = "/run/clockbound/shm0"

[feed.ntp]
listen = "127.0.0.1:11123"

[control]
socket = "../control"
group = "root"

[metrics]
listen = "[::1]:9975"

[log]
level = "debug"
measurements = "m.log"
record = "/r.jsonl"
record_bytes = 100000
record_files = 0
"""


def test_every_key_has_a_value_in_this_test():
    for key in KEYS:
        assert re.search(rf"^{key.name} = ", ALL, re.MULTILINE) or key.name == "ca", key.path


def test_every_key_becomes_its_field(written, tmp_path):
    config = load(written(ALL))
    clock, kept = config.clock, config.clock.settings
    assert (kept.mode, kept.foreign_step) == (Mode.OBSERVE, ForeignStep.CORRECT)
    assert kept.makestep == MakeStep(0.5, -1)
    assert kept.maxchange == MaxChange(100.0, 2, 3)
    assert (kept.panic, kept.step_budget, kept.max_slew_rate, kept.tolerance) == (math.inf, 60.0, 100.0, 1.5e-6)
    assert (kept.leap, kept.rtc_sync, clock.bootstrap, clock.allow_insecure) == (False, False, True, True)
    assert (kept.criteria.min_sources, kept.criteria.max_distance) == (2, 0.25)
    assert (clock.leapsectz, clock.drift_file) == ("right/UTC", str(tmp_path / "drift"))
    first, second, third, *_ = config.sources
    assert first.target == Target("a.example", 4443)
    assert first.client.trust == Trust(pins=(PIN,))
    assert third.client.trust is first.client.trust
    assert (first.client.server_name, first.client.family, first.client.timeout, first.client.stream) == ("b.example", 6, 0.5, True)
    assert (first.client.precision, second.client.precision) == (Precision.REQUIRE, Precision.OFF)
    assert first.client.session_file == str(tmp_path / "tickets" / "a")
    assert first.settings == SourceSettings(0, 6, True, True, True, 0.001)
    assert first.client.server_error == 0.001
    assert (first.pool, first.offline) == (4, True)
    assert second.target == Target("2001:db8::1", 123)
    assert second.client.trust.insecure
    feed = config.feed
    assert (feed.sock, feed.shm, feed.segment, feed.clockbound) == (("/run/chrony.tsq.sock",), (0, 2), "", "/run/clockbound/shm0")
    assert feed.ntp == NtpServerConfig(Target("127.0.0.1", 11123))
    assert (config.control.socket, config.control.group) == (str(tmp_path.parent / "control"), "root")
    assert config.metrics.listen == Target("::1", 9975)
    log = config.log
    assert (log.level, log.measurements, log.record) == ("debug", str(tmp_path / "m.log"), "/r.jsonl")
    assert (log.record_bytes, log.record_files) == (100_000, 0)


@pytest.mark.parametrize("text", [ALL, SOURCE], ids=["all", "least"])
def test_what_is_described_is_the_same_configuration(written, text):
    config = load(written(text))
    described = describe(config)
    assert described.startswith("# From ")
    again = load(written(described))
    assert again == config
    assert describe(replace(again, origins=())) == describe(replace(config, origins=()))
    for table in TABLES:
        assert f"\n[{table}]\n" in described or f"\n[[{table}]]  # " in described


def test_a_certificate_file_is_trusted_and_another_content_is_another_configuration(written, certificates, tmp_path):
    (tmp_path / "ca.pem").write_bytes(certificates.authority.read_bytes())
    path = written(f'{SOURCE}ca = "ca.pem"\n[[source]]\nhost = "b"\nca = "{tmp_path}/ca.pem"\n')
    config = load(path)
    assert config.sources[0].client.trust == Trust(ca_file=str(tmp_path / "ca.pem"))
    assert config.sources[0].client.trust is config.sources[1].client.trust
    assert load(path) == config
    (tmp_path / "ca.pem").write_bytes(certificates.authority.read_bytes() * 2 + certificates.certificate.read_bytes())
    again = load(path)
    assert again.sources[0].client == config.sources[0].client
    assert again != config


def test_a_pool_or_a_source_with_a_small_maxpoll_needs_no_minpoll(written):
    assert load(written(f"{SOURCE}maxpoll = 2\n")).sources[0].settings == SourceSettings(2, 2)
    assert load(written(f"{SOURCE}minpoll = 6\nmaxpoll = 6\n")).sources[0].settings == SourceSettings(6, 6)


def test_sources_count_as_many_as_can_be_used(written):
    least = "[clock]\nmin_sources = "
    assert load(written(f"{SOURCE}pool = 3\n{least}3\n"))
    (problem,) = problems(written(f"{SOURCE}pool = 3\n{least}4\n"))
    assert "expected at most 3" in problem
    (problem,) = problems(written(f'{SOURCE}noselect = true\n[[source]]\nhost = "b"\n{least}2\n'))
    assert "expected at most 1" in problem


def test_a_bootstrap_needs_three_sources_that_prove_who_they_are(written):
    sources = "".join(f'[[source]]\nhost = "{name}"\n' for name in "abc")
    assert load(written(f"{sources}[clock]\nbootstrap = true\n")).clock.bootstrap
    for more in ("noselect = true", "insecure = true", "noselect = true\ninsecure = true"):
        (problem,) = problems(written(f"{sources}{more}\n[clock]\nbootstrap = true\nallow_insecure = true\n"))
        assert "found true with 2 sources that can vote" in problem


@pytest.mark.parametrize("feed", ['sock = "/x"', "shm = 0", 'ntp.listen = "127.0.0.1:0"'])
def test_another_daemon_is_fed_by_any_of_the_feeds(written, feed):
    assert load(written(f'{SOURCE}[clock]\nmode = "feed"\n[feed]\n{feed}\n')).clock.settings.mode is Mode.FEED


# ------------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(("table", "line", "words"), [
    ("clock", 'mode = "stear"', 'key `clock.mode`: found "stear", expected "steer", "feed" or "observe", did you mean `"steer"`?'),
    ("clock", "mode = 1", 'key `clock.mode`: found 1, expected "steer", "feed" or "observe"'),
    ("clock", "makestep = [1.0]", "key `clock.makestep`: found [1.0], expected [SECONDS, UPDATES], such as [1.0, 3]"),
    ("clock", "makestep = [0, 3]", "key `clock.makestep`: found a threshold of 0 s for steps, expected a number of"),
    ("clock", "makestep = [1.0, 1.5]", "key `clock.makestep`: found [1.0, 1.5], expected [SECONDS, UPDATES]"),
    ("clock", "makestep = true", "key `clock.makestep`: found true, expected [SECONDS"),
    ("clock", f"makestep = [0x1{'0' * 300}, 3]", "key `clock.makestep`: found [a number of more than 77 digits, 3]"),
    ("clock", f"makestep = [1.0, 0x1{'0' * 300}]", "key `clock.makestep`: found [1.0, a number of more than 77 digits]"),
    ("clock", "maxchange = [1, 2]", "key `clock.maxchange`: found [1, 2], expected [SECONDS, START, IGNORE]"),
    ("clock", "maxchange = [1, -2, 3]", "key `clock.maxchange`: found a largest change with start -2 and ignore 3, expected"),
    ("clock", "maxchange = [nan, 2, 3]", "key `clock.maxchange`: found a largest change of nan s, expected a number of seconds"),
    ("clock", "panic = nan", "key `clock.panic`: found a panic limit of nan s, expected a number of seconds above 0"),
    ("clock", 'panic = "1"', 'key `clock.panic`: found "1", expected a number'),
    ("clock", "panic = true", "key `clock.panic`: found true, expected a number"),
    ("clock", f"panic = 0x1{'0' * 400}", "key `clock.panic`: found a number of more than 77 digits, expected a smaller number"),
    ("clock", "step_budget = 0", "key `clock.step_budget`: found a limit of 0 s for all steps"),
    ("clock", "max_slew_rate = 501", "key `clock.max_slew_rate`: found a slew rate of 501 ppm, expected 1 to 500 ppm"),
    ("clock", "tolerance = 2000", "key `clock.tolerance`: found a tolerance of 2000 ppm, expected 0.1 to 1000 ppm"),
    ("clock", 'foreign_step = "undoo"', 'expected "undo" or "correct", did you mean `"undo"`?'),
    ("clock", "leap = 1", "key `clock.leap`: found 1, expected true or false"),
    ("clock", 'leapsectz = "/no/such"', "key `clock.leapsectz`: found /no/such cannot be read: No such file or directory"),
    ("clock", 'leapsectz = "/etc/passwd"', "key `clock.leapsectz`: found /etc/passwd cannot be used: a line"),
    ("clock", 'leapsectz = "no/such"', "key `clock.leapsectz`: found no zone 'no/such' in /usr/share/zoneinfo"),
    ("clock", 'leapsectz = "right/"', "key `clock.leapsectz`: found \"right/\", expected a time zone with leap seconds"),
    ("clock", 'leapsectz = "../x"', "key `clock.leapsectz`: found \"../x\", expected a time zone with leap seconds"),
    ("clock", 'drift_file = "a\\u0000b"', 'key `clock.drift_file`: found "a\\u0000b", expected a file\'s name, or "" for none'),
    ("clock", "min_sources = 0", "key `clock.min_sources`: found 0, expected a whole number from 1 to 1000"),
    ("clock", "min_sources = 3", "key `clock.min_sources`: found 3, expected at most 1: no more sources can be used"),
    ("clock", "max_distance = -1", "key `clock.max_distance`: found a limit of -1 s for the root distance, expected a number of"),
    ("clock", "bootstrap = true", "key `clock.bootstrap`: found true with 1 source that can vote, expected at"),
    ("clock", 'mode = "feed"', 'key `clock.mode`: found "feed", expected a feed: `feed.sock`, `feed.shm` or `feed.ntp.listen`'),
    ("clock", "driftfile = 1", "key `clock.driftfile`: found an unknown key, expected a known one, did you mean `clock.drift_file"),
    ("clock", "maxclockerror = 1", "did you mean `clock.tolerance`?"),
    ("clock", "listen = 1", "key `clock.listen`: found an unknown key, expected a known one, did you mean `feed.ntp.listen`?"),
    ("clock", "qqq = 1", "key `clock.qqq`: found an unknown key, expected mode, makestep, maxchange,"),
    ("clock", '"a\\u001Bb" = 1', 'key `clock."a\\u001Bb"`: found an unknown key, expected mode'),
    ("feed", "sock = [1]", "key `feed.sock`: found 1, expected paths of sockets"),
    ("feed", 'sock = ["/x", "/x"]', "key `feed.sock`: found [\"/x\", \"/x\"], expected paths of sockets, each of them once"),
    ("feed", f'sock = "/{"x" * 107}"', "expected a file's name, of at most 107 bytes"),
    ("feed", f'sock = "/{"é" * 54}"', "expected a file's name, of at most 107 bytes"),
    ("feed", 'sock = ""', "key `feed.sock`: found \"\", expected a file's name"),
    ("feed", "shm = [256]", "key `feed.shm`: found 256, expected units: an array of whole numbers from 0 to 255"),
    ("feed", "shm = true", "key `feed.shm`: found true, expected units of NTP SHM"),
    ("feed", 'segment = "/x/"', "key `feed.segment`: found \"/x/\", expected a file's name"),
    ("feed", "ntp = 3", "key `feed.ntp`: found 3, expected a table: [feed.ntp]"),
    ("feed.ntp", 'listen = "localhost:1"', "key `feed.ntp.listen`: found listen address 'localhost', expected a numeric"),
    ("feed.ntp", "listen = 123", 'key `feed.ntp.listen`: found 123, expected ADDRESS:PORT as text, such as "127.0.0.1:9975"'),
    ("control", 'group = "no such group"', 'key `control.group`: found "no such group", expected a group that exists on'),
    ("control", f'socket = "/{"x" * 107}"', 'expected a file\'s name, or "" for none, of at most 107 bytes'),
    ("metrics", 'listen = "[::%1]:1"', "key `metrics.listen`: found listen address '[::%1]:1', expected an address without a zone"),
    ("log", 'level = "warn"', 'expected "debug", "info", "warning" or "error", did you mean `"warning"`?'),
    ("log", "record_bytes = 1", "key `log.record_bytes`: found 1, expected a whole number from 65536 to"),
    ("feeds", "a = 1", "key `feeds`: found an unknown key, expected a known one, did you mean `feed`?"),
    ("server", "a = 1", "key `server`: found an unknown key, expected a known one, did you mean `[[source]]`?"),
    ("zzzz", "a = 1", "key `zzzz`: found an unknown key, expected a table: [clock], [[source]], [feed],"),
    ("clock.x", "a = 1", "key `clock.x`: found an unknown key, expected mode"),
    ('"clock.mode"', "a = 1", 'key `"clock.mode"`: found an unknown key, expected'),
])
def test_a_mistake_says_where_what_and_what_would_be_right(written, table, line, words):
    (problem,) = problems(written(f"[{table}]\n{line}\n{SOURCE}"))
    at = 1 if table not in TABLES else 2
    assert problem.startswith(f"tsqd.toml:{at}: ")
    assert words in problem
    assert len(problem) < 400


@pytest.mark.parametrize(("line", "words"), [
    ("host = 3", 'key `source.host`: found 3, expected a server: text such as "time.example" or "time.example:443"'),
    ('host = "a:99999"', "key `source.host`: found port '99999', expected a number from 1 to 65535"),
    ('host = "https://a"', "key `source.host`: found host 'https://a', expected HOST, HOST:PORT"),
    ('host = ""', "key `source.host`: found host '', expected HOST"),
    (f'host = "{"x" * 70}.é"', "key `source.host`: found server name"),
])
def test_a_wrong_host_is_one_mistake(written, line, words):
    (problem,) = problems(written(f"[[source]]\n{line}\nprefer = true\n"))
    assert problem.startswith("tsqd.toml:2: ")
    assert words in problem


@pytest.mark.parametrize(("line", "words"), [
    ('pins = ["abc"]', "key `source.pins`: found pinned key 'abc', expected sha256// and the Base64 of 32 bytes"),
    ("pins = 3", "key `source.pins`: found 3, expected an array of texts"),
    ("pins = [3]", "key `source.pins`: found 3, expected pinned keys: an array of texts"),
    ('ca = ""', "key `source.ca`: found \"\", expected a file's name"),
    ('ca = "/no/such"', "key `source.ca`: found CA file /no/such: No such file or directory, expected certificates in PEM form"),
    ("minpoll = 11", "key `source.minpoll`: found 11, expected a whole number from 0 to 10"),
    ("maxpoll = -1", "key `source.maxpoll`: found -1, expected a whole number from 0 to 10"),
    ("prefer = 1", "key `source.prefer`: found 1, expected true or false"),
    ("family = 5", "key `source.family`: found 5, expected 0, 4 or 6"),
    ("timeout = 0", "key `source.timeout`: found timeout 0.0, expected above 0, at most 3600 seconds"),
    ("server_error = 2", "key `source.server_error`: found a server error of 2 s, expected 0 to 1 second"),
    ("pool = true", "key `source.pool`: found true, expected a whole number from 0 to 16"),
    ("pool = 17", "key `source.pool`: found 17, expected a whole number from 0 to 16"),
    ('server_name = ".."', 'key `source.server_name`: found "..", expected the name or address that the certificate must have'),
    ("insecure = true", "key `source.insecure`: found true, so that anyone on the network path could set the clock, expected `ca`"),
    ("iburst = true", "key `source.iburst`: found an unknown key, expected none: every source begins with a burst"),
    ('name = "a"', "key `source.name`: found an unknown key, expected a known one, did you mean `source.host`?"),
    ("port = 4433", 'key `source.port`: found an unknown key, expected the port in `source.host`: "NAME:PORT"'),
    ("minpol = 3", "key `source.minpol`: found an unknown key, expected a known one, did you mean `source.minpoll`?"),
])
def test_a_mistake_in_a_source_says_where_and_what(written, line, words):
    (problem,) = problems(written(f"{SOURCE}{line}\n"))
    assert problem.startswith("tsqd.toml:3: ")
    assert words in problem


@pytest.mark.parametrize(("lines", "line", "words"), [
    (["minpoll = 7", "maxpoll = 6"], 3, "key `source.minpoll`: found 7, expected at most 6, the value of `source.maxpoll`"),
    ([f'pins = ["{PIN}"]', 'ca = "x"'], 3, "key `source.pins`: found together with `source.ca`, expected one of them"),
    (['ca = "x"', "insecure = true", "noselect = true"], 4, "key `source.insecure`: found together with `source.ca`"),
])
def test_keys_that_exclude_each_other_are_named(written, lines, line, words):
    assert any(problem.startswith(f"tsqd.toml:{line}: {words}") for problem in problems(written(SOURCE + "\n".join(lines))))


def test_insecure_sources_need_a_second_key_where_they_could_set_the_clock(written):
    insecure = f"{SOURCE}insecure = true\n"
    assert problems(written(insecure))
    assert not problems(written(f"{insecure}noselect = true\n"))
    assert not problems(written(f'{insecure}[clock]\nmode = "observe"\n'))
    assert not problems(written(f"{insecure}[clock]\nallow_insecure = true\n"))
    feed = '[clock]\nmode = "feed"\n[feed]\nshm = 2\n'
    assert problems(written(insecure + feed))


def test_a_mode_from_elsewhere_counts_in_place_of_the_one_of_the_files(written):
    path = written(f"{SOURCE}insecure = true\n")
    assert load(path, mode=Mode.OBSERVE).clock.settings.mode is Mode.OBSERVE
    path = written(f'{SOURCE}insecure = true\n[clock]\nmode = "observe"\n')
    with pytest.raises(ConfigError, match=r"tsqd.toml:3: key `source.insecure`"):
        load(path, mode=Mode.STEER)
    with pytest.raises(ConfigError, match=r"tsqd.toml: key `clock.mode`: found \"feed\", expected a feed"):
        load(written(SOURCE), mode=Mode.FEED)


def test_a_pool_needs_a_name(written):
    (problem,) = problems(written('[[source]]\nhost = "192.0.2.1"\npool = 4\n'))
    assert "key `source.pool`: found 4 with the address 192.0.2.1, expected a name with addresses" in problem


def test_the_same_server_twice_is_found_across_files(written):
    found = problems(written(SOURCE, b='[[source]]\nhost = "b"\n[[source]]\nhost = "A.example.:443"\n'))
    assert found == ['conf.d/b.toml:4: key `source.host`: found "A.example.:443" twice, expected each server once: it is in '
                     "tsqd.toml:2"]
    assert not problems(written('[[source]]\nhost = "a:1"\n[[source]]\nhost = "a:2"\n', b=""))


@pytest.mark.parametrize(("text", "words"), [
    ("", "tsqd.toml: found no [[source]], expected at least one"),
    ('[source]\nhost = "a"\n', "tsqd.toml:1: key `source`: found one table [source], expected an array of tables: [[source]]"),
    ("source = 3\n", "tsqd.toml:1: key `source`: found 3, expected an array of tables: [[source]]"),
    ("source = [3]\n", "tsqd.toml:1: key `source`: found 3, expected an array of tables: [[source]]"),
    ("[[source]]\nprefer = true\n", "tsqd.toml:1: key `source.host`: not found in this [[source]], expected a name or an address"),
    (f"{SOURCE}\n[[clock]]\n", "tsqd.toml:4: key `clock`: found [a table], expected a table: [clock]"),
    (f"clock = 3\n{SOURCE}", "tsqd.toml:1: key `clock`: found 3, expected a table: [clock]"),
    (f"makestep = [1, 3]\n{SOURCE}", "tsqd.toml:1: key `makestep`: found an unknown key, expected a known one, did you mean "
                                     "`clock.makestep`?"),
])
def test_what_is_missing_or_at_the_wrong_place(written, text, words):
    assert words in problems(written(text))


def test_sources_may_be_written_as_an_array_of_inline_tables(written):
    config = load(written('source = [{host = "a"}, {host = "b", minpoll = 2}]\n'))
    assert [source.settings.min_poll for source in config.sources] == [4, 2]
    (problem,) = problems(written('source = [\n  {host = "a"},\n  {host = "b", minpoll = 12}]\n'))
    assert problem.startswith("tsqd.toml:1: key `source.minpoll`")


def test_all_mistakes_are_reported_in_the_order_of_the_files(written):
    path = written('[clock]\nmode = steer\npanic = -1\n[[source]]\nhost = "b"\nminpoll = 6\nmaxpoll = 5\n[log]\nlevel = 1\n',
                   a="[log]\nlevel = 2\n", b="x\n")
    assert [problem.split(": ")[0] for problem in problems(path)] == [
        "tsqd.toml:2", "tsqd.toml:3", "tsqd.toml:6", "tsqd.toml:9", "conf.d/a.toml:2", "conf.d/b.toml:1"]
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert len(str(caught.value).splitlines()) == 6


def test_a_start_shows_some_mistakes_and_a_check_all(written):
    path = written(SOURCE + "".join(f"zz{number} = 1\n" for number in range(50)))
    with pytest.raises(ConfigError) as caught:
        load(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == MOST_SHOWN + 1
    assert lines[-1] == f"and {50 - MOST_SHOWN} more problems"
    with pytest.raises(ConfigError) as caught:
        load(path, most=None)
    assert len(str(caught.value).splitlines()) == 50


# -------------------------------------------------------------------------------------------------------------- drop-ins


def test_drop_ins_are_read_in_the_order_of_their_names_and_the_last_value_counts(written, tmp_path):
    path = written(f'{SOURCE}[clock]\npanic = 1\nleap = false\n[feed]\nsock = ["/a", "/b"]\n',
                   **{"20": "[clock]\npanic = 3\n", "10": '[clock]\npanic = 2\nrtcsync = false\n[[source]]\nhost = "b"\n',
                      "30": '[feed]\nsock = "/c"\n[[source]]\nhost = "c"\n'})
    (tmp_path / "conf.d" / "notes.txt").write_text("not TOML")
    (tmp_path / "conf.d" / ".hidden.toml").write_text("not TOML")
    config = load(path)
    kept = config.clock.settings
    assert (kept.panic, kept.leap, kept.rtc_sync) == (3.0, False, False)
    assert [source.target.host for source in config.sources] == ["a.example", "b", "c"]
    # An array is one value.
    assert config.feed.sock == ("/c",)
    assert [os.path.basename(file) for file in config.files] == ["tsqd.toml", "10.toml", "20.toml", "30.toml"]


def test_a_description_says_where_each_value_is_from(written, tmp_path):
    path = written(f"{SOURCE}[clock]\npanic = 1\nleap = false\n", b="[clock]\npanic = 2\n", c='\n[[source]]\nhost = "c"\n')
    lines = describe(load(path, mode=Mode.OBSERVE)).replace(f"{tmp_path}/", "").splitlines()
    assert "panic = 2.0  # conf.d/b.toml:2" in lines
    assert "leap = false  # tsqd.toml:5" in lines
    # Neither a default, nor what was given elsewhere.
    assert {"rtcsync = true", 'mode = "observe"'} <= set(lines)
    assert [line for line in lines if line.startswith("[[")] == ["[[source]]  # tsqd.toml:2", "[[source]]  # conf.d/c.toml:3"]


def test_a_relative_path_is_under_the_directory_of_its_own_file(written, tmp_path):
    config = load(written(SOURCE, b='[clock]\ndrift_file = "x"\n'))
    assert config.clock.drift_file == str(tmp_path / "conf.d" / "x")


def test_another_drop_in_directory_or_none(written, tmp_path):
    path = written(SOURCE, b="[clock]\npanic = 2\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "c.toml").write_text("[clock]\npanic = 3\n")
    assert load(path).clock.settings.panic == 2.0
    assert load(path, conf_d=str(tmp_path / "other")).clock.settings.panic == 3.0
    assert load(path, conf_d="").clock.settings.panic == 1000.0
    with pytest.raises(ConfigError, match="/no/such: cannot be read: No such file or directory"):
        load(path, conf_d="/no/such")


def test_a_missing_configuration_is_told_with_what_to_do():
    with pytest.raises(ConfigError, match=r"/no/such: cannot be read: No such file or directory: write it .*name another file$"):
        load("/no/such")


def test_a_wrong_value_is_reported_even_if_a_later_file_replaces_it(written):
    assert problems(written(f"{SOURCE}[clock]\npanic = -1\n", b="[clock]\npanic = 3\n"))


# -------------------------------------------------------------------------------------------------------------- bad files


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path, words in [(tmp_path / "none.toml", "No such file"), (tmp_path, "Is a directory"), (Path("/dev/zero"), "device")]:
        with pytest.raises(ConfigError) as caught:
            load(str(path), conf_d="")
        assert str(path) in str(caught.value)
        assert words in str(caught.value)
    with pytest.raises(ConfigError, match="null"):
        load("a\0b")


def test_a_fifo_does_not_stop_the_daemon(tmp_path):
    os.mkfifo(tmp_path / "tsqd.toml")
    with pytest.raises(ConfigError, match="not a regular file"):
        load(str(tmp_path / "tsqd.toml"))


def test_bytes_that_are_not_utf_8_have_their_line(tmp_path):
    path = tmp_path / "tsqd.toml"
    path.write_bytes(b'# \xc3\xa9\n[clock]\nmode = "\xff"\n')
    assert "tsqd.toml:3: not TOML: found a byte that is not UTF-8 (0xff), expected UTF-8" in problems(str(path))


def test_a_file_that_is_too_large_is_named(tmp_path):
    (tmp_path / "tsqd.toml").write_text(SOURCE + "#\n" * (1 << 19))
    (problem,) = problems(str(tmp_path / "tsqd.toml"))
    assert problem == f"tsqd.toml: found {len(SOURCE) + (1 << 20)} bytes, expected at most 1048576"


def test_a_byte_order_mark_is_allowed(tmp_path):
    path = tmp_path / "tsqd.toml"
    path.write_bytes(b"\xef\xbb\xbf" + SOURCE.encode())
    assert not problems(str(path))


def test_a_file_with_an_odd_name_is_named_without_control_characters(tmp_path):
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "tsqd.toml").write_text(SOURCE)
    with open(os.fsencode(tmp_path / "conf.d") + b"/\x1b[2J\xff.toml", "w") as file:
        file.write("x")
    (problem,) = problems(str(tmp_path / "tsqd.toml"))
    assert problem.startswith("conf.d/\\u001B[2J\\\\xff.toml:1: ")
    assert problem.isprintable()


# ------------------------------------------------------------------------------------------------------------------ fuzz

WORDS = sorted({*(key.name for key in KEYS), *TABLES, "host", "steer", "x", "a.b", "[[source]]\nhost = \"a\"\n"})
TEXTS = st.text(max_size=8) | st.sampled_from([*WORDS, PIN, "127.0.0.1:1", "é" * 80])
VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(), TEXTS), lambda inner: st.lists(inner, max_size=4), max_leaves=6,
)


@st.composite
def almost_right(draw):
    """A file with keys of ours, most of them with values of any type."""
    lines = [SOURCE] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 6))):
        table = draw(st.sampled_from([*TABLES, "x"]))
        lines.append(f"[[{table}]]" if table == "source" or draw(st.integers(0, 9)) == 0 else f"[{table}]")
        known = [key for key in KEYS if key.table == table] or list(KEYS)
        for key in draw(st.lists(st.sampled_from(known), max_size=4)):
            value = draw(st.one_of(VALUES, st.just(key.default)))
            lines.append(f"{key.name} = {toml('' if value is None else value)}")
    return "\n".join(lines)


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "tsqd.toml"


def check(path: Path) -> None:
    """A configuration that describes itself, or a ConfigError with a file in each line."""
    try:
        config = load(str(path), most=None)
    except ConfigError as error:
        for line in str(error).splitlines():
            assert line.startswith(f"{path}:")
            assert line.isprintable()
            assert len(line) < len(str(path)) + 500
        return
    path.write_text(describe(config), encoding="utf-8")
    again = load(str(path))
    assert describe(replace(again, origins=())) == describe(replace(config, origins=()))


@given(data=st.binary(max_size=300))
@settings(max_examples=300)
def test_no_bytes_raise_anything_else(scratch, data):
    scratch.write_bytes(data)
    check(scratch)


@given(text=st.lists(st.sampled_from([*'[]{}"\'=#.,\n\t -+1e:_\\', *WORDS]), max_size=60).map("".join))
@settings(max_examples=300)
def test_no_text_of_keys_and_signs_raises_anything_else(scratch, text):
    scratch.write_text(text, encoding="utf-8")
    check(scratch)


@given(text=almost_right())
@settings(max_examples=300)
def test_no_values_raise_anything_else(scratch, text):
    scratch.write_text(text, encoding="utf-8")
    check(scratch)


@given(text=almost_right(), at=st.integers(0, 400), inserted=st.text(st.sampled_from('[]{}"\'=#.\n\r\x00é'), max_size=3))
@settings(max_examples=200)
def test_no_damage_raises_anything_else(scratch, text, at, inserted):
    scratch.write_text(text[:at] + inserted + text[at + 1:], encoding="utf-8", newline="")
    check(scratch)
