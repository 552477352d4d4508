"""TLS session tickets: the server's store and the client's file.

Comes in: tickets from TLS. Goes out: each ticket once. A ticket is single use on both sides: used twice it would let an observer
link connections (RFC 8446 §C.4) and a replay be accepted (RFC 8446 §8.1). The client's file is mode 0600, says which trust a ticket
was earned under, and never lends it to another.
"""

import base64
import datetime
import fcntl
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aioquic.tls import CipherSuite, SessionTicket

from tsq.errors import ConfigError

__all__ = ["AcceptedTicket", "SessionFile", "SessionTicket", "TicketStore"]

_FORMAT = 1
_BEGINNING = b'{"tsq_sessions"'
_MAX_STORED = 20_000
_MAX_SAVED = 1000


@dataclass(frozen=True, slots=True)
class AcceptedTicket:
    """A client's ticket from a server that was accepted.

    A resumed session shows no certificate, so the ticket stands for the check that came before it. acceptance: the trust and the
    server name of that check (`tsq.quic.tls.acceptance`). certificates_expire: when the first of the server's certificates expires,
    Unix seconds; None where it is not known.
    """

    ticket: SessionTicket
    acceptance: str
    certificates_expire: float | None = None


class TicketStore:
    """The server's tickets, in memory: bounded, oldest out first, each handed out once."""

    def __init__(self, limit: int = _MAX_STORED) -> None:
        self._limit = limit
        self._tickets: OrderedDict[bytes, SessionTicket] = OrderedDict()

    def add(self, ticket: SessionTicket) -> None:
        """Keep a ticket that was given to a client."""
        self._tickets[ticket.ticket] = ticket
        while len(self._tickets) > self._limit:
            self._tickets.popitem(last=False)

    def take(self, label: bytes) -> SessionTicket | None:
        """The ticket that a client presents, this one time."""
        return self._tickets.pop(label, None)


class SessionFile:
    """The client's tickets, in a file that several clients may share. A file that cannot be read is reported and ignored."""

    def __init__(self, path: str, warn: Callable[[str], None]) -> None:
        self.path = path
        self._warn = warn

    def take(self, server: str, trust: str) -> tuple[SessionTicket | None, float | None]:
        """(ticket for this server that was earned under this trust, when the server's certificates expire, Unix seconds).

        The ticket is out of the file with it. It is not handed out once those certificates have expired.
        """
        with self._sessions() as sessions:
            entry = sessions.pop(server, None)
        if not isinstance(entry, dict) or entry.get("trust") != trust:
            return None, None
        try:
            ticket = _ticket_from(entry)
            expiry = None if entry["certificates_expire"] is None else float(entry["certificates_expire"])
        except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
            self._warn(f"{self.path}: the session for {server} is unreadable ({error!r}); a full handshake it is")
            return None, None
        if not ticket.is_valid or (expiry is not None and expiry < datetime.datetime.now(datetime.UTC).timestamp()):
            return None, None
        return ticket, expiry

    def save(self, server: str, trust: str, ticket: SessionTicket, certificates_expire: float | None) -> None:
        """Keep a ticket for the next time, in place of an older one for this server."""
        with self._sessions() as sessions:
            sessions.pop(server, None)
            sessions[server] = {"trust": trust, "certificates_expire": certificates_expire, **_ticket_fields(ticket)}
            while len(sessions) > _MAX_SAVED:
                del sessions[next(iter(sessions))]

    @contextmanager
    def _sessions(self) -> Iterator[dict[str, Any]]:
        """The file's sessions under a lock, written back at the end."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise ConfigError(
                f"session file {self.path}: {error.strerror}", advice="choose a file that you may read and write"
            ) from error
        with os.fdopen(fd, "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            sessions = self._read(file.read())
            os.fchmod(file.fileno(), 0o600)
            before = json.dumps(sessions)
            yield sessions
            if json.dumps(sessions) != before:
                file.seek(0)
                file.truncate()
                file.write(json.dumps({"tsq_sessions": _FORMAT, "sessions": sessions}).encode())

    def _read(self, data: bytes) -> dict[str, Any]:
        if not data:
            return {}
        # A write that was cut off may have left less than the beginning.
        if not data.startswith(_BEGINNING[: len(data)]):
            raise ConfigError(f"{self.path} is not a session file", advice="give a file of its own, or one that does not exist")
        try:
            content = json.loads(data)
            sessions = content["sessions"]
            if content["tsq_sessions"] == _FORMAT and isinstance(sessions, dict):
                return sessions
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        self._warn(f"{self.path}: a damaged session file; starting it anew")
        return {}


def _ticket_fields(ticket: SessionTicket) -> dict[str, Any]:
    return {
        "server_name": ticket.server_name,
        "ticket": _encoded(ticket.ticket),
        "secret": _encoded(ticket.resumption_secret),
        "cipher_suite": int(ticket.cipher_suite),
        "age_add": ticket.age_add,
        "not_before": ticket.not_valid_before.timestamp(),
        "not_after": ticket.not_valid_after.timestamp(),
        "max_early_data": ticket.max_early_data_size,
        "extensions": [[kind, _encoded(data)] for kind, data in ticket.other_extensions],
    }


def _ticket_from(entry: dict[str, Any]) -> SessionTicket:
    return SessionTicket(
        age_add=int(entry["age_add"]),
        cipher_suite=CipherSuite(entry["cipher_suite"]),
        not_valid_after=_time(entry["not_after"]),
        not_valid_before=_time(entry["not_before"]),
        resumption_secret=_decoded(entry["secret"]),
        server_name=str(entry["server_name"]),
        ticket=_decoded(entry["ticket"]),
        max_early_data_size=entry["max_early_data"],
        other_extensions=[(int(kind), _decoded(data)) for kind, data in entry["extensions"]],
    )


def _time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(float(seconds), datetime.UTC)


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
