"""What an operator says about a server, as Metadata (docs/reference/protocol.md, R14): pairs such as site = us-east.

Comes in: KEY=VALUE, pairs from a program, the pairs of a response. Goes out: a Metadata TLV in canonical order, or ConfigError; the
pairs for people. It must never let an operator set a key of the protocol, nor pairs that do not fit into one TLV.
"""

from collections.abc import Mapping

from tsq.errors import ConfigError
from tsq.wire.message import Tlv, metadata_tlv
from tsq.wire.tlv import MAX_VALUE_SIZE

# R12: keys of the protocol itself.
RESERVED = "tsq."


def parse_pair(text: str) -> tuple[str, str]:
    """(key, value) of KEY=VALUE; the first = ends the key. Raises ConfigError."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"metadata {text!r}", expected="KEY=VALUE, such as site=us-east")
    _check(key, value)
    return key, value


def annotations_tlv(pairs: Mapping[str, str]) -> tuple[Tlv, ...]:
    """These pairs as one TLV; no TLV where there are none. Raises ConfigError."""
    if not isinstance(pairs, Mapping):
        raise ConfigError(f"metadata {pairs!r}", expected="a mapping from text to text, such as {'site': 'us-east'}")
    for key, value in pairs.items():
        _check(key, value)
    size = sum(2 + len(key.encode()) + len(value.encode()) for key, value in pairs.items())
    if size > MAX_VALUE_SIZE:
        raise ConfigError(
            f"metadata of {size} bytes",
            expected=f"at most {MAX_VALUE_SIZE} bytes in all: of each pair the key, the value, and two bytes for their lengths",
        )
    return (metadata_tlv(pairs),) if pairs else ()


def annotations(metadata: Mapping[str, str]) -> dict[str, str]:
    """The pairs of a response that are not the protocol's own."""
    return {key: value for key, value in metadata.items() if not key.startswith(RESERVED)}


def _check(key: object, value: object) -> None:
    if not isinstance(key, str) or not isinstance(value, str):
        raise ConfigError(f"metadata {key!r}: {value!r}", expected="text for both")
    if not key or "=" in key or not _plain(key):
        raise ConfigError(f"metadata key {key!r}", expected="one or more characters that can be printed, without =")
    if key.startswith(RESERVED):
        raise ConfigError(f"metadata key {key!r}", expected=f"another one: keys that begin with {RESERVED} are the protocol's own")
    if not _plain(value):
        raise ConfigError(f"metadata value {value!r} of the key {key!r}", expected="characters that can be printed")


def _plain(text: str) -> bool:
    # Neither a command line that is not UTF-8 (surrogates), nor what turns the text around (bidi).
    return text.isprintable()
