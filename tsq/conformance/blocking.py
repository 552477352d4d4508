"""Test a server over a socket.

Comes in: a target, trust, a time-out. Goes out: a Report, or why there is no connection. It waits, and decides nothing.
"""

import select
import time

from tsq.client.network_errors import network_error
from tsq.client.resolving import Address, resolve
from tsq.conformance.link import Site
from tsq.conformance.suite import Report, run
from tsq.errors import TransportError, TSQError
from tsq.options import Target, Trust
from tsq.quic import tls
from tsq.quic.udp import CONNECTED, UdpSocket
from tsq.wire.signature import Verifier


class SocketWire:
    """A socket that is connected to one address of the server."""

    def __init__(self, address: Address) -> None:
        try:
            self._udp = UdpSocket.connected(*address)
        except OSError as error:
            raise network_error(error) from error

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def exchange(self, out: list[bytes], until: float) -> list[bytes]:
        """Send these datagrams; wait until others come, or until this time."""
        try:
            if out:
                self._udp.send([(data, CONNECTED) for data in out])
            poller = select.poll()
            poller.register(self._udp.fileno(), select.POLLIN)
            # Rounded up, so that a deadline is not polled for.
            events = poller.poll(max(0, round(1000 * (until - time.monotonic()) + 0.5)))
            if any(event & select.POLLERR for _, event in events):
                self._udp.discard_transmit_times()
            return [datagram.data for datagram in self._udp.receive()] if events else []
        except OSError as error:
            raise network_error(error) from error

    def close(self) -> None:
        """Close the socket."""
        self._udp.close()


def examine(
    target: Target,
    trust: Trust,
    *,
    server_name: str | None = None,
    family: int = 0,
    timeout: float = 2.0,
    verifier: Verifier | None = None,
) -> Report:
    """Examine one server, at the first of its addresses that answers. Raises TSQError where there is no connection at all."""
    tls.check_trust(trust, timeout)
    name = server_name or target.host
    failure: TSQError | None = None
    for address in resolve(target, family):
        # Bound early: each address has a site of its own.
        site = Site(
            lambda address=address: SocketWire(address),  # type: ignore[misc]
            lambda ticket: tls.client_configuration(name, trust, ticket=ticket),
            timeout=timeout,
        )
        try:
            return run(site, verifier, [name.encode(), target.host.encode()])
        except TransportError as error:
            failure = failure or error
    assert failure is not None
    raise failure
