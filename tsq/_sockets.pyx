"""Linux's socket calls with kernel timestamps, in batches of datagrams: recvmmsg, sendmmsg, SO_TIMESTAMPNS, SO_TIMESTAMPING.

Comes in: file descriptors, bytes. Goes out: datagrams with their times, how many were sent. It must never look into a datagram,
keep a connection's state, or block. System calls run without the interpreter lock. tsq/sockets.py chooses it; other systems have
tsq/_portable_sockets.pyx.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, EINVAL, ENOBUFS, ENOMEM, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from tsq._fast cimport C_CAPACITY, C_NS_PER_S, View, realtime_ns

from tsq.errors import ConfigError


cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct in6_addr:
        uint8_t s6_addr[16]
    cdef struct sockaddr_in6:
        uint16_t sin6_family
    cdef struct in_pktinfo:
        int ipi_ifindex
        in_addr ipi_spec_dst
        in_addr ipi_addr
    cdef struct in6_pktinfo:
        in6_addr ipi6_addr
        unsigned int ipi6_ifindex
    int IPPROTO_IP, IPPROTO_IPV6, IPPROTO_UDP, IP_PKTINFO, IPV6_RECVPKTINFO, IPV6_PKTINFO, IP_RECVERR, IPV6_RECVERR


cdef extern from "<linux/errqueue.h>" nogil:
    cdef struct sock_extended_err:
        uint32_t ee_errno
        uint8_t ee_origin
        uint8_t ee_type
        uint8_t ee_code
        uint32_t ee_info
        uint32_t ee_data
    int SO_EE_ORIGIN_TIMESTAMPING


cdef extern from "<linux/net_tstamp.h>" nogil:
    int SOF_TIMESTAMPING_TX_SOFTWARE, SOF_TIMESTAMPING_SOFTWARE, SOF_TIMESTAMPING_OPT_ID, SOF_TIMESTAMPING_OPT_TSONLY


cdef extern from *:
    """
    /* SOF_TIMESTAMPING_OPT_RX_FILTER, which headers before Linux 6.12 lack. */
    #define TSQ_RX_FILTER (1 << 17)
    /* UDP_SEGMENT of <linux/udp.h>, which <netinet/udp.h> lacks before glibc 2.33. */
    #define TSQ_UDP_SEGMENT 103
    static const unsigned char tsq_nothing[1200];
    """
    const int C_RX_FILTER "TSQ_RX_FILTER"
    const int UDP_SEGMENT "TSQ_UDP_SEGMENT"
    const uint8_t* NOTHING "tsq_nothing"


BATCH = C_BATCH

cdef enum:
    # The size of an answer.
    WARM_SIZE = 80
    # The size of a QUIC packet that fits any path: many times the number of segments that the kernel allows.
    REFUSED_SIZE = 1200


cdef int set_option(int fd, int level, int name, int value) except -1:
    if setsockopt(fd, level, name, &value, sizeof(value)) != 0:
        raise OSError(errno, f"setsockopt({level}, {name}) failed")
    return 0


def enable_receive_timestamps(int fd, int family, bint destinations=True):
    """Have the kernel timestamp each received datagram (SO_TIMESTAMPNS) and report its destination address (IP_PKTINFO).

    destinations: False for a socket that is bound to one address.
    """
    set_option(fd, SOL_SOCKET, SO_TIMESTAMPNS, 1)
    if not destinations:
        return
    if family == AF_INET6:
        set_option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
    else:
        set_option(fd, IPPROTO_IP, IP_PKTINFO, 1)


cdef int restart_stamps(int fd) noexcept nogil:
    """Allow transmit timestamp requests for single datagrams, and have the kernel count them from 0; 0, or -1."""
    cdef int off = 0
    cdef int on = SOF_TIMESTAMPING_SOFTWARE | SOF_TIMESTAMPING_OPT_ID | SOF_TIMESTAMPING_OPT_TSONLY
    # Without this, the kernel reports each receive time a second time, beside SO_TIMESTAMPNS. It needs Linux 6.12.
    cdef int once = on | C_RX_FILTER
    # The kernel's counter starts again when the option is switched on.
    if setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &off, sizeof(off)) != 0:
        return -1
    if setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &once, sizeof(once)) == 0:
        return 0
    return setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &on, sizeof(on))


def enable_transmit_timestamps(int fd):
    """Allow transmit timestamp requests for single datagrams (SO_TIMESTAMPING); see `send` and `transmit_times`.

    A second call makes the kernel count from 0 again: it may or may not have counted a send that failed.
    """
    if restart_stamps(fd) != 0:
        raise OSError(errno, "setsockopt(SO_TIMESTAMPING) failed")


cdef BatchIO* io_new() noexcept:
    """Buffers for batches of up to 64 datagrams, in and out; NULL where there is no memory."""
    cdef BatchIO* io = <BatchIO*> calloc(1, sizeof(BatchIO))
    cdef int i
    if io == NULL:
        return NULL
    io.data = <uint8_t*> calloc(C_BATCH, C_STRIDE)
    io.control = <uint8_t*> calloc(C_BATCH, CONTROL_STRIDE)
    if io.data == NULL or io.control == NULL:
        io_free(io)
        return NULL
    for i in range(C_BATCH):
        io.vectors[i].iov_base = io.data + i * C_STRIDE
        io.vectors[i].iov_len = C_CAPACITY
        io.messages[i].msg_hdr.msg_name = &io.names[i]
        io.messages[i].msg_hdr.msg_iov = &io.vectors[i]
        io.messages[i].msg_hdr.msg_iovlen = 1
        io.messages[i].msg_hdr.msg_control = io.control + i * CONTROL_STRIDE
        io.replies[i].msg_hdr.msg_iov = &io.reply_vectors[i]
        io.replies[i].msg_hdr.msg_iovlen = 1
    io.used = C_BATCH
    return io


cdef void io_free(BatchIO* io) noexcept:
    if io != NULL:
        free(io.data)
        free(io.control)
        free(io)


cdef int io_receive(BatchIO* io, int fd, int most, int* error) noexcept nogil:
    """Receive at most `most` datagrams with one recvmmsg, without blocking, and read their control messages.

    Returns how many datagrams came, or -1 with the error's number.
    """
    cdef int count, i
    cdef int64_t now
    for i in range(io.used):
        io.messages[i].msg_hdr.msg_namelen = sizeof(sockaddr_in6)
        io.messages[i].msg_hdr.msg_controllen = CONTROL_CAPACITY
        io.messages[i].msg_hdr.msg_flags = 0
    io.used = 0
    count = recvmmsg(fd, io.messages, most, MSG_DONTWAIT, NULL)
    if count < 0:
        error[0] = errno
        return -1
    io.used = count
    now = realtime_ns()
    for i in range(count):
        read_control(&io.messages[i].msg_hdr, now, &io.views[i])
        io.views[i].data = <const uint8_t*> io.vectors[i].iov_base
        io.views[i].size = io.messages[i].msg_len
        io.views[i].remote = <const uint8_t*> &io.names[i]
        io.views[i].remote_size = io.messages[i].msg_hdr.msg_namelen
    return count


cdef void read_control(msghdr* message, int64_t now, View* view) noexcept nogil:
    """Read receive time and destination address of one datagram; the time is `now` where the kernel gives none."""
    cdef cmsghdr* header = CMSG_FIRSTHDR(message)
    cdef timespec stamp
    view.received_ns = now
    view.kernel = False
    view.local = NULL
    view.local_size = 0
    while header != NULL:
        if header.cmsg_level == SOL_SOCKET and header.cmsg_type == SCM_TIMESTAMPNS:
            if header.cmsg_len >= CMSG_LEN(sizeof(stamp)):
                memcpy(&stamp, CMSG_DATA(header), sizeof(stamp))
                view.received_ns = <int64_t> stamp.tv_sec * C_NS_PER_S + stamp.tv_nsec
                view.kernel = True
        elif header.cmsg_level == IPPROTO_IP and header.cmsg_type == IP_PKTINFO:
            if header.cmsg_len >= CMSG_LEN(sizeof(in_pktinfo)):
                view.local = <const uint8_t*> &(<in_pktinfo*> CMSG_DATA(header)).ipi_spec_dst
                view.local_size = sizeof(in_addr)
        elif header.cmsg_level == IPPROTO_IPV6 and header.cmsg_type == IPV6_PKTINFO:
            if header.cmsg_len >= CMSG_LEN(sizeof(in6_pktinfo)):
                view.local = CMSG_DATA(header)
                view.local_size = sizeof(in6_pktinfo)
        header = CMSG_NXTHDR(message, header)


cdef bint io_view(BatchIO* io, int i, View* view) noexcept nogil:
    """View datagram i in the buffers; false for one that was truncated."""
    view[0] = io.views[i]
    return not io.messages[i].msg_hdr.msg_flags & MSG_TRUNC


cdef object io_item(BatchIO* io, int i):
    """Datagram i as ReceiveBatch.receive returns it; None for one that was truncated."""
    cdef View view
    if not io_view(io, i, &view):
        return None
    return (
        PyBytes_FromStringAndSize(<const char*> view.data, view.size),
        PyBytes_FromStringAndSize(<const char*> view.remote, view.remote_size),
        PyBytes_FromStringAndSize(<const char*> view.local, view.local_size) if view.local_size else b"",
        view.received_ns, view.kernel,
    )


cdef void io_reply(BatchIO* io, int slot, int message, uint8_t* data, Py_ssize_t size, bint stamp) noexcept nogil:
    """Set reply `slot` of the next `io_send`: to the source of datagram `message`, from its destination address."""
    cdef msghdr* out = &io.replies[slot].msg_hdr
    cdef size_t used = put_source(io.reply_control[slot], io.views[message].local, io.views[message].local_size)
    if stamp:
        used += put_stamp_request(io.reply_control[slot] + used)
    io.reply_vectors[slot].iov_base = data
    io.reply_vectors[slot].iov_len = size
    out.msg_name = &io.names[message]
    out.msg_namelen = <socklen_t> io.views[message].remote_size
    out.msg_control = io.reply_control[slot] if used else NULL
    out.msg_controllen = used


cdef int io_send(BatchIO* io, int fd, int count) noexcept nogil:
    """Send the first `count` replies without blocking; how many were sent. A reply that cannot be sent at once is lost.

    It is one call, unless a reply cannot be sent at all (a firewall, a lost route): it is skipped, and the rest is sent.
    """
    cdef int at = 0
    cdef int went = 0
    cdef int sent
    while at < count:
        sent = sendmmsg(fd, io.replies + at, count - at, MSG_DONTWAIT)
        if sent > 0:
            at += sent
            went += sent
        elif errno == EAGAIN or errno == ENOBUFS or errno == ENOMEM:
            break
        else:
            at += 1
    return went


cdef void warm_transmit_path(int discard_fd) noexcept nogil:
    """Warm the kernel's transmit path with a throw-away send: its code and data are in the processor's caches then."""
    cdef uint8_t nothing[WARM_SIZE]
    memset(nothing, 0, WARM_SIZE)
    # Ignore a full buffer: the path is warm all the same.
    send_bytes(discard_fd, nothing, WARM_SIZE, MSG_DONTWAIT)


cdef int send_refused(int fd, void* name, size_t name_size, uint8_t* control, size_t used) noexcept nogil:
    """Ask for more segments of one byte than the kernel allows: it looks up the route, builds the packet, and refuses to send it.

    control: control messages of `used` bytes, with room for one more. Returns 1 where the kernel refused the segments (udp(7),
    UDP_SEGMENT), 0 where it had another reason, such as no route, and -1 where it sent them.
    """
    cdef cmsghdr* header = <cmsghdr*> (control + used)
    cdef uint16_t segment = 1
    cdef msghdr refused
    cdef iovec vector
    header.cmsg_level = IPPROTO_UDP
    header.cmsg_type = UDP_SEGMENT
    header.cmsg_len = CMSG_LEN(sizeof(segment))
    memcpy(CMSG_DATA(header), &segment, sizeof(segment))
    memset(&refused, 0, sizeof(refused))
    vector.iov_base = <void*> NOTHING
    vector.iov_len = REFUSED_SIZE
    refused.msg_name = name
    refused.msg_namelen = <socklen_t> name_size
    refused.msg_iov = &vector
    refused.msg_iovlen = 1
    refused.msg_control = control
    refused.msg_controllen = used + CMSG_SPACE(sizeof(segment))
    if sendmsg(fd, &refused, MSG_DONTWAIT) >= 0:
        return -1
    return errno == EINVAL


cdef bint refuses_segments(int discard_fd) noexcept nogil:
    """Whether this kernel refuses too many segments, which `warm_route` relies on."""
    cdef uint8_t control[CONTROL_CAPACITY]
    return send_refused(discard_fd, NULL, 0, control, 0) == 1


cdef int warm_route(BatchIO* io, int fd, int message) noexcept nogil:
    """Warm the route of a reply to datagram `message`, without sending: as `send_refused`. Only where `refuses_segments`."""
    cdef uint8_t control[CONTROL_CAPACITY]
    cdef size_t used = put_source(control, io.views[message].local, io.views[message].local_size)
    return send_refused(fd, &io.names[message], io.views[message].remote_size, control, used)


def warm(int discard_fd):
    """Warm the kernel's transmit path before a send that counts. discard_fd: a socket whose datagrams nobody reads."""
    with nogil:
        warm_transmit_path(discard_fd)


