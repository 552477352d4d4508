"""Certificates checked for the clock's time and for another one, and pinned keys."""

import datetime
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.cli.peers import DAY, NOW, Authority, Peer, build, honest, self_signed_leaf, write
from tsq.client.blocking import query
from tsq.errors import CertificateError, ConfigError, Expired, NotPinned, NotYetValid, SelfSigned, UnknownAuthority, WrongName
from tsq.options import ClientOptions, Trust, parse_pin
from tsq.quic import tls
from tsq.quic.certificates import chain
from tsq.quic.certificates.trust import authorities

YEAR = 365 * DAY
THEN = NOW - 20 * YEAR


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A certificate of twenty years ago by an authority of then: expired by today's clock."""
    key = ec.generate_private_key(ec.SECP256R1())
    times = {"not_before": THEN - DAY, "not_after": THEN + DAY}
    authority = build("Old authority", "Old authority", key, key, authority=True, **times)
    leaf_key = ec.generate_private_key(ec.SECP256R1())
    leaf = build("a server", "Old authority", leaf_key, key, names=("localhost", "127.0.0.1"), **times)
    return write(tmp_path_factory.mktemp("old"), leaf, leaf_key, authority)


def refused(files, at: datetime.datetime, name: str = "localhost", cafile=None) -> str | None:
    certificates = x509.load_pem_x509_certificates(files.certificate.read_bytes())
    refusal = chain.judge(certificates, name, authorities(Trust(ca_file=str(cafile or files.authority))), at)
    return None if refusal is None else f"{type(refusal).__name__}: {refusal}"


def test_a_chain_is_good_within_its_time_only(old):
    assert refused(old, THEN) is None
    assert refused(old, THEN, "127.0.0.1") is None
    assert refused(old, THEN - 2 * DAY).startswith("NotYetValid")
    assert refused(old, THEN + 2 * DAY).startswith("Expired")
    assert refused(old, NOW).startswith("Expired")


def test_the_authority_has_to_be_within_its_time_too(tmp_path, old):
    del old
    key = ec.generate_private_key(ec.SECP256R1())
    authority = build("Short", "Short", key, key, authority=True, not_before=THEN - DAY, not_after=THEN)
    leaf_key = ec.generate_private_key(ec.SECP256R1())
    leaf = build("a server", "Short", leaf_key, key, names=("localhost",), not_before=THEN - DAY, not_after=NOW + DAY)
    files = write(tmp_path, leaf, leaf_key, authority)
    assert refused(files, THEN - DAY / 2) is None
    assert "CN=Short is outside its validity (certificate has expired)" in refused(files, THEN + DAY)


@pytest.mark.parametrize("name", ["example.org", "127.0.0.2", "::1"])
def test_names_have_to_fit_at_any_time(old, name):
    assert refused(old, THEN, name).startswith("WrongName")


def test_the_authority_has_to_be_trusted_at_any_time(old, tmp_path):
    other = Authority("Another").issue(tmp_path)
    assert refused(old, THEN, cafile=other.authority) is not None


# -------------------------------------------------------------------------------------------------------- in a handshake


def ask(target, trust: Trust):
    return query(target, ClientOptions(count=1, trust=trust, server_name="localhost", timeout=10))


def test_in_a_handshake_the_time_decides_and_nothing_else(old):
    with Peer(old) as peer:
        ca = str(old.authority)
        with pytest.raises(Expired, match="this machine's clock says"):
            ask(peer.target, Trust(ca_file=ca))
        assert ask(peer.target, Trust(ca_file=ca, valid_at=THEN.timestamp())).estimate is not None
        with pytest.raises(NotYetValid, match="the servers say"):
            ask(peer.target, Trust(ca_file=ca, valid_at=(THEN - YEAR).timestamp()))
        with pytest.raises(Expired, match="the servers say"):
            ask(peer.target, Trust(ca_file=ca, valid_at=(THEN + YEAR).timestamp()))
        # Only the one that believed asked, and once more for exact T3; the first request may be sent again.
        assert peer.requests in (1, 2, 3)


