"""C-level interface of tsq.dataplane.batches: what a request looks like that has nothing to decide (docs/reference/protocol.md R12)."""
from libc.stdint cimport uint8_t


cdef enum:
    REQUEST_SIZE = 18
    EXACT_REQUEST_SIZE = 28
    RESPONSE_SIZE = 38
    EXACT_SIZE = 42

cdef extern from *:
    """
    /* Metadata TLV that asks for exact T3: type 253, 8 bytes, key length 6, "tsq.t3", an empty value. */
    static const unsigned char TSQ_T3_REQUEST[10] = {253, 8, 6, 't', 's', 'q', '.', 't', '3', 0};
    """
    const uint8_t* T3_REQUEST "TSQ_T3_REQUEST"
