"""Whether a server's certificate is accepted: its time, its names, its chain up to a trusted authority, what it is for.

Comes in: certificates, the server's name, authorities, the time. Goes out: an error that says why they are rejected, or None.
OpenSSL builds and verifies the chain; `names` checks names, `purposes` checks purposes and strengths. It must never accept what
OpenSSL with its defaults rejects for a TLS server. For a pinned key, names, authorities and times do not matter.
"""

import datetime
import hashlib
from base64 import b64encode
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import crypto

from tsq.errors import CertificateError
from tsq.quic.certificates import names, pem, purposes, rejections
from tsq.quic.certificates.trust import Authorities


def judge(
    certificates: Sequence[x509.Certificate],
    server_name: str,
    authorities: Authorities,
    at: datetime.datetime,
    clock: str = rejections.OWN_CLOCK,
) -> CertificateError | None:
    """Why these certificates, the server's own first, are rejected for this name at this time; None where they are accepted.

    clock: whose clock shows that time, for the error.
    """
    if not certificates:
        return CertificateError("the server showed no certificate", advice="is this the right server?")
    leaf = certificates[0]
    if not leaf.not_valid_before_utc <= at <= leaf.not_valid_after_utc:
        return rejections.out_of_time(leaf, at, clock)
    try:
        if not names.fits(leaf, server_name):
            return rejections.wrong_name(leaf, server_name)
        # OpenSSL would say only that it found no issuer.
        purposes.read(leaf)
    except ValueError as error:
        return CertificateError(
            f"the server's certificate has extensions that cannot be read ({error})",
            advice="the server's operator must get another one",
        )
    context = crypto.X509StoreContext(
        _store(authorities, at),
        crypto.X509.from_cryptography(leaf),
        [crypto.X509.from_cryptography(item) for item in certificates[1:]],
    )
    try:
        verified = [item.to_cryptography() for item in context.get_verified_chain()]
    except crypto.X509StoreContextError as error:
        code, depth, reason = error.errors
        culprit = None if error.certificate is None else error.certificate.to_cryptography()
        return rejections.bad_chain(
            certificates, rejections.ChainFault(code, depth, reason, culprit), authorities.origin, at, clock
        )
    return purposes.unfit(verified)


def pin(certificate: x509.Certificate) -> str:
    """The pin of a certificate's key, as curl writes it: sha256// and Base64."""
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "sha256//" + b64encode(hashlib.sha256(key).digest()).decode("ascii")


def _store(authorities: Authorities, at: datetime.datetime) -> crypto.X509Store:
    store = crypto.X509Store()
    for content in authorities.content:
        for block in filter(pem.is_certificate, pem.blocks(content)):
            try:
                # By OpenSSL alone: `cryptography` warns of serial numbers that old authorities have.
                store.add_cert(crypto.load_certificate(crypto.FILETYPE_PEM, block.text))
            except crypto.Error:
                # Skip it in the system's store. In a file that the user named, it was reported when the file was read.
                if not authorities.kept_elsewhere:
                    raise
    for directory in authorities.directories:
        store.load_locations(None, directory)
    # pyOpenSSL expects a naive time, in UTC.
    store.set_time(at.astimezone(datetime.UTC).replace(tzinfo=None))
    return store
