/*
 * A web page in front of redis: every path is a key.
 *
 *   GET /KEY            its value, or 404
 *   PUT /KEY (a body)   sets it
 *   GET /               counts the visits
 *
 *   web [PORT]          PORT is 80 unless given; redis is the host "redis", port 6379
 *
 * One request at a time, and a connection to redis for each: where redis goes and comes back, so does the page.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { MOST = 64 << 10 };

static void leave(int signal)
{
    (void)signal;
    _exit(0);
}

static void patience(int fd)
{
    struct timeval limit = { .tv_sec = 2 };
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

/* A connection to redis, or -1 with the reason. The name is asked for each time: a new container may have another
 * address. */
static int redis(const char **why)
{
    struct addrinfo hints = { .ai_family = AF_INET, .ai_socktype = SOCK_STREAM }, *found;
    int error = getaddrinfo("redis", "6379", &hints, &found);
    if (error != 0) {
        *why = gai_strerror(error);
        return -1;
    }
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    patience(fd);
    if (connect(fd, found->ai_addr, found->ai_addrlen) != 0) {
        *why = strerror(errno);
        close(fd);
        fd = -1;
    }
    freeaddrinfo(found);
    return fd;
}

/* Sends a command as redis's protocol has it (an array of strings with their lengths) and gives back the reply: a
 * number, a string or a line. -1: there is none, *why says why; -2: there is no such key. */
static ssize_t ask(int count, const char *const words[], const size_t sizes[], char *reply, const char **why)
{
    static char buffer[MOST];
    int fd = redis(why);
    if (fd < 0)
        return -1;
    FILE *stream = fdopen(fd, "r+");
    fprintf(stream, "*%d\r\n", count);
    for (int i = 0; i < count; i++) {
        fprintf(stream, "$%zu\r\n", sizes[i]);
        fwrite(words[i], 1, sizes[i], stream);
        fputs("\r\n", stream);
    }
    ssize_t length = -1;
    *why = "it answered nothing that makes sense";
    fflush(stream);
    if (fgets(buffer, sizeof buffer, stream) != NULL) {
        size_t end = strcspn(buffer, "\r\n");
        if (buffer[0] == '$') {
            long size = strtol(buffer + 1, NULL, 10);
            if (size < 0)
                length = -2;
            else if (size < MOST && fread(reply, 1, size, stream) == (size_t)size)
                length = size;
        } else if (buffer[0] == ':' || buffer[0] == '+') {
            length = end - 1;
            memcpy(reply, buffer + 1, length);
        }
    }
    fclose(stream);
    return length;
}

static void answer(int fd, const char *status, const char *body, size_t size)
{
    dprintf(fd, "HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", status,
            size);
    if (write(fd, body, size) != (ssize_t)size)
        fprintf(stderr, "web: answer cut short: %s\n", strerror(errno));
}

static void say(int fd, const char *status, const char *text)
{
    answer(fd, status, text, strlen(text));
}

/* What redis said, as a page. */
static void pass_on(int fd, ssize_t length, const char *reply, const char *why)
{
    char text[512];
    if (length >= 0) {
        answer(fd, "200 OK", reply, length);
    } else if (length == -2) {
        say(fd, "404 Not Found", "no such key\n");
    } else {
        snprintf(text, sizeof text, "redis cannot be asked: %s\n", why);
        say(fd, "503 Service Unavailable", text);
    }
}

/* Reads a request whole: its head, and as much body as the head announces. 0: it is none. */
static size_t whole(int fd, char *request, char **body, size_t *body_size)
{
    size_t have = 0;
    for (;;) {
        ssize_t n = read(fd, request + have, MOST - 1 - have);
        if (n <= 0)
            return 0;
        have += n;
        request[have] = '\0';
        char *end = strstr(request, "\r\n\r\n");
        if (end == NULL)
            continue;
        char *length = strcasestr(request, "\r\nContent-Length:");
        *body = end + 4;
        *body_size = length != NULL && length < end ? strtoul(length + 17, NULL, 10) : 0;
        if (*body_size > MOST || (size_t)(*body - request) + *body_size <= have)
            return *body_size > MOST ? 0 : have;
    }
}

static void serve(int fd)
{
    static char request[MOST], reply[MOST + 32];
    char method[8], key[256], *body;
    const char *why = "";
    size_t size;
    if (whole(fd, request, &body, &size) == 0 || sscanf(request, "%7s /%255[^ ?]", method, key) < 1)
        return say(fd, "400 Bad Request", "GET /, GET /KEY or PUT /KEY\n");
    if (strncmp(request, "GET / ", 6) == 0) {
        ssize_t length = ask(2, (const char *[]){ "INCR", "visits" }, (size_t[]){ 4, 6 }, reply, &why);
        if (length >= 0)
            length += sprintf(reply + length, " visits\n");
        return pass_on(fd, length, reply, why);
    }
    if (strncmp(request, "GET /", 5) == 0)
        return pass_on(fd, ask(2, (const char *[]){ "GET", key }, (size_t[]){ 3, strlen(key) }, reply, &why), reply, why);
    if (strncmp(request, "PUT /", 5) == 0 && request[5] != ' ') {
        const char *words[] = { "SET", key, body };
        return pass_on(fd, ask(3, words, (size_t[]){ 3, strlen(key), size }, reply, &why), reply, why);
    }
    say(fd, "405 Method Not Allowed", "GET /, GET /KEY or PUT /KEY\n");
}

int main(int argc, char **argv)
{
    int port = argc > 1 ? atoi(argv[1]) : 80, one = 1;
    struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = INADDR_ANY };

    /* As pid 1 of a container nothing ends it but what it does itself. */
    signal(SIGTERM, leave);
    signal(SIGINT, leave);
    signal(SIGPIPE, SIG_IGN);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&any, sizeof any) != 0 || listen(listener, 128) != 0) {
        fprintf(stderr, "web: cannot listen on port %d: %s\n", port, strerror(errno));
        return 1;
    }
    printf("web: listening on port %d\n", port);
    fflush(stdout);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            continue;
        patience(fd);
        serve(fd);
        close(fd);
    }
}
