"""The NTP server: every field of a response (RFC 5905 §7.3), what is dropped, the time that it gives when the clock is wrong."""

import asyncio
import hashlib
import socket
import struct
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.daemon.feeds import status
from tsq._fast import clock_ns, ntp_from_ns
from tsq.daemon.feeds.ntp import NtpFeed, Responder, reference_id
from tsq.discipline.status import ClockStatus, Tracking
from tsq.errors import ConfigError
from tsq.options import Target

SECOND = 1_000_000_000
REAL_NS = 1_790_000_000 * SECOND
RAW_NS = 5_000 * SECOND
NTP_UNIX = 2_208_988_800
GUARD = 30.0


@dataclass(frozen=True)
class Packet:
    """A response, read from the layout."""

    leap: int
    version: int
    mode: int
    stratum: int
    poll: int
    precision: int
    root_delay: float
    root_dispersion: float
    reference_id: bytes
    reference: float
    origin: int
    receive: float
    transmit: float


def unpack(data: bytes) -> Packet:
    """Times are Unix seconds, as exact as a float is; origin is left as it is."""
    assert len(data) == 48
    head, stratum, poll, precision, delay, dispersion, reference_id, *times = struct.unpack("!BBbbII4sQQQQ", data)
    reference, receive, transmit = (times[at] / 2**32 - NTP_UNIX if times[at] else 0.0 for at in (0, 2, 3))
    return Packet(
        head >> 6, head >> 3 & 7, head & 7, stratum, poll, precision, delay / 65536, dispersion / 65536, reference_id, reference,
        times[1], receive, transmit,
    )


def request(head: int = 0x23, poll: int = 6, transmit: int = 0x0123456789ABCDEF, more: bytes = b"") -> bytes:
    return struct.pack("!BBbb36xQ", head, 0, poll, 0, transmit) + more


class Machine:
    """A responder and the clocks of its machine. offset: of the clock, seconds."""

    def __init__(self, **changes) -> None:
        self.real_ns, self.raw_ns = REAL_NS, RAW_NS
        self.responder = Responder(read=lambda: (self.raw_ns, 0, 0, self.real_ns))
        if changes.pop("updated", True):
            self.update(**changes)

    def update(self, **changes) -> None:
        known = {"updated_real_ns": self.real_ns - 3 * SECOND}
        tracking = status(real_ns=self.real_ns, raw_ns=self.raw_ns, **{**known, **changes}).tracking
        self.responder.update(tracking)

    def wait(self, seconds: float, drift: float = 0.0) -> None:
        self.raw_ns += round(seconds * 1e9)
        self.real_ns += round(seconds * (1 + drift) * 1e9)

    def ask(self, ago: float = 0.0, **fields) -> Packet:
        """What a request gets that the clock received so long ago."""
        data = self.answer(request(**fields), self.real_ns - round(ago * 1e9))
        assert data is not None
        return unpack(data)

    def answer(self, data: bytes, received_ns: int) -> bytes | None:
        begun = self.responder.begin(data, received_ns)
        return None if begun is None else begun.ended(self.raw_ns)


# ------------------------------------------------------------------------------------------------------------- responses


@pytest.mark.draft("9-7")
def test_all_fields_of_a_response():
    machine = Machine(stratum=3, leap=1, root_delay=0.25, root_dispersion=0.125)
    packet = machine.ask(ago=0.001, poll=-3)
    assert (packet.leap, packet.version, packet.mode, packet.stratum, packet.poll) == (1, 4, 4, 3, -3)
    assert -30 <= packet.precision <= -10
    assert (packet.root_delay, packet.root_dispersion) == (0.25, 0.125)
    assert packet.reference_id == bytes([192, 0, 2, 7])
    assert packet.origin == 0x0123456789ABCDEF
    # The clock is 3 ms behind; what is served is not.
    assert packet.reference == pytest.approx(REAL_NS / 1e9 - 3 + 0.003, abs=1e-6)
    assert packet.receive == pytest.approx(REAL_NS / 1e9 - 0.001 + 0.003, abs=1e-6)
    assert packet.transmit == pytest.approx(REAL_NS / 1e9 + 0.003, abs=1e-6)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_the_version_is_the_client_s(version):
    assert Machine().ask(head=version << 3 | 3).version == version


