"""Fixtures of all tests. In CI (CI=true) a skipped test is a failure: everything that tests need is installed there.
No test can set this machine's clock: the process that runs them gives up what it takes, before any of them is loaded.
"""

import os
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support.harmless import give_up_the_clock
from tests.support.processes import ServerProcess
from tests.support.threads import ServerThread
from tsq.quic.selfsigned import CertificateFiles, self_signed

give_up_the_clock()
# How long an example takes says nothing on a machine that does other work, too.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")
if os.environ.get("LC_ALL") in ("C", "POSIX"):
    # The commands would write "+/-" in place of "±".
    os.environ["LC_ALL"] = "C.UTF-8"
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell starts its background jobs so, and every command that a test starts would ignore the interrupts that it sends.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    """A throw-away CA and a certificate for localhost, 127.0.0.1 and ::1."""
    return self_signed(str(tmp_path_factory.mktemp("certificates")), ["localhost", "127.0.0.1", "::1"])


@pytest.fixture
def server(certificates: CertificateFiles) -> Iterator[ServerThread]:
    """A server on a free loopback port, in a thread of this process."""
    with ServerThread(["127.0.0.1:0"], certificates) as running:
        yield running


@pytest.fixture
def server_process(certificates: CertificateFiles) -> Iterator[ServerProcess]:
    """A real tsq-server process on a free loopback port."""
    with ServerProcess(["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key]) as running:
        yield running


@pytest.fixture(scope="session")
def system_trust() -> Path | None:
    """The system's trust store, where there is one."""
    name = ssl.get_default_verify_paths().cafile
    return None if name is None else Path(name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    """Say in CI which tests were skipped: they count as failures."""
    del exitstatus, config
    for report in _forbidden_skips(terminalreporter):
        terminalreporter.write_line(f"SKIPPED IN CI: {report.nodeid}: {report.longrepr}", red=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A skip in CI is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == 0 and reporter is not None and _forbidden_skips(reporter):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _forbidden_skips(reporter: pytest.TerminalReporter) -> list[pytest.TestReport]:
    if os.environ.get("CI") != "true":
        return []
    # pytest-benchmark skips its own when tests are run, which is what was asked for.
    return [report for report in reporter.stats.get("skipped", []) if "--benchmark" not in str(report.longrepr)]
