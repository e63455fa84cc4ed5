/*
 * The quickstart's program: answers HTTP with a page that tells which machine, which process and how often, and UDP
 * with the same in one line. Static, so that it is a whole image by itself.
 *
 *   hello [PORT]      PORT is 80 unless given
 *
 * As pid 1 of a container the kernel's default action of SIGTERM does not apply: the handler ends it at once.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Connections at a time, and seconds that a request may take to come. */
#define MOST 256
#define PATIENCE 2

static void leave(int signal)
{
    (void)signal;
    _exit(0);
}

/* On all addresses of both families; of IPv4 where the kernel has no IPv6. */
static int bound(int type, int port)
{
    struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = INADDR_ANY };
    struct sockaddr_in6 both = { .sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = in6addr_any };
    int one = 1, none = 0, fd = socket(AF_INET6, type | SOCK_CLOEXEC, 0), six = fd >= 0;
    if (!six)
        fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (six)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &none, sizeof none);
    if (bind(fd, six ? (struct sockaddr *)&both : (struct sockaddr *)&any, six ? sizeof both : sizeof any) != 0)
        return -1;
    return fd;
}

/* A connection whose request has not come whole. */
struct asking {
    int fd;
    size_t have;
    time_t since;
    char request[4096];
};

static struct asking asking[MOST];
static int waiting;

static void greet(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    asking[waiting].fd = fd;
    asking[waiting].have = 0;
    asking[waiting++].since = time(NULL);
}

/* 1: it has come whole, up to the blank line that ends it: closing with some of it unread would reset the connection.
   0: some of it is still to come. -1: it will not come. */
static int whole_request(struct asking *a)
{
    ssize_t n = read(a->fd, a->request + a->have, sizeof a->request - a->have);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return time(NULL) - a->since > PATIENCE ? -1 : 0;
    if (n <= 0)
        return -1;
    a->have += n;
    if (memmem(a->request, a->have, "\r\n\r\n", 4) || memmem(a->request, a->have, "\n\n", 2))
        return 1;
    return a->have < sizeof a->request ? 0 : -1;
}

static void answer_tcp(int fd, const char *host, unsigned long count)
{
    char page[512], answer[1024];
    int length = snprintf(page, sizeof page, "hello from %s\npid %d\nrequest %lu\n", host, (int)getpid(), count);
    int n = snprintf(answer, sizeof answer,
                     "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
                     length, page);
    if (write(fd, answer, n) != n)
        fprintf(stderr, "hello: answer cut short: %s\n", strerror(errno));
}

/* Goes on with every connection: one that says nothing keeps nobody waiting. */
static void serve(const char *host, unsigned long *count)
{
    for (int i = 0; i < waiting;) {
        int whole = whole_request(&asking[i]);
        if (whole == 0) {
            i++;
            continue;
        }
        if (whole > 0)
            answer_tcp(asking[i].fd, host, ++*count);
        close(asking[i].fd);
        asking[i] = asking[--waiting];
    }
}

static void answer_udp(int fd, const char *host, unsigned long count)
{
    char text[1500];
    struct sockaddr_storage from;
    socklen_t size = sizeof from;
    if (recvfrom(fd, text, sizeof text, 0, (struct sockaddr *)&from, &size) < 0)
        return;
    int n = snprintf(text, sizeof text, "hello from %s, pid %d, request %lu\n", host, (int)getpid(), count);
    sendto(fd, text, n, 0, (struct sockaddr *)&from, size);
}

int main(int argc, char **argv)
{
    int port = argc > 1 ? atoi(argv[1]) : 80;
    char host[256] = "";
    unsigned long count = 0;

    signal(SIGTERM, leave);
    signal(SIGINT, leave);
    signal(SIGPIPE, SIG_IGN);
    gethostname(host, sizeof host - 1);
    struct pollfd fds[2 + MOST] = { { .fd = bound(SOCK_STREAM, port), .events = POLLIN },
                                    { .fd = bound(SOCK_DGRAM, port), .events = POLLIN } };
    if (fds[0].fd < 0 || fds[1].fd < 0 || listen(fds[0].fd, 1024) != 0) {
        fprintf(stderr, "hello: cannot listen on port %d: %s\n", port, strerror(errno));
        return 1;
    }
    printf("hello: listening on port %d\n", port);
    fflush(stdout);
    for (;;) {
        for (int i = 0; i < waiting; i++)
            fds[2 + i] = (struct pollfd) { .fd = asking[i].fd, .events = POLLIN };
        fds[0].events = waiting < MOST ? POLLIN : 0;
        if (poll(fds, 2 + waiting, waiting ? 1000 : -1) < 0)
            continue;
        if (fds[0].revents)
            greet(fds[0].fd);
        serve(host, &count);
        if (fds[1].revents)
            answer_udp(fds[1].fd, host, ++count);
    }
}
