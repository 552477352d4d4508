/* tsq_now.h: bounded time from a running tsqd, for C and C++ on Linux. One file, no library.
 *
 *     struct tsq_now_reader reader = TSQ_NOW_READER;
 *     struct tsq_now now;
 *     int error = tsq_now(&reader, &now);
 *     if (error) fprintf(stderr, "%s\n", tsq_now_error(error));
 *     else use(now.earliest_ns, now.latest_ns, now.status);
 *
 * The true time is between earliest_ns and latest_ns (nanoseconds since 1970), in each status. A call reads shared memory and four
 * clocks of the vDSO: about 0.1 microseconds, no system call, except for the first call and after a restart of tsqd.
 * A reader is for one thread. Layout: docs/reference/now-segment.md. GCC or Clang; with -std=c99, also define _GNU_SOURCE.
 */
#ifndef TSQ_NOW_H
#define TSQ_NOW_H

#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TSQ_NOW_DEFAULT_PATH "/run/tsq/now"

enum tsq_now_status {
    TSQ_UNSYNCHRONIZED = 0, /* the time is not known: the interval has no limits */
    TSQ_SYNCHRONIZED = 1,
    TSQ_HOLDOVER = 2,  /* no source is usable at present, or tsqd does not run: the interval grows */
    TSQ_FROZEN = 3,    /* tsqd does not touch the system clock; the interval is right */
    TSQ_DISRUPTED = 4, /* the machine slept or its clock was stepped: no limits until the next update */
};

struct tsq_now {
    int64_t earliest_ns;
    int64_t latest_ns;
    enum tsq_now_status status;
};

/* path: NULL for the default one. */
struct tsq_now_reader {
    const char *path;
    const unsigned char *memory;
};

#define TSQ_NOW_READER { 0, 0 }

enum tsq_now_failure {
    TSQ_NOW_NO_FILE = 1, /* errno has the reason */
    TSQ_NOW_FOREIGN = 2,
    TSQ_NOW_VERSION = 3,
    TSQ_NOW_STALE = 4,
};

enum {
    TSQ_NOW_SIZE_ = 384,
    TSQ_NOW_SEQUENCE_AT_ = 16,
    TSQ_NOW_ENDED_AT_ = 24,
    TSQ_NOW_SLOTS_AT_ = 128,
    TSQ_NOW_SLOT_SIZE_ = 128,
    TSQ_NOW_WORDS_ = 9,
};

/* What an error means, for a person. */
static inline const char *tsq_now_error(int error)
{
    switch (error) {
    case 0: return "no error";
    case TSQ_NOW_NO_FILE: return "the segment of tsqd cannot be opened: is tsqd running?";
    case TSQ_NOW_FOREIGN: return "the file is not a segment of tsqd";
    case TSQ_NOW_VERSION: return "the segment has another version than this program";
    default: return "tsqd has not updated the time for too long: is it running?";
    }
}

static inline void tsq_now_close(struct tsq_now_reader *reader)
{
    if (reader->memory)
        munmap((void *) reader->memory, TSQ_NOW_SIZE_);
    reader->memory = 0;
}

static inline int tsq_now_map_(struct tsq_now_reader *reader, int fd)
{
    unsigned char header[16];
    struct stat status;
    uint32_t size;
    uint16_t version;
    void *memory;
    if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode) || pread(fd, header, sizeof header, 0) != (ssize_t) sizeof header
        || memcmp(header, "TSQ-NOW", 8) != 0)
        return TSQ_NOW_FOREIGN;
    memcpy(&size, header + 8, sizeof size);
    memcpy(&version, header + 12, sizeof version);
    if (version != 1)
        return TSQ_NOW_VERSION;
    if (size < TSQ_NOW_SIZE_ || status.st_size < (off_t) size)
        return TSQ_NOW_FOREIGN;
    memory = mmap(0, TSQ_NOW_SIZE_, PROT_READ, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return TSQ_NOW_NO_FILE;
    reader->memory = (const unsigned char *) memory;
    return 0;
}

