"""The documentation of the configuration is that of the code: tables of keys, examples, chrony's directives."""

import gzip
import re
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from tests.test_docs import blocks, code, rows, section
from tsq.cli import control as control_command
from tsq.daemon.config_file import load, read
from tsq.daemon.description import toml
from tsq.daemon.keys import BY_PATH, KEYS, TABLES
from tsq.host.key_files import write_key
from tsq.wire.keys import make_key

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "tsqd.md"
EXAMPLE = ROOT / "contrib" / "tsqd.toml"


def heading(table: str) -> str:
    return "## [[source]]" if table == "source" else f"## [{table}]"


@pytest.mark.parametrize("table", TABLES)
def test_the_tables_of_keys_are_those_of_the_code(table):
    documented = [row[:3] for row in rows(section(PAGE, heading(table)))]
    expected = []
    for key in KEYS:
        if key.table == table:
            kind = re.sub(r'"\w+"', r"`\g<0>`", key.kind.name)
            expected.append([f"`{key.name}`", kind, "" if key.default is None else f"`{toml(key.default)}`"])
    assert documented == expected
    assert all(len(row[3]) > 10 for row in rows(section(PAGE, heading(table))))


def test_every_table_has_a_section_in_their_order():
    found = [line for line in PAGE.read_text().splitlines() if line.startswith("## [")]
    assert found == [heading(table) for table in TABLES]


def test_keys_that_the_page_names_exist():
    names = {key.name for key in KEYS}
    for span in code(PAGE.read_text()):
        if re.fullmatch(r"(?:clock|source|feed|control|metrics|log)\.[\w.]+", span) and span != "clock.driftfile":
            assert span in BY_PATH, span
        elif re.fullmatch(r"\w+ = .*", span):
            assert span.split()[0] in names, span


def test_the_mistakes_that_the_page_shows_are_those_that_are_reported(tmp_path):
    path = tmp_path / "tsqd.toml"
    path.write_text('[clock]\nmode = "stear"\ndriftfile = "x"\npanic = -1\n\n[[source]]\nhost = "a"\n\nminpoll = 7\nmaxpoll = 6\n')
    _, problems = read(str(path))
    (shown,) = [block.text for block in blocks(PAGE, "") if "key `clock.mode`" in block.text]
    assert [str(problem).replace(str(path), "/etc/tsq/tsqd.toml") for problem in problems] == shown.splitlines()


# ntpd-rs is configured in TOML, too.
NTPD_RS = re.compile(r'^mode = "(?:server|sock|pool|nts)"|^\[synchronization\]', re.MULTILINE)
WITH_TOML = sorted(page for page in (ROOT / "docs").rglob("*.md") if blocks(page, "toml"))


@pytest.mark.parametrize("page", WITH_TOML, ids=lambda page: page.stem)
def test_configurations_in_the_documentation_are_right(page, tmp_path, certificates):
    for number, block in enumerate(blocks(page, "toml")):
        if NTPD_RS.search(block.text):
            continue
        directory = tmp_path / str(number)
        (directory / "lab").mkdir(parents=True)
        (directory / "lab" / "ca.pem").write_bytes(certificates.authority.read_bytes())
        write_key(str(directory / "lab" / "time"), make_key("ed25519"))
        path = directory / "tsqd.toml"
        # A part of a configuration has no source.
        path.write_text(block.text if "[[source]]" in block.text else f'{block.text}\n[[source]]\nhost = "other.example"\n')
        load(str(path))


def test_the_example_is_right_as_it_is_and_with_all_that_is_commented_out(tmp_path, certificates):
    config = load(str(EXAMPLE))
    assert len(config.sources) == 4
    text = re.sub(r"^# (?=\[|\w+ = )", "", EXAMPLE.read_text(), flags=re.MULTILINE)
    (tmp_path / "ca.pem").write_bytes(certificates.authority.read_bytes())
    text = text.replace("/etc/tsq/lab-ca.pem", str(tmp_path / "ca.pem")).replace('mode = "steer"', 'mode = "feed"')
    path = tmp_path / "tsqd.toml"
    path.write_text(text)
    config = load(str(path))
    assert len(config.sources) == 6
    assert config.clock.bootstrap
    assert config.feed.ntp
    assert config.metrics.listen
    assert config.log.record
    # Nothing in the file is the word of a key that does not exist any more.
    assert set(tomllib.loads(text)) == {"source", "clock", "feed", "control", "metrics", "log"}


