"""tsq-server: how many workers it has, and with which sockets."""

import errno
import logging
import os
import re
import socket
import subprocess
import sys

import pytest

import tsq
from tests.cli.test_server import options, serve  # noqa: F401 - a fixture
from tests.server.test_service import LAUNCH, SERVER
from tests.support.processes import BIN
from tests.support.workers import Workers
from tests.support.workers import options as client_options
from tsq.cli import workers
from tsq.errors import ConfigError
from tsq.host import reuseport
from tsq.options import Target

ADDRESS = Target("127.0.0.1", 0)


@pytest.mark.parametrize("text", ["0", "129", "-1", "1.5", "many", "²"])
def test_a_number_of_workers_that_is_none_is_refused(serve, certificates, text):  # noqa: F811
    run = serve(*options(certificates, "--workers", text))
    assert run.status == 2
    assert f"argument --workers: {text!r} (expected a number from 1 to 128)" in run.err


@pytest.mark.parametrize("text", ["-1", "3601", "soon", "nan"])
def test_a_drain_limit_that_is_none_is_refused(serve, certificates, text):  # noqa: F811
    assert "argument --drain-limit: " in serve(*options(certificates, f"--drain-limit={text}")).err


def test_there_are_as_many_workers_as_processors(monkeypatch):
    monkeypatch.setattr(workers, "usable_cores", lambda: 3)
    assert workers.worker_count(None) == 3
    assert workers.worker_count(7) == 7
    monkeypatch.setattr(workers, "usable_cores", lambda: 64)
    assert workers.worker_count(None) == 16


def test_one_worker_needs_no_group():
    assert workers.worker_groups([ADDRESS], [], 1, asked=True) is None


def test_an_address_has_two_sockets_for_each_place_of_a_worker():
    groups = workers.worker_groups([ADDRESS, Target("::1", 0)], [], 3, asked=True)
    # Two generations, and as many sockets again for newcomers.
    assert [len(group) for group in groups] == [12, 12]
    for group in groups:
        assert len({one.getsockname() for one in group}) == 1
    workers.close_groups(groups)


@pytest.mark.parametrize("number", [errno.ENOPROTOOPT, errno.EPERM, errno.EINVAL])
def test_where_the_kernel_cannot_steer_one_process_serves_and_says_so(monkeypatch, caplog, number):
    def refuse(member: socket.socket, program: bytes) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(reuseport, "attach", refuse)
    with caplog.at_level(logging.WARNING):
        assert workers.worker_groups([ADDRESS], [], 4, asked=True) is None
    assert f"one worker, not 4: the kernel cannot steer packets to workers (SO_ATTACH_REUSEPORT_CBPF: {os.strerror(number)})" in (
        caplog.text)


def test_an_address_that_is_in_use_is_named_and_nothing_stays_open(serve, certificates):  # noqa: F811
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        files = ["--cert", certificates.certificate, "--key", certificates.key, "--workers", "2"]
        run = serve("--listen", "127.0.0.1:0", "--listen", f"127.0.0.1:{other.getsockname()[1]}", *files)
    assert run.status == 2
    assert "Address already in use: another program has the port" in run.err


def test_a_second_server_does_not_join_the_group_of_the_first(tmp_path, certificates):
    files = ["--cert", certificates.certificate, "--key", certificates.key]
    with Workers(tmp_path, ["--listen", "127.0.0.1:0", *files]) as server:
        command = [BIN / "tsq-server", "--listen", str(server.target), *files, "--workers", "2"]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 2
    assert "Address already in use" in second.stderr


# -------------------------------------------------------------------------------------------- sockets of a service manager


def passed(count: int, *, share: bool = True) -> list[socket.socket]:
    made: list[socket.socket] = []
    for _ in range(count):
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, share)
        one.bind(made[0].getsockname() if made else ("127.0.0.1", 0))
        made.append(one)
    return made


@pytest.mark.parametrize(("count", "words"), [(1, "passed 1 socket for "), (3, "passed 3 sockets for ")])
def test_too_few_sockets_of_a_service_manager(caplog, count, words):
    sockets = passed(count)
    with pytest.raises(ConfigError, match=rf"{words}.*, and 2 workers need 4.*name each address 4 times, with ReusePort=yes"):
        workers.worker_groups([], sockets, 2, asked=True)
    # By default, that is no fault.
    with caplog.at_level(logging.INFO):
        assert workers.worker_groups([], sockets, 2, asked=False) is None
    assert f"one worker: the service manager {words}" in caplog.text
    workers.close_groups([sockets])


def test_sockets_of_a_service_manager_that_are_enough_are_used(certificates, tmp_path):
    sockets = passed(4)
    (group,) = workers.worker_groups([], sockets, 2, asked=True)
    assert group == sockets
    files = ["--cert", str(certificates.certificate), "--key", str(certificates.key)]
    arguments = ["tsq-server", *files, "--local-stratum", "1", "--workers", "2"]
    fds = [one.fileno() for one in sockets]
    command = [sys.executable, "-c", LAUNCH, "", SERVER.format(arguments=arguments), *map(str, fds)]
    log = tmp_path / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(command, pass_fds=fds, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        target = re.search(r"listening on (\S+)", process.stdout.readline())[1]
        workers.close_groups([sockets])
        for _ in range(6):
            assert tsq.query(target, client_options(certificates.authority, count=2, interval=0.01)).good == 2
        process.terminate()
        assert process.wait(30) == 0, log.read_text()
    finally:
        process.kill()
        process.communicate()
