"""The daemon's configuration from TOML: one file, then those of its drop-in directory (docs/reference/tsqd.md).

Comes in: a path. Goes out: a `Config` that is right, or a ConfigError with one line for each problem: file, line, key, what was
found, what was expected. It must never change anything, or let a file raise anything else.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from tsq.daemon.config import Config, NtpServerConfig, SourceConfig
from tsq.daemon.keys import BY_PATH, TABLES, Key
from tsq.daemon.toml_lines import Document, Path, file_name, read_toml, shown
from tsq.daemon.unknown_keys import unknown_key
from tsq.discipline.settings import DEFAULT_MIN_POLL, Mode
from tsq.errors import ConfigError
from tsq.options import Target, Trust
from tsq.quic.certificates.reading import read_whole
from tsq.quic.tls import check_trust, trust_identity
from tsq.wording import counted

if TYPE_CHECKING:
    from tsq.wire.signature import Verifier

DROP_INS = "conf.d"
# A daemon that does not start shows so many problems; a check shows all.
MOST_SHOWN = 20
_MOST_FILES = 1000
_MOST_TEXT = 200
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong in a file. line: None where it is the file as a whole."""

    file: str
    line: int | None
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.text}" if self.line is None else f"{self.file}:{self.line}: {self.text}"


def load(path: str, *, conf_d: str | None = None, mode: Mode | None = None, most: int | None = MOST_SHOWN) -> Config:
    """The configuration in a file and in the `*.toml` of its drop-in directory, in the order of their names.

    conf_d: that directory; None: conf.d beside the file, if it is there; empty: none. Tables merge, `[[source]]` tables append, and
    of a key that several files have, the last one counts. mode: in place of the one that the files have. most: how many problems
    the error has at most; None: all of them.
    """
    config, problems = read(path, conf_d=conf_d, mode=mode)
    if config is None:
        lines = [str(problem) for problem in problems[:most]]
        if len(problems) > len(lines):
            lines.append(f"and {len(problems) - len(lines)} more problems")
        raise ConfigError("\n".join(lines))
    return config


def read(path: str, *, conf_d: str | None = None, mode: Mode | None = None) -> tuple[Config | None, tuple[Problem, ...]]:
    """The configuration, None if there are problems; and all problems of all files."""
    reader = _Files()
    for file in _files(path, conf_d, reader.problems):
        reader.add(file)
    if mode is not None:
        reader.override("clock.mode", mode, file_name(path))
    config = reader.config()
    order = {name: number for number, name in reversed(list(enumerate(problem.file for problem in reader.problems)))}
    problems = sorted(reader.problems, key=lambda problem: (order[problem.file], problem.line or 0))
    return (None if problems else config), tuple(problems)


def _files(path: str, conf_d: str | None, problems: list[Problem]) -> list[str]:
    """The files to read, in their order."""
    found = [path]
    directory = os.path.join(os.path.dirname(os.path.abspath(path)), DROP_INS) if conf_d is None else conf_d
    if not directory:
        return found
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".toml") and not name.startswith("."))
    except (OSError, ValueError) as error:
        if conf_d is not None or not isinstance(error, FileNotFoundError):
            problems.append(Problem(file_name(directory), None, f"cannot be read: {_why(error)}"))
        return found
    if len(names) > _MOST_FILES:
        problems.append(Problem(file_name(directory), None, f"found {len(names)} files, expected {_MOST_FILES} at the most"))
        return found
    return found + [os.path.join(directory, name) for name in names]


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 1]}…"


@dataclass(frozen=True, slots=True)
class _Found:
    """A key's value in a file. raw: as TOML has it."""

    value: Any
    raw: Any
    file: str
    line: int | None

    @property
    def origin(self) -> str:
        """Where it is."""
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(slots=True)
class _Table:
    """One `[[source]]`. wrong: a key of it was reported already."""

    file: str
    line: int | None
    keys: dict[str, _Found] = field(default_factory=dict)
    wrong: bool = False

    def value(self, path: str, default: Any) -> Any:
        found = self.keys.get(path)
        return default if found is None else found.value