def test_in_a_handshake_for_another_time_names_and_authorities_are_checked_as_ever(old, tmp_path):
    with Peer(old) as peer:
        with pytest.raises(WrongName):
            query(
                peer.target,
                ClientOptions(count=1, server_name="example.org", trust=Trust(str(old.authority), valid_at=THEN.timestamp())),
            )
        other = Authority("Another").issue(tmp_path / "other")
        with pytest.raises(UnknownAuthority):
            ask(peer.target, Trust(ca_file=str(other.authority), valid_at=THEN.timestamp()))
        with pytest.raises(UnknownAuthority):
            ask(peer.target, Trust(valid_at=THEN.timestamp()))
        assert peer.requests == 0
    lonely = self_signed_leaf(tmp_path / "lonely")
    with Peer(lonely) as peer, pytest.raises(SelfSigned):
        ask(peer.target, Trust(ca_file=str(other.authority), valid_at=NOW.timestamp()))


def test_a_pinned_key_is_believed_whatever_its_certificate_says(old, tmp_path):
    key = chain.pin(x509.load_pem_x509_certificate(old.certificate.read_bytes()))
    other = chain.pin(x509.load_pem_x509_certificate(Authority().issue(tmp_path).certificate.read_bytes()))
    with Peer(old, honest) as peer:
        assert ask(peer.target, Trust(pins=(other, key))).estimate is not None
        asked = peer.requests
        with pytest.raises(NotPinned, match="the server's key is sha256//") as caught:
            ask(peer.target, Trust(pins=(other,)))
        assert key in str(caught.value)
        assert peer.requests == asked


def test_the_pin_is_what_openssl_makes_of_the_certificate(certificates):
    command = (
        f"openssl x509 -in {certificates.certificate} -noout -pubkey | openssl pkey -pubin -outform der | "
        "openssl dgst -sha256 -binary | base64"
    )
    made = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    assert chain.pin(x509.load_pem_x509_certificate(certificates.certificate.read_bytes())) == f"sha256//{made}"
    assert parse_pin(f"sha256//{made}") == f"sha256//{made}"


@pytest.mark.parametrize(
    "text", ["", "sha256//", "sha256//AAAA", "sha256//!", "A" * 44, "sha1//" + "A" * 43 + "=", "sha256//" + "A" * 44]
)
def test_pins_that_are_none(text):
    with pytest.raises(ConfigError, match="pinned key"):
        parse_pin(text)


@pytest.mark.parametrize(
    "fields",
    [
        {"pins": ("x",), "insecure": True}, {"pins": ("x",), "ca_file": "x"}, {"pins": ("x",), "valid_at": 1.0},
        {"insecure": True, "valid_at": 1.0},
    ],
)
def test_kinds_of_trust_that_exclude_each_other(fields):
    with pytest.raises(ConfigError, match="together with"):
        Trust(**fields)


@pytest.mark.parametrize("trust", [{"valid_at": THEN.timestamp()}, {"pins": ("sha256//" + "A" * 43 + "=",)}])
def test_what_cannot_be_read_is_refused(old, monkeypatch, trust):
    def fail(*_: object) -> None:
        raise ValueError("a date that is none")

    monkeypatch.setattr(chain, "judge", fail)
    monkeypatch.setattr(chain, "pin", fail)
    with Peer(old) as peer:
        with pytest.raises(CertificateError, match="cannot be judged: a date that is none"):
            ask(peer.target, Trust(**trust))
        assert peer.requests == 0


def test_each_trust_has_its_own_tickets(certificates):
    ca = str(certificates.authority)
    trusts = [
        Trust(), Trust(insecure=True), Trust(ca_file=ca), Trust(pins=("sha256//" + "A" * 43 + "=",)),
        Trust(pins=("sha256//" + "B" * 42 + "A=",)), Trust(valid_at=1.0),
        Trust(valid_at=2.0), Trust(ca_file=ca, valid_at=1.0),
    ]
    assert len({tls.trust_identity(trust) for trust in trusts}) == len(trusts)
