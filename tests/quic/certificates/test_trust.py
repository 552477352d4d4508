"""Which authorities are trusted: files of every kind are read once and never waited for without end, variables mean what OpenSSL
makes of them, and what the user named is never replaced by something wider.
"""

import os
import ssl
import subprocess
import sys
import threading
from os import scandir as os_scandir
from pathlib import Path

import pytest

from tests.cli.peers import Authority, Peer
from tsq.client.blocking import query_all
from tsq.errors import ConfigError
from tsq.options import ClientOptions, Trust
from tsq.quic import tls
from tsq.quic.certificates import reading, trust
from tsq.quic.certificates.trust import authorities, read_again

PATHS = ssl.get_default_verify_paths()
FILE, DIRECTORY = PATHS.openssl_cafile_env, PATHS.openssl_capath_env
CLIENT = Path(sys.executable).with_name("tsq-client")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Authority().issue(tmp_path_factory.mktemp("files"))


@pytest.fixture
def environment(monkeypatch):
    """environment(file, directory): with these variables, and a system without a store of its own unless `system` is given."""

    def make(file=None, directory=None, system=(None, None)):
        for name, value in ((FILE, file), (DIRECTORY, directory)):
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, str(value))
        there = [None if path is None else str(path) for path in system]
        default = there[0] or "/nonexistent/cert.pem", there[1] or "/nonexistent/certs"
        made = ssl.DefaultVerifyPaths(*there, FILE, default[0], DIRECTORY, default[1])
        monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: made)

    return make


@pytest.fixture
def hashed(tmp_path, files):
    """A directory with the authority under its hashed name."""
    place = tmp_path / "hashed"
    place.mkdir()
    command = ["openssl", "x509", "-in", files.authority, "-noout", "-hash"]
    name = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    (place / f"{name}.0").write_bytes(files.authority.read_bytes())
    return place


def fifo(tmp_path, name="fifo"):
    os.mkfifo(tmp_path / name)
    return str(tmp_path / name)


# ----------------------------------------------------------------------------------------------------------------- files


def test_a_pipe_is_read_once_for_all_that_is_asked(tmp_path, files):
    path = fifo(tmp_path)
    writer = threading.Thread(target=lambda: Path(path).write_bytes(files.authority.read_bytes()), daemon=True)
    writer.start()
    with Peer(files) as peer:
        results = query_all([peer.target] * 3, ClientOptions(count=1, trust=Trust(path), server_name="localhost", timeout=10))
        assert [result.error for result in results] == [None] * 3
    writer.join(60)


def test_a_fifo_that_nobody_writes_is_an_error_for_all_at_once(tmp_path):
    given = Trust(fifo(tmp_path))
    with pytest.raises(ConfigError, match="is a FIFO, and nobody wrote to it in time"):
        read_again(given, 0.05)
    reads = []
    original = trust.read_whole
    trust.read_whole = lambda *arguments: reads.append(arguments) or original(*arguments)
    try:
        for _ in range(3):
            with pytest.raises(ConfigError, match="nobody wrote to it"):
                read_again(given, 0.05)
    finally:
        trust.read_whole = original
    assert not reads, "the next one does not wait again"


def test_a_pipe_whose_end_does_not_come_is_an_error(files):
    reader, writer = os.pipe()
    try:
        os.write(writer, files.authority.read_bytes())
        with pytest.raises(ConfigError, match="its end did not come in time"):
            read_again(Trust(f"/dev/fd/{reader}"), 0.05)
    finally:
        os.close(reader)
        os.close(writer)


def test_a_pipe_whose_writer_has_gone_is_read_to_its_end(files):
    reader, writer = os.pipe()
    os.write(writer, files.authority.read_bytes())
    os.close(writer)
    try:
        assert read_again(Trust(f"/dev/fd/{reader}"), 5).content == (files.authority.read_bytes(),)
    finally:
        os.close(reader)


def test_an_empty_pipe_holds_no_certificate(tmp_path):
    path = fifo(tmp_path)
    writer = threading.Thread(target=lambda: Path(path).write_bytes(b""), daemon=True)
    writer.start()
    with pytest.raises(ConfigError, match=r"holds no certificate|nobody wrote"):
        read_again(Trust(path), 1)
    writer.join(60)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/dev/null", "holds no certificate"), ("/dev/zero", f"has more than {reading.MOST_BYTES} bytes"), ("/", "Is a directory"),
        ("/nonexistent/ca.pem", "No such file"), ("nul\0byte", "null byte"),
    ],
)
def test_files_that_hold_no_certificates(path, words):
    with pytest.raises(ConfigError, match=words) as caught:
        read_again(Trust(path), 5)
    assert str(caught.value).count("\n") == 0


