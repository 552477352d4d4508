"""TLS configurations: files that cannot be used, names that must be given, and trust that is what it says."""

import ssl
from pathlib import Path

import pytest
from aioquic.tls import CipherSuite
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from tests.cli.peers import DAY, NOW, Authority, self_signed_leaf
from tsq.errors import ConfigError, Expired, NotPinned, NotYetValid, SelfSigned, UnknownAuthority, WrongName
from tsq.options import Trust
from tsq.quic import tls
from tsq.quic.certificates import chain
from tsq.quic.certificates.trust import authorities


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def private(key, encryption=None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


# ---------------------------------------------------------------------------------------------------------------- server


def test_a_good_pair_gives_a_server_that_takes_datagrams_and_both_protocol_names(certificates):
    configuration = tls.server_configuration(str(certificates.certificate), str(certificates.key))
    assert configuration.is_client is False
    assert configuration.alpn_protocols == ["tsq/1", "tsq"]
    assert configuration.max_datagram_frame_size == 65535
    assert tls.certificate_expiry(configuration) == x509.load_pem_x509_certificate(
        certificates.certificate.read_bytes()
    ).not_valid_after_utc


def test_a_chain_is_served_whole(tmp_path, authority):
    files = authority.issue(tmp_path)
    files.certificate.write_bytes(files.certificate.read_bytes() + files.authority.read_bytes())
    configuration = tls.server_configuration(str(files.certificate), str(files.key))
    assert [item.subject for item in configuration.certificate_chain] == [authority.certificate.subject]


CERTIFICATES = {
    "missing": None, "empty": b"", "text": b"not PEM", "binary": bytes(range(256)), "cut": b"-----BEGIN CERTIFICATE-----\nAAAA",
    "broken": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
}
KEYS = {
    "missing": None, "empty": b"", "text": b"not PEM", "binary": bytes(range(256)),
    "encrypted": private(ec.generate_private_key(ec.SECP256R1()), BestAvailableEncryption(b"secret")),
}


def written(path: Path, content: bytes | None) -> str:
    if content is not None:
        path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize("fault", CERTIFICATES)
def test_certificate_files_that_cannot_be_used_are_named(tmp_path, certificates, fault):
    path = written(tmp_path / "cert.pem", CERTIFICATES[fault])
    with pytest.raises(ConfigError) as caught:
        tls.server_configuration(path, str(certificates.key))
    assert f"certificate {path} with key {certificates.key}: " in str(caught.value)
    assert "expected a certificate chain and an unencrypted private key, both in PEM form" in str(caught.value)


@pytest.mark.parametrize("fault", KEYS)
def test_key_files_that_cannot_be_used_are_named(tmp_path, certificates, fault):
    path = written(tmp_path / "key.pem", KEYS[fault])
    with pytest.raises(ConfigError) as caught:
        tls.server_configuration(str(certificates.certificate), path)
    assert f"with key {path}: " in str(caught.value)
    assert "cryptography.io" not in str(caught.value)
    assert "unencrypted private key" in str(caught.value)


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate(), x25519.X25519PrivateKey.generate()],
    ids=["same kind", "another kind", "no signing key"],
)
def test_a_key_of_another_certificate_is_refused(tmp_path, certificates, key):
    path = written(tmp_path / "key.pem", private(key))
    with pytest.raises(ConfigError, match=r"do not belong together.*give the key that the certificate was issued for"):
        tls.server_configuration(str(certificates.certificate), path)


def test_a_directory_in_place_of_a_file_is_named(tmp_path, certificates):
    with pytest.raises(ConfigError, match="Is a directory"):
        tls.server_configuration(str(tmp_path), str(certificates.key))


# ---------------------------------------------------------------------------------------------------------------- client


def test_a_client_verifies_unless_it_is_told_not_to(certificates):
    shown = [leaf(certificates)]
    for trust, kind in (
        (Trust(ca_file=str(certificates.authority)), None), (Trust(pins=("sha256//" + "A" * 43 + "=",)), NotPinned),
        (Trust(), UnknownAuthority),
        (Trust(valid_at=1.0), NotYetValid),
    ):
        accept = tls.client_configuration("localhost", trust).accept
        assert accept is not None
        refusal = accept(shown)
        assert refusal is None if kind is None else type(refusal) is kind
        assert accept([]) is not None, "who shows nothing is nobody"
    assert tls.client_configuration("localhost", Trust(insecure=True)).accept is None


def test_a_client_without_a_name_is_refused(certificates):
    # Without a name the chain alone would be checked: any certificate of any authority would do.
    for trust in (Trust(), Trust(ca_file=str(certificates.authority)), Trust(insecure=True)):
        with pytest.raises(ConfigError, match="an empty server name"):
            tls.client_configuration("", trust)


def test_a_ca_file_stands_in_place_of_the_systems_store(certificates):
    trusted = authorities(Trust(ca_file=str(certificates.authority)))
    assert trusted.content == (certificates.authority.read_bytes(),)
    assert trusted.directories == ()
    assert trusted.origin == f"CA file {certificates.authority}"


def test_a_client_offers_the_protocol_names_in_order_and_no_weak_suite():
    configuration = tls.client_configuration("localhost", Trust())
    assert configuration.alpn_protocols == ["tsq/1", "tsq"]
    assert configuration.cipher_suites[0] is CipherSuite.AES_128_GCM_SHA256
    assert configuration.server_name == "localhost"


