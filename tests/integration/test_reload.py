"""A running tsqd takes up a changed configuration: only what changed is touched, and a wrong one changes nothing."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import contextmanager

from tests.support.daemon import configuration, tsqctl, tsqd
from tests.support.processes import ServerProcess


class Running:
    """A tsqd that observes; `place` has its files."""

    def __init__(self, place, process: subprocess.Popen) -> None:
        self.place, self.process = place, process

    def ask(self, *words: str) -> dict:
        done = self.command(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def command(self, *words: str) -> subprocess.CompletedProcess:
        return subprocess.run(tsqctl(self.place, *words), capture_output=True, text=True, timeout=30, check=False)

    def sources(self) -> dict[str, dict]:
        return {source["name"]: source for source in self.ask("sources")["sources"]}

    def until(self, found: Callable[[dict[str, dict]], object]) -> dict[str, dict]:
        """The sources, as soon as they are so."""
        deadline = time.monotonic() + 60
        while True:
            sources = self.sources()
            if found(sources):
                return sources
            assert time.monotonic() < deadline, sources


@contextmanager
def running(place, log):
    with open(log, "w") as errors:
        process = subprocess.Popen(tsqd(place / "tsqd.toml"), stderr=errors)
    try:
        it = Running(place, process)
        deadline = time.monotonic() + 60
        while it.command("activity").returncode:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
        yield it
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def test_a_reload_touches_only_what_changed_and_a_wrong_one_nothing(tmp_path, certificates):
    server = ["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key]
    log = tmp_path / "log"
    with ServerProcess(server) as a, ServerProcess(server) as b:
        names = [str(a.target), str(b.target)]
        path = configuration(tmp_path, names, ca=certificates.authority, mode="observe")
        text = path.read_text()
        with running(tmp_path, log) as daemon:
            before = daemon.until(lambda sources: all(source["samples"] >= 3 for source in sources.values()))
            segment = (tmp_path / "now").stat().st_ino

            # One source is slower, another feed begins, and a file of measurements.
            first, _, last = text.rpartition("minpoll = 0\nmaxpoll = 0")
            path.write_text(f"{first}minpoll = 3\nmaxpoll = 3{last}\n[log]\nmeasurements = 'm.log'\nlevel = 'info'\n".replace(
                "[feed]\n", "[feed]\nclockbound = 'shm0'\n"))
            assert daemon.command("reload").stdout == f"changed: {names[1]}; changed: [feed], [log]\n"
            after = daemon.until(lambda sources: sources[names[1]]["poll"] == 3)
            for name in names:
                assert after[name]["samples"] >= before[name]["samples"]
                assert after[name]["polls"] >= before[name]["polls"]
            assert (tmp_path / "now").stat().st_ino == segment
            # Written with the next status.
            daemon.until(lambda _: (tmp_path / "shm0").exists() and (tmp_path / "m.log").exists())

            # What cannot change at run time.
            good = path.read_text()
            path.write_text(good.replace('mode = "observe"', 'mode = "steer"'))
            assert daemon.command("reload").stdout == "`clock.mode` stays observe until a restart, which is necessary for steer\n"
            assert daemon.ask("tracking")["mode"] == "observe"

            # Mistakes.
            path.write_text(good.replace("minpoll = 3", "minpol = 3").replace('mode = "observe"', "mode = observe"))
            refused = daemon.command("reload")
            assert refused.returncode == 1
            assert f'{path}:2: not TOML: invalid value (column 8), expected text in quotes: "observe"' in refused.stderr
            assert "did you mean `source.minpoll`?" in refused.stderr
            assert daemon.sources()[names[1]]["poll"] == 3
            daemon.process.send_signal(signal.SIGHUP)
            daemon.until(lambda _: log.read_text().count("the configuration stays as it was: ") == 2)
            told = [line for line in log.read_text().splitlines() if "the configuration stays as it was: " in line]
            assert "tsqd.toml:2: not TOML" in told[0]
            assert "did you mean `source.minpoll`?" in told[1]

            # By signal: a source is gone, the other one goes on.
            kept = daemon.sources()[names[0]]
            path.write_text(good.rpartition("[[source]]")[0])
            daemon.process.send_signal(signal.SIGHUP)
            left = daemon.until(lambda sources: names[1] not in sources)
            assert list(left) == [names[0]]
            assert left[names[0]]["samples"] >= kept["samples"]
            assert left[names[0]]["polls"] >= kept["polls"]
    assert f"removed: {names[1]}" in log.read_text()
