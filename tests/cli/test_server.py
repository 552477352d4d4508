"""tsq-server: usage and files that cannot be used, signals, reload, what it says of itself and of its certificate."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

import tsq
from tests.cli.peers import NOW, Authority
from tests.support.processes import BIN, ServerProcess, run_client
from tsq.cli.server import _duration as duration
from tsq.cli.server import main
from tsq.errors import ConnectionLost
from tsq.options import ClientOptions, Trust
from tsq.quic.selfsigned import CertificateFiles

OK, USAGE, CERTIFICATE = 0, 2, 4


class Run(NamedTuple):
    """What a command gave."""

    status: int
    out: str
    err: str


Serve = Callable[..., Run]


@pytest.fixture
def serve(capsys: pytest.CaptureFixture[str]) -> Serve:
    """tsq-server inside this process, for what ends before it serves."""

    def run(*arguments: object) -> Run:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Run(end.value.code, captured.out, captured.err)

    return run


def options(files: CertificateFiles, *more: str | Path) -> list[str | Path]:
    return ["--listen", "127.0.0.1:0", "--cert", files.certificate, "--key", files.key, *more]


def copied(files: CertificateFiles, directory: Path) -> CertificateFiles:
    """These files in a directory of the test's own, where it may change them."""
    directory.mkdir(exist_ok=True)
    return CertificateFiles(*(Path(shutil.copy(file, directory)) for file in (files.authority, files.certificate, files.key)))


def logged(server: ServerProcess, words: str) -> None:
    """Read the server's log up to the line with these words."""
    for line in server.process.stderr:
        if words in line:
            return
    raise AssertionError(f"the log ended without {words!r}")