def test_configurations_do_not_share_what_one_may_change():
    first, second = (tls.client_configuration("localhost", Trust()) for _ in range(2))
    first.alpn_protocols.append("h3")
    first.cipher_suites.clear()
    assert second.alpn_protocols == tls.client_configuration("localhost", Trust()).alpn_protocols == ["tsq/1", "tsq"]
    assert second.cipher_suites


@pytest.mark.parametrize("fault", CERTIFICATES)
def test_a_ca_file_that_cannot_be_used_is_named(tmp_path, fault):
    path = written(tmp_path / "ca.pem", CERTIFICATES[fault])
    with pytest.raises(ConfigError) as caught:
        tls.check_trust(Trust(ca_file=path))
    assert f"CA file {path}" in str(caught.value)
    assert "expected certificates in PEM form" in str(caught.value)
    assert "cryptography.io" not in str(caught.value)


def test_a_ca_file_is_told_from_a_damaged_one_and_one_in_der_form(tmp_path, certificates):
    pem = certificates.authority.read_bytes()
    der = ssl.PEM_cert_to_DER_cert(pem.decode())
    for content, found, advice in (
        (der, "holds no certificate (", "openssl x509 -inform der"),
        (pem.replace(b"MII", b"???"), "holds a damaged certificate (", "get the file anew"),
    ):
        with pytest.raises(ConfigError) as caught:
            tls.check_trust(Trust(ca_file=written(tmp_path / "ca.pem", content)))
        assert found in str(caught.value)
        assert advice in str(caught.value)


def test_a_ca_file_may_have_text_around_its_certificates(tmp_path, certificates):
    pem = certificates.authority.read_bytes()
    tls.check_trust(Trust(ca_file=written(tmp_path / "ca.pem", b"# ours\n" + pem + b"\n" + pem + b"\n# end\n")))


def test_usable_trust_passes_the_check(certificates):
    for trust in (Trust(), Trust(insecure=True), Trust(ca_file=str(certificates.authority))):
        tls.check_trust(trust)


# ----------------------------------------------------------------------------------------------------------------- trust


def test_trust_is_identified_by_what_is_trusted_and_not_by_its_file_name(tmp_path, certificates, authority):
    files = authority.issue(tmp_path)
    copy = tmp_path / "copy.pem"
    copy.write_bytes(certificates.authority.read_bytes())
    by_file = [Trust(ca_file=str(file)) for file in (certificates.authority, files.authority)]
    identities = [tls.trust_identity(trust) for trust in (Trust(), Trust(insecure=True), *by_file)]
    assert len(set(identities)) == 4
    assert tls.trust_identity(Trust(ca_file=str(copy))) == identities[2]


def test_a_ca_file_that_changed_is_another_trust(tmp_path, authority):
    files = authority.issue(tmp_path)
    trust = Trust(ca_file=str(files.authority))
    before = tls.trust_identity(trust)
    tls.check_trust(trust)
    assert tls.trust_identity(trust) == before
    files.authority.write_bytes(files.authority.read_bytes() + Authority("Another").issue(tmp_path / "x").authority.read_bytes())
    # At the next query.
    tls.check_trust(trust)
    assert tls.trust_identity(trust) != before


# --------------------------------------------------------------------------------------------------------------- refusal


def leaf(files) -> x509.Certificate:
    return x509.load_pem_x509_certificate(files.certificate.read_bytes())


def test_the_first_cause_of_a_refusal_is_named_time_before_name_before_signature(tmp_path, authority):
    trust = Trust(ca_file=str(Authority("Another").issue(tmp_path / "other").authority))
    cases = [
        (authority.issue(tmp_path / "1", ["a.example"], not_before=NOW + DAY), "b.example", NotYetValid),
        (authority.issue(tmp_path / "2", ["a.example"], not_after=NOW - DAY / 2), "b.example", Expired),
        (self_signed_leaf(tmp_path / "3", ["a.example"]), "b.example", WrongName),
        (self_signed_leaf(tmp_path / "4", ["a.example"]), "a.example", SelfSigned),
        (authority.issue(tmp_path / "5", ["a.example"]), "a.example", UnknownAuthority),
    ]
    for files, name, kind in cases:
        accept = tls.client_configuration(name, trust).accept
        assert accept is not None
        assert type(accept([leaf(files)])) is kind


def test_the_same_certificates_are_judged_once(certificates, monkeypatch):
    accept = tls.client_configuration("localhost", Trust(ca_file=str(certificates.authority))).accept
    asked = []
    monkeypatch.setattr(chain, "judge", lambda *_: asked.append(_))
    assert accept is not None
    for _ in range(3):
        assert accept([leaf(certificates)]) is None
    assert len(asked) == 1


def test_names_of_a_certificate_are_dns_names_and_addresses(tmp_path, authority):
    names = ["time.example", "*.time.example", "192.0.2.1", "2001:db8::1"]
    assert tls.certificate_names(leaf(authority.issue(tmp_path, names))) == names
    assert tls.certificate_names(leaf(authority.issue(tmp_path / "none", []))) == ["the common name a server only"]
