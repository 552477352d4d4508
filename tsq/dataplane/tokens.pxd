"""C-level interface of tsq.dataplane.tokens, for the data plane."""
from libc.stdint cimport int64_t, uint8_t, uint64_t

from tsq.dataplane.digests cimport HmacKey, TableKey
from tsq.dataplane.packet cimport MAX_CID_SIZE


cdef enum:
    MOST_KEYS = 4
    TOKEN_CAPACITY = 2 + 16 + 8 + 1 + MAX_CID_SIZE + 16
    USED_SETS = 2048
    USED_WAYS = 4

# What a token is good for.
cdef enum:
    NO_TOKEN
    FOREIGN_TOKEN
    BAD_TOKEN
    RETRY_TOKEN
    LASTING_TOKEN


# A token that was read: what it is, and for one of a Retry the connection ID that the client chose at first.
cdef struct Token:
    int kind
    int original_size
    uint8_t original[MAX_CID_SIZE]
    # Names this token among those that were used.
    uint64_t name


cdef struct UsedToken:
    uint64_t name
    double at


# Newest key first.
cdef struct TokenKeys:
    int count
    HmacKey keys[MOST_KEYS]
    uint8_t ids[MOST_KEYS]
    UsedToken used[USED_SETS * USED_WAYS]


cdef void token_keys_set(TokenKeys* keys, int place, const uint8_t* key, size_t size) noexcept nogil
cdef Py_ssize_t put_token(
    const TokenKeys* keys, uint8_t* out, int kind, const uint8_t* remote, size_t remote_size, const uint8_t* original,
    int original_size, const uint8_t* new_id, int new_id_size, int64_t unix_ms
) noexcept nogil
cdef void read_token(
    const TokenKeys* keys, Token* out, const uint8_t* token, Py_ssize_t size, const uint8_t* remote, size_t remote_size,
    const uint8_t* destination, int destination_size, int64_t unix_ms
) noexcept nogil
cdef bint token_was_used(const TokenKeys* keys, const Token* token) noexcept nogil
cdef void use_token(TokenKeys* keys, const Token* token, double now) noexcept nogil
