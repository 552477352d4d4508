"""Odd certificates: what TSQ accepts and refuses is what Python's own ssl does in a real handshake, and each refusal says why."""

import ipaddress
import warnings

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from tests.support.odd_certificates import (
    CLIENT,
    DAY,
    GOOD_NAMES,
    KEY_USAGE,
    NETSCAPE,
    NOW,
    PURPOSES,
    SERVER,
    Made,
    Spec,
    der,
    middle,
    purposes,
    python_accepts,
    root,
    usage,
)  # fmt: skip
from tsq.errors import (
    CertificateError,
    ConfigError,
    Expired,
    NotYetValid,
    SelfSigned,
    TooWeak,
    UnknownAuthority,
    WrongName,
    WrongPurpose,
)  # fmt: skip
from tsq.quic.certificates import chain, names
from tsq.quic.certificates.der import bits, dotted, items, only
from tsq.quic.certificates.trust import Authorities

ANY = x509.ObjectIdentifier("2.5.29.37.0")
SGC = x509.ObjectIdentifier("1.3.6.1.4.1.311.10.3.3")
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")


def rsa_key(bits):
    return lambda: rsa.generate_private_key(65537, bits)


def curve(kind):
    return lambda: ec.generate_private_key(kind())


def dns(*entries: str) -> list[x509.GeneralName]:
    return [x509.DNSName(entry) for entry in entries]


def raw(*entries: tuple[int, bytes]) -> bytes:
    """A subjectAltName of these entries, which nothing has checked."""
    return der(0x30, b"".join(der(tag, content) for tag, content in entries))


def permitted(*entries: x509.GeneralName):
    return x509.NameConstraints(list(entries), None), True


def excluded(*entries: x509.GeneralName):
    return x509.NameConstraints(None, list(entries)), True


