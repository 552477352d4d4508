"""One exchange as a line of an audit log, and the chain that ties exchanges together (docs/reference/audit-log.md).

Comes in: exchanges, lines. Goes out: records, lines. The nonce of a chained request is SHA-256(the answer before it, a random
blind), cut to 16 bytes: whoever has the answer before could make it, and nobody else. It must never take a line for right that a
reader cannot check.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from tsq.errors import ConfigError
from tsq.wire.tlv import NONCE_SIZE

_FORMAT = 1
_BLIND_SIZE = 32
_MOST_LINE = 16384
_MOST_MESSAGE = 2048
_MOST_NS = 1 << 63
_FIELDS = {"tsq_audit", "server", "request", "response", "t1_ns", "t4_ns"}
_CHAIN_FIELDS = {"chain", "blind"}


@dataclass(frozen=True, slots=True)
class Record:
    """One exchange. line: where it stands in its log, from 1. chain: which chain it belongs to, "" for none; blind: what its nonce
    was made with. t1_ns, t4_ns: by the client's clock, Unix ns.
    """

    server: str
    request: bytes
    response: bytes
    t1_ns: int
    t4_ns: int
    chain: str = ""
    blind: bytes = b""
    line: int = 0


def chained_nonce(previous: bytes, blind: bytes) -> bytes:
    """The nonce of the request that follows an answer; previous: that answer's bytes, none for the first request."""
    return sha256(previous + blind).digest()[:NONCE_SIZE]


class Chain:
    """Makes the nonces of requests that are asked in turn, and records their exchanges."""

    def __init__(self, randomness: Callable[[int], bytes] = os.urandom) -> None:
        self.name = randomness(8).hex()
        self._randomness = randomness
        self._last = b""
        self._blinds: dict[bytes, bytes] = {}

    def nonce(self, size: int) -> bytes:
        """The nonce of the next request. A request that gets no answer leaves no trace in the chain."""
        assert size == NONCE_SIZE
        blind = self._randomness(_BLIND_SIZE)
        nonce = chained_nonce(self._last, blind)
        self._blinds[nonce] = blind
        return nonce

    def add(self, server: str, request: bytes, response: bytes, t1_ns: int, t4_ns: int) -> Record | None:
        """The record of an exchange, which the next one follows; None for one that does not follow the last record."""
        nonce = response[2 : 2 + NONCE_SIZE]
        blind = self._blinds.get(nonce, b"")
        if chained_nonce(self._last, blind) != nonce:
            # The second answer to one place in the chain: another request was sent before the first answer came.
            return None
        self._blinds.clear()
        self._last = response
        return Record(server, request, response, t1_ns, t4_ns, self.name, blind)


def write(record: Record) -> str:
    """The record's line."""
    fields: dict[str, Any] = {
        "tsq_audit": _FORMAT,
        "server": record.server,
        "request": record.request.hex(),
        "response": record.response.hex(),
        "t1_ns": record.t1_ns,
        "t4_ns": record.t4_ns,
    }
    if record.chain:
        fields |= {"chain": record.chain, "blind": record.blind.hex()}
    return json.dumps(fields) + "\n"


def read(lines: Iterable[str], name: str) -> Iterator[Record]:
    """The records of a log. name: of the file, for errors. Raises ConfigError for a line that is no record."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        if len(line) > _MOST_LINE:
            raise ConfigError(f"{where} has {len(line)} characters", expected=f"a record of at most {_MOST_LINE}")
        try:
            yield _record(json.loads(line), number)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(f"{where} is no record ({_why(error)})", expected="a line of an audit log") from error


def _record(fields: Any, number: int) -> Record:
    if not isinstance(fields, dict) or fields["tsq_audit"] != _FORMAT:
        raise ValueError(f"its format is not {_FORMAT}")
    unknown = sorted({*fields} - _FIELDS - _CHAIN_FIELDS)
    if unknown or 0 < len(_CHAIN_FIELDS & {*fields}) < len(_CHAIN_FIELDS):
        raise ValueError(f"unknown field {unknown[0]!r}" if unknown else "one of chain and blind without the other")
    chain = fields.get("chain", "")
    if not isinstance(fields["server"], str) or not isinstance(chain, str):
        raise ValueError("a name that is no text")
    return Record(
        fields["server"],
        _bytes(fields, "request"),
        _bytes(fields, "response"),
        _time(fields, "t1_ns"),
        _time(fields, "t4_ns"),
        chain,
        _bytes(fields, "blind") if chain else b"",
        number,
    )


def _bytes(fields: dict[str, Any], name: str) -> bytes:
    value = bytes.fromhex(fields[name])
    if len(value) > _MOST_MESSAGE:
        raise ValueError(f"{name} of {len(value)} bytes")
    return value


def _time(fields: dict[str, Any], name: str) -> int:
    value = fields[name]
    if type(value) is not int or not 0 <= value < _MOST_NS:
        raise ValueError(f"{name} is no time")
    return value


def _why(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
