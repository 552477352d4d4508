"""A server whose clock is wrong by a known time, as a process: `python -m tests.support.shifted_server ADDRESS CERT KEY SECONDS`.

It is tsq-server without its data plane, and prints the same first line. Its certificate is good, and so is all that it says of
itself.
"""

import asyncio
import sys
from dataclasses import dataclass, replace

from tsq.host.clock import now_ns
from tsq.host.keepers.sync_state import HostClock, Keeper
from tsq.options import LocalClock
from tsq.server import driver
from tsq.server.responder import Draft, Mode, Responder, Unanswered


@dataclass(slots=True)
class Shifted(Responder):
    """Answers with a shifted T2, and without the exact T3 of earlier answers, which the kernel would take from the right clock."""

    shift_ns: int = 0

    def prepare(self, data: bytes, receive_ns: int, mode: Mode) -> Draft | Unanswered:
        draft = Responder.prepare(self, data, receive_ns, mode)
        if isinstance(draft, Draft):
            return replace(draft, receive_ns=receive_ns + self.shift_ns, exact=False)
        return draft


async def serve(address: str, certificate: str, key: str, shift_ns: int) -> None:
    """Serve until the process ends."""
    driver.now_ns = lambda: now_ns() + shift_ns
    driver.Responder = lambda signer, **more: Shifted(signer, **more, shift_ns=shift_ns)
    server = driver.Server(
        [address], certificate, key, data_plane=False, host_clock=HostClock(Keeper.KERNEL, local=LocalClock(1, error=1e-5))
    )
    async with server:
        sys.stdout.write(f"tsq-server: listening on {server.addresses[0]}\n")
        sys.stdout.flush()
        await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:4], round(float(sys.argv[4]) * 1e9)))
