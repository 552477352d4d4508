"""tsq-client with several hosts, some of which lie: marks, reasons, the agreed time, exit status, the picture, the live view."""

import errno
import html
import json
import os
import pty
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from tests.cli.peers import Answer, Peer, closed_port, deaf_port
from tests.support.processes import BIN
from tests.support.shown import within, wrong_by
from tests.support.threads import ServerThread
from tsq._fast import clock_ns, pack_response, pack_tlvs
from tsq.cli.client import EXIT_FAILED, EXIT_NO_MAJORITY, EXIT_OK, EXIT_USAGE, main
from tsq.cli.watch import Watch
from tsq.client.blocking import query_all
from tsq.client.result import HostResult, selection
from tsq.errors import ConfigError, NoAnswer
from tsq.host.clock import clock_reading
from tsq.options import ClientOptions, Target
from tsq.quic.selfsigned import CertificateFiles
from tsq.report import chart
from tsq.timing.local_clock import ClockReading
from tsq.timing.sample import make_sample
from tsq.timing.selection import Selection
from tsq.timing.server_state import ServerState
from tsq.wire.message import ClockQuality, TimeSource, metadata_tlv

PATIENCE = 60
NOW_NS = 1_800_000_000_000_000_000


def telling(offset_ns: int = 0, *, error_us: int = 500, stratum: int = 2, **pairs: str) -> Answer:
    """A server whose clock is ahead by this, and what it says about itself."""
    word = [ClockQuality(3, error_us, 15000).tlv(), TimeSource(stratum, 3, "a clock\x1b[31m").tlv()]
    if pairs:
        word.append(metadata_tlv({f"tsq.{key}": value for key, value in pairs.items()}))

    def answer(nonce: bytes, request: bytes, number: int) -> list[bytes]:
        now = clock_ns() + offset_ns
        return [pack_response(nonce, now, now) + pack_tlvs(word)]

    return answer


@pytest.fixture
def peers(certificates) -> Iterator[Callable[..., list[str]]]:
    """Starts servers with these answers; the command line's hosts for them."""
    with ExitStack() as running:

        def start(*answers) -> list[str]:
            return [str(running.enter_context(Peer(certificates, answer)).target) for answer in answers]

        yield start


def ask(capsys, certificates, *arguments: str) -> tuple[int, list[str], str]:
    capsys.readouterr()
    status = main([*arguments, "--ca", str(certificates.authority), "--interval", "0"])
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err


def test_a_liar_among_four_is_named_and_the_time_is_that_of_the_others(peers, capsys, certificates):
    hosts = peers(telling(), telling(), telling(2_000_000_000, error_us=10), telling())
    status, lines, errors = ask(capsys, certificates, *hosts)
    assert (status, errors) == (EXIT_OK, "")
    marks = [line.split()[0] for line in lines[1:5]]
    assert sorted(marks) == ["*", "+", "+", "x"]
    assert marks[2] == "x"
    assert f"x {hosts[2]}: its interval does not overlap what the majority agrees on" in lines
    assert "3 of 4 sources agree; ± holds with up to 1 liar among them" in lines
    offset, bound = wrong_by(lines[-1])
    # One clock: the true offset is 0.
    assert abs(offset) <= bound < 0.5


def test_json_tells_the_same(peers, capsys, certificates):
    hosts = peers(telling(), telling(leap="1", smear="0"), telling(-2_000_000_000, error_us=10))
    status, lines, _ = ask(capsys, certificates, *hosts, "--json")
    content = json.loads(lines[0])
    assert status == EXIT_OK
    assert [host["unused"] for host in content["hosts"]] == [None, None, "FALSETICKER"]
    assert [host["leap"] for host in content["hosts"]] == [None, 1, None]
    assert content["hosts"][0]["source"] == "a clock\x1b[31m"
    chosen = content["selection"]
    assert chosen["low"] <= 0 <= chosen["high"]
    assert (chosen["compared"], chosen["survivors"], chosen["tolerated"], chosen["problem"]) == (3, 2, 1, None)


def test_two_of_four_liars_give_no_time_and_the_status_for_it(peers, capsys, certificates):
    hosts = peers(telling(), telling(2_000_000_000), telling(), telling(2_000_000_000))
    status, lines, _ = ask(capsys, certificates, *hosts)
    assert status == EXIT_NO_MAJORITY
    assert [line.split()[0] for line in lines[1:5]] == ["x"] * 4
    assert lines[-1] == "No time: no majority of the sources agrees on a time"


