"""A real tsqd, as a process, beside a real server: what it records is replayed bit for bit, and its metrics are scraped."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.chronyd import until
from tests.support.metrics import documented, parsed, scrape, value
from tests.support.ports import free_port
from tests.support.processes import ServerProcess
from tsq.daemon.measurements_log import BANNER
from tsq.daemon.replay import replay
from tsq.discipline.machine import Discipline
from tsq.options import Target


def test_what_a_daemon_records_is_replayed_and_what_it_knows_is_scraped(certificates, tmp_path):
    record, moved, log, port = tmp_path / "record", tmp_path / "record.1", tmp_path / "measurements.log", free_port()

    def polls(file: Path) -> int:
        return file.read_text().count('"type":"Polled"') if file.exists() else 0

    def polled(count: int) -> bool:
        assert daemon.poll() is None, (tmp_path / "errors").read_text()
        return polls(record) >= count

    arguments = ["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key]
    with ServerProcess(arguments) as server:
        config = tmp_path / "tsqd.toml"
        config.write_text(f"""
            [clock]
            mode = "observe"
            drift_file = ""
            [[source]]
            host = "{server.target}"
            server_name = "localhost"
            ca = "{certificates.authority}"
            minpoll = 0
            maxpoll = 0
            [feed]
            segment = ""
            [control]
            socket = ""
            [metrics]
            listen = "127.0.0.1:{port}"
            [log]
            record = "{record}"
            measurements = "{log}"
        """)
        config.chmod(0o644)
        command = [sys.executable, "-m", "tsq.cli.daemon", "--config", config]
        with (tmp_path / "errors").open("wb") as errors:
            daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, env=os.environ)
        try:
            until(lambda: polled(4))
            found = scrape(Target("127.0.0.1", port))
            page = documented("## Of tsqd: the clock", "## Of tsqd: each source", "## Of both: the process")
            assert parsed(found).keys() == page.keys()
            source = {"name": str(server.target), "address": "127.0.0.1"}
            assert value(found, "tsq_source_up", **source) == 1
            assert value(found, "tsq_source_polls_total", **source) >= 4
            assert value(found, "tsq_system_status", status="synchronized") == 1
            assert 0 < value(found, "tsq_system_bound_seconds") < 0.5
            # As logrotate does.
            record.rename(moved)
            daemon.send_signal(signal.SIGHUP)
            until(lambda: polled(2))
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(30) == 0, (tmp_path / "errors").read_text()
        finally:
            daemon.kill()
            daemon.wait()
    report = replay([str(moved), str(record)], Discipline)
    (run,) = report.runs
    assert run.first is None
    assert report.equal
    assert report.complete
    assert run.figures.polls == polls(moved) + polls(record)
    assert run.figures.status == "synchronized"
    lines = log.read_text()
    assert lines.startswith(BANNER)
    assert lines.count("127.0.0.1       N  1 111 111 1111") == run.figures.samples
    done = subprocess.run(
        [sys.executable, "-m", "tsq.cli.daemon", "--replay", record], capture_output=True, text=True, timeout=60, check=False
    )
    # `record.1` is found by its name.
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"EQUAL: the actions for all {run.events} events\n")
