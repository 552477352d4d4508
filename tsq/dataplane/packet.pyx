"""Compiled packet protection (RFC 9001 §5), packet numbers (RFC 9000 §17.1, A.3) and variable-length integers (RFC 9000 §16).

Comes in: keys, packets, headers. Goes out: plain payloads, protected packets, in the caller's buffers, without the interpreter lock
and without allocation. aesgcm.h computes AES where the processor and the build have it, libcrypto elsewhere; libcrypto computes
ChaCha20-Poly1305. It must never know connections, choose a packet number, or say why a packet does not open.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from tsq.errors import ConfigError


cdef extern from *:
    """
    #if defined(__has_include)
    #  if !__has_include(<openssl/evp.h>)
    #    error "TSQ needs the OpenSSL 3 development files (Debian: apt-get install libssl-dev)"
    #  endif
    #endif
    #include <openssl/opensslv.h>
    #if !defined(OPENSSL_VERSION_MAJOR) || OPENSSL_VERSION_MAJOR < 3
    #  error "TSQ needs OpenSSL 3; an older version was found"
    #endif
    """


cdef extern from "<openssl/crypto.h>" nogil:
    void OPENSSL_cleanse(void* at, size_t size)


cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct ENGINE:
        pass
    int EVP_CTRL_AEAD_GET_TAG, EVP_CTRL_AEAD_SET_TAG
    EVP_CIPHER_CTX* EVP_CIPHER_CTX_new()
    void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX* context)
    const EVP_CIPHER* EVP_aes_128_gcm()
    const EVP_CIPHER* EVP_aes_256_gcm()
    const EVP_CIPHER* EVP_chacha20_poly1305()
    const EVP_CIPHER* EVP_aes_128_ecb()
    const EVP_CIPHER* EVP_aes_256_ecb()
    const EVP_CIPHER* EVP_chacha20()
    int EVP_EncryptInit_ex(EVP_CIPHER_CTX* c, const EVP_CIPHER* type, ENGINE* engine, const uint8_t* key, const uint8_t* iv)
    int EVP_DecryptInit_ex(EVP_CIPHER_CTX* c, const EVP_CIPHER* type, ENGINE* engine, const uint8_t* key, const uint8_t* iv)
    int EVP_EncryptUpdate(EVP_CIPHER_CTX* c, uint8_t* out, int* written, const uint8_t* data, int size)
    int EVP_DecryptUpdate(EVP_CIPHER_CTX* c, uint8_t* out, int* written, const uint8_t* data, int size)
    int EVP_EncryptFinal_ex(EVP_CIPHER_CTX* c, uint8_t* out, int* written)
    int EVP_DecryptFinal_ex(EVP_CIPHER_CTX* c, uint8_t* out, int* written)
    int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX* c, int type, int argument, void* pointer)
    int EVP_CIPHER_CTX_set_padding(EVP_CIPHER_CTX* c, int padding)


# TLS cipher suites by their number (RFC 8446 §B.4), as aioquic names them.
SUITES = (0x1301, 0x1302, 0x1303)

cdef enum:
    AES_128_GCM = 0x1301
    AES_256_GCM = 0x1302
    CHACHA20_POLY1305 = 0x1303
    MAX_PN_SIZE = 4
    MAX_PACKET = 2048


# Whether aesgcm.h uses new keys. Only tests switch it off.
cdef bint own_aes = aes_available()


def use_own_aes(bint wanted):
    """For tests: whether aesgcm.h uses keys that are set from now on, where processor and build can; the former setting."""
    global own_aes
    before = own_aes
    own_aes = wanted and aes_available()
    return before


cdef int key_size(int suite) noexcept nogil:
    return 16 if suite == AES_128_GCM else 32


cdef int secret_size(int suite) noexcept nogil:
    """The size of the suite's hash."""
    return 48 if suite == AES_256_GCM else 32


cdef bint keys_complete(const Keys* keys) noexcept nogil:
    """Whether both keys of a direction are there."""
    return (keys.gcm.aes.rounds or keys.aead != NULL) and (keys.block.rounds or keys.protection != NULL)


cdef int keys_set_aead(Keys* keys, int suite, const uint8_t* key, const uint8_t* iv, bint sealing) noexcept nogil:
    """Set key and IV, for opening or for sealing; 0, or -1 where OpenSSL fails. The first call makes the context."""
    cdef const EVP_CIPHER* cipher
    memcpy(keys.iv, iv, IV_SIZE)
    keys.gcm.aes.rounds = 0
    if suite != CHACHA20_POLY1305 and own_aes:
        gcm_set(&keys.gcm, key, key_size(suite))
        return 0
    if suite == AES_128_GCM:
        cipher = EVP_aes_128_gcm()
    elif suite == AES_256_GCM:
        cipher = EVP_aes_256_gcm()
    else:
        cipher = EVP_chacha20_poly1305()
    if keys.aead == NULL:
        keys.aead = EVP_CIPHER_CTX_new()
        if keys.aead == NULL:
            return -1
    if sealing:
        return 0 if EVP_EncryptInit_ex(keys.aead, cipher, NULL, key, NULL) == 1 else -1
    return 0 if EVP_DecryptInit_ex(keys.aead, cipher, NULL, key, NULL) == 1 else -1