def test_a_lone_server_that_is_not_synchronized_gives_no_time(peers, capsys, certificates):
    (host,) = peers(telling(stratum=0, leap="3"))
    status, lines, _ = ask(capsys, certificates, host)
    assert status == EXIT_NO_MAJORITY
    assert lines[1].startswith(f"?  {host} ")
    assert lines[-2:] == [
        f"? {host}: says that its clock is not synchronized (stratum 0)", "No time: no source can be used",
    ]


def test_no_time_comes_before_some_failed(peers, capsys, certificates):
    hosts = peers(telling(), telling(2_000_000_000))
    assert ask(capsys, certificates, *hosts, "something.invalid")[0] == EXIT_NO_MAJORITY
    assert ask(capsys, certificates, hosts[0], "something.invalid")[0] == EXIT_FAILED


def test_the_same_server_by_two_names_counts_once(peers, capsys, certificates):
    (host,) = peers(telling())
    port = host.rpartition(":")[2]
    status, lines, _ = ask(capsys, certificates, host, f"localhost:{port}", "-4")
    assert status == EXIT_OK
    assert [line.split()[0] for line in lines[1:3]] == ["*", "?"]
    assert f"? localhost:{port}: is the same server as another one" in lines


def test_what_an_unknown_error_is_taken_for_is_the_user_s_choice(server, capsys, certificates):
    for option, assumed in ((["--server-error", "0.25"], "250.000 ms"), ([], "10.000 ms")):
        _, lines, _ = ask(capsys, certificates, str(server.target), *option)
        if "unknown" in lines[1]:
            assert f"server's own error unknown: {assumed} assumed" in lines[-2]
    with pytest.raises(SystemExit):
        main(["127.0.0.1", "--server-error", "2"])
    assert "0 to 1 second" in capsys.readouterr().err


