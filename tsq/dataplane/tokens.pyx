"""Address validation tokens of Retry and NEW_TOKEN (RFC 9000 §8.1).

Comes in: keys, an address, a time. Goes out: tokens, and what a token that comes back is worth. A Retry token is bound to address,
port, both connection IDs and some seconds, and is good for one handshake; a NEW_TOKEN token is bound to the address and a day. An
observer learns nothing from them: time and connection ID are encrypted (RFC 9000 §8.1.3). It must never accept one that it did not
make, or allocate.

    kind, key's number, 16 random bytes, time and connection ID (encrypted), 16 bytes of HMAC-SHA-256
"""
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from tsq.dataplane.digests cimport (
    DIGEST_SIZE, SHA256_Update, Sha256, hmac, hmac_begin, hmac_end, hmac_set, random_bytes, same_bytes,
)


cdef enum:
    RETRY_FIRST = 0x52
    LASTING_FIRST = 0x4E
    HEAD_SIZE = 2
    SALT_SIZE = 16
    TIME_SIZE = 8
    MAC_SIZE = 16
    # Of a token without a connection ID.
    LEAST_TOKEN = HEAD_SIZE + SALT_SIZE + TIME_SIZE + 1 + MAC_SIZE
    SEALED_CAPACITY = TIME_SIZE + 1 + MAX_CID_SIZE
    # Milliseconds. A client sends a Retry token back at once (RFC 9000 §8.1.3).
    RETRY_LIFETIME = 30000
    LASTING_LIFETIME = 24 * 3600 * 1000
    # The clocks of a fleet's machines differ.
    SKEW = 5000
    IPV4_SIZE = 16
    IPV6_SIZE = 28

RETRY_TOKEN_LIFETIME = RETRY_LIFETIME / 1000
NEW_TOKEN_LIFETIME = LASTING_LIFETIME / 1000


cdef void token_keys_set(TokenKeys* keys, int place, const uint8_t* key, size_t size) noexcept nogil:
    """Put a key in this place; `count` is the caller's. Its number follows from it, so that all servers that have it agree."""
    cdef uint8_t digest[DIGEST_SIZE]
    hmac_set(&keys.keys[place], key, size)
    hmac(&keys.keys[place], <const uint8_t*> "number", 6, digest)
    keys.ids[place] = digest[0]


cdef void add_address(Sha256* state, const uint8_t* remote, size_t size, bint with_port) noexcept nogil:
    """The address of a packed sockaddr: IPv4 or IPv6, and its port."""
    if size == IPV4_SIZE:
        SHA256_Update(state, remote + 4, 4)
    elif size == IPV6_SIZE:
        SHA256_Update(state, remote + 8, 16)
    if with_port:
        SHA256_Update(state, remote + 2, 2)


cdef void encrypt(const HmacKey* key, const uint8_t* salt, uint8_t* data, int size) noexcept nogil:
    """Encrypt or decrypt at most 32 bytes, with a salt that is used once."""
    cdef uint8_t block[1 + SALT_SIZE]
    cdef uint8_t stream[DIGEST_SIZE]
    cdef int i
    block[0] = 1
    memcpy(block + 1, salt, SALT_SIZE)
    hmac(key, block, sizeof(block), stream)
    for i in range(size):
        data[i] ^= stream[i]


cdef void authenticate(
    const HmacKey* key, const uint8_t* head, const uint8_t* plain, int size, const uint8_t* remote, size_t remote_size,
    const uint8_t* new_id, int new_id_size, uint8_t* out
) noexcept nogil:
    """Write the digest of a token: all of it, the address, and for a Retry the port and the connection ID of the Retry."""
    cdef uint8_t digest[DIGEST_SIZE]
    cdef Sha256 state
    cdef uint8_t label = 2
    cdef uint8_t id_size = <uint8_t> new_id_size
    cdef bint retry = head[0] == RETRY_FIRST
    hmac_begin(key, &state)
    SHA256_Update(&state, &label, 1)
    SHA256_Update(&state, head, HEAD_SIZE + SALT_SIZE)
    SHA256_Update(&state, plain, size)
    add_address(&state, remote, remote_size, retry)
    if retry:
        SHA256_Update(&state, &id_size, 1)
        SHA256_Update(&state, new_id, new_id_size)
    hmac_end(key, &state, digest)
    memcpy(out, digest, MAC_SIZE)