@cython.final
cdef class ReceiveBatch:
    """Receives batches of up to 64 datagrams, always into the same buffers."""

    cdef BatchIO* io
    cdef readonly unsigned long long truncated

    def __cinit__(self):
        self.io = io_new()
        if self.io == NULL:
            raise MemoryError()

    def __dealloc__(self):
        io_free(self.io)

    def receive(self, int fd):
        """The datagrams that wait at the socket, at most 64, without blocking.

        A list of (data, remote, local, received_ns, kernel): remote a packed socket address (empty when the socket is connected
        and the kernel gives none), local the packed address that the datagram was sent to (empty where unknown), received_ns Unix
        time in ns, kernel whether the kernel took that time (else it was read after the call). Raises OSError, also for an ICMP
        error of a connected socket. An empty list: nothing waits.
        """
        cdef int count, i
        cdef int error = 0
        with nogil:
            count = io_receive(self.io, fd, C_BATCH, &error)
        if count < 0:
            if error == EAGAIN or error == EINTR:
                return []
            raise OSError(error, "recvmmsg failed")
        out = []
        for i in range(count):
            item = io_item(self.io, i)
            if item is None:
                self.truncated += 1
            else:
                out.append(item)
        return out


cdef size_t put_source(uint8_t* control, const uint8_t* local, size_t size) noexcept nogil:
    """Write the source address as a control message; its size, 0 for an address of another size than an IPv4 or IPv6 one."""
    cdef cmsghdr* header = <cmsghdr*> control
    cdef in_pktinfo v4
    if size == sizeof(in_addr):
        memset(&v4, 0, sizeof(v4))
        memcpy(&v4.ipi_spec_dst, local, sizeof(in_addr))
        header.cmsg_level = IPPROTO_IP
        header.cmsg_type = IP_PKTINFO
        header.cmsg_len = CMSG_LEN(sizeof(v4))
        memcpy(CMSG_DATA(header), &v4, sizeof(v4))
        return CMSG_SPACE(sizeof(v4))
    if size == sizeof(in6_pktinfo):
        header.cmsg_level = IPPROTO_IPV6
        header.cmsg_type = IPV6_PKTINFO
        header.cmsg_len = CMSG_LEN(sizeof(in6_pktinfo))
        memcpy(CMSG_DATA(header), local, sizeof(in6_pktinfo))
        return CMSG_SPACE(sizeof(in6_pktinfo))
    return 0