LOCALHOST, LOOPBACK = (0x82, b"localhost"), (0x87, bytes([127, 0, 0, 1]))
DIRECTORY = x509.DirectoryName(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")]))
SRV = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7"), b"\x0c\x03abc")
OLD = root(key=rsa_key(2048))
# name -> (the server's certificate, authorities from below to the trusted one, the error, words of it). None: accepted.
CASES = {
    "plain": (Spec(), [root()], None, ""),
    "with an intermediate": (Spec(), [middle(), root()], None, ""),
    # ------------------------------------------------------------------------------------------------ names
    "an address as a DNS entry": (Spec(names=[*dns("localhost", "127.0.0.1"), GOOD_NAMES[1]]), [root()], None, ""),
    "an SRV name": (Spec(names=[SRV, *GOOD_NAMES]), [root()], None, ""),
    "an empty DNS entry": (Spec(names=[*dns(""), *GOOD_NAMES]), [root()], None, ""),
    "an underscore": (Spec(names=[*dns("_time._udp.localhost"), *GOOD_NAMES]), [root()], None, ""),
    "an asterisk in the middle": (Spec(names=[*dns("time.*.example.org"), *GOOD_NAMES]), [root()], None, ""),
    "two asterisks": (Spec(names=[*dns("*.*.example.org"), *GOOD_NAMES]), [root()], None, ""),
    "an asterisk alone": (Spec(names=[*dns("*"), *GOOD_NAMES]), [root()], None, ""),
    "only an asterisk": (Spec(names=dns("*")), [root()], WrongName, "is for *, not for localhost"),
    "a wildcard of one label": (Spec(names=dns("*.localhost")), [root()], WrongName, ""),
    "mail, URI, directory, registered": (
        Spec(names=[
            x509.RFC822Name("a@b.example"), x509.UniformResourceIdentifier("urn:a:b"), DIRECTORY,
            x509.RegisteredID(x509.ObjectIdentifier("1.2.3")), *GOOD_NAMES,
        ]), [root()], None, "",
    ),
    "an address of five bytes": (Spec(names=raw((0x87, b"\1\2\3\4\5"), LOCALHOST)), [root()], None, ""),
    "an address with a mask": (Spec(names=raw((0x87, bytes([127, 0, 0, 1, 255, 255, 255, 255])), LOCALHOST)), [root()], None, ""),
    "a DNS entry in UTF-8": (Spec(names=raw((0x82, "zeit.ö.example".encode()), LOCALHOST)), [root()], None, ""),
    "a DNS entry with a NUL": (Spec(names=raw((0x82, b"localhost\0.evil.example"))), [root()], WrongName, ""),
    "a DNS entry with a line end": (Spec(names=raw((0x82, b"a\nb"), LOCALHOST)), [root()], None, ""),
    "a DNS entry of 300 bytes": (Spec(names=raw((0x82, b"a" * 300), LOCALHOST)), [root()], None, ""),
    "a DNS entry with a final dot": (Spec(names=dns("localhost.")), [root()], WrongName, "is for localhost., not for localhost"),
    "400 names": (Spec(names=[*dns(*(f"h{i}.example.org" for i in range(400))), *GOOD_NAMES]), [root()], None, ""),
    "40 other names": (Spec(names=dns(*(f"h{i}.example.org" for i in range(40)))), [root()], WrongName, "and 32 more, not for"),
    "an empty list of names": (Spec(names=raw()), [root()], WrongName, ""),
    "names that are no list": (Spec(names=b"\x02\x01\x01"), [root()], CertificateError, "cannot be read"),
    "names that are cut off": (Spec(names=b"\x30\x20\x82\x09localhost"), [root()], CertificateError, "cannot be read"),
    "a common name only": (Spec(subject="localhost", names=None), [root()], WrongName, "the common name localhost only, not for"),
    "an upper-case entry": (Spec(names=dns("LOCALHOST")), [root()], None, ""),
    "another name": (Spec(names=dns("example.org")), [root()], WrongName, "is for example.org, not for localhost"),
    # --------------------------------------------------------------------------------------------- purposes
    "for servers": (Spec(extensions=[purposes(SERVER)]), [root()], None, ""),
    "for servers and clients": (Spec(extensions=[purposes(CLIENT, SERVER)]), [root()], None, ""),
    "for clients": (Spec(extensions=[purposes(CLIENT)]), [root()], WrongPurpose, "is for TLS clients, not for TLS servers"),
    "for mail and code": (
        Spec(extensions=[purposes(ExtendedKeyUsageOID.EMAIL_PROTECTION, ExtendedKeyUsageOID.CODE_SIGNING)]), [root()], WrongPurpose,
        "is for e-mail, code signing",
    ),
    "for any purpose": (Spec(extensions=[purposes(ANY)]), [root()], WrongPurpose, "is for any purpose, not for TLS servers"),
    "for any purpose and servers": (Spec(extensions=[purposes(ANY, SERVER)]), [root()], None, ""),
    "for servers of long ago": (Spec(extensions=[purposes(SGC)]), [root()], None, ""),
    "for an unknown purpose": (Spec(extensions=[purposes(UNKNOWN.oid)]), [root()], WrongPurpose, "is for 1.2.3.4.5, not for"),
    "malformed purposes": (
        Spec(extensions=[(x509.UnrecognizedExtension(PURPOSES, b"\x30\x03\x06\x01"), False)]), [root()], CertificateError,
        "cannot be read",
    ),
    "a critical purpose": (Spec(extensions=[(x509.ExtendedKeyUsage([SERVER]), True)]), [root()], None, ""),
    "to sign": (Spec(extensions=[(usage("digital_signature"), True)]), [root()], None, ""),
    "to encipher keys": (Spec(extensions=[(usage("key_encipherment"), True)]), [root()], None, ""),
    "to agree on keys": (Spec(extensions=[(usage("key_agreement"), True)]), [root()], None, ""),
    "to sign certificates": (Spec(extensions=[(usage("key_cert_sign"), True)]), [root()], WrongPurpose, "must not be used for TLS"),
    "to commit": (Spec(extensions=[(usage("content_commitment"), True)]), [root()], WrongPurpose, "must not be used for TLS"),
    "a malformed key usage": (
        Spec(extensions=[(x509.UnrecognizedExtension(KEY_USAGE, b"\x03\x01\x09"), True)]), [root()], CertificateError,
        "cannot be read",
    ),
    "Netscape's servers": (
        Spec(extensions=[(x509.UnrecognizedExtension(NETSCAPE, b"\x03\x02\x06\x40"), False)]), [root()], None, "",
    ),
    "Netscape's clients": (
        Spec(extensions=[(x509.UnrecognizedExtension(NETSCAPE, b"\x03\x02\x07\x80"), False)]), [root()], WrongPurpose, "nsCertType",
    ),
    "an authority's certificate": (Spec(authority=True), [root()], None, ""),
    "an unknown extension": (Spec(extensions=[(UNKNOWN, False)]), [root()], None, ""),
    "an unknown critical extension": (Spec(extensions=[(UNKNOWN, True)]), [root()], CertificateError, "critical extension"),
    # ------------------------------------------------------------------------------------------ authorities
    "an authority for clients": (
        Spec(), [middle(extensions=[purposes(CLIENT)]), root()],
        WrongPurpose, "the authority's certificate CN=middle is for TLS clients",
    ),
    "an authority for servers": (Spec(), [middle(extensions=[purposes(SERVER)]), root()], None, ""),
    "a root for clients": (Spec(), [root(extensions=[purposes(CLIENT)])], WrongPurpose, "CN=root is for TLS clients"),
    "no authority": (Spec(), [middle(authority=False), root()], WrongPurpose, "is not an authority's"),
    "no word of authority": (Spec(), [middle(authority=None), root()], WrongPurpose, "is not an authority's"),
    "a server as authority": (
        Spec(), [Spec(subject="middle", extensions=[purposes(SERVER)]), root()], WrongPurpose, "is not an authority's",
    ),
    "an authority that may not sign": (
        Spec(), [middle(extensions=[(usage("crl_sign"), True)]), root()], WrongPurpose, "is not an authority's",
    ),
    "an authority that may sign": (Spec(), [middle(extensions=[(usage("key_cert_sign"), True)]), root()], None, ""),
    "a path of the right length": (Spec(), [middle(path_length=0), root(path_length=1)], None, ""),
    "a path that is too long": (Spec(), [middle(), root(path_length=0)], WrongPurpose, "may not have so many certificates"),
    "a name that is permitted": (Spec(names=dns("localhost")), [root(extensions=[permitted(*dns("localhost"))])], None, ""),
    "a name that is not permitted": (
        Spec(names=dns("localhost")), [root(extensions=[permitted(*dns("example.org"))])], WrongPurpose, "must not speak",
    ),
    "a name that is excluded": (
        Spec(names=dns("localhost")), [middle(extensions=[excluded(*dns("localhost"))]), root()], WrongPurpose, "must not speak",
    ),
    "an address that is excluded": (
        Spec(), [root(extensions=[excluded(x509.IPAddress(ipaddress.ip_network("127.0.0.0/8")))])], WrongPurpose, "must not speak",
    ),
    # ------------------------------------------------------------------------------------------------ times
    "expired": (Spec(not_after=NOW - DAY / 2), [root()], Expired, "expired at"),
    "not valid yet": (Spec(not_before=NOW + DAY), [root()], NotYetValid, "is not valid before"),
    "an authority that expired": (Spec(), [middle(not_after=NOW - DAY / 2), root()], Expired, "CN=middle is outside its validity"),
    "an authority of tomorrow": (Spec(), [middle(not_before=NOW + DAY), root()], NotYetValid, "CN=middle is outside its validity"),
    "a root that expired": (Spec(), [root(not_after=NOW - DAY / 2)], Expired, "CN=root is outside its validity"),
    "for ever": (Spec(not_after=NOW.replace(year=9999, month=12, day=31, hour=23, minute=59, second=59)), [root()], None, ""),
    "beyond 2050": (Spec(not_after=NOW.replace(year=2050, month=1, day=1)), [root()], None, ""),
    "since 1950": (Spec(not_before=NOW.replace(year=1950, month=1, day=1)), [root()], None, ""),
    # ------------------------------------------------------------------------------------- keys, signatures
    "RSA of 2048 bits": (Spec(key=rsa_key(2048)), [root()], None, ""),
    "RSA of 2047 bits": (Spec(key=rsa_key(2047)), [root()], None, ""),
    "RSA of 1024 bits": (Spec(key=rsa_key(1024)), [root()], TooWeak, "the server's certificate has an RSA key of 1024 bits"),
    "RSA of 1900 bits": (Spec(key=rsa_key(1900)), [root()], TooWeak, "1900 bits"),
    "an authority with RSA of 1024 bits": (
        Spec(), [middle(key=rsa_key(1024)), root()], TooWeak, "CN=middle has an RSA key of 1024",
    ),
    "a root with RSA of 1024 bits": (Spec(), [root(key=rsa_key(1024))], TooWeak, "CN=root has an RSA key of 1024 bits"),
    "P-384": (Spec(key=curve(ec.SECP384R1)), [root()], None, ""),
    "P-521": (Spec(key=curve(ec.SECP521R1)), [root()], None, ""),
    "an authority on P-224": (Spec(), [middle(key=curve(ec.SECP224R1)), root()], None, ""),
    "an authority on P-192": (Spec(), [middle(key=curve(ec.SECP192R1)), root()], TooWeak, "CN=middle has a key of 192 bits"),
    "Ed25519": (Spec(key=ed25519.Ed25519PrivateKey.generate), [root()], None, ""),
    "Ed448": (Spec(key=ed448.Ed448PrivateKey.generate), [root()], None, ""),
    "an Ed25519 authority": (Spec(digest=None), [root(key=ed25519.Ed25519PrivateKey.generate, digest=None)], None, ""),
    "SHA-224": (Spec(digest=hashes.SHA224()), [root()], None, ""),
    "SHA-1": (Spec(old_digest="SHA1"), [OLD], TooWeak, "the server's certificate has a signature with SHA-1"),
    "SHA-1 of an intermediate": (
        Spec(), [middle(old_digest="SHA1"), OLD], TooWeak, "CN=middle has a signature with SHA-1",
    ),
    "SHA-1 of the root's own": (Spec(), [root(key=rsa_key(2048), old_digest="SHA1")], None, ""),
    "MD5": (Spec(old_digest="MD5"), [OLD], TooWeak, "a signature with MD5"),
}  # fmt: skip


def made(leaf: Spec, above: list[Spec]) -> list[Made]:
    """The chain, the server's own first."""
    issuer = None
    found: list[Made] = []
    for spec in reversed(above):
        issuer = spec.by(issuer)
        found.insert(0, issuer)
    return [leaf.by(issuer), *found]


def judged(shown: list[Made], trusted: list[x509.Certificate], name: str) -> CertificateError | None:
    content = b"".join(item.public_bytes(Encoding.PEM) for item in trusted)
    return chain.judge([one.certificate for one in shown], name, Authorities((content,), (), "the test's"), NOW)


@pytest.mark.parametrize("case", CASES)
def test_an_odd_certificate_is_judged_as_openssl_judges_it(case, tmp_path):
    leaf, above, kind, words = CASES[case]
    with warnings.catch_warnings(action="ignore"):
        whole = made(leaf, above)
        refusal = judged(whole[:-1], [whole[-1].certificate], "localhost")
        theirs = python_accepts(whole[:-1], [whole[-1].certificate], "localhost", tmp_path)
    assert (refusal is None) == (theirs == ""), f"TSQ: {refusal}; Python: {theirs or 'accepted'}"
    assert kind is None if refusal is None else type(refusal) is kind
    assert words in str(refusal)
    assert "\n" not in str(refusal)


# name that a user gives -> entries of the certificate, whether one fits.
HOSTS = [
    ("localhost", ["localhost"], True), ("LocalHost", ["localhost"], True), ("localhost.", ["localhost"], True),
    ("localhost..", ["localhost"], False), ("host", ["localhost"], False), ("a.localhost", ["localhost"], False),
    ("time.example.org", ["*.example.org"], True), ("a.time.example.org", ["*.example.org"], False),
    ("example.org", ["*.example.org"], False), ("example.org", ["*.org"], False), (".example.org", ["*.example.org"], False),
    ("time.example.org", ["t*.example.org"], False), ("time.example.org", ["*e.example.org"], False),
    ("time.example.org", ["time.*.org"], False), ("time.example.org", ["*.*.org"], False),
    ("xn--4ca.example.org", ["*.example.org"], True),
    ("zeit.ö.example", ["zeit.xn--nda.example"], True), ("ZEIT.Ö.example.", ["zeit.xn--nda.example"], True),
    ("xn--nda.example", ["ö.example"], False), ("a_b.example.org", ["*.example.org"], False),
    ("a_b.example.org", ["a_b.example.org"], True),
    ("192.0.2.1", ["192.0.2.1"], True), ("192.0.2.1", ["192.0.2.2"], False), ("192.0.2.1", ["*.0.2.1"], False),
    ("2001:DB8:0::1", ["2001:db8::1"], True), ("[2001:db8::1]", ["2001:db8::1"], True), ("2001:db8::1", ["2001:db8::2"], False),
    ("::ffff:192.0.2.1", ["192.0.2.1"], False), ("::ffff:192.0.2.1", ["::ffff:192.0.2.1"], True),
    ("192.0.2.1.", ["192.0.2.1"], True),
    ("fe80::1%eth0", ["fe80::1"], True), ("fe80::1%25", ["fe80::2"], False), ("[fe80::1%eth0]", ["fe80::1"], True),
]  # fmt: skip


def entry(name: str) -> tuple[int, bytes]:
    try:
        return 0x87, ipaddress.ip_address(name).packed
    except ValueError:
        return 0x82, name.encode()


@pytest.mark.parametrize(("name", "entries", "same"), HOSTS)
def test_a_name_fits_as_openssl_says(name, entries, same, tmp_path):
    whole = made(Spec(names=raw(*map(entry, entries))), [root()])
    wanted = names.name_to_check(name)
    refusal = judged(whole[:-1], [whole[-1].certificate], wanted)
    assert (refusal is None) == same
    assert refusal is None or isinstance(refusal, WrongName)
    # Python knows neither the dot nor the zone: it is asked for what TSQ makes of the name.
    if not wanted.startswith((".",)) and ".." not in wanted and not wanted.endswith("."):
        assert (python_accepts(whole[:-1], [whole[-1].certificate], wanted, tmp_path) == "") == same


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda data: der(0x30, data)))
def test_whatever_the_network_sends_is_read_or_refused(data):
    for read in (items, bits, dotted, lambda data: only(data, 0x30)):
        try:
            read(data)
        except ValueError:
            continue


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("time.example", "time.example"), ("TIME.Example.", "time.example"), ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example.", "xn--bcher-kva.example"), ("192.0.2.1", "192.0.2.1"), ("2001:DB8:0:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"), ("[::1]", "::1"), ("::", "::"), ("127.1", "127.1"), ("192.0.2.1%eth0", "192.0.2.1%eth0"),
    ],
)
def test_the_name_to_check_is_what_certificates_have(text, name):
    assert names.name_to_check(text) == name
    assert names.name_to_check(name) == name


