"""A throw-away certification authority and a server certificate by it, for labs, tests and the demo.

Comes in: a directory, names and addresses. Goes out: file names. Keys have mode 0600. Existing files are used again while they are
valid and have the requested names. A renewed certificate keeps the authority and the server's key, so that clients that trust
either go on. It must never overwrite files that it did not make, use a key that others can read, or a directory that others can
write to.
"""

import datetime
import logging
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
from tsq.host import files
from tsq.quic.tls import certificate_names

logger = logging.getLogger(__name__)

_LIFETIME = datetime.timedelta(days=365)
_BACKDATED = datetime.timedelta(days=1)
_RENEW_BEFORE = datetime.timedelta(days=30)
_LONGEST_NAME = 253
_MOST_BYTES = 1 << 16
_KEYS = ("ca-key.pem", "key.pem")
_AUTHORITY_NAME = "TSQ throw-away CA"


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where the authority's certificate, the server's certificate and its key are."""

    authority: Path
    certificate: Path
    key: Path


def dns_name(name: str) -> str | None:
    """A host name or an address as certificates have it: A-labels (RFC 5890 §2.3.2.1), no dot at the end, an address in its usual
    form. None for what cannot stand in a certificate, such as a label of more than 63 characters.
    """
    try:
        return str(ip_address(name))
    except ValueError:
        pass
    try:
        text = name.rstrip(".").encode("idna").decode("ascii")
    except UnicodeError:
        return None
    return text if 0 < len(text) <= _LONGEST_NAME and text.isprintable() else None


def self_signed(directory: str, names: list[str]) -> CertificateFiles:
    """The files in `directory` for these DNS names and IP addresses; missing ones are made. Raises ConfigError."""
    base = Path(directory)
    paths = CertificateFiles(base / "ca.pem", base / "cert.pem", base / "key.pem")
    wanted = [_checked_name(name) for name in names]
    try:
        files.make_directory(directory)
        files.check_directory(directory)
        have = _Contents.of(paths)
        if not _usable(have, wanted):
            _check_place(paths, have)
            authority, authority_key = _authority(paths.authority, have)
            _issue(paths, have, wanted, authority, authority_key)
    except (OSError, ValueError) as error:
        found = str(error)
        if isinstance(error, OSError):
            found = f"{error.filename}: {files.why(error)}" if error.filename else files.why(error)
        raise ConfigError(
            f"cannot keep a self-signed certificate in {directory}: {found}", advice="give a directory of its own"
        ) from error
    return paths


def _checked_name(name: str) -> str:
    checked = dns_name(name)
    if checked is None:
        raise ConfigError(f"name {name!r} for the self-signed certificate", expected="a host name or an address")
    return checked


@dataclass(frozen=True, slots=True)
class _Contents:
    """What is in the directory already, in PEM form; None where a file is missing."""

    authority: bytes | None
    authority_key: bytes | None
    certificate: bytes | None
    key: bytes | None

    @classmethod
    def of(cls, paths: CertificateFiles) -> "_Contents":
        """All of it, read once. Raises OSError for a file that others could have changed, or a key that they can read."""
        key_file = _authority_key(paths.authority)
        return cls(*(_read(path) for path in (paths.authority, key_file, paths.certificate, paths.key)))


def _read(path: Path) -> bytes | None:
    try:
        return files.read(str(path), _MOST_BYTES, private=path.name in _KEYS)
    except FileNotFoundError:
        return None
    except files.FileRefused as error:
        raise files.FileRefused(f"{path}: {files.why(error)}") from error


def _authority_key(authority: Path) -> Path:
    return authority.parent / "ca-key.pem"


def _usable(have: _Contents, names: list[str]) -> bool:
    if have.authority is None or have.certificate is None or have.key is None:
        return False
    certificate = x509.load_pem_x509_certificate(have.certificate)
    authority = x509.load_pem_x509_certificate(have.authority)
    key = load_pem_private_key(have.key, None)
    return (
        key.public_key() == certificate.public_key()
        and certificate.issuer == authority.subject
        and certificate.not_valid_after_utc - _RENEW_BEFORE > _now()
        and set(names) <= set(certificate_names(certificate))
    )


def _authority(certificate_file: Path, have: _Contents) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """The existing authority, while it is valid and was made here; else a new one."""
    key_file = _authority_key(certificate_file)
    if (have.authority is None) != (have.authority_key is None):
        raise ValueError(f"{certificate_file} and {key_file} are not both there")
    if have.authority is not None and have.authority_key is not None:
        certificate = x509.load_pem_x509_certificate(have.authority)
        key = load_pem_private_key(have.authority_key, None)
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
    try:
        _write(certificate_file, certificate.public_bytes(Encoding.PEM), 0o644)
    except OSError:
        if have.authority_key is None:
            # A key without its certificate would be refused the next time.
            key_file.unlink(missing_ok=True)
        raise
    return certificate, key


def _issue(
    paths: CertificateFiles,
    have: _Contents,
    names: list[str],
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> None:
    key = _key_so_far(have)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    expires = min(_now() + _LIFETIME, authority.not_valid_after_utc)
    certificate = (
        _builder(subject, authority.subject, key.public_key(), expires)
        # Distinguishes this authority from those of other directories, which have the same name.
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    if have.certificate is not None:
        logger.info("%s made anew, for %s; its key stays", paths.certificate, ", ".join(names))
    _write_private(paths.key, key)
    _write(paths.certificate, certificate.public_bytes(Encoding.PEM), 0o644)


def _key_so_far(have: _Contents) -> ec.EllipticCurvePrivateKey:
    """The server's existing key where it belongs to the certificate; else a new one."""
    if have.key is not None and have.certificate is not None:
        key = load_pem_private_key(have.key, None)
        certificate = x509.load_pem_x509_certificate(have.certificate)
        if isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == certificate.public_key():
            return key
    return ec.generate_private_key(ec.SECP256R1())


def _check_place(paths: CertificateFiles, have: _Contents) -> None:
    """Raises ValueError where a certificate or a key that was not made here would be overwritten."""
    if have.certificate is not None and not _is_ours(x509.load_pem_x509_certificate(have.certificate)):
        raise ValueError(f"{paths.certificate} is another authority's")
    if have.key is not None and have.certificate is None and have.authority is None:
        raise ValueError(f"{paths.key} is there without a certificate")


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
    files.replace(str(path), data, mode)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
