"""How much the server has to do, and whether newcomers must therefore show that they receive (Retry, RFC 9000 §8.1.2).

Comes in: events with their time, delays, a share of memory. Goes out: whether a bucket has something left, whether Retry is on. It
goes on as soon as one value reaches its border, and off when all are below half of theirs, so that it does not flutter. It must
never read a clock.
"""
from libc.math cimport exp


cdef enum:
    # Of eight delays, the last one counts as one.
    SMOOTHING = 8

# A delay that is older than so many seconds says nothing any more.
cdef double DELAY_FADES = 1.0
# Below this part of its border a value is low again; of memory, which changes slowly, it is this part.
cdef double LOW = 0.5
cdef double LOW_MEMORY = 0.9


cdef void bucket_set(Bucket* bucket, double rate, double burst) noexcept nogil:
    """Set its limits. What is left stays, within them."""
    bucket.level = burst if bucket.burst == 0 else min(bucket.level, burst)
    bucket.rate = rate
    bucket.burst = burst


cdef bint bucket_take(Bucket* bucket, double now) noexcept nogil:
    """Use one where there is one; whether there was."""
    if now > bucket.at:
        bucket.level = min(bucket.burst, bucket.level + (now - bucket.at) * bucket.rate)
    bucket.at = now
    if bucket.level < 1:
        return False
    bucket.level -= 1
    return True


cdef double recent_count(const Recent* recent, double now) noexcept nogil:
    if recent.count == 0 or now <= recent.at:
        return recent.count
    return recent.count * exp((recent.at - now) / recent.seconds)


cdef void recent_add(Recent* recent, double now) noexcept nogil:
    recent.count = min(recent_count(recent, now) + 1, recent.most)
    recent.at = now


cdef void note_delay(RetrySwitch* switch, double delay, double now) noexcept nogil:
    """Note how long a datagram waited. A clock that was stepped cannot make more than a second of it."""
    delay = min(max(delay, 0.0), 1.0)
    if now - switch.delay_at > DELAY_FADES:
        switch.delay = 0
    switch.delay += (delay - switch.delay) / SMOOTHING
    switch.delay_at = now


cdef bint retry_is_on(RetrySwitch* switch, int half_open, double now) noexcept nogil:
    cdef double load = half_open + recent_count(&switch.failed, now)
    cdef double arrivals = recent_count(&switch.arrivals, now)
    cdef double delay = switch.delay if now - switch.delay_at <= DELAY_FADES else 0
    if (
        load >= switch.most_load or arrivals >= switch.most_arrivals or delay >= switch.most_delay
        or switch.memory >= switch.most_memory
    ):
        switch.on = True
    elif (
        load < LOW * switch.most_load and arrivals < LOW * switch.most_arrivals and delay < LOW * switch.most_delay
        and switch.memory < LOW_MEMORY * switch.most_memory
    ):
        switch.on = False
    return switch.on