cdef Py_ssize_t put_token(
    const TokenKeys* keys, uint8_t* out, int kind, const uint8_t* remote, size_t remote_size, const uint8_t* original,
    int original_size, const uint8_t* new_id, int new_id_size, int64_t unix_ms
) noexcept nogil:
    """Write a token of at most TOKEN_CAPACITY bytes with the newest key; its size, or -1 where there are no random bytes.

    original, new_id: for a Retry, the connection ID that the client chose, and the one that the Retry gives.
    """
    cdef uint8_t* sealed = out + HEAD_SIZE + SALT_SIZE
    cdef int size = TIME_SIZE + 1 + original_size, i
    out[0] = RETRY_FIRST if kind == RETRY_TOKEN else LASTING_FIRST
    out[1] = keys.ids[0]
    if random_bytes(out + HEAD_SIZE, SALT_SIZE):
        return -1
    for i in range(TIME_SIZE):
        sealed[i] = <uint8_t> (<uint64_t> unix_ms >> (8 * (TIME_SIZE - 1 - i)))
    sealed[TIME_SIZE] = <uint8_t> original_size
    if original_size:
        memcpy(sealed + TIME_SIZE + 1, original, original_size)
    authenticate(&keys.keys[0], out, sealed, size, remote, remote_size, new_id, new_id_size, sealed + size)
    encrypt(&keys.keys[0], out + HEAD_SIZE, sealed, size)
    return HEAD_SIZE + SALT_SIZE + size + MAC_SIZE


cdef void read_token(
    const TokenKeys* keys, Token* out, const uint8_t* token, Py_ssize_t size, const uint8_t* remote, size_t remote_size,
    const uint8_t* destination, int destination_size, int64_t unix_ms
) noexcept nogil:
    """Find out what a token is worth. BAD_TOKEN: it looks like one of a Retry, and is none or too old; FOREIGN_TOKEN: any other.

    destination: the packet's connection ID: a client must use the one that the Retry gave (RFC 9000 §17.2.5.2).
    """
    cdef uint8_t plain[SEALED_CAPACITY]
    cdef uint8_t mac[MAC_SIZE]
    cdef int place, sealed, i
    cdef bint retry
    cdef uint64_t issued = 0
    cdef int64_t age
    out.kind = NO_TOKEN if size == 0 else FOREIGN_TOKEN
    if size < LEAST_TOKEN or size > TOKEN_CAPACITY or (token[0] != RETRY_FIRST and token[0] != LASTING_FIRST):
        return
    retry = token[0] == RETRY_FIRST
    out.kind = BAD_TOKEN if retry else FOREIGN_TOKEN
    sealed = <int> size - HEAD_SIZE - SALT_SIZE - MAC_SIZE
    for place in range(keys.count):
        if keys.ids[place] != token[1]:
            continue
        memcpy(plain, token + HEAD_SIZE + SALT_SIZE, sealed)
        encrypt(&keys.keys[place], token + HEAD_SIZE, plain, sealed)
        authenticate(&keys.keys[place], token, plain, sealed, remote, remote_size, destination, destination_size, mac)
        if same_bytes(mac, token + size - MAC_SIZE, MAC_SIZE):
            break
    else:
        return
    for i in range(TIME_SIZE):
        issued = (issued << 8) | plain[i]
    age = unix_ms - <int64_t> issued
    if age < -SKEW or age > (RETRY_LIFETIME if retry else LASTING_LIFETIME) or plain[TIME_SIZE] != sealed - TIME_SIZE - 1:
        return
    out.kind = RETRY_TOKEN if retry else LASTING_TOKEN
    out.original_size = plain[TIME_SIZE]
    memcpy(out.original, plain + TIME_SIZE + 1, out.original_size)
    memcpy(&out.name, mac, sizeof(out.name))


cdef bint token_was_used(const TokenKeys* keys, const Token* token) noexcept nogil:
    """Whether a Retry token began a handshake already."""
    cdef Py_ssize_t first = <Py_ssize_t> (token.name % USED_SETS) * USED_WAYS
    cdef int i
    for i in range(USED_WAYS):
        if keys.used[first + i].name == token.name:
            return True
    return False


cdef void use_token(TokenKeys* keys, const Token* token, double now) noexcept nogil:
    """Remember a Retry token in the place of the oldest one.

    The places are enough for 270 handshakes a second: more than one core can do.
    """
    cdef Py_ssize_t first = <Py_ssize_t> (token.name % USED_SETS) * USED_WAYS
    cdef Py_ssize_t oldest = first
    cdef int i
    for i in range(1, USED_WAYS):
        if keys.used[first + i].at < keys.used[oldest].at:
            oldest = first + i
    keys.used[oldest].name = token.name
    keys.used[oldest].at = now
