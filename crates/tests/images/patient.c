/*
 * A server that loses nobody: HTTP/1.1 with connections that are kept, and UDP, both saying which version answers. On
 * SIGTERM it ends as servers should: it greets nobody new, answers what was begun with "Connection: close", closes what
 * stays silent, and leaves when nobody is left.
 *
 *   VERSION   what it calls itself
 *   READY_MS  `/health` is 503 for so long; below 0: for ever
 *   LAST      a line it writes at its start
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST 512
/* Milliseconds that a kept connection may stay silent once the end was asked for. */
#define SILENCE 1000

struct peer {
    int fd;
    /* Everything was said: it is kept until the other side has heard that, and closes. */
    int done;
    size_t have;
    char request[4096];
};

static struct peer peers[MOST];
static int count;
static volatile sig_atomic_t asked_to_end;
/* As of this round: what is decided in one is decided alike. */
static int ending;
static const char *version;
static long ready_at;

static void end(int signal)
{
    (void)signal;
    asked_to_end = 1;
}

static long now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000 + at.tv_nsec / 1000000;
}

static int bound(int type)
{
    struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = htons(80), .sin6_addr = in6addr_any };
    int one = 1, none = 0, fd = socket(AF_INET6, type | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &none, sizeof none);
    if (fd < 0 || bind(fd, (struct sockaddr *)&any, sizeof any) != 0) {
        perror("patient: port 80");
        exit(1);
    }
    return fd;
}

static int answer(struct peer *p)
{
    char text[512];
    int close_it = ending || strcasestr(p->request, "Connection: close") != NULL;
    int asked = strncmp(p->request, "GET /health", 11) == 0;
    int well = !asked || (ready_at >= 0 && now() >= ready_at);
    char body[128];
    int length = snprintf(body, sizeof body, "version %s\n", version);
    int n = snprintf(text, sizeof text, "HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n%s",
                     well ? "200 OK" : "503 Not Yet", length, close_it ? "close" : "keep-alive", body);
    if (write(p->fd, text, n) != n)
        close_it = 1;
    p->have = 0;
    if (close_it) {
        p->done = 1;
        shutdown(p->fd, SHUT_WR);
    }
    return 0;
}

/* Whether its connection is over. */
static int hear(struct peer *p)
{
    ssize_t n = read(p->fd, p->request + p->have, sizeof p->request - 1 - p->have);
    if (n <= 0)
        return 1;
    if (p->done)
        return 0;
    p->have += n;
    p->request[p->have] = 0;
    if (strstr(p->request, "\r\n\r\n"))
        return answer(p);
    return p->have == sizeof p->request - 1;
}

static void echo(int fd)
{
    char heard[1400], text[1500];
    struct sockaddr_storage from;
    socklen_t size = sizeof from;
    ssize_t n = recvfrom(fd, heard, sizeof heard - 1, 0, (struct sockaddr *)&from, &size);
    if (n < 0)
        return;
    heard[n] = 0;
    n = snprintf(text, sizeof text, "%s from version %s", heard, version);
    sendto(fd, text, n, 0, (struct sockaddr *)&from, size);
}

int main(void)
{
    const char *wait = getenv("READY_MS"), *last = getenv("LAST");
    long ready = wait ? atol(wait) : 0, silent_at = 0;
    version = getenv("VERSION") ? getenv("VERSION") : "none";
    ready_at = ready < 0 ? -1 : now() + ready;
    struct sigaction on_end = { .sa_handler = end };
    sigaction(SIGTERM, &on_end, NULL);
    signal(SIGPIPE, SIG_IGN);
    int tcp = bound(SOCK_STREAM), udp = bound(SOCK_DGRAM);
    if (listen(tcp, 1024) != 0)
        return 1;
    printf("patient: version %s is there\n", version);
    if (last)
        printf("%s\n", last);
    fflush(stdout);
    for (;;) {
        ending = asked_to_end;
        if (ending && count == 0 && tcp < 0)
            return 0;
        struct pollfd fds[2 + MOST] = { { .fd = tcp, .events = POLLIN }, { .fd = udp, .events = POLLIN } };
        if (ending && tcp >= 0) {
            close(tcp);
            tcp = -1;
            silent_at = now() + SILENCE;
        }
        fds[0].fd = count < MOST ? tcp : -1;
        for (int i = 0; i < count; i++)
            fds[2 + i] = (struct pollfd) { .fd = peers[i].fd, .events = POLLIN };
        int polled = count;
        if (poll(fds, 2 + polled, 20) < 0)
            continue;
        for (int i = polled - 1; i >= 0; i--) {
            int over = fds[2 + i].revents ? hear(&peers[i]) : ending && now() > silent_at;
            if (over) {
                close(peers[i].fd);
                peers[i] = peers[--count];
            }
        }
        if (fds[0].fd >= 0 && fds[0].revents) {
            int fd = accept4(tcp, NULL, NULL, SOCK_CLOEXEC);
            if (fd >= 0)
                peers[count++] = (struct peer) { .fd = fd };
        }
        if (fds[1].revents)
            echo(udp);
    }
}
