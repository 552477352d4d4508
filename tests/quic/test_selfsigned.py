"""The throw-away authority: names, modes, what is used again, renewed, and never overwritten."""

import contextlib
import datetime
import errno
import grp
import os
import pwd
import re
import stat
import time
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.cli.peers import Authority
from tests.support.threads import ServerThread
from tsq.client.blocking import query_all
from tsq.errors import ConfigError
from tsq.options import ClientOptions, Trust
from tsq.quic import selfsigned
from tsq.quic.selfsigned import CertificateFiles, self_signed
from tsq.quic.tls import certificate_names

NAMES = ["time.example", "127.0.0.1", "::1"]


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
def made(tmp_path) -> CertificateFiles:
    return self_signed(str(tmp_path), NAMES)


def test_the_certificate_has_names_and_addresses_each_as_what_it_is(made):
    names = load(made.certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["time.example"]
    assert names.get_values_for_type(x509.IPAddress) == [ip_address("127.0.0.1"), ip_address("::1")]


def test_the_certificate_is_by_the_authority_for_servers_and_no_authority_itself(made):
    certificate, authority = load(made.certificate), load(made.authority)
    certificate.verify_directly_issued_by(authority)
    authority.verify_directly_issued_by(authority)
    basic = [item.extensions.get_extension_for_class(x509.BasicConstraints).value for item in (certificate, authority)]
    assert [item.ca for item in basic] == [False, True]
    assert basic[1].path_length == 0
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert certificate.public_key() != authority.public_key()


def test_the_key_belongs_to_the_certificate(made):
    assert load_pem_private_key(made.key.read_bytes(), None).public_key() == load(made.certificate).public_key()


def test_it_is_valid_now_and_for_clocks_that_are_somewhat_behind(made):
    now = datetime.datetime.now(datetime.UTC)
    for path in (made.certificate, made.authority):
        assert load(path).not_valid_before_utc < now - datetime.timedelta(hours=12)
        assert load(path).not_valid_after_utc > now + datetime.timedelta(days=100)


def test_keys_are_private_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        self_signed(str(tmp_path / "open"), NAMES)
        os.umask(0o777 & ~0o700)
        self_signed(str(tmp_path / "closed"), NAMES)
    finally:
        os.umask(before)
    for directory in (tmp_path / "open", tmp_path / "closed"):
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
        assert modes == {"ca.pem": 0o644, "ca-key.pem": 0o600, "cert.pem": 0o644, "key.pem": 0o600}


def test_a_directory_is_made_with_its_parents(tmp_path):
    files = self_signed(str(tmp_path / "a" / "b"), NAMES)
    assert files.certificate == tmp_path / "a" / "b" / "cert.pem"
    assert files.certificate.exists()


@pytest.mark.parametrize("names", [NAMES, NAMES[:1], list(reversed(NAMES))])
def test_what_has_the_names_asked_for_is_used_again(made, tmp_path, names):
    before = contents(tmp_path)
    assert self_signed(str(tmp_path), names) == made
    assert contents(tmp_path) == before


def test_a_new_name_renews_the_certificate_keeps_authority_and_key_and_is_told(made, tmp_path, caplog):
    before = contents(tmp_path)
    caplog.set_level("INFO")
    self_signed(str(tmp_path), [*NAMES, "new.example"])
    after = contents(tmp_path)
    assert set(certificate_names(load(made.certificate))) == {*NAMES, "new.example"}
    assert (after["ca.pem"], after["ca-key.pem"]) == (before["ca.pem"], before["ca-key.pem"])
    assert after["cert.pem"] != before["cert.pem"]
    assert after["key.pem"] == before["key.pem"]
    assert f"{made.certificate} made anew, for time.example, 127.0.0.1, ::1, new.example; its key stays" in caplog.text
    load(made.certificate).verify_directly_issued_by(load(made.authority))


@pytest.mark.parametrize("days", [340, 400])
def test_a_certificate_that_ends_soon_is_renewed_and_the_authority_kept(made, tmp_path, monkeypatch, days):
    before = contents(tmp_path)
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    monkeypatch.setattr(selfsigned, "_now", lambda: later)
    self_signed(str(tmp_path), NAMES)
    assert load(made.certificate).not_valid_after_utc > later + datetime.timedelta(days=100)
    assert contents(tmp_path)["ca.pem"] == before["ca.pem"]


def test_a_certificate_never_outlives_its_authority(made, tmp_path, monkeypatch):
    for days in (300, 600, 900, 1050):
        later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
        monkeypatch.setattr(selfsigned, "_now", lambda later=later: later)
        self_signed(str(tmp_path), NAMES)
        certificate, authority = load(made.certificate), load(made.authority)
        certificate.verify_directly_issued_by(authority)
        assert authority.not_valid_after_utc > later
        assert certificate.not_valid_after_utc <= authority.not_valid_after_utc


def test_an_authority_that_ends_soon_is_made_anew(made, tmp_path, monkeypatch):
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3 * 365 - 10)
    monkeypatch.setattr(selfsigned, "_now", lambda: later)
    self_signed(str(tmp_path), NAMES)
    assert load(made.authority).not_valid_after_utc > later + datetime.timedelta(days=100)
    load(made.certificate).verify_directly_issued_by(load(made.authority))