def test_a_file_is_read_again_only_when_it_has_changed(tmp_path, files, monkeypatch):
    path = tmp_path / "ca.pem"
    path.write_bytes(files.authority.read_bytes())
    given = Trust(str(path))
    reads = []
    monkeypatch.setattr(trust, "read_whole", lambda *arguments: reads.append(arguments) or reading.read_whole(*arguments))
    first = tls.trust_identity(given)
    for _ in range(3):
        tls.check_trust(given)
        tls.client_configuration("localhost", given)
    assert len(reads) == 1
    path.write_bytes(files.authority.read_bytes() + Authority("Another").issue(tmp_path / "other").authority.read_bytes())
    # What is under way goes on with what was read.
    assert tls.trust_identity(given) == first
    tls.check_trust(given)
    assert tls.trust_identity(given) != first
    assert len(reads) == 2


def test_a_directory_is_listed_again_only_when_it_has_changed_and_now_and_then(tmp_path, files, monkeypatch):
    directory = tmp_path / "certs"
    directory.mkdir()
    (directory / "0a1b2c3d.0").write_bytes(files.authority.read_bytes())
    listed = []
    monkeypatch.setattr(trust.os, "scandir", lambda path: listed.append(path) or os_scandir(path))
    of = trust.Authorities((), (str(directory),), "a test")
    first = of.identity
    assert [of.identity for _ in range(3)] == [first] * 3
    assert len(listed) == 1
    (directory / "0a1b2c3e.0").write_bytes(files.authority.read_bytes())
    # A clock tick of the file system may be longer than this test.
    os.utime(directory, ns=(1, 1))
    assert of.identity != first
    assert len(listed) == 2
    monkeypatch.setattr(trust, "_DESCRIBED_FOR", 0.0)
    (directory / "0a1b2c3e.0").write_bytes(b"something else")
    assert of.identity != first
    assert len(listed) == 3


def test_windows_line_ends_text_and_blanks_do_no_harm(tmp_path, files):
    lines = files.authority.read_text().splitlines()
    plain = "\n".join(lines)
    for content in ("\r\n".join(lines), "  \n".join(lines), f"\ufeff{plain}", f"subject: x\n{plain}\nend"):
        path = tmp_path / "ca.pem"
        path.write_text(content)
        with Peer(files) as peer:
            options = ClientOptions(count=1, trust=Trust(str(path)), server_name="localhost", timeout=10)
            assert query_all([peer.target], options)[0].error is None


def test_which_certificate_of_a_file_is_damaged_is_told(tmp_path, files):
    pem = files.authority.read_text()
    path = tmp_path / "ca.pem"
    path.write_text(pem + pem.replace("MII", "???"))
    with pytest.raises(ConfigError, match=r"holds a damaged certificate .*certificate 2 cannot be read"):
        read_again(Trust(str(path)))
    path.write_text(pem + "-----BEGIN CERTIFICATE-----\nMII")
    with pytest.raises(ConfigError, match=r"holds a damaged certificate .*the block 2 \(CERTIFICATE\) has no end"):
        read_again(Trust(str(path)))


# ------------------------------------------------------------------------------------------------------------- variables


def test_without_variables_it_is_the_system_and_without_one_certifi(environment, files, hashed):
    environment(system=(files.authority, hashed))
    found = authorities(Trust())
    assert (found.content, found.directories) == ((files.authority.read_bytes(),), (str(hashed),))
    assert found.origin == "the system's authorities"
    environment()
    assert "certifi's authorities" in authorities(Trust()).origin


def test_each_variable_replaces_its_own_part_as_for_openssl(environment, files, hashed, tmp_path):
    other = Authority("Another").issue(tmp_path / "other").authority
    system = (other, "/")
    environment(file=files.authority, system=system)
    found = authorities(Trust())
    assert (found.content, found.directories) == ((files.authority.read_bytes(),), ("/",))
    assert f"SSL_CERT_FILE ({files.authority})" in found.origin
    environment(directory=f"/nonexistent:{hashed}", system=system)
    found = authorities(Trust())
    assert (found.content, found.directories) == ((other.read_bytes(),), (str(hashed),))
    environment(file=files.authority, directory=hashed, system=system)
    assert authorities(Trust()).origin == f"SSL_CERT_FILE ({files.authority}) and SSL_CERT_DIR ({hashed})"


