"""Certificates of either kind that servers use, each by a throw-away authority of its own kind.

Comes in: a directory. Goes out: files. TSQ's own `self_signed` makes ECDSA P-256 alone, so RSA-2048 is made here. It must never be
used outside a benchmark.
"""

import datetime
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from benchmarks.processes import HOST
from tsq.quic.selfsigned import CertificateFiles, self_signed

ECDSA, RSA = "ECDSA P-256", "RSA-2048"
_BITS = 2048


def make(kind: str, directory: Path) -> CertificateFiles:
    """The files for localhost and 127.0.0.1."""
    place = directory / kind.split(maxsplit=1)[0].lower().replace("-2048", "")
    place.mkdir(parents=True, exist_ok=True)
    return self_signed(str(place), ["localhost", HOST]) if kind == ECDSA else _rsa(place)


def _rsa(place: Path) -> CertificateFiles:
    files = CertificateFiles(place / "ca.pem", place / "cert.pem", place / "key.pem")
    authority_key, key = (rsa.generate_private_key(65537, _BITS) for _ in range(2))
    issuer, subject = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("benchmark CA", "localhost"))
    authority = (
        _builder(issuer, issuer, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address(HOST))]
    certificate = (
        _builder(subject, issuer, key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    files.authority.write_bytes(authority.public_bytes(Encoding.PEM))
    files.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    files.key.touch(mode=0o600)
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


def _builder(subject: x509.Name, issuer: x509.Name, key: rsa.RSAPublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
    )
