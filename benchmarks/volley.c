/* A load for UDP servers that answer each datagram with one: the same datagram again and again, so many of them under way.
 *
 *     volley PORT FLIGHT SECONDS HEX
 *
 * To loopback only, in batches of at most 64, one socket, one thread; like the load of TSQ's data plane but for the cryptography.
 * Prints: datagrams sent, answers, seconds, its own CPU seconds, the first answer's size. Answers that stay out 20 ms are lost.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, SIZE = 2048 };

static struct mmsghdr out[BATCH], in[BATCH];
static struct iovec out_vectors[BATCH], in_vectors[BATCH];
static unsigned char request[SIZE], answers[BATCH][SIZE];

static double now(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

int main(int count, char **arguments)
{
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_DGRAM, 0), buffer = 1 << 22, i;
    long flight, under_way = 0, sent = 0, answered = 0;
    unsigned answer_size = 0;
    size_t size;
    double seconds, start, progress, time;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (count != 5)
        return 2;
    there.sin_port = htons(atoi(arguments[1]));
    flight = atol(arguments[2]);
    seconds = atof(arguments[3]);
    size = strlen(arguments[4]) / 2;
    if (flight < 1 || seconds <= 0 || seconds > 60 || size < 1 || size > SIZE)
        return 2;
    for (i = 0; i < (int) size; i++)
        sscanf(arguments[4] + 2 * i, "%2hhx", &request[i]);
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer))
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    if (fd < 0 || connect(fd, (struct sockaddr *) &there, sizeof there))
        return 1;
    for (i = 0; i < BATCH; i++) {
        out_vectors[i] = (struct iovec) {request, size};
        in_vectors[i] = (struct iovec) {answers[i], SIZE};
        out[i].msg_hdr.msg_iov = &out_vectors[i];
        in[i].msg_hdr.msg_iov = &in_vectors[i];
        out[i].msg_hdr.msg_iovlen = in[i].msg_hdr.msg_iovlen = 1;
    }
    start = progress = time = now(CLOCK_MONOTONIC);
    while (time - start < seconds) {
        long wanted = flight - under_way;
        int went = 0, came;
        if (wanted > 0 && (went = sendmmsg(fd, out, wanted < BATCH ? wanted : BATCH, MSG_DONTWAIT)) > 0) {
            sent += went;
            under_way += went;
        }
        came = recvmmsg(fd, in, BATCH, MSG_DONTWAIT, NULL);
        time = now(CLOCK_MONOTONIC);
        if (came > 0) {
            answered += came;
            under_way -= came < under_way ? came : under_way;
            answer_size = in[0].msg_len;
            progress = time;
        } else if (time - progress > 0.02) {
            under_way = 0;
            progress = time;
        }
    }
    printf("%ld %ld %.6f %.6f %u\n", sent, answered, time - start, now(CLOCK_PROCESS_CPUTIME_ID), answer_size);
    return 0;
}