@pytest.mark.parametrize("which", ["file", "directory"])
def test_one_variable_may_name_nothing_where_the_other_names_something(environment, files, hashed, which):
    if which == "file":
        environment(file=files.authority, directory="/nonexistent", system=(files.authority, "/"))
        found = authorities(Trust())
        assert found.directories == ()
        assert found.origin == f"SSL_CERT_FILE ({files.authority}); SSL_CERT_DIR names /nonexistent, which is no directory"
    else:
        environment(file="/nonexistent", directory=hashed, system=(files.authority, "/"))
        found = authorities(Trust())
        assert found.content == ()
        assert f"SSL_CERT_DIR ({hashed}); SSL_CERT_FILE names /nonexistent, which cannot be read" in found.origin


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"file": "/nonexistent/ca.pem"}, "SSL_CERT_FILE names /nonexistent/ca.pem, which cannot be read"),
        ({"file": "/nonexistent/ca.pem", "directory": "/nonexistent"}, "SSL_CERT_FILE names /nonexistent/ca.pem"),
        ({"file": "/dev/null"}, "SSL_CERT_FILE names /dev/null, which holds no certificate"),
        ({"file": "/"}, "SSL_CERT_FILE names /, which cannot be read"),
        ({"directory": "/nonexistent:/nowhere"}, "SSL_CERT_DIR names /nonexistent:/nowhere, which is no directory"),
        ({"directory": "/"}, "SSL_CERT_DIR names /, which holds no certificate under a hashed name"),
        ({"file": "", "directory": ""}, "SSL_CERT_FILE and SSL_CERT_DIR name no authority"),
        ({"file": "", "directory": "/nonexistent"}, "SSL_CERT_DIR names /nonexistent"),
    ],
)
def test_variables_that_name_nothing_are_errors_and_never_become_certifis(environment, files, hashed, variables, words):
    for system in ((None, None), (files.authority, hashed)):
        environment(**variables, system=system)
        with pytest.raises(ConfigError) as caught:
            tls.check_trust(Trust())
        assert words in str(caught.value)
        assert "unset it" in str(caught.value)
        with pytest.raises(ConfigError):
            tls.client_configuration("localhost", Trust())


def test_trust_without_authorities_needs_none(environment):
    environment(file="/nonexistent/ca.pem")
    for given in (Trust(insecure=True), Trust(pins=("sha256//" + "A" * 43 + "=",))):
        tls.check_trust(given)
        tls.client_configuration("localhost", given)


def test_another_environment_is_another_trust(environment, files, hashed, tmp_path):
    other = Authority("Another").issue(tmp_path / "other").authority
    given = Trust()
    found = set()
    for variables in ({"file": files.authority}, {"file": other}, {"directory": hashed}, {}):
        environment(**variables, system=(files.authority, None) if variables else (None, "/"))
        found.add(tls.trust_identity(given))
    assert len(found) == 4


def test_the_command_trusts_what_the_variables_name(files, hashed, tmp_path):
    """In real processes: a file, a directory with hashed names among others, and neither."""

    def run(peer, **variables):
        environment = {name: value for name, value in os.environ.items() if name not in (FILE, DIRECTORY)} | variables
        command = [CLIENT, str(peer.target), "--server-name", "localhost", "--count", "1", "--timeout", "10"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    with Peer(files) as peer:
        assert run(peer, SSL_CERT_FILE=str(files.authority)).returncode == 0
        assert run(peer, SSL_CERT_DIR=f"/nonexistent:{hashed}").returncode == 0
        asked = peer.requests
        refused = run(peer)
        assert refused.returncode == 4
        assert "trusted: the system's authorities" in refused.stderr or "certifi" in refused.stderr
        nothing = run(peer, SSL_CERT_FILE="/nonexistent/ca.pem", SSL_CERT_DIR="/nonexistent")
        assert nothing.returncode == 2
        assert nothing.stderr.count("\n") == 1
        assert "SSL_CERT_FILE names /nonexistent/ca.pem" in nothing.stderr
        assert peer.requests == asked


def test_the_command_takes_a_pipe_and_standard_input_for_a_ca_file(files):
    command = f'exec "{CLIENT}" "$1" --server-name localhost --count 1 --timeout 10 --ca '
    with Peer(files) as peer:
        for rest in (f'<(cat "{files.authority}")', f'/dev/stdin < "{files.authority}"'):
            done = subprocess.run(
                ["bash", "-c", command + rest, "-", str(peer.target)], capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, done.stderr
