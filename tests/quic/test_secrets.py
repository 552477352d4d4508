"""Secrets: derived keys, the file's form, and what a change of it does."""

import base64
import hmac
import logging
import os
from itertools import pairwise

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tsq.errors import ConfigError
from tsq.quic.secrets import Purpose, Secrets

ONE, TWO, THREE = (bytes([number]) * 32 for number in (1, 2, 3))
DAY = 86400.0


@pytest.fixture
def file(tmp_path):
    def write(*lines: str, mode: int = 0o600):
        path = tmp_path / "secrets"
        fresh = tmp_path / "fresh"
        fresh.write_text("".join(f"{line}\n" for line in lines))
        fresh.chmod(mode)
        fresh.rename(path)
        return path

    return write


def test_each_purpose_has_keys_of_its_own():
    secrets = Secrets([ONE, TWO])
    keys = [key for purpose in Purpose for key in secrets.keys(purpose)]
    assert len(set(keys)) == 2 * len(Purpose)
    assert {len(key) for key in keys} == {32}
    assert not {ONE, TWO} & set(keys)


def test_keys_are_those_of_hkdf_sha256_newest_first():
    """RFC 5869 §2.2: without a salt, HMAC's key is a block of zeros."""
    expected = tuple(
        HKDFExpand(SHA256(), 32, b"tsq address tokens").derive(hmac.digest(bytes(32), master, "sha256")) for master in (TWO, ONE)
    )
    assert Secrets([TWO, ONE]).keys(Purpose.TOKENS) == expected


def test_random_secrets_are_never_the_same():
    assert Secrets.random().keys(Purpose.TICKETS) != Secrets.random().keys(Purpose.TICKETS)
    assert not Secrets.random().shared


def test_random_secrets_replace_themselves_each_day_and_the_last_ones_stay_for_another():
    secrets = Secrets.random()
    seen = [secrets.keys(Purpose.TICKETS)]
    for hour in range(1, 100):
        secrets.refresh(1000.0 + hour * 3600)
        if secrets.keys(Purpose.TICKETS) != seen[-1]:
            seen.append(secrets.keys(Purpose.TICKETS))
    assert [len(keys) for keys in seen] == [1, 2, 2, 2, 2]
    assert all(after[1] == before[0] for before, after in pairwise(seen))
    assert secrets.version == 4


def test_a_file_has_hexadecimal_or_base64_lines_and_comments(file):
    path = file("# made in November", "", ONE.hex(), "  " + TWO.hex().upper() + "\t", base64.b64encode(THREE).decode(), "#end")
    assert Secrets.from_file(path).keys(Purpose.RESETS) == Secrets([ONE, TWO, THREE]).keys(Purpose.RESETS)
    assert Secrets.from_file(str(path)).shared


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), "0 secrets (expected 1 to 16): write one secret a line, newest first, each made by `openssl rand -hex 32`"),
        (("# nothing",), "0 secrets"),
        ((ONE.hex(), ONE.hex()[:-1]), "line 2: no secret (expected 64 hexadecimal digits, or the Base64 of 32 bytes)"),
        (("", "", "g" * 64), "line 3: no secret"),
        ((ONE.hex() + ONE.hex(),), "line 1: no secret"),
        ((base64.b64encode(b"too short").decode(),), "line 1: no secret"),
        ((ONE.hex() + "  # mine",), "line 1: no secret"),
        (("Ünicode" * 9,), "line 1: no secret"),
        ((ONE.hex(), TWO.hex(), base64.b64encode(ONE).decode()), "line 3: the same secret as in line 1"),
        (tuple((bytes([n]) * 32).hex() for n in range(17)), "17 secrets (expected 1 to 16)"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_line(file, lines, message):
    path = file(*lines)
    with pytest.raises(ConfigError) as caught:
        Secrets.from_file(path)
    assert str(caught.value).startswith(f"secret file {path}")
    assert message in str(caught.value)
    # A secret with a slip in it is nearly a secret.
    assert ONE.hex()[:20] not in str(caught.value)


@pytest.mark.parametrize(("mode", "verb"), [(0o604, "read"), (0o644, "read"), (0o620, "change"), (0o602, "change")])
def test_a_file_that_others_can_read_or_change_is_refused(file, mode, verb):
    path = file(ONE.hex(), mode=mode)
    with pytest.raises(ConfigError) as caught:
        Secrets.from_file(path)
    assert f"has mode {mode:04o}: others can {verb} it (expected 0600 or 0440): `chmod 600 {path}`" in str(caught.value)


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o440])
def test_a_file_that_is_kept_as_a_secret_is_accepted(file, mode):
    assert Secrets.from_file(file(ONE.hex(), mode=mode)).shared


