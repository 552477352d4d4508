"""Servers that fail a client in one way each: their certificates, and QUIC servers on aioquic that answer what a test says."""

import asyncio
import datetime
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import DatagramFrameReceived, HandshakeCompleted, QuicEvent, StreamDataReceived
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tsq._fast import clock_ns, pack_response
from tsq.options import Target
from tsq.quic.selfsigned import CertificateFiles

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
# Answers of a peer to one request: (nonce, all of the request, how many came before) -> messages to send.
Answer = Callable[[bytes, bytes, int], Sequence[bytes]]


class Authority:
    """A certification authority of a test's own."""

    def __init__(self, name: str = "Test authority") -> None:
        self.name = name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = build(name, name, self.key, self.key, authority=True)

    def issue(self, directory: Path, names: Sequence[str] = LOOPBACK_NAMES, **validity: datetime.datetime) -> CertificateFiles:
        """Files of a server certificate by this authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = build("a server", self.name, key, self.key, names=names, **validity)
        return write(directory, certificate, key, self.certificate)


def self_signed_leaf(directory: Path, names: Sequence[str] = LOOPBACK_NAMES) -> CertificateFiles:
    """Files of a server certificate that is signed by its own key; it is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = build("a lonely server", "a lonely server", key, key, names=names)
    return write(directory, certificate, key, certificate)


def build(
    subject: str,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    names: Sequence[str] = (),
    authority: bool = False,
    not_before: datetime.datetime = NOW - DAY,
    not_after: datetime.datetime = NOW + 30 * DAY,
) -> x509.Certificate:
    """A certificate."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def write(
    directory: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, authority: x509.Certificate
) -> CertificateFiles:
    """PEM files in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    files = CertificateFiles(directory / "ca.pem", directory / "cert.pem", directory / "key.pem")
    files.authority.write_bytes(authority.public_bytes(Encoding.PEM))
    files.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


def honest(nonce: bytes, request: bytes, number: int) -> list[bytes]:
    """The answer of a server as it should be, but for the exact times."""
    now = clock_ns()
    return [pack_response(nonce, now, now)]


def silent(nonce: bytes, request: bytes, number: int) -> list[bytes]:
    """No answer."""
    return []


class Peer:
    """A QUIC server in a thread until the end of the `with`. answer: what it sends for each request, in the mode it came in.

    datagrams: whether it takes DATAGRAM frames. greeting: called with the connection when its handshake is done.
    """

    def __init__(
        self,
        files: CertificateFiles,
        answer: Answer = honest,
        *,
        alpn: Sequence[str] = ("tsq/1",),
        datagrams: bool = True,
        greeting: Callable[[QuicConnectionProtocol], None] | None = None,
    ) -> None:
        self.files = files
        self.requests = 0
        self.datagram_requests = 0
        self._answer = answer
        self._greeting = greeting
        self._configuration = QuicConfiguration(
            is_client=False, alpn_protocols=list(alpn), max_datagram_frame_size=65535 if datagrams else None
        )
        self._configuration.load_cert_chain(files.certificate, files.key)
        self._loop = asyncio.new_event_loop()
        self._server: Any = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def ca(self) -> str:
        """Who signed its certificate."""
        return str(self.files.authority)

    def answers(self, request: bytes) -> Sequence[bytes]:
        """What to send for this request."""
        self.requests += 1
        return self._answer(request[2:18], request, self.requests - 1)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._run(serve("127.0.0.1", 0, configuration=self._configuration, create_protocol=self._protocol))
        name = self._server._transport.get_extra_info("sockname")
        self.target = Target(name[0], name[1])
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    async def _shut(self) -> None:
        self._server.close()
        # The transport closes its socket in a later turn of the loop.
        for _ in range(3):
            await asyncio.sleep(0)

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def _protocol(self, *arguments: Any, **options: Any) -> QuicConnectionProtocol:
        return _Protocol(self, self._greeting, *arguments, **options)


class _Protocol(QuicConnectionProtocol):
    def __init__(self, peer: Peer, greeting: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._peer = peer
        self._greeting = greeting

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, HandshakeCompleted) and self._greeting is not None:
            self._greeting(self)
        if isinstance(event, DatagramFrameReceived):
            self._peer.datagram_requests += 1
            for message in self._peer.answers(event.data):
                self._quic.send_datagram_frame(message)
        elif isinstance(event, StreamDataReceived) and event.data:
            messages = self._peer.answers(event.data)
            if messages:
                self._quic.send_stream_data(event.stream_id, b"".join(messages), end_stream=True)


@contextmanager
def closed_port() -> Iterator[Target]:
    """A loopback port at which nothing listens, and which nobody else gets meanwhile: its socket hears one far peer only."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        holder.connect(("127.0.0.1", 9))
        yield Target(*holder.getsockname())


@contextmanager
def deaf_port() -> Iterator[tuple[Target, socket.socket]]:
    """A loopback port that takes datagrams and never answers, and its socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        holder.settimeout(20)
        yield Target(*holder.getsockname()), holder


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