# ----------------------------------------------------------------------------------------------------------------- usage


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no certificate (expected --cert and --key, or --self-signed)"),
        (["--cert", "cert.pem"], "--cert without --key (expected --cert and --key, or --self-signed)"),
        (["--key", "key.pem"], "--key without --cert (expected --cert and --key, or --self-signed)"),
        (["--cert", "c.pem", "--key", "k.pem", "--self-signed", "lab"], "--cert together with --self-signed (expected --cert and"),
        (["--key", "key.pem", "--self-signed", "lab"], "--key together with --self-signed (expected --cert and --key, or"),
        (["--self-signed", "lab", "--listen", "localhost:443"], "a numeric IPv4 address, or an IPv6 one in brackets"),
        (["--self-signed", "lab", "--listen", "0.0.0.0"], "expected ADDRESS:PORT, such as 0.0.0.0:443 or [::]:443"),
        (["--self-signed", "lab", "--listen", "::1:443"], "brackets around IPv6, and only there"),
        (["--self-signed", "lab", "--listen", "127.0.0.1:65536"], "expected a number from 0 to 65535"),
        (["--self-signed", "lab", "--max-connections", "0"], "expected a number from 1 to 10000000"),
        (["--self-signed", "lab", "--max-connections", "many"], "expected a number from 1 to 10000000"),
        (["--self-signed", "lab", "--local-error", "0.5"], "--local-error without --local-stratum: say which"),
        (["--self-signed", "lab", "--local-source", "gps"], "--local-source without --local-stratum: say which"),
        (["--self-signed", "lab", "--local-stratum", "16"], "local stratum 16 (expected 1 to 15)"),
        (["--self-signed", "lab", "--retry", "sometimes"], "invalid choice: 'sometimes'"),
        (["--self-signed", "lab", "--log-level", "loud"], "invalid choice: 'loud'"),
        (["--self-signed", "lab", "--quic-lb-key", "key"], "--quic-lb-key without --quic-lb (expected both, or neither)"),
        (["--self-signed", "lab", "--quic-lb", "0a0b"], "QUIC-LB '0a0b' (expected NUMBER:SERVER-ID, such as 0:0a0b0c, with a"),
        (["--self-signed", "lab", "--quic-lb", "0:0a0b0c0d"], "a server ID of 1 to 3 octets in hexadecimal"),
        (["--self-signed", "lab", "--quic-lb", "0:xy"], "QUIC-LB '0:xy' (expected NUMBER:SERVER-ID"),
        (["--self-signed", "lab", "--quic-lb", "0:"], "QUIC-LB '0:' (expected NUMBER:SERVER-ID"),
        (["--self-signed", "lab", "--quic-lb", "-1:0a"], "expected one argument"),
        (["--self-signed", "lab", "--quic-lb", "7:0a"], "QUIC-LB configuration 7 (expected 0 to 6)"),
        (["--self-signed", "lab", "--drain", "soon"], "expected a number, such as 0.5"),
        (["--self-signed", "lab", "--drain", "nan"], "'nan' (expected 0 to 3600 seconds)"),
        (["--self-signed", "lab", "--drain", "3601"], "'3601' (expected 0 to 3600 seconds)"),
        (["--hepl"], "unknown option --hepl: did you mean --help?"),
        (["--self-signed", "lab", *["--listen", "127.0.0.1:443"] * 2], "argument --listen: 127.0.0.1:443 is given twice"),
        (["--self-signed", "lab", "--listen", "[::1]:443", "--listen", "[0::1]:443"], "[::1]:443 is given twice"),
        (["--self-signed", "lab", "127.0.0.1:443"], "unrecognized arguments: 127.0.0.1:443"),
    ],
)
def test_usage_errors_exit_2_and_say_what_is_wrong(serve, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    run = serve(*arguments)
    assert (run.status, run.out) == (USAGE, "")
    assert run.err.startswith("tsq-server: error: ")
    (line,) = run.err.splitlines()
    assert words in line
    assert list(tmp_path.iterdir()) == []


def test_version_prints_program_and_version(serve):
    assert serve("--version") == (OK, f"tsq-server {tsq.__version__}\n", "")


def test_help_tells_signals_and_exit_status(serve):
    run = serve("--help")
    assert (run.status, run.err) == (OK, "")
    words = " ".join(run.out.split())
    assert "SIGTERM, SIGINT close all connections and exit with 0, after --drain; SIGHUP loads certificate, keys and" in words
    assert "exit status: 1 failure at run time, 2 usage or a file or address that cannot be used" in words


def encrypted(directory: Path, files: CertificateFiles) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    file = directory / "locked.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    return files.certificate, file


def garbage(directory: Path, files: CertificateFiles) -> tuple[Path, Path]:
    file = directory / "garbage.pem"
    file.write_bytes(bytes(range(256)))
    return file, files.key


def swapped(directory: Path, files: CertificateFiles) -> tuple[Path, Path]:
    return files.key, files.certificate


def missing(directory: Path, files: CertificateFiles) -> tuple[Path, Path]:
    return directory / "none.pem", files.key


def mismatched(directory: Path, files: CertificateFiles) -> tuple[Path, Path]:
    return files.certificate, Authority().issue(directory / "other").key


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (missing, "No such file or directory"),
        (garbage, "both in PEM form"),
        (swapped, "both in PEM form"),
        (encrypted, "an unencrypted private key"),
        (mismatched, "do not belong together"),
    ],
)
def test_files_that_cannot_be_used_exit_2_and_are_named(serve, tmp_path, certificates, fault, words):
    certificate, key = fault(tmp_path, certificates)
    run = serve("--listen", "127.0.0.1:0", "--cert", certificate, "--key", key)
    assert (run.status, run.out) == (USAGE, "")
    # The usage would hide it.
    assert len(run.err.splitlines()) == 1
    assert str(certificate) in run.err
    assert str(key) in run.err
    assert words in run.err
    assert "Traceback" not in run.err


