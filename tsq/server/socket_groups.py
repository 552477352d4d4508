"""The sockets of a server with several workers: for each address a group, among which the kernel divides the packets.

Comes in: the groups, which workers get new clients, which ones live. Goes out: the sockets of a worker, and a program in the
kernel that says who gets a packet. All sockets stay open, so that the groups never change and no packet is lost with a process. It
must never read from one.
"""

import logging
import socket
from collections.abc import Sequence

from tsq.host import reuseport
from tsq.options import Target

logger = logging.getLogger(__name__)


class SocketGroups:
    """The groups.

    groups: for each address 2N sockets in the order of the slots, or 4N, of which the second half is for newcomers; closed by
    `close`. workers: N; None: there are 2N sockets.
    """

    def __init__(self, groups: Sequence[Sequence[socket.socket]], workers: int | None = None) -> None:
        self.workers = len(groups[0]) // 2 if workers is None else workers
        self._groups = groups

    @property
    def addresses(self) -> list[Target]:
        """The address of each group."""
        return [_address(group) for group in self._groups]

    def descriptors(self, slot: int) -> list[int]:
        """The sockets of the worker in this slot."""
        return [one.fileno() for group in self._groups for one in group[slot :: 2 * self.workers]]

    def divide(self, newcomers: int, living: frozenset[int]) -> None:
        """Divide the packets among the living workers: new clients to this generation. A failure is only logged."""
        for group in self._groups:
            divided = len(group) > 2 * self.workers
            try:
                reuseport.attach(group[0], reuseport.steering(self.workers, newcomers, living, divided=divided))
            except OSError as error:
                logger.error("packets of %s cannot be given to other workers: %s", _address(group), error)

    def close(self) -> None:
        """Close all of them."""
        for group in self._groups:
            for one in group:
                one.close()


def _address(group: Sequence[socket.socket]) -> Target:
    return Target(*group[0].getsockname()[:2])
