"""A server without Precision Mode, as a process: `python -m tests.support.imprecise_server ADDRESS CERT KEY`.

It is tsq-server without its data plane, which answers requests in Precision Mode as it answers others.
"""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tests.integration.peers import process, read_until
from tsq.host.keepers.sync_state import HostClock, Keeper
from tsq.options import LocalClock, Target, parse_target
from tsq.quic.selfsigned import CertificateFiles
from tsq.server import driver
from tsq.server.responder import Draft, Mode, Responder, Unanswered


@dataclass(slots=True)
class Imprecise(Responder):
    """Never acknowledges Precision Mode, and never pads."""

    def prepare(self, data: bytes, receive_ns: int, mode: Mode) -> Draft | Unanswered:
        draft = Responder.prepare(self, data, receive_ns, mode)
        return replace(draft, tail=()) if isinstance(draft, Draft) else draft


async def serve(address: str, certificate: str, key: str) -> None:
    """Serve until the process ends."""
    driver.Responder = Imprecise
    server = driver.Server(
        [address], certificate, key, data_plane=False, host_clock=HostClock(Keeper.KERNEL, local=LocalClock(1, error=1e-5))
    )
    async with server:
        sys.stdout.write(f"tsq-server: listening on {server.addresses[0]}\n")
        sys.stdout.flush()
        await server.wait_closed()


@contextmanager
def imprecise(certificates: CertificateFiles) -> Iterator[Target]:
    """The process, until the end of the `with`."""
    words = [sys.executable, "-m", "tests.support.imprecise_server", "127.0.0.1:0", certificates.certificate, certificates.key]
    with process([str(word) for word in words]) as running:
        yield parse_target(read_until(running.stdout, "listening on").split()[-1])


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:4]))
