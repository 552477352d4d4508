"""A session's keys after a key update (RFC 9001 §6, RFC 9369 §3.3.2; HKDF-Expand-Label of RFC 8446 §7.1).

Comes in: a session with the secrets of its phase. Goes out: the same session in the next phase, or unchanged where OpenSSL fails.
It must never change a packet number or the header protection keys.
"""
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, strlen

from tsq.dataplane.packet cimport IV_SIZE, key_size, keys_set_aead, secret_size
from tsq.dataplane.recovery cimport probe_timeout
from tsq.dataplane.state cimport MOST_SECRET, RawKeys, State

from tsq.errors import ConfigError


cdef extern from "<openssl/crypto.h>" nogil:
    void cleanse "OPENSSL_cleanse"(void* at, size_t size)

cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct EVP_MD:
        pass
    const EVP_MD* EVP_sha256()
    const EVP_MD* EVP_sha384()

cdef extern from "<openssl/hmac.h>" nogil:
    uint8_t* HMAC(
        const EVP_MD* kind, const void* key, int key_size, const uint8_t* data, size_t size, uint8_t* out, unsigned int* out_size
    )


cdef enum:
    LAST_KEYS_PROBES = 3
    MOST_LABEL = 24
    VERSION_1 = 0x00000001
    VERSION_2 = 0x6B3343CF

# No packet of this key phase has come.
cdef int64_t NONE_YET = (<int64_t> 1) << 62


cdef int expand(int suite, const uint8_t* secret, const char* label, uint8_t* out, int size) noexcept nogil:
    """HKDF-Expand-Label without a context. At most the hash's size, so that one block is enough; 0 or -1."""
    cdef uint8_t info[4 + 6 + MOST_LABEL]
    cdef uint8_t block[64]
    cdef int length = <int> strlen(label)
    cdef const EVP_MD* kind = EVP_sha384() if secret_size(suite) == 48 else EVP_sha256()
    info[0] = 0
    info[1] = <uint8_t> size
    info[2] = <uint8_t> (6 + length)
    memcpy(info + 3, <const char*> "tls13 ", 6)
    memcpy(info + 9, label, length)
    # No context; then the number of the block (RFC 5869 §2.3).
    info[9 + length] = 0
    info[10 + length] = 1
    if HMAC(kind, secret, secret_size(suite), info, 11 + length, block, NULL) == NULL:
        return -1
    memcpy(out, block, size)
    cleanse(block, sizeof(block))
    return 0


cdef int derive(int suite, bint version_2, const uint8_t* secret, uint8_t* next_secret, RawKeys* keys) noexcept nogil:
    """The next secret, and its packet key and IV; 0 or -1."""
    if expand(suite, secret, "quicv2 ku" if version_2 else "quic ku", next_secret, secret_size(suite)):
        return -1
    if expand(suite, next_secret, "quicv2 key" if version_2 else "quic key", keys.key, key_size(suite)):
        return -1
    return expand(suite, next_secret, "quicv2 iv" if version_2 else "quic iv", keys.iv, IV_SIZE)


cdef int update_keys(State* s, double now) noexcept nogil:
    """Go on to the next key phase, in both directions (RFC 9001 §6.2); 0, or -1 where OpenSSL fails.

    The former keys open reordered packets for three more probe timeouts (§6.5).
    """
    cdef uint8_t secrets[2 * MOST_SECRET]
    cdef uint8_t later[MOST_SECRET]
    cdef RawKeys receive, send, following
    cdef int failed = (
        derive(s.suite, s.version_2, s.secrets, secrets, &receive)
        or derive(s.suite, s.version_2, s.secrets + MOST_SECRET, secrets + MOST_SECRET, &send)
        or derive(s.suite, s.version_2, secrets, later, &following)
        or keys_set_aead(&s.receive, s.suite, receive.key, receive.iv, False)
        or keys_set_aead(&s.send, s.suite, send.key, send.iv, True)
    )
    if not failed:
        s.last_keys, s.current_keys, s.sending_keys, s.next_keys = s.current_keys, receive, send, following
        s.last_keys_until = now + LAST_KEYS_PROBES * probe_timeout(s)
        memcpy(s.secrets, secrets, sizeof(secrets))
        s.phase ^= 1
        s.phase_first_pn = NONE_YET
        s.key_first_pn = s.next_pn
    cleanse(secrets, sizeof(secrets))
    cleanse(later, sizeof(later))
    cleanse(&receive, sizeof(receive))
    cleanse(&send, sizeof(send))
    cleanse(&following, sizeof(following))
    return -1 if failed else 0


def next_keys(int suite, int version, bytes secret not None):
    """(secret, key, IV) of the phase after the one with this secret. version: the QUIC version, as in long headers."""
    cdef uint8_t following[MOST_SECRET]
    cdef RawKeys keys
    if suite not in (0x1301, 0x1302, 0x1303) or len(secret) != secret_size(suite) or version not in (VERSION_1, VERSION_2):
        raise ConfigError(f"a secret of {len(secret)} bytes", expected="the size of the suite's hash")
    if derive(suite, <uint32_t> version == VERSION_2, <const uint8_t*> PyBytes_AS_STRING(secret), following, &keys):
        raise ConfigError("OpenSSL refused a secret", expected="HMAC in this OpenSSL")
    return following[:secret_size(suite)], keys.key[:key_size(suite)], keys.iv[:IV_SIZE]
