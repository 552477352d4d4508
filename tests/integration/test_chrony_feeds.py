"""What a real chronyd (-x, own directory and ports) makes of the feeds: the offset, the stratum and the error that were given.

The clock of this machine is what it is; the daemon's status says that it is 3 ms behind, and chronyd must find the same.
"""

import asyncio
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import tsq
from tests.daemon.feeds import status
from tests.support.chronyd import Chronyd, needs_chronyd, until
from tests.support.clockbound import Client
from tests.support.ports import free_port
from tests.support.processes import ServerProcess
from tsq.daemon.feeds.ntp import NtpFeed
from tsq.daemon.feeds.shm import ShmFeed
from tsq.daemon.feeds.sock import SockFeed
from tsq.discipline.status import ClockStatus
from tsq.errors import NoBoundedTime
from tsq.host.segment import TimeStatus
from tsq.options import Target

OFFSET = 0.003

pytestmark = needs_chronyd


def chronyc(chronyd: Chronyd, command: str) -> list[list[str]]:
    """The lines of a report, each as its fields."""
    host, port = chronyd.command
    call = [shutil.which("chronyc"), "-c", "-n", "-h", host, "-p", str(port), command]
    done = subprocess.run(call, capture_output=True, text=True, timeout=60, check=False)
    return [line.split(",") for line in done.stdout.splitlines()]


def selected(chronyd: Chronyd) -> list[str] | None:
    """The source that chronyd synchronizes to: mode, state, name, stratum, poll, reach, last rx, adjusted, measured, error."""
    return next((source for source in chronyc(chronyd, "sources") if source[1] == "*"), None)


def tracking(chronyd: Chronyd) -> list[str]:
    """Reference ID, name, stratum, time, correction, last, rms, frequency, residual, skew, root delay, root dispersion, ..."""
    # chronyc waits some seconds at most for an answer.
    (report,) = until(lambda: chronyc(chronyd, "tracking"))
    return report


@contextmanager
def published(publish: Callable[[int], None]) -> Iterator[None]:
    """Publishes a new update of the clock all the time, as a daemon would."""
    ended = threading.Event()

    def run() -> None:
        updates = 0
        while not ended.wait(0.1):
            updates += 1
            publish(updates)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(20)


def finds_the_offset(chronyd: Chronyd) -> list[str]:
    """chronyd's report, once it knows that the clock is 3 ms behind. It corrects only its own idea of the clock (-x)."""
    return until(lambda: (report := tracking(chronyd)) and abs(float(report[4]) - OFFSET) < 1e-4 and report)


def check_refclock(chronyd: Chronyd) -> None:
    source = until(lambda: selected(chronyd))
    assert (source[0], source[2], source[3]) == ("#", "TSQ", "2")
    assert int(source[5], 8) & 1
    report = finds_the_offset(chronyd)
    assert report[2] == "3"
    # `delay` of the configuration.
    assert float(report[10]) == pytest.approx(0.002, abs=1e-4)
    assert until(lambda: (found := float(tracking(chronyd)[11])) < 0.1 and found) > 0


def refclock(driver: str) -> str:
    """As docs/howto/feed-chrony.md has it, with shorter poll intervals."""
    return f"refclock {driver} refid TSQ poll 0 filter 1 stratum 2 delay 0.002"


def test_chronyd_takes_sock_samples(tmp_path):
    path = tmp_path / "c" / "tsq.sock"
    feed = SockFeed(str(path))
    try:
        publishing = published(lambda updates: feed.publish(status(updates=updates)))
        with Chronyd(tmp_path / "c", refclock(f"SOCK {path}")) as chronyd, publishing:
            check_refclock(chronyd)
    finally:
        feed.close()


def test_fault_66_samples_go_on_after_a_restart_of_chronyd(tmp_path, caplog):
    path = tmp_path / "c" / "tsq.sock"
    feed = SockFeed(str(path))
    try:
        with published(lambda updates: feed.publish(status(updates=updates))):
            for _ in range(3):
                until(lambda: "No such file" in caplog.text or "Connection refused" in caplog.text)
                with Chronyd(tmp_path / "c", refclock(f"SOCK {path}")) as chronyd:
                    check_refclock(chronyd)
                caplog.clear()
    finally:
        feed.close()


@pytest.fixture
def unit() -> Iterator[int]:
    """A unit of NTP SHM that nothing else uses; removed afterwards."""
    number = random.SystemRandom().randrange(10_000, 1_000_000)
    yield number
    subprocess.run(["ipcrm", "-M", hex(0x4E545030 + number)], capture_output=True, timeout=20, check=False)


def test_chronyd_takes_shm_samples(tmp_path, unit):
    feed = ShmFeed(unit)
    try:
        publishing = published(lambda updates: feed.publish(status(updates=updates)))
        with publishing, Chronyd(tmp_path / "c", refclock(f"SHM {unit}:perm=0666") + " dpoll -1") as chronyd:
            check_refclock(chronyd)
    finally:
        feed.close()