@pytest.mark.parametrize(
    ("option", "content", "mode", "words"),
    [
        ("--secret-file", "secret", 0o600, "line 1: no secret (expected 64 hexadecimal digits, or the Base64 of 32 bytes)"),
        ("--secret-file", "0" * 64, 0o644, "has mode 0644: others can read it (expected 0600 or 0440)"),
        ("--secret-file", None, 0o600, "No such file or directory: write one secret a line"),
        ("--quic-lb-key", "0" * 64, 0o600, "line 1: no secret (expected 32 hexadecimal digits, or the Base64 of 16 bytes)"),
        ("--quic-lb-key", "", 0o600, "0 keys (expected one): write one line, made by `openssl rand -hex 16`"),
        ("--quic-lb-key", "0" * 32 + "\n" + "1" * 32, 0o600, "2 keys (expected one)"),
    ],
)
def test_files_of_secrets_that_cannot_be_used_exit_2_and_are_named(serve, tmp_path, certificates, option, content, mode, words):
    file = tmp_path / "file"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    run = serve(*options(certificates, "--quic-lb", "0:0a", option, file))
    assert (run.status, run.out) == (USAGE, "")
    [line] = [line for line in run.err.splitlines() if "error" in line]
    assert line.startswith(f"tsq-server: error: {'secret file' if option == '--secret-file' else 'QUIC-LB key file'} {file}")
    assert words in line


def test_quic_lb_without_a_key_is_complained_about(certificates, tmp_path):
    key = tmp_path / "key"
    key.write_text("0" * 32)
    key.chmod(0o600)
    for more, warned in (((), True), (("--quic-lb-key", key), False)):
        with ServerProcess(options(certificates, "--quic-lb", "0:0a", *more)) as server:
            assert run_client(server.target, "--ca", certificates.authority, "--interval", "0").returncode == OK
            assert server.stop() == OK
        assert ("WARNING: QUIC-LB without a key" in server.errors) == warned


def test_a_port_in_use_exits_2_and_says_how_to_find_who_has_it(serve, certificates):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        run = serve("--listen", address, "--cert", certificates.certificate, "--key", certificates.key)
    assert (run.status, run.out) == (USAGE, "")
    why = "Address already in use: another program has the port: `ss -ulpn` names it"
    assert run.err == f"tsq-server: error: cannot listen on {address}: {why}\n"


def test_an_address_of_another_machine_exits_2(serve, certificates):
    run = serve("--listen", "192.0.2.1:0", "--cert", certificates.certificate, "--key", certificates.key)
    assert run.status == USAGE
    assert "no interface of this machine has that address" in run.err


def test_a_self_signed_directory_that_cannot_be_made_exits_2(serve, tmp_path):
    (tmp_path / "file").write_text("")
    run = serve("--listen", "127.0.0.1:0", "--self-signed", tmp_path / "file" / "lab")
    assert run.status == USAGE
    assert "cannot keep a self-signed certificate in" in run.err
    assert "give a directory of its own" in run.err


# --------------------------------------------------------------------------------------------------------------- serving


def test_each_address_that_is_listened_on_is_printed_and_answers(certificates):
    arguments = ["--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--cert", certificates.certificate, "--key", certificates.key]
    with ServerProcess(arguments) as server:
        hosts = [target.host for target in server.targets]
        run = run_client(*map(str, server.targets), "--ca", certificates.authority, "--interval", "0")
        assert server.stop() == OK
    assert hosts == ["127.0.0.1", "::1"]
    assert run.returncode == OK
    assert server.output == "".join(f"tsq-server: listening on {target} (UDP)\n" for target in server.targets)


COUNTED = ("requests: datagram", "answered")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_with_status_0_and_its_counters_in_the_log(certificates, number):
    with ServerProcess(options(certificates)) as server:
        assert run_client(server.target, "--ca", certificates.authority, "--interval", "0.05").returncode == OK
        assert server.stop(number) == OK
    assert "Traceback" not in server.errors
    # A request whose answer is late is repeated.
    (requests, answered) = (re.findall(rf"^tsq-server: INFO: {name}: (\d+)$", server.errors, re.MULTILINE) for name in COUNTED)
    assert requests == answered
    assert 4 <= int(answered[0]) < 8
    assert "tsq-server: INFO: handshakes: full: 1\n" in server.errors


