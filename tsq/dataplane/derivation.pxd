"""C-level interface of tsq.dataplane.derivation: the keys of the next phase."""
from tsq.dataplane.state cimport State


cdef int update_keys(State* s, double now) noexcept nogil
