"""A server in a thread of the test's process, for tests that inspect its state."""

import asyncio
import threading
from types import TracebackType
from typing import Any, Self

from tsq.host.keepers.sync_state import HostClock, Keeper
from tsq.options import LocalClock, Target
from tsq.quic.selfsigned import CertificateFiles
from tsq.server.driver import Server

# The server claims to be a reference, whatever this machine's clock is.
REFERENCE = HostClock(Keeper.KERNEL, local=LocalClock(1))


class ServerThread:
    """Runs a tsq.Server until the end of the `with`. `server` is the Server; `call` runs a function on its loop.

    Its clock is a reference unless `host_clock` says otherwise.
    """

    def __init__(self, listen: list[str], certificates: CertificateFiles, **options: Any) -> None:
        self.certificates = certificates
        self.server = Server(listen, str(certificates.certificate), str(certificates.key), **{"host_clock": REFERENCE, **options})
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def target(self) -> Target:
        return self.server.addresses[0]

    @property
    def ca(self) -> str:
        return str(self.certificates.authority)

    def call(self, function: Any, *arguments: Any) -> Any:
        """Run a function on the server's loop and wait for its result."""

        async def run() -> Any:
            return function(*arguments)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(60)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self.server.start())
        except BaseException as error:
            self._error = error
            return
        finally:
            self._ready.set()
        self._loop.run_until_complete(self.server.wait_closed())
        self._loop.close()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(60)
        if self._error is not None:
            raise self._error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self.server.close(), self._loop).result(60)
        self._thread.join(60)