class _Files:
    """What several files say together, and what is wrong with it."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._files: list[str] = []
        self._keys: dict[str, _Found] = {}
        self._sources: list[_Table] = []
        self._trusts: dict[Any, tuple[Trust, str]] = {}

    # ------------------------------------------------------------------------------------------------- file by file

    def add(self, path: str) -> None:
        """Read one more file; its keys replace those of the files before it."""
        file = file_name(path)
        try:
            content, _ = read_whole(path)
            if len(content) > _MOST_BYTES:
                self._report(file, None, f"found {len(content)} bytes, expected at most {_MOST_BYTES}")
                return
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            self._report(
                file, line, f"not TOML: found a byte that is not UTF-8 (0x{error.object[error.start]:02x}), expected UTF-8"
            )
            return
        except (OSError, ValueError) as error:
            missing = isinstance(error, FileNotFoundError)
            advice = ": write it (contrib/tsqd.toml is an example), or name another file" if missing else ""
            self._report(file, None, f"cannot be read: {_why(error)}{advice}")
            return
        self._files.append(path)
        document = read_toml(text)
        for line, problem in document.problems:
            self._report(file, line, problem)
        self._read(document.values, (), document, path, None)

    def override(self, key: str, value: Any, file: str) -> None:
        """Take this value, whatever the files have. file: what problems with it are reported for."""
        self._keys[key] = _Found(value, value, file, None)

    def _report(self, file: str, line: int | None, text: str) -> None:
        self.problems.append(Problem(file, line, text))

    def _wrong(self, key: str, found: _Found, text: str) -> None:
        """Report a key whose value does not fit to other keys."""
        self._report(found.file, found.line, f"key `{key}`: {text}")

    def _read(self, values: Mapping[str, Any], path: Path, document: Document, base: str, source: _Table | None) -> None:
        """Read a table and what is in it. path: where it is; source: if it is a [[source]]."""
        file = file_name(base)
        for name, value in values.items():
            here = (*path, name)
            plain = tuple(part for part in here if isinstance(part, str))
            line = document.lines.get(here)
            full = ".".join(plain)
            # A quoted key with a dot in it is none of ours.
            known = "." not in name
            if known and full == "source":
                self._read_sources(value, document, base)
            elif known and any(table == full or table.startswith(f"{full}.") for table in TABLES):
                if isinstance(value, dict):
                    self._read(value, here, document, base, None)
                else:
                    self._report(file, line, f"key `{full}`: found {shown(value)}, expected a table: [{full}]")
            elif known and full in BY_PATH:
                found = self._value(BY_PATH[full], value, base, line)
                if found is None and source is not None:
                    source.wrong = True
                elif found is not None:
                    (self._keys if source is None else source.keys)[full] = found
            else:
                self._report(file, line, unknown_key(plain))

    def _read_sources(self, value: Any, document: Document, base: str) -> None:
        file = file_name(base)
        tables = value if isinstance(value, list) else [value]
        for number, table in enumerate(tables):
            line = document.lines.get(("source", number), document.lines.get(("source",)))
            if not isinstance(value, list) or not isinstance(table, dict):
                what = "one table [source]" if isinstance(value, dict) else shown(table)
                self._report(file, line, f"key `source`: found {what}, expected an array of tables: [[source]]")
                continue
            source = _Table(file, line)
            self._sources.append(source)
            self._read(table, ("source", number), document, base, source)

    def _value(self, key: Key, raw: Any, base: str, line: int | None) -> _Found | None:
        """A key's value; None where it is wrong."""
        file = file_name(base)
        try:
            return _Found(key.kind.read(raw, os.path.dirname(os.path.abspath(base))), raw, file, line)
        except ConfigError as error:
            meant = f", did you mean `{error.advice}`?" if error.advice else ""
            found = _cut(error.found or shown(raw))
            self._report(file, line, f"key `{key.path}`: found {found}, expected {error.expected}{meant}")
            return None

    # ------------------------------------------------------------------------------------------------- all files together

    def config(self) -> Config:
        """All of it, as far as it is right. Reports what does not fit together."""
        sources = [source for source in map(self._source, self._sources) if source is not None]
        self._check_duplicates()
        if not self._sources and not self.problems:
            self._report(file_name(self._files[0]), None, "found no [[source]], expected at least one")
        config: Config = _built(Config(), {BY_PATH[path].field: found.value for path, found in self._keys.items()})
        hosts = [table.keys["source.host"] for table in self._sources if "source.host" in table.keys]
        named = [*self._keys.items(), *((str(host.value), host) for host in hosts)]
        origins = tuple((name, found.origin) for name, found in named if found.line is not None)
        config = replace(config, sources=tuple(sources), files=tuple(self._files), origins=origins)
        if not self.problems:
            self._check_counts(config)
            self._check_feeds(config)
        return config

    def _get(self, path: str, default: Any) -> Any:
        found = self._keys.get(path)
        return default if found is None else found.value

    def _source(self, table: _Table) -> SourceConfig | None:
        if "source.host" not in table.keys:
            if not table.wrong:
                self._report(
                    table.file, table.line, "key `source.host`: not found in this [[source]], expected a name or an address"
                )
            return None
        before = len(self.problems)
        self._check_source(table)
        trust, signers = self._trust(table), self._signers(table)
        if len(self.problems) > before or trust is None or signers is None:
            return None
        values = {BY_PATH[path].field: found.value for path, found in table.keys.items()}
        for path in ("source.ca", "source.pins", "source.insecure"):
            values.pop(BY_PATH[path].field, None)
        values["client.trust"], values["authorities"] = trust
        values["verifier"], values["signers"] = signers
        # One lower limit for both, unless the file has the other one, too.
        values.setdefault("settings.min_poll", min(DEFAULT_MIN_POLL, values.get("settings.max_poll", DEFAULT_MIN_POLL)))
        if "settings.server_error" in values:
            values["client.server_error"] = values["settings.server_error"]
        built: SourceConfig = _built(SourceConfig(values.pop("target")), values)
        return built

    def _check_source(self, table: _Table) -> None:
        keys = table.keys
        # Empty pins are no trust, nor is `insecure = false`.
        given = [path for path in ("source.ca", "source.pins", "source.insecure") if table.value(path, None)]
        if len(given) > 1:
            self._wrong(given[-1], keys[given[-1]], f"found together with `{given[0]}`, expected one of them")
        low, high = keys.get("source.minpoll"), keys.get("source.maxpoll")
        if low is not None and high is not None and low.value > high.value:
            self._wrong("source.minpoll", low, f"found {low.value}, expected at most {high.value}, the value of `source.maxpoll`")
        host, pool = keys["source.host"], keys.get("source.pool")
        if pool is not None and pool.value and _is_address(host.value):
            self._wrong(
                "source.pool", pool, f"found {pool.value} with the address {host.value.host}, expected a name with addresses"
            )
        harmless = self._get("clock.mode", Mode.STEER) is Mode.OBSERVE or table.value("source.noselect", False)
        if table.value("source.insecure", False) and not harmless and not self._get("clock.allow_insecure", False):
            text = "found true, so that anyone on the network path could set the clock"
            expected = "`ca` or `pins`, or `noselect = true`, or `allow_insecure = true` in [clock]"
            self._wrong("source.insecure", keys["source.insecure"], f"{text}, expected {expected}")

    def _trust(self, table: _Table) -> tuple[Trust, str] | None:
        """Whom this source trusts, and what identifies them; None if its files cannot be used. Equal ones are read once."""
        ca, pins, insecure = (table.value(path, None) for path in ("source.ca", "source.pins", "source.insecure"))
        parts = (ca, pins or (), bool(insecure))
        if parts in self._trusts:
            return self._trusts[parts]
        try:
            trust = Trust(ca_file=ca, pins=parts[1], insecure=parts[2])
        except ConfigError:
            # Reported as keys that exclude each other.
            return None
        try:
            check_trust(trust)
            identity = trust_identity(trust)
        except ConfigError as error:
            where = table.keys.get("source.ca", table.keys["source.host"])
            expected = error.expected or "a file of certificates in PEM"
            self._wrong("source.ca", where, _cut(f"found {error.found}") + f", expected {expected}")
            return None
        self._trusts[parts] = trust, identity
        return trust, identity

    def _signers(self, table: _Table) -> tuple["Verifier | None", str] | None:
        """What checks this source's signatures, and what identifies its keys; None if they cannot be used."""
        required, files = table.value("source.require_signature", False), table.value("source.verify_key", ())
        if table.wrong:
            # One of them was reported already, perhaps.
            return None
        if required != bool(files):
            path, other = ("source.require_signature", "verify_key") if required else ("source.verify_key", "require_signature")
            expected = "both" if required else "both, `require_signature = true`"
            self._wrong(path, table.keys[path], f"found without `{other}`, expected {expected}")
            return None
        if not required:
            return None, ""
        # Some megabytes of modules that a daemon without it does without.
        from tsq.host.key_files import load_verifier, verifier_identity  # noqa: PLC0415

        try:
            verifier = load_verifier(files)
        except ConfigError as error:
            found = table.keys["source.verify_key"]
            self._wrong(
                "source.verify_key", found, _cut(f"found {error.found}") + f", expected {error.expected or 'a file of keys'}"
            )
            return None
        return verifier, verifier_identity(verifier)

    def _check_duplicates(self) -> None:
        seen: dict[tuple[str, int], _Found] = {}
        for table in self._sources:
            host = table.keys.get("source.host")
            if host is None:
                continue
            # A name's final dot and its letters' case do not make another server.
            identity = (host.value.host.rstrip(".").casefold(), host.value.port)
            if identity in seen:
                first = seen[identity]
                self._wrong(
                    "source.host",
                    host,
                    f"found {shown(host.raw)} twice, expected each server once: it is in {first.origin}",
                )
            else:
                seen[identity] = host

    def _check_counts(self, config: Config) -> None:
        """Whether there are enough sources for what is required of them."""
        usable = sum(max(1, source.pool) for source in config.sources if not source.settings.no_select)
        required = self._keys.get("clock.min_sources")
        if required is not None and required.value > usable:
            self._wrong(
                "clock.min_sources", required, f"found {required.value}, expected at most {usable}: no more sources can be used"
            )
        bootstrap, signed = self._keys.get("clock.bootstrap"), self._keys.get("clock.bootstrap_signed")
        only_signed = signed is not None and signed.value
        if bootstrap is None or not bootstrap.value:
            if signed is not None and only_signed:
                self._wrong("clock.bootstrap_signed", signed, "found true, expected `bootstrap = true` with it")
            return
        # A megabyte of modules that a daemon without it does without.
        from tsq.oneshot.bootstrap import LEAST_SERVERS  # noqa: PLC0415

        # A pool is one vote there, and a source without a check of its certificate none.
        voting = sum(source.votes_at_start and (source.require_signature or not only_signed) for source in config.sources)
        if voting < LEAST_SERVERS:
            what = f"{counted(voting, 'source')} {'with `require_signature`' if only_signed else 'that can vote'}"
            text = f"found true with {what}, expected at least {LEAST_SERVERS} for a majority"
            by, found = ("clock.bootstrap_signed", signed) if only_signed and signed else ("clock.bootstrap", bootstrap)
            self._wrong(by, found, text)

    def _check_feeds(self, config: Config) -> None:
        """Whether another daemon is given anything, where it shall keep the clock."""
        mode, feed = self._keys.get("clock.mode"), config.feed
        if mode is not None and mode.value is Mode.FEED and not (feed.sock or feed.shm or feed.ntp):
            self._wrong("clock.mode", mode, 'found "feed", expected a feed: `feed.sock`, `feed.shm` or `feed.ntp.listen`')


def _is_address(target: Target) -> bool:
    try:
        ip_address(target.host)
    except ValueError:
        return False
    return True


def _built(base: Any, values: Mapping[str, Any]) -> Any:
    """A value with some of its fields replaced, at any depth. values: by the names of fields, with dots between them."""
    direct: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        first, _, rest = name.partition(".")
        if rest:
            inner.setdefault(first, {})[rest] = value
        else:
            direct[first] = value
    for name, within in inner.items():
        below = direct.get(name, getattr(base, name))
        if below is None:
            # [feed.ntp], which is nothing without its only key.
            listen = within["listen"]
            direct[name] = None if listen is None else NtpServerConfig(listen)
        else:
            direct[name] = _built(below, within)
    return replace(base, **direct)