@pytest.mark.parametrize("name", ["key.pem", "cert.pem"])
def test_a_file_that_was_lost_is_made_again_by_the_same_authority(made, tmp_path, name):
    authority = made.authority.read_bytes()
    (tmp_path / name).unlink()
    self_signed(str(tmp_path), NAMES)
    assert load_pem_private_key(made.key.read_bytes(), None).public_key() == load(made.certificate).public_key()
    assert made.authority.read_bytes() == authority


def foreign_certificate(directory: Path) -> None:
    Authority().issue(directory, ["time.example"])
    (directory / "ca.pem").unlink()


def foreign_authority(directory: Path) -> None:
    Authority().issue(directory, ["time.example"])
    (directory / "cert.pem").unlink()
    (directory / "key.pem").rename(directory / "ca-key.pem")


def foreign_key(directory: Path) -> None:
    Authority().issue(directory, ["time.example"])
    (directory / "cert.pem").unlink()
    (directory / "ca.pem").unlink()


def foreign_authority_key(directory: Path) -> None:
    foreign_key(directory)
    (directory / "key.pem").rename(directory / "ca-key.pem")


def garbage(directory: Path) -> None:
    (directory / "cert.pem").write_text("notes of mine")
    (directory / "ca.pem").write_text("notes of mine")


def authority_without_key(directory: Path) -> None:
    self_signed(str(directory), NAMES)
    (directory / "ca-key.pem").unlink()
    (directory / "cert.pem").unlink()


@pytest.mark.parametrize(
    "prepare", [foreign_certificate, foreign_authority, foreign_key, foreign_authority_key, garbage, authority_without_key]
)
def test_files_that_it_did_not_make_are_never_written_over(tmp_path, prepare):
    prepare(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ConfigError) as caught:
        self_signed(str(tmp_path), ["another.example"])
    assert f"cannot keep a self-signed certificate in {tmp_path}" in str(caught.value)
    assert "give a directory of its own" in str(caught.value)
    after = contents(tmp_path)
    assert {name: after.get(name) for name in before} == before


def test_an_authority_whose_key_is_another_ones_is_not_used_to_sign(made, tmp_path):
    other = self_signed(str(tmp_path / "other"), NAMES)
    (tmp_path / "ca-key.pem").write_bytes((other.authority.parent / "ca-key.pem").read_bytes())
    try:
        self_signed(str(tmp_path), ["new.example"])
    except ConfigError:
        return
    # Where it went on, what it made must verify.
    load(made.certificate).verify_directly_issued_by(load(made.authority))


def test_a_place_that_is_no_directory_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="give a directory of its own"):
        self_signed(str(tmp_path / "file"), NAMES)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("münchen.example", "xn--mnchen-3ya.example"), ("Büro-PC", "xn--bro-pc-3ya"), ("time.example.", "time.example"),
        ("under_score", "under_score"), ("two words", "two words"), ("a" * 63, "a" * 63), ("0::1", "::1"), ("x", "x"),
    ],
)  # fmt: skip
def test_a_name_stands_in_the_certificate_as_clients_look_for_it_and_is_found_again(tmp_path, name, written):
    files = self_signed(str(tmp_path / "lab"), [name, "127.0.0.1"])
    assert certificate_names(load(files.certificate))[0] == written
    before = contents(tmp_path / "lab")
    self_signed(str(tmp_path / "lab"), [name, "127.0.0.1"])
    assert contents(tmp_path / "lab") == before


@pytest.mark.parametrize("name", ["a" * 64, "a" * 300, ".".join(["a" * 60] * 5), "", ".", "a..b", "b\udcfcro", "a\0b"])
def test_a_name_that_no_certificate_can_have_is_an_error_that_says_so(tmp_path, name):
    assert selfsigned.dns_name(name) is None
    with pytest.raises(ConfigError, match=r"for the self-signed certificate \(expected a host name or an address\)"):
        self_signed(str(tmp_path / "lab"), [name, "127.0.0.1"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "mode"), [("key.pem", 0o666), ("key.pem", 0o644), ("ca-key.pem", 0o604), ("ca-key.pem", 0o660)])
