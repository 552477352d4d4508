"""C-level interface of tsq._fast, for the other extensions."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef struct Cursor:
    const uint8_t* at
    const uint8_t* end


cdef struct Tlv:
    uint8_t type
    uint8_t length
    const uint8_t* value


cdef int next_tlv(Cursor* cursor, Tlv* tlv) noexcept nogil
cdef int check_message(const uint8_t* data, Py_ssize_t size, Py_ssize_t* offset) noexcept nogil
cdef uint64_t ntp_of_ns(int64_t unix_ns) noexcept nogil
cdef int ns_of_ntp(uint64_t ntp, int64_t pivot_ns, int64_t* out) noexcept nogil
cdef void put_u64(uint8_t* out, uint64_t value) noexcept nogil
cdef int64_t realtime_ns() noexcept nogil
