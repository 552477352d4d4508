"""The commands where the system gives less than usual: one line says what is missing, what still works goes on."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import tsq
from tests.support import denied
from tests.support.processes import BIN, ServerProcess, run_client
from tsq.errors import TransportError
from tsq.host import shortage

NO_CLOCK_CALLS = ("clock_adjtime", "adjtimex")
SO_TIMESTAMPNS, SO_TIMESTAMPING = 35, 37
needs_filter = pytest.mark.skipif(not denied.possible(), reason="system calls are not filtered on this kind of machine")


def limited(files: int, *command: object) -> subprocess.CompletedProcess[str]:
    """A command that may have so many open files."""
    shell = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *map(str, command)]
    return subprocess.run(shell, capture_output=True, text=True, timeout=60, check=False)


def without(calls: tuple[str, ...], *command: object) -> subprocess.CompletedProcess[str]:
    """A command under a filter of system calls."""
    words = [*denied.command(*calls), *map(str, command)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def serving(tmp_path):
    """A function: tsq-server behind this command, with these options; gives its first address, and its log."""

    @contextmanager
    def serving(command: list[str], options: list[object]) -> Iterator[tuple[str, Path]]:
        read, write = os.pipe()
        log = tmp_path / "server.log"
        with log.open("w") as errors:
            server = subprocess.Popen([*command, str(BIN / "tsq-server"), *map(str, options)], stdout=write, stderr=errors)
        os.close(write)
        with os.fdopen(read) as output:
            line = output.readline()
            try:
                assert line, log.read_text()
                yield line.split()[3], log
            finally:
                server.send_signal(signal.SIGTERM)
                assert server.wait(30) == 0

    return serving


# ------------------------------------------------------------------------------------------------------------ open files


@pytest.mark.parametrize("files", [5, 6, 8, 12, 15])
@pytest.mark.parametrize("command", ["tsq-client", "tsq-adjtime", "tsq-server"])
def test_with_too_few_open_files_for_anything_a_command_says_how_many_it_needs(command, files):
    run = limited(files, BIN / command, "127.0.0.1:9")
    advice = "raise the limit (ulimit -n)"
    assert run.stderr == f"{command}: error: this process may have {files} open files, and {command} needs 16: {advice}\n"
    assert (run.returncode, run.stdout) == (1, "")


@pytest.mark.parametrize("files", [16, 20, 31, 44, 60])
@pytest.mark.parametrize("command", [("tsq-client",), ("tsq-adjtime", "--dry-run")], ids=lambda item: item[0])
def test_as_many_hosts_are_asked_as_there_are_open_files_for(server, command, files):
    hosts = [server.target] * 14
    run = limited(files, BIN / command[0], *command[1:], "--count", 1, "--ca", server.ca, *hosts)
    asked = min(14, (files - 12) // 3)
    refused = [line for line in run.stderr.splitlines() if "not asked" in line]
    needed = shortage.files_for(14)
    why = f"not asked: this process may have {files} open files, and 14 hosts need {needed}"
    advice = "raise the limit (ulimit -n), or ask fewer hosts at a time"
    assert refused == [f"{command[0]}: {server.target}: {why}: {advice}"] * (14 - asked)
    assert "Traceback" not in run.stderr
    # One server under many names: the others are its duplicates.
    assert "System clock wrong by" in run.stdout


@pytest.mark.parametrize(("files", "addresses"), [(16, 1), (17, 1), (20, 4), (31, 8), (60, 30)])
def test_a_server_with_too_few_open_files_for_its_addresses_says_how_many_it_needs(certificates, files, addresses):
    listen = [*["--listen", "127.0.0.1:0"] * addresses, "--workers", "1"]
    run = limited(files, BIN / "tsq-server", *listen, "--cert", certificates.certificate, "--key", certificates.key)
    what = "listening at one address" if addresses == 1 else f"listening at {addresses} addresses"
    # Two sockets each, the second for newcomers.
    needed = 16 + 4 * addresses
    assert run.stderr == (
        f"tsq-server: ERROR: this process may have {files} open files, and {what} needs {needed}: raise the limit (ulimit -n)\n"
    )
    assert (run.returncode, run.stdout) == (1, "")


def test_workers_need_more_open_files_and_the_error_names_them(certificates):
    files = ["--cert", certificates.certificate, "--key", certificates.key]
    run = limited(20, BIN / "tsq-server", "--listen", "127.0.0.1:0", "--workers", "3", *files)
    what = "listening at one address with 3 workers needs 40"
    assert run.stderr == f"tsq-server: ERROR: this process may have 20 open files, and {what}: raise the limit (ulimit -n)\n"


def test_a_server_with_just_enough_open_files_serves_at_all_addresses(serving, certificates):
    listen = [*["--listen", "127.0.0.1:0"] * 8, "--workers", "1"]
    options = [*listen, "--cert", certificates.certificate, "--key", certificates.key, "--local-stratum", 1]
    with serving(["sh", "-c", 'ulimit -n 48; exec "$@"', "sh"], options) as (target, log):
        assert run_client(target, "--ca", certificates.authority, "--interval", "0").returncode == 0
    assert "ERROR" not in log.read_text()


def test_a_command_raises_its_own_limit_where_it_may(server):
    hosts = [server.target] * 14
    shell = ["sh", "-c", 'ulimit -S -n 16; exec "$@"', "sh", BIN / "tsq-client", "--ca", server.ca, "--count", "1"]
    run = subprocess.run([*shell, *map(str, hosts)], capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stderr) == (0, "")


# --------------------------------------------------------------------------------------------------------------- threads


@needs_filter
def test_hosts_for_which_no_thread_can_be_started_are_told(server):
    run = without(("clone", "clone3"), BIN / "tsq-client", "--ca", server.ca, server.target, server.target)
    advice = "raise the limit of processes (ulimit -u, or the container's) or of memory (ulimit -v)"
    assert run.stderr == f"tsq-client: {server.target}: not asked: no thread can be started: {advice}\n" * 2
    assert run.returncode == 1
    assert without(("clone", "clone3"), BIN / "tsq-client", "--ca", server.ca, server.target).returncode == 0


@needs_filter
def test_a_server_that_can_start_no_thread_serves_and_claims_what_its_operator_declares(serving, certificates):
    options = ["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key, "--local-stratum", 3]
    options += ["--workers", "1"]
    with serving(denied.command("clone", "clone3"), options) as (target, log):
        run = run_client(target, "--ca", certificates.authority, "--interval", "0")
    assert run.returncode == 0
    assert log.read_text().count("the state of this machine's clock is unknown: can't start new thread") == 1


# ------------------------------------------------------------------------------------------------------- address families


@needs_filter
@pytest.mark.parametrize(
    ("family", "name", "absent", "present"), [(10, "IPv6", "[::]:0", "127.0.0.1:0"), (2, "IPv4", "0.0.0.0:0", "[::1]:0")]
)
def test_a_machine_without_one_family_serves_the_other_and_says_so(serving, certificates, family, name, absent, present):
    files = ["--cert", certificates.certificate, "--key", certificates.key, "--local-stratum", 1]
    with serving(denied.command(f"socket:{family}"), ["--listen", absent, "--listen", present, *files]) as (target, log):
        assert run_client(target, "--ca", certificates.authority, "--interval", "0").returncode == 0
    warning = f"cannot listen on {absent}: there is no {name} here: leave this address out, or allow {name}"
    assert f"tsq-server: WARNING: {warning}; the other addresses are served\n" in log.read_text()
    alone = without((f"socket:{family}",), BIN / "tsq-server", "--listen", absent, *files)
    assert (alone.returncode, alone.stderr) == (2, f"tsq-server: error: {warning}\n")


@needs_filter
def test_a_client_without_ipv6_asks_by_ipv4(server):
    run = without(("socket:10",), BIN / "tsq-client", "--ca", server.ca, "--interval", 0, f"localhost:{server.target.port}")
    assert (run.returncode, run.stderr) == (0, "")


@needs_filter
@pytest.mark.parametrize(("family", "address"), [(10, "[::1]:9"), (2, "127.0.0.1:9")])
def test_an_address_of_a_family_that_is_not_there_cannot_be_reached(family, address):
    run = without((f"socket:{family}",), BIN / "tsq-client", "--insecure", address)
    why = "the address cannot be reached: there are no addresses of its kind on this machine"
    advice = "is IPv6, or IPv4, off here or forbidden to this process?"
    assert run.stderr.splitlines()[1:] == [f"tsq-client: {address}: {why}: {advice}"]
    assert run.returncode == 3


# ----------------------------------------------------------------------------------------------------------------- memory


def test_an_encoding_that_python_cannot_load_is_told_as_a_shortage():
    """Where memory or open files are short, Python says no more of it than this."""
    words = "a part of Python cannot be loaded: raise the limits of memory (ulimit -v) and of open files (ulimit -n)"
    assert shortage.explained(LookupError("unknown encoding: idna")) == words
    assert shortage.explained(KeyError("idna")) is None


def no_encoding(*arguments: object) -> None:
    raise LookupError("unknown encoding: idna")


def no_memory(*arguments: object) -> None:
    raise MemoryError


@pytest.mark.parametrize(
    ("fails", "words"),
    [(no_encoding, "a part of Python cannot be loaded"), (no_memory, "out of memory")],
    ids=["encoding", "memory"],
)
@pytest.mark.parametrize("hosts", [1, 2])
def test_a_name_that_cannot_be_looked_up_for_want_of_memory_is_its_hosts_error(monkeypatch, fails, words, hosts):
    monkeypatch.setattr(socket, "getaddrinfo", fails)
    results = tsq.query_all([tsq.parse_target("localhost")] * hosts, tsq.ClientOptions(trust=tsq.Trust(insecure=True)))
    assert [type(result.error) for result in results] == [TransportError] * hosts
    assert all(result.error.found.startswith(words) for result in results)


@pytest.mark.parametrize("name", ["a..b", ".a", "a" * 64, "ü" * 64])
def test_a_text_that_is_no_host_name_is_told_as_such(name):
    run = run_client(name, "--insecure")
    expected = "it is no host name (expected labels of 1 to 63 characters between the dots)"
    assert run.stderr.splitlines()[1:] == [f"tsq-client: {name}:443: no address for {name}: {expected}"]
    assert run.returncode == 5


# ------------------------------------------------------------------------------------------------------------------ /proc


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take /proc away")
def test_without_proc_a_clock_is_judged_and_who_keeps_it_is_not_known(server):
    bare = ["unshare", "--mount", "sh", "-c", 'umount -l /proc && exec "$@"', "sh"]
    if subprocess.run([*bare, "true"], capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("no namespace for mounts can be made here")
    command = [*bare, BIN / "tsq-adjtime", "--dry-run", "--ca", server.ca, "--interval", "0", server.target]
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in run.stderr
    assert run.returncode == 0
    assert "dry run: nothing was changed" in run.stdout


# ------------------------------------------------------------------------------------------------------------- timestamps


STAMPS = {
    "receive": ((f"setsockopt:{SO_TIMESTAMPNS}",), ("kernel", "user")),
    "send": ((f"setsockopt:{SO_TIMESTAMPING}",), ("user", "kernel")),
    "receive or send": ((f"setsockopt:{SO_TIMESTAMPNS}", f"setsockopt:{SO_TIMESTAMPING}"), ("user", "user")),
}


@needs_filter
@pytest.mark.parametrize("which", STAMPS)
def test_where_the_kernel_gives_no_timestamps_a_client_takes_its_own_and_says_so(server, which):
    calls, (sent, received) = STAMPS[which]
    run = without(calls, BIN / "tsq-client", "--ca", server.ca, "--interval", 0, "-v", server.target)
    words = f"the kernel gives no {which} times for datagrams here: they are taken in user space, which is less exact"
    assert (run.returncode, run.stderr) == (0, f"tsq-client: {server.target}: {words}\n")
    stamps = re.findall(r"T1 \d+ \((\w+)\) .* T4 \d+ \((\w+)\)", run.stdout)
    assert stamps == [(sent, received)] * 3


@needs_filter
@pytest.mark.parametrize("which", STAMPS)
def test_where_the_kernel_gives_no_timestamps_a_server_serves_without(serving, certificates, which):
    options = ["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key, "--local-stratum", 1]
    with serving(denied.command(*STAMPS[which][0]), options) as (target, log):
        run = run_client(target, "--ca", certificates.authority, "--interval", "0", "--count", "20", "-v")
    assert (run.returncode, run.stderr) == (0, "")
    assert ("exact T3" in run.stdout) == (which == "receive")
    assert log.read_text().count(f"the kernel gives no {which} times for datagrams here") == 1


# ------------------------------------------------------------------------------------------------------------ clock calls


@needs_filter
def test_where_the_kernel_may_not_be_asked_the_operators_stratum_is_claimed_and_one_line_says_why(serving, certificates):
    nowhere = ["--chrony", "127.0.0.1:9", "--chrony-socket", "/nonexistent", "--ntpd-rs", "/nonexistent"]
    options = ["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key, "--local-stratum", 4]
    with serving(denied.command(*NO_CLOCK_CALLS), [*options, *nowhere]) as (target, log):
        run = run_client(target, "--ca", certificates.authority, "--interval", "0")
    assert run.returncode == 0
    text = log.read_text()
    why = "a filter of system calls forbids clock_adjtime, which reads the kernel's state of the clock"
    assert text.count(f"WARNING: the state of this machine's clock is unknown: {why}") == 1
    assert text.count("clock is unknown") == 1
    assert "clock: stratum 4, error at most 0.000001 s, according to operator" in text


# ---------------------------------------------------------------------------------------------------------------- signals


def test_a_reload_that_is_asked_for_before_the_server_listens_is_done_when_it_does(certificates, tmp_path):
    stand_in = tmp_path / "argparse.py"
    # In the place of a module that the server loads: the signal comes in the middle of its start.
    stand_in.write_text(
        f"import os, signal, sys\nos.kill(os.getpid(), signal.SIGHUP)\nsys.path.remove({str(tmp_path)!r})\n"
        "del sys.modules['argparse']\nimport argparse\nsys.modules[__name__] = argparse\nglobals().update(vars(argparse))\n"
    )
    arguments = ["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key]
    with ServerProcess(arguments, PYTHONPATH=str(tmp_path)) as server:
        assert run_client(server.target, "--ca", certificates.authority, "--interval", "0").returncode == 0
        assert server.stop() == 0
    assert server.errors.count("INFO: certificate reloaded") == 1


# ------------------------------------------------------------------------------------------------------------- host names


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a process a host name of its own")
@pytest.mark.parametrize("name", ["büro-pc", "a" * 64, "under_score", "(none)", "a..b", "host."])
def test_a_server_with_a_certificate_of_its_own_serves_whatever_the_hosts_name_is(serving, tmp_path, name):
    renamed = ["unshare", "--uts", "sh", "-c", 'printf %s "$0" >/proc/sys/kernel/hostname && exec "$@"', name]
    if subprocess.run([*renamed, "true"], capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("no namespace for host names can be made here")
    options = ["--listen", "127.0.0.1:0", "--self-signed", tmp_path / "lab", "--local-stratum", 1]
    with serving(renamed, options) as (target, log):
        run = run_client(target, "--ca", tmp_path / "lab" / "ca.pem", "--interval", "0")
    assert (run.returncode, run.stderr) == (0, "")
    unusable = name in ("a" * 64, "a..b")
    assert ("cannot stand in a certificate: the certificate is for addresses and localhost" in log.read_text()) == unusable
