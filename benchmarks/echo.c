/* A UDP echo: the least work of a server that answers each datagram with one of its own.
 *
 *     echo BATCH
 *
 * recvmmsg and sendmmsg of at most BATCH datagrams, receive times on (SO_TIMESTAMPNS), receive buffer 4 MiB, loopback, one thread.
 * Prints its port. Ends with its parent, and after ten minutes in any case.
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
#include <unistd.h>

enum { MOST = 64, SIZE = 2048, CONTROL = 64 };

static struct mmsghdr messages[MOST];
static struct iovec vectors[MOST];
static struct sockaddr_in names[MOST];
static unsigned char data[MOST][SIZE], control[MOST][CONTROL];

int main(int count, char **arguments)
{
    int batch = count > 1 ? atoi(arguments[1]) : 32;
    int fd = socket(AF_INET, SOCK_DGRAM, 0), on = 1, size = 1 << 22;
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof here;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(600);
    if (batch < 1 || batch > MOST || fd < 0 || bind(fd, (struct sockaddr *) &here, length))
        return 1;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size))
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on) || getsockname(fd, (struct sockaddr *) &here, &length))
        return 1;
    printf("%d\n", ntohs(here.sin_port));
    fflush(stdout);
    for (;;) {
        int came, sent, i;
        for (i = 0; i < batch; i++) {
            vectors[i] = (struct iovec) {data[i], SIZE};
            messages[i].msg_hdr = (struct msghdr) {
                .msg_name = &names[i], .msg_namelen = sizeof names[i], .msg_iov = &vectors[i], .msg_iovlen = 1,
                .msg_control = control[i], .msg_controllen = CONTROL,
            };
        }
        came = recvmmsg(fd, messages, batch, MSG_WAITFORONE, NULL);
        for (i = 0; i < came; i++) {
            vectors[i].iov_len = messages[i].msg_len;
            messages[i].msg_hdr.msg_control = NULL;
            messages[i].msg_hdr.msg_controllen = 0;
        }
        for (sent = 0; sent < came;) {
            int went = sendmmsg(fd, messages + sent, came - sent, 0);
            sent += went > 0 ? went : 1;
        }
    }
}
