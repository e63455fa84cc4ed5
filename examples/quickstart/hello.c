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
#include <sys/time.h>
#include <unistd.h>

static void leave(int signal)
{
    (void)signal;
    _exit(0);
}

static int bound(int type, int port)
{
    struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = INADDR_ANY };
    int one = 1, fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&any, sizeof any) != 0)
        return -1;
    return fd;
}

/* Reads to the blank line that ends a request: closing with some of it unread would reset the connection. */
static int whole_request(int fd)
{
    char request[4096];
    size_t have = 0;
    while (have < sizeof request) {
        ssize_t n = read(fd, request + have, sizeof request - have);
        if (n <= 0)
            return 0;
        have += n;
        if (memmem(request, have, "\r\n\r\n", 4) || memmem(request, have, "\n\n", 2))
            return 1;
    }
    return 0;
}

static void answer_tcp(int listener, const char *host, unsigned long count)
{
    char page[512], answer[1024];
    struct timeval patience = { .tv_sec = 2 };
    int fd = accept(listener, NULL, NULL);
    if (fd < 0)
        return;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (whole_request(fd)) {
        int length = snprintf(page, sizeof page, "hello from %s\npid %d\nrequest %lu\n", host, (int)getpid(), count);
        int n = snprintf(answer, sizeof answer,
                         "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
                         length, page);
        if (write(fd, answer, n) != n)
            fprintf(stderr, "hello: answer cut short: %s\n", strerror(errno));
    }
    close(fd);
}

static void answer_udp(int fd, const char *host, unsigned long count)
{
    char text[1500];
    struct sockaddr_in from;
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
    struct pollfd fds[2] = { { .fd = bound(SOCK_STREAM, port), .events = POLLIN },
                             { .fd = bound(SOCK_DGRAM, port), .events = POLLIN } };
    if (fds[0].fd < 0 || fds[1].fd < 0 || listen(fds[0].fd, 128) != 0) {
        fprintf(stderr, "hello: cannot listen on port %d: %s\n", port, strerror(errno));
        return 1;
    }
    printf("hello: listening on port %d\n", port);
    fflush(stdout);
    for (;;) {
        if (poll(fds, 2, -1) < 0)
            continue;
        if (fds[0].revents)
            answer_tcp(fds[0].fd, host, ++count);
        if (fds[1].revents)
            answer_udp(fds[1].fd, host, ++count);
    }
}
