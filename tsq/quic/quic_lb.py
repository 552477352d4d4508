"""QUIC-LB connection IDs: a load balancer reads the server's ID in them (draft-ietf-quic-load-balancers-21, which has expired).

Comes in: a configuration that balancer and servers share, a nonce. Goes out: a connection ID; of one, the server's ID. The server
ID stands in clear text or encrypted (AES-128): by one pass where it fills a block with the nonce, else by four. It must never
raise for a connection ID from the network.
"""

from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from tsq.errors import ConfigError
from tsq.quic.secrets import read_secrets

# A connection ID with this in place of a configuration's number is routed by its addresses.
UNROUTABLE = 0b111
KEY_SIZE = 16
LEAST_NONCE = 4
_BLOCK = 16
_MOST = 19
_LOW = 0b11111


@dataclass(frozen=True)
class QuicLb:
    """What balancer and servers have in common, and which server this is.

    number: which configuration, 0 to 6, in the top three bits of a connection ID. nonce_size: in octets. key: None for clear text.
    """

    number: int
    server_id: bytes
    nonce_size: int
    key: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.number < UNROUTABLE:
            raise ConfigError(f"QUIC-LB configuration {self.number}", expected="0 to 6")
        if not self.server_id or self.nonce_size < LEAST_NONCE or self.size > _MOST:
            raise ConfigError(
                f"a QUIC-LB server ID of {len(self.server_id)} octets with a nonce of {self.nonce_size}",
                expected=f"1 or more, with {LEAST_NONCE} or more, {_MOST} in all",
            )
        if self.key is not None and len(self.key) != KEY_SIZE:
            raise ConfigError(f"a QUIC-LB key of {len(self.key)} bytes", expected=f"{KEY_SIZE}")

    @classmethod
    def parse(cls, text: str, octets: int = 7) -> "QuicLb":
        """NUMBER:SERVER-ID, the latter in hexadecimal digits; the nonce takes what remains of so many octets."""
        number, _, server = text.partition(":")
        expected = "NUMBER:SERVER-ID, such as 0:0a0b0c, with a number from 0 to 6 and a server ID of 1 to 3 octets in hexadecimal"
        try:
            server_id = bytes.fromhex(server)
        except ValueError:
            server_id = b""
        if len(number) != 1 or not number.isdecimal() or not server_id or octets - len(server_id) < LEAST_NONCE:
            raise ConfigError(f"QUIC-LB {text!r}", expected=expected)
        return cls(int(number), server_id, octets - len(server_id))

    def with_key(self, path: str) -> "QuicLb":
        """The same, encrypted by the key in this file. Raises ConfigError where it cannot be used."""
        advice = f"write one line, made by `openssl rand -hex {KEY_SIZE}`"
        keys, _ = read_secrets(path, "QUIC-LB key file", KEY_SIZE, advice)
        if len(keys) != 1:
            raise ConfigError(f"QUIC-LB key file {path}: {len(keys)} keys", expected="one", advice=advice)
        return replace(self, key=keys[0])

    @property
    def size(self) -> int:
        """Octets of a connection ID after the first."""
        return len(self.server_id) + self.nonce_size

    def encode(self, nonce: int, low: int) -> bytes:
        """The connection ID with this nonce. low: the first octet's low five bits, which no balancer reads.

        A nonce must not be used twice with one key.
        """
        block = self.server_id + nonce.to_bytes(self.nonce_size)
        first = self.number << 5 | low & _LOW
        return bytes([first]) + (block if self.key is None else _encrypted(self.key, block))

    def decode(self, connection_id: bytes) -> bytes | None:
        """The server ID in a connection ID; None where it is not of this configuration."""
        if len(connection_id) < 1 + self.size or connection_id[0] >> 5 != self.number:
            return None
        block = connection_id[1 : 1 + self.size]
        return (block if self.key is None else _decrypted(self.key, block))[: len(self.server_id)]

    def is_own(self, connection_id: bytes) -> bool:
        """Whether a connection ID is one of this server's."""
        return self.decode(connection_id) == self.server_id


def _encrypted(key: bytes, block: bytes) -> bytes:
    aes = Cipher(AES(key), ECB()).encryptor()
    if len(block) == _BLOCK:
        single: bytes = aes.update(block)
        return single
    return _four_passes(key, block, (1, 2, 3, 4))


def _decrypted(key: bytes, block: bytes) -> bytes:
    if len(block) == _BLOCK:
        single: bytes = Cipher(AES(key), ECB()).decryptor().update(block)
        return single
    return _four_passes(key, block, (4, 3, 2, 1))


def _four_passes(key: bytes, block: bytes, passes: tuple[int, ...]) -> bytes:
    """A Feistel network whose halves are half the block each, to the bit: of an odd number of octets they share the middle one.

    Odd passes change the right half by the left one, even passes the left by the right. Backwards, the same passes undo it.
    """
    aes = Cipher(AES(key), ECB()).encryptor()
    size = len(block)
    bits = 4 * size
    octets = (size + 1) // 2
    whole = int.from_bytes(block)
    left, right = whole >> bits, whole & (1 << bits) - 1
    # In a half with four bits too many, the left one's lie at its end, the right one's at its beginning.
    spare = 8 * octets - bits
    for number in passes:
        source = (left << spare if number % 2 else right).to_bytes(octets)
        mask = int.from_bytes(aes.update(source.ljust(_BLOCK - 2, b"\0") + bytes([size, number]))[:octets])
        if number % 2:
            right ^= mask & (1 << bits) - 1
        else:
            left ^= mask >> spare
    return (left << bits | right).to_bytes(size)
