/* Asks a name server for c0 … c(COUNT-1) at random and measures the answers: one thread, UDP, a socket for each source
 * address.
 *
 *   asker SERVER FIRST-SOURCE SOURCES COUNT SECONDS WINDOW RATE
 *
 * RATE 0: as fast as it goes with WINDOW questions on their way; else so many a second, each at its time whatever became
 * of those before. cN is at FIRST-SOURCE + N. Prints a JSON object; times are in microseconds. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 32
#define SLOTS 65536
/* A question without an answer for so long is lost, ns. */
#define LOST 1000000000ull

static uint64_t sent_at[SLOTS];
static uint32_t asked[SLOTS];
static uint32_t *latency;
static uint64_t answered, wrong, lost, sent, most;
static uint32_t first, count, outstanding;
static uint16_t next_slot;
static uint64_t seed = 88172645463325252ull;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static uint32_t any(uint32_t below) {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return (uint32_t)((seed >> 11) % below);
}

static size_t question(unsigned char *out, uint16_t id, uint32_t number) {
    char name[16];
    size_t length = (size_t)snprintf(name, sizeof name, "c%u", number);
    memcpy(out, "\0\0\1\0\0\1\0\0\0\0\0\0", 12);
    out[0] = (unsigned char)(id >> 8), out[1] = (unsigned char)id;
    out[12] = (unsigned char)length;
    memcpy(out + 13, name, length);
    memcpy(out + 13 + length, "\0\0\1\0\1", 5);
    return 18 + length;
}

/* Begins so many questions on a socket. */
static void ask(int fd, uint32_t wanted) {
    static unsigned char packets[BATCH][64];
    struct mmsghdr messages[BATCH];
    struct iovec vectors[BATCH];
    while (wanted) {
        uint32_t n = wanted < BATCH ? wanted : BATCH;
        uint64_t at = now();
        memset(messages, 0, sizeof messages);
        for (uint32_t i = 0; i < n; i++) {
            while (sent_at[next_slot]) next_slot++;
            asked[next_slot] = any(count);
            sent_at[next_slot] = at;
            vectors[i].iov_base = packets[i];
            vectors[i].iov_len = question(packets[i], next_slot, asked[next_slot]);
            next_slot++;
            messages[i].msg_hdr.msg_iov = &vectors[i];
            messages[i].msg_hdr.msg_iovlen = 1;
        }
        /* What the kernel does not take counts as lost later on. */
        sendmmsg(fd, messages, n, 0);
        sent += n, outstanding += n, wanted -= n;
    }
}

/* Takes what came on a socket; how many that were. */
static uint32_t hear(int fd) {
    static unsigned char packets[BATCH][512];
    struct mmsghdr messages[BATCH];
    struct iovec vectors[BATCH];
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < BATCH; i++) {
        vectors[i].iov_base = packets[i], vectors[i].iov_len = sizeof packets[i];
        messages[i].msg_hdr.msg_iov = &vectors[i], messages[i].msg_hdr.msg_iovlen = 1;
    }
    int n = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);
    uint64_t at = now();
    uint32_t taken = 0;
    for (int i = 0; i < n; i++) {
        unsigned char *p = packets[i];
        uint16_t slot = (uint16_t)(p[0] << 8 | p[1]);
        unsigned length = messages[i].msg_len;
        if (length < 16 || !sent_at[slot]) continue;
        uint32_t address;
        memcpy(&address, p + length - 4, 4);
        if ((p[3] & 15) || p[7] != 1 || ntohl(address) != first + asked[slot]) wrong++;
        if (answered < most) latency[answered] = (uint32_t)((at - sent_at[slot]) / 10);
        answered++, outstanding--, taken++;
        sent_at[slot] = 0;
    }
    return taken;
}

static uint32_t forget(uint64_t at) {
    uint32_t gone = 0;
    for (int i = 0; i < SLOTS; i++)
        if (sent_at[i] && at > sent_at[i] + LOST) sent_at[i] = 0, gone++;
    lost += gone, outstanding -= gone;
    return gone;
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static double share(double part) {
    uint64_t kept = answered < most ? answered : most;
    return kept ? latency[(uint64_t)(part * (double)(kept - 1))] / 100.0 : 0;
}

int main(int argc, char **argv) {
    if (argc != 8) return 2;
    uint32_t sources = (uint32_t)atoi(argv[3]), window = (uint32_t)atoi(argv[6]);
    double seconds = atof(argv[5]), rate = atof(argv[7]);
    first = ntohl(inet_addr(argv[2])), count = (uint32_t)atoi(argv[4]);
    most = 20000000, latency = malloc(most * sizeof *latency);
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = inet_addr(argv[1])};
    struct pollfd fds[64];
    if (!latency || !sources || sources > 64) return 2;
    for (uint32_t i = 0; i < sources; i++) {
        struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(first + i)};
        fds[i].fd = socket(AF_INET, SOCK_DGRAM, 0), fds[i].events = POLLIN;
        if (bind(fds[i].fd, (void *)&own, sizeof own) || connect(fds[i].fd, (void *)&server, sizeof server)) {
            perror("asker");
            return 1;
        }
    }
    uint64_t begun = now(), end = begun + (uint64_t)(seconds * 1e9), swept = begun, at = begun;
    if (rate == 0)
        for (uint32_t i = 0; i < sources; i++) ask(fds[i].fd, window / sources);
    for (uint32_t turn = 0; (at = now()) < end;) {
        uint32_t taken = 0;
        for (uint32_t i = 0; i < sources; i++) {
            uint32_t n = hear(fds[i].fd);
            if (n && rate == 0) ask(fds[i].fd, n);
            taken += n;
        }
        if (rate > 0) {
            uint64_t due = (uint64_t)((double)(now() - begun) / 1e9 * rate);
            for (; sent < due && outstanding < SLOTS / 2; turn++) ask(fds[turn % sources].fd, 1);
        }
        if (at > swept + LOST / 2) {
            uint32_t gone = forget(at);
            swept = at;
            if (rate == 0 && gone) ask(fds[turn++ % sources].fd, gone);
        }
        if (!taken && rate == 0) poll(fds, sources, 1);
    }
    double took = (double)(now() - begun) / 1e9;
    qsort(latency, answered < most ? answered : most, sizeof *latency, by_size);
    printf("{\"sent\": %lu, \"answered\": %lu, \"wrong\": %lu, \"lost\": %lu, \"seconds\": %.6f, \"p50\": %.2f, "
           "\"p99\": %.2f, \"p999\": %.2f, \"max\": %.2f}\n",
           sent, answered, wrong, lost, took, share(0.5), share(0.99), share(0.999), share(1));
    return 0;
}
