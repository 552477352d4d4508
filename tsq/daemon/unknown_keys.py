"""What to say of a key that does not exist: the one that was probably meant.

Comes in: a key with its tables. Goes out: one line for a person. It must never accept a key.
"""

from tsq.daemon.keys import BY_PATH, KEYS, TABLES, near
from tsq.daemon.toml_lines import dotted

# What other programs call it.
_OTHER_NAMES = {
    "server": "source",
    "peer": "source",
    "pool": "source.pool",
    "address": "source.host",
    "name": "source.host",
    "driftfile": "clock.drift_file",
    "maxclockerror": "clock.tolerance",
    "leapsecmode": "clock.leap",
    "step_threshold": "clock.makestep",
    "cert": "source.ca",
    "pin": "source.pins",
    "cmdallow": "control.group",
    "bindcmdaddress": "control.socket",
    "refclock": "feed.sock",
    "port": "feed.ntp.listen",
}
_NEEDLESS = {
    "iburst": "every source begins with a burst",
    "burst": "every poll is a pair of requests",
    "nts": "all of TSQ is authenticated and encrypted",
    "key": "all of TSQ is authenticated and encrypted",
    "xleave": "servers report exact transmit times wherever they can",
    "online": "sources are online unless they have `offline = true`",
}


def unknown_key(path: tuple[str, ...]) -> str:
    """What to say of a key that does not exist."""
    table, name = ".".join(path[:-1]), path[-1]
    siblings = [key.name for key in KEYS if key.table == table]
    meant = ""
    if path == ("source", "port"):
        return 'key `source.port`: found an unknown key, expected the port in `source.host`: "NAME:PORT"'
    if name in _NEEDLESS:
        return f"key `{dotted(path)}`: found an unknown key, expected none: {_NEEDLESS[name]}"
    if match := near(name, tuple(siblings), 0.7):
        meant = f"{table}.{match}"
    elif name.lower() in _OTHER_NAMES:
        meant = _OTHER_NAMES[name.lower()]
    elif match := near(name, tuple(part for part in TABLES if "." not in part), 0.7):
        meant = match
    elif match := near(name, tuple(key.name for key in KEYS), 0.75):
        meant = next(key.path for key in KEYS if key.name == match)
    elif match := near(".".join(path), tuple(BY_PATH), 0.75):
        meant = match
    text = f"key `{dotted(path)}`: found an unknown key"
    if meant:
        return f"{text}, expected a known one, did you mean `{'[[source]]' if meant == 'source' else meant}`?"
    known = ", ".join(siblings) if siblings else "a table: [clock], [[source]], [feed], [feed.ntp], [control], [metrics] or [log]"
    return f"{text}, expected {known}"
