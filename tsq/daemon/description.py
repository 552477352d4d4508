"""A configuration as TOML with every key, its default or its value, and where that is from.

Comes in: a `Config`. Goes out: text that `config_file.load` reads as the same configuration. It must never leave a key out.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from tsq.daemon.config import Config, SourceConfig
from tsq.daemon.keys import KEYS, TABLES
from tsq.daemon.toml_lines import file_name, quoted


def describe(config: Config) -> str:
    """The configuration with every key, as TOML that `load` reads; as comments, keys without a value, and where a value is from."""
    origins = dict(config.origins)
    lines = [f"# From {', '.join(map(file_name, config.files))}"] if config.files else []
    for table in TABLES:
        if table != "source":
            lines += ["", f"[{table}]", *_keys(table, config, origins)]
            continue
        for source in config.sources:
            origin = origins.get(str(source.target))
            lines += ["", f"[[source]]{_comment(origin)}", *_keys(table, source, {})]
    return "\n".join(lines).lstrip("\n") + "\n"


def _keys(table: str, config: Config | SourceConfig, origins: Mapping[str, str]) -> Iterator[str]:
    for key in KEYS:
        if key.table == table:
            value = key.of(config)
            origin = origins.get(key.path)
            yield f"# {key.name} is not set" if value is None else f"{key.name} = {toml(value)}{_comment(origin)}"


def _comment(origin: str | None) -> str:
    return "" if origin is None else f"  # {origin}"


def toml(value: Any) -> str:
    """A key's value as TOML writes it."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(toml(one) for one in value)}]"
    # TOML's numbers are Python's, `inf` and `nan`, too.
    return repr(value)
