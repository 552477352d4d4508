"""Certificates with one unusual property each, and the verdict of Python's own `ssl` in a real handshake."""

import datetime
import ipaddress
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
SAN, KEY_USAGE, PURPOSES = (x509.ObjectIdentifier(oid) for oid in ("2.5.29.17", "2.5.29.15", "2.5.29.37"))
NETSCAPE = x509.ObjectIdentifier("2.16.840.1.113730.1.1")
PKCS1 = bytes.fromhex("2a864886f70d0101")
USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign",
    "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip
GOOD_NAMES = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))


def der(tag: int, content: bytes) -> bytes:
    """One DER element of less than 64 KiB."""
    length = len(content)
    head = bytes([length]) if length < 128 else bytes([0x82]) + length.to_bytes(2, "big")
    return bytes([tag]) + head + content


def usage(*names: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in names for name in USAGES})


@dataclass
class Made:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Any

    def write(self, directory: Path, name: str = "", chain: Sequence["Made"] = ()) -> tuple[str, str]:
        """Write the chain and the key; the names of the two files."""
        files = directory / f"{name}chain.pem", directory / f"{name}key.pem"
        files[0].write_bytes(b"".join(one.certificate.public_bytes(Encoding.PEM) for one in (self, *chain)))
        files[1].write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return str(files[0]), str(files[1])


@dataclass
class Spec:
    """The properties of a certificate. extensions: more, as (extension, critical). old_digest: SHA1 or MD5, by an RSA issuer."""

    subject: str = "case"
    names: Sequence[x509.GeneralName] | bytes | None = GOOD_NAMES
    not_before: datetime.datetime = NOW - DAY
    not_after: datetime.datetime = NOW + 20 * DAY
    key: Callable[[], Any] = lambda: ec.generate_private_key(ec.SECP256R1())
    digest: hashes.HashAlgorithm | None = field(default_factory=hashes.SHA256)
    authority: bool | None = None
    path_length: int | None = None
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = ()
    old_digest: str = ""

    def by(self, issuer: Made | None = None) -> Made:
        """The certificate, signed by this issuer or by itself."""
        key = self.key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.subject, _validate=False)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name if issuer is None else issuer.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.not_before)
            .not_valid_after(self.not_after)
        )
        if isinstance(self.names, bytes):
            builder = builder.add_extension(x509.UnrecognizedExtension(SAN, self.names), critical=False)
        elif self.names is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName(self.names), critical=False)
        if self.authority is not None:
            builder = builder.add_extension(x509.BasicConstraints(self.authority, self.path_length), critical=True)
        for extension, critical in self.extensions:
            builder = builder.add_extension(extension, critical=critical)
        signing = key if issuer is None else issuer.key
        certificate = builder.sign(signing, self.digest)
        return Made(signed_as_of_old(certificate, signing, self.old_digest) if self.old_digest else certificate, key)


def signed_as_of_old(certificate: x509.Certificate, key: rsa.RSAPrivateKey, digest: str) -> x509.Certificate:
    """The same certificate with a signature that `cryptography` does not make any more."""
    # The OIDs of sha256WithRSAEncryption, sha1WithRSAEncryption, md5WithRSAEncryption differ only in the last number.
    new = {"SHA1": b"\x05", "MD5": b"\x04"}[digest]
    body = certificate.tbs_certificate_bytes.replace(PKCS1 + b"\x0b", PKCS1 + new)
    signature = key.sign(body, padding.PKCS1v15(), getattr(hashes, digest)())
    algorithm = der(0x30, der(0x06, PKCS1 + new) + b"\x05\x00")
    return x509.load_der_x509_certificate(der(0x30, body + algorithm + der(0x03, b"\0" + signature)))


def patched(made: Made, issuer: Made | None, old: bytes, new: bytes) -> Made:
    """The same certificate with other bytes (as many), such as `cryptography` would not write. The issuer has a P-256 key."""
    assert len(old) == len(new)
    body = made.certificate.tbs_certificate_bytes
    assert old in body
    body = body.replace(old, new)
    signature = (issuer or made).key.sign(body, ec.ECDSA(hashes.SHA256()))
    algorithm = der(0x30, der(0x06, bytes.fromhex("2a8648ce3d040302")))
    return Made(x509.load_der_x509_certificate(der(0x30, body + algorithm + der(0x03, b"\0" + signature))), made.key)


def root(**changes: Any) -> Spec:
    """A correct root authority, with these changes."""
    return Spec(**{"subject": "root", "names": None, "authority": True} | changes)


def middle(**changes: Any) -> Spec:
    """A correct intermediate authority, with these changes."""
    return Spec(**{"subject": "middle", "names": None, "authority": True} | changes)


def purposes(*which: x509.ObjectIdentifier) -> tuple[x509.ExtensionType, bool]:
    return x509.ExtendedKeyUsage(which), False


SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


def python_accepts(chain: Sequence[Made], trusted: Sequence[x509.Certificate], name: str, directory: Path) -> str:
    """The reason why Python's ssl refuses this chain for this name, in a handshake within this process; empty: it accepts."""
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # The server must serve also what a client would not accept.
    server_side.set_ciphers("ALL:@SECLEVEL=0")
    try:
        server_side.load_cert_chain(*chain[0].write(directory, "python-", chain[1:]))
    except ssl.SSLError as error:
        # Python cannot even load it.
        return error.reason
    client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    assert client_side.security_level == 2, "the level that tsq.quic.certificates.purposes assumes"
    # Later versions of Python set more flags by default.
    client_side.verify_flags = ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST
    client_side.hostname_checks_common_name = False
    client_side.load_verify_locations(cadata="".join(item.public_bytes(Encoding.PEM).decode() for item in trusted))
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(back, there, server_hostname=name)
    server = server_side.wrap_bio(there, back, server_side=True)
    for _ in range(10):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
            if end is client:
                return ""
    raise AssertionError("the handshake does not end")
