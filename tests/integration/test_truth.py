"""What a real tsq-server reports about its clock, with a real chronyd (-x, on other ports): unsynchronized before chronyd has a
source, then chronyd's state, and stratum 0 again after chronyd has ended.
"""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.chronyd import Chronyd, needs_chronyd, until
from tests.support.ports import free_port
from tests.support.processes import BIN
from tsq.client.blocking import query
from tsq.client.exchange import Rules
from tsq.host.keepers.chrony import ask_tracking
from tsq.options import ClientOptions, Target, Trust, parse_target
from tsq.timing.server_state import ServerState


class ReportingServer:
    """A tsq-server that queries only this chronyd, until the end of the `with`."""

    def __init__(self, certificates, command: tuple[str, int], *options: str) -> None:
        self._certificates = certificates
        self._options = [
            "--listen", "127.0.0.1:0", "--cert", str(certificates.certificate), "--key", str(certificates.key),
            "--clock-state", "chrony", "--chrony", f"{command[0]}:{command[1]}", "--chrony-socket", "/nonexistent", *options,
        ]

    def __enter__(self) -> "ReportingServer":
        self._process = subprocess.Popen(
            [BIN / "tsq-server", *self._options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
        )
        self._target = parse_target(self._process.stdout.readline().split()[3])
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self.log = self._process.communicate(timeout=20)[1]

    def report(self) -> ServerState:
        """What the server reports about its clock now."""
        trust = Trust(ca_file=str(self._certificates.authority))
        result = query(Target("127.0.0.1", self._target.port), ClientOptions(count=1, trust=trust), rules=Rules())
        return next(sample.server for sample in result.samples if sample.server is not None)


@pytest.fixture
def reference(tmp_path: Path):
    """A chronyd that serves NTP, as a reference of stratum 3."""
    port = free_port()
    # chronyd uses the last `port` line.
    with Chronyd(tmp_path / "reference", f"port {port}", "bindaddress 127.0.0.1", "allow 127.0.0.1", "local stratum 3"):
        yield port


@needs_chronyd
def test_stratum_0_until_chronyd_is_synchronized_then_its_report_and_0_when_it_is_gone(tmp_path, certificates, reference):
    source = f"server 127.0.0.1 port {reference} iburst minpoll 0 maxpoll 0"
    with Chronyd(tmp_path / "lost") as lost, ReportingServer(certificates, lost.command) as server:
        before = server.report()
        assert (before.stratum, before.leap) == (0, 3)
    assert "not synchronized (chrony)" in server.log
    running = Chronyd(tmp_path / "client", source)
    with ReportingServer(certificates, running.command) as server:
        assert server.report().stratum == 0
        with running:
            report = until(lambda: (found := ask_tracking(running.command, "/nonexistent")) and found.stratum and found)
            state = until(lambda: (found := server.report()).stratum and found)
            assert state.stratum == report.stratum == 4
            assert state.leap == 0
            assert state.source == "chrony 127.0.0.1"

            def agree() -> bool:
                """Whether chronyd's report has changed little since the server's: its first measurements may be poor ones."""
                said, report = server.report(), ask_tracking(running.command, "/nonexistent")
                own = abs(report.correction) + report.root_dispersion + report.root_delay / 2
                return 0 < own < 0.1 and said.error == pytest.approx(own, rel=0.9, abs=1e-3)

            until(agree)
        assert until(lambda: server.report().stratum == 0)
    assert "stratum 4" in server.log
    assert "according to chrony" in server.log


@needs_chronyd
def test_local_stratum_of_chrony_is_a_declared_source(tmp_path, certificates):
    with Chronyd(tmp_path / "chrony", "local stratum 5") as running, ReportingServer(certificates, running.command) as server:
        state = server.report()
    assert (state.stratum, state.leap, state.source_type) == (5, 0, 4)


def test_what_the_operator_declares(certificates):
    options = ("--local-stratum", "1", "--local-source", "ptp", "--local-error", "0.0000005")
    with ReportingServer(certificates, ("127.0.0.1", free_port()), *options) as server:
        state = server.report()
    assert (state.stratum, state.leap, state.source_type, state.source) == (1, 0, 2, "operator")
    assert 5e-7 <= state.error < 1e-3


def test_a_server_that_queries_no_program_reports_nothing(certificates):
    command = [
        BIN / "tsq-server", "--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key,
        "--clock-state", "none",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        target = parse_target(process.stdout.readline().split()[3])
        trust = Trust(ca_file=str(certificates.authority))
        result = query(target, ClientOptions(count=1, trust=trust), rules=Rules(metadata_query=True))
        process.send_signal(signal.SIGTERM)
    assert [sample.server for sample in result.samples] == [None]
