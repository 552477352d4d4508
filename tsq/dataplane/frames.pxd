"""C-level interface of tsq.dataplane.frames, for the data plane."""
from libc.stdint cimport uint8_t


cdef enum:
    # More work than this is never handed to the control plane.
    MOST_WORK = 128

cdef int frames_work(const uint8_t* plain, Py_ssize_t size) noexcept nogil
