"""A time server and a time client in plain aioquic: the programs that a newcomer writes from aioquic's documentation.

Comes in: a certificate and a key, or a server's port. Goes out: the same messages as TSQ's on the wire (either side talks to TSQ's
other side); all four timestamps are `time.time_ns()` where asyncio hands an event over. It must use nothing of TSQ.

    python -m benchmarks.compare.newcomer serve HOST PORT CERTIFICATE KEY
    python -m benchmarks.compare.newcomer ask HOST PORT CA [COUNT [INTERVAL]]

The server and the client are some forty lines each.
"""

import asyncio
import os
import sys
import time
from typing import NamedTuple

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import DatagramFrameReceived, QuicEvent, StreamDataReceived
from aioquic.tls import SessionTicket

from benchmarks.plain import decode_request, decode_response, ns_from_ntp, pack_response, pack_tlvs


class Times(NamedTuple):
    """T1 to T4 in Unix ns."""

    t1: int
    t2: int
    t3: int
    t4: int

    @property
    def offset(self) -> float:
        """In seconds; positive when the local clock is behind."""
        return ((self.t2 - self.t1) + (self.t3 - self.t4)) / 2e9


# ------------------------------------------------------------------------------------------------------------- server


def answer(request: bytes) -> bytes:
    """The response to a request."""
    received = time.time_ns()
    nonce = decode_request(request).nonce
    return pack_response(nonce, received, time.time_ns())


class TimeServer(QuicConnectionProtocol):
    """Answers requests in datagrams and on streams."""

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, DatagramFrameReceived):
            self._quic.send_datagram_frame(answer(event.data))
            self.transmit()
        elif isinstance(event, StreamDataReceived) and event.end_stream:
            self._quic.send_stream_data(event.stream_id, answer(event.data), end_stream=True)
            self.transmit()


async def run_server(host: str, port: int, certificate: str, key: str) -> None:
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["tsq/1"], max_datagram_frame_size=65535)
    configuration.load_cert_chain(certificate, key)
    tickets: dict[bytes, SessionTicket] = {}
    await serve(
        host,
        port,
        configuration=configuration,
        create_protocol=TimeServer,
        session_ticket_fetcher=lambda label: tickets.pop(label, None),
        session_ticket_handler=lambda ticket: tickets.update({ticket.ticket: ticket}),
    )
    print("ready", flush=True)
    await asyncio.Event().wait()


# ------------------------------------------------------------------------------------------------------------- client


class TimeClient(QuicConnectionProtocol):
    """Asks one question at a time."""

    waiter: asyncio.Future[tuple[bytes, int]]

    async def ask(self, stream: bool = False) -> Times:
        nonce = os.urandom(16)
        request = pack_tlvs([(1, nonce)])
        self.waiter = asyncio.get_running_loop().create_future()
        t1 = time.time_ns()
        if stream:
            self._quic.send_stream_data(self._quic.get_next_available_stream_id(), request, end_stream=True)
        else:
            self._quic.send_datagram_frame(request)
        self.transmit()
        data, t4 = await asyncio.wait_for(self.waiter, 3.0)
        response = decode_response(data)
        if response.nonce != nonce:
            raise ValueError("an answer to another question")
        return Times(t1, ns_from_ntp(response.receive_ntp, t4), ns_from_ntp(response.send_ntp, t4), t4)

    def quic_event_received(self, event: QuicEvent) -> None:
        t4 = time.time_ns()
        if isinstance(event, DatagramFrameReceived) or (isinstance(event, StreamDataReceived) and event.end_stream):
            self.waiter.set_result((event.data, t4))


def client_configuration(ca: str, ticket: SessionTicket | None = None) -> QuicConfiguration:
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=["tsq/1"], server_name="localhost", max_datagram_frame_size=65535, session_ticket=ticket
    )
    configuration.load_verify_locations(ca)
    return configuration


async def run_client(host: str, port: int, ca: str, count: int, interval: float) -> None:
    async with connect(host, port, configuration=client_configuration(ca), create_protocol=TimeClient) as client:
        for number in range(count):
            times = await client.ask()
            print(*times, f"{times.offset:+z.9f} s", flush=True)
            if number + 1 < count:
                await asyncio.sleep(interval)


if __name__ == "__main__":
    _, role, host, port, *more = sys.argv
    if role == "serve":
        asyncio.run(run_server(host, int(port), *more))
    else:
        ca, count, interval, *_ = [*more, *("1", "0")[len(more) - 1 :]]
        asyncio.run(run_client(host, int(port), ca, int(count), float(interval)))