static inline int tsq_now_open_(struct tsq_now_reader *reader)
{
    int error, fd = open(reader->path ? reader->path : TSQ_NOW_DEFAULT_PATH, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    tsq_now_close(reader);
    if (fd < 0)
        return TSQ_NOW_NO_FILE;
    error = tsq_now_map_(reader, fd);
    close(fd);
    return error;
}

static inline int64_t tsq_now_clock_(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t) now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline double tsq_now_double_(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The writer changes the slot that readers do not use: there is always a whole one. */
static inline int tsq_now_slot_(const unsigned char *memory, uint64_t *words)
{
    const uint64_t *sequence = (const uint64_t *) (const void *) (memory + TSQ_NOW_SEQUENCE_AT_);
    for (int attempt = 0; attempt < 1000; attempt++) {
        uint64_t number = __atomic_load_n(sequence, __ATOMIC_ACQUIRE);
        const unsigned char *slot = memory + TSQ_NOW_SLOTS_AT_ + (number & 1) * TSQ_NOW_SLOT_SIZE_;
        for (int i = 0; i < TSQ_NOW_WORDS_; i++)
            words[i] = __atomic_load_n((const uint64_t *) (const void *) (slot + 8 * i), __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (__atomic_load_n(sequence, __ATOMIC_RELAXED) == number)
            return words[0] != 0;
    }
    return 0;
}

static inline int tsq_now_differs_(int64_t one, int64_t other)
{
    int64_t difference = one - other;
    return difference <= -1000000 || difference >= 1000000;
}

/* 0, or nothing is there: the caller opens the file again. */
static inline int tsq_now_read_(const unsigned char *memory, struct tsq_now *out)
{
    uint64_t words[TSQ_NOW_WORDS_];
    int64_t began, real, boot, monotonic, raw, elapsed, middle, grown;
    uint32_t status;
    if (__atomic_load_n((const uint32_t *) (const void *) (memory + TSQ_NOW_ENDED_AT_), __ATOMIC_RELAXED)
        || !tsq_now_slot_(memory, words))
        return TSQ_NOW_STALE;
    /* Again if this thread was interrupted between two clocks. The raw clock is read last: the result holds on return. */
    for (int attempt = 0; attempt < 4; attempt++) {
        began = tsq_now_clock_(CLOCK_MONOTONIC);
        real = tsq_now_clock_(CLOCK_REALTIME);
        boot = tsq_now_clock_(CLOCK_BOOTTIME);
        monotonic = tsq_now_clock_(CLOCK_MONOTONIC);
        raw = tsq_now_clock_(CLOCK_MONOTONIC_RAW);
        if (monotonic - began <= 1000)
            break;
    }
    if (raw > (int64_t) words[5])
        return TSQ_NOW_STALE;
    elapsed = raw - (int64_t) words[0];
    status = (uint32_t) words[8];
    if (status > TSQ_DISRUPTED || status == TSQ_UNSYNCHRONIZED)
        return 0;
    out->status = TSQ_DISRUPTED;
    if (status == TSQ_DISRUPTED || elapsed <= -1000000 || elapsed >= INT64_MAX / 8
        || tsq_now_differs_(real - monotonic, (int64_t) words[6]) || tsq_now_differs_(boot - monotonic, (int64_t) words[7]))
        return 0;
    if (elapsed < 0)
        elapsed = 0;
    middle = elapsed + (int64_t) ((double) elapsed * tsq_now_double_(words[3]));
    grown = (int64_t) ((double) elapsed * tsq_now_double_(words[4])) + 2;
    out->earliest_ns = (int64_t) words[1] + middle - grown;
    out->latest_ns = (int64_t) words[2] + middle + grown;
    out->status = (enum tsq_now_status) status;
    /* 16 s without an update: nobody keeps the clock at present. */
    if (status == TSQ_SYNCHRONIZED && elapsed > INT64_C(16000000000))
        out->status = TSQ_HOLDOVER;
    return 0;
}

/* The interval that contains the true time at this moment: 0, or one of enum tsq_now_failure, with an interval without limits. */
static inline int tsq_now(struct tsq_now_reader *reader, struct tsq_now *out)
{
    int error = 0;
    out->earliest_ns = INT64_MIN;
    out->latest_ns = INT64_MAX;
    out->status = TSQ_UNSYNCHRONIZED;
    if (reader->memory && tsq_now_read_(reader->memory, out) == 0)
        return 0;
    /* A tsqd that starts may replace the file while it is opened. */
    for (int attempt = 0; attempt < 3; attempt++) {
        error = tsq_now_open_(reader);
        if (error)
            return error;
        error = tsq_now_read_(reader->memory, out);
        if (!error)
            return 0;
    }
    return error;
}

#endif
