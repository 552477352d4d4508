"""Waiting for a socket in a test."""

import select
from typing import Protocol

WAIT_MS = 10_000


class HasDescriptor(Protocol):
    """A socket, whoever's."""

    def fileno(self) -> int: ...


def until_readable(sock: HasDescriptor) -> None:
    """Wait until something is there to read, an error included."""
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    assert poller.poll(WAIT_MS), "nothing came"