cdef size_t put_stamp_request(uint8_t* control) noexcept nogil:
    cdef cmsghdr* header = <cmsghdr*> control
    cdef uint32_t flags = SOF_TIMESTAMPING_TX_SOFTWARE
    header.cmsg_level = SOL_SOCKET
    header.cmsg_type = SO_TIMESTAMPING
    header.cmsg_len = CMSG_LEN(sizeof(flags))
    memcpy(CMSG_DATA(header), &flags, sizeof(flags))
    return CMSG_SPACE(sizeof(flags))


def send(int fd, list datagrams not None, bint stamp=False):
    """Send (data, remote, local) in order with one sendmmsg; (how many were sent, clock just before the call in Unix ns).

    remote: packed socket address, or b"" on a connected socket. local: packed address to send from, or b"". At most 64 in a call.
    stamp: request a transmit timestamp for each datagram (`transmit_times`), after `enable_transmit_timestamps`. A full send buffer
    is no error: fewer are sent. Raises OSError when the first cannot be sent for another reason.
    """
    cdef mmsghdr messages[C_BATCH]
    cdef iovec vectors[C_BATCH]
    cdef uint8_t control[C_BATCH][CONTROL_CAPACITY]
    cdef int count = 0
    cdef int sent
    cdef int64_t before
    cdef size_t used
    cdef bytes data, remote, local
    if len(datagrams) > C_BATCH:
        raise ConfigError(f"{len(datagrams)} datagrams in one call", expected=f"at most {C_BATCH}")
    memset(messages, 0, sizeof(messages))
    # The list keeps the bytes alive that the vectors point to.
    for data, remote, local in datagrams:
        if data is None or remote is None or local is None:
            raise ConfigError("None as data or address", expected="bytes")
        memset(control[count], 0, CONTROL_CAPACITY)
        vectors[count].iov_base = PyBytes_AS_STRING(data)
        vectors[count].iov_len = PyBytes_GET_SIZE(data)
        messages[count].msg_hdr.msg_iov = &vectors[count]
        messages[count].msg_hdr.msg_iovlen = 1
        if PyBytes_GET_SIZE(remote):
            messages[count].msg_hdr.msg_name = PyBytes_AS_STRING(remote)
            messages[count].msg_hdr.msg_namelen = <socklen_t> PyBytes_GET_SIZE(remote)
        used = put_source(control[count], <const uint8_t*> PyBytes_AS_STRING(local), PyBytes_GET_SIZE(local))
        if stamp:
            used += put_stamp_request(control[count] + used)
        if used:
            messages[count].msg_hdr.msg_control = control[count]
            messages[count].msg_hdr.msg_controllen = used
        count += 1
    with nogil:
        before = realtime_ns()
        sent = sendmmsg(fd, messages, count, MSG_DONTWAIT) if count else 0
    if sent < 0:
        if errno == EAGAIN or errno == ENOBUFS or errno == EINTR:
            return 0, before
        raise OSError(errno, "sendmmsg failed")
    return sent, before


