"""Certificates and names at the command lines, in real processes: what is accepted, what is refused and in which words."""

import os
import signal
import subprocess
import warnings
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.namespaces import inside, pair
from tests.support.odd_certificates import CLIENT, GOOD_NAMES, Made, Spec, middle, patched, purposes, root
from tests.support.processes import BIN, ServerProcess, run_client

OK, USAGE, CERTIFICATE = 0, 2, 4


@pytest.fixture(scope="module")
def top() -> Made:
    return root().by()


@pytest.fixture
def trusted(tmp_path, top) -> Path:
    path = tmp_path / "trusted.pem"
    path.write_bytes(top.certificate.public_bytes(Encoding.PEM))
    return path


def files(directory: Path, *chain: Made) -> list[str]:
    """Options of a server with this chain."""
    certificate, key = chain[0].write(directory, "", chain[1:])
    Path(key).chmod(0o600)
    return ["--listen", "127.0.0.1:0", "--cert", certificate, "--key", key]


def ask(server: ServerProcess, trusted: Path, *more: str):
    return run_client(f"localhost:{server.target.port}", "-4", "--ca", trusted, "--count", "1", *more)


def serve(arguments: list[str], timeout: float = 30) -> subprocess.CompletedProcess[str]:
    """tsq-server, where it ends by itself."""
    return subprocess.run([BIN / "tsq-server", *arguments], capture_output=True, text=True, timeout=timeout, check=False)


def test_an_odd_entry_does_not_spoil_the_others(tmp_path, top, trusted):
    names = [x509.DNSName("localhost"), x509.DNSName("127.0.0.1"), x509.DNSName(""), x509.DNSName("a.*.b"), GOOD_NAMES[1]]
    with ServerProcess(files(tmp_path, Spec(names=names).by(top))) as server:
        assert ask(server, trusted).returncode == OK


@pytest.mark.parametrize("retry", ["auto", "always"])
def test_a_clients_certificate_does_not_pose_as_a_servers(tmp_path, top, trusted, retry):
    with ServerProcess([*files(tmp_path, Spec(extensions=[purposes(CLIENT)]).by(top)), "--retry", retry]) as server:
        done = ask(server, trusted)
        assert server.stop() == OK
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (CERTIFICATE, "", 1)
    assert "the server's certificate is for TLS clients, not for TLS servers" in done.stderr
    assert "WARNING: clients will refuse certificate" in server.errors
    assert "handshakes: failed: 1" in server.errors, "the server reported it in the handshake"


@pytest.mark.parametrize(
    "name", ["localhost.", "LOCALHOST", "Localhost.", "127.0.0.1", "[::1]", "0:0:0:0:0:0:0:1", "::1%lo"], ids=lambda name: name
)
def test_a_name_may_be_written_in_any_way(server_process, certificates, name):
    done = run_client(server_process.target, "--ca", certificates.authority, "--count", "1", "--server-name", name)
    assert done.returncode == OK, done.stderr


def test_a_host_name_in_another_script_is_compared_as_certificates_have_it(tmp_path, top, trusted):
    leaf = Spec(names=[x509.DNSName("xn--bcher-kva.example")]).by(top)
    with ServerProcess(files(tmp_path, leaf)) as server:
        assert ask(server, trusted, "--server-name", "Bücher.example.").returncode == OK
        refused = ask(server, trusted, "--server-name", "bucher.example")
    assert refused.returncode == CERTIFICATE
    assert "is for xn--bcher-kva.example, not for bucher.example" in refused.stderr


@pytest.mark.parametrize("name", ["", ".", "ü" * 70])
def test_a_name_that_no_certificate_can_have_is_an_error_of_usage(server_process, certificates, name):
    done = run_client(server_process.target, "--ca", certificates.authority, "--count", "1", "--server-name", name)
    assert done.returncode == USAGE
    assert "server name" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_link_local_address_is_checked_without_its_zone(tmp_path):
    with pair(["fe80::aa"], ["fe80::bb"]) as network:
        command = [
            *inside(network.one), BIN / "tsq-server", "--listen", "[0::0]:4433", "--self-signed", tmp_path / "lab",
            "--name", "fe80::aa", "--local-stratum", "1",
        ]  # fmt: skip
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert process.stdout.readline() == "tsq-server: listening on [::]:4433 (UDP)\n"
            command = [
                *inside(network.other), BIN / "tsq-client", f"[fe80::aa%{network.devices[1]}]:4433",
                "--ca", tmp_path / "lab" / "ca.pem", "--count", "1",
            ]  # fmt: skip
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == OK, done.stderr
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == OK
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def negative(made: Made, issuer: Made | None) -> Made:
    """The same with a serial number below zero."""
    number = made.certificate.serial_number.to_bytes(20, "big").lstrip(b"\0")
    return patched(made, issuer, number, bytes([number[0] & 0x3F | 0x80]) + number[1:])


