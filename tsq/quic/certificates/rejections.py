"""Errors for rejected certificates.

Comes in: certificates, what was found wrong with them. Goes out: one of TSQ's errors, with advice. It decides nothing: the
certificate has been rejected already.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509

from tsq.errors import (
    CertificateError,
    Expired,
    NotYetValid,
    SelfSigned,
    TooWeak,
    UnknownAuthority,
    WrongName,
    WrongPurpose,
)
from tsq.quic.certificates.names import certificate_names
from tsq.settings import Setting

OWN_CLOCK = "this machine's clock says"
THE_SERVERS = "the servers say"
_MOST_NAMES = 8
_OPERATOR = "the server's operator must act"
# OpenSSL's numbers (x509_vfy.h).
_NO_ISSUER = (2, 20, 21, 27)
_BAD_SIGNATURE = (4, 6, 7)
_NOT_YET, _EXPIRED = 9, 10
_SELF_SIGNED_LEAF, _SELF_SIGNED_IN_CHAIN = 18, 19
_CHAIN_TOO_LONG, _PATH_TOO_LONG, _PURPOSE = 22, 25, 26
_MAY_NOT_SIGN, _UNKNOWN_EXTENSION, _NO_AUTHORITY = 32, 34, 79
_NOT_PERMITTED, _EXCLUDED, _CONSTRAINTS = 47, 48, (49, 50, 51, 52, 53, 54)
_WEAK = (66, 67, 68)


@dataclass(frozen=True, slots=True)
class ChainFault:
    """What OpenSSL found wrong with a chain. depth: 0 is the server's own certificate; culprit: the certificate at fault."""

    code: int
    depth: int
    reason: str
    culprit: x509.Certificate | None = None


def out_of_time(leaf: x509.Certificate, at: datetime.datetime, clock: str = OWN_CLOCK) -> CertificateError:
    """The error for a server's certificate that is not valid at this time."""
    if at < leaf.not_valid_before_utc:
        return NotYetValid(
            f"the server's certificate is not valid before {_time(leaf.not_valid_before_utc)}; {clock} {_time(at)}",
            advice="if the clock is wrong, set it roughly first; otherwise the server's operator must act",
        )
    return Expired(
        f"the server's certificate expired at {_time(leaf.not_valid_after_utc)}; {clock} {_time(at)}",
        advice="the server's operator must renew it; if the clock is wrong, set it roughly first",
    )


def wrong_name(leaf: x509.Certificate, server_name: str) -> CertificateError:
    """The error for a server's certificate that is for other names."""
    found = certificate_names(leaf)
    listed = ", ".join(found[:_MOST_NAMES]) or "no name"
    more = f" and {len(found) - _MOST_NAMES} more" if len(found) > _MOST_NAMES else ""
    return WrongName(
        f"the server's certificate is for {listed}{more}, not for {server_name}",
        advice=f"ask by one of these names, or give the right one with {Setting.SERVER_NAME}",
    )


def bad_chain(
    certificates: Sequence[x509.Certificate], fault: ChainFault, origin: str, at: datetime.datetime, clock: str = OWN_CLOCK
) -> CertificateError:
    """The error for a chain that OpenSSL rejected. origin: which authorities are trusted."""
    leaf, code, reason = certificates[0], fault.code, fault.reason
    who = _whose(fault)
    if code == _SELF_SIGNED_LEAF or (code in _NO_ISSUER and len(certificates) == 1 and leaf.issuer == leaf.subject):
        return SelfSigned(
            f"the server's certificate is self-signed ({_name(leaf.subject)})",
            advice=f"trust it with {Setting.CA_FILE} if it is the right one",
        )
    if code in (_NOT_YET, _EXPIRED):
        kind = NotYetValid if code == _NOT_YET else Expired
        return kind(f"{who} is outside its validity ({reason}); {clock} {_time(at)}", advice=f"if the clock is right, {_OPERATOR}")
    if code == _SELF_SIGNED_IN_CHAIN or code in _NO_ISSUER:
        top = fault.culprit or certificates[-1]
        advice = f"give that authority's certificate with {Setting.CA_FILE} if it is the right one"
        if len(certificates) == 1:
            advice += "; the server sent one certificate: does it serve the full chain?"
        return UnknownAuthority(
            f"the server's certificate is signed by {_name(top.issuer)}, which is not trusted here ({reason}; trusted: {origin})",
            advice=advice,
        )
    if code in _BAD_SIGNATURE:
        # An authority of that name is trusted, but its key did not make the signature.
        issuer = _name((fault.culprit or leaf).issuer)
        return UnknownAuthority(
            f"{who} is signed by a {issuer} that is not trusted here, only a namesake is ({reason}; trusted: {origin})",
            advice=f"give the right authority's certificate with {Setting.CA_FILE}",
        )
    return _misused(fault, who)


def _misused(fault: ChainFault, who: str) -> CertificateError:
    """The error for a chain with valid signatures, one of which is not permitted."""
    code, reason = fault.code, fault.reason
    if code in (_NO_AUTHORITY, _MAY_NOT_SIGN):
        return WrongPurpose(f"{who} signed another one and is not an authority's ({reason})", advice=_OPERATOR)
    if code in (_PATH_TOO_LONG, _CHAIN_TOO_LONG):
        return WrongPurpose(f"{who} may not have so many certificates below it ({reason})", advice=_OPERATOR)
    if code == _PURPOSE:
        return WrongPurpose(f"{who} is not for TLS servers ({reason})", advice=_OPERATOR)
    if code in (_NOT_PERMITTED, _EXCLUDED, *_CONSTRAINTS):
        return WrongPurpose(f"{who} has a name for which its authority must not speak ({reason})", advice=_OPERATOR)
    if code == _UNKNOWN_EXTENSION:
        return CertificateError(f"{who} has a critical extension that is not known here ({reason})", advice=_OPERATOR)
    if code in _WEAK:
        return TooWeak(f"{who} has a key or a signature that is too weak ({reason})", advice=_OPERATOR)
    return CertificateError(f"{who} was refused: {reason}", advice=_OPERATOR)


def _whose(fault: ChainFault) -> str:
    if fault.depth == 0 or fault.culprit is None:
        return "the server's certificate"
    return f"the authority's certificate {_name(fault.culprit.subject)}"


def _name(name: x509.Name) -> str:
    return name.rfc4514_string() or "nobody (an empty name)"


def _time(at: datetime.datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
