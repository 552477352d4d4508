"""A bad network between real processes: a UDP relay on loopback that loses, duplicates, delays and reorders datagrams."""

import heapq
import select
import socket
import threading
import time
from random import Random
from types import TracebackType
from typing import Self

_PATIENCE = 60.0


class BadLink:
    """Relays datagrams between one client and a server on this port of 127.0.0.1, until the end of the `with`.

    loss, doubling: the chances of each copy, and of each datagram. spread: the largest random delay of a copy, seconds, so that
    later datagrams overtake it. there, back: the fixed delays to the server and to the client. counts: the datagrams by what
    happened.
    """

    def __init__(
        self, port: int, seed: int, *, loss: float = 0, doubling: float = 0, spread: float = 0, there: float = 0, back: float = 0
    ) -> None:
        self.counts = {"passed": 0, "lost": 0, "doubled": 0, "overtaken": 0}
        self._random = Random(seed)
        self._loss, self._doubling, self._spread = loss, doubling, spread
        self._delays = (there, back)
        self._front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._back = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._front.bind(("127.0.0.1", 0))
        self._back.connect(("127.0.0.1", port))
        self._client: tuple[str, int] | None = None
        self._waiting: list[tuple[float, int, bool, bytes]] = []
        self._number = 0
        self._last_sent = 0
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.target = "{}:{}".format(*self._front.getsockname())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.close()
        self._thread.join(_PATIENCE)
        assert not self._thread.is_alive()
        for each in (self._front, self._back, self._stopped):
            each.close()

    def _run(self) -> None:
        while True:
            due = max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else None
            ready = select.select([self._front, self._back, self._stopped], [], [], due)[0]
            if self._stopped in ready:
                return
            for side in ready:
                try:
                    data, peer = side.recvfrom(65536)
                except ConnectionRefusedError:
                    continue
                if side is self._front:
                    self._client = peer
                self._take(data, there=side is self._front)
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                self._pass(*heapq.heappop(self._waiting)[1:])

    def _take(self, data: bytes, *, there: bool) -> None:
        copies = 1 + (self._random.random() < self._doubling)
        self.counts["doubled"] += copies - 1
        for _ in range(copies):
            lost = self._random.random() < self._loss
            delay = self._delays[0 if there else 1] + self._random.random() * self._spread
            if lost:
                self.counts["lost"] += 1
                continue
            self._number += 1
            heapq.heappush(self._waiting, (time.monotonic() + delay, self._number, there, data))

    def _pass(self, number: int, there: bool, data: bytes) -> None:
        self.counts["passed"] += 1
        self.counts["overtaken"] += number < self._last_sent
        self._last_sent = max(self._last_sent, number)
        try:
            if there:
                self._back.send(data)
            elif self._client is not None:
                self._front.sendto(data, self._client)
        except ConnectionRefusedError:
            # The client or the server has ended.
            pass