def test_a_key_that_others_can_read_is_not_used(made, tmp_path, name, mode):
    (tmp_path / name).chmod(mode)
    with pytest.raises(ConfigError) as caught:
        self_signed(str(tmp_path), NAMES)
    words = rf"{tmp_path / name}: it can be (read|written) by others \(mode {mode:04o}, expected 0600\)"
    assert re.search(words, str(caught.value))
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode


@pytest.mark.parametrize("name", ["ca.pem", "cert.pem"])
def test_a_certificate_that_others_could_have_changed_is_not_used(made, tmp_path, name):
    (tmp_path / name).chmod(0o646)
    with pytest.raises(ConfigError, match=r"it can be written by others \(mode 0646, expected 0644 or 0600\)"):
        self_signed(str(tmp_path), NAMES)


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o757])
def test_a_directory_that_others_can_write_to_is_not_used(tmp_path, mode):
    tmp_path.chmod(mode)
    with pytest.raises(ConfigError, match=f"others can write to the directory .mode {mode:04o}, expected 0755 or 0700"):
        self_signed(str(tmp_path), NAMES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4])
def test_a_full_disk_is_told_and_leaves_nothing_that_the_next_start_refuses(tmp_path, monkeypatch, fails_at):
    real, calls = os.fsync, []

    def full(fd: int) -> None:
        calls.append(fd)
        if len(calls) == fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(fd)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(ConfigError) as caught:
            self_signed(str(tmp_path), NAMES)
    assert str(caught.value) == (
        f"cannot keep a self-signed certificate in {tmp_path}: No space left on device: give a directory of its own"
    )
    files = self_signed(str(tmp_path), NAMES)
    load(files.certificate).verify_directly_issued_by(load(files.authority))
    assert sorted(os.listdir(tmp_path)) == ["ca-key.pem", "ca.pem", "cert.pem", "key.pem"]


def test_a_directory_that_its_owners_own_group_can_write_to_is_used(tmp_path):
    tmp_path.chmod(0o775)
    user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(tmp_path.stat().st_gid)
    if user.pw_name != group.gr_name or set(group.gr_mem) - {user.pw_name}:
        pytest.skip("this user has no group of its own")
    assert self_signed(str(tmp_path), NAMES).key.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize("what", ["", "key.pem", "cert.pem"])
def test_what_belongs_to_another_user_is_not_used(made, tmp_path, what):
    os.chown(tmp_path / what, 12345, -1)
    with pytest.raises(ConfigError, match=r"belongs to another user \(12345\)"):
        self_signed(str(tmp_path), NAMES)


@pytest.mark.parametrize("name", ["ca.pem", "ca-key.pem", "cert.pem", "key.pem"])
@pytest.mark.parametrize("kind", ["FIFO", "symbolic link", "hard link", "directory"])
def test_what_is_no_file_of_its_own_is_neither_read_nor_replaced(made, tmp_path, name, kind):
    path, elsewhere = tmp_path / name, tmp_path / "elsewhere"
    path.rename(elsewhere)
    make = {
        "FIFO": lambda: os.mkfifo(path),
        "symbolic link": lambda: path.symlink_to(elsewhere),
        "hard link": lambda: os.link(elsewhere, path),
        "directory": path.mkdir,
    }
    make[kind]()
    before = path.lstat()
    with pytest.raises(ConfigError, match=f"{path}: it .*{kind}"):
        self_signed(str(tmp_path), [*NAMES, "new.example"])
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)


@pytest.mark.parametrize("by_the_clock", [True, False])
def test_several_labs_can_be_trusted_together(tmp_path, by_the_clock):
    labs = [self_signed(str(tmp_path / name), ["localhost", "127.0.0.1"]) for name in "abc"]
    together = tmp_path / "together.pem"
    together.write_bytes(b"".join(lab.authority.read_bytes() for lab in labs))
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(ServerThread(["127.0.0.1:0"], lab)) for lab in labs]
        trust = Trust(ca_file=str(together), valid_at=None if by_the_clock else time.time() + 86400)
        options = ClientOptions(count=1, trust=trust)
        results = query_all([server.target for server in servers], options)
    assert [(result.error, result.good) for result in results] == [(None, 1)] * 3
