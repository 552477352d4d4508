"""C-level interface of tsq.dataplane.digests, for the data plane."""
from libc.stdint cimport uint8_t, uint64_t


cdef extern from "<openssl/sha.h>" nogil:
    ctypedef struct Sha256 "SHA256_CTX":
        pass
    int SHA256_Update(Sha256* state, const void* data, size_t size)


cdef enum:
    DIGEST_SIZE = 32


# A key of HMAC-SHA-256, ready to use: the states after the inner and the outer block.
cdef struct HmacKey:
    Sha256 inner
    Sha256 outer


# A key of a short hash for tables, so that nobody outside can choose where his entries lie.
cdef struct TableKey:
    uint64_t first
    uint64_t second


cdef void hmac_set(HmacKey* out, const uint8_t* key, size_t size) noexcept nogil
cdef void hmac_begin(const HmacKey* key, Sha256* state) noexcept nogil
cdef void hmac_end(const HmacKey* key, Sha256* state, uint8_t* out) noexcept nogil
cdef void hmac(const HmacKey* key, const uint8_t* data, size_t size, uint8_t* out) noexcept nogil
cdef void expand_label(const HmacKey* key, const char* label, int length, uint8_t* out) noexcept nogil
cdef uint64_t table_hash(const TableKey* key, const uint8_t* data, size_t size) noexcept nogil
cdef int random_bytes(uint8_t* out, size_t size) noexcept nogil
cdef void cleanse(void* at, size_t size) noexcept nogil
cdef bint same_bytes(const uint8_t* a, const uint8_t* b, size_t size) noexcept nogil