cdef int keys_set_protection(Keys* keys, int suite, const uint8_t* key) noexcept nogil:
    """Set the header protection key, which a key update does not change (RFC 9001 §5.4); 0 or -1."""
    cdef const EVP_CIPHER* cipher
    keys.block.rounds = 0
    keys.chacha = suite == CHACHA20_POLY1305
    if not keys.chacha and own_aes:
        aes_set(&keys.block, key, key_size(suite))
        return 0
    if suite == AES_128_GCM:
        cipher = EVP_aes_128_ecb()
    elif suite == AES_256_GCM:
        cipher = EVP_aes_256_ecb()
    else:
        cipher = EVP_chacha20()
    if keys.protection == NULL:
        keys.protection = EVP_CIPHER_CTX_new()
        if keys.protection == NULL:
            return -1
    if EVP_EncryptInit_ex(keys.protection, cipher, NULL, key, NULL) != 1:
        return -1
    EVP_CIPHER_CTX_set_padding(keys.protection, 0)
    return 0


cdef void keys_free(Keys* keys) noexcept nogil:
    EVP_CIPHER_CTX_free(keys.aead)
    EVP_CIPHER_CTX_free(keys.protection)
    # Leave no key in memory.
    OPENSSL_cleanse(keys, sizeof(Keys))


cdef int protection_mask(Keys* keys, const uint8_t* sample, uint8_t* mask) noexcept nogil:
    """Compute the mask of RFC 9001 §5.4.3 (AES) or §5.4.4 (ChaCha20), of which 5 of 16 bytes are used; 0 or -1."""
    cdef int written
    cdef uint8_t zeros[5]
    if keys.block.rounds:
        aes_block(&keys.block, sample, mask)
        return 0
    if keys.chacha:
        zeros[0] = zeros[1] = zeros[2] = zeros[3] = zeros[4] = 0
        # OpenSSL's ChaCha20 takes counter and nonce as one 16-byte IV, in the sample's order.
        if EVP_EncryptInit_ex(keys.protection, NULL, NULL, NULL, sample) != 1:
            return -1
        return 0 if EVP_EncryptUpdate(keys.protection, mask, &written, zeros, 5) == 1 else -1
    return 0 if EVP_EncryptUpdate(keys.protection, mask, &written, sample, SAMPLE_SIZE) == 1 else -1


cdef int unprotect(
    Keys* keys, const uint8_t* packet, Py_ssize_t size, Py_ssize_t pn_offset, uint8_t* header, uint64_t* truncated
) noexcept nogil:
    """Write the plain header (up to and with the packet number) to `header`; the packet number's size, or -1.

    `header` has MAX_HEADER_SIZE bytes of room, so pn_offset is at most MAX_HEADER_SIZE - 4.
    """
    cdef uint8_t mask[32]
    cdef int pn_size, i
    if pn_offset > MAX_HEADER_SIZE - MAX_PN_SIZE or size < pn_offset + MAX_PN_SIZE + SAMPLE_SIZE:
        return -1
    if protection_mask(keys, packet + pn_offset + MAX_PN_SIZE, mask):
        return -1
    memcpy(header, packet, pn_offset)
    header[0] ^= mask[0] & (0x0F if packet[0] & 0x80 else 0x1F)
    pn_size = (header[0] & 0x03) + 1
    truncated[0] = 0
    for i in range(pn_size):
        header[pn_offset + i] = packet[pn_offset + i] ^ mask[1 + i]
        truncated[0] = (truncated[0] << 8) | header[pn_offset + i]
    return pn_size


cdef int64_t decode_pn(uint64_t truncated, int size, int64_t expected) noexcept nogil:
    """The packet number nearest to the expected one (RFC 9000 A.3). size: 1 to 4 bytes; expected: at least 0."""
    cdef int64_t window = (<int64_t> 1) << (8 * size)
    cdef int64_t half = window / 2
    cdef int64_t candidate = (expected & ~(window - 1)) | <int64_t> truncated
    if candidate <= expected - half and candidate < ((<int64_t> 1) << 62) - window:
        return candidate + window
    if candidate > expected + half and candidate >= window:
        return candidate - window
    return candidate