@pytest.mark.parametrize(
    "changes",
    [
        {"status": ClockStatus.FROZEN}, {"offset": None}, {"stratum": 0},
        {"stratum": 16}, {"leap": 3}, {"updated": False},
    ],
    ids=str,
)
def test_an_unsynchronized_clock_says_so(changes):
    packet = Machine(**changes).ask()
    assert (packet.leap, packet.stratum, packet.reference_id, packet.reference) == (3, 16, bytes(4), 0.0)
    assert packet.root_dispersion > 65535
    assert packet.transmit == pytest.approx(REAL_NS / 1e9, abs=1e-6)


def test_a_clock_that_becomes_unsynchronized_says_so_and_comes_back():
    machine = Machine()
    assert machine.ask().leap == 0
    machine.wait(1)
    machine.update(status=ClockStatus.UNSYNCHRONIZED, stratum=0, leap=3)
    assert (machine.ask().leap, machine.ask().stratum) == (3, 16)
    machine.wait(1)
    machine.update(status=ClockStatus.HOLDOVER)
    assert (machine.ask().leap, machine.ask().stratum) == (0, 2)


def test_the_root_dispersion_grows_with_the_age_of_what_is_known():
    machine = Machine(root_dispersion=0.5, bound_rate=1e-6)
    machine.wait(1000)
    assert machine.ask().root_dispersion == pytest.approx(0.5 + 1000 * 15e-6, abs=2**-16)
    machine = Machine(root_dispersion=0.5, bound_rate=100e-6)
    machine.wait(1000)
    assert machine.ask().root_dispersion == pytest.approx(0.5 + 1000 * 100e-6, abs=2**-16)


def test_errors_are_rounded_up_and_have_an_end():
    packet = Machine(root_delay=1e-9, root_dispersion=1e-9).ask()
    assert packet.root_delay == packet.root_dispersion == 2**-16
    packet = Machine(root_delay=1e9, root_dispersion=1e9).ask()
    assert packet.root_delay == packet.root_dispersion == (2**32 - 1) / 65536


def test_the_time_is_that_of_the_raw_clock_whatever_is_done_to_the_system_clock():
    machine = Machine(frequency=50e-6)
    machine.wait(100, drift=-400e-6)
    true = REAL_NS / 1e9 + 0.003 + 100 * (1 + 50e-6)
    packet = machine.ask(ago=0.002)
    assert packet.transmit == pytest.approx(true, abs=1e-6)
    assert packet.receive == pytest.approx(true - 0.002, abs=1e-6)
    # Somebody steps the clock.
    machine.real_ns += 3600 * SECOND
    assert machine.ask().transmit == pytest.approx(true, abs=1e-6)


def test_a_new_estimate_is_reached_without_a_jump_and_counted_until_then():
    machine = Machine(root_dispersion=0.25)
    machine.update(offset=0.003, root_dispersion=0.25)
    machine.wait(1)
    machine.update(offset=0.004, root_dispersion=0.25)
    packet = machine.ask()
    assert packet.transmit == pytest.approx(machine.real_ns / 1e9 + 0.003, abs=1e-6)
    assert packet.root_dispersion == pytest.approx(0.251, abs=2**-16)
    machine.wait(2.5)
    assert machine.ask().transmit == pytest.approx(machine.real_ns / 1e9 + 0.0035, abs=1e-6)
    machine.wait(2.5)
    packet = machine.ask()
    assert packet.transmit == pytest.approx(machine.real_ns / 1e9 + 0.004, abs=1e-6)
    assert packet.root_dispersion == pytest.approx(0.25 + 5 * 15e-6, abs=2**-16)


@pytest.mark.parametrize("ago", [-0.001, 1.001, 1e6])
def test_a_receive_time_of_another_clock_is_not_used(ago):
    machine = Machine()
    assert machine.ask(ago=ago).receive == pytest.approx(REAL_NS / 1e9 + 0.003, abs=1e-6)


def test_the_reference_time_is_not_after_the_receive_time():
    packet = Machine(updated_real_ns=REAL_NS + SECOND).ask(ago=0.5)
    assert packet.reference == packet.receive
    assert Machine(updated_real_ns=0).ask().reference == 0.0


