/* A load for UDP servers that answer each datagram with one: prepared datagrams in turn, so many of them under way.
 *
 *     volley PORT FLIGHT SECONDS CLIENTS < datagrams, one in a line, as hex
 *
 * To loopback only, in batches of at most 64, one socket, one thread; like the load of TSQ's data plane but for the cryptography.
 * With more than one client the datagrams come from as many addresses in 127.0.0.0/8, in turn.
 * Prints: datagrams sent, answers, seconds, its own CPU seconds, the last answer's size; and where FLIGHT is 1, in a second line,
 * the first 4096 delays in ns. Answers that stay out 20 ms are lost.
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

enum { BATCH = 64, SIZE = 2048, POOL = 1024, DELAYS = 4096 };

union source {
    struct cmsghdr header;
    unsigned char room[CMSG_SPACE(sizeof(struct in_pktinfo))];
};

static struct mmsghdr out[BATCH], in[BATCH];
static struct iovec out_vectors[BATCH], in_vectors[BATCH];
static unsigned char requests[POOL][SIZE], answers[BATCH][SIZE];
static size_t sizes[POOL];
static union source sources[BATCH];
static double delays[DELAYS];
static char line[2 * SIZE + 2];

static double now(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

/* The datagrams to send; how many. */
static int read_requests(void)
{
    int pool = 0;
    while (pool < POOL && fgets(line, sizeof line, stdin)) {
        size_t i;
        sizes[pool] = strcspn(line, "\n") / 2;
        for (i = 0; i < sizes[pool]; i++)
            sscanf(line + 2 * i, "%2hhx", &requests[pool][i]);
        pool += sizes[pool] > 0;
    }
    return pool;
}

/* A datagram's sender: 127.x.y.z of this client. */
static void from_client(union source *source, long client)
{
    struct in_pktinfo info = {.ipi_spec_dst = {htonl(INADDR_LOOPBACK + 256 + (client / 250) * 256 + client % 250)}};
    source->header.cmsg_level = IPPROTO_IP;
    source->header.cmsg_type = IP_PKTINFO;
    source->header.cmsg_len = CMSG_LEN(sizeof info);
    memcpy(CMSG_DATA(&source->header), &info, sizeof info);
}

int main(int count, char **arguments)
{
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_DGRAM, 0), buffer = 1 << 22, i, pool, next = 0;
    long flight, clients, client = 0, under_way = 0, sent = 0, answered = 0;
    unsigned answer_size = 0;
    double seconds, start, progress, time, asked = 0;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (count != 5)
        return 2;
    there.sin_port = htons(atoi(arguments[1]));
    flight = atol(arguments[2]);
    seconds = atof(arguments[3]);
    clients = atol(arguments[4]);
    pool = read_requests();
    if (flight < 1 || seconds <= 0 || seconds > 60 || clients < 1 || clients > 2000000 || pool < 1)
        return 2;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer))
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    if (fd < 0 || (clients == 1 && connect(fd, (struct sockaddr *) &there, sizeof there)))
        return 1;
    for (i = 0; i < BATCH; i++) {
        if (clients > 1) {
            out[i].msg_hdr.msg_name = &there;
            out[i].msg_hdr.msg_namelen = sizeof there;
            out[i].msg_hdr.msg_control = &sources[i];
            out[i].msg_hdr.msg_controllen = sizeof sources[i];
        }
        in_vectors[i] = (struct iovec) {answers[i], SIZE};
        out[i].msg_hdr.msg_iov = &out_vectors[i];
        in[i].msg_hdr.msg_iov = &in_vectors[i];
        out[i].msg_hdr.msg_iovlen = in[i].msg_hdr.msg_iovlen = 1;
    }
    start = progress = time = now(CLOCK_MONOTONIC);
    while (time - start < seconds) {
        long wanted = flight - under_way < BATCH ? flight - under_way : BATCH;
        int went = 0, came;
        for (i = 0; i < wanted; i++) {
            out_vectors[i] = (struct iovec) {requests[(next + i) % pool], sizes[(next + i) % pool]};
            if (clients > 1)
                from_client(&sources[i], (client + i) % clients);
        }
        if (wanted > 0)
            asked = time;
        if (wanted > 0 && (went = sendmmsg(fd, out, wanted, MSG_DONTWAIT)) > 0) {
            sent += went;
            under_way += went;
            next = (next + went) % pool;
            client = (client + went) % clients;
        }
        came = recvmmsg(fd, in, BATCH, MSG_DONTWAIT, NULL);
        time = now(CLOCK_MONOTONIC);
        if (came > 0) {
            if (flight == 1 && answered < DELAYS)
                delays[answered] = time - asked;
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
    for (i = 0; flight == 1 && i < answered && i < DELAYS; i++)
        printf("%.0f ", delays[i] * 1e9);
    return 0;
}