@pytest.mark.parametrize("more", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_more_signals_while_it_ends_change_nothing(certificates, more):
    with ServerProcess(options(certificates)) as server:
        server.send_signal(signal.SIGTERM)
        while server.process.poll() is None:
            server.send_signal(more)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.process.wait(0.002)
        _, errors = server.process.communicate(timeout=20)
        assert server.process.returncode == OK
    assert "Traceback" not in errors
    assert "ignored" not in errors


def test_log_level_error_is_silent_when_nothing_is_wrong(certificates):
    with ServerProcess(options(certificates, "--log-level", "error")) as server:
        assert run_client(server.target, "--ca", certificates.authority, "--interval", "0").returncode == OK
        assert server.stop() == OK
    assert server.errors == ""


@pytest.mark.parametrize("level", ["info", "error"])
def test_sigusr1_prints_uptime_connections_and_counters_and_changes_nothing(certificates, level):
    trust = Trust(ca_file=str(certificates.authority))

    async def watched(server: ServerProcess) -> None:
        async with tsq.connect(server.target, ClientOptions(trust=trust)) as client:
            assert (await client.sample()).valid
            server.send_signal(signal.SIGUSR1)
            logged(server, "INFO: status: up ")
            assert (await client.sample()).valid
            server.send_signal(signal.SIGUSR1)
            logged(server, ", connections now: 1\n")

    with ServerProcess(options(certificates, "--log-level", level)) as server:
        asyncio.run(watched(server))
        server.send_signal(signal.SIGTERM)
        lines, _, ending = server.process.stderr.read().partition("closing")
        assert server.stop() == OK
    assert re.search(r"tsq-server: INFO: answered: [2-5]\n", lines)
    assert "tsq-server: INFO: handshakes: full: 1\n" in lines
    assert bool(ending) == (level == "info")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.9, "00:00:00"), (3 * 86400 + 4 * 3600 + 306, "3 d 04:05:06"), (86399, "23:59:59")]
)
def test_the_uptime_is_in_days_hours_minutes_and_seconds(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("inode", "prefix"), [(0, "<6>"), (1, "")])
def test_a_log_that_the_journal_reads_has_priorities(certificates, tmp_path, inode, prefix):
    with (tmp_path / "log").open("w+") as log:
        found = os.fstat(log.fileno())
        environment = {**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + inode}"}
        command = [BIN / "tsq-server", "--local-stratum", "1", *options(certificates)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as process:
            assert "listening on" in process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == OK
        lines = (tmp_path / "log").read_text().splitlines()
    assert f"{prefix}tsq-server: INFO: closing 0 connections" in lines


def test_self_signed_makes_a_certificate_that_clients_verify_by_all_local_names(tmp_path):
    with ServerProcess(["--listen", "127.0.0.1:0", "--self-signed", tmp_path / "lab", "--name", "time.example"]) as server:
        ca = tmp_path / "lab" / "ca.pem"
        for name in ("127.0.0.1", "localhost", "time.example", "::1", socket.gethostname()):
            run = run_client(server.target, "--ca", ca, "--interval", "0", "--server-name", name)
            assert (run.returncode, run.stderr) == (OK, "")
        assert server.stop() == OK
    assert f"tsq-server: WARNING: self-signed certificate: clients need --ca {ca}\n" in server.errors
    assert stat.S_IMODE((tmp_path / "lab" / "key.pem").stat().st_mode) == 0o600


def test_retry_always_is_seen_by_no_client_and_counted(certificates):
    with ServerProcess(options(certificates, "--retry", "always")) as server:
        assert run_client(server.target, "--ca", certificates.authority, "--interval", "0").returncode == OK
        assert server.stop() == OK
    # A first packet whose answer is late is sent again.
    assert re.search(r"INFO: retries: [1-3]\n", server.errors)


def test_connections_over_the_limit_are_refused_and_counted(certificates):
    trust = Trust(ca_file=str(certificates.authority))

    async def two_at_a_time(server: ServerProcess) -> None:
        async with tsq.connect(server.target, ClientOptions(trust=trust)) as first:
            with pytest.raises(ConnectionLost, match="the server is full"):
                async with tsq.connect(server.target, ClientOptions(trust=trust, timeout=60)):
                    pass
            assert (await first.sample()).valid

    with ServerProcess(options(certificates, "--max-connections", "1")) as server:
        asyncio.run(two_at_a_time(server))
        assert server.stop() == OK
    assert "INFO: dropped: connection limit reached: 1\n" in server.errors
    assert "INFO: refused: 1\n" in server.errors
    assert server.errors.count("the limit of 1 connection is reached") == 1


def test_an_expired_certificate_is_served_and_complained_about(tmp_path):
    files = Authority().issue(tmp_path, not_after=NOW)
    with ServerProcess(options(files)) as server:
        run = run_client(server.target, "--ca", files.authority)
        assert server.stop() == OK
    assert run.returncode == CERTIFICATE
    assert "tsq-server: ERROR: the certificate expired 0 days ago; it is served all the same" in server.errors


def test_sslkeylogfile_gets_the_secrets_in_a_private_file_and_that_is_said(certificates, tmp_path):
    log = tmp_path / "keys.log"
    with ServerProcess(options(certificates), SSLKEYLOGFILE=str(log)) as server:
        assert run_client(server.target, "--ca", certificates.authority, "--interval", "0", SSLKEYLOGFILE="").returncode == OK
        assert server.stop() == OK
    assert f"tsq-server: TLS secrets go to {log} (SSLKEYLOGFILE)\n" in server.errors
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert "SERVER_TRAFFIC_SECRET_0" in log.read_text()


def test_an_unwritable_sslkeylogfile_costs_the_log_alone(certificates, tmp_path):
    log = tmp_path / "no" / "keys.log"
    with ServerProcess(options(certificates), SSLKEYLOGFILE=str(log)) as server:
        assert run_client(server.target, "--ca", certificates.authority, "--interval", "0", SSLKEYLOGFILE="").returncode == OK
        assert server.stop() == OK
    why = "No such file or directory"
    assert f"tsq-server: warning: TLS secrets are not written to {log} (SSLKEYLOGFILE): {why}\n" in server.errors


# ---------------------------------------------------------------------------------------------------------------- reload


def test_sighup_serves_the_new_certificate_to_new_clients(certificates, tmp_path):
    files = copied(certificates, tmp_path / "live")
    fresh = Authority("The next authority").issue(tmp_path / "fresh")
    with ServerProcess(options(files)) as server:
        assert run_client(server.target, "--ca", certificates.authority, "--interval", "0").returncode == OK
        shutil.copy(fresh.certificate, files.certificate)
        shutil.copy(fresh.key, files.key)
        server.send_signal(signal.SIGHUP)
        logged(server, "INFO: certificate reloaded")
        assert run_client(server.target, "--ca", fresh.authority, "--interval", "0").returncode == OK
        assert run_client(server.target, "--ca", certificates.authority).returncode == CERTIFICATE
        assert server.stop() == OK


@pytest.mark.parametrize("fault", ["missing", "garbage", "mismatch"])
def test_sighup_with_files_that_cannot_be_used_keeps_the_old_certificate(certificates, tmp_path, fault):
    files = copied(certificates, tmp_path / "live")
    with ServerProcess(options(files)) as server:
        if fault == "missing":
            files.key.unlink()
        elif fault == "garbage":
            files.certificate.write_text("not PEM")
        else:
            shutil.copy(Authority().issue(tmp_path / "other").key, files.key)
        server.send_signal(signal.SIGHUP)
        logged(server, "ERROR: certificate not reloaded, the old one stays: certificate ")
        assert run_client(server.target, "--ca", certificates.authority, "--interval", "0").returncode == OK
        assert server.stop() == OK


def test_secrets_are_reloaded_and_bad_ones_keep_the_old(certificates, tmp_path):
    """By themselves, and on SIGHUP."""
    file = tmp_path / "secrets"

    def write(*secrets: str) -> None:
        fresh = tmp_path / "fresh"
        fresh.write_text("\n".join(secrets))
        fresh.chmod(0o600)
        fresh.rename(file)

    write("0" * 64)
    with ServerProcess(options(certificates, "--secret-file", file)) as server:
        write("1" * 64, "0" * 64)
        logged(server, "INFO: 2 secrets reloaded")
        write("no secret")
        logged(server, "ERROR: secrets not reloaded, the old ones stay: secret file ")
        server.send_signal(signal.SIGHUP)
        logged(server, "ERROR: secrets not reloaded, the old ones stay: secret file ")
        logged(server, "INFO: certificate reloaded")
        assert run_client(server.target, "--ca", certificates.authority, "--interval", "0").returncode == OK
        assert server.stop() == OK