def test_the_second_era_of_ntp():
    """After 2036-02-07 06:28:16 the timestamps begin again at 0."""
    machine = Machine(updated=False)
    machine.real_ns = (2**32 - NTP_UNIX + 10) * SECOND
    machine.update()
    packet = machine.ask()
    assert packet.transmit + NTP_UNIX == pytest.approx(10.003, abs=1e-6)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("203.0.113.9", bytes([203, 0, 113, 9])), ("2001:db8::7", None), ("", b"TSQ\0"), ("time.example.com", b"TSQ\0"),
        ("127.0.0.1", b"TSQ\0"), ("::1", b"TSQ\0"), ("0.0.0.0", b"TSQ\0"),
    ],
)
def test_reference_ids(address, expected):
    if expected is None:
        expected = hashlib.md5(socket.inet_pton(socket.AF_INET6, address)).digest()[:4]
    tracking: Tracking = replace(status().tracking, reference_address=address)
    assert reference_id(tracking) == expected


# --------------------------------------------------------------------------------------------------------- what is dropped


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "short"), (request()[:47], "short"), (request(head=0x03), "version"), (request(head=0x2B), "version"),
        *[(request(head=0x20 | mode), "mode") for mode in (0, 1, 2, 4, 5, 6, 7)],
    ],
)
def test_what_is_no_request_is_dropped_and_counted(data, reason):
    machine = Machine()
    assert machine.answer(data, REAL_NS) is None
    assert machine.responder.counters.snapshot() == {"ntp_received": 1, f"ntp_dropped: {reason}": 1}


@given(st.binary(max_size=120))
def test_no_response_is_larger_than_its_request(data):
    machine = Machine()
    for candidate in (data, request(more=data), b"\x23" + data):
        response = machine.answer(candidate, REAL_NS)
        assert response is None or len(response) == 48 <= len(candidate)
    counts = machine.responder.counters
    assert counts.get("ntp_received") == 3 == counts.get("ntp_answered") + counts.get("ntp_dropped")


# ----------------------------------------------------------------------------------------------------------- on a socket


async def exchange(address: Target, data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect((address.host, address.port))
        await loop.sock_sendall(client, data)
        return await loop.sock_recv(client, 2000)


def served(scenario, host: str = "127.0.0.1", **changes):
    """Runs a scenario with a server on a free port."""

    async def main():
        feed = NtpFeed(Target(host, 0))
        await feed.start()
        feed.publish(status(**changes))
        try:
            async with asyncio.timeout(GUARD):
                return await scenario(feed)
        finally:
            feed.close()
            feed.close()

    return asyncio.run(main())


@pytest.mark.draft("9-6", "9-13")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_server_on_loopback_gives_the_true_time(host):
    async def scenario(feed):
        before = clock_ns()
        packet = unpack(await exchange(feed.address, request()))
        return before, packet, clock_ns()

    before, packet, after = served(scenario, host)
    assert before / 1e9 - 1e-6 <= packet.receive - 0.003 <= packet.transmit - 0.003 <= after / 1e9 + 1e-6
    assert packet.origin == 0x0123456789ABCDEF


def test_bad_requests_do_not_end_the_server():
    async def scenario(feed):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for data in (b"", b"x", bytes(48), request(head=0x2B), bytes(3000)):
                client.sendto(data, (feed.address.host, feed.address.port))
        packet = unpack(await exchange(feed.address, request()))
        assert packet.stratum == 2
        return feed.counters.snapshot()

    # The one of 3000 bytes does not fit into the buffers, and is no request.
    assert served(scenario) == {
        "ntp_answered": 1, "ntp_dropped: short": 2, "ntp_dropped: version": 2, "ntp_received": 5
    }


def test_an_address_that_is_in_use_is_an_error_of_the_configuration():
    async def scenario(feed):
        with pytest.raises(ConfigError, match="in use"):
            await NtpFeed(feed.address).start()

    served(scenario)


def test_a_closed_server_answers_no_more():
    async def scenario(feed):
        address = feed.address
        feed.close()
        with pytest.raises(ConnectionRefusedError):
            await exchange(address, request())

    served(scenario)


def test_the_transmit_time_is_that_of_the_estimate_at_the_moment_of_sending():
    machine = Machine()
    begun = machine.responder.begin(request(), REAL_NS)
    for later in (0, 123_456):
        assert begun.ended(RAW_NS + later)[-8:] == ntp_from_ns(REAL_NS + 3_000_000 + later).to_bytes(8)