cdef void nonce_of(Keys* keys, int64_t pn, uint8_t* nonce) noexcept nogil:
    cdef int i
    memcpy(nonce, keys.iv, IV_SIZE)
    for i in range(8):
        nonce[IV_SIZE - 1 - i] ^= <uint8_t> (<uint64_t> pn >> (8 * i))


cdef Py_ssize_t aead_open(
    Keys* keys, const uint8_t* header, Py_ssize_t header_size, int64_t pn, const uint8_t* sealed, Py_ssize_t sealed_size,
    uint8_t* plain,
) noexcept nogil:
    """Open `sealed` (ciphertext and tag) into `plain`; the plain size, or -1 for anything that is not authentic."""
    cdef uint8_t nonce[IV_SIZE]
    cdef int written
    cdef int rest
    cdef Py_ssize_t size = sealed_size - TAG_SIZE
    if size < 0 or size > MAX_PACKET:
        return -1
    nonce_of(keys, pn, nonce)
    if keys.gcm.aes.rounds:
        return size if gcm_open(&keys.gcm, nonce, header, header_size, sealed, size, plain) else -1
    if EVP_DecryptInit_ex(keys.aead, NULL, NULL, NULL, nonce) != 1:
        return -1
    if EVP_CIPHER_CTX_ctrl(keys.aead, EVP_CTRL_AEAD_SET_TAG, TAG_SIZE, <void*> (sealed + size)) != 1:
        return -1
    if EVP_DecryptUpdate(keys.aead, NULL, &written, header, <int> header_size) != 1:
        return -1
    if EVP_DecryptUpdate(keys.aead, plain, &written, sealed, <int> size) != 1:
        return -1
    return size if EVP_DecryptFinal_ex(keys.aead, plain + size, &rest) == 1 else -1


cdef int evp_seal(
    Keys* keys, const uint8_t* nonce, const uint8_t* header, Py_ssize_t header_size, uint8_t* payload, Py_ssize_t size
) noexcept nogil:
    """Encrypt a payload in place through libcrypto, and write the tag behind it; 0 or -1."""
    cdef int written
    if EVP_EncryptInit_ex(keys.aead, NULL, NULL, NULL, nonce) != 1:
        return -1
    if EVP_EncryptUpdate(keys.aead, NULL, &written, header, <int> header_size) != 1:
        return -1
    if EVP_EncryptUpdate(keys.aead, payload, &written, payload, <int> size) != 1:
        return -1
    if EVP_EncryptFinal_ex(keys.aead, payload + size, &written) != 1:
        return -1
    return 0 if EVP_CIPHER_CTX_ctrl(keys.aead, EVP_CTRL_AEAD_GET_TAG, TAG_SIZE, payload + size) == 1 else -1


cdef int aead_seal(
    Keys* keys, const uint8_t* nonce, const uint8_t* header, Py_ssize_t header_size, uint8_t* payload, Py_ssize_t size
) noexcept nogil:
    """Encrypt a payload in place, which may be empty, and write the tag behind it; 0 or -1. nonce: one that this key never had."""
    if keys.gcm.aes.rounds:
        gcm_seal(&keys.gcm, nonce, header, header_size, payload, size)
        return 0
    return evp_seal(keys, nonce, header, header_size, payload, size)


cdef Py_ssize_t seal(Keys* keys, uint8_t* packet, Py_ssize_t header_size, int64_t pn, Py_ssize_t plain_size) noexcept nogil:
    """Protect a packet in place: header, which ends with the packet number, payload, room for the tag. Its whole size, or -1.

    Packet number and payload must have 4 bytes together, for the header protection sample (RFC 9001 §5.4.2).
    """
    cdef uint8_t nonce[IV_SIZE]
    cdef uint8_t mask[32]
    cdef int i
    cdef int pn_size = (packet[0] & 0x03) + 1
    cdef uint8_t* payload = packet + header_size
    cdef uint8_t* number = payload - pn_size
    if pn_size + plain_size < MAX_PN_SIZE:
        return -1
    nonce_of(keys, pn, nonce)
    if aead_seal(keys, nonce, packet, header_size, payload, plain_size):
        return -1
    if protection_mask(keys, number + MAX_PN_SIZE, mask):
        return -1
    packet[0] ^= mask[0] & (0x0F if packet[0] & 0x80 else 0x1F)
    for i in range(pn_size):
        number[i] ^= mask[1 + i]
    return header_size + plain_size + TAG_SIZE


cdef int get_varint(const uint8_t** at, const uint8_t* end, uint64_t* value) noexcept nogil:
    """Read a variable-length integer and step over it; 0, or -1 where it runs past `end`."""
    cdef const uint8_t* here = at[0]
    cdef int size, i
    if here >= end:
        return -1
    size = 1 << (here[0] >> 6)
    if end - here < size:
        return -1
    value[0] = here[0] & 0x3F
    for i in range(1, size):
        value[0] = (value[0] << 8) | here[i]
    at[0] = here + size
    return 0