@pytest.mark.parametrize("text", ["", ".", "ü" * 64, "ö..example", "\udc80"])
def test_names_that_no_certificate_can_have_are_refused(text):
    with pytest.raises(ConfigError, match="expected"):
        names.name_to_check(text)


def test_a_chain_that_ends_nowhere_says_who_is_trusted_and_asks_for_the_rest():
    whole = made(Spec(), [middle(), root()])
    other = root(subject="another").by()
    alone, both = (judged(shown, [other.certificate], "localhost") for shown in (whole[:1], whole[:2]))
    for refusal in (alone, both):
        assert type(refusal) is UnknownAuthority
        assert "trusted: the test's" in str(refusal)
        assert "Trust(ca_file=...)" in str(refusal)
    assert "signed by CN=middle, which is not trusted here" in str(alone)
    assert "the server sent one certificate: does it serve the full chain?" in str(alone)
    assert "signed by CN=root, which is not trusted here" in str(both)
    assert "full chain" not in str(both)


def test_a_chain_may_come_in_any_order_and_with_others_in_it():
    whole = made(Spec(), [middle(), root()])
    stranger = root(subject="stranger").by()
    shown = [whole[0], stranger, whole[2], whole[1]]
    assert judged(shown, [whole[2].certificate], "localhost") is None
    assert judged([whole[1], whole[0]], [whole[2].certificate], "localhost") is not None, "the first is the server's"


def test_a_signature_by_a_namesake_of_the_authority_is_refused():
    impostor, honest = root().by(), root().by()
    leaf = Spec().by(impostor)
    refusal = judged([leaf], [honest.certificate], "localhost")
    assert type(refusal) is UnknownAuthority
    assert "signed by a CN=root that is not trusted here, only a namesake is" in str(refusal)


def test_a_self_signed_certificate_is_refused_unless_it_is_the_trusted_one(tmp_path):
    lonely = Spec().by()
    assert type(judged([lonely], [root().by().certificate], "localhost")) is SelfSigned
    assert judged([lonely], [lonely.certificate], "localhost") is None
    assert python_accepts([lonely], [lonely.certificate], "localhost", tmp_path) == ""


def test_no_certificate_is_refused():
    assert type(judged([], [root().by().certificate], "localhost")) is CertificateError
