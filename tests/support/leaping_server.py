"""Servers at another date, which ends with a leap second, as one process.

`python -m tests.support.leaping_server CERT KEY SHIFT MIDNIGHT ADDRESS...`: their clock is this machine's plus SHIFT seconds, and
counts the second before MIDNIGHT (Unix seconds) twice, as a kernel does that inserts a leap second. Until then all announce it, but
the last one. They are tsq-server without its data plane, and print the same first lines.
"""

import asyncio
import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

from tsq.host.clock import now_ns
from tsq.host.keepers.sync_state import HostClock, Keeper
from tsq.options import LocalClock
from tsq.server import driver
from tsq.server.responder import Draft, Mode, Responder, Unanswered
from tsq.wire.tlv import LEAP

_INSERT, _NONE = "1", "0"
_SECOND = 1_000_000_000


@dataclass(slots=True)
class Leaping(Responder):
    """Answers with the other date's T2, and without the exact T3 of earlier answers, which the kernel would take from its clock."""

    shifted: Callable[[int], int] = int
    announces: Callable[[int], bool] = bool

    def prepare(self, data: bytes, receive_ns: int, mode: Mode) -> Draft | Unanswered:
        self.pairs = {**self.pairs, LEAP: _INSERT if self.announces(receive_ns) else _NONE}
        draft = Responder.prepare(self, data, receive_ns, mode)
        if isinstance(draft, Draft):
            return replace(draft, receive_ns=self.shifted(receive_ns), exact=False)
        return draft


async def serve(certificate: str, key: str, shift_ns: int, midnight_ns: int, addresses: list[str]) -> None:
    """Serve until the process ends."""

    def shifted(here_ns: int) -> int:
        there_ns = here_ns + shift_ns
        return there_ns - _SECOND if there_ns >= midnight_ns else there_ns

    def before(here_ns: int) -> bool:
        # The repeated second is still the old day's.
        return here_ns + shift_ns < midnight_ns + _SECOND

    driver.now_ns = lambda: shifted(now_ns())
    servers = []
    for address in addresses:
        announces = before if address is not addresses[-1] else lambda _: False
        driver.Responder = functools.partial(Leaping, shifted=shifted, announces=announces)
        server = driver.Server(
            [address], certificate, key, data_plane=False, host_clock=HostClock(Keeper.KERNEL, local=LocalClock(1, error=1e-5))
        )
        servers.append(server)
        await server.start()
        sys.stdout.write(f"tsq-server: listening on {server.addresses[0]}\n")
        sys.stdout.flush()
    await asyncio.gather(*(server.wait_closed() for server in servers))


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:3], round(float(sys.argv[3]) * 1e9), int(sys.argv[4]) * _SECOND, sys.argv[5:]))
