"""tsq-client with several hosts, some of which lie: marks, reasons, the agreed time, exit status, the picture, the live view."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise

import pytest

from tests.cli.peers import Answer, Peer
from tests.support.processes import BIN
from tsq import plot
from tsq._fast import clock_ns, pack_response, pack_tlvs
from tsq.cli.client import EXIT_FAILED, EXIT_NO_MAJORITY, EXIT_OK, EXIT_USAGE, main
from tsq.errors import ConfigError
from tsq.wire.message import ClockQuality, TimeSource, metadata_tlv

PATIENCE = 60


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
    offset, bound = re.fullmatch(r"System clock wrong by (\S+) ± (\S+) seconds \(ignored\)", lines[-1]).groups()
    # One clock: the true offset is 0.
    assert abs(float(offset)) <= float(bound) < 0.5


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


def test_a_picture_that_cannot_be_written_says_so(peers, capsys, certificates, tmp_path):
    pytest.importorskip("matplotlib")
    status, lines, errors = ask(capsys, certificates, *peers(telling()), "--plot", str(tmp_path / "nowhere" / "x.png"))
    assert status == EXIT_USAGE
    assert lines[-1].startswith("System clock wrong by")
    assert "No such file or directory: name a file that can be written" in errors


def test_without_matplotlib_the_extra_is_named_before_anybody_is_asked(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(ConfigError, match=r"tsq\[plot\]"):
        plot.check()
    with pytest.raises(SystemExit) as end:
        main(["something.invalid", "--plot", "x.png"])
    assert end.value.code == EXIT_USAGE
    assert "pip install 'tsq[plot]'" in capsys.readouterr().err


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
@pytest.mark.parametrize("hosts", [1, 2])
def test_watch_elsewhere_prints_lines(server, certificates, hosts):
    with ExitStack() as running:
        targets = [str(server.target)]
        if hosts == 2:
            targets.append(str(running.enter_context(Peer(certificates, telling())).target))
        command = [BIN / "tsq-client", *targets, "--ca", server.ca, "--watch", "--interval", "0.01"]
        process = running.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        try:
            first = [process.stdout.readline() for _ in range(3)]
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == EXIT_OK
    assert errors == ""
    line = r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)  [+-]\d\.\d{6} ± \d\.\d{6} s  \S+( \S+)?\n"
    times = [re.fullmatch(line, each)[1] for each in first]
    assert all(earlier <= later for earlier, later in pairwise(times))
    assert "\033" not in rest
    assert rest.splitlines()[-1].startswith("System clock wrong by")


def test_watch_ends_by_itself_after_count_samples(server, capsys):
    assert main([str(server.target), "--ca", server.ca, "--watch", "--count", "3", "--interval", "0"]) == EXIT_OK
    assert " 3/3 " in capsys.readouterr().out


def test_watch_and_json_are_not_for_each_other(capsys):
    with pytest.raises(SystemExit) as end:
        main(["127.0.0.1", "--watch", "--json"])
    assert end.value.code == EXIT_USAGE
    assert "--watch together with --json" in capsys.readouterr().err