def test_the_result_holds_for_the_moment_at_which_it_is_printed_and_says_so(peers, capsys, certificates, monkeypatch):
    hosts = peers(telling(error_us=1))
    # An hour after the last sample.
    reading = clock_reading()
    late = replace(reading, at_ns=reading.at_ns + 3600 * 10**9, frequency=0.0, synchronized=True)
    monkeypatch.setattr("tsq.cli.client.clock_reading", lambda: late)
    _, lines, _ = ask(capsys, certificates, *hosts)
    when = datetime.fromtimestamp(late.at_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S")
    assert f"holds at {when}." in lines[3]
    _, bound = wrong_by(lines[-1])
    assert bound > 15e-6 * 3600
    _, lines, _ = ask(capsys, certificates, *hosts, "--json")
    content = json.loads(lines[0])
    assert content["selection"]["at_ns"] == content["hosts"][0]["at_ns"] == late.at_ns
    assert content["selection"]["root_distance"] > 15e-6 * 3600


def test_a_clock_that_is_slewed_while_it_is_asked_is_told_and_corrected_for(peers, capsys, certificates, monkeypatch):
    hosts = peers(telling(error_us=1))

    def slewed():
        # 50 ms in the ten seconds after the last sample.
        reading = clock_reading()
        return replace(reading, at_ns=reading.at_ns + 10**10, difference_ns=reading.difference_ns + 50_000_000)

    monkeypatch.setattr("tsq.cli.client.clock_reading", slewed)
    _, lines, errors = ask(capsys, certificates, *hosts)
    assert re.search(r"client: this clock was being slewed by \+50\d\d ppm while it was measured \(\+50\.0\d\d ms in all\)", errors)
    offset, bound = wrong_by(lines[-1])
    assert abs(offset + 0.05) <= bound < 0.01
    _, lines, _ = ask(capsys, certificates, *hosts, "--json")
    assert "slewed" in json.loads(lines[0])["notices"][0]


# ----------------------------------------------------------------------------------------------------------- the picture


def test_plot_draws_a_picture(peers, capsys, certificates, tmp_path):
    pytest.importorskip("matplotlib")
    hosts = peers(telling(), telling(), telling(2_000_000_000))
    status, _, errors = ask(capsys, certificates, *hosts, "--plot", str(tmp_path / "offsets.png"))
    assert (status, errors) == (EXIT_OK, "")
    data = (tmp_path / "offsets.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n")
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    assert 600 < width < 2000
    assert 200 < height < 1000


@pytest.mark.parametrize(("suffix", "begin"), [(".PNG", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_the_suffix_says_what_is_written(tmp_path, suffix, begin):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"offsets{suffix}"
    chart.check(str(path))
    assert not path.exists()
    chart.draw(selection([result("a", 0)]), str(path))
    assert path.read_bytes().startswith(begin)
    chart.check(str(path))
    assert path.read_bytes().startswith(begin)


@pytest.mark.parametrize("kind", ["FIFO", "symbolic link", "hard link", "device"])
def test_what_is_no_picture_of_its_own_is_refused_before_any_server_is_asked_and_left_as_it_is(tmp_path, capsys, kind):
    pytest.importorskip("matplotlib")
    path, elsewhere = tmp_path / "x.png", tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    if kind == "device" and os.geteuid() != 0:
        pytest.skip("only root can make a device")
    make = {
        "FIFO": lambda: os.mkfifo(path),
        "symbolic link": lambda: path.symlink_to(elsewhere),
        "hard link": lambda: os.link(elsewhere, path),
        "device": lambda: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3)),
    }
    make[kind]()
    before = path.lstat()
    with pytest.raises(SystemExit) as end:
        main(["something.invalid", "--plot", str(path)])
    assert end.value.code == EXIT_USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tsq-client: error: plot file {path}: it ")
    assert kind in line
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert elsewhere.read_text() == "precious"


def test_an_old_picture_keeps_its_mode_and_stays_whole_on_a_full_disk(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    path = tmp_path / "x.svg"
    chart.draw(selection([result("a", 0)]), str(path))
    path.chmod(0o640)
    old = path.read_bytes()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(ConfigError, match=f"plot file {path}: No space left on device"):
            chart.draw(selection([result("b", 0)]), str(path))
    assert path.read_bytes() == old
    chart.draw(selection([result("b", 0)]), str(path))
    assert path.read_bytes() != old
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["x.svg"]


def result(name: str, offset_ns: int, error: float = 1e-4, failed: str = "") -> HostResult:
    """A host's result by a path of 100 µs: its interval is 150 µs to either side of its offset."""
    if failed:
        return HostResult(Target(name), error=NoAnswer(failed))
    word = ServerState(NOW_NS, stratum=2, error=error)
    sample = make_sample(NOW_NS, NOW_NS + 50_000 + offset_ns, NOW_NS + 50_000 + offset_ns, NOW_NS + 100_000, server=word)
    return HostResult(Target(name), address=name, samples=(sample,))


def words_of(chosen: Selection, path: Path) -> list[str]:
    """The texts of a picture; matplotlib notes each beside its shapes."""
    chart.draw(chosen, str(path))
    return [html.unescape(text) for text in re.findall(r"<!-- (.*?) -->", path.read_text())]


def test_a_picture_has_every_host_with_its_interval_or_why_it_has_none(tmp_path):
    pytest.importorskip("matplotlib")
    chosen = selection([result("a", 0), result("b$", 0), result("dead", 0, failed="nothing came"), result("liar", 182 * 10**9)])
    words = words_of(chosen, tmp_path / "x.svg")
    assert {"a:443  *", "b$:443  +", "dead:443  ?", "liar:443  x"} <= {each.replace("\\", "") for each in words}
    assert "no time: nothing came" in words
    assert any(re.fullmatch(r"\+182\.000000 ± 0\.00015\d s", each) for each in words)
    assert "2 of 3 sources agree: clock wrong by +0.000 ± 150.005 µs" in words
    assert "x contradicts the majority" in words
    assert any(re.fullmatch(r"offset in µs, measured by .+ at \S+ \S+ UTC; positive: its clock is behind", each) for each in words)


def test_a_picture_without_a_majority_does_not_say_who_is_wrong(tmp_path):
    pytest.importorskip("matplotlib")
    words = words_of(selection([result("a", 0), result("b", 10**9)]), tmp_path / "x.svg")
    assert "No time: the two sources contradict each other" in words
    assert "x no majority: unknown whether it is right" in words
    assert not any("contradicts the majority" in each for each in words)


@pytest.mark.parametrize(
    "offsets_ns",
    [
        [0, 0, 0, 300_000_000],
        [0, 300_000_000, 182_000_000_000],
        [182_000_000_000, -300_000_000, 0],
        [5_000_000_000, 0, 5_000_010_000],
        [0],
    ],
)
def test_intervals_are_wide_enough_to_be_seen_however_far_others_are_off(offsets_ns):
    chosen = selection([result(str(number), offset_ns) for number, offset_ns in enumerate(offsets_ns)])
    intervals = [verdict.interval for verdict in chosen.verdicts]
    view = chart._view(chart._middle(chosen, intervals), intervals)
    whole = [one for one in intervals if view.low < one.low and one.high < view.high]
    # Where most of them meet; with nothing to choose between, what is nearest to this clock.
    assert len(whole) == max(sum(one.overlaps(other) for other in intervals) for one in intervals)
    assert all(one.high - one.low > 0.2 * (view.high - view.low) for one in whole)


def test_without_matplotlib_the_extra_is_named_before_any_server_is_asked(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(ConfigError, match=r"tsq-time\[plot\]"):
        chart.check("x.png")
    with pytest.raises(SystemExit) as end:
        main(["something.invalid", "--plot", "x.png"])
    assert end.value.code == EXIT_USAGE
    assert "pip install 'tsq-time[plot]'" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------- the live view


@pytest.fixture
def interruptible() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def read_until(descriptor: int, pattern: str) -> str:
    shown = ""
    while not re.search(pattern, shown, re.DOTALL):
        try:
            part = os.read(descriptor, 65536)
        except OSError:
            part = b""
        assert part, f"ended before {pattern!r}:\n{shown}"
        shown += part.decode()
    return shown


@pytest.mark.usefixtures("interruptible")
def test_watch_on_a_terminal_redraws_and_ends_with_the_final_table(server):
    master, slave = pty.openpty()
    command = [BIN / "tsq-client", str(server.target), "--ca", server.ca, "--watch", "--interval", "0.05"]
    process = subprocess.Popen(command, stdout=slave, stderr=slave, env=os.environ | {"COLUMNS": "200", "LINES": "40"})
    try:
        os.close(slave)
        # Drawn, taken back, drawn again.
        shown = read_until(master, r"Ctrl-C ends\r\n\033\[\d+A\033\[JM +host.*Ctrl-C ends\r\n")
        process.send_signal(signal.SIGINT)
        shown += read_until(master, r"\(ignored\)\r\n$")
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait(PATIENCE)
        os.close(master)
    assert process.returncode == EXIT_OK
    final = re.split(r"\033\[\d+A\033\[J", shown)[-1].splitlines()
    assert final[0].split()[:2] == ["M", "host"]
    assert final[-1].startswith("System clock wrong by")
    assert "Ctrl-C ends" not in final
    assert "ended after" not in shown


@pytest.mark.usefixtures("interruptible")
def test_watch_on_a_terminal_shows_hosts_that_are_tried_and_that_failed(server):
    master, slave = pty.openpty()
    with closed_port() as bad, deaf_port() as (deaf, _):
        hosts = [str(bad), str(deaf), str(server.target)]
        command = [BIN / "tsq-client", *hosts, "--ca", server.ca, "--watch", "--interval", "0.05", "--timeout", "60"]
        process = subprocess.Popen(command, stdout=slave, stderr=slave, env=os.environ | {"COLUMNS": "200", "LINES": "40"})
        try:
            os.close(slave)
            # At once, before anybody answered.
            shown = read_until(master, r"Ctrl-C ends\r\n")
            assert [f"? {host}: gave no time: no answer yet" for host in hosts] == shown.splitlines()[:3]
            view = rf"\?  {bad}( +-){{9}}\r\n\?  {deaf}( +-){{9}}\r\n\*  {server.target} .*"
            reasons = rf"\? {bad}: gave no time: nothing listens [^\r]*\r\n\? {deaf}: gave no time: no answer yet\r\n"
            read_until(master, rf"J[^\033]*{view}{reasons}[^\033]*Ctrl-C ends\r\n")
            process.send_signal(signal.SIGINT)
            rest = read_until(master, r"\(ignored\)\r\n$")
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait(PATIENCE)
            os.close(master)
    assert process.returncode == EXIT_FAILED
    assert f"? {deaf}: gave no time: stopped before an answer came\r\n" in rest


def test_a_line_of_a_watch_comes_with_a_sample_and_holds_for_the_moment_at_which_it_is_printed(capsys):
    old = result("a", 0)
    late_ns = NOW_NS + 5 * 10**9
    slow = make_sample(late_ns, late_ns + 90_000, late_ns + 90_000, late_ns + 180_000)
    readings = iter([ClockReading(NOW_NS + 1_000_000, 0, synchronized=True), ClockReading(late_ns + 10**9, 0, synchronized=True)])
    shown = Watch(0.0, 0.01, lambda: next(readings))
    shown._period = 0.0
    for results in ([], [replace(old, samples=())], [old], [old], [replace(old, samples=(*old.samples, slow))]):
        shown.changed(lambda results=results: results)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["08:00:00", "08:00:06"]
    bounds = [within(line)[0][1] for line in lines]
    # The old one's bound has aged: 15 ppm of 6 s.
    assert bounds == [pytest.approx(151e-6, abs=1e-6), pytest.approx(241e-6, abs=1e-6)]


def test_a_watch_goes_on_line_by_line_after_the_clock_was_set_back(capsys):
    earlier_ns = NOW_NS - 3600 * 10**9
    after = make_sample(earlier_ns, NOW_NS + 90_000, NOW_NS + 90_000, earlier_ns + 180_000)
    shown = Watch(0.0, 0.01, lambda: ClockReading(earlier_ns + 10**9, 0, synchronized=True))
    shown._period = 0.0
    old = result("a", 0)
    for results in ([old], [replace(old, samples=(*old.samples, after))], [replace(old, samples=(*old.samples, after, after))]):
        shown.changed(lambda results=results: results)
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize("hosts", [1, 2])
def test_a_library_that_watches_is_told_of_the_start_and_of_failures(hosts):
    seen: list[str] = []
    with closed_port() as first, closed_port() as second:
        targets = [first, second][:hosts]
        query_all(targets, ClientOptions(), on_change=lambda snapshot: seen.extend(each.error.found for each in snapshot()))
    assert seen[:hosts] == ["no answer yet"] * hosts
    assert all(words.startswith("nothing listens") for words in seen[-hosts:])


@contextmanager
def watching(server: ServerThread, certificates: CertificateFiles, hosts: int) -> Iterator[subprocess.Popen[str]]:
    """tsq-client --watch of one host or two, elsewhere than on a terminal."""
    with ExitStack() as running:
        targets = [str(server.target)]
        if hosts == 2:
            targets.append(str(running.enter_context(Peer(certificates, telling())).target))
        command = [BIN / "tsq-client", *targets, "--ca", server.ca, "--watch", "--interval", "0.01"]
        process = running.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("hosts", [1, 2])
def test_watch_elsewhere_prints_lines(server, certificates, hosts):
    with watching(server, certificates, hosts) as process:
        first = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == EXIT_OK
    assert errors == ""
    line = r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)  [+-]\d+\.\d{3} ± \d+\.\d{3} (?:µs|ms)  \S+( \S+)?\n"
    times = [re.fullmatch(line, each)[1] for each in first]
    assert all(earlier <= later for earlier, later in pairwise(times))
    assert "\033" not in rest
    assert rest.splitlines()[-1].startswith("System clock wrong by")


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("hosts", [1, 2])
def test_watch_ends_quietly_when_nobody_reads_on(server, certificates, hosts):
    with watching(server, certificates, hosts) as process:
        assert process.stdout.readline()
        process.stdout.close()
        process.wait(PATIENCE)
        assert process.stderr.read() == ""
    assert process.returncode == -signal.SIGPIPE


def test_watch_ends_by_itself_after_count_samples(server, capsys):
    assert main([str(server.target), "--ca", server.ca, "--watch", "--count", "3", "--interval", "0"]) == EXIT_OK
    assert " 3/3 " in capsys.readouterr().out


def test_watch_and_json_are_not_for_each_other(capsys):
    with pytest.raises(SystemExit) as end:
        main(["127.0.0.1", "--watch", "--json"])
    assert end.value.code == EXIT_USAGE
    assert "--watch together with --json" in capsys.readouterr().err
