"""A server's certificate chain and key: read, ordered and checked before the server uses them.

Comes in: names of PEM files. Goes out: Credentials, or ConfigError where no client could be served with them. A chain that most
clients would reject is served with a warning, because clients may pin the key. It must never hide from the operator what is missing
in a chain.
"""

import datetime
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aioquic.quic.connection import CRYPTO_BUFFER_SIZE
from aioquic.tls import SignatureAlgorithm, signature_algorithm_params
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

from tsq.errors import ConfigError
from tsq.quic.certificates import pem, purposes
from tsq.quic.certificates.names import certificate_names
from tsq.quic.certificates.reading import read_whole

EXPECTED = "a certificate chain and an unencrypted private key, both in PEM form"
SIGNING_KEYS = "RSA, EC P-256, EC P-384, Ed25519 or Ed448"
# The authority of `selfsigned`, whose certificate clients get as a file.
THROW_AWAY_AUTHORITY = "TSQ throw-away CA"
_KEY_LABEL = "PRIVATE KEY"
_PSS_KEY = "1.2.840.113549.1.1.10"
# RFC 8446 §4.4: what goes with the certificates in one flight, and aioquic keeps in one buffer. The extensions have some 120 bytes.
_ENCRYPTED_EXTENSIONS = 256
_FINISHED = 4 + 48
_MESSAGE_HEAD, _CERTIFICATE_HEAD, _ENTRY_HEAD, _VERIFY_HEAD = 4, 4, 5, 8


@dataclass(frozen=True, slots=True)
class Credentials:
    """chain: the server's own certificate first; key: its private key; warnings: what the operator should know about them."""

    chain: tuple[x509.Certificate, ...]
    key: Any
    warnings: tuple[str, ...] = ()


def load(certificate_file: str, key_file: str) -> Credentials:
    """Read a certificate chain and its key. Raises ConfigError."""
    pair = f"certificate {certificate_file} with key {key_file}"
    content, _ = _read(certificate_file, pair)
    key_content, key_state = _read(key_file, pair)
    certificates = _certificates(content, certificate_file, pair)
    keys = _keys(key_content, key_file, pair)
    key, place = _fitting(certificates, keys, certificate_file, key_file)
    _check_signing(certificates[place], key, pair)
    try:
        chain, linked = _ordered(certificates, place)
        _check_size(chain, key, certificate_file)
        warnings = [
            *_order_warnings(certificates, chain, linked, certificate_file),
            *_key_file_warnings(key_file, key_state),
        ]
        warnings += [
            f"clients will refuse certificate {certificate_file}: {problem}" for problem in _rejection_warnings(chain[:linked])
        ]
    except ValueError as error:
        # `cryptography` parses parts of a certificate at their first use.
        raise ConfigError(f"{pair}: a certificate is malformed: {error}", expected=EXPECTED) from error
    return Credentials(tuple(chain), key, tuple(warnings))


def largest_chain(key: Any) -> int:
    """How many bytes the certificates may have together, with 5 more for each: what the rest of the flight leaves."""
    rest = _ENCRYPTED_EXTENSIONS + _MESSAGE_HEAD + _CERTIFICATE_HEAD + _VERIFY_HEAD + _signature_size(key) + _FINISHED
    return CRYPTO_BUFFER_SIZE - rest


def _read(path: str, pair: str) -> tuple[bytes, Any]:
    try:
        # Read again at each reload: a pipe would be empty then.
        return read_whole(path)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{pair}: {path}: {why}", expected=EXPECTED) from error


def _certificates(content: bytes, path: str, pair: str) -> list[x509.Certificate]:
    try:
        found = pem.certificates(content)
    except pem.Damaged as error:
        raise ConfigError(f"{pair}: {path} is damaged: {error}", expected=EXPECTED, advice="get the file anew") from error
    if not found:
        raise ConfigError(f"{pair}: {path} holds no certificate", expected=EXPECTED, advice=pem.what_else(content))
    return list(dict.fromkeys(found))