def test_no_file_no_regular_file(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        Secrets.from_file(tmp_path / "missing")
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("fifo", "."):
        with pytest.raises(ConfigError, match="secret file"):
            Secrets.from_file(tmp_path / name)


def test_secrets_that_a_program_gives_are_checked():
    for masters in ([], [b"short"], [ONE, "text" * 8], [ONE] * 17):
        with pytest.raises(ConfigError):
            Secrets(masters)


def test_a_file_that_is_replaced_is_read_again_and_those_who_asked_are_told(file):
    secrets = Secrets.from_file(file(ONE.hex()))
    told = []
    secrets.when_changed(lambda: told.append(secrets.keys(Purpose.TICKETS)))
    secrets.refresh(1.0)
    assert not told
    file(TWO.hex(), ONE.hex())
    secrets.refresh(2.0)
    assert told == [Secrets([TWO, ONE]).keys(Purpose.TICKETS)]
    assert secrets.version == 1
    secrets.refresh(3.0)
    assert len(told) == 1


def test_a_file_that_is_replaced_through_a_symbolic_link_is_read_again(tmp_path):
    """As Kubernetes replaces a mounted secret: the directory behind a link changes."""
    for name, secret in (("old", ONE), ("new", TWO)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "secrets").write_text(secret.hex())
        (tmp_path / name / "secrets").chmod(0o440)
    (tmp_path / "data").symlink_to("old")
    (tmp_path / "secrets").symlink_to("data/secrets")
    secrets = Secrets.from_file(tmp_path / "secrets")
    (tmp_path / "next").symlink_to("new")
    (tmp_path / "next").rename(tmp_path / "data")
    secrets.refresh(1.0)
    assert secrets.keys(Purpose.TICKETS) == Secrets([TWO]).keys(Purpose.TICKETS)


@pytest.mark.parametrize("bad", ["content", "mode", "missing"])
def test_a_bad_file_keeps_the_old_secrets_is_reported_once_and_a_good_one_is_taken(file, bad, caplog):
    path = file(ONE.hex())
    secrets = Secrets.from_file(path)
    if bad == "content":
        file("no secret")
    elif bad == "mode":
        file(TWO.hex(), mode=0o644)
    else:
        path.unlink()
    for second in range(5):
        secrets.refresh(second)
    assert secrets.keys(Purpose.TICKETS) == Secrets([ONE]).keys(Purpose.TICKETS)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "secrets not reloaded, the old ones stay: secret file" in caplog.text
    assert not secrets.reload()
    file(TWO.hex())
    secrets.refresh(9.0)
    assert secrets.keys(Purpose.TICKETS) == Secrets([TWO]).keys(Purpose.TICKETS)
    assert secrets.reload()


def test_an_operator_can_read_what_was_wrong_but_no_secret(file, caplog):
    caplog.set_level(logging.DEBUG)
    secrets = Secrets.from_file(file(ONE.hex()))
    file(TWO.hex(), ONE.hex())
    secrets.refresh(1.0)
    assert "2 secrets reloaded" in caplog.text
    assert ONE.hex() not in caplog.text + repr(secrets)