cdef int put_varint(uint8_t* out, uint64_t value) noexcept nogil:
    """Write a variable-length integer below 2^62 in its shortest form; its size, at most 8."""
    cdef int size, i
    if value < 0x40:
        size = 1
    elif value < 0x4000:
        size = 2
    elif value < 0x40000000:
        size = 4
    else:
        size = 8
    for i in range(size):
        out[i] = <uint8_t> (value >> (8 * (size - 1 - i)))
    out[0] |= <uint8_t> ((0 if size == 1 else 1 if size == 2 else 2 if size == 4 else 3) << 6)
    return size


# --------------------------------------------------------------------------------------------- whole packets, from Python

def decode_packet_number(uint64_t truncated, int size, int64_t expected):
    """The packet number that was truncated to `size` bytes; `expected` is the next number (RFC 9000 A.3)."""
    if not 1 <= size <= MAX_PN_SIZE or expected < 0 or truncated >> (8 * size):
        raise ConfigError(f"packet number {truncated} in {size} bytes", expected="1 to 4 bytes that hold it")
    return decode_pn(truncated, size, expected)


@cython.final
cdef class PacketKeys:
    """Keys of one direction: opens and protects whole packets. suite: TLS cipher suite number, one of SUITES."""

    cdef Keys sealing
    cdef Keys opening

    def __cinit__(self, int suite, bytes key not None, bytes iv not None, bytes protection not None):
        cdef const uint8_t* key_at = <const uint8_t*> PyBytes_AS_STRING(key)
        cdef const uint8_t* iv_at = <const uint8_t*> PyBytes_AS_STRING(iv)
        cdef const uint8_t* protection_at = <const uint8_t*> PyBytes_AS_STRING(protection)
        if suite not in SUITES or len(iv) != IV_SIZE or len(key) != key_size(suite) or len(protection) != key_size(suite):
            raise ConfigError(f"suite {suite:#x} with a key of {len(key)} bytes", expected="a TLS 1.3 suite and its key sizes")
        if (
            keys_set_aead(&self.sealing, suite, key_at, iv_at, True) or keys_set_aead(&self.opening, suite, key_at, iv_at, False)
            or keys_set_protection(&self.sealing, suite, protection_at) or keys_set_protection(&self.opening, suite, protection_at)
        ):
            raise ConfigError("OpenSSL refused a key", expected="AES-GCM and ChaCha20-Poly1305 in this OpenSSL")

    def __dealloc__(self):
        keys_free(&self.sealing)
        keys_free(&self.opening)

    def protect(self, bytes header not None, int64_t packet_number, bytes payload not None):
        """The protected packet. header: plain, its last bytes the packet number, whose size stands in its first byte."""
        cdef uint8_t packet[MAX_PACKET + 64]
        cdef Py_ssize_t header_size = len(header), size = len(payload)
        if header_size < 2 or header_size < 2 + (header[0] & 0x03):
            raise ConfigError(f"a header of {header_size} bytes", expected="one that holds its packet number")
        if header_size > MAX_HEADER_SIZE or size > MAX_PACKET - TAG_SIZE or packet_number < 0:
            raise ConfigError(f"header of {header_size} and payload of {size} bytes", expected="a packet of at most 2048 bytes")
        memcpy(packet, PyBytes_AS_STRING(header), header_size)
        memcpy(packet + header_size, PyBytes_AS_STRING(payload), size)
        size = seal(&self.sealing, packet, header_size, packet_number, size)
        if size < 0:
            raise ConfigError("a packet that cannot be protected", expected="4 bytes of packet number and payload, or more")
        return PyBytes_FromStringAndSize(<const char*> packet, size)

    def open(self, bytes packet not None, Py_ssize_t pn_offset, int64_t expected):
        """(plain header, packet number, payload), or None for a packet that does not open. expected: the next number awaited."""
        cdef uint8_t header[MAX_HEADER_SIZE]
        cdef uint8_t plain[MAX_PACKET + 64]
        cdef uint64_t truncated = 0
        cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(packet)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(packet)
        cdef int pn_size
        cdef int64_t pn
        if pn_offset < 1 or expected < 0 or size > MAX_PACKET:
            return None
        pn_size = unprotect(&self.opening, data, size, pn_offset, header, &truncated)
        if pn_size < 0:
            return None
        pn = decode_pn(truncated, pn_size, expected)
        pn_offset += pn_size
        size = aead_open(&self.opening, header, pn_offset, pn, data + pn_offset, size - pn_offset, plain)
        if size < 0:
            return None
        return (
            PyBytes_FromStringAndSize(<const char*> header, pn_offset), pn,
            PyBytes_FromStringAndSize(<const char*> plain, size),
        )
