"""The kernel's calls that confine a process, compiled: seccomp(2), landlock(7).

Comes in: a filter's instructions, file descriptors, masks of landlock(7). Goes out: a filter or a rule in force, or OSError; the
numbers of this machine's system calls. It must never decide what is allowed, and is imported by `tsq/host/sandbox.py` alone.
"""
from cpython.bytes cimport PyBytes_AS_STRING
from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t

import os


cdef extern from *:
    """
    #include <linux/audit.h>
    #include <linux/filter.h>
    #include <linux/seccomp.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    #if defined(__x86_64__)
    #define TSQ_ARCHITECTURE AUDIT_ARCH_X86_64
    #elif defined(__aarch64__)
    #define TSQ_ARCHITECTURE AUDIT_ARCH_AARCH64
    #else
    #define TSQ_ARCHITECTURE 0
    #endif

    #ifndef SYS_landlock_create_ruleset
    #define SYS_landlock_create_ruleset 444
    #define SYS_landlock_add_rule 445
    #define SYS_landlock_restrict_self 446
    #endif

    /* Not every machine has each of them: only what this one has is in the table. */
    struct tsq_call { const char *name; long number; };
    static const struct tsq_call TSQ_CALLS[] = {
    #ifdef SYS_accept
    {"accept", SYS_accept},
    #endif
    #ifdef SYS_accept4
    {"accept4", SYS_accept4},
    #endif
    #ifdef SYS_access
    {"access", SYS_access},
    #endif
    #ifdef SYS_arch_prctl
    {"arch_prctl", SYS_arch_prctl},
    #endif
    #ifdef SYS_bind
    {"bind", SYS_bind},
    #endif
    #ifdef SYS_brk
    {"brk", SYS_brk},
    #endif
    #ifdef SYS_clock_adjtime
    {"clock_adjtime", SYS_clock_adjtime},
    #endif
    #ifdef SYS_clock_getres
    {"clock_getres", SYS_clock_getres},
    #endif
    #ifdef SYS_clock_gettime
    {"clock_gettime", SYS_clock_gettime},
    #endif
    #ifdef SYS_clock_nanosleep
    {"clock_nanosleep", SYS_clock_nanosleep},
    #endif
    #ifdef SYS_clone
    {"clone", SYS_clone},
    #endif
    #ifdef SYS_clone3
    {"clone3", SYS_clone3},
    #endif
    #ifdef SYS_close
    {"close", SYS_close},
    #endif
    #ifdef SYS_close_range
    {"close_range", SYS_close_range},
    #endif
    #ifdef SYS_connect
    {"connect", SYS_connect},
    #endif
    #ifdef SYS_dup
    {"dup", SYS_dup},
    #endif
    #ifdef SYS_dup2
    {"dup2", SYS_dup2},
    #endif
    #ifdef SYS_dup3
    {"dup3", SYS_dup3},
    #endif
    #ifdef SYS_epoll_create1
    {"epoll_create1", SYS_epoll_create1},
    #endif
    #ifdef SYS_epoll_ctl
    {"epoll_ctl", SYS_epoll_ctl},
    #endif
    #ifdef SYS_epoll_pwait
    {"epoll_pwait", SYS_epoll_pwait},
    #endif
    #ifdef SYS_epoll_pwait2
    {"epoll_pwait2", SYS_epoll_pwait2},
    #endif
    #ifdef SYS_epoll_wait
    {"epoll_wait", SYS_epoll_wait},
    #endif
    #ifdef SYS_eventfd2
    {"eventfd2", SYS_eventfd2},
    #endif
    #ifdef SYS_exit
    {"exit", SYS_exit},
    #endif
    #ifdef SYS_exit_group
    {"exit_group", SYS_exit_group},
    #endif
    #ifdef SYS_faccessat
    {"faccessat", SYS_faccessat},
    #endif
    #ifdef SYS_faccessat2
    {"faccessat2", SYS_faccessat2},
    #endif
    #ifdef SYS_fadvise64
    {"fadvise64", SYS_fadvise64},
    #endif
    #ifdef SYS_fcntl
    {"fcntl", SYS_fcntl},
    #endif
    #ifdef SYS_fdatasync
    {"fdatasync", SYS_fdatasync},
    #endif
    #ifdef SYS_flock
    {"flock", SYS_flock},
    #endif
    #ifdef SYS_fstat
    {"fstat", SYS_fstat},
    #endif
    #ifdef SYS_fstatfs
    {"fstatfs", SYS_fstatfs},
    #endif
    #ifdef SYS_fsync
    {"fsync", SYS_fsync},
    #endif
    #ifdef SYS_ftruncate
    {"ftruncate", SYS_ftruncate},
    #endif
    #ifdef SYS_futex
    {"futex", SYS_futex},
    #endif
    #ifdef SYS_futex_wait
    {"futex_wait", SYS_futex_wait},
    #endif
    #ifdef SYS_futex_wake
    {"futex_wake", SYS_futex_wake},
    #endif
    #ifdef SYS_get_robust_list
    {"get_robust_list", SYS_get_robust_list},
    #endif
    #ifdef SYS_getcpu
    {"getcpu", SYS_getcpu},
    #endif
    #ifdef SYS_getcwd
    {"getcwd", SYS_getcwd},
    #endif
    #ifdef SYS_getdents64
    {"getdents64", SYS_getdents64},
    #endif
    #ifdef SYS_getegid
    {"getegid", SYS_getegid},
    #endif
    #ifdef SYS_geteuid
    {"geteuid", SYS_geteuid},
    #endif
    #ifdef SYS_getgid
    {"getgid", SYS_getgid},
    #endif
    #ifdef SYS_getgroups
    {"getgroups", SYS_getgroups},
    #endif
    #ifdef SYS_getitimer
    {"getitimer", SYS_getitimer},
    #endif
    #ifdef SYS_getpeername
    {"getpeername", SYS_getpeername},
    #endif
    #ifdef SYS_getpgrp
    {"getpgrp", SYS_getpgrp},
    #endif
    #ifdef SYS_getpid
    {"getpid", SYS_getpid},
    #endif
    #ifdef SYS_getppid
    {"getppid", SYS_getppid},
    #endif
    #ifdef SYS_getpriority
    {"getpriority", SYS_getpriority},
    #endif
    #ifdef SYS_getrandom
    {"getrandom", SYS_getrandom},
    #endif
    #ifdef SYS_getresgid
    {"getresgid", SYS_getresgid},
    #endif
    #ifdef SYS_getresuid
    {"getresuid", SYS_getresuid},
    #endif
    #ifdef SYS_getrlimit
    {"getrlimit", SYS_getrlimit},
    #endif
    #ifdef SYS_getrusage
    {"getrusage", SYS_getrusage},
    #endif
    #ifdef SYS_getsid
    {"getsid", SYS_getsid},
    #endif
    #ifdef SYS_getsockname
    {"getsockname", SYS_getsockname},
    #endif
    #ifdef SYS_getsockopt
    {"getsockopt", SYS_getsockopt},
    #endif
    #ifdef SYS_gettid
    {"gettid", SYS_gettid},
    #endif
    #ifdef SYS_gettimeofday
    {"gettimeofday", SYS_gettimeofday},
    #endif
    #ifdef SYS_getuid
    {"getuid", SYS_getuid},
    #endif
    #ifdef SYS_ioctl
    {"ioctl", SYS_ioctl},
    #endif
    #ifdef SYS_kill
    {"kill", SYS_kill},
    #endif
    #ifdef SYS_listen
    {"listen", SYS_listen},
    #endif
    #ifdef SYS_lseek
    {"lseek", SYS_lseek},
    #endif
    #ifdef SYS_lstat
    {"lstat", SYS_lstat},
    #endif
    #ifdef SYS_madvise
    {"madvise", SYS_madvise},
    #endif
    #ifdef SYS_membarrier
    {"membarrier", SYS_membarrier},
    #endif
    #ifdef SYS_memfd_create
    {"memfd_create", SYS_memfd_create},
    #endif
    #ifdef SYS_mincore
    {"mincore", SYS_mincore},
    #endif
    #ifdef SYS_mmap
    {"mmap", SYS_mmap},
    #endif
    #ifdef SYS_mprotect
    {"mprotect", SYS_mprotect},
    #endif
    #ifdef SYS_mremap
    {"mremap", SYS_mremap},
    #endif
    #ifdef SYS_msync
    {"msync", SYS_msync},
    #endif
    #ifdef SYS_munmap
    {"munmap", SYS_munmap},
    #endif
    #ifdef SYS_nanosleep
    {"nanosleep", SYS_nanosleep},
    #endif
    #ifdef SYS_newfstatat
    {"newfstatat", SYS_newfstatat},
    #endif
    #ifdef SYS_open
    {"open", SYS_open},
    #endif
    #ifdef SYS_openat
    {"openat", SYS_openat},
    #endif
    #ifdef SYS_openat2
    {"openat2", SYS_openat2},
    #endif
    #ifdef SYS_pause
    {"pause", SYS_pause},
    #endif
    #ifdef SYS_pidfd_open
    {"pidfd_open", SYS_pidfd_open},
    #endif
    #ifdef SYS_pidfd_send_signal
    {"pidfd_send_signal", SYS_pidfd_send_signal},
    #endif
    #ifdef SYS_pipe
    {"pipe", SYS_pipe},
    #endif
    #ifdef SYS_pipe2
    {"pipe2", SYS_pipe2},
    #endif
    #ifdef SYS_poll
    {"poll", SYS_poll},
    #endif
    #ifdef SYS_ppoll
    {"ppoll", SYS_ppoll},
    #endif
    #ifdef SYS_prctl
    {"prctl", SYS_prctl},
    #endif
    #ifdef SYS_pread64
    {"pread64", SYS_pread64},
    #endif
    #ifdef SYS_preadv
    {"preadv", SYS_preadv},
    #endif
    #ifdef SYS_prlimit64
    {"prlimit64", SYS_prlimit64},
    #endif
    #ifdef SYS_pselect6
    {"pselect6", SYS_pselect6},
    #endif
    #ifdef SYS_pwrite64
    {"pwrite64", SYS_pwrite64},
    #endif
    #ifdef SYS_pwritev
    {"pwritev", SYS_pwritev},
    #endif
    #ifdef SYS_read
    {"read", SYS_read},
    #endif
    #ifdef SYS_readlink
    {"readlink", SYS_readlink},
    #endif
    #ifdef SYS_readlinkat
    {"readlinkat", SYS_readlinkat},
    #endif
    #ifdef SYS_readv
    {"readv", SYS_readv},
    #endif
    #ifdef SYS_recvfrom
    {"recvfrom", SYS_recvfrom},
    #endif
    #ifdef SYS_recvmmsg
    {"recvmmsg", SYS_recvmmsg},
    #endif
    #ifdef SYS_recvmsg
    {"recvmsg", SYS_recvmsg},
    #endif
    #ifdef SYS_restart_syscall
    {"restart_syscall", SYS_restart_syscall},
    #endif
    #ifdef SYS_rseq
    {"rseq", SYS_rseq},
    #endif
    #ifdef SYS_rt_sigaction
    {"rt_sigaction", SYS_rt_sigaction},
    #endif
    #ifdef SYS_rt_sigpending
    {"rt_sigpending", SYS_rt_sigpending},
    #endif
    #ifdef SYS_rt_sigprocmask
    {"rt_sigprocmask", SYS_rt_sigprocmask},
    #endif
    #ifdef SYS_rt_sigqueueinfo
    {"rt_sigqueueinfo", SYS_rt_sigqueueinfo},
    #endif
    #ifdef SYS_rt_sigreturn
    {"rt_sigreturn", SYS_rt_sigreturn},
    #endif
    #ifdef SYS_rt_sigsuspend
    {"rt_sigsuspend", SYS_rt_sigsuspend},
    #endif
    #ifdef SYS_rt_sigtimedwait
    {"rt_sigtimedwait", SYS_rt_sigtimedwait},
    #endif
    #ifdef SYS_sched_get_priority_max
    {"sched_get_priority_max", SYS_sched_get_priority_max},
    #endif
    #ifdef SYS_sched_get_priority_min
    {"sched_get_priority_min", SYS_sched_get_priority_min},
    #endif
    #ifdef SYS_sched_getaffinity
    {"sched_getaffinity", SYS_sched_getaffinity},
    #endif
    #ifdef SYS_sched_getparam
    {"sched_getparam", SYS_sched_getparam},
    #endif
    #ifdef SYS_sched_getscheduler
    {"sched_getscheduler", SYS_sched_getscheduler},
    #endif
    #ifdef SYS_sched_yield
    {"sched_yield", SYS_sched_yield},
    #endif
    #ifdef SYS_select
    {"select", SYS_select},
    #endif
    #ifdef SYS_sendmmsg
    {"sendmmsg", SYS_sendmmsg},
    #endif
    #ifdef SYS_sendmsg
    {"sendmsg", SYS_sendmsg},
    #endif
    #ifdef SYS_sendto
    {"sendto", SYS_sendto},
    #endif
    #ifdef SYS_set_robust_list
    {"set_robust_list", SYS_set_robust_list},
    #endif
    #ifdef SYS_set_tid_address
    {"set_tid_address", SYS_set_tid_address},
    #endif
    #ifdef SYS_setitimer
    {"setitimer", SYS_setitimer},
    #endif
    #ifdef SYS_setsockopt
    {"setsockopt", SYS_setsockopt},
    #endif
    #ifdef SYS_shutdown
    {"shutdown", SYS_shutdown},
    #endif
    #ifdef SYS_sigaltstack
    {"sigaltstack", SYS_sigaltstack},
    #endif
    #ifdef SYS_signalfd4
    {"signalfd4", SYS_signalfd4},
    #endif
    #ifdef SYS_socket
    {"socket", SYS_socket},
    #endif
    #ifdef SYS_socketpair
    {"socketpair", SYS_socketpair},
    #endif
    #ifdef SYS_stat
    {"stat", SYS_stat},
    #endif
    #ifdef SYS_statfs
    {"statfs", SYS_statfs},
    #endif
    #ifdef SYS_statx
    {"statx", SYS_statx},
    #endif
    #ifdef SYS_sysinfo
    {"sysinfo", SYS_sysinfo},
    #endif
    #ifdef SYS_tgkill
    {"tgkill", SYS_tgkill},
    #endif
    #ifdef SYS_time
    {"time", SYS_time},
    #endif
    #ifdef SYS_timer_create
    {"timer_create", SYS_timer_create},
    #endif
    #ifdef SYS_timer_delete
    {"timer_delete", SYS_timer_delete},
    #endif
    #ifdef SYS_timer_settime
    {"timer_settime", SYS_timer_settime},
    #endif
    #ifdef SYS_timerfd_create
    {"timerfd_create", SYS_timerfd_create},
    #endif
    #ifdef SYS_timerfd_gettime
    {"timerfd_gettime", SYS_timerfd_gettime},
    #endif
    #ifdef SYS_timerfd_settime
    {"timerfd_settime", SYS_timerfd_settime},
    #endif
    #ifdef SYS_times
    {"times", SYS_times},
    #endif
    #ifdef SYS_tkill
    {"tkill", SYS_tkill},
    #endif
    #ifdef SYS_umask
    {"umask", SYS_umask},
    #endif
    #ifdef SYS_uname
    {"uname", SYS_uname},
    #endif
    #ifdef SYS_wait4
    {"wait4", SYS_wait4},
    #endif
    #ifdef SYS_waitid
    {"waitid", SYS_waitid},
    #endif
    #ifdef SYS_write
    {"write", SYS_write},
    #endif
    #ifdef SYS_writev
    {"writev", SYS_writev},
    #endif
    {0, 0}};

    static long tsq_install(const void *instructions, size_t size) {
        struct sock_fprog program = {(unsigned short) (size / sizeof(struct sock_filter)), (struct sock_filter *) instructions};
        return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
    }
    struct tsq_ruleset { uint64_t files, network, scoped; };
    struct tsq_rule { uint64_t allowed; int32_t parent; } __attribute__((packed));
    static long tsq_create_ruleset(uint64_t files, uint64_t network, uint64_t scoped, size_t size) {
        struct tsq_ruleset rules = {files, network, scoped};
        return syscall(SYS_landlock_create_ruleset, &rules, size, 0);
    }
    static long tsq_landlock_version(void) {
        return syscall(SYS_landlock_create_ruleset, (void *) 0, 0, 1);
    }
    static long tsq_add_path(int ruleset, int parent, uint64_t allowed) {
        struct tsq_rule rule = {allowed, parent};
        return syscall(SYS_landlock_add_rule, ruleset, 1, &rule, 0);
    }
    static long tsq_restrict(int ruleset) {
        return syscall(SYS_landlock_restrict_self, ruleset, 0);
    }
    """
    cdef struct tsq_call:
        const char* name
        long number
    const tsq_call TSQ_CALLS[]
    const uint32_t TSQ_ARCHITECTURE
    long tsq_install(const void* instructions, size_t size) nogil
    long tsq_create_ruleset(uint64_t files, uint64_t network, uint64_t scoped, size_t size) nogil
    long tsq_landlock_version() nogil
    long tsq_add_path(int ruleset, int parent, uint64_t allowed) nogil
    long tsq_restrict(int ruleset) nogil


