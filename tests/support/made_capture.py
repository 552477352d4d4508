"""A capture of one QUIC connection, made by hand: a client and a server on aioquic that say what a test wants, in virtual time.

Writes a pcap with nanoseconds and the file of secrets that decrypts it. No socket is opened, and no right to capture is needed.
"""

import io
import ipaddress
import ssl
import struct
from pathlib import Path

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.tls import SessionTicket

from tsq.quic.selfsigned import CertificateFiles

START_NS = 1_800_000_000_000_000_000
DELAY_NS = 1_000_000
CLIENT, SERVER = ("192.0.2.1", 40000), ("192.0.2.2", 443)
_NANOSECONDS, _RAW_IP = 0xA1B23C4D, 101
_NS = 10**9


def pcap(packets: list[tuple[int, bytes]]) -> bytes:
    """A capture file of these IP packets, each with its time in Unix ns."""
    out = struct.pack("<IHHiIII", _NANOSECONDS, 2, 4, 0, 0, 65535, _RAW_IP)
    for at_ns, data in packets:
        out += struct.pack("<IIII", at_ns // _NS, at_ns % _NS, len(data), len(data)) + data
    return out


def udp(source: tuple[str, int], target: tuple[str, int], payload: bytes) -> bytes:
    """An IPv4 packet with a UDP datagram (RFC 791, RFC 768), without a UDP checksum."""
    addresses = ipaddress.IPv4Address(source[0]).packed + ipaddress.IPv4Address(target[0]).packed
    header = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(payload), 0, 0, 64, 17, 0) + addresses
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    header = header[:10] + struct.pack("!H", checksum) + header[12:]
    return header + struct.pack("!HHHH", source[1], target[1], 8 + len(payload), 0) + payload


class MadeCapture:
    """A connection after its handshake. alpn: what the server speaks; offered: what the client offers. resume: an earlier
    connection, from which the client has a session ticket; early: a message in its first flight.
    """

    def __init__(
        self,
        certificates: CertificateFiles,
        *,
        alpn: str = "tsq/1",
        offered: tuple[str, ...] = ("tsq/1", "tsq"),
        start_ns: int = START_NS,
        resume: "MadeCapture | None" = None,
        early: bytes = b"",
    ) -> None:
        self.now_ns = start_ns
        self.packets: list[tuple[int, bytes]] = []
        self.tickets: list[SessionTicket] = []
        self._sealed: dict[bytes, SessionTicket] = resume._sealed if resume else {}
        self._secrets = io.StringIO()
        common = {"max_datagram_frame_size": 65535, "secrets_log_file": self._secrets}
        client = QuicConfiguration(is_client=True, alpn_protocols=[*offered], verify_mode=ssl.CERT_NONE, **common)
        client.session_ticket = resume.tickets[-1] if resume else None
        server = QuicConfiguration(is_client=False, alpn_protocols=[alpn], **common)
        server.load_cert_chain(certificates.certificate, certificates.key)
        self.client = QuicConnection(configuration=client, session_ticket_handler=self.tickets.append)
        self.client.connect(SERVER, self._now)
        self.server = QuicConnection(
            configuration=server,
            original_destination_connection_id=self.client.original_destination_connection_id,
            session_ticket_fetcher=self._sealed.get,
            session_ticket_handler=lambda ticket: self._sealed.__setitem__(ticket.ticket, ticket),
        )
        if early:
            self.client.send_datagram_frame(early)
        self.exchange()

    @property
    def _now(self) -> float:
        return self.now_ns / _NS

    @property
    def frame(self) -> int:
        """The number of the last packet, from 1."""
        return len(self.packets)

    def carry(self, *, from_server: bool) -> bool:
        """Deliver what one side sends now, each UDP datagram after DELAY_NS. Recorded at the client. Whether it sent anything."""
        sender, receiver = (self.server, self.client) if from_server else (self.client, self.server)
        source, target = (SERVER, CLIENT) if from_server else (CLIENT, SERVER)
        sent = [data for data, _ in sender.datagrams_to_send(self._now)]
        for data in sent:
            sent_ns, self.now_ns = self.now_ns, self.now_ns + DELAY_NS
            self.packets.append((self.now_ns if from_server else sent_ns, udp(source, target, data)))
            receiver.receive_datagram(data, source, self._now)
        return bool(sent)

    def exchange(self) -> None:
        """Let both sides send until neither has more to say."""
        while self.carry(from_server=False) | self.carry(from_server=True):
            pass

    def datagram(self, *messages: bytes, from_server: bool = False) -> int:
        """Send messages as DATAGRAM frames of one packet now; its number in the capture. The rest of the network is silent."""
        sender = self.server if from_server else self.client
        for message in messages:
            sender.send_datagram_frame(message)
        assert self.carry(from_server=from_server)
        return self.frame

    def stream(self, stream_id: int, data: bytes, *, fin: bool, from_server: bool = False) -> int:
        """Send bytes on a stream now; the number of the packet."""
        (self.server if from_server else self.client).send_stream_data(stream_id, data, end_stream=fin)
        assert self.carry(from_server=from_server)
        return self.frame

    def join(self, other: "MadeCapture") -> None:
        """Add the packets and the secrets of a later connection."""
        self.packets += other.packets
        self._secrets.write(other._secrets.getvalue())

    def write(self, directory: Path) -> tuple[Path, Path]:
        """Write the capture and the secrets; their files."""
        capture, secrets = directory / "made.pcap", directory / "made-keys.log"
        capture.write_bytes(pcap(self.packets))
        secrets.write_text(self._secrets.getvalue())
        return capture, secrets
