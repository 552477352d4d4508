"""C-level interface of tsq.dataplane.pressure, for the data plane."""


# Refilled at `rate` a second, up to `burst`.
cdef struct Bucket:
    double rate
    double burst
    double level
    double at


# A count of recent events, each of which counts less as it gets older; at most `most`.
cdef struct Recent:
    double seconds
    double most
    double count
    double at


# When Retry goes on and off. Each value has a higher border at which it goes on and a lower one below which it may go off.
cdef struct RetrySwitch:
    bint on
    # Unfinished handshakes and failed ones together; newcomers without a token.
    double most_load
    double most_arrivals
    double most_delay
    double most_memory
    Recent failed
    Recent arrivals
    # How long datagrams waited in the socket's queue (seconds, smoothed, and when that was last noted).
    double delay
    double delay_at
    # The used share of the memory that there is.
    double memory


cdef void bucket_set(Bucket* bucket, double rate, double burst) noexcept nogil
cdef bint bucket_take(Bucket* bucket, double now) noexcept nogil
cdef void recent_add(Recent* recent, double now) noexcept nogil
cdef double recent_count(const Recent* recent, double now) noexcept nogil
cdef void note_delay(RetrySwitch* switch, double delay, double now) noexcept nogil
cdef bint retry_is_on(RetrySwitch* switch, int half_open, double now) noexcept nogil
