"""Keyed digests without allocation: HMAC-SHA-256 (RFC 2104), HKDF-Expand-Label (RFC 8446 §7.1), and a hash for tables.

Comes in: keys, bytes. Goes out: digests, in the caller's buffers, without the interpreter lock. libcrypto computes SHA-256 and
gives random bytes. A key is prepared once, which saves half of the work of a short message. It must never allocate, or compare
secrets in a time that depends on them.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset, strlen

from tsq.errors import ConfigError


cdef extern from "<openssl/sha.h>" nogil:
    int SHA256_Init(Sha256* state)
    int SHA256_Final(uint8_t* out, Sha256* state)


cdef extern from "<openssl/rand.h>" nogil:
    int RAND_bytes(uint8_t* out, int size)


cdef extern from "<openssl/crypto.h>" nogil:
    void OPENSSL_cleanse(void* at, size_t size)
    int CRYPTO_memcmp(const void* a, const void* b, size_t size)


cdef enum:
    BLOCK_SIZE = 64
    MOST_LABEL = 64


cdef void hmac_set(HmacKey* out, const uint8_t* key, size_t size) noexcept nogil:
    """Prepare a key; one of more than 64 bytes is hashed first, as RFC 2104 §2 says."""
    cdef uint8_t block[BLOCK_SIZE]
    cdef Sha256 state
    cdef int i
    memset(block, 0, BLOCK_SIZE)
    if size > BLOCK_SIZE:
        SHA256_Init(&state)
        SHA256_Update(&state, key, size)
        SHA256_Final(block, &state)
    else:
        memcpy(block, key, size)
    for i in range(BLOCK_SIZE):
        block[i] ^= 0x36
    SHA256_Init(&out.inner)
    SHA256_Update(&out.inner, block, BLOCK_SIZE)
    for i in range(BLOCK_SIZE):
        block[i] ^= 0x36 ^ 0x5C
    SHA256_Init(&out.outer)
    SHA256_Update(&out.outer, block, BLOCK_SIZE)
    OPENSSL_cleanse(block, BLOCK_SIZE)


cdef void hmac_begin(const HmacKey* key, Sha256* state) noexcept nogil:
    state[0] = key.inner


cdef void hmac_end(const HmacKey* key, Sha256* state, uint8_t* out) noexcept nogil:
    """Write the 32 bytes of the HMAC of what `state` was updated with."""
    cdef uint8_t digest[DIGEST_SIZE]
    SHA256_Final(digest, state)
    state[0] = key.outer
    SHA256_Update(state, digest, DIGEST_SIZE)
    SHA256_Final(out, state)


cdef void hmac(const HmacKey* key, const uint8_t* data, size_t size, uint8_t* out) noexcept nogil:
    cdef Sha256 state
    hmac_begin(key, &state)
    SHA256_Update(&state, data, size)
    hmac_end(key, &state, out)


cdef void expand_label(const HmacKey* key, const char* label, int length, uint8_t* out) noexcept nogil:
    """HKDF-Expand-Label without a context, of at most 32 bytes: one block. label: with its "tls13 "."""
    cdef uint8_t info[MOST_LABEL]
    cdef uint8_t digest[DIGEST_SIZE]
    cdef size_t size = strlen(label)
    info[0] = 0
    info[1] = <uint8_t> length
    info[2] = <uint8_t> size
    memcpy(info + 3, label, size)
    info[3 + size] = 0
    info[4 + size] = 1
    hmac(key, info, 5 + size, digest)
    memcpy(out, digest, length)


cdef inline uint64_t rotated(uint64_t value, int bits) noexcept nogil:
    return (value << bits) | (value >> (64 - bits))


cdef inline void sip_round(uint64_t* v) noexcept nogil:
    v[0] += v[1]
    v[1] = rotated(v[1], 13) ^ v[0]
    v[0] = rotated(v[0], 32)
    v[2] += v[3]
    v[3] = rotated(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = rotated(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = rotated(v[1], 17) ^ v[2]
    v[2] = rotated(v[2], 32)


cdef uint64_t table_hash(const TableKey* key, const uint8_t* data, size_t size) noexcept nogil:
    """SipHash-2-4, never 0: tables use 0 for an empty place."""
    cdef uint64_t v[4]
    cdef uint64_t part
    cdef size_t left = size
    cdef int _i
    v[0] = key.first ^ <uint64_t> 0x736F6D6570736575
    v[1] = key.second ^ <uint64_t> 0x646F72616E646F6D
    v[2] = key.first ^ <uint64_t> 0x6C7967656E657261
    v[3] = key.second ^ <uint64_t> 0x7465646279746573
    while left >= 8:
        # The order of the bytes is this machine's: the hash never leaves it.
        memcpy(&part, data, 8)
        v[3] ^= part
        sip_round(v)
        sip_round(v)
        v[0] ^= part
        data += 8
        left -= 8
    part = 0
    memcpy(&part, data, left)
    part |= <uint64_t> size << 56
    v[3] ^= part
    sip_round(v)
    sip_round(v)
    v[0] ^= part
    v[2] ^= 0xFF
    for _i in range(4):
        sip_round(v)
    part = v[0] ^ v[1] ^ v[2] ^ v[3]
    return part if part else 1


cdef int random_bytes(uint8_t* out, size_t size) noexcept nogil:
    """Unpredictable bytes; 0, or -1 where there are none."""
    return 0 if RAND_bytes(out, <int> size) == 1 else -1


cdef void cleanse(void* at, size_t size) noexcept nogil:
    """Leave no key in memory."""
    OPENSSL_cleanse(at, size)


cdef bint same_bytes(const uint8_t* a, const uint8_t* b, size_t size) noexcept nogil:
    """Whether they are equal, found in a time that does not depend on where they differ."""
    return CRYPTO_memcmp(a, b, size) == 0


# ------------------------------------------------------------------------------------------------------ from Python

def hmac_sha256(bytes key not None, bytes data not None):
    """The HMAC-SHA-256 of some data."""
    cdef HmacKey prepared
    cdef uint8_t out[DIGEST_SIZE]
    hmac_set(&prepared, <const uint8_t*> PyBytes_AS_STRING(key), len(key))
    hmac(&prepared, <const uint8_t*> PyBytes_AS_STRING(data), len(data), out)
    cleanse(&prepared, sizeof(prepared))
    return PyBytes_FromStringAndSize(<const char*> out, DIGEST_SIZE)


def siphash(bytes key not None, bytes data not None):
    """SipHash-2-4 with a key of 16 bytes, as `table_hash`."""
    cdef TableKey prepared
    if len(key) != 16:
        raise ConfigError(f"a key of {len(key)} bytes", expected="16 bytes")
    memcpy(&prepared, PyBytes_AS_STRING(key), 16)
    return table_hash(&prepared, <const uint8_t*> PyBytes_AS_STRING(data), len(data))
