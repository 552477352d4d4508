"""A server's metrics: they follow what clients do, and the page describes what is exported."""

import asyncio
import re

import pytest

import tsq
from tests.cli.peers import DAY, NOW, Authority
from tests.support.metrics import PROCESS, documented, parsed, scrape, value
from tests.support.processes import ServerProcess
from tsq.errors import CertificateError, ConfigError
from tsq.host.keepers.sync_state import HostClock, Keeper
from tsq.options import ClientOptions, LocalClock, Target, Trust
from tsq.quic.router import Limits
from tsq.quic.secrets import Secrets
from tsq.quic.selfsigned import CertificateFiles
from tsq.server.driver import Server
from tsq.server.metrics import ServerMetrics

LOCAL = HostClock(Keeper.KERNEL, local=LocalClock(3, error=0.004))


def server(certificates: CertificateFiles, **settings) -> Server:
    return Server(["127.0.0.1:0"], str(certificates.certificate), str(certificates.key), **{"host_clock": LOCAL, **settings})


def verified(certificates: CertificateFiles, count: int = 3) -> ClientOptions:
    return ClientOptions(count=count, interval=0.0, trust=Trust(ca_file=str(certificates.authority)), server_name="localhost")


def test_everything_that_is_exported_is_on_the_page_and_nothing_else(certificates):
    async def main() -> str:
        async with server(certificates) as running:
            return ServerMetrics(running, version="1.2.3").text()

    found = parsed(asyncio.run(main()))
    page = documented("## Of tsq-server", PROCESS)
    assert {name: one.type for name, one in found.items()} == {name: kind for name, (kind, _) in page.items()}
    for name, one in found.items():
        assert one.samples, name
        assert {tuple(sorted(sample.labels)) for sample in one.samples} == {tuple(sorted(page[name][1]))}, name


def test_they_follow_what_a_client_does(certificates):
    async def main() -> None:
        async with server(certificates) as running:
            metrics = ServerMetrics(running, version="1.2.3")
            metrics.start(Target("127.0.0.1", 0))
            before = await asyncio.to_thread(scrape, metrics.address)
            assert value(before, "tsq_server_answered_total") == 0
            assert value(before, "tsq_server_handshakes_total", result="failed") == 0
            result = await tsq.aquery(running.addresses[0], verified(certificates, 5))
            assert len(result.samples) == 5
            with pytest.raises(CertificateError):
                await tsq.aquery(running.addresses[0], ClientOptions(count=1))
            while not running.counters.get("handshakes", "failed"):
                await asyncio.sleep(0)
            after = await asyncio.to_thread(scrape, metrics.address)
            assert value(after, "tsq_server_info", version="1.2.3") == 1
            # The last answer's exact T3 may need one more request; one that waits for long is repeated.
            answered = running.counters.get("answered")
            assert 5 <= answered < 10
            assert value(after, "tsq_server_answered_total") == answered
            assert value(after, "tsq_server_requests_total", mode="datagram") == answered
            assert value(after, "tsq_server_requests_total", mode="stream") == 0
            assert value(after, "tsq_server_received_total") > 5
            assert value(after, "tsq_server_handshakes_total", result="full") == 1
            assert value(after, "tsq_server_handshakes_total", result="failed") == 1
            assert value(after, "tsq_server_stratum") == 3
            assert value(after, "tsq_server_clock_error_seconds") == pytest.approx(0.004, rel=0.5)
            assert value(after, "tsq_server_certificate_expiry_seconds") == running.certificate_expiry
            assert value(after, "tsq_server_draining") == value(after, "tsq_server_secrets_stale") == 0
            metrics.close()

    asyncio.run(main())


def test_a_server_that_drains_and_one_without_its_secrets_say_so(certificates, tmp_path):
    file = tmp_path / "secrets"
    file.write_text("0" * 64)
    file.chmod(0o600)

    async def main() -> None:
        async with server(certificates, secrets=Secrets.from_file(file)) as running:
            metrics = ServerMetrics(running)
            file.write_text("no secret")
            running.reload()
            await running.drain(1.0)
            assert value(metrics.text(), "tsq_server_draining") == 1
            assert value(metrics.text(), "tsq_server_secrets_stale") == 1
            file.write_text("1" * 64)
            running.reload()
            assert value(metrics.text(), "tsq_server_secrets_stale") == 0

    asyncio.run(main())


