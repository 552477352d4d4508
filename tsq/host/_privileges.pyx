"""The kernel's calls that take privileges from the calling thread, compiled: prctl(2), capset(2).

Comes in: numbers of <linux/prctl.h>, masks of capabilities. Goes out: the capabilities as masks. It must never decide what to give
up, and is imported by `tsq/host/privileges.py` alone.
"""
from libc.errno cimport errno
from libc.string cimport memset

import os


cdef extern from "<sys/prctl.h>" nogil:
    int c_prctl "prctl" (int option, unsigned long first, unsigned long second, unsigned long third, unsigned long fourth)


cdef extern from "<linux/capability.h>" nogil:
    cdef struct header_of_capabilities "__user_cap_header_struct":
        unsigned int version
        int pid
    cdef struct sets_of_capabilities "__user_cap_data_struct":
        unsigned int effective
        unsigned int permitted
        unsigned int inheritable
    unsigned int _LINUX_CAPABILITY_VERSION_3


cdef extern from "<sys/syscall.h>" nogil:
    long SYS_capget
    long SYS_capset


cdef extern from "<unistd.h>" nogil:
    long syscall(long number, void* first, void* second)


def prctl(int option, unsigned long first=0, unsigned long second=0):
    """prctl(2); its result. Raises OSError."""
    cdef int result = c_prctl(option, first, second, 0, 0)
    if result < 0:
        raise OSError(errno, os.strerror(errno))
    return result


def capabilities():
    """The (effective, permitted, inheritable) capabilities of this thread, as masks. Raises OSError."""
    cdef header_of_capabilities header
    cdef sets_of_capabilities halves[2]
    memset(halves, 0, sizeof(halves))
    header.version, header.pid = _LINUX_CAPABILITY_VERSION_3, 0
    if syscall(SYS_capget, &header, halves) < 0:
        raise OSError(errno, os.strerror(errno))
    return (
        halves[0].effective | <unsigned long long> halves[1].effective << 32,
        halves[0].permitted | <unsigned long long> halves[1].permitted << 32,
        halves[0].inheritable | <unsigned long long> halves[1].inheritable << 32,
    )


def keep(unsigned long long effective, unsigned long long permitted, unsigned long long inheritable):
    """Set the capabilities of this thread. Raises OSError."""
    cdef header_of_capabilities header
    cdef sets_of_capabilities halves[2]
    header.version, header.pid = _LINUX_CAPABILITY_VERSION_3, 0
    halves[0].effective, halves[1].effective = effective & 0xffffffff, effective >> 32
    halves[0].permitted, halves[1].permitted = permitted & 0xffffffff, permitted >> 32
    halves[0].inheritable, halves[1].inheritable = inheritable & 0xffffffff, inheritable >> 32
    if syscall(SYS_capset, &header, halves) < 0:
        raise OSError(errno, os.strerror(errno))