def _keys(content: bytes, path: str, pair: str) -> list[Any]:
    try:
        blocks = [block for block in pem.blocks(content) if block.label.endswith(_KEY_LABEL)]
    except pem.Damaged as error:
        raise ConfigError(f"{pair}: {path} is damaged: {error}", expected=EXPECTED, advice="get the file anew") from error
    if not blocks:
        raise ConfigError(f"{pair}: {path} holds no private key", expected=EXPECTED, advice=pem.what_else(content))
    keys = []
    for block in blocks:
        if block.label == f"ENCRYPTED {_KEY_LABEL}" or b"ENCRYPTED" in block.text.split(b"\n\n")[0].partition(b"\n")[2][:200]:
            raise ConfigError(
                f"{pair}: the key in {path} is encrypted",
                expected=EXPECTED,
                advice=f"`openssl pkey -in {path} -out NEW` removes the passphrase",
            )
        try:
            keys.append(load_pem_private_key(block.text, None))
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(
                f"{pair}: the key in {path} cannot be read", expected=EXPECTED, advice=f"a server's key is {SIGNING_KEYS}"
            ) from error
    return keys


def _fitting(certificates: Sequence[x509.Certificate], keys: list[Any], certificate_file: str, key_file: str) -> tuple[Any, int]:
    """(key, the certificate's place) of the pair that belongs together."""
    for place, certificate in enumerate(certificates):
        try:
            public = certificate.public_key()
        except (ValueError, UnsupportedAlgorithm):
            continue
        for key in keys:
            if public == key.public_key():
                return key, place
    several = f", nor with any other of its {len(certificates)} certificates" if len(certificates) > 1 else ""
    raise ConfigError(
        f"certificate {certificate_file} and key {key_file} do not belong together{several}",
        advice="give the key that the certificate was issued for",
    )


def _algorithm(key: Any) -> SignatureAlgorithm | None:
    """How aioquic signs with this key; None where it cannot."""
    match key:
        case rsa.RSAPrivateKey():
            # aioquic signs with SHA-256 or SHA-384, as the client supports. SHA-384 needs the larger key.
            return SignatureAlgorithm.RSA_PSS_RSAE_SHA384
        case ec.EllipticCurvePrivateKey() if isinstance(key.curve, ec.SECP256R1):
            return SignatureAlgorithm.ECDSA_SECP256R1_SHA256
        case ec.EllipticCurvePrivateKey() if isinstance(key.curve, ec.SECP384R1):
            return SignatureAlgorithm.ECDSA_SECP384R1_SHA384
        case ed25519.Ed25519PrivateKey():
            return SignatureAlgorithm.ED25519
        case ed448.Ed448PrivateKey():
            return SignatureAlgorithm.ED448
    return None


def _check_signing(certificate: x509.Certificate, key: Any, pair: str) -> None:
    """Raises ConfigError where no handshake could be signed with this key."""
    algorithm = _algorithm(key)
    if certificate.public_key_algorithm_oid.dotted_string == _PSS_KEY:
        algorithm = None
    if algorithm is not None:
        try:
            key.sign(b"", *signature_algorithm_params(algorithm))
            return
        except (ValueError, UnsupportedAlgorithm):
            pass
    raise ConfigError(
        f"{pair}: no QUIC handshake can be signed with a key of this kind ({_kind(certificate, key)})",
        expected=f"{SIGNING_KEYS}, RSA from 2048 bits on",
        advice="get a certificate for such a key",
    )


def _kind(certificate: x509.Certificate, key: Any) -> str:
    if certificate.public_key_algorithm_oid.dotted_string == _PSS_KEY:
        return "RSA-PSS"
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return f"EC {key.curve.name}"
    if isinstance(key, rsa.RSAPrivateKey):
        return f"RSA of {key.key_size} bits"
    return type(key).__name__.removesuffix("PrivateKey")


