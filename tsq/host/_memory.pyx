"""Giving memory that is free back to the system, compiled.

Comes in: nothing. Goes out: whether anything was given back. It must never be called while an answer waits: it takes milliseconds
where much is free. glibc keeps what was freed below what is still in use; other C libraries have no such call, and need none.
"""


cdef extern from *:
    """
    #include <stdlib.h>
    #ifdef __GLIBC__
    #include <malloc.h>
    static int give_back_free_memory(void) { return malloc_trim(0); }
    #else
    static int give_back_free_memory(void) { return 0; }
    #endif
    """
    int give_back_free_memory() nogil


def give_back():
    """Give free memory back to the system; whether there was any."""
    cdef int given
    with nogil:
        given = give_back_free_memory()
    return given != 0
