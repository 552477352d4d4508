"""C-level interface of tsq.dataplane.packet, for the data plane."""
from libc.stdint cimport int64_t, uint8_t, uint64_t


cdef extern from "aesgcm.h" nogil:
    ctypedef struct AesKey "tsq_aes_key":
        int rounds
    ctypedef struct GcmKey "tsq_gcm_key":
        AesKey aes
    int aes_available "tsq_aes_available"()
    void aes_set "tsq_aes_set"(AesKey* out, const uint8_t* data, int size)
    void aes_block "tsq_aes_block"(const AesKey* key, const uint8_t* data, uint8_t* out)
    void gcm_set "tsq_gcm_set"(GcmKey* out, const uint8_t* data, int size)
    void gcm_seal "tsq_gcm_seal"(
        const GcmKey* key, const uint8_t* nonce, const uint8_t* header, size_t header_size, uint8_t* text, size_t size
    )
    int gcm_open "tsq_gcm_open"(
        const GcmKey* key, const uint8_t* nonce, const uint8_t* header, size_t header_size, const uint8_t* text, size_t size,
        uint8_t* out
    )


cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct EVP_CIPHER_CTX:
        pass
    ctypedef struct EVP_CIPHER:
        pass


cdef enum:
    TAG_SIZE = 16
    IV_SIZE = 12
    SAMPLE_SIZE = 16
    MAX_CID_SIZE = 20
    MAX_HEADER_SIZE = 32


# One direction's keys. What has rounds lies here, and is used by aesgcm.h; the rest is in libcrypto's contexts.
cdef struct Keys:
    uint8_t iv[IV_SIZE]
    bint chacha
    EVP_CIPHER_CTX* aead
    EVP_CIPHER_CTX* protection
    GcmKey gcm
    AesKey block


cdef int key_size(int suite) noexcept nogil
cdef int secret_size(int suite) noexcept nogil
cdef bint keys_complete(const Keys* keys) noexcept nogil
cdef int keys_set_aead(Keys* keys, int suite, const uint8_t* key, const uint8_t* iv, bint sealing) noexcept nogil
cdef int keys_set_protection(Keys* keys, int suite, const uint8_t* key) noexcept nogil
cdef void keys_free(Keys* keys) noexcept nogil
cdef int unprotect(
    Keys* keys, const uint8_t* packet, Py_ssize_t size, Py_ssize_t pn_offset, uint8_t* header, uint64_t* truncated
) noexcept nogil
cdef int64_t decode_pn(uint64_t truncated, int size, int64_t expected) noexcept nogil
cdef Py_ssize_t aead_open(
    Keys* keys, const uint8_t* header, Py_ssize_t header_size, int64_t pn, const uint8_t* sealed, Py_ssize_t sealed_size,
    uint8_t* plain,
) noexcept nogil
cdef int protection_mask(Keys* keys, const uint8_t* sample, uint8_t* mask) noexcept nogil
cdef int aead_seal(
    Keys* keys, const uint8_t* nonce, const uint8_t* header, Py_ssize_t header_size, uint8_t* payload, Py_ssize_t size
) noexcept nogil
cdef Py_ssize_t seal(Keys* keys, uint8_t* packet, Py_ssize_t header_size, int64_t pn, Py_ssize_t plain_size) noexcept nogil
cdef int get_varint(const uint8_t** at, const uint8_t* end, uint64_t* value) noexcept nogil
cdef int put_varint(uint8_t* out, uint64_t value) noexcept nogil
