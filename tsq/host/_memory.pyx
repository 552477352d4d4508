"""Giving memory that is free, or that is a copy of a file, back to the system, compiled.

Comes in: nothing, or a part of this process's memory. Goes out: whether anything was given back. It must never be called while an
answer waits: it takes milliseconds where much is free. glibc keeps what was freed below what is still in use; other C libraries
have no such call, and need none.
"""


cdef extern from *:
    """
    #include <stdlib.h>
    #include <sys/mman.h>
    #ifdef __GLIBC__
    #include <malloc.h>
    static int give_back_free_memory(void) { return malloc_trim(0); }
    #else
    static int give_back_free_memory(void) { return 0; }
    #endif
    static int drop_pages(size_t begin, size_t length) { return madvise((void *)begin, length, MADV_DONTNEED); }
    """
    int give_back_free_memory() nogil
    int drop_pages(size_t begin, size_t length) nogil


def give_back():
    """Give free memory back to the system; whether there was any."""
    cdef int given
    with nogil:
        given = give_back_free_memory()
    return given != 0


def drop_unwritten(size_t begin, size_t length):
    """Let go of the pages of a file; whether that was possible. They must be as in the file: what was written to them is lost."""
    cdef int failed
    with nogil:
        failed = drop_pages(begin, length)
    return failed == 0
