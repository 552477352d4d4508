"""A Unix socket that answers each connection with bytes of the test's choice, in a thread."""

import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self


class FalseDaemon:
    """Listens until the end of the `with`. replies: one for each connection, the last one for all others; None: says nothing, and
    waits for the client to leave. reads: whether it reads the request first.
    """

    def __init__(self, path: Path, replies: Sequence[bytes | None], *, reads: bool = True) -> None:
        self.path = str(path)
        self.requests: list[bytes] = []
        self._replies = list(replies)
        self._reads = reads

    def _main(self) -> None:
        while True:
            try:
                stream, _ = self._listening.accept()
            except OSError:
                return
            with stream:
                if self._reads:
                    self.requests.append(stream.recv(65536))
                reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
                try:
                    if reply is None:
                        while stream.recv(65536):
                            pass
                    else:
                        stream.sendall(reply)
                except OSError:
                    # The client has left.
                    continue

    def __enter__(self) -> Self:
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(self.path)
        self._listening.listen(8)
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(20)
        assert not self._thread.is_alive()
