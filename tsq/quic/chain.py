"""Checks of a server's certificates that aioquic does not make: for another time than the clock's, and for a pinned key.

Comes in: certificates, the name that was asked, authorities, the time. Goes out: why they are refused, or nothing. It must never
accept what aioquic would refuse for another reason than the time: the check is aioquic's own, but that the time is a parameter.
A pin says nothing of names, authorities and times: it is one key, and whoever has it is believed.
"""

import datetime
import hashlib
from base64 import b64encode
from collections.abc import Sequence
from ipaddress import ip_address

import certifi
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import crypto
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address


def refused_at(
    certificates: Sequence[x509.Certificate], server_name: str, at: datetime.datetime, cafile: str | None, capath: str | None
) -> str | None:
    """Why these certificates, the server's own first, are not good for this name at this time; None where they are."""
    if not certificates:
        return "no certificate"
    leaf, *chain = certificates
    if not leaf.not_valid_before_utc <= at <= leaf.not_valid_after_utc:
        return "out of its time"
    try:
        verify = verify_certificate_ip_address if _is_address(server_name) else verify_certificate_hostname
        verify(leaf, server_name)
    except (CertificateError, VerificationError, ValueError) as error:
        return f"wrong name: {error}"
    store = crypto.X509Store()
    if cafile is None and capath is None:
        # As aioquic does, where the system has no store.
        cafile = certifi.where()
    store.load_locations(cafile, capath)
    # pyOpenSSL takes a naive time, and takes it for UTC.
    store.set_time(at.astimezone(datetime.UTC).replace(tzinfo=None))
    try:
        intermediates = [crypto.X509.from_cryptography(item) for item in chain]
        crypto.X509StoreContext(store, crypto.X509.from_cryptography(leaf), intermediates).verify_certificate()
    except crypto.X509StoreContextError as error:
        return str(error)
    return None


def pin(certificate: x509.Certificate) -> str:
    """The pin of a certificate's key, as curl writes it: sha256// and Base64."""
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "sha256//" + b64encode(hashlib.sha256(key).digest()).decode("ascii")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