cdef bint read_transmit_stamp(msghdr* message, TransmitStamp* out) noexcept nogil:
    """Read one entry of the error queue; false for one that is no transmit timestamp."""
    cdef cmsghdr* header = CMSG_FIRSTHDR(message)
    cdef timespec stamp
    cdef sock_extended_err extended
    cdef bint have_stamp = False, have_id = False
    while header != NULL:
        if header.cmsg_level == SOL_SOCKET and header.cmsg_type == SCM_TIMESTAMPING:
            if header.cmsg_len >= CMSG_LEN(sizeof(stamp)):
                memcpy(&stamp, CMSG_DATA(header), sizeof(stamp))
                have_stamp = stamp.tv_sec != 0 or stamp.tv_nsec != 0
        elif (header.cmsg_level == IPPROTO_IP and header.cmsg_type == IP_RECVERR) or (
            header.cmsg_level == IPPROTO_IPV6 and header.cmsg_type == IPV6_RECVERR
        ):
            if header.cmsg_len >= CMSG_LEN(sizeof(extended)):
                memcpy(&extended, CMSG_DATA(header), sizeof(extended))
                have_id = extended.ee_origin == SO_EE_ORIGIN_TIMESTAMPING
        header = CMSG_NXTHDR(message, header)
    if have_stamp and have_id:
        out.id = extended.ee_data
        out.at_ns = <int64_t> stamp.tv_sec * C_NS_PER_S + stamp.tv_nsec
        return True
    return False