# AUDIT_ARCH_... of this machine, as seccomp(2) reports it; 0: a machine for which there is no filter.
ARCHITECTURE = TSQ_ARCHITECTURE


def system_calls():
    """The numbers of the system calls that a confined process may need, by name; only those that this machine has."""
    cdef dict found = {}
    cdef int i = 0
    while TSQ_CALLS[i].name != NULL:
        found[TSQ_CALLS[i].name.decode("ascii")] = TSQ_CALLS[i].number
        i += 1
    return found


def install_filter(bytes instructions not None):
    """Put a seccomp filter, an array of struct sock_filter, in force for all threads of this process. Raises OSError."""
    cdef long result = tsq_install(PyBytes_AS_STRING(instructions), len(instructions))
    if result:
        # Above 0: a thread that could not take it.
        raise OSError(errno if result < 0 else 1, os.strerror(errno) if result < 0 else "a thread has another filter")


def landlock_version():
    """Which version of landlock(7) this kernel has; 0: none."""
    cdef long version = tsq_landlock_version()
    return version if version > 0 else 0


def create_ruleset(uint64_t files, uint64_t network, uint64_t scoped, size_t size):
    """A file descriptor of a new set of rules that handles these rights; size: bytes of the structure to give. Raises OSError."""
    return _checked(tsq_create_ruleset(files, network, scoped, size))


def add_path(int ruleset, int parent, uint64_t allowed):
    """Allow these rights beneath an open file or directory. Raises OSError."""
    _checked(tsq_add_path(ruleset, parent, allowed))


def restrict(int ruleset):
    """Put a set of rules in force for this thread and those that it starts. Raises OSError."""
    _checked(tsq_restrict(ruleset))


cdef long _checked(long result) except -1:
    if result < 0:
        raise OSError(errno, os.strerror(errno))
    return result