def _signature_size(key: Any) -> int:
    """How many bytes a signature has at the most."""
    if isinstance(key, rsa.RSAPrivateKey):
        return (key.key_size + 7) // 8
    if isinstance(key, ec.EllipticCurvePrivateKey):
        # Two integers of the curve's size, a sign byte and a head each, in a sequence.
        return 2 * ((key.key_size + 7) // 8 + 3) + 3
    return 114


def _check_size(chain: Sequence[x509.Certificate], key: Any, path: str) -> None:
    size = sum(len(item.public_bytes(Encoding.DER)) + _ENTRY_HEAD for item in chain)
    most = largest_chain(key)
    if size > most:
        raise ConfigError(
            f"certificate {path}: the chain of {len(chain)} has {size} bytes",
            expected=f"{most} at the most, which is what the QUIC stack sends",
            advice="get a certificate with fewer names, or leave out what clients do not need",
        )


def _ordered(certificates: Sequence[x509.Certificate], place: int) -> tuple[list[x509.Certificate], int]:
    """(the chain from the server's own certificate upwards, then what else there is; how many belong to the chain)."""
    chain = [certificates[place]]
    rest = [item for item in certificates if item is not chain[0]]
    while issuer := next((item for item in rest if _issued(chain[-1], item)), None):
        chain.append(issuer)
        rest.remove(issuer)
    return [*chain, *rest], len(chain)


def _first_misplaced(found: Sequence[x509.Certificate], chain: Sequence[x509.Certificate]) -> str:
    """Which certificate of a file stands where another one should, counted from 1."""
    place = next(place for place, (item, right) in enumerate(zip(found, chain, strict=True)) if item != right)
    item, right = (which.subject.rfc4514_string() or "one without a subject" for which in (found[place], chain[place]))
    why = ", which the key belongs to" if place == 0 else ""
    return f"certificate {place + 1} is {item} (expected certificate {found.index(chain[place]) + 1}, {right}{why})"


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    if purposes.weak_signature(certificate):
        # `cryptography` does not check it any more; `_rejection_warnings` reports it.
        return certificate.issuer == issuer.subject
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _order_warnings(found: Sequence[x509.Certificate], chain: Sequence[x509.Certificate], linked: int, path: str) -> list[str]:
    warnings = []
    if list(found[:linked]) != list(chain[:linked]):
        warnings.append(
            f"the certificates in {path} are in the wrong order: {_first_misplaced(found, chain)}: they are sent in the right order"
        )
    for item in chain[linked:]:
        warnings.append(f"{path} holds a certificate that is no part of the chain: {item.subject.rfc4514_string()}")
    leaf = chain[0]
    issuer = leaf.issuer.rfc4514_string()
    common = [name.value for name in leaf.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if linked == 1 and leaf.issuer != leaf.subject and common != [THROW_AWAY_AUTHORITY]:
        warnings.append(
            f"{path} lacks the certificate of {issuer}, which signed the server's: only clients that trust {issuer} itself accept"
            " it; if that is an intermediate authority, append its certificate"
        )
    return warnings


def _key_file_warnings(path: str, state: Any) -> list[str]:
    """The same rule as PostgreSQL: only the owner may read a key; the group, too, where root owns it."""
    mode = stat.S_IMODE(state.st_mode)
    allowed = 0o740 if state.st_uid == 0 else 0o700
    if not mode & ~allowed & 0o777:
        return []
    who = "every user of this machine" if mode & 0o007 else "other users"
    may = "change" if mode & 0o022 else "read"
    advice = f"`chmod 600 {path}` corrects that; a key that somebody may have read should be replaced"
    return [f"key {path} has mode {mode:04o}: {who} can {may} it; {advice}"]


def _rejection_warnings(chain: Sequence[x509.Certificate]) -> list[str]:
    """Why clients will reject a chain. The expiry of the server's own certificate is reported elsewhere."""
    leaf = chain[0]
    names = certificate_names(leaf)
    problems = [purposes.wrong_purpose(leaf), purposes.weak_key(leaf)]
    if not names or names[0].startswith("the common name "):
        problems.append("it has no name that clients look at (subjectAltName)")
    if leaf.issuer != leaf.subject:
        problems.append(purposes.weak_signature(leaf))
    now = datetime.datetime.now(datetime.UTC)
    if now < leaf.not_valid_before_utc:
        problems.append(f"is not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M:%S} UTC")
    found = [f"it {problem}" if problem.startswith(("is ", "has ")) else problem for problem in problems if problem]
    for authority in chain[1:]:
        who = authority.subject.rfc4514_string()
        trusted_as_it_is = authority.issuer == authority.subject
        weak = purposes.weak_key(authority) or ("" if trusted_as_it_is else purposes.weak_signature(authority))
        if weak:
            found.append(f"its authority {who} has {weak}")
        if purpose := purposes.wrong_purpose(authority, authority=True):
            found.append(f"its authority {who} {purpose}")
        if not purposes.is_authority(authority):
            found.append(f"{who}, which signed it, is no authority")
        if not authority.not_valid_before_utc <= now <= authority.not_valid_after_utc:
            found.append(f"its authority {who} is outside its validity")
    return found
