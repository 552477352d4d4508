"""The exceptions of TSQ: one small tree.

    TSQError
    ├── MessageError            bytes that are not the message they should be
    │   ├── MalformedMessage        docs/reference/protocol.md R4
    │   └── SignatureError          docs/reference/protocol.md R5, R6
    ├── ExchangeError           a request without a usable answer
    │   ├── NoAnswer                nothing came in time
    │   └── RejectedSamples         answers came, none passed the checks (R8)
    ├── TransportError          no connection, or a lost one
    │   ├── NameNotFound            the host name has no address
    │   ├── NothingListens          ICMP reports that the port is closed
    │   ├── Unreachable             ICMP or the routing table reports that there is no route
    │   ├── HandshakeTimeout        nothing was received
    │   ├── AlpnRefused             the peer speaks QUIC, but not TSQ
    │   ├── CertificateError        the server did not prove its identity
    │   │   ├── SelfSigned, UnknownAuthority, WrongName, Expired, NotYetValid, NotPinned, WrongPurpose, TooWeak
    │   └── ConnectionLost          closed by the peer, or gone silent
    ├── ConfigError             an option, a file or a key that cannot be used
    ├── ControlError            tsqd cannot be asked, or refused a command
    │   ├── NoDaemon                nothing answers at the control socket
    │   └── NotAllowed              this user may not change anything
    └── ClockError              the local clock cannot be read or set
        ├── NotPermitted            this process may not set it
        ├── NotMoved                it did not move as it was set
        ├── AlreadyRunning          tsqd, or another tsq-adjtime, sets it
        └── NoBoundedTime           tsq.now() has no time: no tsqd publishes it

Comes in: what was found, what was expected, advice, and the rule. Goes out: one sentence for a person in `str(error)`. It must
never log, print or import another part of TSQ.
"""


class TSQError(Exception):
    """Base of all errors that TSQ raises.

    found: what is wrong. expected: what would be right. advice: what a user can do. section: the rule, as an RFC section or a
    ruling of docs/reference/protocol.md.
    """

    def __init__(self, found: str, *, expected: str = "", advice: str = "", section: str = "") -> None:
        self.found = found
        self.expected = expected
        self.advice = advice
        self.section = section
        super().__init__(found)

    def __repr__(self) -> str:
        parts = {"expected": self.expected, "advice": self.advice, "section": self.section}
        given = [f"{name}={text!r}" for name, text in parts.items() if text]
        return f"{type(self).__name__}({', '.join([repr(self.found), *given])})"

    def to_dict(self) -> dict[str, str]:
        """The error with the keys that it has in a host of `tsq-client --json` (docs/reference/cli.md)."""
        return {"error": str(self), "error_kind": type(self).__name__}

    def __str__(self) -> str:
        text = self.found
        if self.expected:
            text += f" (expected {self.expected})"
        if self.section:
            text += f" [{self.section}]"
        if self.advice:
            text += f": {self.advice}"
        return text


class MessageError(TSQError):
    """Bytes that are not the message they should be."""


class MalformedMessage(MessageError):
    """A TSQ message breaks the wire format (docs/reference/protocol.md R4)."""


class SignatureError(MessageError):
    """A requested signature is absent, by an unknown key, or wrong (docs/reference/protocol.md R5, R6)."""


class ExchangeError(TSQError):
    """A request without a usable answer."""


class NoAnswer(ExchangeError):
    """No answer came within the time given."""


class RejectedSamples(ExchangeError):
    """Answers came, and none of them passed the checks (docs/reference/protocol.md R8)."""


class TransportError(TSQError):
    """No connection, or a lost one."""


class NameNotFound(TransportError):
    """The host name has no address."""


class NothingListens(TransportError):
    """The host answered that nothing listens on the port (ICMP port unreachable)."""


class Unreachable(TransportError):
    """The host cannot be reached (ICMP unreachable, or no route)."""


class HandshakeTimeout(TransportError):
    """The QUIC handshake did not finish in time."""


class AlpnRefused(TransportError):
    """Client and server have no application protocol in common (RFC 9001 §8.1, docs/reference/protocol.md R1)."""


class CertificateError(TransportError):
    """The server's certificate did not verify."""


class SelfSigned(CertificateError):
    """The certificate is signed by its own key and is not trusted."""


class UnknownAuthority(CertificateError):
    """The certificate's chain ends in no trusted authority."""


class WrongName(CertificateError):
    """The certificate is for other names."""


class Expired(CertificateError):
    """The certificate was valid until a time that the local clock has passed."""


class NotYetValid(CertificateError):
    """The certificate will be valid from a time that the local clock has not reached."""


class NotPinned(CertificateError):
    """The server's key is none of those that were pinned."""


class WrongPurpose(CertificateError):
    """A certificate of the chain is not for TLS servers."""


class TooWeak(CertificateError):
    """A key or a signature of the chain is too weak to be believed."""


class ConnectionLost(TransportError):
    """The connection was closed by the peer, or the peer went silent."""


class ConfigError(TSQError):
    """An option, a file or a key that cannot be used."""


# From the error that says most about a server to the one that says least. Errors that are not listed rank as TSQError.
_BY_WHAT_THEY_SAY: tuple[type[TSQError], ...] = (
    ConfigError,
    CertificateError,
    AlpnRefused,
    RejectedSamples,
    NameNotFound,
    ConnectionLost,
    TSQError,
    HandshakeTimeout,
    NoAnswer,
    NothingListens,
    Unreachable,
)
_KINDS = tuple(kind for kind in _BY_WHAT_THEY_SAY if kind is not TSQError)


def rank(error: TSQError) -> int:
    """How little an error says. If several attempts to reach a host failed, the error with the least rank is reported."""
    kind = next((kind for kind in _KINDS if isinstance(error, kind)), TSQError)
    return _BY_WHAT_THEY_SAY.index(kind)


class ControlError(TSQError):
    """The daemon cannot be asked, or it refused a command (docs/reference/tsqctl.md)."""


class NoDaemon(ControlError):
    """Nothing answers at the control socket."""


class NotAllowed(ControlError):
    """This user may read what the daemon knows, and may not change anything."""


class ClockError(TSQError):
    """The local clock cannot be read or set."""


class NotPermitted(ClockError):
    """Setting the clock needs a capability that this process lacks (CAP_SYS_TIME)."""


class NotMoved(ClockError):
    """The clock did not move by the amount that was set, or another program moved it as well."""


class AlreadyRunning(ClockError):
    """tsqd, or another tsq-adjtime, sets this clock at the moment."""


class NoBoundedTime(ClockError):
    """No daemon publishes the time, or not for too long, or the file is not its own."""
