"""Look-ups of hosts by a daemon: each in a thread of its own, and those of one host at the same time are one.

Comes in: targets and address families. Goes out: their addresses, or a TSQError. It must never keep the event loop waiting.
"""

import asyncio
from functools import partial

from tsq.client.in_thread import in_thread
from tsq.client.resolving import Address, is_numeric, resolve
from tsq.errors import TSQError
from tsq.options import Target


class LookUps:
    """The look-ups that are under way."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[str, int, int], asyncio.Task[list[Address]]] = {}

    async def addresses(self, target: Target, family: int) -> list[Address]:
        """All addresses of a host. Raises TSQError."""
        if is_numeric(target.host):
            return resolve(target, family)
        key = (target.host, target.port, family)
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(in_thread(resolve, target, family))
            task.add_done_callback(partial(self._done, key))
        return await asyncio.shield(task)

    def close(self) -> None:
        """Wait for none of them any more."""
        for task in list(self._under_way.values()):
            task.cancel()

    def _done(self, key: tuple[str, int, int], task: "asyncio.Task[list[Address]]") -> None:
        self._under_way.pop(key, None)
        if not task.cancelled():
            # Nobody may wait for it any more.
            task.exception()


def numeric_address(target: Target, family: int) -> Address | None:
    """The address of a host that is written as one; None for a name."""
    if not is_numeric(target.host):
        return None
    try:
        return resolve(target, family)[0]
    except TSQError:
        # Of a family that the options exclude: each poll says so.
        return None
