/*
 * Preloaded into wharf: makes it find a kernel that knows no owner of nftables tables, as those before 6.9, so that its
 * table can be damaged at all. What it asks the kernel with a table of the name "wharf-probe" is given a flag that no
 * kernel knows.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
#include <sys/socket.h>

static const char NAME[] = "wharf-probe";
/* struct nlattr of NFTA_TABLE_FLAGS, and its value: owner and persist, in network byte order. */
static const char FLAGS[] = { 8, 0, 2, 0, 0, 0, 0, 6 };

ssize_t send(int fd, const void *bytes, size_t count, int flags)
{
    ssize_t (*real)(int, const void *, size_t, int) = dlsym(RTLD_NEXT, "send");
    char changed[4096];
    if (count > sizeof changed || !memmem(bytes, count, NAME, sizeof NAME))
        return real(fd, bytes, count, flags);
    memcpy(changed, bytes, count);
    char *asked = memmem(changed, count, FLAGS, sizeof FLAGS);
    if (asked)
        asked[4] = 0x40;
    return real(fd, changed, count, flags);
}
