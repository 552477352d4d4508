"""A client's TLS session tickets, in memory or in a file.

Comes in: tickets from TLS. Goes out: each ticket once: a second use would let an observer link connections (RFC 8446 §C.4). The
file has mode 0600 and records the trust under which each ticket was issued; no other trust gets it. A file that cannot be used must
never fail a query, which goes on without tickets.
"""

import base64
import datetime
import errno
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aioquic.tls import CipherSuite, SessionTicket

from tsq.errors import ConfigError
from tsq.host import files

__all__ = ["AcceptedTicket", "SessionTicket", "TicketFile", "TicketMemory"]

_FORMAT = 1
_BEGINNING = b'{"tsq_sessions"'
_MAX_SAVED = 1000
# Of one server: a server gives one or two with each connection.
_MAX_KEPT = 2
_MOST_BYTES = 16 << 20
# A ticket must fit one ClientHello (RFC 8446 §4.1.2). Real ones have some hundred bytes.
_MOST_OPAQUE = 2048
# It takes room in each datagram of a ClientHello. Those of real servers have less than a hundred bytes.
MOST_TOKEN = 256
# RFC 8446 §4.2.11: the secret is as long as the hash of its cipher suite.
_SECRET_BYTES = {
    CipherSuite.AES_128_GCM_SHA256: 32,
    CipherSuite.AES_256_GCM_SHA384: 48,
    CipherSuite.CHACHA20_POLY1305_SHA256: 32,
}
_UINT16, _UINT32 = range(1 << 16), range(1 << 32)


@dataclass(frozen=True, slots=True)
class AcceptedTicket:
    """A client's ticket from a server that was accepted.

    A resumed session shows no certificate, so the ticket stands for the check that came before it. acceptance: the trust and the
    server name of that check (`tsq.quic.tls.acceptance`). certificates_expire: when the first of the server's certificates expires,
    Unix seconds; None where it is not known. token: shows the server that this client receives at its address (NEW_TOKEN, RFC 9000
    §8.1.3); it is used with this ticket, once.
    """

    ticket: SessionTicket
    acceptance: str
    certificates_expire: float | None = None
    token: bytes = b""


class TicketMemory:
    """A client's tickets of one server, in memory: the newest ones, each handed out once, and only to the trust that it is for."""

    def __init__(self) -> None:
        self._tickets: list[AcceptedTicket] = []

    def __len__(self) -> int:
        return len(self._tickets)

    def take(self, acceptance: str) -> AcceptedTicket | None:
        """Take out the newest ticket for this trust; None where there is none that can be used."""
        now = datetime.datetime.now(datetime.UTC).timestamp()
        self._tickets = [one for one in self._tickets if one.ticket.is_valid and not _past(one.certificates_expire, now)]
        for place in range(len(self._tickets) - 1, -1, -1):
            if self._tickets[place].acceptance == acceptance:
                return self._tickets.pop(place)
        return None

    def keep(self, accepted: AcceptedTicket) -> None:
        """Keep a ticket for the next time, unless it cannot be used."""
        if not _unsound(accepted.ticket):
            self._tickets = [*self._tickets, accepted][-_MAX_KEPT:]


