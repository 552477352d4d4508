"""Shared by integration tests: a QUIC client, processes whose output can be awaited, tsq-client with --json."""

import json
import os
import secrets
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aioquic.quic.connection import QuicConnection

from tests.support.processes import ServerProcess, run_client
from tsq.options import Target, Trust
from tsq.quic import tls
from tsq.quic.selfsigned import CertificateFiles

# Much longer than any step takes: a limit for a hanging process, not an expectation.
PATIENCE = 60.0
REQUEST_SIZE = 18
RESPONSE_SIZE = 38


def new_request() -> bytes:
    """The smallest TSQ request: a Nonce TLV."""
    return b"\x01\x10" + secrets.token_bytes(16)


def assert_answers(response: bytes, request: bytes) -> None:
    """The smallest response to this request: its Nonce TLV, T2, T3."""
    assert len(response) == RESPONSE_SIZE
    assert response[:18] == request
    assert response[18:20] == b"\x02\x08"
    assert response[28:30] == b"\x03\x08"
    received, sent = int.from_bytes(response[20:28], "big"), int.from_bytes(response[30:38], "big")
    assert 0 <= (sent - received) % 2**64 < 60 << 32


class RawClient:
    """A QUIC connection and a UDP socket. quic: aioquic's QuicConnection, or one with the same interface (qh3's).

    `events` are those that no call has returned yet; `datagrams` counts received datagrams. It reads and sends only in calls of its
    methods; the connection's timers run while it waits.
    """

    def __init__(self, quic: Any, target: Target) -> None:
        self.quic = quic
        self.events: list[Any] = []
        self.datagrams = 0
        self._peer = (target.host, target.port)
        self._socket = socket.socket(socket.AF_INET6 if ":" in target.host else socket.AF_INET, socket.SOCK_DGRAM)

    def __enter__(self) -> Self:
        self._socket.connect(self._peer)
        self.quic.connect(self._peer, time.monotonic())
        self.flush()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.quic.close()
        self.flush()
        self._socket.close()

    def flush(self) -> None:
        """Send the connection's pending datagrams."""
        for data, _ in self.quic.datagrams_to_send(time.monotonic()):
            with suppress(ConnectionRefusedError):  # the server may have ended
                self._socket.send(data)

    def read(self) -> list[Any]:
        """Read one datagram. Returns its events, which are added to `events`, too. Sends only for timers."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            fresh = self._step(end)
            if fresh is not None:
                return fresh
        raise AssertionError("no datagram was received")

    def wait(self, kind: str, **fields: Any) -> Any:
        """Read and acknowledge until there is an event of this class with these fields."""
        end = time.monotonic() + PATIENCE
        while True:
            for event in self.events:
                if type(event).__name__ == kind and all(getattr(event, name) == value for name, value in fields.items()):
                    self.events.remove(event)
                    return event
            assert time.monotonic() < end, f"no {kind} came; others: {self.events}"
            self._step(end)
            self.flush()

    def _step(self, end: float) -> list[Any] | None:
        """Read one datagram (its events), or let a timer pass (None), whichever comes first."""
        timer = self.quic.get_timer()
        due = end if timer is None else min(end, timer)
        if not select.select([self._socket], [], [], max(0.0, due - time.monotonic()))[0]:
            if timer is not None and timer <= (now := time.monotonic()):
                self.quic.handle_timer(now)
                self._collect()
                self.flush()
            return None
        try:
            data = self._socket.recv(65536)
        except ConnectionRefusedError:
            return None  # the server has ended
        self.datagrams += 1
        self.quic.receive_datagram(data, self._peer, time.monotonic())
        return self._collect()

    def ask(self) -> bytes:
        """Send a request in a DATAGRAM frame. Returns the request."""
        request = new_request()
        self.quic.send_datagram_frame(request)
        self.flush()
        return request

    def ask_on_stream(self, end: bool) -> tuple[bytes, int]:
        """Send a request on a new stream. Returns the request and the stream's ID."""
        request = new_request()
        stream_id = self.quic.get_next_available_stream_id()
        self.quic.send_stream_data(stream_id, request, end_stream=end)
        self.flush()
        return request, stream_id

    def exchange(self) -> None:
        """One request and its answer, as DATAGRAM frames."""
        request = self.ask()
        assert_answers(self.wait("DatagramFrameReceived").data, request)

    def _collect(self) -> list[Any]:
        fresh = []
        while (event := self.quic.next_event()) is not None:
            fresh.append(event)
        self.events += fresh
        return fresh


def aioquic_client(target: Target, certificates: CertificateFiles) -> RawClient:
    """A client on plain aioquic that verifies the server."""
    configuration = tls.client_configuration("localhost", Trust(ca_file=str(certificates.authority)))
    return RawClient(QuicConnection(configuration=configuration), target)


def read_until(pipe: Any, text: str) -> str:
    """What a process writes to this pipe, until `text` is in it. Bypasses the pipe object's own buffer."""
    seen = b""
    end = time.monotonic() + PATIENCE
    while text.encode() not in seen:
        left = end - time.monotonic()
        if left <= 0 or not select.select([pipe], [], [], left)[0]:
            raise AssertionError(f"no {text!r} in {seen!r}")
        part = os.read(pipe.fileno(), 65536)
        if not part:
            raise AssertionError(f"ended without {text!r}: {seen!r}")
        seen += part
    return seen.decode()


class ReportingServer(ServerProcess):
    """A tsq-server whose log can be awaited; `errors` is whole after `stop` all the same."""

    def __init__(self, arguments: list[str | Path], prefix: tuple[str | Path, ...] = (), **environment: str) -> None:
        super().__init__(arguments, **environment)
        self._command = [*prefix, *self._command]
        self._seen = ""

    def wait_for_log(self, text: str) -> str:
        """Wait until this is logged; what was logged since the last time."""
        fresh = read_until(self.process.stderr, text)
        self._seen += fresh
        return fresh

    def stop(self, *number: int) -> int:
        status = super().stop(*number)
        self.errors, self._seen = self._seen + self.errors, ""
        return status


def server_arguments(certificates: CertificateFiles, *listen: str) -> list[str | Path]:
    """Arguments of a tsq-server on these addresses, or on a free port of 127.0.0.1."""
    arguments: list[str | Path] = ["--cert", certificates.certificate, "--key", certificates.key]
    for address in listen or ("127.0.0.1:0",):
        arguments += ["--listen", address]
    return arguments


def run_json(*arguments: Any) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    """tsq-client --json with these arguments; how it ended, and its hosts."""
    done = run_client(*arguments, "--json")
    assert done.stdout, done.stderr
    return done, json.loads(done.stdout)["hosts"]


def good_samples(host: dict[str, Any]) -> list[dict[str, Any]]:
    """The usable samples of a host."""
    return [sample for sample in host["samples"] if sample["valid"]]


@contextmanager
def process(command: list[Any], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process with piped output that ends with the `with` at the latest."""
    with subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    ) as running:
        try:
            yield running
        finally:
            if running.poll() is None:
                running.kill()
