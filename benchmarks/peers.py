"""The servers of the benchmarks, TSQ's and the plain one, each a process on a free loopback port, and a blocking client.

Comes in: a directory for certificates. Goes out: running servers, ended by their process ids. It must never leave a process behind.
"""

import select
import socket
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.processes import ServerProcess
from tsq.client.attempt import Attempt, open_attempt
from tsq.client.channel import Channel
from tsq.client.exchange import Rules
from tsq.options import ClientOptions, Target, Trust
from tsq.quic.selfsigned import self_signed
from tsq.timing.sample import Sample

HOST = "127.0.0.1"
ROOT = Path(__file__).parent.parent


class PlainServer:
    """`benchmarks.compare.newcomer serve` as a process."""

    def __init__(self, certificate: Path, key: Path) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((HOST, 0))
            self.port: int = probe.getsockname()[1]
        command = [sys.executable, "-m", "benchmarks.compare.newcomer", "serve", HOST, str(self.port), str(certificate), str(key)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            self.stop()
            raise RuntimeError("the plain server did not start; its message is above")

    def stop(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=10)


class Peers:
    """Both servers, with one certificate; each is started when it is first used."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.certificates = self_signed(str(directory), ["localhost", HOST])
        self._tsq: ServerProcess | None = None
        self._plain: PlainServer | None = None

    @property
    def ca(self) -> str:
        return str(self.certificates.authority)

    @property
    def tsq(self) -> ServerProcess:
        """tsq-server."""
        if self._tsq is None:
            files = ["--cert", self.certificates.certificate, "--key", self.certificates.key]
            server = ServerProcess(["--listen", f"{HOST}:0", *files, "--log-level", "error"])
            self._tsq = server.__enter__()
        return self._tsq

    @property
    def plain(self) -> PlainServer:
        """The plain aioquic server."""
        if self._plain is None:
            self._plain = PlainServer(self.certificates.certificate, self.certificates.key)
        return self._plain

    def options(self, **more: object) -> ClientOptions:
        return ClientOptions(trust=Trust(ca_file=self.ca), **more)  # type: ignore[arg-type]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._tsq is not None:
            self._tsq.stop()
        if self._plain is not None:
            self._plain.stop()


class BlockingClient:
    """One connection without an event loop, as in tsq-client: `exchange` sends a request and waits for the answer.

    at_once: send the first request with the end of the handshake, as tsq-client does, and wait for its answer.
    """

    def __init__(self, port: int, options: ClientOptions, rules: Rules | None = None, *, at_once: bool = False) -> None:
        rules = rules or (Rules() if at_once else Rules(state_interval=None))
        address = (socket.AF_INET, (HOST, port))
        self._attempt: Attempt = open_attempt(Target(HOST, port), options, rules, [], None, address, count())
        self._poll = select.epoll()
        self._poll.register(self._attempt.udp.fileno(), select.EPOLLIN)
        channel = self._attempt.channel
        channel.start(time.monotonic())
        self._to_ask = at_once
        self._until(lambda: bool(channel.samples) if at_once else channel.established)
        if not at_once:
            # Receive the server's last handshake packets and tickets here, so that no exchange includes them.
            self.rest(0.05)

    @property
    def channel(self) -> Channel:
        return self._attempt.channel

    def exchange(self) -> Sample:
        channel = self._attempt.channel
        channel.take()
        channel.ask(time.monotonic())
        self._until(lambda: bool(channel.samples))
        sample = channel.take()[0].sample
        if not sample.valid:
            raise RuntimeError(f"an exchange failed: {sample}")
        return sample

    def rest(self, seconds: float) -> None:
        """Serve the connection for this time."""
        end = time.monotonic() + seconds
        self._until(lambda: time.monotonic() >= end, end)

    def close(self) -> None:
        self._attempt.finish(time.monotonic())
        self._poll.close()

    def _until(self, done: object, end: float = float("inf")) -> None:
        assert callable(done)
        channel = self._attempt.channel
        while True:
            now = time.monotonic()
            if channel.deadline is not None and channel.deadline <= now:
                channel.handle_timer(now)
            if channel.error is not None:
                raise channel.error
            if self._to_ask and channel.established:
                self._to_ask = False
                channel.ask(now)
            self._attempt.pump(now)
            if done():
                return
            due = min(end, channel.deadline if channel.deadline is not None else end, now + 1.0)
            for _, kinds in self._poll.poll(max(0.0, due - now)):
                self._attempt.readable(time.monotonic(), stamps=bool(kinds & select.EPOLLERR))