class TicketFile:
    """The client's tickets, in a file that several clients may share.

    A file that cannot be used is reported once and not tried again. The client goes on without tickets. token: the address token of
    the ticket that was taken last; empty where there is none.
    """

    def __init__(self, path: str, warn: Callable[[str], None]) -> None:
        self.path = path
        self._warn = warn
        self._given_up = False
        self.token = b""

    def usable(self) -> bool:
        """Whether the file can be used. Create a missing file; report why a file cannot be used."""
        try:
            with files.locked(self.path) as fd:
                self._read(_content(fd), quiet=True)
        except (OSError, ConfigError) as error:
            self._give_up(error)
        return not self._given_up

    def take(self, server: str, trust: str) -> tuple[SessionTicket | None, float | None]:
        """(ticket of this server for this trust, when the server's certificates expire, Unix seconds).

        The ticket is removed from the file. Once those certificates have expired, it is not returned.
        """
        entry: object = None
        self.token = b""
        try:
            with self._stored() as stored:
                entry = stored.pop(server, None)
        except (OSError, ConfigError) as error:
            # A ticket that could not be taken out of the file may be used by another client: it must not be used here.
            self._give_up(error)
            return None, None
        if not isinstance(entry, dict) or entry.get("trust") != trust:
            return None, None
        try:
            ticket = _ticket_from(entry)
            expiry = None if entry["certificates_expire"] is None else float(entry["certificates_expire"])
            token = _decoded(entry.get("token", ""))
            problem = _unsound(ticket) or ("an expiry that is no time" if expiry is not None and not math.isfinite(expiry) else "")
            if problem:
                raise ValueError(problem)
        except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
            self._warn(f"{self.path}: the ticket for {server} is unreadable ({error!r}); falling back to a full handshake")
            return None, None
        if not ticket.is_valid or _past(expiry, datetime.datetime.now(datetime.UTC).timestamp()):
            return None, None
        self.token = token if len(token) <= MOST_TOKEN else b""
        return ticket, expiry

    def save(self, server: str, trust: str, ticket: SessionTicket, certificates_expire: float | None, token: bytes = b"") -> None:
        """Keep a ticket for the next time, in place of an older one for this server."""
        problem = _unsound(ticket)
        if problem:
            self._warn(f"{self.path}: the ticket that the server sent has {problem}; it is not kept")
            return
        try:
            with self._stored() as stored:
                stored.pop(server, None)
                stored[server] = {"trust": trust, "certificates_expire": certificates_expire, **_ticket_fields(ticket)}
                if token:
                    stored[server]["token"] = _encoded(token)
                while len(stored) > _MAX_SAVED:
                    del stored[next(iter(stored))]
        except (OSError, ConfigError) as error:
            self._give_up(error)

    def _give_up(self, error: OSError | ConfigError) -> None:
        if not self._given_up:
            self._given_up = True
            found = f"session file {self.path}: {files.why(error)}" if isinstance(error, OSError) else str(error)
            self._warn(f"{found}; session tickets are not kept")

    @contextmanager
    def _stored(self) -> Iterator[dict[str, Any]]:
        """The tickets in the file by server, under a lock; written back at the end."""
        if self._given_up:
            yield {}
            return
        with files.locked(self.path) as fd:
            stored = self._read(_content(fd))
            before = json.dumps(stored)
            yield stored
            after = json.dumps(stored)
            if after != before:
                data = f'{{"tsq_sessions": {_FORMAT}, "sessions": {after}}}'.encode()
                files.replace(self.path, data, 0o600, durable=False)

    def _read(self, data: bytes, *, quiet: bool = False) -> dict[str, Any]:
        if not data:
            return {}
        # An interrupted write may have left less than the beginning.
        if not data.startswith(_BEGINNING[: len(data)]):
            raise ConfigError(f"{self.path} is not a session file", advice="give a file of its own, or one that does not exist")
        try:
            content = json.loads(data)
            stored = content["sessions"]
            if content["tsq_sessions"] == _FORMAT and isinstance(stored, dict):
                return stored
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        if not quiet:
            self._warn(f"{self.path}: a damaged session file; starting it anew")
        return {}


def _content(fd: int) -> bytes:
    """All of a file. Raises OSError where it is larger than any session file."""
    data = b""
    while len(data) <= _MOST_BYTES:
        part = os.read(fd, 1 << 20)
        if not part:
            return data
        data += part
    raise OSError(errno.EFBIG, f"it has more than {_MOST_BYTES} bytes")


def _past(expiry: float | None, now: float) -> bool:
    return expiry is not None and expiry < now


def _unsound(ticket: SessionTicket) -> str:
    """What makes a ticket unusable, whether it comes from a server or from a file; empty where nothing does."""
    extensions = ticket.other_extensions
    early = ticket.max_early_data_size
    checks = (
        (len(ticket.resumption_secret) == _SECRET_BYTES.get(ticket.cipher_suite), "a secret that does not fit its cipher suite"),
        (0 < len(ticket.ticket) <= _MOST_OPAQUE, f"{len(ticket.ticket)} bytes (expected 1 to {_MOST_OPAQUE})"),
        (ticket.age_add in _UINT32, "an age that is out of range"),
        (early is None or (isinstance(early, int) and early in _UINT32), "a limit of early data that is out of range"),
        (all(kind in _UINT16 for kind, _ in extensions), "an extension whose number is out of range"),
        (sum(len(data) for _, data in extensions) <= _MOST_OPAQUE, f"extensions of more than {_MOST_OPAQUE} bytes"),
    )
    return next((problem for good, problem in checks if not good), "")


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
