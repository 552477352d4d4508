"""A chain of servers: a reference, a tsqd that follows it beside a tsq-server, and another such pair that follows the first one.

All of them are real processes with this machine's clock, which nothing touches (mode = "observe"). So the true offset is 0, and the
error that a client learns must be as large as the errors of all before.
"""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.chronyd import until
from tests.support.daemon import configuration, tsqd
from tests.support.processes import BIN, ServerProcess, run_client
from tsq.client.blocking import query
from tsq.client.exchange import Rules
from tsq.host.keepers.tsqd import Report, ask_status
from tsq.options import ClientOptions, Target, Trust
from tsq.timing.server_state import ServerState


class Host:
    """A tsqd that follows a server, and a tsq-server that asks it, until the end of the `with`."""

    def __init__(self, directory: Path, source: Target, certificates) -> None:
        directory.mkdir()
        self.control = directory / "control"
        self.authority = certificates.authority
        self._config = configuration(directory, [str(source)], ca=certificates.authority, mode="observe")
        self._options = [
            "--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key, "--clock-state", "tsqd",
            "--tsqd", self.control,
        ]  # fmt: skip

    @contextmanager
    def running(self) -> Iterator["Host"]:
        log = self._config.parent / "log"
        with log.open("wb") as errors, subprocess.Popen(list(map(str, tsqd(self._config))), stderr=errors) as self.daemon:
            try:
                with ServerProcess(self._options, claims=False) as self.server:
                    yield self
            finally:
                self.daemon.kill()

    @property
    def target(self) -> Target:
        return self.server.target

    def report(self) -> ServerState:
        """What its server reports of the clock."""
        trust = Trust(ca_file=str(self.authority))
        result = query(self.target, ClientOptions(count=1, trust=trust), rules=Rules())
        return next(sample.server for sample in result.samples if sample.server is not None)

    def known(self) -> Report | None:
        """What its daemon reports, once it is synchronized."""
        found = ask_status(str(self.control))
        return found if found is not None and found.stratum else None


@pytest.fixture
def reference(certificates) -> Iterator[Target]:
    """A server that claims stratum 1 and an error of 0.4 ms."""
    options = ["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key, "--local-error", "0.0004"]
    with ServerProcess(options) as server:
        yield server.target


def test_a_chain_of_two_has_true_strata_and_errors_that_add_up(tmp_path, certificates, reference):
    with Host(tmp_path / "first", reference, certificates).running() as first:
        until(first.known)
        # The first sample may be a poor one.
        one = until(lambda: (found := first.report()).stratum and found.error < 0.1 and found)
        assert (one.stratum, one.leap) == (2, 0)
        assert one.source == f"tsqd {reference}"
        assert one.error > 0.0004
        with Host(tmp_path / "second", first.target, certificates).running() as second:
            until(second.known)
            two = until(lambda: (found := second.report()).stratum and found.error < 0.2 and found)
            assert (two.stratum, two.leap) == (3, 0)
            assert two.error > 0.0004
            # The bound of `tsqctl tracking` holds at a reading; what the server says holds for some seconds.
            known = second.known()
            assert known is not None
            assert known.root_delay / 2 + known.root_dispersion > 0.0004
            done = run_client(str(second.target), "--ca", second.authority, "--count", "3", "--interval", "0.05", "--json")
            assert done.returncode == 0, done.stderr
            seen = json.loads(done.stdout)
            assert seen["hosts"][0]["stratum"] == seen["selection"]["stratum"] == 3
            best = seen["selection"]
            assert abs(best["offset"]) <= best["root_distance"]
            assert best["root_distance"] > two.error / 2

            # The one in the middle hangs: its server says so, although the daemon has not ended.
            first.daemon.send_signal(signal.SIGSTOP)
            assert until(lambda: (found := first.report()).stratum == 0 and found).leap == 3
            # It goes on.
            first.daemon.send_signal(signal.SIGCONT)
            until(lambda: first.report().stratum == 2)
            # The last one is killed.
            second.daemon.kill()
            assert until(lambda: (found := second.report()).stratum == 0 and found).leap == 3
        assert "according to tsqd" in second.server.errors
        assert "not synchronized (tsqd)" in second.server.errors


def test_only_a_tsqd_that_steers_is_asked_unless_it_is_named(tmp_path, certificates, reference):
    """Beside a tsqd that observes, another program keeps the clock, or none."""
    with Host(tmp_path / "first", reference, certificates).running() as first:
        until(first.known)
        command = [BIN / "tsq-server", "--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key,
                   "--tsqd", first.control]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
            assert server.stdout.readline()
            server.terminate()
            _, log = server.communicate(timeout=20)
    assert "tsqd" not in log.replace("tsqctl", "")