@contextmanager
def serving(feed: NtpFeed, **changes) -> Iterator[None]:
    """The feed's server on an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(feed.start(), loop).result(20)
    try:
        with published(lambda updates: loop.call_soon_threadsafe(feed.publish, status(updates=updates, **changes))):
            yield
    finally:
        asyncio.run_coroutine_threadsafe(stop(feed), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()


async def stop(feed: NtpFeed) -> None:
    feed.close()


def test_chronyd_takes_the_time_of_the_ntp_server(tmp_path):
    feed = NtpFeed(Target("127.0.0.1", 0))
    with serving(feed):
        line = f"server 127.0.0.1 port {feed.address.port} iburst minpoll 0 maxpoll 0"
        with Chronyd(tmp_path / "c", line, unix_socket=True) as chronyd:
            source = until(lambda: selected(chronyd))
            assert (source[0], source[2], source[3]) == ("^", "127.0.0.1", "2")
            report = finds_the_offset(chronyd)
            assert report[2] == "3"
            # The server's root delay and dispersion, and those of the way to it, as soon as neither end was kept waiting.
            assert until(lambda: (found := float(tracking(chronyd)[10])) < 0.006 and found) >= 0.004
            # chronyd begins with a dispersion of a second.
            assert until(lambda: (found := float(tracking(chronyd)[11])) < 0.1 and found) >= 0.001
            call = ["chronyc", "-n", "-h", chronyd.socket, "ntpdata"]

            def data() -> str:
                return subprocess.run(call, capture_output=True, text=True, timeout=60, check=False).stdout

            assert "Reference ID    : C0000207" in until(data)
            # One sample fails a test where its delay was much larger than those before.
            until(lambda: "NTP tests       : 111 111 1111" in data())
    assert feed.counters.get("ntp_answered") >= 3
    assert feed.counters.get("ntp_dropped") == 0


def test_chronyd_uses_no_unsynchronized_ntp_server(tmp_path):
    feed = NtpFeed(Target("127.0.0.1", 0))
    with serving(feed, status=ClockStatus.UNSYNCHRONIZED, stratum=0, leap=3):
        line = f"server 127.0.0.1 port {feed.address.port} iburst minpoll 0 maxpoll 0"
        with Chronyd(tmp_path / "c", line) as chronyd:
            until(lambda: feed.counters.get("ntp_answered") >= 4)
            (source,) = until(lambda: chronyc(chronyd, "sources"))
            assert (source[1], source[5]) == ("?", "0")


# ------------------------------------------------------------------------------------------------------- a whole daemon

CONFIG = """
[clock]
mode = "feed"
drift_file = ""
[[source]]
host = "{target}"
ca = "{authority}"
minpoll = 0
maxpoll = 0
[feed]
sock = ["{directory}/c/tsq.sock"]
segment = "{directory}/run/now"
clockbound = "{directory}/run/shm0"
[feed.ntp]
listen = "127.0.0.1:{port}"
[control]
socket = "{directory}/control"
"""


# Nanoseconds.
NARROW_NS = 100_000_000


def bounded(path: Path) -> tsq.BoundedTime | None:
    """The time by the segment, once it is known well."""
    try:
        found = tsq.now(str(path))
    except NoBoundedTime:
        return None
    return found if found.status is TimeStatus.SYNCHRONIZED and found.latest_ns - found.earliest_ns < NARROW_NS else None


def is_right(source: list[str]) -> bool:
    """Whether the last sample of a source came, and shows that the clock is right."""
    return bool(int(source[5], 8) & 1) and abs(float(source[8])) < 0.01


def test_a_real_tsqd_feeds_a_real_chronyd_and_readers_of_bounded_time(tmp_path, certificates):
    """The server has this machine's clock, so all of them must find that it is right."""
    port = free_port()
    options = ["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key, "--local-stratum", "1"]
    with ServerProcess(options) as server:
        target = f"127.0.0.1:{server.target.port}"
        config = CONFIG.format(target=target, authority=certificates.authority, directory=tmp_path, port=port)
        (tmp_path / "tsqd.toml").write_text(config)
        command = [sys.executable, "-c", "from tsq.cli.start import daemon; daemon()", "--config", tmp_path / "tsqd.toml"]
        with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as daemon:
            try:
                until(lambda: bounded(tmp_path / "run" / "now"))
                before = time.time_ns()
                earliest, latest, _ = tsq.now(str(tmp_path / "run" / "now"))
                assert earliest < time.time_ns()
                assert before < latest
                assert latest - earliest < 2 * NARROW_NS
                client = Client(tmp_path / "run" / "shm0")
                assert until(lambda: client.now()[2] == 1)
                ntp = f"server 127.0.0.1 port {port} iburst minpoll 0 maxpoll 0"
                with Chronyd(tmp_path / "c", refclock(f"SOCK {tmp_path}/c/tsq.sock"), ntp) as chronyd:
                    until(lambda: selected(chronyd))
                    refid, server_line = until(
                        lambda: (found := chronyc(chronyd, "sources")) and all(map(is_right, found)) and found
                    )
                    assert (refid[2], server_line[2], server_line[3]) == ("TSQ", "127.0.0.1", "2")
            finally:
                daemon.terminate()
                assert daemon.wait(60) == 0, (tmp_path / "log").read_text()


PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "howto" / "feed-chrony.md"
SNIPPETS = re.findall(r"^```conf\n(.*?)\n```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_page_has_a_snippet_for_each_way():
    assert [snippet.split()[:2] for snippet in SNIPPETS] == [["server", "127.0.0.1"], ["refclock", "SOCK"], ["refclock", "SHM"]]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: " ".join(snippet.split()[:2]))
def test_chronyd_takes_the_snippets_of_the_page(tmp_path, snippet, unit):
    snippet = snippet.replace("/run/chrony.tsq.sock", str(tmp_path / "c" / "tsq.sock")).replace("SHM 2:", f"SHM {unit}:")
    with Chronyd(tmp_path / "c", snippet) as chronyd:
        (source,) = until(lambda: chronyc(chronyd, "sources"))
        name = "127.0.0.1" if snippet.startswith("server") else "TSQ"
        assert source[2] == name
        if name == "TSQ":
            assert (source[0], source[4]) == ("#", "4")