cdef int read_transmit_stamps(int fd, TransmitStamp* out, int most) noexcept nogil:
    """Read at most 64 entries of the error queue, without blocking; how many transmit timestamps it had, or -1 for an error."""
    cdef mmsghdr messages[C_BATCH]
    cdef uint8_t control[C_BATCH][CONTROL_CAPACITY]
    cdef int count, i
    cdef int found = 0
    memset(messages, 0, sizeof(messages))
    for i in range(C_BATCH):
        messages[i].msg_hdr.msg_control = control[i]
        messages[i].msg_hdr.msg_controllen = CONTROL_CAPACITY
    count = recvmmsg(fd, messages, most if most < C_BATCH else C_BATCH, MSG_ERRQUEUE | MSG_DONTWAIT, NULL)
    if count < 0:
        return 0 if errno == EAGAIN or errno == EINTR else -1
    for i in range(count):
        found += read_transmit_stamp(&messages[i].msg_hdr, &out[found])
    return found


def transmit_times(int fd):
    """Empty the error queue without blocking; its transmit timestamps as a list of (id, at_ns).

    id counts the datagrams that were sent with `stamp` on this socket, from 0 and modulo 2^32. at_ns: the kernel's software
    timestamp, Unix time in ns.
    """
    cdef TransmitStamp stamps[C_BATCH]
    cdef int count, i
    out = []
    while True:
        with nogil:
            count = read_transmit_stamps(fd, stamps, C_BATCH)
        if count < 0:
            raise OSError(errno, "recvmmsg of the error queue failed")
        for i in range(count):
            out.append((stamps[i].id, stamps[i].at_ns))
        if count < C_BATCH:
            return out