# ------------------------------------------------------------------------------------------------------- moving from chrony
CHRONY = ROOT / "docs" / "howto" / "move-from-chrony.md"
COMMANDS = Path("/usr/share/man/man1/chronyc.1.gz")
MANUAL = Path("/usr/share/man/man5/chrony.conf.5.gz")


def directives() -> dict[str, list[str]]:
    """chrony.conf's directives with their options, as its manual page has them."""
    text = gzip.decompress(MANUAL.read_bytes()).decode()
    lines = text.partition('\n.SH "DIRECTIVES"')[2].partition('\n.SH "EXAMPLES"')[0].splitlines()
    found: dict[str, list[str]] = {}
    depth, directive = 0, ""
    for line, following in pairwise(lines):
        depth += line.startswith(".RS") - line.startswith(".RE")
        # A directive, or an option, is a bold word that an indented text follows.
        if following.startswith(".RS") and (match := re.match(r"\\fB(\w+)\\fP(?: |,|$)", line)):
            if depth == 0:
                directive = match[1]
                found.setdefault(directive, [])
            elif depth == 1:
                found[directive].append(match[1])
    return found


def translated(*headings: str) -> list[str]:
    return [name for heading in headings for row in rows(section(CHRONY, heading)) for name in code(row[0])]


def test_every_directive_of_the_installed_chrony_is_translated():
    manual = directives()
    assert len(manual) > 80
    page = translated(*(f"## Directives: {part}" for part in ("sources", "the clock", "serving time", "operation")))
    assert sorted(page) == sorted(manual)
    assert sorted(translated("## Sources: options of server and pool")) == sorted(manual["server"] + manual["pool"])
    (modes,) = [row[2] for row in rows(section(CHRONY, "## Directives: the clock")) if row[0] == "`leapsecmode`"]
    assert set(manual["leapsecmode"]) <= set(code(modes))


def test_every_translation_is_a_key_or_says_that_there_is_none_and_why():
    for row in rows(CHRONY.read_text().partition("\n## chronyc\n")[0]):
        keys = code(row[1])
        assert all(key in BY_PATH for key in keys), row
        assert keys or row[1] in ("always", "not there"), row
        assert row[1] != "not there" or row[2] or row[0] == "`logbanner`", row
        for span in code(row[2]):
            if re.fullmatch(r"(?:clock|source|feed|control|metrics|log)\.[\w.]+", span):
                assert span in BY_PATH, row


def test_the_configuration_that_is_translated_is_one_that_chronyd_reads(tmp_path):
    (block,) = blocks(CHRONY, "chrony")
    (tmp_path / "chrony.conf").write_text(f"{block.text}\n")
    command = ["chronyd", "-p", "-f", str(tmp_path / "chrony.conf")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == block.text.split()


def test_the_translated_configuration_says_the_same(tmp_path):
    chrony, ours = blocks(CHRONY, "chrony")[0].text, blocks(CHRONY, "toml")[0].text
    (tmp_path / "tsqd.toml").write_text(ours)
    config = load(str(tmp_path / "tsqd.toml"))
    hosts = re.findall(r"^(?:server|pool) (\S+)", chrony, re.MULTILINE)
    assert [source.target.host for source in config.sources] == hosts
    kept = config.clock.settings
    assert kept.makestep is not None
    assert kept.maxchange is not None
    step, change = kept.makestep, kept.maxchange
    assert f"makestep {step.threshold:g} {step.updates}\n" in chrony
    assert f"maxchange {change.offset:g} {change.start} {change.ignore}\n" in chrony
    assert f"minsources {kept.criteria.min_sources}\n" in chrony
    assert f"leapsectz {config.clock.leapsectz}\n" in chrony
    assert f"maxdistance {kept.criteria.max_distance}\n" in chrony
    assert f"maxsources {config.sources[3].pool}\n" in chrony
    assert f"minpoll {config.sources[1].settings.min_poll} maxpoll {config.sources[1].settings.max_poll}\n" in chrony
    assert config.sources[2].settings.no_select


def test_chronyc_s_commands_are_translated_to_commands_that_exist():
    manual = gzip.decompress(COMMANDS.read_bytes()).decode().replace("\\-", "-")
    for row in rows(section(CHRONY, "## chronyc")):
        for name in code(row[0]):
            assert re.search(rf"^\\fB{name}\\fP", manual, re.MULTILINE), name
        assert set(code(row[1])) <= set(control_command._COMMANDS), row
        assert code(row[1]) or row[1] == "not there", row