def test_odd_numbers_and_names_are_no_reason_to_warn_a_client(tmp_path, trusted):
    """`cryptography` warns of them, on two lines of standard error."""
    with warnings.catch_warnings(action="ignore"):
        odd = negative(root(subject="x" * 100).by(), None)
        leaf = negative(Spec(subject="y" * 100).by(odd), odd)
    with ServerProcess(files(tmp_path, leaf)) as server:
        refused = ask(server, trusted)
        Path(trusted).write_bytes(odd.certificate.public_bytes(Encoding.PEM))
        accepted = ask(server, trusted)
    assert (refused.returncode, refused.stderr.count("\n")) == (CERTIFICATE, 1)
    assert (accepted.returncode, accepted.stderr) == (OK, "")


def test_a_chain_with_windows_line_ends_is_sent_whole(tmp_path, top, trusted):
    between = middle().by(top)
    arguments = files(tmp_path, Spec().by(between), between)
    path = Path(arguments[3])
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    with ServerProcess(arguments) as server:
        assert ask(server, trusted).returncode == OK


def test_a_server_without_its_intermediate_is_told_and_so_is_its_client(tmp_path, top, trusted):
    with ServerProcess(files(tmp_path, Spec().by(middle().by(top)))) as server:
        done = ask(server, trusted)
        server.stop()
    assert done.returncode == CERTIFICATE
    assert done.stderr.count("\n") == 1
    assert "signed by CN=middle, which is not trusted here (unable to get local issuer certificate; " in done.stderr
    assert f"trusted: CA file {trusted})" in done.stderr
    assert "the server sent one certificate: does it serve the full chain?" in done.stderr
    assert "WARNING: " in server.errors
    assert "lacks the certificate of CN=middle, which signed the server's" in server.errors


def test_a_server_that_no_client_could_use_does_not_start(tmp_path, top):
    unsigned = Spec(key=lambda: ec.generate_private_key(ec.SECP521R1())).by(top)
    large = Spec(names=[*GOOD_NAMES, *(x509.DNSName(f"h{i}.department.example.org") for i in range(900))]).by(top)
    for made, words in ((unsigned, "no QUIC handshake can be signed"), (large, "the chain of 1 has ")):
        done = serve(files(tmp_path, made))
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (USAGE, "", 1)
        assert words in done.stderr


@pytest.mark.parametrize("option", ["--cert", "--key"])
def test_a_fifo_in_place_of_a_certificate_or_key_never_hangs_the_server(tmp_path, top, option):
    arguments = files(tmp_path, Spec().by(top))
    os.mkfifo(tmp_path / "fifo")
    arguments[arguments.index(option) + 1] = str(tmp_path / "fifo")
    done = serve(arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (USAGE, "", 1)
    assert f"{tmp_path / 'fifo'}: is a FIFO, not a regular file" in done.stderr


def test_a_fifo_that_nobody_writes_never_holds_a_client_longer_than_its_timeout(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    hosts = ["127.0.0.1:9"] * 3
    done = run_client(*hosts, "--ca", tmp_path / "fifo", "--timeout", "0.2")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (USAGE, "", 1)
    assert "is a FIFO, and nobody wrote to it in time" in done.stderr


def test_a_key_that_others_can_read_is_told_at_start_and_on_reload(tmp_path, top, trusted):
    arguments = files(tmp_path, Spec().by(top))
    Path(arguments[-1]).chmod(0o644)
    with ServerProcess(arguments) as server:
        assert ask(server, trusted).returncode == OK
        server.send_signal(signal.SIGHUP)
        assert ask(server, trusted).returncode == OK
        server.stop()
    words = f"key {arguments[-1]} has mode 0644: every user of this machine can read it; `chmod 600 {arguments[-1]}` corrects that"
    assert server.errors.count(words) == 2
    assert Path(arguments[-1]).stat().st_mode & 0o777 == 0o644
