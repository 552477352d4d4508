"""C-level interface of tsq._sockets, for the data plane."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from tsq._fast cimport View, socklen_t, timespec


cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len


cdef extern from "<sys/socket.h>" nogil:
    cdef struct sockaddr:
        uint16_t sa_family
    cdef struct sockaddr_storage:
        uint16_t ss_family
    cdef struct msghdr:
        void* msg_name
        socklen_t msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    cdef struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    cdef struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    int AF_INET6, SOL_SOCKET, MSG_DONTWAIT, MSG_ERRQUEUE, MSG_TRUNC, MSG_CTRUNC
    int SO_TIMESTAMPNS, SCM_TIMESTAMPNS, SO_TIMESTAMPING, SCM_TIMESTAMPING
    cmsghdr* CMSG_FIRSTHDR(msghdr* message)
    cmsghdr* CMSG_NXTHDR(msghdr* message, cmsghdr* previous)
    unsigned char* CMSG_DATA(cmsghdr* header)
    size_t CMSG_LEN(size_t length)
    size_t CMSG_SPACE(size_t length)
    int setsockopt(int fd, int level, int name, const void* value, socklen_t length)
    int recvmmsg(int fd, mmsghdr* messages, unsigned int count, int flags, timespec* timeout)
    ssize_t send_bytes "send"(int fd, const void* data, size_t size, int flags)
    ssize_t sendmsg(int fd, const msghdr* message, int flags)
    int sendmmsg(int fd, mmsghdr* messages, unsigned int count, int flags)


cdef enum:
    # Between the starts of two buffers: a power of two would put all of them into the same few sets of the cache.
    C_STRIDE = 2048 + 192
    C_BATCH = 64
    CONTROL_CAPACITY = 256
    CONTROL_STRIDE = 256 + 64


cdef struct BatchIO:
    uint8_t* data
    uint8_t* control
    mmsghdr messages[C_BATCH]
    iovec vectors[C_BATCH]
    sockaddr_storage names[C_BATCH]
    View views[C_BATCH]
    uint8_t taken[C_BATCH]
    int used
    mmsghdr replies[C_BATCH]
    iovec reply_vectors[C_BATCH]
    uint8_t reply_control[C_BATCH][CONTROL_CAPACITY]


cdef struct TransmitStamp:
    uint32_t id
    int64_t at_ns


cdef BatchIO* io_new() noexcept
cdef void io_free(BatchIO* io) noexcept
cdef int io_receive(BatchIO* io, int fd, int most, int* error) noexcept nogil
cdef bint io_view(BatchIO* io, int i, View* view) noexcept nogil
cdef object io_item(BatchIO* io, int i)
cdef void io_reply(BatchIO* io, int slot, int message, uint8_t* data, Py_ssize_t size, bint stamp) noexcept nogil
cdef int io_send(BatchIO* io, int fd, int count) noexcept nogil
cdef void warm_transmit_path(int discard_fd) noexcept nogil
cdef bint refuses_segments(int discard_fd) noexcept nogil
cdef int warm_route(BatchIO* io, int fd, int message) noexcept nogil
cdef int restart_stamps(int fd) noexcept nogil
cdef int read_transmit_stamps(int fd, TransmitStamp* out, int most) noexcept nogil
