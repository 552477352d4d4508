"""A throw-away certification authority and a server certificate by it, for labs, tests and the demo.

Comes in: a directory, names and addresses. Goes out: file names. Keys are mode 0600. What is in the directory already is used
again as long as it is valid and has the names asked for; where the certificate is renewed, the authority and the server's key are
kept, so that clients that trust either go on. It must never write over files that it did not make.
"""

import datetime
import logging
import os
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tsq.errors import ConfigError
from tsq.quic.tls import certificate_names

logger = logging.getLogger(__name__)

_LIFETIME = datetime.timedelta(days=365)
_BACKDATED = datetime.timedelta(days=1)
_RENEW_BEFORE = datetime.timedelta(days=30)
_AUTHORITY_NAME = "TSQ throw-away CA"


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where the authority's certificate, the server's certificate and its key are."""

    authority: Path
    certificate: Path
    key: Path


def self_signed(directory: str, names: list[str]) -> CertificateFiles:
    """The files in `directory`, made where need be, for these DNS names and IP addresses. Raises ConfigError."""
    base = Path(directory)
    files = CertificateFiles(base / "ca.pem", base / "cert.pem", base / "key.pem")
    try:
        base.mkdir(parents=True, exist_ok=True)
        if not _usable(files, names):
            _check_place(files)
            authority, authority_key = _authority(files.authority, base / "ca-key.pem")
            _issue(files, names, authority, authority_key)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot keep a self-signed certificate in {directory}: {error}", advice="give a directory of its own"
        ) from error
    return files


def _usable(files: CertificateFiles, names: list[str]) -> bool:
    if not all(path.exists() for path in (files.authority, files.certificate, files.key)):
        return False
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    authority = x509.load_pem_x509_certificate(files.authority.read_bytes())
    key = load_pem_private_key(files.key.read_bytes(), None)
    return (
        key.public_key() == certificate.public_key()
        and certificate.issuer == authority.subject
        and certificate.not_valid_after_utc - _RENEW_BEFORE > _now()
        and set(names) <= set(certificate_names(certificate))
    )


def _authority(certificate_file: Path, key_file: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """The authority that is there, as long as it is ours and lasts; else a new one."""
    if certificate_file.exists() != key_file.exists():
        raise ValueError(f"{certificate_file} and {key_file} are not both there")
    if certificate_file.exists():
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        key = load_pem_private_key(key_file.read_bytes(), None)
        if not (
            _is_ours(certificate) and isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == certificate.public_key()
        ):
            raise ValueError(f"{certificate_file} and {key_file} were not made here, or not together")
        if certificate.not_valid_after_utc - _RENEW_BEFORE > _now():
            return certificate, key
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _AUTHORITY_NAME)])
    certificate = (
        _builder(name, name, key.public_key(), _now() + 3 * _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write_private(key_file, key)
    _write(certificate_file, certificate.public_bytes(Encoding.PEM), 0o644)
    return certificate, key


def _issue(
    files: CertificateFiles, names: list[str], authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey
) -> None:
    key = _key_so_far(files)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    expires = min(_now() + _LIFETIME, authority.not_valid_after_utc)
    certificate = (
        _builder(subject, authority.subject, key.public_key(), expires)
        # Tells this authority from those of other directories, which have the same name.
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    if files.certificate.exists():
        logger.info("%s made anew, for %s; its key stays", files.certificate, ", ".join(names))
    _write_private(files.key, key)
    _write(files.certificate, certificate.public_bytes(Encoding.PEM), 0o644)


def _key_so_far(files: CertificateFiles) -> ec.EllipticCurvePrivateKey:
    """The server's key, a new one where there is none that goes with the certificate."""
    if files.key.exists() and files.certificate.exists():
        key = load_pem_private_key(files.key.read_bytes(), None)
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        if isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == certificate.public_key():
            return key
    return ec.generate_private_key(ec.SECP256R1())


def _check_place(files: CertificateFiles) -> None:
    """Raises ValueError where a certificate or a key would be written over that was not made here."""
    if files.certificate.exists() and not _is_ours(x509.load_pem_x509_certificate(files.certificate.read_bytes())):
        raise ValueError(f"{files.certificate} is another authority's")
    if files.key.exists() and not files.certificate.exists() and not files.authority.exists():
        raise ValueError(f"{files.key} is there without a certificate")


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, expires: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - _BACKDATED)
        .not_valid_after(expires)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _is_ours(certificate: x509.Certificate) -> bool:
    return any(a.value == _AUTHORITY_NAME for a in certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME))


def _write_private(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    _write(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)


def _write(path: Path, data: bytes, mode: int) -> None:
    # Whole or not at all, and never readable by others in between.
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, mode)
        file.write(data)
    fresh.rename(path)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
