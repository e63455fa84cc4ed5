/* Measures how long connections take to be set up: one after the other, each ended at once.
 *
 *   connects ADDRESS FIRST LAST COUNT
 *
 * To ports from FIRST to LAST at random. Prints a JSON object; times are in microseconds, from connect(2) to its return. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Of a connection to that port, ns; the end is a reset, so that nothing of it stays. */
static uint64_t once(struct sockaddr_in *to) {
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset)) {
        perror("socket");
        exit(1);
    }
    uint64_t began = now();
    if (connect(fd, (struct sockaddr *)to, sizeof *to)) {
        fprintf(stderr, "port %d: %s\n", ntohs(to->sin_port), strerror(errno));
        exit(1);
    }
    uint64_t took = now() - began;
    close(fd);
    return took;
}

int main(int argc, char **argv) {
    struct sockaddr_in to = {.sin_family = AF_INET};
    if (argc != 5 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1) {
        fprintf(stderr, "usage: %s ADDRESS FIRST LAST COUNT\n", argv[0]);
        return 2;
    }
    unsigned first = (unsigned)atoi(argv[2]), last = (unsigned)atoi(argv[3]);
    size_t count = (size_t)atoi(argv[4]);
    uint64_t seed = 88172645463325252ull, *took = calloc(count, sizeof *took);
    if (!took || last < first || !count) return 2;
    for (size_t i = 0; i < count; i++) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        to.sin_port = htons((uint16_t)(first + (seed >> 11) % (last - first + 1)));
        took[i] = once(&to);
    }
    qsort(took, count, sizeof *took, ascending);
    printf("{\"count\": %zu, \"least\": %.2f, \"p50\": %.2f, \"p99\": %.2f}\n", count, (double)took[0] / 1e3,
           (double)took[count / 2] / 1e3, (double)took[count - 1 - count / 100] / 1e3);
    return 0;
}
