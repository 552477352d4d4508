"""What a certificate may be used for, and whether its key and its signature are strong enough, by OpenSSL's defaults.

Comes in: a chain of certificates, the server's own first, the trusted one last. Goes out: why a TLS client must not accept it, or
nothing. pyOpenSSL checks neither: it knows no purpose (X509_check_purpose) and no security level (level 2, 112 bits, as Python's
`ssl` has it). It must never be more lenient than these two.
"""

from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa

from tsq.errors import CertificateError, TooWeak, WrongPurpose
from tsq.quic.certificates import der

# Where OpenSSL's estimate (NIST SP 800-56B, appendix D) begins to say 112 bits; some programs make keys of 2047 bits.
_LEAST_RSA_BITS = 1962
_LEAST_EC_BITS = 224
_LEAST_DIGEST_BITS = 224
_BASIC_CONSTRAINTS = "2.5.29.19"
_KEY_USAGE = "2.5.29.15"
_EXTENDED_KEY_USAGE = "2.5.29.37"
_NETSCAPE_TYPE = "2.16.840.1.113730.1.1"
# serverAuth, and two older purposes for export-grade cryptography that OpenSSL accepts in its place.
_SERVER_PURPOSES = {"1.3.6.1.5.5.7.3.1", "1.3.6.1.4.1.311.10.3.3", "2.16.840.1.113730.4.1"}
_PURPOSES = {
    "1.3.6.1.5.5.7.3.1": "TLS servers", "1.3.6.1.5.5.7.3.2": "TLS clients", "1.3.6.1.5.5.7.3.3": "code signing",
    "1.3.6.1.5.5.7.3.4": "e-mail", "1.3.6.1.5.5.7.3.8": "time stamping", "1.3.6.1.5.5.7.3.9": "OCSP signing",
    "2.5.29.37.0": "any purpose",
}  # fmt: skip
# Of keyUsage: digitalSignature, keyEncipherment, keyAgreement.
_TLS_USAGES = (0, 2, 4)
_SIGNS_CERTIFICATES = 5
_NETSCAPE_SERVER, _NETSCAPE_AUTHORITY = 1, 5


def unfit(chain: Sequence[x509.Certificate]) -> CertificateError | None:
    """Why a chain with valid signatures must be rejected; None where it may be accepted."""
    leaf = chain[0]
    weak = weak_key(leaf)
    if weak:
        return TooWeak(f"the server's certificate has {weak}", advice="the server's operator must get one with a stronger key")
    for place, certificate in enumerate(chain):
        problem = wrong_purpose(certificate, authority=place > 0)
        if problem:
            return WrongPurpose(f"{_whose(certificate, place)} {problem}", advice="the server's operator must get another one")
    for place, certificate in enumerate(chain):
        weak = weak_key(certificate) if place else ""
        # The trusted certificate is accepted as it is; its own signature does not matter.
        weak = weak or ("" if place == len(chain) - 1 else weak_signature(certificate))
        if weak:
            return TooWeak(f"{_whose(certificate, place)} has {weak}", advice="the server's operator must get another one")
    return None


def read(certificate: x509.Certificate) -> tuple[list[str] | None, list[bool] | None, list[bool] | None]:
    """A certificate's extendedKeyUsage, keyUsage and nsCertType; None for one that it does not have. Raises ValueError."""
    found = der.extensions(certificate)
    return _purposes(found.get(_EXTENDED_KEY_USAGE)), _bits(found.get(_KEY_USAGE)), _bits(found.get(_NETSCAPE_TYPE))


def wrong_purpose(certificate: x509.Certificate, *, authority: bool = False) -> str:
    """What a certificate is for, where that is not being a TLS server's, or that of an authority of such; empty where it is."""
    try:
        purposes, usages, netscape = read(certificate)
    except ValueError as error:
        return f"has extensions that cannot be read ({error})"
    if purposes is not None and not _SERVER_PURPOSES & set(purposes):
        named = ", ".join(_PURPOSES.get(purpose, purpose) for purpose in purposes) or "nothing"
        return f"is for {named}, not for TLS servers"
    if usages is not None and not authority and not any(usages[place : place + 1] == [True] for place in _TLS_USAGES):
        return "has a key that must not be used for TLS (keyUsage)"
    bit = _NETSCAPE_AUTHORITY if authority else _NETSCAPE_SERVER
    if netscape is not None and netscape[bit : bit + 1] != [True]:
        return "is not for TLS servers (nsCertType)"
    return ""


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether a certificate says that it is an authority's, and that its key may sign certificates (RFC 5280 §4.2.1.9)."""
    try:
        basic = der.extensions(certificate).get(_BASIC_CONSTRAINTS)
        _, usages, _ = read(certificate)
        says_so = basic is not None and der.items(der.only(basic, der.SEQUENCE))[:1] == [(der.BOOLEAN, b"\xff")]
    except ValueError:
        return False
    return says_so and (usages is None or usages[_SIGNS_CERTIFICATES : _SIGNS_CERTIFICATES + 1] == [True])


def weak_key(certificate: x509.Certificate) -> str:
    """What is too weak about a certificate's key; empty where it is good."""
    try:
        key = certificate.public_key()
    except (UnsupportedAlgorithm, ValueError):
        return "a key of an unknown kind"
    match key:
        case rsa.RSAPublicKey() | dsa.DSAPublicKey():
            kind = "an RSA" if isinstance(key, rsa.RSAPublicKey) else "a DSA"
            return f"{kind} key of {key.key_size} bits (expected 2048)" if key.key_size < _LEAST_RSA_BITS else ""
        case ec.EllipticCurvePublicKey():
            return f"a key of {key.key_size} bits (expected {_LEAST_EC_BITS})" if key.key_size < _LEAST_EC_BITS else ""
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return ""
    return "a key of a kind that cannot sign"


def weak_signature(certificate: x509.Certificate) -> str:
    """What is too weak about the signature of a certificate; empty where it is good."""
    try:
        digest = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return "a signature of an unknown kind"
    if digest is not None and digest.digest_size * 8 < _LEAST_DIGEST_BITS:
        return f"a signature with {digest.name.upper().replace('SHA1', 'SHA-1')}, which can be forged"
    return ""


def _purposes(extension: bytes | None) -> list[str] | None:
    """The object identifiers of an extendedKeyUsage; None where there is none."""
    if extension is None:
        return None
    found = der.items(der.only(extension, der.SEQUENCE))
    if any(tag != der.OBJECT_IDENTIFIER for tag, _ in found):
        raise ValueError("a malformed extendedKeyUsage")
    return [der.dotted(content) for _, content in found]


def _bits(extension: bytes | None) -> list[bool] | None:
    return None if extension is None else der.bits(der.only(extension, der.BIT_STRING))


def _whose(certificate: x509.Certificate, place: int) -> str:
    if place == 0:
        return "the server's certificate"
    return f"the authority's certificate {certificate.subject.rfc4514_string()}"