def test_the_time_from_t3_to_the_transmit_timestamp_is_measured(certificates):
    async def main() -> None:
        async with server(certificates) as running:
            await tsq.aquery(running.addresses[0], verified(certificates, 20))
            found = ServerMetrics(running).text()
            delay, count = running.send_delay
            assert value(found, "tsq_server_authdelay_seconds_sum") == delay
            assert value(found, "tsq_server_authdelay_seconds_count") == count
            # The client asks for the exact T3 of its responses, and the kernel has transmit timestamps.
            assert count > 0
            assert 0 < delay < count * 1.0

    asyncio.run(main())


def test_what_is_dropped_has_its_reason(certificates):
    async def main() -> str:
        async with server(certificates, data_plane=False, limits=Limits(max_connections=1)) as running:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, remote_addr=(running.addresses[0].host, running.addresses[0].port)
            )
            transport.sendto(b"\x40\x00")
            while not running.counters.get("dropped"):
                await asyncio.sleep(0)
            transport.close()
            running.counters.add("unsent", "no room in the socket, or unreachable", 2)
            running.counters.add("unanswered", "malformed request", 3)
            running.counters.add("refused")
            return ServerMetrics(running).text()

    found = asyncio.run(main())
    assert value(found, "tsq_server_dropped_total", what="datagram", reason="too short for a QUIC packet") == 1
    assert value(found, "tsq_server_dropped_total", what="datagram", reason="unknown version") == 0
    assert value(found, "tsq_server_dropped_total", what="request", reason="malformed request") == 3
    assert value(found, "tsq_server_dropped_total", what="response", reason="no room in the socket, or unreachable") == 2
    assert value(found, "tsq_server_refused_total") == 1
    assert value(found, "tsq_server_authdelay_seconds_count") == 0


def test_a_server_that_asks_nobody_about_its_clock_says_nothing_about_it(certificates):
    async def main() -> str:
        async with server(certificates, host_clock=HostClock(Keeper.NONE)) as running:
            return ServerMetrics(running).text()

    found = parsed(asyncio.run(main()))
    assert found["tsq_server_stratum"].samples == found["tsq_server_clock_error_seconds"].samples == []


def test_32_a_certificate_that_has_expired_or_was_reloaded_shows_in_the_metric(tmp_path):
    authority = Authority()
    files = authority.issue(tmp_path, not_after=NOW - DAY)

    async def main() -> None:
        async with server(files) as running:
            metrics = ServerMetrics(running)
            assert value(metrics.text(), "tsq_server_certificate_expiry_seconds") == (NOW - DAY).timestamp()
            authority.issue(tmp_path, not_after=NOW + 9 * DAY)
            assert running.reload()
            assert value(metrics.text(), "tsq_server_certificate_expiry_seconds") == (NOW + 9 * DAY).timestamp()

    asyncio.run(main())


def test_the_command_serves_them_and_says_where(certificates):
    arguments = [
        "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key,
    ]  # fmt: skip
    with ServerProcess(arguments) as process:
        line = process.process.stdout.readline()
        address = re.fullmatch(r"tsq-server: metrics at http://127\.0\.0\.1:(\d+)/metrics\n", line)
        found = scrape(Target("127.0.0.1", int(address[1])))
        assert value(found, "tsq_server_info", version=tsq.__version__) == 1
        assert value(found, "tsq_server_stratum") == 1
        assert value(found, "process_open_fds") > 3
        assert process.stop() == 0


def test_an_address_for_metrics_that_is_taken_is_a_usage_error(certificates):
    async def main() -> tuple[int, str]:
        async with server(certificates) as running:
            metrics = ServerMetrics(running)
            metrics.start(Target("127.0.0.1", 0))
            arguments = [
                "--listen", "127.0.0.1:0", "--metrics", str(metrics.address), "--cert", certificates.certificate, "--key",
                certificates.key,
            ]  # fmt: skip
            failed = await asyncio.to_thread(ended, arguments)
            with pytest.raises(ConfigError):
                ServerMetrics(running).start(metrics.address)
            metrics.close()
            return failed

    status, errors = asyncio.run(main())
    assert status == 2
    assert "cannot serve metrics at 127.0.0.1:" in errors


def ended(arguments: list) -> tuple[int, str]:
    """A tsq-server that cannot start: its status, and what it says."""
    process = ServerProcess(arguments)
    try:
        with process:
            # The line of the time's own address comes first.
            process.process.wait(60)
            process.stop()
    except AssertionError as error:
        return process.process.wait(60), str(error)
    return process.process.returncode, process.errors
